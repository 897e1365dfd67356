"""Regressor from subgraphs to latency: trees, a Gaussian process or both, chosen by held-out rows."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np

from lightning_nas.estimator.fit.additive import Additive
from lightning_nas.estimator.fit.interval import ErrorQuantiles
from lightning_nas.estimator.fit.rates import is_operator
from lightning_nas.estimator.fit.smooth import Smooth
from lightning_nas.estimator.fit.trees import Trees
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.io.writing import write_bytes

__all__ = ["VERSION", "Regressor", "fitted_rows", "held_out_errors"]

VERSION = 5
"""Part of the cache's key: to be raised with every change of the features or of the fit."""

# The process is cubic in the rows: minutes and gigabytes beyond this, where trees are as good.
_MAX_SMOOTH = 12_000
# From here on, some rows say first whether the process is worth its time. It is not for an edge TPU (on 7000 rows 4.5 %
# against 1.9 % by trees), and it is for convolutions on a V100.
_MIN_SCREENED, _NUM_SCREENED = 4000, 3000
# Up to here every row is held out once to choose the model; beyond, a fifth of them is enough.
_MAX_FOLDED = 1500
_NUM_FOLDS = 5

_CHOICES = ("trees", "smooth", "both")
_ADDITIVE = "additive"


@dataclass(frozen=True)
class Regressor:
    """Predicts the latency of subgraphs: by trees, by a Gaussian process, or by the geometric mean of both.

    Where only whole networks were measured, by a process whose sums are their latencies.

    Attributes:
        choice: Which of them, ``trees``, ``smooth``, ``both`` or ``additive``.
        trees: The trees, where they are used.
        smooth: The process, where it is used.
        held_out: Mean absolute logarithm of predicted over measured on rows held out of the fit, by model; empty for
            large tables and for networks, where there is nothing to choose.
        additive: The process over networks, where it is used.
        errors: What a prediction may be off, by those rows; None where none was held out, see `held_out_errors`.

    Example::

        >>> parts = [Subgraph("conv", 8, 8, width, width, width, kernel=3) for width in range(8, 264, 8)]
        >>> regressor = Regressor.fit(parts, np.array([part.macs * 1e-6 for part in parts]))
        >>> bool(np.allclose(regressor.predict_ms(parts), [part.macs * 1e-6 for part in parts], rtol=0.01))
        True
    """

    choice: str
    trees: Trees | None
    smooth: Smooth | None
    held_out: Mapping[str, float]
    additive: Additive | None = None
    errors: ErrorQuantiles | None = None

    @classmethod
    def fit(cls, subgraphs: Sequence[Subgraph], latency_ms: np.ndarray) -> Regressor:
        """Fit the model that has the smallest error on held-out rows."""
        if len(subgraphs) > _MAX_SMOOTH or not _is_smooth(subgraphs, latency_ms):
            return cls("trees", Trees.fit(subgraphs, latency_ms), None, {})
        parts, errors = _held_out(subgraphs, latency_ms)
        held_out = {name: float(np.abs(values).mean()) for name, values in errors.items()}
        choice = min(held_out, key=lambda name: held_out[name])
        trees = None if choice == "smooth" else Trees.fit(subgraphs, latency_ms)
        smooth = None if choice == "trees" else Smooth.fit(subgraphs, latency_ms)
        return cls(choice, trees, smooth, held_out, errors=ErrorQuantiles.of(parts, errors[choice]))

    @classmethod
    def fit_networks(cls, networks: Sequence[Sequence[Subgraph]], latency_ms: np.ndarray) -> Regressor:
        """Fit to networks that were measured whole, each given by its subgraphs."""
        return cls(_ADDITIVE, None, None, {}, Additive.fit(networks, latency_ms))

    def predict_ms(self, subgraphs: Sequence[Subgraph]) -> np.ndarray:
        """Return the predicted latency of each subgraph."""
        models = (self.trees, self.smooth, self.additive)
        return _mean(*(model.predict_ms(subgraphs) for model in models if model is not None))

    def half_width_ms(self, subgraphs: Sequence[Subgraph], level: float) -> float:
        """Return the half width of the interval of a network, for a regressor that was fitted to networks.

        Raises:
            ValueError: The level is none of `lightning_nas.estimator.fit.interval.LEVELS`.
        """
        assert self.additive is not None
        return self.additive.half_width_ms(subgraphs, level)

    def __str__(self) -> str:
        if not self.held_out:
            return f"Fitted by: {self.choice}."
        others = ", ".join(f"{name} {value:.2%}".replace("%", " %") for name, value in self.held_out.items())
        return f"Fitted by: {self.choice}. Mean error on held-out rows: {others}."

    def save(self, path: Path) -> None:
        """Write the arrays to an npz file, whole or not at all."""
        # A number rather than a name: files hold arrays of numbers alone.
        arrays = {"choice": np.array((*_CHOICES, _ADDITIVE).index(self.choice))}
        models = (("trees", self.trees), ("smooth", self.smooth), (_ADDITIVE, self.additive), ("errors", self.errors))
        for name, model in models:
            if model is not None:
                arrays.update({f"{name}.{key}": array for key, array in model.arrays.items()})
        arrays.update({f"held_out.{name}": np.array(value) for name, value in self.held_out.items()})
        data = io.BytesIO()
        # What `np.savez_compressed` does, which cannot be told that no name is that of an option of its own.
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
        write_bytes(path, data.getvalue())

    @classmethod
    def load(cls, path: Path) -> Regressor:
        """Read a file of `save`. Only arrays of numbers are read, and they are checked before they are used.

        Raises:
            ValueError: The file is damaged, or no regressor.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as data:
                arrays = {name: data[name] for name in data.files}
            choice = (*_CHOICES, _ADDITIVE)[int(arrays["choice"])]
            trees = Trees.from_arrays(_group(arrays, "trees")) if choice in ("trees", "both") else None
            smooth = Smooth.from_arrays(_group(arrays, "smooth")) if choice in ("smooth", "both") else None
            additive = Additive.from_arrays(_group(arrays, _ADDITIVE)) if choice == _ADDITIVE else None
            errors = ErrorQuantiles.from_arrays(_group(arrays, "errors")) if "errors.widths" in arrays else None
            held_out = {name: float(value) for name, value in _group(arrays, "held_out").items()}
        except Exception as error:  # flipped bits make zip, zlib, numpy and tokenize raise a dozen kinds
            raise ValueError(f"{path} is not a valid regressor: {error}") from error
        return cls(choice, trees, smooth, held_out, additive, errors)


def fitted_rows(measurements: Mapping[Subgraph, Figures]) -> dict[Subgraph, float]:
    """Return the latencies that a regressor is fitted to: all but those of operators that are priced by a rate."""
    return {part: figures.latency_ms for part, figures in measurements.items() if not is_operator(part)}


def held_out_errors(subgraphs: Sequence[Subgraph], latency_ms: np.ndarray) -> ErrorQuantiles:
    """Return the error quantiles of trees, by a fit to four fifths of the rows."""
    test = np.random.default_rng(0).permutation(len(subgraphs)) % _NUM_FOLDS == 0
    asked = list(compress(subgraphs, test))
    predicted_ms = Trees.fit(list(compress(subgraphs, ~test)), latency_ms[~test]).predict_ms(asked)
    return ErrorQuantiles.of(asked, np.log(predicted_ms / latency_ms[test]))


def _held_out(subgraphs: Sequence[Subgraph], latency_ms: np.ndarray) -> tuple[list[Subgraph], dict[str, np.ndarray]]:
    """Return held-out rows, and their errors by model as logarithms of predicted over measured."""
    fold = np.random.default_rng(0).permutation(len(subgraphs)) % _NUM_FOLDS
    parts: list[Subgraph] = []
    errors: dict[str, list[np.ndarray]] = {name: [] for name in _CHOICES}
    for number in range(_NUM_FOLDS if len(subgraphs) <= _MAX_FOLDED else 1):
        train, test = fold != number, fold == number
        kept, asked = list(compress(subgraphs, train)), list(compress(subgraphs, test))
        trees = Trees.fit(kept, latency_ms[train]).predict_ms(asked)
        smooth = Smooth.fit(kept, latency_ms[train]).predict_ms(asked)
        predicted = {"trees": trees, "smooth": smooth, "both": _mean(trees, smooth)}
        parts += asked
        for name in _CHOICES:
            errors[name].append(np.log(predicted[name] / latency_ms[test]))
    return parts, {name: np.concatenate(values) for name, values in errors.items()}


def _is_smooth(subgraphs: Sequence[Subgraph], latency_ms: np.ndarray) -> bool:
    """Return whether the process is worth its time: for large tables, a sample of the rows decides."""
    if len(subgraphs) < _MIN_SCREENED:
        return True
    some = np.random.default_rng(0).permutation(len(subgraphs))[:_NUM_SCREENED]
    _, errors = _held_out([subgraphs[row] for row in some], latency_ms[some])
    means = {name: np.abs(values).mean() for name, values in errors.items()}
    return bool(min(means["smooth"], means["both"]) < means["trees"])


def _mean(*latencies_ms: np.ndarray) -> np.ndarray:
    return latencies_ms[0] if len(latencies_ms) == 1 else np.sqrt(latencies_ms[0] * latencies_ms[1])


def _group(arrays: Mapping[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}

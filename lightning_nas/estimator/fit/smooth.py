"""Gaussian process over subgraphs, for tables of a few hundred measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from lightning_nas.estimator.fit.covariance import distances, matern, standardised
from lightning_nas.estimator.fit.features import features, shape_features, work
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["Smooth"]

# Rows that the length scales are fitted to; the process itself sees all.
_NUM_TUNED = 600
# Of the trend in the logarithm of work, and of its constant: wide enough to leave both to the data.
_TREND = 10.0
_BOUNDS = {
    "fine": (1.0, 200.0),
    "coarse": (0.3, 30.0),
    "share": (1e-4, 30.0),
    "noise": (1e-6, 0.5),
}
_START = (20.0, 2.0, 0.1, 1e-3)


@dataclass(frozen=True)
class _Scales:
    """Parameters of the covariance.

    Attributes:
        fine: Length scale over the features of the hardware.
        coarse: Length scale over the bare shape, for what the features do not explain.
        share: Variance of the second beside that of the first.
        noise: Variance of the measurements.
    """

    fine: float
    coarse: float
    share: float
    noise: float


class Smooth:
    """Predicts the latency of subgraphs from the most similar ones that were measured.

    What is learnt is the logarithm of milliseconds, as a trend over the logarithm of work plus two Gaussian processes:
    a smooth one over the features of the hardware and a rough one over the bare shape. Their scales maximise the
    likelihood of a sample of the measurements.

    Example::

        >>> parts = [Subgraph("conv", 8, 8, width, width, width, kernel=3) for width in range(8, 264, 8)]
        >>> smooth = Smooth.fit(parts[::2], np.array([part.macs * 1e-6 for part in parts[::2]]))
        >>> bool(np.allclose(smooth.predict_ms(parts), [part.macs * 1e-6 for part in parts], rtol=0.02))
        True
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = dict(arrays)

    @classmethod
    def fit(cls, subgraphs: Sequence[Subgraph], latency_ms: np.ndarray) -> Smooth:
        """Fit to measurements."""
        inputs = _inputs(subgraphs)
        center, spread = standardised(inputs)
        targets = np.log(latency_ms)
        offset, scale = targets.mean(), max(float(targets.std()), 1e-3)
        points, values = (inputs - center) / spread, (targets - offset) / scale
        # More threads than free cores make small matrices slower.
        with threadpool_limits(1, "blas"):
            scales = _tuned(points, values)
        covariance = _covariance(points, points, scales)
        covariance.flat[:: len(points) + 1] += scales.noise
        weights = cho_solve(cho_factor(covariance, lower=True, overwrite_a=True), values)
        return cls(
            {
                "points": points,
                "weights": weights,
                "center": center,
                "spread": spread,
                "target": np.array([offset, scale]),
                "scales": np.array([scales.fine, scales.coarse, scales.share, scales.noise]),
            }
        )

    def predict_ms(self, subgraphs: Sequence[Subgraph]) -> np.ndarray:
        """Return the predicted latency of each subgraph."""
        if not subgraphs:
            return np.zeros(0)
        data = self.arrays
        points = (_inputs(subgraphs) - data["center"]) / data["spread"]
        scales, (offset, scale) = _Scales(*data["scales"].tolist()), data["target"].tolist()
        # In chunks, so that memory does not grow with the product of both numbers.
        chunks = np.array_split(points, -(-len(points) // 1000))
        values = np.concatenate([_covariance(chunk, data["points"], scales) @ data["weights"] for chunk in chunks])
        latency_ms: np.ndarray = np.exp(offset + scale * values)
        return latency_ms

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Smooth:
        """Return the process of stored arrays.

        Raises:
            ValueError: The arrays are not those of a process.
        """
        num_rows, num_inputs = len(arrays["weights"]), _inputs([Subgraph("conv", 1, 1, 1, 1, 1)]).shape[1]
        shapes = {
            "points": (num_rows, num_inputs),
            "weights": (num_rows,),
            "center": (num_inputs,),
            "spread": (num_inputs,),
            "target": (2,),
            "scales": (4,),
        }
        for name, shape in shapes.items():
            array = arrays[name]
            if array.shape != shape or array.dtype != np.float64 or np.isnan(array).any():
                raise ValueError(f"its {name} are malformed.")
        return cls({name: arrays[name] for name in shapes})


def _inputs(subgraphs: Sequence[Subgraph]) -> np.ndarray:
    """Return the inputs of the covariance by column: logarithm of work, bare shape, features."""
    return np.concatenate([np.log(work(subgraphs))[:, None], shape_features(subgraphs), features(subgraphs)], axis=1)


_NUM_SHAPE = shape_features([Subgraph("conv", 1, 1, 1, 1, 1)]).shape[1]


def _covariance(first: np.ndarray, second: np.ndarray, scales: _Scales) -> np.ndarray:
    return _combined(*_distances(first, second), np.outer(first[:, 0], second[:, 0]), scales)


def _distances(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    start = 1 + _NUM_SHAPE
    return distances(first[:, start:], second[:, start:]), distances(first[:, 1:start], second[:, 1:start])


def _combined(fine: np.ndarray, coarse: np.ndarray, trend: np.ndarray, scales: _Scales) -> np.ndarray:
    covariance = matern(fine / scales.fine)
    covariance += scales.share * np.exp(-coarse / scales.coarse)
    covariance += _TREND * (trend + 1)
    return covariance


def _tuned(points: np.ndarray, values: np.ndarray) -> _Scales:
    """Return the scales that maximise the likelihood; the overall variance is solved for in closed form."""
    chosen = np.random.default_rng(0).permutation(len(points))[:_NUM_TUNED]
    points, values = points[chosen], values[chosen]
    fine, coarse = _distances(points, points)
    trend = np.outer(points[:, 0], points[:, 0])

    def loss(parameters: np.ndarray) -> float:
        scales = _Scales(*np.exp(parameters).tolist())
        covariance = _combined(fine, coarse, trend, scales)
        covariance.flat[:: len(points) + 1] += scales.noise
        try:
            factor = cho_factor(covariance, lower=True, overwrite_a=True)
        except LinAlgError:
            return 1e9
        misfit = values @ cho_solve(factor, values) / len(values)
        # Not zero, where all latencies are the same.
        return float(np.log(misfit + 1e-12) / 2 + np.log(np.diag(factor[0])).mean())

    bounds = np.log(list(_BOUNDS.values()))
    best = minimize(loss, np.log(_START), method="Nelder-Mead", bounds=bounds, options={"maxfev": 120, "fatol": 1e-3})
    return _Scales(*np.exp(best.x).tolist())

"""Latency of subgraphs, inferred from the latencies of whole networks alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from lightning_nas.estimator.fit.covariance import distances, gauss, matern, standardised
from lightning_nas.estimator.fit.features import amounts, features, shape_features
from lightning_nas.estimator.fit.interval import LEVELS, level_number, quantile
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["Additive"]

# Logarithms of: variance of the amounts; variance and scale over features; the same over shapes; variance of the noise.
_START = np.log([0.01, 0.2, 30.0, 0.01, 2.0, 0.03])
# Networks have these once: they carry what is paid once a network, of which nothing is known before.
_ONCE = ("stem", "head", "classifier")
_ONCE_VARIANCE = 100.0
# Degrees of freedom of Student's distribution of the noise: some measurements are always disturbed.
_FREEDOM = 4.0
# What disturbs a measurement makes it longer: what took too long counts as if it were this many times as far
# off. Training networks that are left out of the fit are then ranked better, most on the chips that jitter most.
_LONGER = 2.0
# Variance of the noise that is always assumed, beside that of latency: without it equal networks make equations that
# cannot be solved.
_LEAST_NOISE = 1e-6
_ROUNDS = 4
_NUM_AMOUNTS = amounts([Subgraph("conv", 1, 1, 1, 1, 1)]).shape[1]
# No subgraph is for free that no network had, whatever is extrapolated; of the mean cost of one.
_FLOOR = 1e-3


class Additive:
    """Predicts the latency of subgraphs so that their sums are those of networks that were measured whole.

    The cost of a subgraph is a Gaussian process over its amounts of work, its features and its shape, and so the
    latency of a network, as their sum, is one over networks. What all networks have in common cannot be told apart and
    shares what does not vary; where networks take less than their parts say, that share is negative, and sums are right
    with it only. Disturbed measurements count less, by how far they are from what the others say.

    Example::

        >>> parts = [Subgraph("conv", 8, 8, width, width, width, kernel=3) for width in range(8, 136, 8)]
        >>> networks = [(a, b) for a in parts for b in parts]
        >>> additive = Additive.fit(networks, np.array([(a.macs + b.macs) * 1e-6 for a, b in networks]))
        >>> bool(np.allclose(additive.predict_ms(parts), [part.macs * 1e-6 for part in parts], rtol=0.02, atol=1e-3))
        True
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = dict(arrays)

    @classmethod
    def fit(cls, networks: Sequence[Sequence[Subgraph]], latency_ms: np.ndarray) -> Additive:
        """Fit to networks, each given by its subgraphs."""
        types = list(dict.fromkeys(part for parts in networks for part in parts))
        number = {part: index for index, part in enumerate(types)}
        counts = np.zeros((len(networks), len(types)))
        for row, parts in enumerate(networks):
            np.add.at(counts[row], [number[part] for part in parts], 1)
        amount, inputs = amounts(types), _inputs(types)
        center, spread = standardised(inputs)
        # This column says whether a part is of those that networks have once: it stays 0 or 1, see `_is_once`.
        center[0], spread[0] = 0, 1
        scale, amount_scale = float(latency_ms.std()) or float(latency_ms.mean()), amount.mean(axis=0) + 1e-12
        points = np.concatenate([amount / amount_scale, (inputs - center) / spread], axis=1)
        # Parts that all networks have equally often are never told apart; they share one sum.
        varying = np.ptp(counts, axis=0) > 0
        if not varying.any():
            raise ValueError("Networks that all are the same say nothing about what they are made of.")
        num_common = counts[0, ~varying].sum()
        mean_ms = float(latency_ms.mean())
        # More threads than free cores make small matrices slower.
        with threadpool_limits(1, "blas"):
            parameters, inverse, trust = _fitted(
                points[varying], counts[:, varying], latency_ms / scale, num_common > 0
            )
            told = np.column_stack([counts[:, varying], np.full(len(networks), float(num_common > 0))])
            precision = told.T @ inverse @ told
        weights = inverse @ (latency_ms / scale)
        return cls(
            {
                "points": points[varying],
                "weights": counts[:, varying].T @ weights,
                "common": points[~varying],
                "share": np.array(_ONCE_VARIANCE * weights.sum() / max(1, num_common)),
                "center": center,
                "spread": spread,
                "amount_scale": amount_scale,
                "parameters": parameters,
                "precision": precision,
                "widths": _widths(weights, inverse, _noise(parameters), trust, latency_ms / mean_ms),
                "target": np.array([scale, mean_ms, _FLOOR * latency_ms.sum() / counts.sum(), num_common]),
            }
        )

    def predict_ms(self, subgraphs: Sequence[Subgraph]) -> np.ndarray:
        """Return the predicted latency of each subgraph."""
        if not subgraphs:
            return np.zeros(0)
        data, points = self.arrays, self._points(subgraphs)
        values = _Parts(points, data["points"]).covariance(data["parameters"]) @ data["weights"]
        is_common = _is_among(points, data["common"])
        scale, _, floor, _ = data["target"].tolist()
        latency_ms: np.ndarray = scale * np.where(is_common, data["share"], values)
        # What was in networks, or is in all of them once, is right in sums only as it is, be it negative.
        is_kept = is_common | _is_among(points, data["points"]) | _is_once(points)
        return np.where(is_kept, latency_ms, np.maximum(latency_ms, floor))

    def half_width_ms(self, subgraphs: Sequence[Subgraph], level: float) -> float:
        """Return the half width of the prediction interval of a network of these subgraphs.

        It is the deviation that the process gives, times what that had to be multiplied by for networks that were each
        predicted by the others.

        Raises:
            ValueError: The level is none of `lightning_nas.estimator.fit.interval.LEVELS`.
        """
        data, points = self.arrays, self._points(subgraphs)
        scale, mean_ms, _, num_common = data["target"].tolist()
        parameters, is_common = data["parameters"], _is_among(points, data["common"])
        own, share = points[~is_common], is_common.sum() / max(1, num_common)
        known = _Parts(data["points"], own).covariance(parameters).sum(axis=1)
        known = np.append(known, _ONCE_VARIANCE * share)
        before = _Parts(own, own).covariance(parameters).sum() + _ONCE_VARIANCE * share**2
        relative = float(self.predict_ms(subgraphs).sum()) / mean_ms
        variance = max(before - known @ data["precision"] @ known, 0) + _noise(parameters) * relative**2
        return float(data["widths"][level_number(level)] * scale * np.sqrt(variance))

    def _points(self, subgraphs: Sequence[Subgraph]) -> np.ndarray:
        data = self.arrays
        inputs = (_inputs(subgraphs) - data["center"]) / data["spread"]
        return np.concatenate([amounts(subgraphs) / data["amount_scale"], inputs], axis=1)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Additive:
        """Return the model of stored arrays.

        Raises:
            ValueError: The arrays are not those of a model.
        """
        num_types, num_amounts = len(arrays["weights"]), _NUM_AMOUNTS
        num_inputs = _inputs([Subgraph("conv", 1, 1, 1, 1, 1)]).shape[1]
        shapes = {
            "points": (num_types, num_amounts + num_inputs),
            "weights": (num_types,),
            "common": (len(arrays["common"]), num_amounts + num_inputs),
            "share": (),
            "center": (num_inputs,),
            "spread": (num_inputs,),
            "amount_scale": (num_amounts,),
            "parameters": (len(_START),),
            "precision": (num_types + 1, num_types + 1),
            "widths": (len(LEVELS),),
            "target": (4,),
        }
        for name, shape in shapes.items():
            array = arrays[name]
            if array.shape != shape or array.dtype != np.float64 or np.isnan(array).any():
                raise ValueError(f"its {name} are malformed.")
        return cls({name: arrays[name] for name in shapes})


class _Parts:
    """The parts of the covariance of two lists of subgraphs that do not depend on its parameters."""

    def __init__(self, first: np.ndarray, second: np.ndarray) -> None:
        part = [Subgraph("conv", 1, 1, 1, 1, 1)]
        ends = np.cumsum([_NUM_AMOUNTS, 1, shape_features(part).shape[1]])
        (amount, once, shape, fine), (amount2, once2, shape2, fine2) = (
            np.split(points, ends, axis=1) for points in (first, second)
        )
        self.amounts = amount @ amount2.T
        self.once = _ONCE_VARIANCE * (once > 0) @ (once2 > 0).T.astype(np.float64)
        self.shapes, self.features = distances(shape, shape2), distances(fine, fine2)

    def covariance(self, parameters: np.ndarray) -> np.ndarray:
        amount, fine, fine_scale, shape, shape_scale, _ = np.exp(parameters)
        values: np.ndarray = amount * self.amounts + self.once
        values += fine * matern(self.features / fine_scale)
        values += shape * gauss(self.shapes / shape_scale)
        return values


def _inputs(subgraphs: Sequence[Subgraph]) -> np.ndarray:
    once = np.array([[part.kind in _ONCE] for part in subgraphs], dtype=np.float64)
    return np.concatenate([once, shape_features(subgraphs), features(subgraphs)], axis=1)


def _is_once(points: np.ndarray) -> np.ndarray:
    is_once: np.ndarray = points[:, _NUM_AMOUNTS] > 0
    return is_once


def _is_among(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return for each point whether it is among the other points."""
    # Adding zero makes it positive; logarithms may differ in their last bit.
    known = {row.tobytes() for row in np.round(others, 9) + 0.0}
    return np.array([row.tobytes() in known for row in np.round(points, 9) + 0.0], dtype=bool)


def _noise(parameters: np.ndarray) -> float:
    """Return the variance of the noise of a network of the mean latency."""
    return float(np.exp(parameters[-1])) + _LEAST_NOISE


def _widths(
    weights: np.ndarray, inverse: np.ndarray, noise: float, trust: np.ndarray, relative: np.ndarray
) -> np.ndarray:
    """Return the factor of the standard deviation for each level, calibrated by leave-one-out predictions.

    Args:
        weights: Of the networks.
        inverse: Of their covariance.
        noise: Variance of the noise of a network of the mean latency.
        trust: How much each network counts.
        relative: Latency of each over the mean.
    """
    variance = 1 / np.diag(inverse)
    expected = np.maximum(variance - noise / trust, 0) + noise * relative**2
    # Leave-one-out errors in closed form, without another fit.
    off = np.abs(weights * variance) / np.sqrt(expected)
    return np.array([quantile(off, level) for level in LEVELS])


def _fitted(
    points: np.ndarray, counts: np.ndarray, values: np.ndarray, has_common: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the most likely parameters, the inverse of the covariance of the networks, and how much each counts."""
    parts, trust = _Parts(points, points), np.ones(len(values))

    def covariance(parameters: np.ndarray) -> np.ndarray:
        matrix: np.ndarray = counts @ parts.covariance(parameters) @ counts.T
        matrix += _ONCE_VARIANCE * has_common
        # The diagonal, as a view that can be added to.
        matrix.flat[:: len(values) + 1] += _noise(parameters) / trust
        return matrix

    def loss(parameters: np.ndarray) -> float:
        try:
            factor = cho_factor(covariance(parameters), lower=True, overwrite_a=True)
        except LinAlgError:
            # Nelder-Mead steps back from where the covariance is not positive definite.
            return 1e12
        return float(values @ cho_solve(factor, values) / 2 + np.log(np.diag(factor[0])).sum())

    parameters = _START
    for number in range(_ROUNDS):
        options = {"maxfev": 60 if number else 200, "fatol": 0.05}
        parameters = minimize(loss, parameters, method="Nelder-Mead", options=options).x
        inverse: np.ndarray = np.linalg.inv(covariance(parameters))
        # What this round's inverse was made with; the next one is for the next round.
        counted = trust
        # What each network is off by when the others predict it.
        left_out = inverse @ values / np.diag(inverse)
        # The median of absolute values, times this, is the standard deviation of a normal distribution.
        deviation = 1.4826 * float(np.median(np.abs(left_out)))
        if deviation > 0:
            distance = left_out / deviation * np.where(left_out > 0, _LONGER, 1.0)
            # Weights of Student's distribution, as iteratively reweighted least squares takes them, but never above 1.
            trust = np.minimum(1, (_FREEDOM + 1) / (_FREEDOM + distance**2))
    return parameters, inverse, counted

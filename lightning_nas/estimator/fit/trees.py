"""Gradient-boosted trees over subgraphs, held as arrays that hold nothing but numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.ensemble._hist_gradient_boosting.common import PREDICTOR_RECORD_DTYPE
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from threadpoolctl import threadpool_limits

from lightning_nas.estimator.fit.features import features, work
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["Trees"]

# Chosen by rows held out of the tables of Ethos-U55, Ethos-U85 and edge TPU. Extremely randomised trees are as good and
# fifty times larger; averages of three runs are nearer by a tenth of the error, and take three times as long.
_SETTINGS = {
    "max_iter": 600,
    "learning_rate": 0.06,
    "max_leaf_nodes": 63,
    "min_samples_leaf": 4,
    "max_features": 0.3,
    "early_stopping": False,
    "random_state": 0,
}

# Few rows are learnt in fewer and larger steps as well.
_FEW = 1000
_LARGER_STEPS = {"max_iter": 300, "learning_rate": 0.1}


class Trees:
    """Predicts the latency of subgraphs.

    What is learnt is the logarithm of milliseconds per multiply-accumulate, so that errors are relative and the trees
    need not learn that twice the work takes twice the time.

    Example::

        >>> parts = [Subgraph("conv", 8, 8, width, width, width, kernel=3) for width in range(8, 264, 8)]
        >>> regressor = Trees.fit(parts, np.array([part.macs * 1e-6 for part in parts]))
        >>> bool(np.allclose(regressor.predict_ms(parts), [part.macs * 1e-6 for part in parts]))
        True
    """

    def __init__(self, nodes: np.ndarray, starts: np.ndarray, offset: float) -> None:
        self._nodes, self._starts, self._offset = nodes, starts, offset
        bits = np.zeros((0, 8), np.uint32)
        ends = [*starts[1:].tolist(), len(nodes)]
        self._trees = [TreePredictor(nodes[a:b], bits, bits) for a, b in zip(starts.tolist(), ends, strict=True)]

    @classmethod
    def fit(cls, subgraphs: Sequence[Subgraph], latency_ms: np.ndarray) -> Trees:
        """Fit to measurements."""
        inputs, targets = features(subgraphs), np.log(latency_ms / work(subgraphs))
        model = HistGradientBoostingRegressor(**_SETTINGS | (_LARGER_STEPS if len(subgraphs) <= _FEW else {}))
        # More threads than free cores make this a hundred times slower.
        with threadpool_limits(1, "openmp"):
            model.fit(inputs, targets)
        trees = [tree.nodes.copy() for (tree,) in model._predictors]
        starts = np.cumsum([0, *(len(tree) for tree in trees[:-1])])
        return cls(np.concatenate(trees), starts, model._baseline_prediction.item())

    def predict_ms(self, subgraphs: Sequence[Subgraph]) -> np.ndarray:
        """Return the predicted latency of each subgraph."""
        if not subgraphs:
            return np.zeros(0)
        inputs = features(subgraphs)
        no_categories = np.zeros((0, 8), np.uint32), np.zeros(inputs.shape[1], np.uint32)
        total = np.full(len(inputs), self._offset)
        for tree in self._trees:
            total += tree.predict(inputs, *no_categories, 1)
        latency_ms: np.ndarray = np.exp(total) * work(subgraphs)
        return latency_ms

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Everything there is to store."""
        return {"nodes": self._nodes, "starts": self._starts, "offset": np.array(self._offset)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Trees:
        """Return the trees of stored arrays, which are checked before they are used.

        Raises:
            ValueError: The arrays are not those of trees.
        """
        nodes, starts = arrays["nodes"], arrays["starts"]
        if nodes.dtype != PREDICTOR_RECORD_DTYPE or not _is_forest(nodes, starts):
            raise ValueError("its trees are malformed.")
        return cls(nodes, starts, float(arrays["offset"]))


def _is_forest(nodes: np.ndarray, starts: np.ndarray) -> bool:
    """Whether every node leads to later nodes of its own tree: compiled code walks them without looking."""
    ordered = starts.ndim == nodes.ndim == 1 and starts.dtype == np.int64 and len(starts) > 0 and starts[0] == 0
    if not ordered or np.any(np.diff(starts) <= 0) or starts[-1] >= len(nodes):
        return False
    sizes = np.diff([*starts, len(nodes)])
    size, place = np.repeat(sizes, sizes), np.arange(len(nodes)) - np.repeat(starts, sizes)
    inner = nodes["is_leaf"] == 0
    children = np.stack([nodes["left"], nodes["right"]]).astype(np.int64)
    within = np.all((children > place) & (children < size), axis=0)
    num_features = features([Subgraph("conv", 1, 1, 1, 1, 1)]).shape[1]
    known = (nodes["feature_idx"] >= 0) & (nodes["feature_idx"] < num_features) & (nodes["is_categorical"] == 0)
    return bool(np.all(~inner | (within & known)))

"""Gradient-boosted trees over subgraphs, held as arrays that hold nothing but numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from lightning_nas.estimator.fit.features import features, work
from lightning_nas.estimator.fit.forest import NODE, Forest
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
    """Boosted trees that predict the latency of subgraphs.

    What is learnt is the logarithm of milliseconds per multiply-accumulate, so that errors are relative and the trees
    need not learn that twice the work takes twice the time.

    Example::

        >>> parts = [Subgraph("conv", 8, 8, width, width, width, kernel=3) for width in range(8, 264, 8)]
        >>> regressor = Trees.fit(parts, np.array([part.macs * 1e-6 for part in parts]))
        >>> bool(np.allclose(regressor.predict_ms(parts), [part.macs * 1e-6 for part in parts]))
        True
    """

    def __init__(self, forest: Forest) -> None:
        self._forest = forest

    @classmethod
    def fit(cls, subgraphs: Sequence[Subgraph], latency_ms: np.ndarray) -> Trees:
        """Fit trees to measured latencies."""
        # Held-out errors of 5.8 %, against 7.6 % where the logarithm of latency itself is learnt.
        inputs, targets = features(subgraphs), np.log(latency_ms / work(subgraphs))
        model = HistGradientBoostingRegressor(**_SETTINGS | (_LARGER_STEPS if len(subgraphs) <= _FEW else {}))
        # More threads than free cores make this a hundred times slower.
        with threadpool_limits(1, "openmp"):
            model.fit(inputs, targets)
        return cls(_exported(model))

    def predict_ms(self, subgraphs: Sequence[Subgraph]) -> NDArray[np.float64]:
        """Return the predicted latency of each subgraph."""
        if not subgraphs:
            return np.zeros(0)
        latency_ms: NDArray[np.float64] = np.exp(self._forest.predict(features(subgraphs))) * work(subgraphs)
        return latency_ms

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays to store."""
        forest = self._forest
        return {"nodes": forest.nodes, "starts": forest.starts, "offset": np.array(forest.offset)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Trees:
        """Return the trees of stored arrays, which are checked before they are used.

        Raises:
            ValueError: The arrays are not those of trees.
        """
        forest = Forest(arrays["nodes"], arrays["starts"], float(arrays["offset"]))
        if forest.num_features > features([Subgraph("conv", 1, 1, 1, 1, 1)]).shape[1]:
            raise ValueError("its trees are malformed.")
        return cls(forest)


def _exported(model: HistGradientBoostingRegressor) -> Forest:
    """Return the trees of a fitted model.

    scikit-learn has no public way to them. This function alone reads what is private there, right after a fit; stored
    trees are read and used without it.

    Raises:
        RuntimeError: The installed scikit-learn keeps its trees in another way.
    """
    try:
        trees = [tree.nodes for (tree,) in model._predictors]
        starts = np.cumsum([0, *map(len, trees[:-1])])
        nodes = np.zeros(sum(map(len, trees)), NODE)
        for name in NODE.fields or ():
            nodes[name] = np.concatenate([tree[name] for tree in trees])
        return Forest(nodes, starts, model._baseline_prediction.item())
    except (AttributeError, TypeError, ValueError) as error:
        raise RuntimeError(
            f"The trees of scikit-learn {sklearn.__version__} cannot be read: {error}. HINT: install scikit-learn<1.10."
        ) from error

"""Trees as numpy arrays: equal to scikit-learn's bit by bit, and refused where they are none."""

import numpy as np
import pytest
import sklearn
from sklearn.ensemble import HistGradientBoostingRegressor

from lightning_nas.estimator.fit import forest as forests
from lightning_nas.estimator.fit.forest import NODE, Forest
from lightning_nas.estimator.fit.trees import _exported

SEEN_IN = "1.9.1"
"""The scikit-learn whose fitted trees `_exported` was written for."""


def fitted(num_rows=700, **settings):
    rng = np.random.default_rng(0)
    inputs = rng.integers(0, 12, (num_rows, 9)).astype(np.float64)
    model = HistGradientBoostingRegressor(max_iter=40, min_samples_leaf=2, random_state=0, **settings)
    return model.fit(inputs, np.sin(inputs).sum(axis=1) + rng.normal(size=num_rows)), inputs


def walked(forest, row):
    """Return a prediction by a walk through every tree, node by node."""
    total = forest.offset
    for start in forest.starts:
        node = forest.nodes[start]
        while not node["is_leaf"]:
            is_left = row[node["feature_idx"]] <= node["num_threshold"]
            node = forest.nodes[start + node["left" if is_left else "right"]]
        total += node["value"]
    return total


@pytest.mark.parametrize("max_leaf_nodes", [2, 3, 63, 200])
def test_the_trees_of_scikit_learn_are_exported(max_leaf_nodes):
    model, inputs = fitted(max_leaf_nodes=max_leaf_nodes)
    try:
        forest = _exported(model)
    except RuntimeError as error:
        pytest.fail(f"Not as in scikit-learn {SEEN_IN} any more: adapt `_exported` to {sklearn.__version__}. {error}")
    assert forest.predict(inputs).tolist() == model.predict(inputs).tolist()


def test_another_structure_is_refused_by_the_version_of_scikit_learn():
    model, _ = fitted()
    model._predictors = [tree[0] for tree in model._predictors]
    with pytest.raises(RuntimeError, match=rf"scikit-learn {sklearn.__version__} cannot be read"):
        _exported(model)


@pytest.mark.parametrize("num_rows", [0, 1, 63, 64, 65, 250])
def test_any_number_of_rows_is_predicted_as_one_by_one(num_rows, monkeypatch):
    monkeypatch.setattr(forests, "_NUM_ROWS", 100)
    forest = _exported(fitted(max_leaf_nodes=20)[0])
    inputs = np.random.default_rng(1).uniform(-3, 15, (num_rows, 9))
    inputs[:, :2] = np.round(inputs[:, :2])
    assert forest.predict(inputs).tolist() == [walked(forest, row) for row in inputs]


def test_a_tree_may_be_a_leaf_alone():
    nodes = np.zeros(2, NODE)
    nodes["is_leaf"], nodes["value"] = 1, [0.25, 0.5]
    forest = Forest(nodes, np.array([0, 1]), 1.0)
    assert (forest.num_features, forest.predict(np.zeros((3, 1))).tolist()) == (0, [1.75] * 3)


def test_what_is_no_forest_is_refused():
    nodes = np.zeros(5, NODE)
    nodes["is_leaf"] = [0, 0, 1, 1, 1]
    nodes["left"][:2], nodes["right"][:2] = [1, 3], [2, 4]
    starts = np.array([0])
    assert Forest(nodes, starts, 0.0)
    # Both children are one node, which would be two nodes of the next depth, four of that behind it, and so on.
    for name, values in (("right", [1, 4]), ("left", [1, 2]), ("left", [1, 5]), ("feature_idx", [0, -1])):
        other = nodes.copy()
        other[name][:2] = values
        with pytest.raises(ValueError, match="malformed"):
            Forest(other, starts, 0.0)
    for other_starts in (np.array([0, 2]), np.array([1]), np.array([], np.int64), np.array([0.0])):
        with pytest.raises(ValueError, match="malformed"):
            Forest(nodes, other_starts, 0.0)
    with pytest.raises(ValueError, match="malformed"):
        Forest(nodes[["left", "right"]], starts, 0.0)

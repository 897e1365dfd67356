"""Predictions beside measurements that they have not seen."""

import numpy as np
import pytest

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.judge.held_out import held_out_rows
from lightning_nas.estimator.judge.judge import judge
from lightning_nas.estimator.judge.parity import PredictionPairs
from lightning_nas.estimator.measurements import Figures, MeasuredNetwork
from lightning_nas.graph.subgraph import Subgraph

pytestmark = pytest.mark.usefixtures("few_trees")
CONVS = {Subgraph("conv", 8, 8, width, width, width, 3): Figures(width * width * 1e-4) for width in range(8, 250, 8)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_groups_add_up_to_all():
    true_ms = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    parity = PredictionPairs(("a", "b", "b", "a", "b", "c"), true_ms * [1.1, 1, 1, 0.9, 1, 1], true_ms)
    assert parity.figures["mape"] == pytest.approx(0.2 / 6)
    assert {name: figures["count"] for name, figures in parity.by_group().items()} == {"b": 3, "a": 2, "c": 1}
    assert parity.by_group()["a"]["mape"] == pytest.approx(0.1)
    assert sum(figures["count"] for figures in parity.by_size().values()) == 6
    assert next(iter(parity.by_size())).startswith("1 to")
    same = PredictionPairs(("a",) * 4, np.ones(4), np.ones(4))
    assert [figures["count"] for figures in same.by_size().values()] == [4]


def test_a_row_is_predicted_without_itself():
    outlier = Subgraph("conv", 8, 8, 100, 100, 100, 3)
    estimator = Estimator(Device("own", "csv", 8), {**CONVS, outlier: Figures(50.0)})
    assert estimator.predict_ms([outlier])[0] == 50
    rows = held_out_rows(estimator, 5)
    assert rows.parity.predicted_ms[rows.parts.index(outlier)] < 10
    assert rows.parity.groups == ("conv",) * len(rows.parts)


def test_networks_of_a_table_are_judged_by_their_measured_parts():
    parts = list(CONVS)[:4]
    total = sum(CONVS[part].latency_ms for part in parts)
    unseen = Subgraph("conv", 8, 8, 12, 12, 12, 3)
    networks = {
        "measured": MeasuredNetwork(tuple(parts), Figures(2 * total)),
        "partly": MeasuredNetwork((parts[0], unseen), Figures(1.0)),
    }
    verdict = judge(Estimator(Device("own", "csv", 8), CONVS, networks=networks), num_folds=2)
    assert verdict.networks.estimated.groups == ("measured", "partly")
    assert verdict.networks.sums.groups == ("measured",)
    assert verdict.networks.sums.figures["bias"] == pytest.approx(0.5)
    # Two networks are too few to correct by.
    assert verdict.estimator.device.correction == 1
    assert verdict.correction is None
    assert judge(Estimator(Device("own", "csv", 8), CONVS), num_folds=2).networks is None

"""Predictions beside measurements that they have not seen."""

import numpy as np
import pytest

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.measure.sample import sample_subgraphs
from lightning_nas.estimator.measurements import Figures, MeasuredNetwork
from lightning_nas.estimator.parity import Parity, network_parity, row_parity, table_network_parity
from lightning_nas.estimator.subgraph import Subgraph

CONVS = {Subgraph("conv", 8, 8, width, width, width, 3): Figures(width * width * 1e-4) for width in range(8, 250, 8)}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Flat:
    """A backend on which every operator takes as long, and networks half as long again."""

    def measure_subgraph(self, subgraph):
        return {part: Figures(0.1) for part in subgraph.operators}

    def measure_network(self, network):
        return Figures(0.15 * sum(operation.layer.operator != "add" for operation in network.operations))

    def versions(self):
        return {}


def test_groups_add_up_to_all():
    true_ms = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    parity = Parity(("a", "b", "b", "a", "b", "c"), true_ms * [1.1, 1, 1, 0.9, 1, 1], true_ms)
    assert parity.figures["mape"] == pytest.approx(0.2 / 6)
    assert {name: figures["count"] for name, figures in parity.by_group().items()} == {"b": 3, "a": 2, "c": 1}
    assert parity.by_group()["a"]["mape"] == pytest.approx(0.1)
    assert sum(figures["count"] for figures in parity.by_size().values()) == 6
    assert next(iter(parity.by_size())).startswith("1 to")
    same = Parity(("a",) * 4, np.ones(4), np.ones(4))
    assert [figures["count"] for figures in same.by_size().values()] == [4]


def test_a_row_is_predicted_without_itself():
    outlier = Subgraph("conv", 8, 8, 100, 100, 100, 3)
    estimator = Estimator(Device("own", "csv", 8), {**CONVS, outlier: Figures(50.0)})
    assert estimator.predict_ms([outlier])[0] == 50
    parity = row_parity(estimator, 5)
    predicted_ms = parity.predicted_ms[list(estimator.measurements).index(outlier)]
    assert predicted_ms < 10


def test_networks_of_a_table_are_judged_by_their_measured_parts():
    parts = list(CONVS)[:4]
    total = sum(CONVS[part].latency_ms for part in parts)
    unseen = Subgraph("conv", 8, 8, 12, 12, 12, 3)
    networks = {
        "measured": MeasuredNetwork(tuple(parts), Figures(2 * total)),
        "partly": MeasuredNetwork((parts[0], unseen), Figures(1.0)),
    }
    parity = table_network_parity(Estimator(Device("own", "csv", 8), CONVS, networks=networks))
    assert parity.estimated.groups == ("measured", "partly")
    assert parity.sums.groups == ("measured",)
    assert parity.sums.figures["bias"] == pytest.approx(0.5)
    assert table_network_parity(Estimator(Device("own", "csv", 8), CONVS)) is None


def test_additivity_is_measured_and_kept(tmp_path):
    rows = {}
    for part in sample_subgraphs(0, 60):
        rows |= Flat().measure_subgraph(part)
    estimator = Estimator(Device("own", "vela", 8, True), rows)
    parity = network_parity(estimator, Flat(), 2, tmp_path / "judged.csv")
    assert parity.sums.figures["bias"] == pytest.approx(1 / 1.5)
    assert parity.estimated.figures["bias"] == pytest.approx(1 / 1.5, rel=0.05)
    assert len((tmp_path / "judged_whole.csv").read_text().splitlines()) == 2
    again = network_parity(estimator, None, 2, tmp_path / "judged.csv")
    assert again.sums.true_ms.tolist() == parity.sums.true_ms.tolist()

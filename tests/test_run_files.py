"""Files of a finished run, of networks with inverted bottlenecks and of those without any."""

import json

import pytest
import torch
import zoo

from lightning_nas.budget.budget import Budget
from lightning_nas.budget.limits import Limits
from lightning_nas.estimator import Estimator
from lightning_nas.graph.blocks import blocks_of
from lightning_nas.graph.elastic_network import elastic_network
from lightning_nas.graph.residuals import residuals
from lightning_nas.jobs.plan import Epochs
from lightning_nas.jobs.record import Compared, Outcome, cost_of, write_run
from lightning_nas.report.network_record import MetricRecord
from lightning_nas.report.recorded import read_run
from lightning_nas.report.search_record import SearchRecord
from lightning_nas.space.architecture import Architecture
from lightning_nas.space.build import build_space
from lightning_nas.space.options import SpaceOptions

METRIC = MetricRecord("accuracy", 0.5, "test")


def outcome_of(name):
    """Return the outcome of a search in a network, whose subnet is the narrowest, and the same network as a rival."""
    network, images = zoo.build(name)
    elastic, estimator = elastic_network(network, images), Estimator.load("analytic_array", lanes=8)
    options = SpaceOptions(kinds=("ibn", "fused", "skip"))
    around = [residual.path for residual in residuals(network, images)]
    space = build_space(elastic, blocks_of(network, elastic), around, options=options)
    chosen = space.decode([0] * len(space.node_sizes))
    rival = Compared("stock", cost_of(estimator, network, images), METRIC, network="itself")
    return Outcome(
        recipe="own",
        task="classification",
        seed=0,
        estimator=estimator,
        budget=Budget(latency=1.0),
        limits=Limits((), (), ()),
        choices="both",
        space=space,
        chosen=chosen,
        subnet=torch.nn.Linear(1, 1),
        baseline_metric=METRIC,
        baseline_steps=1,
        subnet_metric=METRIC,
        subnet_steps=1,
        compared=[rival],
        search=SearchRecord(1.0, 1, None),
        history=(),
        network={"name": "own"},
        epochs=Epochs(1, 1, 1),
        data_name="none",
    )


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v2", "torchvision/resnet18"])
def test_what_is_written_is_read_again(tmp_path, name):
    outcome = outcome_of(name)
    record = write_run(tmp_path, outcome)
    run = read_run(tmp_path / "result.json")
    assert run.record.to_dict() == record.to_dict()
    # An architecture says what it costs, and settings of the source network do not stand in its place.
    text = (tmp_path / "architecture.json").read_text()
    assert Architecture.from_json(text) == outcome.chosen
    assert json.loads(text)["source"] == {"name": "own"}
    assert run.architecture.stages == (tuple(option.kind for _, option in outcome.chosen.blocks),)
    assert record.subnet.cost.latency_ms < record.baseline.cost.latency_ms
    # A network that is priced as a module costs what it does as the source of its space.
    rival = record.comparisons["stock"]
    assert rival.network == "itself"
    assert rival.cost.latency_ms == pytest.approx(record.baseline.cost.latency_ms)
    assert "<svg" in (tmp_path / "architecture.svg").read_text()


def test_fusing_is_told_by_paths_where_there_is_something_to_fuse(tmp_path):
    found, outcomes = [], [outcome_of(f"torchvision/{name}") for name in ("mobilenet_v2", "resnet18")]
    for outcome in outcomes:
        write_run(tmp_path, outcome)
        found.append(json.loads((tmp_path / "run.json").read_text())["fusing"])
    fusing, none = found
    assert none is None
    paths = [path for path, _ in outcomes[0].chosen.blocks]
    assert fusing["blocks"] == [path for path in paths if path in fusing["blocks"]] != []
    assert fusing["where_faster"]["latency_ms"] <= fusing["all"]["latency_ms"]

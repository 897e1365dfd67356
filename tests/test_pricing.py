"""How long pricing takes, against the goals for it."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from spaces import space_of_zoo

from lightning_nas.budget.cost_table import cost_table
from lightning_nas.estimator.estimator import Estimator

SCRIPT = Path(__file__).parent / "benchmarks" / "pricing.py"


@pytest.fixture(scope="module")
def pricing():
    spec = importlib.util.spec_from_file_location("pricing", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_recorded_times_meet_the_goals(pricing):
    found = json.loads(pricing.RECORD.read_text())["torchvision/efficientnet_v2_s on ethos_u85_1024"]
    # The space is as large as is asked.
    assert found["groups"] >= 60
    assert found["blocks"] >= 30
    assert found["architectures"] == 100_000
    assert found["architectures_s"] < 0.2
    assert found["three_budgets_s"] < 5
    assert found["solved_with_peak"] == len(pricing.PARTS)


def test_a_record_is_of_the_network_that_is_named(pricing):
    found = pricing.price("own/vgg", "ethos_u85_1024", rounds=1)
    space = space_of_zoo("own/vgg", Estimator.load("ethos_u85_1024").lanes, kinds=("ibn", "fused", "skip"))
    assert (found["groups"], found["blocks"]) == (len(space.nodes_of), len(space.choices))
    assert found["prices"] > sum(space.node_sizes)
    assert min(found[name] for name in found if name.endswith("_s")) >= 0


def test_the_price_list_is_the_estimate():
    estimator = Estimator.load("ethos_u85_1024")
    space = space_of_zoo("torchvision/mobilenet_v2", estimator.lanes, kinds=("ibn", "fused", "skip"))
    table = cost_table(space, estimator.predict_ms)
    draws = np.random.default_rng(1)
    nodes = np.stack([draws.integers(0, size, 20) for size in table.node_sizes], axis=1)
    priced = table.exact_many(nodes)
    for row, total in zip(nodes.tolist(), priced.tolist(), strict=True):
        assert total == pytest.approx(estimator.latency_ms(space.decode(row)), rel=1e-9)

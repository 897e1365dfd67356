"""How long pricing takes, against the goals for it."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from lightning_nas.budget.cost_table import cost_table
from lightning_nas.estimator.estimator import Estimator

SCRIPT = Path(__file__).parent / "benchmarks" / "pricing.py"


@pytest.fixture(scope="module")
def pricing():
    spec = importlib.util.spec_from_file_location("pricing", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_space_is_as_large_as_is_asked(pricing):
    space = pricing.large_space()
    assert (len(space.stages), len(space.choices)) == (8, 24)
    assert {len(choice.options) for choice in space.choices} == {12}
    assert space.node_sizes[:8] == (5,) * 8


def test_recorded_times_meet_the_goals(pricing):
    for found in json.loads(pricing.RECORD.read_text()).values():
        assert found["architectures"] == 100_000
        assert found["space_s"] < 1
        assert found["space_all_predicted_s"] < 1
        assert found["architectures_s"] < 1


def test_the_price_list_is_the_estimate(pricing):
    estimator, space = Estimator.load("ethos_u85_1024"), pricing.large_space()
    table = cost_table(space, estimator.predict_ms)
    draws = np.random.default_rng(1)
    nodes = np.stack([draws.integers(0, size, 20) for size in table.node_sizes], axis=1)
    priced = table.exact_many(nodes)
    for row, total in zip(nodes.tolist(), priced.tolist(), strict=True):
        assert total == pytest.approx(estimator.latency_ms(space.decode(row)))

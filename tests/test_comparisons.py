"""What a search has to beat: each within the budget, and near to it."""

from dataclasses import replace

import pytest
import torch
from conftest import small_network
from limits import limits_of

from lightning_nas import Estimator, space_of
from lightning_nas.budget.budget import Budget
from lightning_nas.jobs.comparisons import comparison_architectures, fused_where_faster, inherit

NAMES = ("uniform", "random", "rule")


@pytest.fixture(scope="module")
def costs():
    return Estimator.load("ethos_u85_1024")


@pytest.fixture
def space(network):
    return space_of(network, torch.zeros(1, 3, 64, 64))


def test_all_keep_the_budget_and_use_it(space, costs):
    limits = limits_of(space, costs, Budget(latency="0.9x"))
    found = comparison_architectures(NAMES, space, costs, limits, seed=0)
    assert list(found) == ["uniform", "random 1", "random 2", "random 3", "rule"]
    limit = limits.costs[0].budget
    assert all(costs.latency_ms(architecture) <= limit for architecture in found.values())
    assert len(set(map(str, found.values()))) == 5
    source = space.decode(space.reference_encoding)
    assert [b.option for b in found["uniform"].blocks] == [b.option for b in source.blocks]
    pairs = zip(found["rule"].stages, space.stages, strict=True)
    assert all(stage.width % costs.lanes == 0 or stage.width == full.width for stage, full in pairs)


def test_the_rule_fuses_what_the_estimator_says(space, costs):
    source = space.decode(space.reference_encoding)
    fused = fused_where_faster(source, costs)
    assert costs.latency_ms(fused) < costs.latency_ms(source)
    assert fused_where_faster(fused, costs) == fused
    kinds = {block.option.kind for block in fused.blocks}
    assert "fused" in kinds


def test_subnets_of_any_widths_inherit(space, costs, images):
    limits = limits_of(space, costs, Budget(latency="0.8x"))
    found = comparison_architectures(("uniform",), space, costs, limits, seed=0)["uniform"]
    source = small_network()
    before = {name: value.clone() for name, value in source.state_dict().items()}
    batch = torch.nn.functional.interpolate(images, size=64)
    subnet, teacher = inherit(source, found, batch)
    assert costs.latency_ms(subnet, batch) == pytest.approx(costs.latency_ms(found))
    torch.testing.assert_close(teacher.eval()(batch), source.eval()(batch), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())


def test_what_cannot_be_compared_is_said(space, costs, caplog):
    reachable = limits_of(space, costs, Budget(latency="0.65x"))
    tight = replace(reachable, costs=(replace(reachable.costs[0], budget=1e-6),))
    assert comparison_architectures(("rule",), space, costs, tight, seed=0) == {}
    assert "No network of the kind 'rule' keeps the budgets" in caplog.text
    limits = limits_of(space, costs, Budget(latency="0.9x"))
    with pytest.raises(ValueError, match="`comparisons` can hold uniform, random, rule; got 'best'"):
        comparison_architectures(("best",), space, costs, limits, seed=0)

"""What a search has to beat: each within the budget, and near to it."""

from dataclasses import replace

import pytest
import torch
from conftest import small_network
from limits import limits_of
from torchvision.models import mobilenet_v2

from lightning_nas import Estimator, space_of
from lightning_nas.budget.budget import Budget
from lightning_nas.jobs.comparisons import comparison_architectures, fused_everywhere, fused_where_faster, inherit
from lightning_nas.space.options import SpaceOptions

NAMES = ("uniform", "random", "rule")


@pytest.fixture(scope="module")
def costs():
    return Estimator.load("ethos_u85_1024")


@pytest.fixture
def space(network, costs):
    return space_of(network, torch.zeros(1, 3, 64, 64), costs.lanes)


def test_all_keep_the_budget_and_use_it(space, costs):
    limits = limits_of(space, costs, Budget(latency="0.9x"))
    found = comparison_architectures(NAMES, space, costs, limits, seed=0)
    assert list(found) == ["uniform", "random 1", "random 2", "random 3", "rule"]
    limit = limits.costs[0].budget
    assert all(costs.latency_ms(architecture) <= limit for architecture in found.values())
    assert len(set(map(str, found.values()))) == 5


def test_a_plain_multiplier_scales_all_widths_alike(space, costs):
    limits = limits_of(space, costs, Budget(latency="0.9x"))
    (uniform,) = comparison_architectures(("uniform",), space, costs, limits, seed=0).values()
    source = space.decode(space.reference_encoding)
    assert uniform.blocks == source.blocks
    widths, full = space.widths_of(uniform), space.network.sizes
    hidden = {choice.block.group for choice in space.choices if choice.block is not None and choice.size}
    # All, also those of which lanes of 16 leave no other width to search.
    free = {*space.network.open} - hidden
    assert free > {*space.nodes_of} - hidden
    # One ratio gives all of them, as near as whole channels can be to it.
    least = max((widths[group] - 0.5) / full[group] for group in free)
    most = min((widths[group] + 0.5) / full[group] for group in free)
    assert least <= most < 1
    # Those within blocks follow their inputs by the expansion, which stays.
    assert widths == space.with_hidden(widths, [choice.own for choice in space.choices])
    assert any(widths[group] < full[group] for group in hidden)


@pytest.mark.parametrize("options", [{"except_": ["features.6*"]}, {"widths": {"features.6*": []}}])
def test_a_plain_multiplier_leaves_what_the_user_leaves(network, costs, options):
    space = space_of(network, torch.zeros(1, 3, 64, 64), costs.lanes, options=SpaceOptions(**options))
    limits = limits_of(space, costs, Budget(latency="0.9x"))
    (uniform,) = comparison_architectures(("uniform",), space, costs, limits, seed=0).values()
    assert dict(uniform.widths)["features.6.0"] == 1280
    assert dict(uniform.widths)["features.0.0"] < 32
    assert "features.6.0" in space.table().partition("not searched")[2]


def test_the_rule_fuses_what_pays_and_fills_the_lanes(space, costs):
    limits = limits_of(space, costs, Budget(latency="0.9x"))
    (rule,) = comparison_architectures(("rule",), space, costs, limits, seed=0).values()
    assert [option for _, option in rule.blocks] == fused_where_faster(space, costs)
    hidden = {choice.block.group for choice in space.choices if choice.block is not None and choice.size}
    widths = space.widths_of(rule)
    for group in set(space.network.open) - hidden:
        assert widths[group] % costs.lanes == 0 or widths[group] == space.network.sizes[group]
    assert widths == space.with_hidden(widths, [option for _, option in rule.blocks])


def test_blocks_are_fused_where_the_estimator_says_so(costs):
    space = space_of(mobilenet_v2(), torch.zeros(1, 3, 64, 64), costs.lanes)

    def latency_ms(options):
        return costs.latency_ms(space.member(space.network.sizes, options))

    own = [choice.own for choice in space.choices]
    faster, everywhere = fused_where_faster(space, costs), fused_everywhere(space)
    assert latency_ms(faster) < min(latency_ms(own), latency_ms(everywhere))
    assert {option.kind for option in everywhere} == {"fused"}
    assert {option.kind for option in faster} == {"ibn", "fused"}
    assert [replace(option, kind="ibn") for option in faster] == own


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
    with pytest.raises(ValueError, match="`comparisons` can hold uniform, random, rule, stock, taught; got 'best'"):
        comparison_architectures(("best",), space, costs, limits, seed=0)

"""Blocks refined by gradient: nearer to the source's than the closed form leaves them, and nothing else is touched."""

import pytest
import torch
from test_replace_one import smooth, supernet_of
from torch import nn
from torchvision.models import mobilenet_v2

from lightning_nas.supernet import derive, recalibrate, refit, sort_channels
from lightning_nas.supernet.option_errors import replace_one
from lightning_nas.supernet.refine import block_modules, refine, refine_block
from lightning_nas.supernet.refit import fitted_blocks
from lightning_nas.supernet.source_judge import SourceJudge

SETTINGS = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 1]]


@pytest.fixture(scope="module")
def shallow():
    torch.manual_seed(0)
    images = smooth(64)
    network = mobilenet_v2(num_classes=4, inverted_residual_setting=SETTINGS)
    recalibrate(network, network, [images] * 3)
    supernet = supernet_of(network, images, ratios=(0.5, 1.0), kernels=(3,), expansions=(2, 6))
    sort_channels(supernet)
    return supernet, images


def distance(one, other, images):
    with torch.no_grad():
        mine, goal = (network.eval().features[:4](images) for network in (one, other))
    return float((mine - goal).square().sum())


def test_a_refined_member_is_nearer_to_the_source(shallow):
    supernet, images = shallow
    space = supernet.supernet.space
    encoding = (*space.reference_encoding[: len(space.multipliers)], *(0 for _ in space.choices))
    source, subnet = derive(supernet, space.reference_encoding), derive(supernet, encoding)
    refit(subnet, source, images)
    norms = {name: value.clone() for name, value in subnet.state_dict().items() if "running" in name}
    before = distance(subnet, source, images)
    modules = block_modules(space, encoding, fitted_blocks(source, images[:1]))
    assert modules == [choice.module for choice in space.choices]
    refine(subnet, source, images, modules, 60)
    # Weights drawn at random leave less to gain than trained ones.
    assert distance(subnet, source, images) < 0.96 * before
    assert all(torch.equal(value, norms[name]) for name, value in subnet.state_dict().items() if name in norms)


def test_a_block_that_gives_its_goal_and_what_is_frozen_are_left():
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)).train()
    block[0].requires_grad_(False)
    inputs = torch.randn(8, 3, 6, 6)
    with torch.no_grad():
        goal = block.eval()(inputs)
    known = {name: value.clone() for name, value in block.train().state_dict().items()}
    refine_block(block, inputs, goal, 5)
    assert all(torch.equal(value, known[name]) for name, value in block.state_dict().items())
    assert block.training
    assert [parameter.requires_grad for parameter in block.parameters()] == [False, False, True, True, True, True]
    refine_block(block, inputs, goal + 1, 50)
    assert not torch.equal(block[3].bias, known["3.bias"])
    assert all(parameter.grad is None for parameter in block.parameters())


def test_options_that_processes_try_have_the_errors_that_one_finds(shallow):
    supernet, images = shallow
    judge = SourceJudge(supernet, images)
    alone, shared = replace_one(judge), replace_one(judge, num_workers=2)
    for one, other in zip(alone.distances, shared.distances, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_refined_options_have_smaller_errors(shallow):
    supernet, images = shallow
    closed = replace_one(SourceJudge(supernet, images))
    refined = replace_one(SourceJudge(supernet, images, refine_steps=40))
    first = len(supernet.supernet.space.multipliers)
    # Width groups are fitted in closed form alone.
    for one, other in zip(closed.distances[:first], refined.distances[:first], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    pairs = zip(closed.distances[first:], refined.distances[first:], strict=True)
    before, after = (sum(float(row.sum()) for row in rows) for rows in zip(*pairs, strict=True))
    assert after < 0.95 * before

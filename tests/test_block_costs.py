"""Networks by block: each part of the latency in one column, blocks known by the choices of the space."""

import numpy as np
import pytest
import torch
import zoo
from torch import nn
from torchvision.models import mobilenet_v2

from lightning_nas.graph.blocks import blocks_of
from lightning_nas.graph.elastic_network import elastic_network
from lightning_nas.graph.residuals import residuals
from lightning_nas.jobs.block_costs import MAX_COLUMNS, block_costs
from lightning_nas.report.architecture_svg import architecture_svg
from lightning_nas.space.block_option import SKIP
from lightning_nas.space.build import build_space
from lightning_nas.space.options import SpaceOptions

EVERY = SpaceOptions(kinds=("ibn", "fused", "skip"))


def predict_ms(parts):
    return np.array([1.0 + 1e-7 * part.macs for part in parts])


def space_around(network, images, options=EVERY):
    elastic = elastic_network(network, images)
    found = [residual.path for residual in residuals(network, images)]
    return build_space(elastic, blocks_of(network, elastic), found, options=options)


def member(space, **kinds):
    """Return the source with other kinds of some blocks."""
    options = [
        next(
            (option for option in choice.options if option.kind == kinds.get(choice.path.replace(".", "_"))), choice.own
        )
        for choice in space.choices
    ]
    return space.member(space.network.sizes, options)


def shown(name):
    space = space_around(*zoo.build(name))
    source = space.decode(space.reference_encoding)
    (blocks,) = block_costs(predict_ms, [source])
    assert sum(block.latency_ms for block in blocks) == pytest.approx(predict_ms(source.subgraphs).sum())
    assert len({block.name for block in blocks}) == len(blocks) <= MAX_COLUMNS
    return blocks


def test_inverted_bottlenecks_have_their_expansion_kernel_and_stride():
    blocks = shown("torchvision/mobilenet_v2")
    assert [block.kind for block in blocks] == ["other", "ds", *["ibn"] * 16, "other"]
    assert [(block.name, block.in_width, block.out_width) for block in blocks[1:4]] == [
        ("features.1.conv", 32, 16),
        ("features.2.conv", 16, 24),
        ("features.3", 24, 24),
    ]
    assert [block.label for block in blocks[1:4]] == ["k3", "e6 k3 s2", "e6 k3"]
    assert [block.resolution for block in blocks[:3]] == [(32, 32), (32, 32), (16, 16)]
    assert (blocks[-1].out_width, blocks[-1].resolution) == (1280, (2, 2))


def test_squeeze_and_excitation_is_part_of_its_block():
    blocks = shown("torchvision/mobilenet_v3_small")
    assert [block.kind for block in blocks] == ["other"] * 3 + ["ibn"] * 10 + ["other"] * 2
    assert blocks[1].name == "features.1.block.0.0"
    assert (blocks[1].kernel, blocks[1].resolution) == (3, (16, 16))


def test_a_projection_beside_a_block_is_part_of_it():
    blocks = shown("torchvision/resnet18")
    assert [block.kind for block in blocks] == ["other", *["basic"] * 8, "other"]
    assert [block.label for block in blocks[:4]] == ["k7 s2", "e1 k3", "e1 k3", "e2 k3 s2"]
    assert blocks[3].name == "layer2.0.conv1"


def test_a_bottleneck_is_one_column_with_its_first_convolution():
    blocks = shown("torchvision/resnet50")
    assert [block.in_width for block in blocks[1:5]] == [64, 256, 256, 256]
    assert [block.kind for block in blocks] == ["other", *["fused"] * 16, "other"]


def test_blocks_within_a_stage_and_joins_beside_them():
    found = {block.name: block for block in shown("own/yolo")}
    names = list(found)
    first = names.index("stage3.1.blocks.0")
    assert names[first : first + 3] == ["stage3.1.blocks.0", "stage3.1.blocks.1", "stage3.1.join.0"]
    assert [found[name].kind for name in names[first : first + 3]] == ["basic", "basic", "other"]


def test_a_part_of_two_blocks_leaves_each_its_own():
    # A projection, a depthwise convolution and an expansion are priced as one, across the border of two blocks.
    blocks = {block.name: block for block in shown("timm/mobilenetv4_conv_small")}
    block = blocks["blocks.2.0.pw_exp.conv"]
    assert (block.kind, block.kernel, block.out_width) == ("ibn", 5, 96)


def test_a_block_keeps_its_place_whatever_it_is():
    network, images = mobilenet_v2().eval(), torch.zeros(1, 3, 64, 64)
    space = space_around(network, images)
    source = space.decode(space.reference_encoding)
    chosen = member(space, features_2_conv="fused", features_3="skip", features_5="fused")
    subnet, baseline = block_costs(predict_ms, [chosen, source])
    names = [block.name for block in baseline]
    assert [block.name for block in subnet] == [name for name in names if name != "features.3"]
    kinds = {block.name: block.kind for block in subnet}
    assert [name for name, kind in kinds.items() if kind == "fused"] == ["features.2.conv", "features.5"]
    assert SKIP in dict(chosen.blocks).values()
    picture = architecture_svg(subnet, baseline)
    # One outline a block of the baseline, and one in the legend.
    assert picture.count('class="ghost"') == len(baseline) + 1


class Deep(nn.Module):
    """More convolutions than a picture has columns, two in each module."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        pairs = (nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU()) for _ in range(40))
        self.pairs = nn.ModuleList(pairs)

    def forward(self, x):
        x = self.first(x)
        for pair in self.pairs:
            x = pair(x)
        return x


def test_columns_of_one_module_are_one_where_there_are_too_many():
    space = space_around(Deep().eval(), torch.zeros(1, 3, 8, 8))
    source = space.decode(space.reference_encoding)
    (blocks,) = block_costs(predict_ms, [source])
    assert [block.name for block in blocks] == ["first", *(f"pairs.{number}" for number in range(40))]
    assert sum(block.latency_ms for block in blocks) == pytest.approx(predict_ms(source.subgraphs).sum())


def test_parts_that_save_time_have_no_bar_below_the_floor():
    space = space_around(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)), torch.zeros(1, 3, 8, 8))
    (blocks,) = block_costs(lambda parts: np.array([-1.0, 3.0]), [space.decode(space.reference_encoding)])
    assert [block.latency_ms for block in blocks] == [0.0, 2.0]

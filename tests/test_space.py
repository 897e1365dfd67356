"""Search spaces as data: what they offer, which members they have, and how files of them are read."""

import dataclasses
import json

import pytest
import torch
import zoo
from spaces import space_of_zoo
from timm.layers import make_divisible
from torch import nn
from torchvision.models import mobilenet_v2

from lightning_nas.graph.sizes import hidden_width
from lightning_nas.space import SKIP, Architecture, BlockOption, Choice, SearchSpace, curated_widths
from lightning_nas.space.lanes import round_to_lanes
from lightning_nas.space.multiplier import DepthMultiplier
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.read import space_of

MOBILENET = "torchvision/mobilenet_v2"


@pytest.fixture(scope="module")
def space():
    return space_of_zoo(MOBILENET, kinds=("ibn", "fused", "skip"))


def option_of(path, space):
    return next(choice for choice in space.choices if choice.path == path)


@pytest.mark.parametrize("name", [MOBILENET, "torchvision/resnet18", "own/yolo", "timm/mobilenetv4_conv_small"])
def test_json_round_trip(name):
    space = space_of_zoo(name, kinds=("ibn", "fused", "skip"))
    lowest = space.decode((0,) * len(space.node_sizes))
    again = SearchSpace.from_json(space.to_json())
    assert again == space
    assert again.left_out == space.left_out
    assert again.decode((0,) * len(space.node_sizes)) == lowest
    assert Architecture.from_json(lowest.to_json()) == lowest
    with pytest.raises(dataclasses.FrozenInstanceError):
        space.choices = ()


@pytest.mark.parametrize("text", ['{"format": 9}', "[]", '{"format": 1}', '{"format": 2, "network": 1}'])
def test_malformed_files_are_refused(text):
    with pytest.raises(ValueError, match=r"format|lacks|wrong form|must be"):
        SearchSpace.from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": [["a", 8, ""]]}, "`counts` must be a whole number"),
        ({"counts": []}, "must hold"),
        ({"multipliers": [{"name": "a", "groups": [0], "widths": [[8], [8]]}]}, "must differ"),
        ({"choices": [{"kind": "ibn"}]}, "unknown|has the field"),
    ],
)
def test_fields_that_do_not_fit_are_refused(space, change, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace.from_json(json.dumps({**json.loads(space.to_json()), **change}))


def test_decode_and_encode_are_inverse(space):
    for step in range(1, 40):
        nodes = tuple((step * 7 + i) % n for i, n in enumerate(space.node_sizes))
        assert space.encode(space.decode(nodes)) == nodes
    with pytest.raises(ValueError, match="below each"):
        space.decode((99,) * len(space.node_sizes))
    source = space.decode(space.reference_encoding)
    foreign = dataclasses.replace(source, network=dataclasses.replace(source.network, image_shape=(8, 8, 3)))
    with pytest.raises(ValueError, match="of another network"):
        space.encode(foreign)


def test_the_source_is_a_member_as_it_is(space):
    source = space.decode(space.reference_encoding)
    assert source.network == space.network.network
    assert set(dict(source.blocks).values()) == {BlockOption("ibn", 6, 3)}
    assert source.input_size == space.input_size


def test_hidden_channels_follow_the_input_and_the_option(space):
    choice = option_of("features.3", space)
    groups = space.network.sizes
    assert [choice.hidden(BlockOption("fused", e, 3), groups, groups) for e in (2, 3, 6)] == [48, 72, 144]
    narrow = list(groups)
    narrow[choice.inputs.groups[0]] = 16
    assert choice.hidden(BlockOption("ibn", 6, 3), narrow, groups) == 96
    node = len(space.multipliers) + space.choices.index(choice)
    assert space.nodes_of[choice.block.group][-1] == node
    assert space.nodes_of[choice.block.group][0] == next(
        n for n, m in enumerate(space.multipliers) if choice.inputs.groups[0] in m.groups
    )


def test_residual_blocks_can_be_left_out(space):
    assert SKIP in option_of("features.3", space).options
    assert SKIP not in option_of("features.2.conv", space).options  # its input and output differ
    without = space_of_zoo(MOBILENET)
    assert [choice.path for choice in without.choices] == [choice.path for choice in space.choices]
    assert all(SKIP not in choice.options for choice in without.choices)
    resnet = space_of_zoo("torchvision/resnet50", kinds=("skip",))
    # The 3x3 and the 1x1 behind it are a fused block; of each stage the first has a convolution beside it.
    assert [SKIP in choice.options for choice in resnet.choices].count(True) == 12
    assert {choice.own.kind for choice in resnet.choices} == {"fused"}
    plain = space_of_zoo("own/vgg", kinds=("skip",))
    assert not any(SKIP in choice.options for choice in plain.choices)


def test_blocks_whose_expansion_is_small_get_parts_of_it():
    space = space_of_zoo("torchvision/resnet18")
    assert [str(option) for option in space.choices[0].options] == ["basic e0.5 k3", "basic e0.75 k3", "basic e1 k3"]


def test_widths_that_round_to_the_same_are_one_option():
    assert curated_widths(16, (0.5, 0.75, 0.8, 1.0), lanes=8) == (8, 16)
    assert curated_widths(24, (0.5, 0.75, 1.0), lanes=16) == (16, 24)
    assert round_to_lanes(20, 16) == 32  # 16 would lose 20 %, more than the rule's 10 %


def test_timm_hidden_widths():
    for width in range(8, 200, 4):
        for expansion in (1, 1.5, 2, 3, 4.5, 6):
            assert hidden_width(width, expansion) == make_divisible(width * expansion)


def test_scopes_of_depth_multipliers():
    spaces = {scope: space_of_zoo(MOBILENET, scope=scope, ratios=(0.5, 1.0)) for scope in ("group", "stage", "model")}
    assert [len(space.multipliers) for space in spaces.values()] == [9, 5, 1]
    assert [multiplier.name for multiplier in spaces["stage"].multipliers][:2] == ["stage 32x32", "stage 16x16"]
    groups = [{g for multiplier in space.multipliers for g in multiplier.groups} for space in spaces.values()]
    # Tied widths have few rows, but all groups of their scope; alone, 16 channels have no other width than 16.
    assert groups[0] <= groups[1] == groups[2]
    assert spaces["model"].multipliers[0].widths[-1] == tuple(
        spaces["model"].network.sizes[g] for g in spaces["model"].multipliers[0].groups
    )


def test_patterns_say_what_is_searched():
    last = space_of_zoo(MOBILENET, only=["features.1[0-9]*"])
    assert {multiplier.name for multiplier in last.multipliers} == {
        *("features.11.conv.2", "features.14.conv.2", "features.17.conv.2", "features.18.0")
    }
    assert next(choice.path for choice in last.choices).startswith("features.10")
    without = space_of_zoo(MOBILENET, except_=["features.18*"])
    assert "features.18.0" not in {multiplier.name for multiplier in without.multipliers}
    explicit = space_of_zoo(MOBILENET, widths={"features.18*": [640], "features.0*": []})
    widths = {multiplier.name: multiplier.widths for multiplier in explicit.multipliers}
    assert widths["features.18.0"] == ((640,), (1280,))
    assert "features.0.0" not in widths


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": {"features.4*": [12]}}, "Width 12 of features.4.conv.2 is not a multiple of the device's 8 lanes"),
        ({"widths": {"features.4*": [48]}}, "at most 32"),
        ({"widths": {"stages.0": [8]}}, "matches no width and no block"),
        ({"widths": [[8]]}, "by pattern"),
        ({"only": "features"}, "list of patterns"),
        ({"except_": ["layer1.*"]}, "'layer1.*' of `except_` matches no width"),
        ({"ratios": (0.0, 1.0)}, "got 0.0"),
        ({"ratios": (1.5,)}, "got 1.5"),
        ({"scope": "network"}, "one of group, stage, model"),
        ({"kinds": ("ds",)}, "can hold ibn, fused, skip; got 'ds'"),
        ({"widths": {"features.0*": [8]}, "scope": "model"}, "need scope='group'"),
    ],
)
def test_bad_options_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        space_of_zoo(MOBILENET, **arguments)


def test_bad_lanes_are_refused(space):
    with pytest.raises(ValueError, match="at least 1; got 0"):
        round_to_lanes(16, 0)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        space.curate(0)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        space_of(mobilenet_v2(), torch.zeros(1, 3, 32, 32), lanes=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockOption("conv", 1, 3), "ibn, fused, ds"),
        (lambda: BlockOption("ibn", 0, 3), "above 0"),
        (lambda: BlockOption("ibn", 6, 4), "odd"),
        (lambda: BlockOption("ds", 2, 3), "must be 1"),
        (lambda: Choice("a", (), BlockOption("ibn", 6, 3)), "must be among those of 'a'"),
        (lambda: Choice("a", (BlockOption("ibn", 6, 3),) * 2, BlockOption("ibn", 6, 3)), "must differ"),
        (lambda: DepthMultiplier("a", (0,), ((8,), (8,))), "must differ"),
        (lambda: DepthMultiplier("a", (0, 1), ((8,), (16,))), "one width for each group"),
    ],
)
def test_impossible_parts_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_width_is_scaled_once(space):
    with pytest.raises(ValueError, match="one is by two"):
        dataclasses.replace(space, multipliers=(*space.multipliers, space.multipliers[0]))


def test_what_is_left_out_says_why(space):
    assert {(left.path, left.what) for left in space.left_out} == {("classifier.1", "width")}
    assert space.left_out[0].reason == "it is an output of the network"


@dataclasses.dataclass(frozen=True)
class Chip:
    lanes: int


def test_a_space_is_curated_for_a_device(space):
    place = next(n for n, multiplier in enumerate(space.multipliers) if multiplier.widths[-1] == (24,))
    every = dataclasses.replace(space.multipliers[place], widths=tuple((width,) for width in range(1, 25)))
    rocky = dataclasses.replace(space, multipliers=(*space.multipliers[:place], every, *space.multipliers[place + 1 :]))
    assert rocky.curate(Chip(8)).multipliers[place].widths == ((8,), (16,), (24,))
    assert rocky.curate(Chip(16)).multipliers[place].widths == (
        (16,),
        (24,),
    )  # the full width is kept, on the grid or not
    assert rocky.curate(Chip(8)).curate(8) == rocky.curate(Chip(8))
    assert rocky.curate(Chip(8)).choices == space.choices


def test_groups_of_channels_that_stay_together_fill_the_lanes_together():
    """Of a convolution in groups, a unit is the channels of a group."""
    net = nn.Sequential(
        nn.Conv2d(3, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1, groups=16), nn.ReLU(), nn.Conv2d(64, 8, 1)
    )
    space = space_of(net, torch.rand(1, 3, 16, 16), lanes=16, options=SpaceOptions(ratios=(0.5, 1.0)))
    assert [multiplier.widths for multiplier in space.multipliers] == [((8,), (16,))]
    assert [op.layer.out_channels for op in space.decode((0,)).network.operations] == [32, 32, 32, 32, 8]


def test_networks_without_a_block_have_widths_alone():
    network, images = zoo.build("own/vgg")
    space = space_of(network, images)
    assert not any(choice.block is None for choice in space.choices)
    assert space.multipliers


def test_widths_are_said_in_channels():
    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.ReLU(), nn.Conv2d(64, 4, 1))
    space = space_of(net, torch.rand(1, 3, 16, 16), options=SpaceOptions(widths={"0": [32]}))
    assert space.multipliers[0].widths == ((4,), (8,))
    assert "  0  32, 64" in space.table()
    with pytest.raises(
        ValueError, match="Width 12 of 0 is not a multiple of the device's 8 lanes and of its 8 channels"
    ):
        space_of(net, torch.rand(1, 3, 16, 16), options=SpaceOptions(widths={"0": [12]}))

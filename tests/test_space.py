import dataclasses
import json

import pytest

from lightning_nas.space import (
    Architecture,
    BlockOption,
    Choice,
    SearchSpace,
    curate,
    curated_widths,
    from_timm,
    to_timm,
)
from lightning_nas.space.lanes import round_to_lanes
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.spec import HEAD, STEM, DepthMultiplier, hidden_width


@pytest.fixture
def space(supernet):
    return supernet.supernet.space


def test_json_round_trip(space):
    architecture = space.decode(space.reference_encoding)
    assert SearchSpace.from_json(space.to_json()) == space
    assert Architecture.from_json(architecture.to_json()) == architecture
    with pytest.raises(dataclasses.FrozenInstanceError):
        space.num_classes = 3


@pytest.mark.parametrize("text", ['{"format": 9}', "[]", '{"format": 1}', '{"format": 1, "stages": 1}'])
def test_malformed_files_are_refused(text):
    with pytest.raises(ValueError, match=r"format|lacks|wrong form|must be"):
        SearchSpace.from_json(text)


def test_decode_and_encode_are_inverse(space):
    for step in range(1, 40):
        nodes = tuple((step * 7 + i) % n for i, n in enumerate(space.node_sizes))
        assert space.encode(space.decode(nodes)) == nodes
    with pytest.raises(ValueError, match="below each"):
        space.decode((99,) * len(space.node_sizes))
    foreign = dataclasses.replace(space.decode(space.reference_encoding), num_classes=77)
    with pytest.raises(ValueError, match="outside its choices"):
        space.encode(foreign)


def test_timm_strings_round_trip():
    strings = [["ds_r1_k3_s1_e1_c16"], ["er_r1_k5_s2_e4_c24", "ir_r1_k3_s1_e6_c24"]]
    assert to_timm(from_timm(strings)) == strings
    assert to_timm(from_timm([["ir_r2_k3_s2_e6_c24"]])) == [["ir_r1_k3_s2_e6_c24", "ir_r1_k3_s1_e6_c24"]]


@pytest.mark.parametrize(
    ("string", "message"),
    [("cn_r1_k3_s1_c8", "no known kind"), ("ir_r1_k3_s1_c8_se0.25", "field 'se0.25'"), ("ir_r1_k3_e6_c8", "lacks")],
)
def test_timm_strings_without_a_counterpart_are_refused(string, message):
    with pytest.raises(ValueError, match=message):
        from_timm([[string]])


def test_widths_that_round_to_the_same_are_one_option():
    assert curated_widths(16, (0.5, 0.75, 0.8, 1.0), lanes=8) == (8, 16)
    assert curated_widths(24, (0.5, 0.75, 1.0), lanes=16) == (16, 24)
    assert round_to_lanes(20, 16) == 32  # 16 would lose 20 %, more than the rule's 10 %


def test_timm_hidden_widths():
    from timm.layers import make_divisible

    for width in range(8, 200, 4):
        for expansion in (1, 1.5, 2, 3, 4.5, 6):
            assert hidden_width(width, expansion) == make_divisible(width * expansion)


def test_scopes_of_depth_multipliers(space):
    model = curate(space, 8, SpaceOptions(ratios=(0.5, 1.0), scope="model"))
    assert len(model.multipliers) == 1
    assert model.multipliers[0].stages == (*range(len(space.stages)), STEM, HEAD)
    stage = curate(space, 8, SpaceOptions(ratios=(0.5, 1.0), scope="stage"))
    assert len(stage.multipliers) == len(space.stages) + 2  # stem and head
    assert model.num_architectures < stage.num_architectures
    explicit = curate(space, 8, SpaceOptions(widths=[[8], [8, 16], [16]]))
    assert explicit.multipliers[2].widths == ((16,), (24,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"widths": [[8], [12], [24]]},
            "Width 12 of stage 1 is not a multiple of the device's 8 lanes; valid are 8",
        ),
        ({"widths": [[8], [16], [48]]}, "at most 24"),
        ({"widths": [[8]]}, "each of 3 stages"),
        ({"ratios": (0.0, 1.0)}, "got 0.0"),
        ({"ratios": (1.5,)}, "got 1.5"),
        ({"scope": "network"}, "'stage' or 'model'"),
    ],
)
def test_bad_widths_are_refused(space, arguments, message):
    with pytest.raises(ValueError, match=message):
        curate(space, 8, SpaceOptions(**arguments))


def test_bad_lanes_are_refused():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        round_to_lanes(16, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlockOption("conv", 1, 3), "ibn, fused, ds"),
        (lambda: BlockOption("ibn", 0, 3), "above 0"),
        (lambda: BlockOption("ibn", 6, 4), "odd"),
        (lambda: BlockOption("ds", 2, 3), "must be 1"),
        (lambda: Choice(3, (BlockOption("ibn", 6, 3),)), "1 or 2"),
        (lambda: Choice(1, ()), "at least one"),
        (lambda: Choice(1, (BlockOption("ibn", 6, 3),) * 2), "must differ"),
        (lambda: DepthMultiplier((0,), ((8,), (8,))), "must differ"),
    ],
)
def test_impossible_parts_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_architecture_as_text_names_the_head_where_there_is_one(space):
    architecture = space.decode((0,) * len(space.node_sizes))
    ends = [f"stem {architecture.stem.width}", *(f"{stage.width}: " for stage in architecture.stages)]
    assert str(architecture).startswith(" | ".join(ends[:2]))
    assert str(architecture).endswith(f" | head {architecture.head.width}")
    assert architecture.head.width < space.head.width
    assert "head" not in str(dataclasses.replace(architecture, head=None))


def test_json_is_plain(space):
    data = json.loads(space.to_json())
    assert data["stages"][1]["blocks"][0]["options"][0] == {"kind": "ibn", "expansion": 2, "kernel": 3}


@dataclasses.dataclass(frozen=True)
class Chip:
    lanes: int


def test_a_space_is_curated_for_a_device(space):
    every = tuple((width,) for width in range(1, 25))
    rocky = dataclasses.replace(
        space, multipliers=(*space.multipliers[:2], DepthMultiplier(space.multipliers[2].stages, every))
    )
    curated = rocky.curate(Chip(8))
    assert curated.multipliers[2].widths == ((8,), (16,), (24,))
    assert rocky.curate(Chip(16)).multipliers[2].widths == ((16,), (24,))  # the full width is kept, on the grid or not
    assert curated.curate(8) == curated
    assert (curated.stages, curated.reference) == (space.stages, space.reference)
    whole = curate(space, 1, SpaceOptions(ratios=(0.3, 0.5, 0.9, 1.0), scope="model")).curate(Chip(8))
    assert whole.multipliers[0].widths == (
        (8, 8, 8, 16, 384),
        (8, 8, 16, 16, 640),
        (8, 16, 24, 32, 1152),
        (8, 16, 24, 32, 1280),
    )
    with pytest.raises(ValueError, match="at least 1; got 0"):
        rocky.curate(Chip(0))

"""Width groups of any network: found, narrowed, and priced at every width."""

import importlib.util
import json
from collections import Counter
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import zoo
from torch import nn

from lightning_nas.graph.blocks import blocks_of
from lightning_nas.graph.decompose import decompose
from lightning_nas.graph.elastic_memory import elastic_steps, live_values_at
from lightning_nas.graph.elastic_network import elastic_network, read_network
from lightning_nas.graph.elastic_parts import cut_alike, elastic_parts
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.group_check import checked_groups
from lightning_nas.graph.memory import network_memory
from lightning_nas.graph.narrowing import masked, narrowed
from lightning_nas.graph.residuals import residuals
from lightning_nas.graph.structures import Structures
from lightning_nas.graph.trace import trace
from lightning_nas.graph.width_groups import width_groups

# Of each network the convolutions whose widths cannot be chosen, and why.
FIXED = {
    "detection/fasterrcnn_mobilenet_v3_large_320_fpn": "which crops it takes depends on all values",
    "timm/edgenext_xx_small": "splits by sizes that the module names",
    "timm/efficientvit_b0": "means over channels",
    "timm/mixnet_s": "splits by sizes that the module names",
    "timm/rexnet_100": "splits by sizes that the module names",
    "torchvision/convnext_tiny": "means over channels",
    "torchvision/shufflenet_v2_x1_0": "channels are shuffled by sizes that the module names",
}


# Groups of channels that are one convolution's two groups.
CUT_OTHERWISE = {"timm/mobilenet_edgetpu_v2_xs": 2}


# Networks that are traced, and not priced at other widths.
UNPRICED = {
    "detection/fasterrcnn_mobilenet_v3_large_320_fpn": "crops of objects that random weights do not find",
}


def names():
    for name in zoo.ZOO:
        marks = [pytest.mark.slow] if name in zoo.SLOW else []
        if name in UNPRICED:
            marks.append(pytest.mark.xfail(reason=UNPRICED[name], raises=ValueError, strict=True))
        if not zoo.is_available(name):
            marks.append(pytest.mark.skip(reason="needs pip install segmentation-models-pytorch"))
        yield pytest.param(name, marks=marks)


def all_widths(groups, widths):
    """Return the width of each group, where those of some are given by their numbers."""
    return [widths.get(number, group.size) for number, group in enumerate(groups.groups)]


@pytest.mark.parametrize("name", [*names()])
def test_a_network_at_other_widths_is_what_tracing_it_gives(name):
    network, images = zoo.build(name)
    elastic, found = read_network(network, images)
    groups = checked_groups(network, images, found)
    if name not in FIXED:
        assert groups.groups == found.groups
        convs = {f"{path}.weight" for path, module in network.named_modules() if isinstance(module, nn.Conv2d)}
        assert convs <= {slot for slot, _ in groups.slots_of(groups.open)}
    elastic = elastic.freezing({number: group.frozen for number, group in enumerate(groups.groups)})
    num_open = len(elastic.open)
    elastic = cut_alike(elastic)
    assert num_open - len(elastic.open) == CUT_OTHERWISE.get(name, 0)
    groups = groups.freezing({number: width.frozen for number, width in enumerate(elastic.widths)})
    structures = Structures(elastic, ())
    parts, steps = elastic_parts(structures), [step.dependence.values[()] for step in elastic_steps(structures)]
    for seed in range(2):
        drawn = zoo.drawn(groups, seed)
        narrow, widths = narrowed(network, groups, drawn), all_widths(groups, drawn)
        assert elastic.at(widths) == trace(narrow, images, "bytes", fold=False)
        assert [part.at(widths) for part in parts] == decompose(narrow, images, "bytes")
        peak = max(live_values_at(step, widths) for step in steps)
        assert peak == network_memory(trace(narrow, images, "bytes")).peak_activation_bytes


def test_channels_that_nobody_reads_are_those_that_a_narrower_network_lacks():
    network, images = zoo.build("own/yolo")
    groups = width_groups(network, images)
    widths = zoo.drawn(groups, 0)
    with evaluating(network):
        whole = masked(network, groups, widths)(images)
        assert torch.allclose(narrowed(network, groups, widths)(images), whole, atol=1e-4)
        assert not torch.allclose(whole, network(images), atol=1e-2)
    assert sum(p.numel() for p in narrowed(network, groups, widths).parameters()) < sum(
        p.numel() for p in network.parameters()
    )


class Unknown(nn.Module):
    """Two branches, of which one runs an operator that nothing is known of."""

    def __init__(self):
        super().__init__()
        self.first, self.sorted, self.plain = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.first(x)
        return self.out(self.sorted(x).sort(dim=1).values) + self.out(self.plain(x))


def test_what_cannot_be_followed_stays_as_it_is_and_says_why():
    groups = width_groups(Unknown(), torch.rand(1, 3, 4, 4)).groups
    reasons = {group.name: group.frozen for group in groups}
    assert reasons["first"] == ""
    assert "the operator 'sort' at '' cannot be followed" in reasons["sorted"]
    assert reasons["out"] == "it is an output of the network"


class Reversed(nn.Module):
    """It says nothing wrong about its channels, and still computes with their number."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.first(x)
        return self.second(x * x.shape[1])


def test_a_network_that_computes_otherwise_when_it_is_narrower_is_found_out():
    network, images = Reversed(), torch.rand(1, 3, 4, 4)
    groups = width_groups(network, images)
    assert groups.open == (0,)
    checked = checked_groups(network, images, groups)
    assert checked.groups[0].frozen == "a narrower network computes something else"
    assert not checked.open


def test_equal_parts_of_a_split_and_groups_of_channels_stay_whole():
    network, images = zoo.build("own/yolo")
    sizes = {group.name: (group.size, dict(group.slots)) for group in width_groups(network, images).groups}
    size, slots = sizes["stage2.1.split.0"]
    assert size == 16  # of 32 channels: one of each half
    assert slots["stage2.1.split.0.weight", 0] == 2


class Split(nn.Module):
    """The channels of one convolution go several ways."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 1), nn.Conv2d(4, 16, 1)
        self.out, self.other = nn.Conv2d(12, 2, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x):
        x = self.first(x)
        return self.out(x[:, :12]) + self.other(self.second(x[:, 12:]))


@pytest.mark.parametrize("make", [Split, zoo.YoloLike, *(zoo.ZOO[f"torchvision/{n}"] for n in ("shufflenet_v2_x1_0",))])
def test_names_of_groups_are_unique_and_the_same_each_time(make):
    images = torch.rand(1, 3, 64, 64)
    names = [group.name for group in width_groups(make().eval(), images).groups]
    assert len({*names}) == len(names)
    assert names == [group.name for group in width_groups(make().eval(), images).groups]


def test_a_convolution_of_two_groups_gives_its_name_to_both():
    groups = width_groups(Split(), torch.rand(1, 3, 4, 4)).groups
    assert [(group.name, group.size) for group in groups] == [
        ("first", 12),
        ("first[1]", 4),
        ("out", 2),
        ("second", 16),
    ]


class ChannelsLast(nn.Module):
    """Linear layers on every pixel of a map whose channels are last, and on its pixels as tokens."""

    def __init__(self, is_on_tokens):
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.expand, self.activation, self.project = nn.Linear(8, 24), nn.GELU(), nn.Linear(24, 8)
        self.scale, self.out = nn.Parameter(torch.ones(8)), nn.Conv2d(8, 2, 1)
        self.is_on_tokens = is_on_tokens

    def forward(self, x):
        x = self.stem(x)
        y = self.depthwise(x)
        y = y.flatten(2).transpose(1, 2) if self.is_on_tokens else y.permute(0, 2, 3, 1)
        y = self.scale * self.project(self.activation(self.expand(y)))
        y = y.view(1, *x.shape[2:], -1) if self.is_on_tokens else y
        return self.out(x + y.permute(0, 3, 1, 2))


@pytest.mark.parametrize("is_on_tokens", [False, True], ids=["map", "tokens"])
def test_channels_that_are_last_are_followed(is_on_tokens):
    network, images = ChannelsLast(is_on_tokens), torch.rand(1, 3, 8, 12)
    elastic, groups = read_network(network, images)
    assert checked_groups(network, images, groups).groups == groups.groups
    assert [(groups.groups[n].name, groups.groups[n].size) for n in groups.open] == [
        ("stem", 8),
        ("expand", 24),
    ]
    drawn = {0: 5, 1: 17}
    narrow = elastic.at(all_widths(groups, drawn))
    layers = [operation.layer for operation in narrow.operations]
    assert narrow == trace(narrowed(network, groups, drawn), images, "bytes", fold=False)
    linear = [layer for layer in layers if (layer.in_channels, layer.out_channels) in ((5, 17), (17, 5))]
    assert [layer.macs for layer in linear] == [4 * 6 * 5 * 17] * 2
    assert layers[-1] == trace(nn.Conv2d(5, 2, 1), torch.rand(1, 5, 4, 6), fold=False).operations[0].layer


class Attention(nn.Module):
    """Linear attention of as many heads of four channels as there are."""

    def __init__(self):
        super().__init__()
        self.stem, self.qkv, self.project = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 36, 1), nn.Conv2d(12, 8, 1)
        self.out = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        x = self.stem(x)
        q, k, v = self.qkv(x).view(1, -1, 12, x.shape[2] * x.shape[3]).chunk(3, 2)
        mixed = (v @ k.transpose(2, 3)) @ q
        return self.out(x + self.project(mixed.reshape(1, -1, *x.shape[2:])))


class Stacked(nn.Module):
    """Maps of several convolutions, stacked and summed."""

    def __init__(self):
        super().__init__()
        self.branches, self.out = nn.ModuleList(nn.Conv2d(3, 8, k, padding=k // 2) for k in (1, 3)), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.out(torch.stack([branch(x) for branch in self.branches]).sum(0))


@pytest.mark.parametrize(
    ("network", "sizes"),
    [(Attention(), {"stem": (8, 1), "qkv": (3, 12)}), (Stacked(), {"branches.0": (8, 1)})],
    ids=["heads", "stack"],
)
def test_heads_of_attention_go_as_a_whole_and_what_is_stacked_stays_alike(network, sizes):
    images = torch.rand(1, 3, 4, 6)
    elastic, groups = read_network(network, images)
    groups = checked_groups(network, images, groups)
    found = [groups.groups[number] for number in groups.open]
    assert {group.name: (group.size, dict(group.slots)[f"{group.name}.weight", 0]) for group in found} == sizes
    for seed in range(3):
        drawn = zoo.drawn(groups, seed)
        narrow = elastic.at(all_widths(groups, drawn))
        assert narrow == trace(narrowed(network, groups, drawn), images, "bytes", fold=False)


class Tied(nn.Module):
    """Two modules that hold one weight, or one module that runs twice and is held twice."""

    def __init__(self, is_one_module):
        super().__init__()
        self.stem, self.first, self.out = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1)
        self.second = self.first if is_one_module else nn.Conv2d(8, 8, 1)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.out(self.second(self.first(self.stem(x)).relu()))


@pytest.mark.parametrize(
    ("is_one_module", "reason"), [(True, ""), (False, "first.weight and second.weight are one parameter")]
)
def test_a_weight_of_two_modules_keeps_its_width_and_a_module_that_runs_twice_is_narrowed_once(is_one_module, reason):
    network, images = Tied(is_one_module), torch.rand(1, 3, 4, 4)
    groups = checked_groups(network, images, width_groups(network, images))
    assert (groups.groups[0].name, groups.groups[0].frozen) == ("stem", reason)


def skipped(network, path):
    """Return a copy of a network in which a module does nothing."""
    copy = deepcopy(network)
    copy.set_submodule(path, nn.Identity())
    return copy


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("torchvision/mobilenet_v2", 10),
        ("torchvision/resnet18", 5),
        ("torchvision/efficientnet_b0", 9),
        ("timm/mobilenetv4_conv_small", 10),
        ("own/yolo", 4),
        ("own/unet", 10),
        ("own/vgg", 0),
    ],
)
def test_modules_that_add_to_their_input_can_be_left_out(name, count):
    network, images = zoo.build(name)
    whole = trace(network, images, "bytes", fold=False)
    found = residuals(network, images)
    assert len(found) == count
    for residual in found:
        rest = trace(skipped(network, residual.path), images, "bytes", fold=False)
        kept = [op for number, op in enumerate(whole.operations) if number not in residual.operations]
        assert [op.layer for op in rest.operations] == [op.layer for op in kept]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("torchvision/mobilenet_v2", {"ds": 1, "ibn": 16}),
        ("torchvision/mobilenet_v3_large", {"ibn": 14}),
        ("torchvision/resnet18", {"basic": 8}),
        ("segmentation/lraspp_mobilenet_v3_large", {"ibn": 14}),
        ("detection/fcos_mobilenet_v2_fpn", {"ds": 1, "ibn": 16}),
        ("timm/efficientnet_b0", {"ds": 1, "ibn": 15}),
        ("timm/mobilenet_edgetpu_v2_xs", {"fused": 5, "ibn": 12}),
        ("own/mobilenet", {"ds": 1, "ibn": 16}),
        ("own/yolo", {"basic": 8, "fused": 5}),
    ],
)
def test_blocks_are_told_from_the_groups_alone(name, counts):
    network, images = zoo.build(name)
    found = blocks_of(network, elastic_network(network, images))
    assert Counter(block.kind for block in found) == counts
    for block in found:
        assert bool(block.unfusable) == (block.kind == "ds")
        assert (block.expand == "") == (block.kind == "ds")
        assert (block.depthwise != "") == (block.kind in ("ibn", "ds"))
        for path in filter(None, (block.expand, block.depthwise, block.project)):
            assert isinstance(network.get_submodule(path), nn.Conv2d)
        for path in filter(None, (block.expand_norm, block.norm, block.project_norm)):
            assert isinstance(network.get_submodule(path), nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("torchvision/mobilenet_v2", ("ds", "features.1.conv"), ("ibn", "features.17.conv")),
        ("timm/mobilenetv4_conv_small", ("basic", ""), ("ibn", "blocks.3.5")),
        ("torchvision/resnet18", ("basic", "layer1.0"), ("basic", "layer4.1")),
        ("timm/tf_efficientnet_lite0", ("ds", "blocks.0.0"), ("ibn", "blocks.6.0")),
    ],
)
def test_a_block_names_the_module_that_runs_it_alone(name, first, last):
    network, images = zoo.build(name)
    found = blocks_of(network, elastic_network(network, images))
    assert [(block.kind, block.module) for block in (found[0], found[-1])] == [first, last]


def test_a_norm_that_applies_its_activation_holds_it():
    network, images = zoo.build("timm/tf_efficientnet_lite0")
    block = blocks_of(network, elastic_network(network, images))[-1]
    assert (block.expand_norm, block.expand_activation) == ("blocks.6.0.bn1", "blocks.6.0.bn1.act")
    assert (block.norm, block.activation) == ("blocks.6.0.bn2", "blocks.6.0.bn2.act")
    assert block.project_norm == "blocks.6.0.bn3"


def test_the_page_of_networks_is_what_its_record_says():
    path = Path(__file__).parent / "benchmarks" / "networks.py"
    spec = importlib.util.spec_from_file_location("networks", path)
    networks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(networks)
    rows = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert networks.page(rows) == path.with_suffix(".md").read_text(encoding="utf-8")
    assert rows.keys() == zoo.ZOO.keys()
    assert rows.keys() >= FIXED.keys()
    whole = {name for name, row in rows.items() if row["convolutions"] == row["of_convolutions"]}
    assert rows.keys() - whole <= FIXED.keys()


class Functional(nn.Module):
    """An inverted bottleneck whose activation is a function, which cannot be left out."""

    def __init__(self, activation):
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.project, self.activation = nn.Conv2d(16, 4, 1), activation

    def forward(self, x):
        x = self.activation(self.expand(self.stem(x)))
        return self.project(self.activation(self.depthwise(x)))


@pytest.mark.parametrize(("activation", "reason"), [(torch.relu, ""), (nn.functional.silu, "is a function")])
def test_a_block_says_why_it_cannot_be_fused(activation, reason):
    network = Functional(activation)
    found = blocks_of(network, elastic_network(network, torch.rand(1, 3, 8, 8)))
    (block,) = (block for block in found if block.kind == "ibn")
    assert bool(block.unfusable) == bool(reason)
    assert reason in block.unfusable

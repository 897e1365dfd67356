"""The widths of stem and head are searched like a stage's."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn
from torchvision.models import mobilenet_v2

from lightning_nas import Estimator
from lightning_nas.budget.cost_table import cost_table
from lightning_nas.budget.peak_table import peak_table
from lightning_nas.space import Architecture, SearchSpace
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.spec import HEAD, STEM, DepthMultiplier
from lightning_nas.supernet import derive, sort_channels, space_of, supernet_from
from lightning_nas.supernet.subnet import supernet_with
from lightning_nas.tasks.detector import detector

NETWORKS = {
    "torchvision": lambda: mobilenet_v2(num_classes=5),
    "timm": lambda: timm.create_model("mobilenetv2_100", num_classes=5),
    "detector": lambda: detector(num_classes=2),
}
IMAGE = torch.zeros(1, 3, 64, 64)


def used(network):
    """Return a network whose channels differ in what they say, in evaluation mode."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def outputs(network, images):
    found = network(images)
    return torch.cat([part.detach().flatten() for part in found]) if isinstance(found, list | tuple) else found.detach()


def with_width(space, width, end=STEM):
    """Return the nodes of the source with a narrower stem, or head."""
    node, widths = space.stage_node(end)
    nodes = list(space.reference_encoding)
    nodes[node] = widths.index(width)
    return tuple(nodes)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("width", [16, 24, 32])
def test_subnets_of_each_stem_are_plain_and_compute_what_the_supernet_does(name, width):
    network = supernet_from(used(NETWORKS[name]()), IMAGE, space_of(NETWORKS[name](), IMAGE))
    images = torch.randn(2, 3, 64, 64)
    nodes = with_width(network.supernet.space, width)
    network.supernet.activate(nodes)
    subnet = derive(network, nodes)
    stem = next(module for module in subnet.modules() if isinstance(module, nn.Conv2d))
    assert type(stem) is nn.Conv2d
    assert stem.weight.shape == (width, 3, 3, 3)
    assert not any(type(module).__module__.startswith("lightning_nas.supernet") for module in subnet.modules())
    assert torch.equal(outputs(network, images), outputs(subnet, images))


@pytest.mark.parametrize("name", NETWORKS)
def test_sorting_keeps_the_network_and_what_matters_of_its_stem(name):
    network = used(NETWORKS[name]())
    images = torch.randn(2, 3, 64, 64)
    supernet = supernet_from(network, IMAGE, space_of(network, IMAGE))
    # Silent channels of the stem in front: what a narrow slice would take, were they not sorted.
    first = supernet.supernet.blocks[0].candidate("ds")
    with torch.no_grad():
        first.project.weight[:, :8] *= 1e-3
    expected = outputs(supernet, images)
    handle, maps = supernet.supernet, []
    handle.blocks[0].register_forward_hook(lambda module, inputs, output: maps.append(output.detach()))

    def error():
        for nodes in (with_width(handle.space, 24), handle.space.reference_encoding):
            handle.activate(nodes)
            supernet(images)
        return float((maps[-1] - maps[-2]).abs().mean())

    before = error()
    sort_channels(supernet)
    assert torch.allclose(outputs(supernet, images), expected, rtol=1e-3, atol=1e-4)
    assert error() < 0.1 * before


def test_costs_of_each_stem_are_those_of_its_network():
    space = space_of(detector(num_classes=2), IMAGE, lanes=16)
    assert space.stem_node[1] == (16, 32)
    estimator = Estimator.load("ethos_u85_1024")
    latency, peak = cost_table(space, estimator.predict_ms), peak_table(space)
    for nodes in (with_width(space, 16), space.reference_encoding):
        architecture = space.decode(nodes)
        assert latency.exact(nodes) == pytest.approx(estimator.latency_ms(architecture))
        assert max(peak.parts(nodes)) == estimator.memory(architecture).peak_activation_bytes
    assert latency.exact(with_width(space, 16)) < 0.98 * latency.exact(space.reference_encoding)


def test_spaces_name_the_stem():
    network = mobilenet_v2()
    assert space_of(network, IMAGE).stem_node[1] == (16, 24, 32)
    assert space_of(network, IMAGE, options=SpaceOptions(stem_widths=[8])).stem_node[1] == (8, 32)
    assert space_of(network, IMAGE, options=SpaceOptions(stem_widths=[32])).stem_node == (None, (32,))
    assert space_of(network, IMAGE, options=SpaceOptions(ratios=(1.0,))).stem_node == (None, (32,))
    explicit = [[8], [16], [32], [64], [96], [160], [320]]
    assert space_of(network, IMAGE, options=SpaceOptions(widths=explicit)).stem_node == (None, (32,))
    model = space_of(network, IMAGE, options=SpaceOptions(scope="model"))
    assert model.multipliers[0].stages == (0, 1, 2, 3, 4, 5, 6, STEM, HEAD)
    assert model.stem_node == (0, (16, 24, 32))
    assert [str(m) for m in space_of(network, IMAGE).multipliers][-3:] == ["stage 6", "stem", "head"]
    assert str(model.multipliers[0]) == "stages 0, 1, 2, 3, 4, 5, 6, stem, head"
    for space in (space_of(network, IMAGE), model):
        assert SearchSpace.from_json(space.to_json()) == space
        narrow = space.decode((0,) * len(space.node_sizes))
        assert narrow.stem.width == 16
        assert Architecture.from_json(narrow.to_json()) == narrow
        assert space.encode(narrow) == (0,) * len(space.node_sizes)


def test_wrong_stems_are_named():
    network = mobilenet_v2()
    with pytest.raises(ValueError, match="Width 12 of the stem is not a multiple of the device's 8 lanes"):
        space_of(network, IMAGE, options=SpaceOptions(stem_widths=[12]))
    with pytest.raises(ValueError, match="Width 64 of the stem must be above 0 and at most 32"):
        space_of(network, IMAGE, options=SpaceOptions(stem_widths=[64]))
    with pytest.raises(ValueError, match="scope='stage'"):
        space_of(network, IMAGE, options=SpaceOptions(scope="model", stem_widths=[16]))
    with pytest.raises(ValueError, match="Width 2560 of the head must be above 0 and at most 1280"):
        space_of(network, IMAGE, options=SpaceOptions(head_widths=[2560]))
    with pytest.raises(ValueError, match="Depth multipliers must cover"):
        replace(space_of(network, IMAGE), head=None)
    space = space_of(network, IMAGE, options=SpaceOptions(head_widths=[1280]))
    source = space.decode(space.reference_encoding)
    with pytest.raises(ValueError, match="Widths of stem can be"):
        space.encode(replace(source, stem=replace(source.stem, width=12)))
    with pytest.raises(ValueError, match="Widths of stem must end at"):
        replace(space, multipliers=(*space.multipliers[:-1], DepthMultiplier((STEM,), ((8,), (16,)))))


def test_a_mixture_of_one_stem_is_that_stem():
    network = supernet_from(used(mobilenet_v2(num_classes=5)), IMAGE, space_of(mobilenet_v2(), IMAGE))
    handle, images = network.supernet, torch.randn(2, 3, 64, 64)
    nodes = with_width(handle.space, 16)
    handle.activate(nodes)
    expected = network(images)
    gates = [torch.eye(size)[node] for node, size in zip(nodes, handle.space.node_sizes, strict=True)]
    handle.mix(gates)
    assert torch.allclose(network(images), expected, atol=1e-5)
    half = [*gates]
    half[handle.space.stem_node[0]] = torch.tensor([0.5, 0.0, 0.5], requires_grad=True)
    handle.mix(half)
    network(images).sum().backward()
    assert half[handle.space.stem_node[0]].grad.abs().min() == 0  # the width that was not drawn
    assert half[handle.space.stem_node[0]].grad.abs().max() > 0
    handle.activate(nodes)
    assert torch.equal(network(images), expected)


def test_a_subnet_of_any_ends_can_be_built_again():
    network = mobilenet_v2(num_classes=5)
    space = space_of(network, IMAGE)
    architecture = space.decode(with_width(space, 16))
    odd = replace(architecture, stem=replace(architecture.stem, width=20), head=replace(architecture.head, width=100))
    for wanted in (architecture, odd):
        subnet = derive(supernet_with(mobilenet_v2(num_classes=5), wanted), wanted)
        assert subnet.features[0].out_channels == subnet.features[0][0].out_channels == wanted.stem.width
        assert subnet.last_channel == subnet.features[-1][0].out_channels == wanted.head.width
        assert subnet(IMAGE).shape == (1, 5)


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_heads_of_each_width_are_plain_and_priced(name):
    network = supernet_from(used(NETWORKS[name]()), IMAGE, space_of(NETWORKS[name](), IMAGE))
    handle, images = network.supernet, torch.randn(2, 3, 64, 64)
    estimator = Estimator.load("ethos_u85_1024")
    latency, peak = cost_table(handle.space, estimator.predict_ms), peak_table(handle.space)
    for width in (640, 960, 1280):
        nodes = with_width(handle.space, width, HEAD)
        handle.activate(nodes)
        subnet = derive(network, nodes)
        assert torch.equal(network(images), subnet(images))
        assert [m for m in subnet.modules() if isinstance(m, nn.Linear)][-1].in_features == width
        assert not any(type(module).__module__.startswith("lightning_nas") for module in subnet.modules())
        assert latency.exact(nodes) == pytest.approx(estimator.latency_ms(subnet, IMAGE))
        assert max(peak.parts(nodes)) == estimator.memory(handle.space.decode(nodes)).peak_activation_bytes
        if name == "timm":
            assert subnet.num_features == subnet.head_hidden_size == width
            assert type(subnet.bn2) is type(NETWORKS[name]().bn2)
            assert subnet.forward_features(images).shape[1] == width


def test_sorting_keeps_the_features_that_the_classifier_reads():
    network = used(NETWORKS["torchvision"]())
    with torch.no_grad():
        network.classifier[1].weight[:, :320] *= 1e-4
    images = torch.randn(2, 3, 64, 64)
    expected = outputs(network, images)
    supernet = supernet_from(network, IMAGE, space_of(network, IMAGE))
    sort_channels(supernet)
    assert torch.allclose(outputs(supernet, images), expected, rtol=1e-3, atol=1e-5)
    supernet.supernet.activate(with_width(supernet.supernet.space, 960, HEAD))
    assert torch.allclose(outputs(supernet, images), expected, rtol=1e-2, atol=1e-3)


def test_a_head_that_no_linear_layer_reads_keeps_its_width():
    normed, bare = mobilenet_v2(), mobilenet_v2()
    normed.classifier = nn.Sequential(nn.BatchNorm1d(1280), nn.Linear(1280, 5))
    bare.classifier = nn.Identity()
    for network in (normed.eval(), bare):
        for scope in ("stage", "model"):
            space = space_of(network, IMAGE, options=SpaceOptions(scope=scope))
            assert space.head_node == (None, (1280,))
            assert space.stem_node[0] is not None
        with pytest.raises(ValueError, match="begins with a linear layer; got \\[640\\]"):
            space_of(network, IMAGE, options=SpaceOptions(head_widths=[640]))
        supernet = supernet_from(network, IMAGE)
        assert HEAD not in supernet.supernet.ends
        nodes = (0,) * len(supernet.supernet.space.node_sizes)
        supernet.supernet.activate(nodes)
        assert torch.equal(supernet(IMAGE), derive(supernet, nodes)(IMAGE))

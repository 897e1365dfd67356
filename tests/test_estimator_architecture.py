"""Prices of architectures of spaces: those of the plain networks that they stand for, kinds and widths alike."""

import random
from copy import deepcopy

import pytest
import torch
import zoo
from torch import nn

from lightning_nas.estimator import Estimator, subgraphs
from lightning_nas.estimator import estimator as module
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.liveness import PLAIN
from lightning_nas.graph.narrowing import narrowed
from lightning_nas.graph.trace import trace
from lightning_nas.graph.width_groups import width_groups
from lightning_nas.space import SKIP, SpaceOptions
from lightning_nas.space.read import space_of

OPTIONS = SpaceOptions(kinds=("ibn", "fused", "skip"), kernels=(3, 5))
NETWORKS = (
    *("own/mobilenet", "own/unet", "timm/mobilenetv2_100", "timm/tf_efficientnet_lite0", "torchvision/resnet18"),
    *("torchvision/mobilenet_v3_small", "own/yolo"),
)


class Place:
    """A space around a network, and the plain networks of its members."""

    def __init__(self, name):
        self.network, self.images = zoo.build(name)
        self.groups = width_groups(self.network, self.images)
        self.space = space_of(self.network, self.images, options=OPTIONS, check=False)

    def drawn(self, count=3):
        rng = random.Random(0)
        return [tuple(rng.randrange(size) for size in self.space.node_sizes) for _ in range(count)]

    def plain(self, encoding):
        """Build a member by hand: narrow the network, then put other leaves into its blocks."""
        space = self.space
        pairs = zip(space.network.sizes, space.widths(encoding), strict=True)
        changed = {number: width for number, (size, width) in enumerate(pairs) if width != size}
        network = narrowed(self.network, self.groups, changed)
        for choice, option in zip(space.choices, space.options(encoding), strict=True):
            if option == SKIP:
                network.set_submodule(choice.residual, nn.Identity())
            elif choice.block is not None:
                _put(network, choice.block, option)
        return network


def _put(network, block, option):
    last = network.get_submodule(block.depthwise or block.expand)
    if option.kind == "fused" and block.kind == "ibn":
        network.set_submodule(block.expand, _like(last, network.get_submodule(block.expand), option.kernel, 1))
        for path in filter(None, (block.depthwise, block.norm, block.activation)):
            network.set_submodule(path, nn.Identity())
    elif option.kind == "ibn" and block.kind == "fused":
        norm, activation = block.expand_norm, block.expand_activation
        # Norms of timm apply their activation themselves.
        paths = [norm] if activation.startswith(f"{norm}.") else [norm, activation]
        behind = [network.get_submodule(path) for path in paths]
        hidden = nn.Conv2d(last.out_channels, last.out_channels, 1)
        expand = nn.Conv2d(last.in_channels, last.out_channels, 1, bias=False)
        depthwise = _like(last, hidden, option.kernel, last.out_channels)
        network.set_submodule(block.expand, nn.Sequential(expand, *deepcopy(behind), depthwise))
    elif last.kernel_size != (option.kernel, option.kernel):
        network.set_submodule(block.depthwise or block.expand, _like(last, last, option.kernel, last.groups))


def _like(spatial, sizes, kernel, groups):
    """Return a convolution that does what another one does, of other channels and another kernel."""
    conv = deepcopy(spatial)
    margin = kernel // 2 - spatial.kernel_size[0] // 2
    if type(spatial) is nn.Conv2d:  # timm's that pad as TensorFlow does find out how much themselves
        sides = zip(spatial.padding, spatial.dilation, strict=True)
        conv.padding = tuple(size + margin * dilation for size, dilation in sides)
    conv.in_channels, conv.out_channels, conv.groups = sizes.in_channels, sizes.out_channels, groups
    conv.kernel_size = (kernel, kernel)
    conv.weight = nn.Parameter(torch.zeros(sizes.out_channels, sizes.in_channels // groups, kernel, kernel))
    return conv


@pytest.fixture(scope="module")
def estimator():
    return Estimator.load("ethos_u85_1024", fallback="bytes")


@pytest.fixture(scope="module", params=NETWORKS)
def place(request):
    return Place(request.param)


def test_an_architecture_costs_what_its_network_does(place, estimator):
    for encoding in place.drawn():
        architecture, network = place.space.decode(encoding), place.plain(encoding)
        latency_ms = estimator.latency_ms(architecture)
        assert latency_ms == pytest.approx(estimator.latency_ms(network, place.images), rel=1e-9)
        assert latency_ms == estimator.predict_ms(subgraphs(architecture)).sum()
        assert estimator.macs(architecture) == estimator.macs(network, place.images)
        for options in ({}, {"dtype": "fp16", "layout": PLAIN}):
            assert estimator.memory(architecture, **options) == estimator.memory(network, place.images, **options)
        interval_ms = estimator.latency_interval_ms(network, place.images)
        assert estimator.latency_interval_ms(architecture) == pytest.approx(interval_ms, rel=1e-9)


class Backend:
    """Remembers what it was given."""

    def __init__(self):
        self.given = []

    def measure_network(self, network):
        self.given.append(network)
        return Figures(float(len(self.given)))


def test_what_is_verified_is_the_network_as_it_would_be_traced(monkeypatch, estimator):
    place, backend = Place("timm/tf_efficientnet_lite0"), Backend()
    monkeypatch.setattr(module, "available_backend", lambda device: backend)
    encodings = place.drawn(2)
    architectures = [place.space.decode(encoding) for encoding in encodings]
    assert [estimator.verify_ms(architecture) for architecture in architectures] == [1, 2]
    # With norms, activations and padding folded, as backends run them.
    assert backend.given == [trace(place.plain(encoding), place.images) for encoding in encodings]
    assert [estimator.verify_ms(place.space.decode(encoding)) for encoding in encodings] == [1, 2]
    assert len(backend.given) == 2

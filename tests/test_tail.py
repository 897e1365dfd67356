"""What stands behind the blocks: read from any network, sliced with them, and in every cost."""

import numpy as np
import pytest
import torch
from conftest import small_network
from lightning_nas.space.network import network_of
from lightning_nas.space.tail import Tail, from_block
from torch import nn
from torch.nn import functional
from torchvision.models import MobileNetV2

from lightning_nas import Estimator, derive, space_of, supernet_from
from lightning_nas.budget.peak_table import peak_table
from lightning_nas.budget.tables import cost_tables
from lightning_nas.graph.layer import Layer
from lightning_nas.graph.liveness import BRICKS, live_values
from lightning_nas.graph.network import Operation
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.spec import Architecture, SearchSpace
from lightning_nas.supernet import sort_channels


class Pyramid(nn.Module):
    """Reads three blocks: by 1x1 convolutions, by a depthwise one with norm, and pooled."""

    def __init__(self):
        super().__init__()
        self.backbone = small_network()
        self.backbone.features = self.backbone.features[:-1]
        self.backbone.classifier = nn.Identity()
        self.lateral = nn.Conv2d(16, 16, 1)
        self.depthwise = nn.Sequential(
            nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 16, 1)
        )
        self.gate = nn.Conv2d(24, 16, 1)
        self.out = nn.Conv2d(16, 8, 3, padding=1)

    def maps(self, images):
        found = []
        for block in self.backbone.features:
            images = block(images)
            found.append(images)
        return found[3], found[5]

    def forward(self, images):
        fine, coarse = self.maps(images)
        low = self.depthwise(coarse)
        high = self.lateral(fine) + functional.interpolate(low, scale_factor=2.0, mode="nearest")
        return [self.out(high), self.out(low), self.gate(coarse.mean((2, 3), keepdim=True))]


@pytest.fixture
def pyramid():
    torch.manual_seed(0)
    return Pyramid().eval()


def drawn(space, count=6):
    generator = np.random.default_rng(0)
    return [tuple(int(generator.integers(n)) for n in space.node_sizes) for _ in range(count)]


def test_the_supernet_computes_what_the_network_did_and_its_subnets_are_plain(pyramid, images):
    with torch.no_grad():
        before = pyramid(images)
        network = supernet_from(pyramid, images, space_of(pyramid, images)).eval()
        assert all(torch.equal(a, b) for a, b in zip(before, network(images), strict=True))
        sort_channels(network)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(before, network(images), strict=True))
        for nodes in drawn(network.supernet.space):
            network.supernet.activate(nodes)
            subnet = derive(network, nodes).eval()
            assert all(torch.equal(a, b) for a, b in zip(network(images), subnet(images), strict=True))
            assert not any("elastic" in type(m).__module__ for m in subnet.modules())


def test_the_peak_may_be_anywhere_in_the_tail(pyramid, images):
    # Large images make the finest map of the tail the largest of all that is live.
    pyramid.lateral = nn.Conv2d(16, 256, 1)
    pyramid.depthwise[-1], pyramid.out = nn.Conv2d(24, 256, 1), nn.Conv2d(256, 8, 3, padding=1)
    space = space_of(pyramid, images[:1])
    table = peak_table(space)
    for nodes in drawn(space):
        live = list(live_values(network_of(space.decode(nodes)), BRICKS))
        assert max(table.parts(nodes)) == max(live)
        assert max(live) > live[-1]


def test_what_a_block_reads_and_the_tail_waits_for_is_live_once(pyramid, images):
    # The widest block is the one that reads the finest map of the tail.
    setting = [[1, 8, 1, 1], [4, 16, 2, 2], [16, 24, 2, 2]]
    pyramid.backbone.features = MobileNetV2(inverted_residual_setting=setting).features[:-1]
    space = space_of(pyramid, images[:1], options=SpaceOptions(kinds=("ibn",), expansions=(4, 16)))
    live = list(live_values(network_of(space.decode(space.reference_encoding)), BRICKS))
    assert max(peak_table(space).parts(space.reference_encoding)) == max(live)


@pytest.mark.parametrize("device", ["ethos_u85_1024", "edge_tpu", "ethos_u55_128"])
def test_all_costs_hold_the_tail(pyramid, images, device):
    estimator = Estimator.load(device)
    space = space_of(pyramid, images)
    network = supernet_from(pyramid, images, space)
    tables = cost_tables(space, estimator)
    for nodes in drawn(space):
        architecture, subnet = space.decode(nodes), derive(network, nodes)
        assert space.encode(architecture) == nodes
        latency_ms = estimator.latency_ms(subnet, images)
        assert estimator.latency_ms(architecture) == pytest.approx(latency_ms, rel=1e-9)
        assert tables.latency_ms.exact(nodes) == pytest.approx(latency_ms, rel=1e-9)
        memory = estimator.memory(subnet, images)
        assert estimator.memory(architecture) == memory
        assert tables.parameter_bytes.exact(nodes) == memory.parameter_bytes
        assert max(tables.peak_activation_bytes.parts(nodes)) == memory.peak_activation_bytes


def test_spaces_and_architectures_with_a_tail_are_read_back(pyramid, images):
    space = space_of(pyramid, images)
    assert SearchSpace.from_json(space.to_json()) == space
    architecture = space.decode(drawn(space)[0])
    assert Architecture.from_json(architecture.to_json()) == architecture


def test_widths_pass_through_what_has_none_of_its_own():
    tail = Tail(
        (
            Operation(Layer("pool", 8, 8, 32, 32), (from_block(1),)),
            Operation(Layer("conv", 1, 1, 32, 64), (0,)),
            Operation(Layer("concat", 1, 1, 96, 96), (0, 1)),
        )
    )
    resized = [operation.layer for operation in tail.resized([8, 24]).operations]
    assert [layer.in_channels for layer in resized] == [24, 24, 88]
    assert [layer.out_channels for layer in resized] == [24, 64, 88]
    assert tail.sources() == [{1}, {1}, {1}]


class Joined(Pyramid):
    def __init__(self):
        super().__init__()
        self.join = nn.Conv2d(40, 8, 1)

    def forward(self, images):
        _, coarse = self.maps(images)
        return self.join(torch.cat([coarse, self.depthwise(coarse)], dim=1))


class OnTheImage(Pyramid):
    def __init__(self):
        super().__init__()
        self.shortcut = nn.Conv2d(3, 8, 1)

    def forward(self, images):
        high, _, _ = super().forward(images)
        return high, self.shortcut(images)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Joined, "Module '' runs 'concat' on channels whose number is searched"),
        (OnTheImage, "Module 'shortcut' reads what is no output of a block"),
    ],
)
def test_a_tail_that_cannot_follow_is_named(images, kind, message):
    network = kind()
    before = [name for name, _ in network.named_modules()]
    with pytest.raises(ValueError, match=message):
        supernet_from(network, images)
    assert [name for name, _ in network.named_modules()] == before

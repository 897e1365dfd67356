"""Members of spaces as data: the network that is derived of each, the parts that it is priced by, and its memory."""

from dataclasses import replace

import numpy as np
import pytest
import zoo
from spaces import space_around

from lightning_nas.graph.elastic_memory import elastic_steps, live_values_at
from lightning_nas.graph.elastic_parts import elastic_parts
from lightning_nas.graph.fold import folded
from lightning_nas.graph.memory import network_memory
from lightning_nas.graph.trace import trace
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet.convert import supernet_from
from lightning_nas.supernet.derive import derive

# Inverted bottlenecks with and without squeeze-excite, depthwise convolutions in front of an expansion, fused blocks,
# those of ResNet and YOLO, the padding of TensorFlow, concatenations with offsets.
NETWORKS = (
    *("torchvision/mobilenet_v3_small", "torchvision/resnet18", "own/yolo", "timm/mobilenetv4_conv_small"),
    *("timm/mobilenet_edgetpu_v2_xs", "timm/tf_efficientnet_lite0"),
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("torchvision/mobilenet_v2", "own/unet")),
)
OFFERED = SpaceOptions(kinds=("ibn", "fused", "skip"), kernels=(3, 5), scope="group")
NUM_MEMBERS = 12
# Deriving and tracing a network takes most of a second.
NUM_TRACED = 3


@pytest.fixture(scope="module", params=NETWORKS)
def case(request):
    network, images = zoo.build(request.param)
    space = space_around(network, images, 4, OFFERED)
    generator = np.random.default_rng(0)
    rows = np.stack([generator.integers(0, size, NUM_MEMBERS) for size in space.node_sizes], axis=1)
    return network, images, space, [tuple(map(int, row)) for row in rows]


def structures_of(space, encoding):
    """Return for each block the number of its kind and kernel."""
    return [choice.structure_of(option) for choice, option in zip(space.choices, space.options(encoding), strict=True)]


def value(dependence, chosen):
    return dependence.values[tuple(chosen[choice] for choice in dependence.choices)]


def plain(network):
    """Return what a network runs, whatever its modules are called."""
    network = folded(network)
    return network.image_shape, [replace(op, path="") for op in network.operations], network.outputs


def test_parts_and_memory_are_those_of_each_member(case):
    _, _, space, encodings = case
    parts, steps = elastic_parts(space.structures), elastic_steps(space.structures)
    for encoding in encodings:
        member, widths, chosen = space.decode(encoding), space.widths(encoding), structures_of(space, encoding)
        run = [part for part in parts if value(part.dependence, chosen) is not None]
        assert [part.at(widths) for part in run] == list(member.subgraphs)
        live = [blocks for step in steps if (blocks := value(step.dependence, chosen)) is not None]
        peak = max(live_values_at(blocks, widths) for blocks in live)
        assert peak == network_memory(folded(member.network)).peak_activation_bytes


def test_each_member_is_what_tracing_its_derived_network_gives(case):
    network, images, space, encodings = case
    supernet = supernet_from(network, images, space)
    traced = encodings[:NUM_TRACED]
    offered = {(option.kind, option.kernel) for choice in space.choices for option in choice.options}
    assert offered == {(option.kind, option.kernel) for encoding in traced for option in space.options(encoding)}
    for encoding in traced:
        derived = derive(supernet, encoding).eval()
        assert plain(space.decode(encoding).network) == plain(trace(derived, images, "bytes", fold=False))

"""Supernets of any network: what runs, what learns, what is derived, and what they are checked for."""

import copy

import pytest
import torch
import zoo
from torch import nn
from torchvision.models import MobileNetV2, mobilenet_v2, resnet18

from lightning_nas.graph.tensors import tensors_in
from lightning_nas.space.block_option import BlockOption
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.read import space_of
from lightning_nas.supernet.convert import supernet_from
from lightning_nas.supernet.derive import derive, recalibrate
from lightning_nas.supernet.importance import sort_channels
from lightning_nas.supernet.subnet import architecture_of, supernet_with
from lightning_nas.supernet.supernet import find_supernet

SETTING = [[1, 8, 1, 1], [4, 16, 2, 2], [4, 24, 2, 2]]
NETWORKS = (
    *("torchvision/mobilenet_v2", "torchvision/mobilenet_v3_small", "torchvision/resnet18"),
    *("timm/mobilenetv4_conv_small", "timm/tf_efficientnet_lite0", "own/yolo", "own/vgg"),
)
OPTIONS = SpaceOptions(kinds=("ibn", "fused", "skip"), kernels=(3, 5))


def small_network():
    torch.manual_seed(0)
    return MobileNetV2(num_classes=4, inverted_residual_setting=SETTING, dropout=0.0)


def converted(network, images, options=OPTIONS):
    return supernet_from(network, images, space_of(network, images, options=options, check=False))


@pytest.fixture
def images():
    return torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def supernet(images):
    return converted(small_network(), images[:1])


def draws(space, count):
    generator = torch.Generator().manual_seed(0)
    return [tuple(int(torch.randint(n, (), generator=generator)) for n in space.node_sizes) for _ in range(count)]


@pytest.mark.parametrize("name", NETWORKS)
def test_members_run_as_the_plain_networks_that_are_derived(name):
    network, images = zoo.build(name)
    expected = [tensor.detach().clone() for tensor in tensors_in(network(images))]
    keys, classes = list(network.state_dict()), [type(m) for m in network.modules()]
    supernet = converted(network, images)
    handle, space = supernet.supernet, supernet.supernet.space
    assert supernet is network
    assert all(torch.equal(a, b) for a, b in zip(expected, tensors_in(supernet(images)), strict=True))
    for number, nodes in enumerate([space.reference_encoding, *draws(space, 2)]):
        handle.activate(nodes)
        derived = derive(supernet, nodes).eval()
        pairs = zip(tensors_in(supernet(images)), tensors_in(derived(images)), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert architecture_of(derived, handle).network == space.decode(nodes).network
        if number == 0:
            assert list(derived.state_dict()) == keys
            assert [type(m) for m in derived.modules()] == classes
    handle.activate(space.reference_encoding)
    sort_channels(supernet)
    for one, other in zip(expected, tensors_in(supernet(images)), strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def test_unsampled_options_get_no_gradient(supernet, images):
    handle, space = supernet.supernet, supernet.supernet.space
    number = next(n for n, c in enumerate(space.choices) if BlockOption("fused", 2, 3) in c.options and c.path)
    choice = space.choices[number]
    nodes = list(space.reference_encoding)
    nodes[len(space.multipliers) + number] = choice.options.index(BlockOption("fused", 2, 3))
    handle.activate(nodes)
    supernet.train()(images).sum().backward()
    expand = supernet.get_submodule(choice.block.expand)
    assert supernet.get_submodule(choice.block.depthwise)._parameters["weight"].grad is None
    assert expand._parameters["weight"].grad is None
    grad = expand.fused._parameters["weight"].grad
    hidden = 2 * grad.shape[1]
    assert grad[:hidden, :, 1:-1, 1:-1].abs().sum() > 0
    assert grad[hidden:].abs().sum() == 0
    border = grad.clone()
    border[:, :, 1:-1, 1:-1] = 0
    assert border.abs().sum() == 0  # the 5x5 weight beyond the sampled 3x3


def test_a_skipped_block_gives_what_it_gets(supernet, images):
    handle, space = supernet.supernet, supernet.supernet.space
    number, choice = next((n, c) for n, c in enumerate(space.choices) if c.residual)
    nodes = list(space.reference_encoding)
    nodes[len(space.multipliers) + number] = next(n for n, o in enumerate(choice.options) if o.kind == "skip")
    handle.activate(nodes)
    inputs = torch.rand(1, 16, 4, 4)
    assert torch.equal(supernet.get_submodule(choice.residual)(inputs), inputs)
    derived = derive(supernet, nodes)
    assert isinstance(derived.get_submodule(choice.residual), nn.Identity)
    assert derived(images).shape == (8, 4)


def test_recalibration_averages_over_the_batches(supernet, images):
    derived = derive(supernet, supernet.supernet.space.reference_encoding)
    batches = list(images.split(4))
    recalibrate(derived, derived, batches)
    norm = derived.features[0][1]
    seen = torch.stack([derived.features[0][0](batch).mean((0, 2, 3)) for batch in batches]).mean(0)
    assert torch.allclose(norm.running_mean, seen, atol=1e-5)
    assert norm.momentum == 0.1
    with pytest.raises(ValueError, match="no batch"):
        recalibrate(derived, derived, [])


def test_batch_statistics_leave_running_ones_alone(supernet, images):
    before = copy.deepcopy(supernet.state_dict())
    supernet.supernet.use_batch_statistics(True)
    supernet.train()(images)
    for name, value in supernet.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_smallest_supernet_around_an_architecture_derives_it(supernet, images):
    space = supernet.supernet.space
    for nodes in draws(space, 3):
        chosen = space.decode(nodes)
        again = supernet_with(small_network(), chosen)
        assert again.supernet.space.num_architectures <= space.num_architectures
        derived = derive(again, chosen)
        assert architecture_of(derived, again.supernet).network == chosen.network
        shapes = {name: value.shape for name, value in derive(supernet, nodes).state_dict().items()}
        assert {name: value.shape for name, value in derived.state_dict().items()} == shapes


def test_any_widths_are_derived_and_others_are_refused(supernet, images):
    space = supernet.supernet.space
    widths = list(space.network.sizes)
    widths[space.multipliers[0].groups[0]] -= 3
    options = space.options(space.reference_encoding)
    odd = space.member(space.with_hidden(widths, options), options)
    derived = derive(supernet, odd)
    assert derived(images).shape == (8, 4)
    with pytest.raises(ValueError, match="can be"):
        architecture_of(derived, supernet.supernet)
    with pytest.raises(ValueError, match="encoding"):
        derive(supernet, (0,))


def test_input_and_space_must_fit(images):
    network = small_network()
    space = space_of(network, images[:1], check=False)
    with pytest.raises(ValueError, match="images of"):
        supernet_from(network, torch.rand(1, 3, 64, 64), space)
    with pytest.raises(ValueError, match=r"`space` is of another network: .* this MobileNetV2 has"):
        supernet_from(mobilenet_v2(), torch.rand(1, 3, 32, 32), space)
    with pytest.raises(ValueError, match=r"`space` is of another network"):
        supernet_from(resnet18(), torch.rand(1, 3, 32, 32), space)
    with pytest.raises(ValueError, match="exactly one supernet"):
        find_supernet(network)


def test_what_timm_says_of_its_widths_follows(images):
    import timm

    images = torch.rand(1, 3, 64, 64)
    network = timm.create_model("mobilenetv2_035", num_classes=4).eval()
    supernet = converted(network, images)
    derived = derive(supernet, (0,) * len(supernet.supernet.space.node_sizes))
    features = derived.forward_features(images)
    assert derived.num_features == derived.classifier.in_features == features.shape[1]
    assert derived.feature_info[-1]["num_chs"] < network.feature_info[-1]["num_chs"]

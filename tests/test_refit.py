import copy

import pytest
import timm
import torch
import zoo
from torch import nn
from torchvision.models import mobilenet_v2

from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import derive, recalibrate, refit, sort_channels, space_of, supernet_from

SHALLOW = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 1]]
NETWORKS = {
    "torchvision": lambda: mobilenet_v2(num_classes=4, inverted_residual_setting=SHALLOW),
    "timm": lambda: timm.create_model("mobilenetv2_050", num_classes=4),
}


@pytest.fixture(params=NETWORKS)
def setting(request):
    """A supernet of a network whose norms have seen the images, and the images."""
    torch.manual_seed(0)
    images = torch.randn(32, 3, 64, 64)
    network = NETWORKS[request.param]()
    recalibrate(network.eval(), network, [images])
    supernet = supernet_from(network, images[:2], space_of(network, images[:2], options=SpaceOptions(kernels=(3, 5))))
    sort_channels(supernet)
    return supernet, images


def nodes_of(space, pick):
    """Return full width and, in each choice, the option that `pick` likes best."""
    full = space.reference_encoding[: len(space.multipliers)]
    return (*full, *(max(range(len(c.options)), key=lambda i, c=c: pick(c.options[i])) for c in space.choices))


def features(network, images):
    body = getattr(network, "forward_features", None) or network.features
    with torch.no_grad():
        return body(images)


def relative_error(network, teacher, images):
    given = features(network, images)
    wanted = features(teacher, images)[:, : given.shape[1]]  # the head may be narrower, too
    return float((given - wanted).square().mean() / wanted.var())


def refitted(supernet, nodes, images):
    teacher = derive(supernet, supernet.supernet.space.reference_encoding)
    subnet = derive(supernet, nodes)
    recalibrate(subnet, subnet, [images])
    before = relative_error(subnet, teacher, images)
    refit(subnet, teacher, images)
    return before, relative_error(subnet, teacher, images)


def test_the_whole_network_stays_what_it_is(setting):
    supernet, images = setting
    before, after = refitted(supernet, supernet.supernet.space.reference_encoding, images)
    assert before < 0.01
    assert after < 0.05


@pytest.mark.parametrize(
    "pick",
    [
        lambda option: (option.kind != "fused", -option.expansion, -option.kernel),
        lambda option: (option.kind == "fused", option.expansion, -option.kernel),
        lambda option: (option.kind == "fused", option.expansion == 3, option.kernel),
    ],
    ids=["narrow", "fused", "fused, narrow, 5x5"],
)
def test_refitting_brings_a_subnet_nearer_to_its_teacher(setting, pick):
    supernet, images = setting
    before, after = refitted(supernet, nodes_of(supernet.supernet.space, pick), images)
    assert after < 0.9 * before


def test_narrow_stages_imitate_the_leading_channels(setting):
    supernet, images = setting
    space = supernet.supernet.space
    nodes = (*[0] * len(space.multipliers), *space.reference_encoding[len(space.multipliers) :])
    before, after = refitted(supernet, nodes, images)
    assert after < before


def test_without_activations_a_fused_block_becomes_what_the_ibn_was():
    torch.manual_seed(0)
    images = torch.randn(16, 3, 32, 32)
    network = mobilenet_v2(num_classes=4, inverted_residual_setting=[[6, 16, 1, 1]])
    for unit in network.features[1].conv[:2]:
        unit[2] = nn.Identity()
    recalibrate(network.eval(), network, [images])
    supernet = supernet_from(network, images)
    space = supernet.supernet.space
    teacher = derive(supernet, space.reference_encoding)
    subnet = derive(supernet, nodes_of(space, lambda option: (option.kind == "fused", option.expansion)))
    refit(subnet, teacher, images)
    inner = (..., slice(1, -1), slice(1, -1))  # at the border the depthwise convolution pads behind expand's shift
    wanted = teacher.features[:2](images)[inner]
    assert (subnet.features[:2](images)[inner] - wanted).square().mean() < 0.02 * wanted.var()


def test_nothing_else_changes(setting):
    supernet, images = setting
    space = supernet.supernet.space
    teacher, subnet = derive(supernet, space.reference_encoding), derive(supernet, [0] * len(space.node_sizes))
    kept = copy.deepcopy(teacher.state_dict())
    subnet.train()
    refit(subnet, teacher, images)
    assert all(torch.equal(value, kept[name]) for name, value in teacher.state_dict().items())
    assert all(module.training for module in subnet.modules())
    assert all(m.momentum == 0.1 for m in subnet.modules() if isinstance(m, nn.BatchNorm2d))
    assert not any(m._forward_hooks or m._forward_pre_hooks for net in (subnet, teacher) for m in net.modules())


def test_of_another_network():
    shallow = NETWORKS["torchvision"]
    with pytest.raises(ValueError, match=r"same blocks; `subnet` has one of another stride at 'features\.4\.conv\.2'"):
        refit(mobilenet_v2(), shallow(), torch.zeros(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"must have the same blocks; `subnet` has none at 'features\.1\.conv\.1'"):
        refit(nn.Flatten(), mobilenet_v2(), torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize("name", ["own/unet", "timm/mobilenetv4_conv_small"])
def test_blocks_that_share_a_convolution_are_refitted_in_any_form(name):
    """The last convolution of one block is the first of the next one, and becomes another with its kind."""
    network, example = zoo.build(name)
    images = torch.nn.functional.interpolate(torch.randn(4, 3, 8, 8), size=example.shape[-1], mode="bilinear")
    space = space_of(
        network.eval(), images[:1], options=SpaceOptions(kinds=("ibn", "fused", "skip"), ratios=(0.5, 1.0))
    )
    supernet = supernet_from(network, images[:1], space)
    sort_channels(supernet)
    teacher = derive(supernet, space.reference_encoding)
    for kind in ("ibn", "fused"):
        rows = [[option.kind == kind for option in choice.options] for choice in space.choices]
        widths = space.reference_encoding[: len(space.multipliers)]
        subnet = derive(supernet, (*widths, *(max(range(len(row)), key=row.__getitem__) for row in rows)))
        refit(subnet, teacher, images)
        with torch.no_grad():
            assert all(torch.isfinite(found).all() for found in zoo.tensors(subnet.eval()(images)))

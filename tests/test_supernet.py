import copy

import pytest
import timm
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18

from lightning_nas.space import BlockOption, Choice, to_timm
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import (
    ChoiceBlock,
    derive,
    find_supernet,
    recalibrate,
    sort_channels,
    space_of,
    supernet_from,
)
from lightning_nas.supernet.stock import stock_network

NETWORKS = {
    "mobilenet_v2": mobilenet_v2,
    "mobilenetv2_050": lambda: timm.create_model("mobilenetv2_050"),
    "mobilenetv2_110d": lambda: timm.create_model("mobilenetv2_110d"),
    "efficientnet_lite0": lambda: timm.create_model("efficientnet_lite0", drop_path_rate=0.1),
    # The first block adds its input, the stem's output, to what it gives.
    "added stem": lambda: mobilenet_v2(inverted_residual_setting=[[1, 32, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]),
    "added stem, expanded": lambda: mobilenet_v2(inverted_residual_setting=[[6, 32, 2, 1], [6, 24, 2, 2]]),
}


def used(network):
    """Return `network` with running statistics that say something, in evaluation mode."""
    for _ in range(2):
        network.train()(torch.randn(2, 3, 64, 64))
    return network.eval()


def draws(space, count=4):
    generator = torch.Generator().manual_seed(0)
    return [[int(torch.randint(n, (), generator=generator)) for n in space.node_sizes] for _ in range(count)]


@pytest.mark.parametrize("name", NETWORKS)
def test_widest_ibn_subnet_computes_what_the_network_did(name):
    torch.manual_seed(0)
    network = used(NETWORKS[name]())
    x = torch.randn(2, 3, 64, 64)
    expected = network(x)
    converted = supernet_from(network, x, space_of(network, x, options=SpaceOptions(kernels=(3, 5, 7))))
    assert converted is network
    assert (converted(x) - expected).abs().max() == 0
    sort_channels(converted)
    assert torch.allclose(converted(x), expected, rtol=1e-4, atol=1e-5)


def test_a_stem_of_one_width_that_is_added_to_the_first_block_sorts_neither():
    torch.manual_seed(0)
    settings = {"width_mult": 0.5, "inverted_residual_setting": [[1, 32, 1, 1], [6, 48, 2, 2]]}
    network = used(mobilenet_v2(**settings))
    x = torch.randn(2, 3, 64, 64)
    expected = network(x)
    before = network.features[0][0].weight.clone()
    supernet = supernet_from(network, x, space_of(network, x, lanes=16))
    assert supernet.supernet.space.stem_node[0] is None
    sort_channels(supernet)
    assert torch.equal(supernet.features[0][0].weight, before)
    assert torch.allclose(supernet(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_derived_is_plain_and_computes_what_the_supernet_does(name):
    torch.manual_seed(0)
    network = used(NETWORKS[name]())
    keys = list(network.state_dict())
    x = torch.randn(2, 3, 64, 64)
    supernet = supernet_from(network, x, space_of(network, x, options=SpaceOptions(kernels=(3, 5))))
    space = supernet.supernet.space
    assert list(derive(supernet, space.reference_encoding).state_dict()) == keys
    for nodes in draws(space):
        supernet.supernet.activate(nodes)
        derived = derive(supernet, nodes)
        assert type(derived) is type(supernet)
        assert not [m for m in derived.modules() if type(m).__module__.startswith("lightning_nas")]
        assert (derived(x) - supernet(x)).abs().max() == 0


def test_timm_rebuilds_the_derived_network_from_its_strings():
    from timm.models import EfficientNet
    from timm.models._efficientnet_builder import decode_arch_def

    network = used(timm.create_model("mobilenetv2_050"))
    x = torch.randn(1, 3, 64, 64)
    supernet = supernet_from(network, x)
    for nodes in draws(supernet.supernet.space):
        chosen = supernet.supernet.space.decode(nodes)
        derived = derive(supernet, nodes)
        rebuilt = EfficientNet(
            block_args=decode_arch_def(to_timm(chosen.stages)),
            stem_size=chosen.stem.width,
            num_features=chosen.head.width,
            act_layer=nn.ReLU6,
            round_chs_fn=lambda channels: channels,
        )
        rebuilt.load_state_dict(derived.state_dict())
        assert (rebuilt.eval()(x) - derived(x)).abs().max() == 0
        assert [info["num_chs"] for info in derived.feature_info] == [info["num_chs"] for info in rebuilt.feature_info]


def test_unsampled_options_get_no_gradient(supernet, images):
    handle = supernet.supernet
    space = handle.space
    number = next(i for i, choice in enumerate(space.choices) if BlockOption("fused", 2, 3) in choice.options)
    options = space.choices[number].options
    chosen = options.index(BlockOption("fused", 2, 3))
    nodes = list(space.reference_encoding)
    nodes[len(space.multipliers) + number] = chosen
    handle.activate(nodes)
    supernet.train()(images).sum().backward()
    block = handle.blocks[number]
    assert all(p.grad is None for p in block.candidates["ibn"].parameters())
    grad = block.candidates["fused"].expand.weight.grad
    hidden = 2 * grad.shape[1]
    assert grad[:hidden, :, 1:-1, 1:-1].abs().sum() > 0
    assert grad[hidden:].abs().sum() == 0
    border = grad.clone()
    border[:, :, 1:-1, 1:-1] = 0
    assert border.abs().sum() == 0  # the 5x5 weight beyond the sampled 3x3


def test_fused_starts_from_the_composition():
    choice = Choice(1, (BlockOption("ibn", 6, 3), BlockOption("fused", 6, 3)))
    from lightning_nas.supernet.source import SourceBlock
    from torchvision.models.mobilenetv2 import InvertedResidual

    from lightning_nas.supernet.convert import _choice_block

    torch.manual_seed(0)
    plain = InvertedResidual(8, 8, 1, 6)
    for _ in range(20):
        plain.train()(torch.randn(16, 8, 8, 8))
    plain.eval()
    identity = nn.Identity()
    units = list(plain.conv)
    parts = ((units[0][0], units[0][1]), (units[1][0], units[1][1]), (units[2], units[3]))
    block = _choice_block(SourceBlock("b", choice.options[0], 1, parts, identity, None), choice).eval()
    x = torch.randn(2, 8, 9, 9)
    outputs = []
    for option in choice.options:
        block.active = option
        outputs.append(block(x))
    # Without activation the composition is exact, except at the border, where the depthwise convolution pads expand's
    # shifted output with zeros.
    assert torch.allclose(outputs[0][..., 1:-1, 1:-1], outputs[1][..., 1:-1, 1:-1], rtol=1e-3, atol=1e-4)


def test_shapes_under_residuals_and_strides(supernet, images):
    space = supernet.supernet.space
    for nodes in draws(space, 30):
        supernet.supernet.activate(nodes)
        assert supernet(images).shape == (8, 4)
    block = ChoiceBlock(Choice(1, (BlockOption("ibn", 2, 3),)), 16, 16, nn.ReLU())
    x = torch.randn(1, 8, 5, 5)
    block.out_width = 16
    assert block(x).shape == (1, 16, 5, 5)  # no residual between 8 and 16 channels
    block.out_width = 8
    residual = block(x) - block.candidates["ibn"](x, block.active, 8)
    assert torch.allclose(residual, x, atol=1e-6)


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
    supernet.features[1:].train()(supernet.features[0].eval()(images))
    for name, value in supernet.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda: resnet18(), r"No supported network was found in ResNet\. Supported are torchvision's"),
        (
            lambda: nn.ModuleDict({"a": mobilenet_v2(), "b": mobilenet_v2()}),
            "ModuleDict holds 2 supported networks, at 'a', 'b'; one can be searched",
        ),
        (lambda: nn.Linear(3, 3), "No supported network was found in Linear"),
        (lambda: timm.create_model("efficientnet_b0"), "squeeze-and-excitation"),
        (lambda: timm.create_model("tf_efficientnet_lite0"), "symmetric padding"),
        (lambda: timm.create_model("mixnet_s"), "MixedConv2d"),
    ],
)
def test_other_networks_get_one_clear_error(network, message):
    with pytest.raises(ValueError, match=message):
        supernet_from(network(), torch.rand(1, 3, 64, 64))


def test_input_and_space_must_fit(network, images):
    space = space_of(network, images[:1])
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        supernet_from(network, images[0])
    with pytest.raises(ValueError, match="cannot run"):
        supernet_from(network, torch.rand(1, 5, 32, 32))
    with pytest.raises(ValueError, match="images of"):
        supernet_from(network, torch.rand(1, 3, 64, 64), space)
    with pytest.raises(ValueError, match="describes blocks"):
        supernet_from(mobilenet_v2(), torch.rand(1, 3, 32, 32), space)
    with pytest.raises(ValueError, match="exactly one supernet"):
        find_supernet(network)


def test_stock_networks(tmp_path):
    network = stock_network("mobilenetv2_050", 7)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    again = stock_network("mobilenetv2_050", 3, tmp_path / "w.pth")
    assert torch.equal(again.conv_stem.weight, network.conv_stem.weight)
    with pytest.raises(ValueError, match="not of a EfficientNet"):
        stock_network("mobilenetv2_100", 3, tmp_path / "w.pth")
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        stock_network("mobilenetv2_050", 3, tmp_path / "none.pth")
    with pytest.raises(ValueError, match="Unknown network 'mobilenetv9'"):
        stock_network("mobilenetv9", 3)

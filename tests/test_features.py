"""Feature maps of stock networks: the blocks that are read are those that the network runs."""

import pytest
import timm
import torch
from torch import nn
from torchvision.models import MobileNetV2, mobilenet_v2

from lightning_nas.supernet.features import block_strides, features, headless, limit_stride, strides_to_taps, tap_widths

MAKERS = {
    "mobilenet_v2": lambda: mobilenet_v2(width_mult=0.25),
    "mobilenetv2_035": lambda: timm.create_model("mobilenetv2_035"),
    "efficientnet_lite0": lambda: timm.create_model("efficientnet_lite0"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_taps_are_the_last_blocks_of_each_stride(name: str) -> None:
    backbone = MAKERS[name]().eval()
    strides = [2, 4, 8, 16, 32]
    taps = strides_to_taps(backbone, strides)
    widths = tap_widths(backbone, taps)
    images = torch.rand(1, 3, 64, 96)
    for stride, width, found in zip(strides, widths, features(backbone, images, taps), strict=True):
        assert found.shape == (1, width, 64 // stride, 96 // stride)
    units = backbone.features if name == "mobilenet_v2" else backbone.blocks
    with torch.no_grad():
        for tap in taps[:-1]:
            following = features(backbone, images, [tap, tap + 1])
            assert following[0].shape[-1] == 2 * following[1].shape[-1]
            assert torch.equal(units[tap + 1](following[0]), following[1])


@pytest.mark.parametrize("name", MAKERS)
def test_without_its_head_a_network_gives_the_same_maps(name: str) -> None:
    network = MAKERS[name]().eval()
    taps = strides_to_taps(network, [8, 32])
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = features(network, images, taps)
        backbone = headless(network)
        after = features(backbone, images, taps)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert strides_to_taps(headless(backbone), [8, 32]) == taps
    assert not [m for m in backbone.modules() if isinstance(m, nn.Linear)]
    widest = max(m.out_channels for m in backbone.modules() if isinstance(m, nn.Conv2d))
    assert widest < 1280


def test_timm_and_the_taps_agree_on_the_last_map() -> None:
    network = timm.create_model("mobilenetv2_035", num_classes=0).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        (last,) = features(network, images, strides_to_taps(network, [32]))
        assert torch.equal(network.bn2(network.conv_head(last)), network.forward_features(images))


@pytest.mark.parametrize("name", MAKERS)
def test_limited_strides_keep_the_maps_before(name: str) -> None:
    backbone = headless(MAKERS[name]().eval())
    images = torch.rand(1, 3, 64, 64)
    taps = strides_to_taps(backbone, [8, 32])
    names = [path for path, m in backbone.named_modules() if getattr(m, "use_res_connect", getattr(m, "has_skip", 0))]
    with torch.no_grad():
        before = features(backbone, images, taps)
        after = features(limit_stride(backbone, 16), images, taps)
    assert torch.equal(before[0], after[0])
    assert after[1].shape[-2:] == (4, 4)
    assert max(block_strides(backbone)) == 16
    skips = [path for path, m in backbone.named_modules() if getattr(m, "use_res_connect", getattr(m, "has_skip", 0))]
    assert skips == names


def test_a_block_that_loses_its_stride_gains_the_residual_that_its_widths_allow() -> None:
    setting = [[1, 8, 1, 1], [4, 16, 2, 2], [4, 16, 2, 2]]
    backbone = limit_stride(MobileNetV2(inverted_residual_setting=setting), 4)
    assert [block.use_res_connect for block in backbone.features[1:-1]] == [False, False, True, True, True]
    assert block_strides(backbone) == {2: 1, 4: 5}


def test_what_cannot_be_read_is_refused() -> None:
    backbone = mobilenet_v2()
    with pytest.raises(ValueError, match=r"`strides` can be 2, 4, 8, 16, 32 for this backbone; got 64"):
        strides_to_taps(backbone, [8, 64])
    for taps in ([], [0], [18]):
        with pytest.raises(ValueError, match=r"blocks 1 to 17; got"):
            features(backbone, torch.rand(1, 3, 32, 32), taps)
    for function in (lambda network: strides_to_taps(network, [8]), headless):
        with pytest.raises(TypeError, match=r"got Linear|; Linear does not"):
            function(nn.Linear(2, 2))

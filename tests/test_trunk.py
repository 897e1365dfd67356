"""The trunk of any classifier: the modules that it runs, under their names, and the maps that they give."""

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from lightning_nas.supernet.features import block_strides, features, headless, limit_stride, strides_to_taps, tap_widths
from lightning_nas.supernet.trunk import trunk_of, units_of
from lightning_nas.tasks.detector import detector

# With the module behind which each network pools, and the channels of its maps of the strides 8 and 32.
LAST = {
    "resnet18": ("layer4", (128, 512)),
    "mobilenet_v3_small": ("features.11", (24, 96)),
    "shufflenet_v2_x0_5": ("stage4", (48, 192)),
    "regnet_x_400mf": ("trunk_output", (64, 400)),
}
TIMM = ("resnet10t", "mobilenetv3_small_050", "mobilenetv4_conv_small_035", "rexnet_100", "regnetx_002")


class Residual(nn.Module):
    """A network whose last module is not the only way to its classes."""

    def __init__(self):
        super().__init__()
        self.stem, self.block = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 1, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, images):
        x = self.stem(images)
        return self.fc((x + self.block(x)).mean((2, 3)))


class Late(nn.Module):
    """A network that runs its modules in another order than it makes them, one of them in place."""

    def __init__(self):
        super().__init__()
        self.pool, self.relu, self.stem = nn.MaxPool2d(2), nn.ReLU(inplace=True), nn.Conv2d(3, 4, 3, 2, 1)
        self.fc = nn.Linear(4, 2)

    def forward(self, images):
        return self.fc(self.pool(self.relu(self.stem(images))).mean((2, 3)))


@pytest.mark.parametrize("name", LAST)
def test_maps_are_those_that_the_network_pools(name):
    last, widths = LAST[name]
    network = getattr(models, name)(weights=None).eval()
    images, seen = torch.rand(1, 3, 64, 64), []
    handle = network.get_submodule(last).register_forward_hook(lambda *call: seen.append(call[-1]))
    names = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        network(images)
        handle.remove()
        backbone = headless(network)
        taps = strides_to_taps(backbone, [8, 32])
        found = features(backbone, images, taps)
    assert torch.equal(found[1], seen[0])
    assert tap_widths(backbone, taps) == tuple(x.shape[1] for x in found) == widths
    assert [x.shape[-1] for x in found] == [8, 2]
    # Names and weights are the network's, without the classifier's.
    assert all(torch.equal(names[key], value) for key, value in backbone.state_dict().items())
    assert not [m for m in backbone.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]


@pytest.mark.parametrize("name", TIMM)
def test_maps_are_those_that_timm_gives(name):
    network = timm.create_model(name).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        wanted = network.forward_intermediates(images, intermediates_only=True)
        backbone = headless(network)
        found = features(backbone, images, strides_to_taps(backbone, [4, 8, 16]))
    for x in found:
        assert any(x.shape == other.shape and torch.equal(x, other) for other in wanted)


def test_modules_are_taken_in_the_order_in_which_they_run():
    assert [type(unit).__name__ for unit in units_of(trunk_of(Late()))] == ["Conv2d", "ReLU", "MaxPool2d"]


@pytest.mark.parametrize("network", [Residual(), nn.Sequential(nn.Flatten(), nn.Linear(3 * 256**2, 2))])
def test_what_is_no_chain_is_refused(network):
    with pytest.raises(TypeError, match=f"in a chain, each on what the one before gives; {type(network).__name__} "):
        headless(network)


def test_strides_are_limited_or_refused():
    backbone = headless(models.resnet18(weights=None).eval())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        (before,) = features(backbone, images, strides_to_taps(backbone, [16]))
        limited = limit_stride(backbone, 16)
        assert max(block_strides(limited)) == 16
        after, last = features(limited, images, [9, 11])
    assert torch.equal(before, after)
    assert last.shape == (1, 512, 4, 4)
    with pytest.raises(ValueError, match="cannot be kept at a stride of 16"):
        limit_stride(headless(timm.create_model("convnext_atto")), 16)
    assert block_strides(headless(models.squeezenet1_1())) == {}
    assert max(block_strides(limit_stride(headless(timm.create_model("resnet10t")), 16))) == 16


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_050"])
def test_a_detector_reads_any_backbone(backbone):
    network = detector(2, backbone, "ssdlite", head_options={"extra": 0}).eval()
    images = torch.rand(1, 3, 64, 64)
    shapes = [tuple(found.shape) for found in network(images)]
    assert shapes == [(1, 18, 4, 4), (1, 24, 4, 4), (1, 18, 2, 2), (1, 24, 2, 2)]
    sum(found.sum() for found in network.train()(torch.rand(2, 3, 64, 64))).backward()
    assert all(weight.grad is not None for weight in network.parameters())
    exported = torch.export.export(network.eval(), (images,))
    for one, other in zip(exported.module()(images), network(images), strict=True):
        torch.testing.assert_close(one, other)

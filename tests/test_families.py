"""Every stock family is split whole: as many multiply-accumulates as PyTorch itself counts, at paths that exist."""

import pytest
import timm
import torch
import torchvision
from torch.utils.flop_counter import FlopCounterMode

from lightning_nas.graph.decompose import decompose
from lightning_nas.graph.detector import without_detection

CLASSIFIERS = {
    "mobilenet_v2": 19,
    "mobilenet_v3_small": 96,
    "mnasnet0_5": 19,
    "efficientnet_b0": 179,
    "efficientnet_v2_s": 365,
    "resnet18": 22,
    "resnext50_32x4d": 55,
    "squeezenet1_0": 38,
}
TIMM = {
    "mobilenetv2_050": 19,
    "mobilenetv3_small_050": 97,
    "mnasnet_small": None,
    "tf_efficientnet_b0": 179,
    "efficientnetv2_rw_t": 354,
    "resnet26d": None,
    "mobilenetv4_conv_small_050": None,
}
SEGMENTATION = ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50")
DETECTION = ("ssdlite320_mobilenet_v3_large", "fcos_resnet50_fpn", "retinanet_resnet50_fpn")
BARE = {"weights": None, "weights_backbone": None}


def check(model, size, count=None):
    image = torch.zeros(1, 3, size, size)
    parts = decompose(model.eval(), image)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        without_detection(model)(image)
    assert sum(part.macs for part in parts) * 2 == counter.get_total_flops()
    assert {part.path for part in parts} <= {name for name, _ in model.named_modules()}
    assert count is None or len(parts) == count
    return parts


@pytest.mark.parametrize(("name", "count"), CLASSIFIERS.items())
def test_torchvision_classifiers(name, count):
    check(getattr(torchvision.models, name)(weights=None), 96, count)


@pytest.mark.parametrize(("name", "count"), TIMM.items())
def test_timm_classifiers(name, count):
    check(timm.create_model(name), 96, count)


@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmentation(name):
    parts = check(getattr(torchvision.models.segmentation, name)(**BARE), 96)
    resized = [part for part in parts if part.kind == "resize"]
    assert resized[-1].out_shape == (96, 96, 21)
    assert resized[-1].form.variant == "bilinear"
    assert {part.form.dilation for part in parts if part.kind == "general_conv"} >= {2}


@pytest.mark.parametrize("name", DETECTION)
def test_backbone_and_heads_of_detectors(name):
    model = getattr(torchvision.models.detection, name)(**BARE)
    parts = check(model, 96)
    assert {part.path.split(".")[0] for part in parts} == {"backbone", "head"}


def test_squeeze_and_excitation_is_split_into_its_operators():
    parts = decompose(timm.create_model("efficientnet_b0"), torch.zeros(1, 3, 64, 64))
    block = [part for part in parts if part.path.startswith("blocks.1.1")]
    kinds = [part.kind + (f" {part.form.variant}" if part.form else "") for part in block]
    gate = ["pool", "conv", "activation silu", "conv", "activation sigmoid", "mul broadcast"]
    assert kinds == ["conv", "activation silu", "depthwise", "activation silu", *gate, "conv"]
    assert block[-1].residual
    assert block[0].path == "blocks.1.1.conv_pw"


def test_residual_network_adds_behind_its_convolutions():
    parts = decompose(torchvision.models.resnet18(), torch.zeros(1, 3, 64, 64))
    assert [part.kind for part in parts[:4]] == ["stem", "max_pool", "conv", "conv"]
    assert sum(part.residual for part in parts) == 8
    # The shortcut runs last, so that the sum is chained to it.
    shortcut = next(part for part in parts if part.stride == 2 and part.kernel == 1)
    assert shortcut.residual

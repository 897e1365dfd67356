import pytest
import timm
import torch
import torchvision
from timm.models._efficientnet_blocks import EdgeResidual
from torch import nn

from lightning_nas.estimator.decompose import decompose
from lightning_nas.estimator.subgraph import Subgraph, subgraphs
from lightning_nas.space.spec import Architecture, BlockOption, ConvSpec, FixedBlock, StageArchitecture

MOBILENET = ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
LITE = ((16, 1, 1), (24, 2, 2), (40, 2, 2), (80, 3, 2), (112, 3, 1), (192, 4, 2), (320, 1, 1))


def architecture(stages, kernels=(3,) * 7, fused=(), size=64, num_classes=10, stem=32, head=1280):
    chosen, number = [], 0
    for index, (width, count, stride) in enumerate(stages):
        blocks = []
        for position in range(count):
            kind = "ds" if index == 0 else "fused" if number in fused else "ibn"
            option = BlockOption(kind, 1 if index == 0 else 6, kernels[index])
            blocks.append(FixedBlock(option, 1 if position else stride))
            number += 1
        chosen.append(StageArchitecture(width, tuple(blocks)))
    head_spec = ConvSpec(head, 1, 1) if head else None
    return Architecture((3, size, size), ConvSpec(stem, 3, 2), tuple(chosen), head_spec, num_classes)


def image(size=64, batch=1):
    return torch.zeros(batch, 3, size, size)


@pytest.mark.parametrize("size", [33, 64, 100])
def test_torchvision_mobilenet_equals_its_architecture(size):
    model = torchvision.models.mobilenet_v2(num_classes=10)
    assert decompose(model, image(size)) == subgraphs(architecture(MOBILENET, size=size))


def test_torchvision_with_fused_blocks():
    model = torchvision.models.mobilenet_v2(num_classes=10)
    block = model.features[2]
    block.conv = nn.Sequential(
        nn.Conv2d(16, 96, 3, 2, 1, bias=False),
        nn.BatchNorm2d(96),
        nn.ReLU6(),
        nn.Conv2d(96, 24, 1, bias=False),
        nn.BatchNorm2d(24),
    )
    model.features[3].conv = nn.Sequential(
        nn.Conv2d(24, 144, 3, 1, 1), nn.BatchNorm2d(144), nn.ReLU6(), nn.Conv2d(144, 24, 1), nn.BatchNorm2d(24)
    )
    parts = decompose(model, image())
    assert parts == subgraphs(architecture(MOBILENET, fused=(1, 2)))
    assert [part.path for part in parts[2:4]] == ["features.2.conv", "features.3"]


@pytest.mark.parametrize("multiplier", ["050", "100", "140"])
def test_timm_mobilenet(multiplier):
    model = timm.create_model(f"mobilenetv2_{multiplier}", num_classes=5)
    widths = [
        stage[-1].conv_pwl.out_channels if i else stage[-1].conv_pw.out_channels for i, stage in enumerate(model.blocks)
    ]
    stages = [(width, count, stride) for width, (_, count, stride) in zip(widths, MOBILENET, strict=True)]
    expected = architecture(stages, num_classes=5, stem=model.conv_stem.out_channels, head=model.conv_head.out_channels)
    assert decompose(model, image()) == subgraphs(expected)


def test_timm_lite_with_fused_blocks():
    model = timm.create_model("efficientnet_lite0", num_classes=10)
    model.blocks[1][0] = EdgeResidual(16, 24, 3, 2, exp_ratio=6, act_layer=nn.ReLU6)
    model.blocks[1][1] = EdgeResidual(24, 24, 3, 1, exp_ratio=6, act_layer=nn.ReLU6)
    expected = architecture(LITE, kernels=(3, 3, 5, 3, 5, 5, 3), fused=(1, 2))
    parts = decompose(model, image())
    assert parts == subgraphs(expected)
    assert [part.path for part in parts[:4]] == ["conv_stem", "blocks.0.0", "blocks.1.0", "blocks.1.1"]


def test_features_without_classifier():
    model = torchvision.models.mobilenet_v2().features
    assert decompose(model, image()) == subgraphs(architecture(MOBILENET, num_classes=0))
    features = timm.create_model("mobilenetv2_100", features_only=True)
    assert decompose(features, image()) == subgraphs(architecture(MOBILENET, num_classes=0, head=None))


def test_own_module_with_functional_operators():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.dw, self.pw = (
                nn.Conv2d(1, 8, 3, 2, 1),
                nn.Conv2d(8, 8, 5, 1, 2, groups=8),
                nn.Conv2d(8, 8, 1),
            )
            self.out = nn.Linear(8, 3)

        def forward(self, x):
            x = torch.relu(self.stem(x))
            x = x + self.pw(torch.relu(self.dw(x)))
            return self.out(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))

    assert decompose(Own(), torch.zeros(4, 1, 20, 30)) == [
        Subgraph("stem", 20, 30, 1, 8, 8, 3, 2),
        Subgraph("ds", 10, 15, 8, 8, 8, 5, 1, True),
        Subgraph("classifier", 10, 15, 8, 8, 3),
    ]


def test_leaves_the_model_as_it_was():
    model = torchvision.models.mobilenet_v2()
    model.features[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    decompose(model, image())
    assert model.training
    assert not model.features[0].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.features[0]._forward_hooks


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.MaxPool2d(2), "max_pool2d"),
        (nn.SiLU(), "silu"),
        (nn.Conv2d(8, 8, 3, padding=2, dilation=2), "convolution"),
        (nn.Conv2d(8, 8, 3), "convolution"),
        (nn.Conv2d(8, 8, 3, padding=1, groups=2), "convolution"),
        (nn.ConvTranspose2d(8, 8, 2, 2), "convolution"),
        (nn.Upsample(scale_factor=2), "upsample"),
        (nn.AdaptiveAvgPool2d(1), "pool"),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), "depthwise"),
    ],
)
def test_operator_without_a_model_is_named(layer, name):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ModuleDict({"odd": layer})["odd"])
    with pytest.raises(ValueError, match=rf"Module '1' runs .*{name}"):
        decompose(model, image())


def test_concatenation_and_foreign_addition_are_named():
    class Cat(nn.Module):
        def __init__(self, mix):
            super().__init__()
            self.a, self.b, self.mix = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), mix

        def forward(self, x):
            return self.mix(self.a(x), self.b(x))

    with pytest.raises(ValueError, match="'cat'"):
        decompose(Cat(lambda a, b: torch.cat([a, b])), image())
    with pytest.raises(ValueError, match="'add'"):
        decompose(Cat(torch.add), image())


def test_input_must_be_images():
    with pytest.raises(ValueError, match="NCHW"):
        decompose(nn.Conv2d(3, 8, 1), torch.zeros(3, 32, 32))

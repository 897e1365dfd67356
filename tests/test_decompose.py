import random

import pytest
import timm
import torch
import torchvision
from chains import LITE, MOBILENET, mobilenet
from timm.models._efficientnet_blocks import EdgeResidual
from torch import nn

from lightning_nas.estimator.measure.sampling.chain_networks import sample_chain
from lightning_nas.graph.decompose import decompose, split
from lightning_nas.graph.layer import Form
from lightning_nas.graph.network import chain
from lightning_nas.graph.subgraph import Subgraph


def image(size=64, batch=1):
    return torch.zeros(batch, 3, size, size)


@pytest.mark.parametrize("size", [33, 64, 100])
def test_torchvision_mobilenet_equals_its_chain(size):
    model = torchvision.models.mobilenet_v2(num_classes=10)
    assert decompose(model, image(size)) == mobilenet(size=size)


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
    assert parts == mobilenet(fused=(1, 2))
    assert [part.path for part in parts[2:4]] == ["features.2.conv", "features.3"]


@pytest.mark.parametrize("multiplier", ["050", "100", "140"])
def test_timm_mobilenet(multiplier):
    model = timm.create_model(f"mobilenetv2_{multiplier}", num_classes=5)
    widths = [
        stage[-1].conv_pwl.out_channels if i else stage[-1].conv_pw.out_channels for i, stage in enumerate(model.blocks)
    ]
    stages = [(width, count, stride) for width, (_, count, stride) in zip(widths, MOBILENET, strict=True)]
    expected = mobilenet(stages, num_classes=5, stem=model.conv_stem.out_channels, head=model.conv_head.out_channels)
    assert decompose(model, image()) == expected


def test_timm_lite_with_fused_blocks():
    model = timm.create_model("efficientnet_lite0", num_classes=10)
    model.blocks[1][0] = EdgeResidual(16, 24, 3, 2, exp_ratio=6, act_layer=nn.ReLU6)
    model.blocks[1][1] = EdgeResidual(24, 24, 3, 1, exp_ratio=6, act_layer=nn.ReLU6)
    expected = mobilenet(LITE, kernels=(3, 3, 5, 3, 5, 5, 3), fused=(1, 2))
    parts = decompose(model, image())
    assert parts == expected
    assert [part.path for part in parts[:4]] == ["conv_stem", "blocks.0.0", "blocks.1.0", "blocks.1.1"]


def test_features_without_classifier():
    model = torchvision.models.mobilenet_v2().features
    assert decompose(model, image()) == mobilenet(num_classes=0)
    features = timm.create_model("mobilenetv2_100", features_only=True)
    assert decompose(features, image()) == mobilenet(num_classes=0, head=None)


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


def form(size, **kwargs):
    return Form((size, size), **kwargs)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.MaxPool2d(2), Subgraph("max_pool", 32, 32, 8, 8, 8, form=form(16, window=(2, 2), step=(2, 2)))),
        (nn.AvgPool2d(3, 2, 1), Subgraph("avg_pool", 32, 32, 8, 8, 8, form=form(16, window=(3, 3), step=(2, 2)))),
        (nn.AdaptiveAvgPool2d(8), Subgraph("avg_pool", 32, 32, 8, 8, 8, form=form(8, window=(4, 4), step=(4, 4)))),
        (nn.AdaptiveAvgPool2d(1), Subgraph("pool", 32, 32, 8, 8, 8)),
        (nn.SiLU(), Subgraph("activation", 32, 32, 8, 8, 8, form=form(32, variant="silu"))),
        (
            nn.Conv2d(8, 4, 3, padding=2, dilation=2),
            Subgraph("general_conv", 32, 32, 8, 4, 4, form=form(32, window=(3, 3), dilation=2)),
        ),
        (nn.Conv2d(8, 8, 3), Subgraph("general_conv", 32, 32, 8, 8, 8, form=form(30, window=(3, 3)))),
        (
            nn.Conv2d(8, 8, 3, padding=1, groups=2),
            Subgraph("general_conv", 32, 32, 8, 8, 8, form=form(32, window=(3, 3), groups=2)),
        ),
        (
            nn.Conv2d(8, 4, (1, 3), padding=(0, 1)),
            Subgraph("general_conv", 32, 32, 8, 4, 4, form=form(32, window=(1, 3))),
        ),
        (
            nn.ConvTranspose2d(8, 4, 2, 2),
            Subgraph("transposed_conv", 32, 32, 8, 4, 4, form=form(64, window=(2, 2), step=(2, 2))),
        ),
        (nn.Upsample(scale_factor=2), Subgraph("resize", 32, 32, 8, 8, 8, form=form(64, variant="nearest"))),
        (nn.GroupNorm(2, 8), Subgraph("norm", 32, 32, 8, 8, 8, form=form(32, variant="group_norm"))),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), Subgraph("depthwise", 32, 32, 8, 8, 8, 3)),
        (nn.BatchNorm2d(8), None),
        (nn.ReLU(inplace=True), None),
    ],
)
def test_single_operators(layer, expected):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), layer)
    parts = decompose(model, image(32))
    assert parts[1:] == ([] if expected is None else [expected])
    assert expected is None or parts[1].path == "1"


def test_padding_folds_into_what_reads_it():
    model = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2))
    assert decompose(model, image(32)) == [Subgraph("stem", 32, 32, 3, 8, 8, 3, 2)]


def test_norms_and_activations_that_do_not_fold_are_kept():
    class PreActivation(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm, self.conv = nn.Conv2d(3, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 1, 1)

        def forward(self, x):
            x = self.stem(x)
            return x + self.conv(torch.relu(self.norm(x)))

    parts = decompose(PreActivation(), image(32))
    # The sum needs what the norm would overwrite, so the norm runs on its own.
    assert [(part.kind, part.path) for part in parts] == [("stem", "stem"), ("depthwise", "norm"), ("conv", "conv")]
    assert parts[-1].residual


class Cumulative(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, 2)


def test_operator_without_a_model_is_named_or_priced_by_bytes():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), Cumulative())
    with pytest.raises(ValueError, match=r"Module '1' runs the operator 'cumsum'.*fallback='bytes'"):
        decompose(model, image(32))
    parts = decompose(model, image(32), fallback="bytes")
    assert parts[1] == Subgraph("other", 32, 32, 8, 8, 8, form=form(32, variant="cumsum"))


def test_forward_that_fails_names_size_and_module():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.Flatten(), nn.Linear(8 * 32 * 32, 2))
    assert len(decompose(model, image(32))) == 2
    with pytest.raises(ValueError, match=r"images of shape \(1, 3, 64, 64\) in module '2'"):
        decompose(model, image(64))


def test_network_without_work_is_refused():
    with pytest.raises(ValueError, match="no convolution"):
        decompose(nn.ReLU(), image(32))


def test_concatenation_and_foreign_addition():
    class Two(nn.Module):
        def __init__(self, mix):
            super().__init__()
            self.a, self.b, self.mix = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), mix

        def forward(self, x):
            return self.mix(self.a(x), self.b(x))

    joined = decompose(Two(lambda a, b: torch.cat([a, b], 1)), image(32))
    assert joined[-1] == Subgraph("concat", 32, 32, 16, 16, 16, form=form(32))
    added = decompose(Two(torch.add), image(32))
    assert [part.kind for part in added] == ["stem", "stem", "add"]


def test_input_must_be_images():
    with pytest.raises(ValueError, match="NCHW"):
        decompose(nn.Conv2d(3, 8, 1), torch.zeros(3, 32, 32))


def test_a_chain_is_split_into_what_it_was_made_of():
    rng = random.Random(0)
    for _ in range(20):
        parts = sample_chain(rng)
        assert split(chain(parts)) == parts

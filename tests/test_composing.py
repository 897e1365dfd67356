"""Convolutions as one and as two: exact where no activation stands between."""

import pytest
import torch
from torch import nn

from lightning_nas.supernet.composing import composed, decomposed


def norm_of(channels):
    norm = nn.BatchNorm2d(channels).eval()
    with torch.no_grad():
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(-1.5, 1.5)
        norm.bias.normal_(0, 0.3)
    return norm


def inner(x):
    """Return what padding has no part in: it pads another tensor."""
    return x[:, :, 2:-2, 2:-2]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("has_norms", [False, True])
def test_expand_and_depthwise_are_one_convolution(bias, has_norms):
    expand, depthwise = nn.Conv2d(4, 12, 1, bias=bias), nn.Conv2d(12, 12, 5, padding=2, groups=12, bias=bias)
    norm, norm2 = (norm_of(12), norm_of(12)) if has_norms else (None, None)
    fused, behind = composed(expand, norm, None, depthwise, norm2)
    whole = nn.Sequential(*filter(None, (expand, norm, depthwise, norm2)))
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(
        inner(nn.Sequential(*filter(None, (fused, behind)))(x)), inner(whole(x)), rtol=1e-3, atol=1e-4
    )
    assert (fused.groups, fused.in_channels, fused.padding) == (1, 4, (2, 2))


def test_the_fused_norm_has_the_statistics_of_what_it_normalises():
    """As good as the linear fit of the activation is."""
    expand, depthwise = nn.Conv2d(16, 32, 1, bias=False), nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False)
    norm, norm2, act = nn.BatchNorm2d(32, momentum=None), nn.BatchNorm2d(32, momentum=None), nn.ReLU()
    x = torch.randn(64, 16, 8, 8)
    nn.Sequential(expand, norm, act, depthwise, norm2)(x)
    fused, behind = composed(expand, norm.eval(), act, depthwise, norm2.eval())
    y = inner(behind(fused(x))).detach()
    assert y.mean((0, 2, 3)).abs().mean() < 0.2
    # What the fit leaves out of the activation is missing from the variance.
    assert 0.4 < float(y.std((0, 2, 3)).mean()) < 1.2


@pytest.mark.parametrize("bias", [False, True])
def test_a_filter_that_is_a_product_is_two_convolutions(bias):
    conv, norm = nn.Conv2d(4, 12, 3, stride=2, padding=1, bias=bias), norm_of(12)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(12, 4, 1, 1) * torch.randn(12, 1, 3, 3))
    parts, behind = decomposed(conv, norm, nn.Identity())
    x = torch.randn(2, 4, 17, 17)
    two = nn.Sequential(*parts, behind)(x)
    torch.testing.assert_close(inner(two), inner(norm(conv(x))), rtol=1e-3, atol=1e-3)
    assert (parts[-1].groups, parts[-1].stride, parts[0].kernel_size) == (12, (2, 2), (1, 1))


def test_other_filters_become_the_nearest_product():
    conv = nn.Conv2d(6, 5, 3, padding=1, bias=False)
    parts, _ = decomposed(conv, nn.BatchNorm2d(5, affine=False).eval(), nn.Identity())
    product = (parts[-1].weight * parts[0].weight).flatten(2)
    for found, filter_ in zip(product, conv.weight.flatten(2), strict=True):
        left, singular, right = torch.linalg.svd(filter_)
        nearest = singular[0] * torch.outer(left[:, 0], right[0])
        torch.testing.assert_close(found / found.norm(), nearest / nearest.norm(), rtol=1e-3, atol=1e-4)

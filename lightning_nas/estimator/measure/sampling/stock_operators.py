"""The operators of stock networks, that no search space holds: what a table of operators is measured on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import timm
import torch
from torch import nn
from torchvision.models import squeezenet1_0
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from lightning_nas.estimator.fit.rates import is_operator
from lightning_nas.graph.decompose import decompose
from lightning_nas.graph.layer import Form
from lightning_nas.graph.subgraph import Subgraph

__all__ = ["stock_operators"]

_SIZES = (96, 128, 160, 192, 224, 256)
_CLASSIFIERS = (
    "mobilenetv3_small_050",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "semnasnet_100",
    "tinynet_a",
    "efficientnet_b0",
    "tf_efficientnetv2_b0",
    "tf_efficientnetv2_b2",
    "resnet18",
    "resnet50d",
    "resnext50_32x4d",
)
# Feature pyramids and segmenters enlarge maps of such sizes and widths, by these factors.
_MAPS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64)
_MAP_WIDTHS = (16, 32, 64, 96, 128)
_FACTORS = {"nearest": (2,), "bilinear": (2, 4, 8)}
_MOST_PIXELS = 256 * 256
# Norms of groups have no int8 operator that the compiler takes.
_LEFT_OUT = ("norm", "other")


def stock_operators() -> list[Subgraph]:
    """Return the different operators of stock networks that no search space holds, at several input sizes.

    Those are rare operators, and pools of large maps, as gates of squeeze and excitation begin with.

    Example::

        >>> from lightning_nas.estimator import Device, measure
        >>> device = read_device("ethos_u85_1024.json")  # doctest: +SKIP
        >>> measure(device, stock_operators(), "ethos_u85_1024_operators.csv")  # doctest: +SKIP
    """
    found: dict[Subgraph, None] = {}
    for model in _models():
        for size in _SIZES:
            parts = decompose(model, torch.zeros(1, 3, size, size))
            found.update({part: None for part in parts if _is_wanted(part)})
    return [*found, *(part for part in _enlargements() if part not in found)]


def _is_wanted(part: Subgraph) -> bool:
    return (is_operator(part) and part.kind not in _LEFT_OUT) or part.kind == "pool"


def _enlargements() -> Iterator[Subgraph]:
    for variant, factors in _FACTORS.items():
        for factor in factors:
            for size, width in itertools.product(_MAPS, _MAP_WIDTHS):
                # Every other size is half as high again as wide, as images of cameras are.
                height, across = size, size if size % 4 else 3 * size // 4
                if height * across * factor**2 <= _MOST_PIXELS:
                    form = Form((factor * height, factor * across), variant=variant)
                    yield Subgraph("resize", height, across, width, width, width, form=form)


def _models() -> Iterator[nn.Module]:
    for name in _CLASSIFIERS:
        yield timm.create_model(name)
    yield squeezenet1_0(weights=None)
    yield lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)

"""The operators of stock networks, that no search space holds: what a table of operators is measured on."""

from __future__ import annotations

from collections.abc import Iterator

import timm
import torch
from torch import nn
from torchvision.models import squeezenet1_0
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from lightning_nas.estimator.decompose import decompose
from lightning_nas.estimator.rates import is_operator
from lightning_nas.estimator.subgraph import Subgraph

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
# Norms of groups have no int8 operator that the compiler takes.
_LEFT_OUT = ("norm", "other")


def stock_operators() -> list[Subgraph]:
    """Return the different operators of stock networks that no search space holds, at several input sizes.

    Those are rare operators, and pools of large maps, as gates of squeeze and excitation begin with.

    Example::

        >>> from lightning_nas.estimator import Device, measure
        >>> device = Device.load("ethos_u85_1024.json")  # doctest: +SKIP
        >>> measure(device, stock_operators(), "ethos_u85_1024_operators.csv")  # doctest: +SKIP
    """
    found: dict[Subgraph, None] = {}
    for model in _models():
        for size in _SIZES:
            parts = decompose(model, torch.zeros(1, 3, size, size))
            found.update({part: None for part in parts if _is_wanted(part)})
    return list(found)


def _is_wanted(part: Subgraph) -> bool:
    return (is_operator(part) and part.kind not in _LEFT_OUT) or part.kind == "pool"


def _models() -> Iterator[nn.Module]:
    for name in _CLASSIFIERS:
        yield timm.create_model(name)
    yield squeezenet1_0(weights=None)
    yield lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)

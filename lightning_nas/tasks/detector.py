"""Detectors: a stock backbone, and a head that reads some of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_nas.io.numbers import check_number
from lightning_nas.supernet.features import features, headless, strides_to_taps, tap_widths
from lightning_nas.supernet.stock import stock_network
from lightning_nas.tasks.fcos import FCOSHead
from lightning_nas.tasks.ssdlite import SSDLiteHead

__all__ = ["HEADS", "Detector", "detector"]

HEADS: dict[str, tuple[Callable[..., FCOSHead | SSDLiteHead], tuple[int, ...]]] = {
    "fcos": (FCOSHead, (8, 16, 32)),
    "ssdlite": (SSDLiteHead, (16, 32)),
}
"""The heads by name, with the strides of the features that each reads."""


class Detector(nn.Module):
    """Runs a backbone up to its last tap, and the head on what the taps give.

    Args:
        backbone: Network as `features` reads it.
        head: Turns the taps' outputs into maps; it also knows their losses and their boxes.
        taps: Which blocks are read, see `strides_to_taps`.
    """

    def __init__(self, backbone: nn.Module, head: FCOSHead | SSDLiteHead, taps: Sequence[int]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.taps = tuple(taps)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the head's maps for images (N, 3, H, W)."""
        maps: list[Tensor] = self.head(features(self.backbone, images, self.taps))
        return maps


def detector(
    num_classes: int,
    backbone: str = "mobilenet_v2",
    head: str = "fcos",
    weights: str | Path | None = None,
    weights_prefix: str | None = None,
    head_options: Mapping[str, object] | None = None,
    **options: object,
) -> Detector:
    """Return a detector on a stock backbone, in channels-last memory format; `supernet_from` takes all of it.

    Args:
        num_classes: Classes, background not counted.
        backbone: As `stock_network` names it: any that runs its modules in a chain, as `headless` needs it, such as
            ``mobilenet_v2``, ``resnet18`` or ``mobilenetv4_conv_small``.
        head: ``fcos`` (strides 8, 16 and 32) or ``ssdlite`` (16, 32 and coarser).
        weights: Of the backbone: None (random), ``imagenet`` (downloaded), or a file of a state_dict or a Lightning
            checkpoint.
        weights_prefix: Where the backbone stands in the module of the file; by default it is found.
        head_options: Further arguments of the head, such as its ``width``.
        **options: Further arguments of the backbone, such as ``width_mult``.

    Raises:
        ValueError: There is no such head or backbone, or the weights are of another.
        TypeError: A network that runs its modules otherwise than in a chain.
        FileNotFoundError: There is no such file of weights.

    Example::

        >>> network = detector(2, backbone="mobilenetv2_050", head="ssdlite", head_options={"extra": 0})
        >>> [tuple(found.shape) for found in network(torch.rand(1, 3, 64, 64))]
        [(1, 18, 4, 4), (1, 24, 4, 4), (1, 18, 2, 2), (1, 24, 2, 2)]
    """
    if head not in HEADS:
        raise ValueError(f"`head` must be one of {', '.join(HEADS)}; got {head!r}.")
    check_number("num_classes", num_classes, whole=True, least=1)
    network = headless(stock_network(backbone, 1000, weights, weights_prefix, **options))
    make, strides = HEADS[head]
    taps = strides_to_taps(network, strides)
    made = make(tap_widths(network, taps), strides, num_classes, **(head_options or {}))
    return Detector(network, made, taps).to(memory_format=torch.channels_last)

"""`BlockOption`: one way to run a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lightning_nas.io.numbers import check_number

__all__ = ["SKIP", "BlockOption", "Kind"]

Kind = Literal["ibn", "fused", "ds", "basic", "own", "skip"]
"""Kinds of block: ``ibn`` is the inverted bottleneck (1x1 expand, KxK depthwise, 1x1 project; MobileNetV2,
arXiv 1801.04381), ``fused`` the fused inverted bottleneck (KxK expand, 1x1 project; MobileDets, arXiv 2004.14525),
``ds`` the depthwise-separable block (KxK depthwise, 1x1 project), ``basic`` two dense KxK convolutions (ResNet,
arXiv 1512.03385), ``own`` anything else, as the source network has it, and ``skip`` a residual block left out."""

_WITH_HIDDEN = ("ibn", "fused", "basic")


@dataclass(frozen=True, order=True)
class BlockOption:
    """One way to run a block.

    Attributes:
        kind: See `Kind`.
        expansion: Hidden channels over input channels; 1 for kinds without hidden channels of their own.
        kernel: Odd spatial size of the depthwise (IBN, DS) or of the first dense convolution; 1 for ``own`` and
            ``skip``.

    Raises:
        ValueError: A value is not valid.

    Example::

        >>> str(BlockOption("fused", 4, 3)), str(SKIP)
        ('fused e4 k3', 'skip')
    """

    kind: Kind
    expansion: float = 1.0
    kernel: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"`kind` must be one of {', '.join(get_args(Kind))}; got {self.kind!r}.")
        check_number("expansion", self.expansion, above=0)
        check_number("kernel", self.kernel, whole=True, least=1)
        if self.kind not in _WITH_HIDDEN and self.expansion != 1:
            raise ValueError(f"`expansion` of a {self.kind!r} block must be 1; got {self.expansion}.")
        if self.kernel % 2 == 0:
            raise ValueError(f"`kernel` must be odd; got {self.kernel}.")

    @property
    def has_hidden(self) -> bool:
        """Whether it has hidden channels of its own, whose number follows from the expansion."""
        return self.kind in _WITH_HIDDEN

    def __str__(self) -> str:
        if self.kind in ("own", "skip"):
            return self.kind
        return f"{self.kind} e{self.expansion:.3g} k{self.kernel}"


SKIP = BlockOption("skip")
"""A residual block left out: what comes in goes out."""

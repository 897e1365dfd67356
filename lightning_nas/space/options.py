"""`SpaceOptions`: what a search space offers each block, each stage, the stem and the head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lightning_nas.io.numbers import check_numbers
from lightning_nas.space._limits import MAX_KERNEL
from lightning_nas.space.spec import Kind

__all__ = ["Scope", "SpaceOptions"]

Scope = Literal["stage", "model"]
"""What one depth multiplier scales: stem, each stage and head on their own, or the whole model at once."""


@dataclass(frozen=True)
class SpaceOptions:
    """Options of the blocks and widths of a space. A block's own option and the full width always are among them.

    Attributes:
        kinds: Block kinds to choose from, ``ibn`` and ``fused``.
        expansions: Expansions; those above the block's own are left out.
        kernels: Further kernel sizes beside the block's own.
        ratios: Depth multipliers, of the stages, of the stem and of a classifier's head: each above 0 and at most 1.
            Those that round to the same widths are one option.
        scope: What one depth multiplier scales: a ``stage`` or the whole ``model``.
        widths: Explicit widths for each stage, in place of `ratios`; they need the scope ``stage``.
        stem_widths: Explicit widths for the stem; by default those of `ratios`, and its own where `widths` are given.
            Empty for its own alone.
        head_widths: Explicit widths for the 1x1 convolution of a classifier in front of its pooling, given as
            `stem_widths` are. A head that anything but a linear layer reads keeps its width.

    Raises:
        ValueError: A value is not valid.

    Example::

        >>> SpaceOptions(ratios=(0.5, 1.5))
        Traceback (most recent call last):
        ValueError: `ratios[1]` must be above 0 and at most 1; got 1.5.
    """

    kinds: Sequence[Kind] = ("ibn", "fused")
    expansions: Sequence[float] = (2, 3, 4, 6)
    kernels: Sequence[int] = ()
    ratios: Sequence[float] = (0.5, 0.75, 1.0)
    scope: Scope = "stage"
    widths: Sequence[Sequence[int]] | None = None
    stem_widths: Sequence[int] | None = None
    head_widths: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in ("ibn", "fused"):
                raise ValueError(f"`kinds` can hold 'ibn' and 'fused'; got {kind!r}.")
        check_numbers("expansions", self.expansions, above=0)
        check_numbers("kernels", self.kernels, whole=True, least=1, most=MAX_KERNEL)
        check_numbers("ratios", self.ratios, above=0, most=1)
        for row in self.widths or ():
            check_numbers("widths", row, whole=True, least=1)
        for name, offered in (("stem_widths", self.stem_widths), ("head_widths", self.head_widths)):
            check_numbers(name, offered or (), whole=True, least=1)
        if self.scope not in get_args(Scope):
            raise ValueError(f"`scope` must be 'stage' or 'model'; got {self.scope!r}.")
        if self.scope != "stage" and (self.widths or self.stem_widths or self.head_widths):
            raise ValueError("Explicit `widths` are one list a stage and need scope='stage'; got scope='model'.")

"""`SpaceOptions`: what a search space offers each block and each width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from lightning_nas.io.numbers import check_numbers
from lightning_nas.space._limits import MAX_KERNEL
from lightning_nas.space.block_option import Kind

__all__ = ["Scope", "SpaceOptions"]

Scope = Literal["group", "stage", "model"]
"""What one depth multiplier scales: a width group, all groups of one resolution, or the whole model at once."""

_KINDS = ("ibn", "fused", "skip")


@dataclass(frozen=True)
class SpaceOptions:
    """Options of the blocks and widths of a space. A block's own option and the full width always are among them.

    Attributes:
        kinds: Block kinds to choose from: ``ibn`` and ``fused``, and ``skip``, which leaves out residual blocks.
        expansions: Expansions; those above the block's own are left out. A block that has none below its own, such as
            ResNet's, gets parts of its own by `ratios`.
        kernels: Further kernel sizes beside the block's own.
        ratios: Depth multipliers: each above 0 and at most 1. Those that round to the same widths are one option.
        scope: What one depth multiplier scales: a width ``group``, a ``stage`` (the groups of one resolution) or the
            whole ``model``.
        widths: Explicit widths in place of `ratios`, by a pattern of the group's path (``features.18*``); an empty list
            leaves the group its own width. They need the scope ``group``.
        only: Patterns of paths: widths and blocks of other modules stay as they are. Empty for all.
        except_: Patterns of paths whose widths and blocks stay as they are.

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
    scope: Scope = "group"
    widths: Mapping[str, Sequence[int]] | None = None
    only: Sequence[str] = ()
    except_: Sequence[str] = ()

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in _KINDS:
                raise ValueError(f"`kinds` can hold {', '.join(_KINDS)}; got {kind!r}.")
        check_numbers("expansions", self.expansions, above=0)
        check_numbers("kernels", self.kernels, whole=True, least=1, most=MAX_KERNEL)
        check_numbers("ratios", self.ratios, above=0, most=1)
        if not isinstance(self.widths, Mapping | None):
            raise ValueError(
                f"`widths` must give lists of widths by pattern, as {{'features.0*': [16]}}; got {self.widths!r}."
            )
        for pattern, row in (self.widths or {}).items():
            check_numbers(f"widths[{pattern!r}]", row, whole=True, least=1)
        for name, patterns in (("only", self.only), ("except_", self.except_)):
            if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
                raise ValueError(
                    f"`{name}` must be a list of patterns of paths, such as ['backbone.*']; got {patterns!r}."
                )
        if self.scope not in get_args(Scope):
            raise ValueError(f"`scope` must be one of {', '.join(get_args(Scope))}; got {self.scope!r}.")
        if self.scope != "group" and self.widths:
            raise ValueError(f"Explicit `widths` are those of groups and need scope='group'; got scope={self.scope!r}.")

    def admits(self, path: str) -> bool:
        """Return whether what stands at a path is searched.

        Example::

            >>> SpaceOptions(only=["features.*"], except_=["features.1.*"]).admits("features.10.conv")
            True
        """
        is_within = not self.only or any(fnmatchcase(path, pattern) for pattern in self.only)
        return is_within and not any(fnmatchcase(path, pattern) for pattern in self.except_)

    def explicit(self, path: str) -> Sequence[int] | None:
        """Return the explicit widths of a group, None where there are none."""
        return next((row for pattern, row in (self.widths or {}).items() if fnmatchcase(path, pattern)), None)

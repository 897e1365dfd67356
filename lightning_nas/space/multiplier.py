"""Depth multipliers: ratios that scale the channels of stages, of the stem and of the head."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_nas.io.numbers import check_numbers

__all__ = ["HEAD", "STEM", "DepthMultiplier"]

STEM = -1
"""The first convolution, where the stages that a depth multiplier scales are named by their indices."""

HEAD = -2
"""The 1x1 convolution of a classifier in front of its pooling, where stages are named by their indices."""


@dataclass(frozen=True)
class DepthMultiplier:
    """One choice of a ratio that scales the *channels* of some stages together; the number of layers stays.

    Attributes:
        stages: Indices of the stages it scales, `STEM` and `HEAD` for these: one of them, or all (scope ``model``).
        widths: One row an option, ascending: the width of each of those stages. The last row is the full width.
    """

    stages: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        check_numbers("stages", self.stages, whole=True, least=HEAD)
        for row in self.widths:
            check_numbers("widths", row, whole=True, least=1)
        if not self.widths or any(len(row) != len(self.stages) for row in self.widths):
            raise ValueError(f"Each option must give one width for each stage of {self.stages}; got {self.widths}.")
        # Equal options would be one network with two logits, drawn twice as often as the others.
        if len(set(self.widths)) != len(self.widths):
            raise ValueError(f"Width options must differ (two that round to the same are one); got {self.widths}.")

    def __str__(self) -> str:
        numbers = [str(stage) for stage in self.stages if stage >= 0]
        stages = f"stage{'s' if len(numbers) > 1 else ''} {', '.join(numbers)}"
        ends = [name for place, name in ((STEM, "stem"), (HEAD, "head")) if place in self.stages]
        return ", ".join([*([stages] if numbers else []), *ends])

"""`DepthMultiplier`: ratios that scale the channels of width groups."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_nas.io.numbers import check_numbers

__all__ = ["DepthMultiplier"]


@dataclass(frozen=True)
class DepthMultiplier:
    """One choice of a ratio that scales the *channels* of some width groups together; the number of layers stays.

    Attributes:
        name: What it scales: the module that writes a group, a resolution, or the model.
        groups: Numbers of the width groups that it scales.
        widths: One row an option, ascending: the width of each of those groups. The last row is the full width.

    Raises:
        ValueError: The rows do not fit the groups, or two are equal.
    """

    name: str
    groups: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        check_numbers("groups", self.groups, whole=True, least=0)
        for row in self.widths:
            check_numbers("widths", row, whole=True, least=1)
        if not self.widths or any(len(row) != len(self.groups) for row in self.widths):
            raise ValueError(f"Each option must give one width for each group of {self.groups}; got {self.widths}.")
        # Equal options would be one network with two logits, drawn twice as often as the others.
        if len(set(self.widths)) != len(self.widths):
            raise ValueError(f"Width options must differ (two that round to the same are one); got {self.widths}.")

    def __str__(self) -> str:
        return self.name

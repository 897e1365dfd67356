"""A network drawn block by block: kind by colour, latency by height, width and resolution in figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

from lightning_nas.report.svg import rect, svg, text

__all__ = ["BlockCost", "BlockKind", "architecture_svg"]

BlockKind = Literal["ibn", "fused", "ds", "basic", "other"]
"""Kinds of block in a picture: those that a search space knows, and any other operators."""

COLOURS = {"ibn": "c0", "fused": "c1", "ds": "c2", "basic": "c3", "other": "grey"}
LEGEND = {
    "ibn": "inverted bottleneck",
    "fused": "fused inverted bottleneck",
    "ds": "depthwise separable",
    "basic": "basic block",
    "other": "other",
}
_WITH_HIDDEN = ("ibn", "fused", "basic")
LEFT = 92
RIGHT = 16
COLUMN = 46
BAR = 32
BAR_HEIGHT = 118
ROW = BAR_HEIGHT + 68
TOP = 92
# The legend of all kinds fits.
LEAST_WIDTH = 848
# Width of a character of small text.
DIGIT = 6


@dataclass(frozen=True)
class BlockCost:
    """One block of a network and what it costs.

    Attributes:
        name: Where it is in the network, for the tooltip and to find the same block of another network.
        kind: ``ibn``, ``fused``, ``ds``, ``basic`` or ``other``.
        in_width: Input channels.
        out_width: Output channels.
        expansion: Hidden channels over input channels.
        kernel: Size of its spatial convolution.
        stride: Its stride.
        resolution: Height and width of its output in pixels.
        latency_ms: Its share of the estimated latency.

    Raises:
        ValueError: The kind is unknown or the latency is no latency.

    Example::

        >>> BlockCost("stages.0.0", "fused", 16, 24, 4, 3, 2, (24, 24), 0.31).label
        'e4 k3 s2'
    """

    name: str
    kind: BlockKind
    in_width: int
    out_width: int
    expansion: float
    kernel: int
    stride: int
    resolution: tuple[int, int]
    latency_ms: float

    def __post_init__(self) -> None:
        if self.kind not in get_args(BlockKind):
            raise ValueError(f"`kind` must be one of {', '.join(get_args(BlockKind))}; got {self.kind!r}.")
        if not (math.isfinite(self.latency_ms) and self.latency_ms >= 0):
            raise ValueError(f"`latency_ms` must be zero or a positive number; got {self.latency_ms}.")

    @property
    def label(self) -> str:
        """Expansion, kernel and a stride other than 1, short enough for a column."""
        # Two digits, since more would not fit.
        expansion = f"{self.expansion:.2g}" if self.expansion < 99 else f"{self.expansion:.0f}"
        parts = [f"e{expansion}"] if self.kind in _WITH_HIDDEN else []
        parts.append(f"k{self.kernel}")
        return " ".join([*parts, f"s{self.stride}"] if self.stride != 1 else parts)


# Letters of a label that fit a column.
_WIDEST = 7


def architecture_svg(blocks: Sequence[BlockCost], baseline: Sequence[BlockCost] = (), title: str = "") -> str:
    """Return the picture of a network, with that of the baseline above it on the same scale where one is given.

    A dashed outline is the baseline's bar at the same place: that of the block of the same name, where the names of one
    network are all among those of the other, or else of the same number. Where it stands alone, the block was left out.

    Args:
        blocks: Blocks of the network in order.
        baseline: Blocks of the network it is compared with, in order, or nothing.
        title: Heading of the picture.

    Raises:
        ValueError: There are no blocks.

    Example::

        >>> block = BlockCost("features.0", "other", 3, 16, 1, 3, 2, (24, 24), 0.2)
        >>> "<svg" in architecture_svg([block], title="Tiny")
        True
    """
    if not blocks:
        raise ValueError("`blocks` must hold at least one block; got none.")
    own, others = _aligned(blocks, baseline)
    rows = [("Baseline", others, []), ("Subnet", own, others)] if baseline else [("Network", own, [])]
    columns = len(own)
    width = max(LEFT + COLUMN * columns + RIGHT, LEAST_WIDTH)
    height = TOP + ROW * len(rows) + 8
    scale = BAR_HEIGHT / max(max(block.latency_ms for block in (*blocks, *baseline)), 1e-12)
    body = [rect(0, 0, width, height, "page", 8), text(16, 26, title, "strong title")]
    body.append(text(width - RIGHT, 26, "height: latency, %: share of it", "dim small", "end"))
    body += _legend({block.kind for block in (*blocks, *baseline)}, bool(baseline))
    body += _resolutions([block or other for block, other in zip(own, others, strict=True)], height)
    for number, (name, row, ghosts) in enumerate(rows):
        body += _row(name, row, ghosts, TOP + ROW * number + BAR_HEIGHT + 18, scale, width)
    return svg(width, height, body, title or "Architecture")


_Row = list[BlockCost | None]
"""What stands in each column; None for nothing."""


def _aligned(blocks: Sequence[BlockCost], baseline: Sequence[BlockCost]) -> tuple[_Row, _Row]:
    """Return both networks by column."""
    fewer, more = sorted((blocks, baseline), key=len)
    named, names = {block.name: block for block in fewer}, [block.name for block in more]
    if len(named) == len(fewer) and len({*names}) == len(names) and {*named} <= {*names}:
        shorter: _Row = [named.get(name) for name in names]
    else:
        shorter = [*fewer, *[None] * (len(more) - len(fewer))]
    return (shorter, [*more]) if fewer is blocks else ([*more], shorter)


def _size_text(resolution: tuple[int, int]) -> str:
    return "\u00d7".join(map(str, resolution))


def _legend(kinds: set[BlockKind], has_baseline: bool) -> list[str]:
    entries = [(name, f"{COLOURS[kind]} bar") for kind, name in LEGEND.items() if kind in kinds]
    entries += [("baseline's block", "ghost")] if has_baseline else []
    items, x = [], 16.0
    for name, css in entries:
        items += [rect(x, 41, 12, 12, css, 2), text(x + 18, 51, name, "dim")]
        # Characters of this text are about so wide.
        x += 6.4 * len(name) + 34
    return items


def _resolutions(blocks: Sequence[BlockCost | None], height: float) -> list[str]:
    """Return a band behind the columns of each resolution, every other one tinted."""
    items, x = [], float(LEFT)
    found = (block.resolution for block in blocks if block is not None)
    for number, (resolution, group) in enumerate(groupby(found)):
        span = COLUMN * len(list(group))
        if number % 2 == 0:
            items.append(rect(x, 64, span, height - 70, "band", 4))
        label = _size_text(resolution)
        fitting = label if DIGIT * len(label) <= span else str(resolution[0])
        items.append(text(x + span / 2, 80, fitting, "dim small", "middle"))
        x += span
    items.append(text(LEFT - 10, 80, "output size", "dim small", "end"))
    return items


def _row(
    name: str,
    blocks: Sequence[BlockCost | None],
    ghosts: Sequence[BlockCost | None],
    floor: float,
    scale: float,
    width: float,
) -> list[str]:
    total = sum(block.latency_ms for block in blocks if block is not None)
    items = [
        text(16, floor - 20, name, "strong"),
        text(16, floor - 4, f"{total:.3g} ms", "dim"),
        text(LEFT - 10, floor + 16, "channels", "dim small", "end"),
        f'<path class="rule" d="M{LEFT} {floor:g}H{width - RIGHT:g}"/>',
    ]
    for index, block in enumerate(blocks):
        ghost, centre = ghosts[index] if ghosts else None, LEFT + COLUMN * (index + 0.5)
        if ghost is not None:
            height = ghost.latency_ms * scale
            items.append(rect(centre - BAR / 2, floor - height, BAR, height, "ghost", 3))
        if block is not None:
            items += _column(block, 0.0 if ghost is None else ghost.latency_ms, centre, floor, scale, total)
    return items


def _column(block: BlockCost, ghost_ms: float, centre: float, floor: float, scale: float, total: float) -> list[str]:
    # A block that costs next to nothing still has to be seen.
    height = max(block.latency_ms * scale, 1.5)
    share = block.latency_ms / total if total else 0.0
    tip = (
        f"{block.name}: {block.kind}, {block.in_width} to {block.out_width} channels, {block.label}, "
        f"output {_size_text(block.resolution)} px, {block.latency_ms:.4g} ms ({share:.1%})"
    )
    top = max(height, ghost_ms * scale)
    items = [rect(centre - BAR / 2, floor - height, BAR, height, f"{COLOURS[block.kind]} bar", 3, tip)]
    # A figure that would stand on the ghost's outline goes above it.
    y = floor - (top if top - height < 18 else height) - 4
    items.append(text(centre, round(y, 1), f"{share:.0%}" if share >= 0.005 else "<1%", "small", "middle"))
    items.append(text(centre, floor + 16, str(block.out_width), "strong", "middle"))
    for line, part in enumerate(_lines(block.label)):
        items.append(text(centre, floor + 30 + 12 * line, part, "dim small", "middle"))
    return items


def _lines(label: str) -> list[str]:
    """Keep expansion and kernel on one line where a column is wide enough, and put the stride below."""
    head, separator, stride = label.rpartition(" s")
    first = [head, f"s{stride}"] if separator else [label]
    return [*(first[0].split() if len(first[0]) > _WIDEST else first[:1]), *first[1:]]

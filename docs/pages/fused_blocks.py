"""Cells of the table of fused blocks, over the runs of a group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from lightning_nas.report.architecture_record import ArchitectureRecord
from lightning_nas.report.recorded import RecordedRun

__all__ = ["fused_cells", "ranges"]


def fused_cells(runs: Sequence[RecordedRun]) -> list[str] | None:
    """Return the fused blocks in words, the widths, then the kinds of each stage; None where the runs do not say.

    Blocks of a network without stages are in one cell.

    Blocks are counted from 1. ``fused 1/3`` is a block that one of three runs fused.

    Args:
        runs: Runs of a group.
    """
    architectures = [run.architecture for run in runs if run.architecture.stages]
    found = [architecture.stages for architecture in architectures]
    shapes = {(len(each.widths), *map(len, each.stages)) for each in architectures}
    if len(shapes) != 1:
        return None
    blocks = [block for stage in zip(*found, strict=True) for block in zip(*stage, strict=True)]
    counts = [block.count("fused") for block in blocks]
    always = [number for number, count in enumerate(counts, start=1) if count == len(found)]
    sometimes = [number for number, count in enumerate(counts, start=1) if 0 < count < len(found)]
    text = f"{ranges(always) or 'none'} of {len(blocks)}"
    if sometimes:
        text += f"; in some seeds {ranges(sometimes)}"
    return [
        text,
        _widths_text(architectures),
        *(_stage_text(list(zip(*stage, strict=True))) for stage in zip(*found, strict=True)),
    ]


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers with runs of them shortened.

    Example::

        >>> ranges([2, 3, 4, 7])
        '2-4, 7'
    """
    spans = groupby(enumerate(numbers), key=lambda item: item[1] - item[0])
    ends = [[number for _, number in span] for _, span in spans]
    return ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in ends)


def _widths_text(architectures: Sequence[ArchitectureRecord]) -> str:
    """Return the widths outside of blocks, where runs differ all that occur: ``16, 24, 32/48``."""
    columns = zip(*(each.widths for each in architectures), strict=True)
    return ", ".join("/".join(map(_width_text, dict.fromkeys(column))) for column in columns)


def _width_text(width: int | None) -> str:
    return "?" if width is None else str(width)


def _stage_text(blocks: Sequence[tuple[str, ...]]) -> str:
    """Return the kinds of a stage's blocks, each given as its kind in every run."""
    parts = [(name, len(list(same))) for name, same in groupby(map(_block_text, blocks))]
    return ", ".join(f"{count} \u00d7 {name}" if count > 1 else name for name, count in parts)


def _block_text(kinds: tuple[str, ...]) -> str:
    num_fused = kinds.count("fused")
    if 0 < num_fused < len(kinds):
        return f"fused {num_fused}/{len(kinds)}"
    return Counter(kinds).most_common(1)[0][0]

"""Stages to and from timm's architecture strings, e.g. ``ir_r1_k3_s2_e6_c24`` (IBN) or ``er_...`` (fused-IBN)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lightning_nas.space.spec import BlockOption, FixedBlock, Kind, StageArchitecture

__all__ = ["from_timm", "to_timm"]

PREFIX: dict[Kind, str] = {"ibn": "ir", "fused": "er", "ds": "ds"}
"""timm's names of the block kinds (``timm.models._efficientnet_builder``)."""


def to_timm(stages: Sequence[StageArchitecture]) -> list[list[str]]:
    """Return one list of timm block strings a stage, as `timm.models._efficientnet_builder.decode_arch_def` reads.

    Example::

        >>> to_timm(from_timm([["ds_r1_k3_s1_e1_c16"], ["er_r1_k3_s2_e4_c24", "ir_r2_k3_s1_e6_c24"]]))
        [['ds_r1_k3_s1_e1_c16'], ['er_r1_k3_s2_e4_c24', 'ir_r1_k3_s1_e6_c24', 'ir_r1_k3_s1_e6_c24']]
    """
    return [[_block_string(block, stage.width) for block in stage.blocks] for stage in stages]


def from_timm(arch_def: Sequence[Sequence[str]]) -> tuple[StageArchitecture, ...]:
    """Return the stages that timm's strings describe.

    Raises:
        ValueError: A string with a block or a field that has no counterpart here, or two widths in one stage.
    """
    return tuple(_read_stage(strings) for strings in arch_def)


def _block_string(block: FixedBlock, width: int) -> str:
    option = block.option
    return f"{PREFIX[option.kind]}_r1_k{option.kernel}_s{block.stride}_e{option.expansion:g}_c{width}"


def _read_stage(strings: Sequence[str]) -> StageArchitecture:
    blocks: list[FixedBlock] = []
    widths = set()
    for string in strings:
        repeats, width, block = _read_block(string)
        widths.add(width)
        # timm strides only the first of repeated blocks.
        blocks += [block, *[FixedBlock(block.option, 1)] * (repeats - 1)]
    if len(widths) != 1:
        raise ValueError(f"The blocks of a stage must have one output width; {list(strings)} has {sorted(widths)}.")
    return StageArchitecture(widths.pop(), tuple(blocks))


def _read_block(string: str) -> tuple[int, int, FixedBlock]:
    prefix, *fields = string.split("_")
    kinds = {value: kind for kind, value in PREFIX.items()}
    if prefix not in kinds:
        raise ValueError(f"Block {string!r} is of no known kind; known are {', '.join(sorted(kinds))}.")
    values = {}
    for field in fields:
        match = re.fullmatch(r"([rksec])(\d+(?:\.\d+)?)", field)
        if match is None:
            raise ValueError(f"Block {string!r} has the field {field!r}; known are r, k, s, e and c with a number.")
        values[match[1]] = float(match[2])
    if missing := sorted({"k", "s", "c"} - values.keys()):
        raise ValueError(f"Block {string!r} lacks the fields {', '.join(missing)}.")
    option = BlockOption(kinds[prefix], values.get("e", 1.0), int(values["k"]))
    return int(values.get("r", 1)), int(values["c"]), FixedBlock(option, int(values["s"]))

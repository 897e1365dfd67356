"""Limits on sizes in files: far above any network for such devices, and too small to fill a memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_nas.io.reading import listed, number, only, shown, whole

__all__ = [
    "MAX_KERNEL",
    "block_list",
    "conv_fields",
    "image_size",
    "num_classes",
    "option_fields",
    "reference",
    "stage_numbers",
    "tail_fields",
    "width",
]

# Eight times the channels of the widest stock networks, and twice the kernel of MixNet's.
MAX_KERNEL = 31
"""Of a convolution, in a file and in a space: that of RepLKNet (arXiv 2203.06717)."""

_MAX_WIDTH, _MAX_STRIDE, _MAX_EXPANSION = 2**14, 16, 64
# Images of 16 megapixels, and of more bands than satellites have.
_MAX_SIDE, _MAX_BANDS = 2**12, 64
# ImageNet-21k has 2**14.4 classes.
_MAX_CLASSES = 2**16
_MAX_STAGES, _MAX_BLOCKS, _MAX_OPERATIONS = 256, 1024, 4096
# Heads of detectors are joined to one row a place.
_MAX_TAIL = 2**24
_MAX_TEXT = 200


def width(value: Any) -> int:
    """Return the channels that a file gives a stage.

    Raises:
        ValueError: It is no whole number, or no real network is as wide.
    """
    return whole(value, "width", _MAX_WIDTH)


def num_classes(value: Any) -> int:
    """Return the number of classes, likewise; 0 is a network without a classifier."""
    return whole(value, "num_classes", _MAX_CLASSES, least=0)


def image_size(values: Any) -> tuple[int, int, int]:
    """Return channels, height and width of an image, likewise."""
    if len(listed(values, "input_size", 3)) != 3:
        raise ValueError(f"`input_size` must be channels, height and width; got {shown(values)}.")
    channels, height, columns = values
    sides = (whole(side, "input_size", _MAX_SIDE) for side in (height, columns))
    return whole(channels, "input_size", _MAX_BANDS), *sides  # type: ignore[return-value]


def conv_fields(data: Any) -> dict[str, Any]:
    """Return the fields of a `ConvSpec`, likewise."""
    limits = {"width": _MAX_WIDTH, "kernel": MAX_KERNEL, "stride": _MAX_STRIDE}
    found = only(data, limits, "A convolution")
    return {name: whole(found[name], name, most) for name, most in limits.items()}


def option_fields(data: Any) -> dict[str, Any]:
    """Return the fields of a `BlockOption`, likewise."""
    found = only(data, ("kind", "expansion", "kernel"), "The option of a block")
    return {
        "kind": _text(found["kind"], "kind"),
        "expansion": number(found["expansion"], "expansion", _MAX_EXPANSION),
        "kernel": whole(found["kernel"], "kernel", MAX_KERNEL),
    }


def block_list(stages: Any) -> list[tuple[int, list[Any]]]:
    """Return the width of each stage and its blocks, which are read one by one; likewise."""
    found = [(width(stage["width"]), stage["blocks"]) for stage in listed(stages, "stages", _MAX_STAGES)]
    count = sum(len(listed(blocks, "blocks", _MAX_BLOCKS)) for _, blocks in found)
    if count > _MAX_BLOCKS or not all(blocks for _, blocks in found):
        raise ValueError(f"A network must have one block or more in each stage and at most {_MAX_BLOCKS}; got {count}.")
    return found


def stage_numbers(values: Any) -> tuple[int, ...]:
    """Return which stages a depth multiplier scales, likewise; stem and head have numbers below zero."""
    return tuple(whole(number, "stages", _MAX_STAGES, least=-2) for number in listed(values, "stages", _MAX_STAGES))


def reference(values: Any, choices: Sequence[Any]) -> tuple[int, ...]:
    """Return which of the options of each choice the source network had, likewise."""
    if len(listed(values, "reference", _MAX_BLOCKS)) != len(choices):
        raise ValueError(f"`reference` must name {len(choices)} options; got {len(values)}.")
    pairs = zip(values, choices, strict=True)
    return tuple(whole(number, "reference", len(choice.options) - 1, least=0) for number, choice in pairs)


def tail_fields(data: Mapping[str, Any], stages: Sequence[Any]) -> list[dict[str, Any]]:
    """Return the fields of each `TailOperation` of a file, likewise.

    Args:
        data: The file; older ones have no tail.
        stages: Its stages, whose blocks are read by the tail.
    """
    items = listed(data.get("tail", []), "tail", _MAX_OPERATIONS)
    num_blocks = sum(len(stage.blocks) for stage in stages)
    return [_operation(item, place, num_blocks) for place, item in enumerate(items)]


def _operation(data: Any, place: int, num_blocks: int) -> dict[str, Any]:
    sizes = ("height", "width", "in_channels", "out_channels", "kernel", "stride")
    texts, truths = ("operator", "form", "path"), ("is_bounded", "is_output")
    found = only(data, (*sizes, *texts, *truths, "inputs"), "An operation of the tail")
    fields: dict[str, Any] = {name: whole(found[name], name, _MAX_TAIL) for name in sizes if name in found}
    fields |= {name: _text(found[name], name) for name in texts if name in found}
    fields |= {name: _truth(found[name], name) for name in truths if name in found}
    sources: Sequence[Any] = listed(found["inputs"], "inputs", _MAX_OPERATIONS)
    if not sources:
        raise ValueError(f"Operation {place} of the tail reads nothing.")
    # Numbers below zero are those of blocks.
    return {**fields, "inputs": tuple(whole(n, "inputs", place - 1, least=-num_blocks) for n in sources)}


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise ValueError(f"`{name}` must be text of at most {_MAX_TEXT} characters; got {shown(value)}.")
    return value


def _truth(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be true or false; got {shown(value)}.")
    return value

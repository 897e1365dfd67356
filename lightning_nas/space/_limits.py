"""Limits on sizes in files: far above any network for such devices, and too small to fill a memory."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_nas.io.reading import JsonObject, listed, number, only, shown, text, whole

__all__ = [
    "MAX_KERNEL",
    "block_list",
    "conv_fields",
    "image_size",
    "num_classes",
    "option_fields",
    "reference",
    "stage_numbers",
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
_MAX_STAGES, _MAX_BLOCKS = 256, 1024


def width(value: object) -> int:
    """Return the channels that a file gives a stage.

    Raises:
        ValueError: It is no whole number, or no real network is as wide.
    """
    return whole(value, "width", _MAX_WIDTH)


def num_classes(value: object) -> int:
    """Return the number of classes that a file gives; 0 is a network without a classifier."""
    return whole(value, "num_classes", _MAX_CLASSES, least=0)


def image_size(values: object) -> tuple[int, int, int]:
    """Return channels, height and width of an image as a file gives them."""
    sizes = listed(values, "input_size", 3)
    if len(sizes) != 3:
        raise ValueError(f"`input_size` must be channels, height and width; got {shown(values)}.")
    channels, height, columns = (
        whole(size, "input_size", most) for size, most in zip(sizes, (_MAX_BANDS, _MAX_SIDE, _MAX_SIDE), strict=True)
    )
    return channels, height, columns


def conv_fields(data: object) -> dict[str, int]:
    """Return the fields of a `ConvSpec` from an object of a file."""
    limits = {"width": _MAX_WIDTH, "kernel": MAX_KERNEL, "stride": _MAX_STRIDE}
    found = only(data, limits, "A convolution")
    return {name: whole(found[name], name, most) for name, most in limits.items()}


def option_fields(data: object) -> JsonObject:
    """Return the fields of a `BlockOption` from an object of a file."""
    found = only(data, ("kind", "expansion", "kernel"), "The option of a block")
    return {
        "kind": text(found["kind"], "kind"),
        "expansion": number(found["expansion"], "expansion", _MAX_EXPANSION),
        "kernel": whole(found["kernel"], "kernel", MAX_KERNEL),
    }


def block_list(stages: object) -> list[tuple[int, list[JsonObject]]]:
    """Return width and blocks of each stage of a file; the blocks are not checked yet."""
    found = [(width(stage["width"]), stage["blocks"]) for stage in listed(stages, "stages", _MAX_STAGES)]
    count = sum(len(listed(blocks, "blocks", _MAX_BLOCKS)) for _, blocks in found)
    if count > _MAX_BLOCKS or not all(blocks for _, blocks in found):
        raise ValueError(f"A network must have one block or more in each stage and at most {_MAX_BLOCKS}; got {count}.")
    return found


def stage_numbers(values: object) -> tuple[int, ...]:
    """Return the stages that a depth multiplier of a file scales; stem and head have numbers below zero."""
    return tuple(whole(number, "stages", _MAX_STAGES, least=-2) for number in listed(values, "stages", _MAX_STAGES))


def reference(values: object, option_counts: Sequence[int]) -> tuple[int, ...]:
    """Return for each choice of a file the number of the source network's own option."""
    numbers = listed(values, "reference", _MAX_BLOCKS)
    if len(numbers) != len(option_counts):
        raise ValueError(f"`reference` must name {len(option_counts)} options; got {len(numbers)}.")
    pairs = zip(numbers, option_counts, strict=True)
    return tuple(whole(number, "reference", count - 1, least=0) for number, count in pairs)

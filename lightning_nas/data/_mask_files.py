"""Images and masks in files: reading them, and one clear error for each pair that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from lightning_nas.data._decode import DECODE_THREADS, open_image, rgb
from lightning_nas.data._labels import IGNORE, Labels
from lightning_nas.data._orientation import Orientation, decided, orientation_of, similar
from lightning_nas.data._splits import Split

__all__ = ["Pair", "Size", "count_ids", "decode_all", "decode_some", "oriented"]

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Pair:
    """An image and its mask.

    Attributes:
        image: Path of the image, of any mode.
        mask: Path of the mask, whose pixels are ids: grey or with a palette.
        as_stored: Whether the mask is of the image's pixels as they are stored, not as its EXIF orientation turns them.
    """

    image: Path
    mask: Path
    as_stored: bool = False


def oriented(root: Path, files: Mapping[Split, Sequence[Pair]]) -> dict[Split, list[Pair]]:
    """Return the pairs with what their masks' sizes tell of images that are turned by their EXIF orientation.

    Args:
        root: Folder of the data set, for messages.
        files: The pairs of each split.

    Raises:
        ValueError: A file cannot be read.
    """
    pairs = [pair for split in files.values() for pair in split]
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        orientations, told = zip(*pool.map(_told, pairs), strict=True)
    stored = iter(decided([pair.image for pair in pairs], orientations, told, f"'{root}'"))
    return {split: [replace(pair, as_stored=next(stored)) for pair in own] for split, own in files.items()}


def count_ids(pairs: Sequence[Pair]) -> NDArray[np.int64]:
    """Return how many pixels of each id each mask has, (len(pairs), 256), once every pair is found to fit.

    Raises:
        ValueError: A file cannot be read, a mask holds no ids, or has other proportions than its image.
    """
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        return np.stack(list(pool.map(_count, pairs)))


def decode_all(pairs: Sequence[Pair], size: Size, mask_size: Size, labels: Labels) -> tuple[Tensor, Tensor]:
    """Return all images (N, 3, H, W) of one size and all masks (N, H, W) of another, uint8."""
    images = torch.empty(len(pairs), 3, *size, dtype=torch.uint8)
    masks = torch.empty(len(pairs), *mask_size, dtype=torch.uint8)
    decode = partial(_decode, size=size, mask_size=mask_size, table=labels.table())
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        for index, (image, mask) in enumerate(pool.map(decode, pairs)):
            images[index], masks[index] = image, mask
    return images, masks


def decode_some(
    pairs: Sequence[Pair], size: Size, mask_size: Size, labels: Labels, indices: list[int]
) -> tuple[Tensor, Tensor]:
    """Return some of the images and of the masks."""
    decoded = [_decode(pairs[index], size, mask_size, labels.table()) for index in indices]
    return torch.stack([image for image, _ in decoded]), torch.stack([mask for _, mask in decoded])


def _decode(pair: Pair, size: Size, mask_size: Size, table: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Return image (3, H, W) of one size and mask (H, W) of another, uint8."""
    with open_image(pair.image) as file:
        # JPEG can skip most of the work for a small copy; twice the size keeps the result sharp.
        file.draft("RGB", (2 * max(size), 2 * max(size)))
        turned = file if pair.as_stored else ImageOps.exif_transpose(file)
        image = rgb(turned).resize(size[::-1], Image.Resampling.BILINEAR)
    # Ids are names, which cannot be averaged.
    mask = Image.fromarray(table[_ids(pair.mask)]).resize(mask_size[::-1], Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1), torch.from_numpy(np.array(mask))


def _told(pair: Pair) -> tuple[Orientation, bool | None]:
    """Return how an image is stored, and whether its mask is of the pixels as stored, None where it does not tell."""
    with open_image(pair.image) as file:
        orientation = orientation_of(file)
    if orientation.turn == 1:
        return orientation, False
    with open_image(pair.mask) as file:
        return orientation, orientation.told_by((file.height, file.width))


def _count(pair: Pair) -> NDArray[np.int64]:
    with open_image(pair.image) as file:
        orientation = orientation_of(file)
    height, width = orientation.stored if pair.as_stored else orientation.upright
    ids = _ids(pair.mask)
    rows, columns = ids.shape
    if not similar((rows, columns), (height, width)):
        raise ValueError(
            f"'{pair.mask}' must have the proportions of its image '{pair.image.name}'; "
            f"it is {columns}x{rows} and the image {width}x{height} pixels."
        )
    return np.bincount(ids.ravel(), minlength=256)


def _ids(path: Path) -> NDArray[np.uint8]:
    with open_image(path) as file:
        mode = file.mode
        values = np.array(file)
    if values.ndim != 2 or values.dtype.kind == "f":
        raise ValueError(f"'{path}' must hold one label id a pixel, grey or with a palette; its mode is {mode}.")
    if values.max() > IGNORE or values.min() < 0:
        strange = np.unique(values[(values > IGNORE) | (values < 0)]).tolist()
        raise ValueError(f"'{path}' has the label ids {', '.join(map(str, strange[:8]))}; ids are 0 to {IGNORE}.")
    return values.astype(np.uint8)

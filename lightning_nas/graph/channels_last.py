"""Maps whose channels are their last dimension: told from how a network permutes and views them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["Spatial", "image_like", "spatial_after", "with_images"]

Spatial = tuple[int, int] | None
"""Rows and columns of a tensor whose channels are last: of shape (1, H, W, C), (1, H * W, C) or (H * W, C). None for
one that is read as usual: (1, C, H, W), (1, N, C) or (1, C)."""

_VIEWS = ("_reshape_alias", "_unsafe_view", "flatten", "reshape", "view")
_UNMOVED = ("_to_copy", "alias", "clone", "contiguous", "detach", "dropout", "lift_fresh")


def spatial_after(
    name: str, args: Sequence[object], inputs: Sequence[Tensor], spatials: Sequence[Spatial], output: Tensor
) -> Spatial:
    """Return rows and columns of an operator's output if its channels are last, or None.

    Args:
        name: Name of the operator, without its overload.
        args: Its arguments.
        inputs: Those of its arguments that depend on the image.
        spatials: The same of them.
        output: The output.

    Example::

        >>> image, last = torch.zeros(1, 8, 4, 6), torch.zeros(1, 4, 6, 8)
        >>> spatial_after("permute", (image, (0, 2, 3, 1)), [image], [None], last)
        (4, 6)
        >>> spatial_after("view", (last, (24, 8)), [last], [(4, 6)], torch.zeros(24, 8))
        (4, 6)
    """
    source, spatial = inputs[0], spatials[0]
    if name in ("permute", "transpose"):
        return _permuted(source, spatial, _order(name, args, source.ndim))
    if name in _VIEWS:
        return _viewed(source, spatial, output)
    if name in _UNMOVED:
        return spatial
    # What works value by value, normalises channels, or multiplies them by a matrix.
    alike = (
        one for tensor, one in zip(inputs, spatials, strict=True) if one and tensor.shape[:-1] == output.shape[:-1]
    )
    return next(alike, None)


def image_like(tensor: Tensor, spatial: Spatial) -> Tensor:
    """Return a tensor without values, of the shape (1, C, H, W) of a map whose channels are last, or the tensor itself.

    Args:
        tensor: A tensor.
        spatial: Its rows and columns if its channels are last.
    """
    return tensor if spatial is None else torch.empty((1, tensor.shape[-1], *spatial), device="meta")


def with_images(values: object, images: Mapping[int, Tensor]) -> object:
    """Return nested tuples and lists with tensors replaced.

    Args:
        values: The tuples and lists.
        images: What replaces a tensor, by its identity.
    """
    if isinstance(values, Tensor):
        return images.get(id(values), values)
    if isinstance(values, list):
        return [with_images(value, images) for value in values]
    return tuple(with_images(value, images) for value in values) if isinstance(values, tuple) else values


def _permuted(source: Tensor, spatial: Spatial, order: Sequence[int]) -> Spatial:
    """Return rows and columns of a map of four dimensions that is permuted, if its channels are last then."""
    if source.ndim != 4 or order[0] != 0 or order[3] != (1 if spatial is None else 3):
        return None
    return source.shape[order[1]], source.shape[order[2]]


def _order(name: str, args: Sequence[Any], ndim: int) -> list[int]:
    """Return for each dimension of a permuted tensor the one that it was before."""
    if name == "permute":
        return [dim % ndim for dim in args[1]]
    order = list(range(ndim))
    first, second = args[1] % ndim, args[2] % ndim
    order[first], order[second] = second, first
    return order


def _viewed(source: Tensor, spatial: Spatial, output: Tensor) -> Spatial:
    """Return rows and columns of a tensor whose last dimension is left whole by a view."""
    if output.ndim not in (2, 3, 4) or output.shape[-1] != source.shape[-1]:
        return None
    places = math.prod(output.shape[:-1])
    # Tokens, of shape (1, N, C), are seen as a map, or as rows of a matrix.
    is_tokens = source.ndim == 3 and source.shape[0] == 1 and output.ndim != 3
    if (spatial is None and not is_tokens) or (output.ndim == 2 and places == 1):
        return None
    if output.ndim == 4:
        return (output.shape[1], output.shape[2]) if output.shape[0] == 1 else None
    return (spatial or (places, 1)) if output.ndim == 2 or output.shape[0] == 1 else None

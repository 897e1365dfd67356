"""Tensors within nested arguments and results."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["tensors_in"]


def tensors_in(values: object) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and dictionaries, in order.

    Example::

        >>> import torch
        >>> [len(tensor) for tensor in tensors_in({"a": torch.zeros(1), "b": [torch.zeros(2), None]})]
        [1, 2]
    """
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        values = list(values.values())
    return [tensor for value in values for tensor in tensors_in(value)] if isinstance(values, list | tuple) else []

"""Evaluation mode for a while: every submodule gets its own mode back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["evaluating", "in_evaluation"]


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Run the body with `module` in evaluation mode.

    Every submodule gets its own mode back: users freeze batch norms by setting some to evaluation.
    """
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Run the body without gradients and with `module` in evaluation mode."""
    with in_evaluation(module), torch.no_grad():
        yield

"""The images that a user's module gives its network, whatever its batches are."""

from __future__ import annotations

from itertools import count as counted

import torch
from torch import Tensor, nn

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.search.loaders import UserFit
from lightning_nas.search.quiet_loss import attached_loss, quiet_copy
from lightning_nas.supernet.supernet import Supernet, owner_of

__all__ = ["network_images"]


class _EnoughError(Exception):
    """A network was given its images: what comes behind it need not run."""


def network_images(fit: UserFit, supernet: Supernet, count: int) -> Tensor:
    """Return training images as a network gets them, shape (N, C, H, W).

    The module's step runs in evaluation mode up to the network, and leaves no trace.

    Args:
        fit: The user's fit.
        supernet: The supernet of its module; it takes one tensor.
        count: How many images; fewer where there are no more.

    Raises:
        ValueError: The step gives the network no images, of one size.
    """
    found: list[Tensor] = []
    module = fit.module

    def keep(_: nn.Module, inputs: tuple[object, ...]) -> None:
        if not inputs or not isinstance(inputs[0], Tensor) or inputs[0].ndim != 4:
            raise ValueError(
                "Options are tried on images of shape (N, C, H, W); the first argument that the network is called with"
                f" is {type(inputs[0]).__name__ if inputs else 'none'}."
            )
        found.append(inputs[0].detach().clone())
        raise _EnoughError

    handle = owner_of(supernet, module)[1].register_forward_pre_hook(keep)
    try:
        with evaluating(module), quiet_copy(module, fit.trainer, fit.loss) as quiet:
            for index, batch in zip(counted(), fit.training_batches(count), strict=False):
                try:
                    with fit.trainer.precision_plugin.forward_context():
                        attached_loss(quiet, batch, index)
                except _EnoughError:
                    pass
                if sum(map(len, found)) >= count:
                    break
    finally:
        handle.remove()
    if not found or len({images.shape[1:] for images in found}) > 1:
        sizes = ", ".join(sorted({str(tuple(images.shape[1:])) for images in found})) or "none"
        raise ValueError(f"Options are tried on images of one size; the module's step gave its network {sizes}.")
    return torch.cat(found)[:count]

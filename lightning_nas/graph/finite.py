"""Checks that weights and running statistics are finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["learnt", "not_finite", "refuse_not_finite"]


def not_finite(tensors: Mapping[str, object]) -> list[str]:
    """Return the names of the tensors that hold a value that is infinite or no number.

    Example::

        >>> not_finite({"weight": torch.ones(2), "running_var": torch.tensor([1.0, float("inf")])})
        ['running_var']
    """
    floats = {name: t for name, t in tensors.items() if isinstance(t, Tensor) and t.is_floating_point() and t.numel()}
    if not floats:
        return []
    # One answer for all, since each has to be waited for on an accelerator.
    fine = torch.stack([value.detach().isfinite().all().cpu() for value in floats.values()])
    return [name for name, is_fine in zip(floats, fine.tolist(), strict=True) if not is_fine]


def learnt(module: nn.Module) -> dict[str, Tensor]:
    """Return what a training changes: parameters and running statistics. Other buffers may hold any value."""
    running = {name: b for name, b in module.named_buffers() if name.rpartition(".")[2].startswith("running_")}
    return {**dict(module.named_parameters()), **running}


def refuse_not_finite(subnet: nn.Module) -> None:
    """Raise a ValueError where a subnet holds weights or running statistics that are not finite."""
    if bad := not_finite(learnt(subnet)):
        raise ValueError(
            f"The subnet computes nothing: {bad[0]!r}{' and others' if len(bad) > 1 else ''} of its weights and running"
            " statistics are not finite, since the training has diverged. HINT: a smaller learning rate."
        )

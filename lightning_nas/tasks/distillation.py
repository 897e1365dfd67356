"""Losses by which a network imitates another: its predictions, and its feature maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["distillation_loss", "feature_loss", "feature_maps"]


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return the divergence of softened predictions from a teacher's (Hinton et al. 2015, arXiv 1503.02531).

    The factor of the squared temperature keeps the size of the gradients whatever the temperature is.

    Example::

        >>> import torch
        >>> logits = torch.tensor([[1.0, 2.0]])
        >>> distillation_loss(logits, logits, temperature=2.0).item()
        0.0
    """
    student = functional.log_softmax(logits / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def feature_loss(features: Tensor, teacher_features: Tensor) -> Tensor:
    """Return the mean squared difference of two feature maps (N, C, H, W), relative to the teacher's variance.

    This is the hint of FitNets (Romero et al. 2015, arXiv 1412.6550) without its regressor: a subnet has the channels
    of its teacher.

    Raises:
        ValueError: The maps differ in shape.

    Example::

        >>> import torch
        >>> features = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
        >>> feature_loss(features, features).item()
        0.0
    """
    if features.shape != teacher_features.shape:
        raise ValueError(
            "Feature maps can be imitated where teacher and student have the same shape before pooling; got "
            f"{tuple(teacher_features.shape)} and {tuple(features.shape)}. Set feature_weight=0."
        )
    return functional.mse_loss(features, teacher_features) / teacher_features.var().clamp(min=1e-6)


@contextmanager
def feature_maps(network: nn.Module, names: Sequence[str] = ()) -> Iterator[list[Tensor]]:
    """Collect feature maps (N, C, H, W) while the network runs: of the named modules in order, and the one pooled.

    The last is the last map that a direct child of the network gives.
    """
    named: dict[str, Tensor] = {}
    last: list[Tensor] = []
    maps: list[Tensor] = []

    def keep_named(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            named[name] = output

        return hook

    def keep_last(module: nn.Module, inputs: object, output: object) -> None:
        # A child that pools gives a map of one pixel: the one before it says more.
        if isinstance(output, Tensor) and output.ndim == 4 and (output.shape[-2:].numel() > 1 or not last):
            # In place, so that the list that the hook knows stays the one that is read.
            last[:] = [output]

    handles = [child.register_forward_hook(keep_last) for child in network.children()]
    handles += [network.get_submodule(name).register_forward_hook(keep_named(name)) for name in names]
    try:
        yield maps
        maps.extend([*(named[name] for name in names), *last])
    finally:
        for handle in handles:
            handle.remove()

"""`apply_advice`: the network that an advice leads to, with the weights of the source."""

from __future__ import annotations

from torch import Tensor, nn

from lightning_nas.jobs.advice_harm import offering, supernet_around
from lightning_nas.jobs.advise import Advice
from lightning_nas.supernet import derive, find_supernet, refit

__all__ = ["apply_advice"]


def apply_advice(advice: Advice, model: nn.Module, images: Tensor | None = None) -> nn.Module:
    """Return a changed copy of a network: what the steps of an advice say, one after the other.

    Args:
        advice: What `advise` gave for this network.
        model: The network; not changed.
        images: Training images, shape (N, 3, H, W), normalised, to which the blocks are refitted; None inherits the
            weights as they are, which then need training.

    Raises:
        ValueError: The advice has no step that could be applied.

    Example::

        >>> import torch
        >>> from torchvision.models import mobilenet_v2
        >>> from lightning_nas.estimator import Estimator
        >>> from lightning_nas.jobs.advise import advise_on
        >>> network, example = mobilenet_v2(), torch.zeros(1, 3, 64, 64)
        >>> advice = advise_on(network, example, Estimator.load("ethos_u85_1024"))
        >>> apply_advice(advice, network).features[2].conv[0][0].kernel_size
        (3, 3)
    """
    architecture = advice.architecture
    if architecture is None or advice.space is None:
        raise ValueError(f"There is nothing to apply: no change of this {advice.network} by itself makes it faster.")
    changes = [step.suggestion.change for step in advice.steps if step.suggestion.change is not None]
    supernet = supernet_around(model, offering(advice.space, changes))
    subnet = derive(supernet, architecture)
    if images is not None:
        # Out of the sorted supernet, so that both have their channels in one order.
        refit(subnet, derive(supernet, find_supernet(supernet).space.reference_encoding), images)
    return subnet

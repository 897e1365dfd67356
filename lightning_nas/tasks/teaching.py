"""A trained network that teaches another: kept out of its state, run beside it, imitated map by map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from lightning_nas.io.numbers import check_number
from lightning_nas.tasks.distillation import feature_loss, feature_maps

__all__ = ["Taught", "Teacher", "check_teaching"]

Outputs = TypeVar("Outputs")


@dataclass
class Taught:
    """Feature maps of the network that learns, for `Teacher.feature_loss`.

    Attributes:
        maps: The maps of a batch; empty until the network has run, and where none are imitated.
    """

    maps: list[Tensor] = field(default_factory=list)


class Teacher(Generic[Outputs]):
    """Runs a frozen network beside the one that learns from it.

    `Outputs` is what the network returns for a batch: logits, or the maps of a detector.

    It is no module of the LightningModule that holds it: no state_dict, no optimizer and no train() reaches it.

    Args:
        network: The teacher, or None for none. It is frozen and set to eval mode.
        feature_weight: Weight of the difference between the feature maps, see `feature_loss`; 0 for none.
        feature_modules: Names of modules, in teacher and network alike, whose maps are imitated on average. Where the
            network's have fewer channels, the teacher's first ones are meant, as they are in a supernet's slices.
    """

    def __init__(self, network: nn.Module | None, feature_weight: float, feature_modules: Sequence[str]) -> None:
        self.network = None if network is None else network.requires_grad_(False).eval()
        self.feature_weight = feature_weight
        self.feature_modules = tuple(feature_modules)

    def to(self, device: torch.device) -> None:
        """Move the teacher, if there is one, to a device."""
        # Lightning moves the submodules of a module, and the teacher is none.
        if self.network is not None:
            self.network.to(device)

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[Taught]:
        """Collect the feature maps of the network that learns, while it runs within the context.

        Args:
            network: The network that learns.
        """
        taught = Taught()
        if self.network is None or not self.feature_weight:
            yield taught
            return
        with feature_maps(network, self.feature_modules) as maps:
            yield taught
        taught.maps = maps

    @torch.no_grad()
    def run(self, images: Tensor) -> tuple[Outputs, list[Tensor]]:
        """Return the teacher's outputs for images (N, 3, H, W), and its feature maps."""
        assert self.network is not None
        with feature_maps(self.network, self.feature_modules) as maps:
            outputs: Outputs = self.network(images.contiguous(memory_format=torch.channels_last))
        return outputs, maps

    def feature_loss(self, taught: Taught, goals: Sequence[Tensor]) -> Tensor | float:
        """Return the weighted loss of the last map plus the mean of those before it; 0 where none is imitated.

        Args:
            taught: Maps of the network that learns.
            goals: Maps of the teacher, of the same modules.

        Raises:
            ValueError: One of the two networks gives no maps.
        """
        if not self.feature_weight:
            return 0.0
        if not taught.maps or not goals:
            raise ValueError("No child of the network gives feature maps to imitate. Set feature_weight=0.")
        pairs = zip(taught.maps, goals, strict=True)
        *inner, last = [feature_loss(found, goal[:, : found.shape[1]]) for found, goal in pairs]
        total = last + torch.stack(inner).mean() if inner else last
        return self.feature_weight * total


def check_teaching(
    num_classes: int,
    feature_weight: float,
    distillation_weight: float,
    temperature: float,
    mixup: float = 0.0,
    cutmix: float = 0.0,
) -> None:
    """Refuse settings of a task that are out of range.

    Args:
        num_classes: Number of classes.
        feature_weight: Weight of the difference between feature maps.
        distillation_weight: Share or weight of the loss that imitates the teacher, 0 to 1.
        temperature: What both logits are divided by in that loss.
        mixup: Parameter of the shares by which images are mixed.
        cutmix: Parameter of the parts of images that are pasted into others.

    Raises:
        ValueError: One of them is out of range.
    """
    check_number("num_classes", num_classes, whole=True, least=1)
    for name, value in (("feature_weight", feature_weight), ("mixup", mixup), ("cutmix", cutmix)):
        check_number(name, value, least=0)
    check_number("distillation_weight", distillation_weight, least=0, most=1)
    check_number("temperature", temperature, above=0)

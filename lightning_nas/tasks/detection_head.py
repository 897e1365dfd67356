"""`DetectionHead`: what the task asks of a detector's head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from lightning_nas.tasks.boxes import Target

__all__ = ["DetectionHead", "TeachableHead", "detection_head_of", "teachable_head_of"]


@runtime_checkable
class DetectionHead(Protocol):
    """A module that turns features into maps, and knows what the maps mean.

    `outputs` below are the maps that its ``forward`` returned for a batch of N images.
    """

    def losses(self, outputs: Sequence[Tensor], targets: Sequence[Target], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return the parts of the loss by name.

        Args:
            outputs: The maps.
            targets: The true objects of each image.
            size: Height and width of the images in pixels.
        """
        ...

    def detections(self, outputs: Sequence[Tensor], size: tuple[int, int]) -> list[Target]:
        """Return for each image its ``boxes``, ``scores`` and ``labels``, the surest first.

        Args:
            outputs: The maps.
            size: Height and width of the images in pixels.
        """
        ...


@runtime_checkable
class TeachableHead(DetectionHead, Protocol):
    """A head that can imitate what a teacher's head of the same kind finds."""

    def imitation(self, outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """Return how far the maps are from those of the teacher's head.

        Args:
            outputs: The maps.
            wanted: The maps of the teacher's head for the same images.
        """
        ...


def detection_head_of(network: nn.Module) -> DetectionHead:
    """Return the head of a detector.

    Args:
        network: The detector.

    Raises:
        TypeError: Its attribute ``head`` is no `DetectionHead`.
    """
    head = getattr(network, "head", None)
    if not isinstance(head, DetectionHead):
        raise TypeError(
            f"A detector must have a `head` with the methods `losses` and `detections`; {_found(network, head)}."
        )
    return head


def teachable_head_of(network: nn.Module) -> TeachableHead:
    """Return the head of a detector that is to imitate a teacher.

    Args:
        network: The detector.

    Raises:
        TypeError: Its attribute ``head`` is no `TeachableHead`.
    """
    head = detection_head_of(network)
    if not isinstance(head, TeachableHead):
        raise TypeError(
            f"A head that imitates a teacher must have the method `imitation`; {_found(network, head)}. HINT: set"
            " `distillation_weight` to 0."
        )
    return head


def _found(network: nn.Module, head: object) -> str:
    return f"the head of {type(network).__name__} is {'missing' if head is None else type(head).__name__}"

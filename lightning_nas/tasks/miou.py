"""Mean intersection over union of the classes that occur."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lightning_nas.io.numbers import check_number

__all__ = ["IGNORE", "MeanIoU"]

IGNORE = 255
"""Label of the pixels that count for nothing."""


class MeanIoU(Metric):
    """Mean of the classes' intersections over unions, summed over all images first (Everingham et al. 2010).

    A class that no mask holds is left out, even if it is predicted somewhere: pixels that are given to it wrongly are
    missing in the class that they have. Without any labelled pixel the mean is not a number.

    Args:
        num_classes: Number of classes.

    Example::

        >>> metric = MeanIoU(num_classes=3)
        >>> metric(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 255]])).item()
        0.5
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    confusion: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        check_number("num_classes", num_classes, whole=True, least=1)
        self.num_classes = num_classes
        zeros = torch.zeros(num_classes, num_classes, dtype=torch.long)
        self.add_state("confusion", default=zeros, dist_reduce_fx="sum")

    @override
    def update(self, predicted: Tensor, masks: Tensor) -> None:
        """Count the pixels of predicted classes and of masks, both of shape (N, H, W)."""
        labelled = masks != IGNORE
        # One number for each pair of classes, so that one count gives the whole table.
        pairs = masks[labelled] * self.num_classes + predicted[labelled]
        self.confusion += torch.bincount(pairs, minlength=self.num_classes**2).view(self.num_classes, -1)

    @override
    def compute(self) -> Tensor:
        """Return the mean, a scalar."""
        there = self.confusion.sum(dim=1)
        union = there + self.confusion.sum(dim=0) - self.confusion.diagonal()
        return (self.confusion.diagonal()[there > 0] / union[there > 0]).mean()

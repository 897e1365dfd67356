"""`SearchTask`: what a job asks of a LightningModule, and what a picture of its results needs."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import lightning as L
from torch import Tensor, nn

from lightning_nas.tasks.boxes import Target
from lightning_nas.tasks.metric import TaskMetric

__all__ = ["PredictsBoxes", "PredictsMasks", "SearchTask", "network_of"]


class SearchTask(Protocol):
    """A LightningModule whose network recipes can search.

    It needs no base class of this package. Its `training_step` returns a loss; its `validation_step` and `test_step`
    log the metric as ``val_KEY`` and ``test_KEY``. A task that a teacher is to teach takes the options ``teacher``,
    ``feature_weight`` and ``feature_modules``, as `lightning_nas.tasks.classification.Classification` does.
    """

    @property
    def metric(self) -> TaskMetric:
        """The figure that networks are compared by."""
        ...

    @property
    def network(self) -> nn.Module:
        """The network that is searched."""
        ...


@runtime_checkable
class PredictsBoxes(Protocol):
    """A task whose results can be drawn as boxes."""

    def detections(self, images: Tensor) -> list[Target]:
        """Return for each of the images (N, 3, H, W) its ``boxes``, ``scores`` and ``labels``, the surest first."""
        ...


@runtime_checkable
class PredictsMasks(Protocol):
    """A task whose results can be drawn as masks."""

    def predicted(self, images: Tensor) -> Tensor:
        """Return the class of each pixel (N, H, W) of images (N, 3, H, W)."""
        ...


def network_of(module: L.LightningModule) -> nn.Module:
    """Return the network of a task.

    Args:
        module: The LightningModule of the task.

    Raises:
        TypeError: It has no module as its attribute ``network``.
    """
    network = getattr(module, "network", None)
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"`network` of a task must be the module that is searched; got {network!r} of {type(module).__name__}."
        )
    return network

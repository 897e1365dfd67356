"""Detection as an ordinary LightningModule, with optional imitation of a teacher's features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import ClassVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torchmetrics.detection import MeanAveragePrecision
from typing_extensions import override

from lightning_nas.tasks.boxes import Target
from lightning_nas.tasks.detection_head import detection_head_of, teachable_head_of
from lightning_nas.tasks.metric import TaskMetric
from lightning_nas.tasks.optimizing import OptimizerName, Optimizing
from lightning_nas.tasks.teaching import Teacher, check_teaching

__all__ = ["Detection"]

Batch = tuple[Tensor, list[Target]]

# What the measure takes of the truth.
_TRUTH = ("boxes", "labels", "iscrowd", "area")


class Detection(L.LightningModule):
    """Trains a detector: a network whose ``head`` is a `DetectionHead`, such as `Detector`.

    Batches are images (N, 3, H, W) and a list of one dictionary an image: ``boxes`` (n, 4), xyxy in pixels, and
    ``labels`` (n,); also ``iscrowd``, ``area`` and ``scale`` where COCO's measure is to know them, see
    `lightning_nas.tasks.boxes.Target`. It logs ``train_loss`` and its parts, ``val_loss``, ``val_ap50``, ``val_map``,
    ``test_loss``, ``test_ap50`` and ``test_map``: COCO's average precision at an overlap of 0.5, and its mean over 0.5
    to 0.95; of the test also ``test_map_small``, ``_medium`` and ``_large``, where there are objects of that size.

    Args:
        network: Detector to train. Images come in channels-last memory format; who builds the network converts it.
        num_classes: Number of classes, background not counted.
        lr: Highest learning rate.
        weight_decay: Decay of the weights of convolutions.
        optimizer: ``sgd`` or ``adamw``.
        warmup_fraction: Share of the steps over which the learning rate rises.
        teacher: Detector that is imitated too, or None. It is frozen, is trained by nobody and is in no checkpoint.
        distillation_weight: Weight of the difference from what the teacher's head finds.
        feature_weight: Weight of the difference from the teacher's feature maps, see `Teacher`; 0 for none.
        feature_modules: Names of the modules whose maps are imitated.

    Raises:
        ValueError: A setting is out of range.
    """

    metric: ClassVar[TaskMetric] = TaskMetric("AP50", "ap50")
    """The figure that networks are compared by."""

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        lr: float = 1e-3,
        weight_decay: float = 0.02,
        optimizer: OptimizerName = "adamw",
        warmup_fraction: float = 0.05,
        teacher: nn.Module | None = None,
        distillation_weight: float = 0.0,
        feature_weight: float = 0.0,
        feature_modules: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.optimizing = Optimizing(optimizer, lr, weight_decay, warmup_fraction)
        check_teaching(num_classes, feature_weight, distillation_weight, temperature=1.0)
        # Plain arguments: Lightning keeps them in checkpoints, and makes the module of them again.
        self.save_hyperparameters(ignore=["network", "teacher"], logger=False)
        self.network = network
        self.num_classes = num_classes
        self.distillation_weight = distillation_weight
        self.teacher: Teacher[list[Tensor]] = Teacher(teacher, feature_weight, feature_modules)
        self.val_precision = _precision()
        self.test_precision = _precision()

    @override
    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(images.contiguous(memory_format=torch.channels_last))
        return maps

    @override
    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        images, targets = batch
        with self.teacher.watching(self.network) as taught:
            outputs = self(images)
        losses = self._losses(outputs, targets, images)
        loss = torch.stack(list(losses.values())).sum()
        for name, value in losses.items():
            self.log(f"train_loss/{name}", value, batch_size=len(images))
        if self.teacher.network is not None:
            wanted, goals = self.teacher.run(images)
            loss = loss + self.teacher.feature_loss(taught, goals)
            if self.distillation_weight:
                loss = loss + self.distillation_weight * self._imitation(outputs, wanted)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    @override
    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate("val", self.val_precision, batch)

    @override
    def on_validation_epoch_end(self) -> None:
        self._report("val", self.val_precision)

    @override
    def test_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate("test", self.test_precision, batch)

    @override
    def on_test_epoch_end(self) -> None:
        self._report("test", self.test_precision)

    @override
    def on_fit_start(self) -> None:
        self.teacher.to(self.device)

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return self.optimizing.configured(self)

    def detections(self, images: Tensor) -> list[Target]:
        """Return for each of the images (N, 3, H, W) its ``boxes``, ``scores`` and ``labels``, the surest first."""
        height, width = images.shape[-2:]
        return detection_head_of(self.network).detections(self(images), (height, width))

    def _losses(self, outputs: list[Tensor], targets: list[Target], images: Tensor) -> dict[str, Tensor]:
        height, width = images.shape[-2:]
        wide = [output.float() for output in outputs]
        return detection_head_of(self.network).losses(wide, targets, (height, width))

    def _imitation(self, outputs: list[Tensor], wanted: list[Tensor]) -> Tensor:
        own, goals = ([output.float() for output in maps] for maps in (outputs, wanted))
        return teachable_head_of(self.network).imitation(own, goals)

    def _evaluate(self, split: str, precision: MeanAveragePrecision, batch: Batch) -> None:
        images, targets = batch
        outputs = self(images)
        loss = torch.stack(list(self._losses(outputs, targets, images).values())).sum()
        self.log(f"{split}_loss", loss, batch_size=len(images), sync_dist=True)
        height, width = images.shape[-2:]
        found = detection_head_of(self.network).detections(outputs, (height, width))
        truth = [{name: target[name] for name in _TRUTH if name in target} for target in targets]
        pairs = zip(found, truth, targets, strict=True)
        scaled = [(_counted(one, target), _counted(true, target)) for one, true, target in pairs]
        precision.update([one for one, _ in scaled], [true for _, true in scaled])

    def _report(self, split: str, precision: MeanAveragePrecision) -> None:
        # Several figures are logged of one metric, so that Lightning does not see it, and does not reset it either.
        figures = precision.compute()
        precision.reset()
        # It is -1 where no image has a box.
        self.log(f"{split}_ap50", figures["map_50"].clamp(min=0.0).to(self.device), prog_bar=True)
        self.log(f"{split}_map", figures["map"].clamp(min=0.0).to(self.device))
        for size in ("small", "medium", "large"):
            if split == "test" and (figure := figures[f"map_{size}"]) >= 0:
                self.log(f"test_map_{size}", figure.to(self.device))


def _counted(boxes: Target, target: Target) -> Target:
    """Return boxes in the pixels that the target's areas are counted in."""
    if "scale" not in target:
        return boxes
    return {**boxes, "boxes": boxes["boxes"] * target["scale"].repeat(2)}


def _precision() -> MeanAveragePrecision:
    # It would log a dozen lines for each epoch.
    logging.getLogger("faster_coco_eval").setLevel(logging.WARNING)
    # COCO's own thresholds: torchmetrics' are of single precision, and miss an overlap of exactly 0.6.
    overlaps, recalls = np.linspace(0.5, 0.95, 10).tolist(), np.linspace(0, 1, 101).tolist()
    return MeanAveragePrecision("xyxy", "bbox", overlaps, recalls, backend="faster_coco_eval")

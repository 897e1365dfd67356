"""Semantic segmentation as an ordinary LightningModule, with optional distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from lightning_nas.io.numbers import check_number, check_numbers
from lightning_nas.tasks.distillation import distillation_loss
from lightning_nas.tasks.metric import TaskMetric
from lightning_nas.tasks.miou import IGNORE, MeanIoU
from lightning_nas.tasks.mixup import paste
from lightning_nas.tasks.optimizing import OptimizerName, Optimizing
from lightning_nas.tasks.teaching import Teacher, check_teaching

__all__ = ["Segmentation", "mask_loss"]

Batch = tuple[Tensor, Tensor]


class Segmentation(L.LightningModule):
    """Trains a network that turns images (N, 3, H, W) into logits (N, num_classes, h, w) of any resolution.

    Batches are images and masks (N, H, W) of class indices, 255 where a pixel counts for nothing. Logits are enlarged
    to the masks' size for loss and metric. It logs ``train_loss``, ``val_loss``, ``val_miou``, ``test_loss`` and
    ``test_miou``, see `MeanIoU`.

    Args:
        network: Network to train, such as `Segmenter`. Images come in channels-last memory format; who builds the
            network converts it.
        num_classes: Number of classes.
        lr: Highest learning rate.
        weight_decay: Decay of the weights of convolutions.
        optimizer: ``sgd`` or ``adamw``.
        warmup_fraction: Share of the steps over which the learning rate rises.
        label_smoothing: Share of the target that is spread over all classes.
        class_weights: How much a pixel of each class counts in the loss; all the same by default.
        teacher: Network whose logits are imitated too, or None. It is frozen, is trained by nobody and is in no
            checkpoint.
        distillation_weight: Share of the teacher's loss in the training loss, 0 to 1. It is the mean over all pixels of
            the logits: a teacher has an opinion on those, too, that the masks say nothing about.
        temperature: Divides both logits in the teacher's loss.
        feature_weight: Weight of the difference from the teacher's feature maps, see `Teacher`; 0 for none. The last
            map of a `Segmenter` is its logits.
        feature_modules: Names of the modules whose maps are imitated.
        cutmix: Parameter of the Beta distribution by which rectangles of training images are pasted into others, see
            `paste`; 0 pastes none. With few images, a teacher knows more of such new ones than of those that it has
            seen (Beyer et al. 2022, arXiv 2106.05237).

    Raises:
        ValueError: A setting is out of range.

    Example::

        >>> model = Segmentation(nn.Conv2d(3, 5, 3, 2, 1), num_classes=5)
        >>> model(torch.zeros(2, 3, 8, 8)).shape, model.predicted(torch.zeros(2, 3, 8, 8)).shape
        (torch.Size([2, 5, 4, 4]), torch.Size([2, 8, 8]))
    """

    metric: ClassVar[TaskMetric] = TaskMetric("mIoU", "miou")
    """The figure that networks are compared by."""

    class_weights: Tensor | None

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        lr: float = 1e-3,
        weight_decay: float = 0.02,
        optimizer: OptimizerName = "adamw",
        warmup_fraction: float = 0.05,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        teacher: nn.Module | None = None,
        distillation_weight: float = 0.5,
        temperature: float = 2.0,
        feature_weight: float = 0.0,
        feature_modules: Sequence[str] = (),
        cutmix: float = 0.0,
    ) -> None:
        super().__init__()
        self.optimizing = Optimizing(optimizer, lr, weight_decay, warmup_fraction)
        check_number("num_classes", num_classes, whole=True, least=2, most=IGNORE)
        check_teaching(num_classes, feature_weight, distillation_weight, temperature, cutmix=cutmix)
        check_number("label_smoothing", label_smoothing, least=0, most=1)
        if class_weights is not None:
            class_weights = _checked(class_weights, num_classes)
        # Plain arguments: Lightning keeps them in checkpoints, and makes the module of them again.
        self.save_hyperparameters(ignore=["network", "teacher"], logger=False)
        self.network = network
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.distillation_weight = distillation_weight
        self.temperature = temperature
        self.cutmix = cutmix
        self.teacher: Teacher[Tensor] = Teacher(teacher, feature_weight, feature_modules)
        weights = None if class_weights is None else torch.tensor(class_weights)
        # A setting: checkpoints have it among the hyperparameters.
        self.register_buffer("class_weights", weights, persistent=False)
        self.val_iou = MeanIoU(num_classes)
        self.test_iou = MeanIoU(num_classes)

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits

    @override
    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        images, masks = batch
        # Compared subnets run this step in evaluation mode, on images as they are.
        if self.training and self.cutmix:
            images, masks = paste(images, masks, self.cutmix, seed=self.global_step)
        with self.teacher.watching(self.network) as taught:
            logits = self._logits(images)
        loss = mask_loss(logits, masks, self.class_weights, self.label_smoothing)
        if self.teacher.network is not None:
            wanted, goals = self.teacher.run(images)
            imitation = distillation_loss(_pixels(logits), _pixels(_resized(wanted, logits)), self.temperature)
            loss = torch.lerp(loss, imitation, self.distillation_weight)
            loss = loss + self.teacher.feature_loss(taught, goals)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    @override
    def validation_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate("val", self.val_iou, batch)

    @override
    def test_step(self, batch: Batch, batch_index: int) -> None:
        self._evaluate("test", self.test_iou, batch)

    @override
    def on_fit_start(self) -> None:
        self.teacher.to(self.device)

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return self.optimizing.configured(self)

    def predicted(self, images: Tensor) -> Tensor:
        """Return the class of each pixel (N, H, W) of images (N, 3, H, W)."""
        return _resized(self._logits(images), images).argmax(dim=1)

    def _logits(self, images: Tensor) -> Tensor:
        logits = self(images)
        if logits.ndim != 4 or logits.shape[:2] != (len(images), self.num_classes):
            expected = f"({len(images)}, {self.num_classes}, height, width)"
            raise ValueError(f"`network` must return logits of shape {expected}; got {tuple(logits.shape)}.")
        return logits.float()

    def _evaluate(self, split: str, iou: MeanIoU, batch: Batch) -> None:
        images, masks = batch
        logits = self._logits(images)
        loss = mask_loss(logits, masks, self.class_weights)
        self.log(f"{split}_loss", loss, batch_size=len(images), sync_dist=True)
        iou.update(_resized(logits, masks).argmax(dim=1), masks)
        self.log(f"{split}_miou", iou, prog_bar=True, batch_size=len(images))


def mask_loss(
    logits: Tensor, masks: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Return the mean cross-entropy of the labelled pixels; zero, with a graph, where no pixel is labelled.

    Args:
        logits: Logits, shape (N, num_classes, h, w); they are enlarged to the masks' size.
        masks: Class indices, 255 for pixels that count for nothing, shape (N, H, W).
        class_weights: How much a pixel of each class counts, shape (num_classes,), or None.
        label_smoothing: Share of the target that is spread over all classes.

    Example::

        >>> logits = torch.zeros(1, 2, 2, 2, requires_grad=True)
        >>> mask_loss(logits, torch.full((1, 4, 4), 255)).item()
        0.0
    """
    # PyTorch's own mean would be 0 / 0 where no pixel is labelled.
    total = functional.cross_entropy(
        _resized(logits, masks),
        masks,
        class_weights,
        ignore_index=IGNORE,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    labels = masks[masks != IGNORE]
    count = torch.tensor(labels.numel()).to(total) if class_weights is None else class_weights[labels].sum()
    # Where it is zero the total is, too.
    return total / torch.where(count > 0, count, 1)


def _checked(class_weights: Sequence[float], num_classes: int) -> list[float]:
    check_numbers("class_weights", class_weights, above=0)
    values = [float(value) for value in class_weights]
    if len(values) != num_classes:
        raise ValueError(f"`class_weights` must be {num_classes} positive numbers, one a class; got {values}.")
    return values


def _resized(logits: Tensor, like: Tensor) -> Tensor:
    """Return logits as large as `like`."""
    if logits.shape[-2:] == like.shape[-2:]:
        return logits
    return functional.interpolate(logits, size=tuple(like.shape[-2:]), mode="bilinear", align_corners=False)


def _pixels(logits: Tensor) -> Tensor:
    """Return logits (N, num_classes, h, w) as those of each pixel, (N * h * w, num_classes)."""
    return logits.movedim(1, -1).flatten(0, 2)

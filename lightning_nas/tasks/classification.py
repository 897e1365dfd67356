"""Classification as an ordinary LightningModule, with optional distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from lightning_nas.io.numbers import check_number
from lightning_nas.tasks.distillation import distillation_loss
from lightning_nas.tasks.metric import TaskMetric
from lightning_nas.tasks.mixup import mix
from lightning_nas.tasks.optimizing import OptimizerName, Optimizing
from lightning_nas.tasks.teaching import Teacher, check_teaching

__all__ = ["Classification"]


class Classification(L.LightningModule):
    """Trains a network that turns images (N, 3, H, W) into logits (N, num_classes).

    The learning rate rises linearly, then falls along a cosine to zero at the trainer's last step. Norms and biases
    have no weight decay. It logs ``train_loss``, ``val_loss``, ``val_acc``, ``test_loss`` and ``test_acc``.

    Args:
        network: Network to train. Images come in channels-last memory format; who builds the network converts it.
        num_classes: Number of classes.
        lr: Highest learning rate.
        weight_decay: Decay of the weights of convolutions and linear layers.
        optimizer: ``sgd`` or ``adamw``.
        warmup_fraction: Share of the steps over which the learning rate rises.
        label_smoothing: Share of the target that is spread over all classes.
        teacher: Network whose logits are imitated too, or None. It is frozen and set to eval mode, is trained by
            nobody and is in no checkpoint.
        distillation_weight: Share of the teacher's loss in the training loss, 0 to 1.
        temperature: Divides both logits in the teacher's loss.
        feature_weight: Weight of the difference from the teacher's last feature map, see `feature_loss`; 0 for none.
            Worth most on small data.
        feature_modules: Names of modules, in network and teacher alike, whose maps are imitated too, on average with
            the same weight. Where the network's have fewer channels, the teacher's first ones are meant, as they are
            in a supernet's slices.
        mixup: Parameter of the Beta distribution by which pairs of training images are mixed (Zhang et al. 2018,
            arXiv 1710.09412); 0 mixes none. With few images, a teacher that labels mixed ones says much more than their
            labels do (Beyer et al. 2022, arXiv 2106.05237).

    Raises:
        ValueError: A setting is out of range.

    Example::

        >>> model = Classification(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), num_classes=3)
        >>> model(torch.zeros(2, 3, 2, 2)).shape
        torch.Size([2, 3])
    """

    metric: ClassVar[TaskMetric] = TaskMetric("accuracy", "acc")
    """The figure that networks are compared by."""

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        lr: float = 0.05,
        weight_decay: float = 1e-4,
        optimizer: OptimizerName = "sgd",
        warmup_fraction: float = 0.05,
        label_smoothing: float = 0.0,
        teacher: nn.Module | None = None,
        distillation_weight: float = 0.5,
        temperature: float = 2.0,
        feature_weight: float = 0.0,
        feature_modules: Sequence[str] = (),
        mixup: float = 0.0,
    ) -> None:
        super().__init__()
        self.optimizing = Optimizing(optimizer, lr, weight_decay, warmup_fraction)
        check_number("num_classes", num_classes, whole=True, least=2)
        check_teaching(num_classes, feature_weight, distillation_weight, temperature, mixup)
        check_number("label_smoothing", label_smoothing, least=0, most=1)
        # Plain arguments: Lightning keeps them in checkpoints, and makes the module of them again.
        self.save_hyperparameters(ignore=["network", "teacher"], logger=False)
        self.network = network
        self.num_classes = num_classes
        self.label_smoothing = label_smoothing
        self.distillation_weight = distillation_weight
        self.temperature = temperature
        self.mixup = mixup
        self.teacher: Teacher[Tensor] = Teacher(teacher, feature_weight, feature_modules)
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    @override
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.contiguous(memory_format=torch.channels_last))

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, targets = batch
        # Compared subnets run this step in evaluation mode, on images as they are.
        if self.training and self.mixup:
            images, targets = mix(images, targets, self.num_classes, self.mixup, seed=self.global_step)
        with self.teacher.watching(self.network) as taught:
            logits = self._logits(images)
        loss = functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        if self.teacher.network is not None:
            teacher_logits, goals = self.teacher.run(images)
            loss = torch.lerp(
                loss, distillation_loss(logits, teacher_logits, self.temperature), self.distillation_weight
            )
            loss = loss + self.teacher.feature_loss(taught, goals)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        self._evaluate("val", self.val_accuracy, batch)

    @override
    def test_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        self._evaluate("test", self.test_accuracy, batch)

    @override
    def on_fit_start(self) -> None:
        self.teacher.to(self.device)

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return self.optimizing.configured(self)

    def _logits(self, images: Tensor) -> Tensor:
        logits = self(images)
        if logits.shape != (len(images), self.num_classes):
            expected = (len(images), self.num_classes)
            raise ValueError(f"`network` must return logits of shape {expected}; got {tuple(logits.shape)}.")
        return logits

    def _evaluate(self, split: str, accuracy: MulticlassAccuracy, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = self._logits(images)
        # A metric adds up over processes by itself; the loss has to be told to.
        accuracy(logits, labels)
        self.log(f"{split}_loss", functional.cross_entropy(logits, labels), batch_size=len(labels), sync_dist=True)
        self.log(f"{split}_acc", accuracy, prog_bar=True, batch_size=len(labels))

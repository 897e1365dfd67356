"""Classification as an ordinary LightningModule, with optional distillation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from .distillation import distillation_loss, feature_loss, feature_maps
from .mixup import mix

__all__ = ["Classification", "OptimizerName"]

OptimizerName = Literal["sgd", "adamw"]
"""``sgd`` is SGD with Nesterov momentum 0.9."""


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
        for name, value in (("feature_weight", feature_weight), ("mixup", mixup)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"`{name}` must be zero or a positive number; got {value}.")
        _check_settings(num_classes, lr, weight_decay, optimizer, temperature)
        for name, value in (
            ("warmup_fraction", warmup_fraction),
            ("label_smoothing", label_smoothing),
            ("distillation_weight", distillation_weight),
        ):
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` must be between 0 and 1; got {value}.")
        self.save_hyperparameters(ignore=["network", "teacher"], logger=False)
        self.network = network
        self.num_classes = num_classes
        self.lr = lr
        self.weight_decay = weight_decay
        self.optimizer_name = optimizer
        self.warmup_fraction = warmup_fraction
        self.label_smoothing = label_smoothing
        self.distillation_weight = distillation_weight
        self.temperature = temperature
        self.feature_weight = feature_weight
        self.feature_modules = tuple(feature_modules)
        self.mixup = mixup
        # A tuple hides the teacher from nn.Module: no state_dict, no optimizer and no train() reaches it.
        self._teacher = () if teacher is None else (teacher.requires_grad_(False).eval(),)
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    @override
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.contiguous(memory_format=torch.channels_last))

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, targets = batch
        if self.training and self.mixup:
            images, targets = mix(images, targets, self.num_classes, self.mixup, seed=self.global_step)
        with feature_maps(self.network, self.feature_modules) as maps:
            logits = self._logits(images)
        loss = functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        for teacher in self._teacher:
            with torch.no_grad(), feature_maps(teacher, self.feature_modules) as goals:
                teacher_logits = teacher(images.contiguous(memory_format=torch.channels_last))
            imitation = distillation_loss(logits, teacher_logits, self.temperature)
            loss = torch.lerp(loss, imitation, self.distillation_weight)
            if self.feature_weight:
                loss = loss + self.feature_weight * _feature_losses(maps, goals)
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
        for teacher in self._teacher:
            teacher.to(self.device)

    @override
    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        groups = _decay_groups(self, self.weight_decay)
        optimizer: torch.optim.Optimizer
        if self.optimizer_name == "sgd":
            optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=0.9, nesterov=True)
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.lr)
        num_steps = self.trainer.estimated_stepping_batches
        if not math.isfinite(num_steps):
            raise MisconfigurationException(
                "The learning rate needs to know the last step; this trainer has no end. "
                "HINT: give the Trainer `max_steps` or `max_epochs`."
            )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": _cosine(optimizer, int(num_steps), self.warmup_fraction), "interval": "step"},
        }

    def _logits(self, images: Tensor) -> Tensor:
        logits = self(images)
        if logits.shape != (len(images), self.num_classes):
            expected = (len(images), self.num_classes)
            raise ValueError(f"`network` must return logits of shape {expected}; got {tuple(logits.shape)}.")
        return logits

    def _evaluate(self, split: str, accuracy: MulticlassAccuracy, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        logits = self._logits(images)
        accuracy(logits, labels)
        self.log(f"{split}_loss", functional.cross_entropy(logits, labels), batch_size=len(labels), sync_dist=True)
        self.log(f"{split}_acc", accuracy, prog_bar=True, batch_size=len(labels))


def _feature_losses(maps: Sequence[Tensor], goals: Sequence[Tensor]) -> Tensor:
    """Return the loss of the last map plus the mean of those of the modules before it."""
    if not maps or not goals:
        raise ValueError("No child of the network gives feature maps to imitate. Set feature_weight=0.")
    *inner, last = maps
    *inner_goals, last_goal = goals
    loss = feature_loss(last, last_goal)
    if inner:
        slices = [goal[:, : found.shape[1]] for found, goal in zip(inner, inner_goals, strict=True)]
        loss = loss + torch.stack([feature_loss(*pair) for pair in zip(inner, slices, strict=True)]).mean()
    return loss


def _check_settings(num_classes: int, lr: float, weight_decay: float, optimizer: str, temperature: float) -> None:
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2; got {num_classes}.")
    if optimizer not in get_args(OptimizerName):
        raise ValueError(f"`optimizer` must be one of {', '.join(get_args(OptimizerName))}; got {optimizer!r}.")
    for name, value in (("lr", lr), ("temperature", temperature)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"`{name}` must be a positive number; got {value}.")
    if not (math.isfinite(weight_decay) and weight_decay >= 0):
        raise ValueError(f"`weight_decay` must be zero or a positive number; got {weight_decay}.")


def _decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # Norms and biases are the parameters of one dimension; decaying them costs accuracy and regularises nothing.
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _cosine(optimizer: torch.optim.Optimizer, num_steps: int, warmup_fraction: float) -> LambdaLR:
    num_warmup = round(warmup_fraction * num_steps)

    def factor(step: int) -> float:
        if step < num_warmup:
            return (step + 1) / (num_warmup + 1)
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)

"""Classification as an ordinary LightningModule, with optional distillation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
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

__all__ = ["Classification", "OptimizerName", "distillation_loss", "feature_loss"]

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
        feature_weight: Weight of the mean squared difference from the teacher's last feature map, relative to that
            map's variance (FitNets, Romero et al. 2015, arXiv 1412.6550); 0 for none. Worth most on small data.
        temperature: Divides both logits in the teacher's loss.

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
    ) -> None:
        super().__init__()
        if not (math.isfinite(feature_weight) and feature_weight >= 0):
            raise ValueError(f"`feature_weight` must be zero or a positive number; got {feature_weight}.")
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
        # A tuple hides the teacher from nn.Module: no state_dict, no optimizer and no train() reaches it.
        self._teacher = () if teacher is None else (teacher.requires_grad_(False).eval(),)
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")

    @override
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.contiguous(memory_format=torch.channels_last))

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, labels = batch
        with _last_feature_map(self.network) as features:
            logits = self._logits(images)
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        for teacher in self._teacher:
            with torch.no_grad(), _last_feature_map(teacher) as teacher_features:
                teacher_logits = teacher(images.contiguous(memory_format=torch.channels_last))
            imitation = distillation_loss(logits, teacher_logits, self.temperature)
            loss = torch.lerp(loss, imitation, self.distillation_weight)
            if self.feature_weight:
                loss = loss + self.feature_weight * feature_loss(features[-1], teacher_features[-1])
        self.log("train_loss", loss, prog_bar=True, batch_size=len(labels))
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


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return the divergence of softened predictions from a teacher's (Hinton et al. 2015, arXiv 1503.02531).

    The factor of the squared temperature keeps the size of the gradients whatever the temperature is.

    Example::

        >>> logits = torch.tensor([[1.0, 2.0]])
        >>> distillation_loss(logits, logits, temperature=2.0).item()
        0.0
    """
    student = functional.log_softmax(logits / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)


def feature_loss(features: Tensor, teacher_features: Tensor) -> Tensor:
    """Return the mean squared difference of two feature maps (N, C, H, W), relative to the teacher's variance.

    Raises:
        ValueError: The maps differ in shape.

    Example::

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
def _last_feature_map(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the outputs (N, C, H, W) of the network's direct children; the last is what is pooled."""
    maps: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        # A child that pools gives a map of one pixel: the one before it says more.
        if isinstance(output, Tensor) and output.ndim == 4 and (output.shape[-2:].numel() > 1 or not maps):
            maps.append(output)

    handles = [child.register_forward_hook(keep) for child in network.children()]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


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

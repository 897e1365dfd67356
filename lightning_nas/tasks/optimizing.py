"""Optimizers of the tasks: SGD or AdamW, with a warm-up and a cosine schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import lightning as L
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch.optim.lr_scheduler import LambdaLR

from lightning_nas.io.numbers import check_number

__all__ = ["Optimizing", "OptimizerName"]

OptimizerName = Literal["sgd", "adamw"]
"""``sgd`` is SGD with Nesterov momentum 0.9."""


@dataclass(frozen=True)
class Optimizing:
    """Settings of an optimizer and of its learning-rate schedule. Norms and biases have no weight decay.

    Attributes:
        optimizer: ``sgd`` or ``adamw``.
        lr: Highest learning rate.
        weight_decay: Decay of the weights of convolutions and linear layers.
        warmup_fraction: Share of the steps over which the learning rate rises.

    Raises:
        ValueError: A setting is out of range.
    """

    optimizer: OptimizerName
    lr: float
    weight_decay: float
    warmup_fraction: float

    def __post_init__(self) -> None:
        if self.optimizer not in get_args(OptimizerName):
            raise ValueError(
                f"`optimizer` must be one of {', '.join(get_args(OptimizerName))}; got {self.optimizer!r}."
            )
        check_number("lr", self.lr, above=0)
        check_number("weight_decay", self.weight_decay, least=0)
        check_number("warmup_fraction", self.warmup_fraction, least=0, most=1)

    def configured(self, module: L.LightningModule) -> OptimizerLRSchedulerConfig:
        """Return the optimizer and the schedule of a module, for its `configure_optimizers`.

        Args:
            module: The module, attached to a trainer.

        Raises:
            MisconfigurationException: Its trainer has no last step.
        """
        groups = _decay_groups(module, self.weight_decay)
        optimizer: torch.optim.Optimizer
        if self.optimizer == "sgd":
            optimizer = torch.optim.SGD(groups, lr=self.lr, momentum=0.9, nesterov=True)
        else:
            optimizer = torch.optim.AdamW(groups, lr=self.lr)
        num_steps = module.trainer.estimated_stepping_batches
        if not math.isfinite(num_steps):
            raise MisconfigurationException(
                "The learning rate needs to know the last step; this trainer has no end. "
                "HINT: give the Trainer `max_steps` or `max_epochs`."
            )
        schedule = _cosine(optimizer, int(num_steps), self.warmup_fraction)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _decay_groups(module: L.LightningModule, weight_decay: float) -> list[dict[str, object]]:
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # Norms and biases are the parameters of one dimension; decaying them costs accuracy and regularises nothing.
    groups: list[dict[str, object]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _cosine(optimizer: torch.optim.Optimizer, num_steps: int, warmup_fraction: float) -> LambdaLR:
    num_warmup = round(warmup_fraction * num_steps)

    def factor(step: int) -> float:
        if step < num_warmup:
            # No step has a rate of 0, and the highest one comes right after the warm-up.
            return (step + 1) / (num_warmup + 1)
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return LambdaLR(optimizer, factor)

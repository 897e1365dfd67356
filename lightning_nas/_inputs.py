"""What a job is given, as its records name it and as its trainings begin with it."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["data_name", "network_settings", "training_images"]


def network_settings(network: partial[nn.Module], num_classes: int) -> dict[str, Any]:
    """Return what the network was made of, without the weights that it began with."""
    return {"num_classes": num_classes, **{key: value for key, value in network.keywords.items() if key != "weights"}}


def data_name(data: Any) -> str:
    """Return the name of the data or of its folder; of embedded data, which has none, that of its class in words."""
    if getattr(data, "name", None):
        return str(data.name)
    if hasattr(data, "root"):
        return str(data.root.name)
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(data).__name__.removesuffix("DataModule")).lower()


def training_images(data: Any, num_batches: int) -> Tensor:
    """Return the images of a datamodule's first training batches, shape (N, 3, H, W)."""
    # Where nothing has been trained yet, no trainer has done this.
    data.prepare_data()
    data.setup("fit")
    pairs = zip(data.train_dataloader(), range(num_batches), strict=False)
    return torch.cat([images for (images, _), _ in pairs])

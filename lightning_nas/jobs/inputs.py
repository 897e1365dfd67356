"""Names of a job's data and network for its record, and its first training images."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["contents_text", "data_name", "inputs_and_outputs", "network_settings", "prepare", "training_images"]

log = logging.getLogger(__name__)

MAX_CLASSES = 30


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


def prepare(modules: Sequence[Any]) -> None:
    """Say which classes and splits were found, and prepare the data before anything is trained or written.

    Args:
        modules: Datamodules of one data set, such as one for each size of images.

    Raises:
        ValueError: Image files are missing, damaged or no images.
    """
    first = modules[0]
    if names := _class_names(first):
        contents = getattr(first, "contents", {})
        log.info("%s", contents_text(data_name(first), names, contents if isinstance(contents, Mapping) else {}))
    for module in modules:
        module.prepare_data()


def contents_text(name: str, class_names: Sequence[str], splits: Mapping[str, Any]) -> str:
    """Return a table of classes and splits.

    Args:
        name: Name of the data set.
        class_names: Names of the classes, in the order of their indices.
        splits: What each split holds: ``num_images``, and ``num_of_class`` in the order of the classes; empty where
            that is not known.

    Example::

        >>> from lightning_nas.data._contents import SplitContents
        >>> print(contents_text("pets", ["cat", "dog"], {"train": SplitContents(5, (2, 3))}))
        Data 'pets', 2 classes; images of each in
                train
        0 cat       2
        1 dog       3
        all         5
    """
    shown, hidden = class_names[:MAX_CLASSES], len(class_names) - MAX_CLASSES
    more = [f"and {hidden} more"] if hidden > 0 else []
    if not splits:
        return f"Data '{name}', {len(class_names)} classes: {', '.join([*shown, *more])}"
    labels = [f"{index} {class_name}" for index, class_name in enumerate(shown)]
    width = max(map(len, [*labels, "all"]))
    rows = [
        "".join([f"{label:<{width}}", *(f"{split.num_of_class[index]:>8}" for split in splits.values())])
        for index, label in enumerate(labels)
    ]
    total = "".join([f"{'all':<{width}}", *(f"{split.num_images:>8}" for split in splits.values())])
    head = "".join([" " * width, *(f"{split:>8}" for split in splits)])
    return "\n".join([f"Data '{name}', {len(class_names)} classes; images of each in", head, *rows, *more, total])


def inputs_and_outputs(data: Any) -> dict[str, Any]:
    """Return what whoever deploys a network has to know of the data: its classes, and what is done to an image.

    Args:
        data: A datamodule; what it does not know is left out.
    """
    found: dict[str, Any] = {}
    if names := _class_names(data):
        found["classes"] = names
    preprocessing = getattr(data, "preprocessing", None)
    if preprocessing is not None and hasattr(preprocessing, "to_dict"):
        found["preprocessing"] = preprocessing.to_dict()
    return found


def _class_names(data: Any) -> list[str]:
    return [str(name) for name in getattr(data, "class_names", None) or ()]


def training_images(data: Any, num_batches: int) -> Tensor:
    """Return the images of a datamodule's first training batches, shape (N, 3, H, W)."""
    # Where nothing has been trained yet, no trainer has done this.
    data.prepare_data()
    data.setup("fit")
    pairs = zip(data.train_dataloader(), range(num_batches), strict=False)
    return torch.cat([images for (images, _), _ in pairs])

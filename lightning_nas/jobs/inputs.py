"""Names of a job's data for its record, and its first training images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_nas.jobs.search_data import SearchData, SplitCounts, contents_of, facts_of

__all__ = ["contents_text", "data_name", "inputs_and_outputs", "prepare", "training_images"]

log = logging.getLogger(__name__)

MAX_CLASSES = 30


def data_name(data: object) -> str:
    """Return the name of a data set for records, see `DataFacts`.

    Args:
        data: The datamodule.
    """
    return facts_of(data).name


def prepare(modules: Sequence[SearchData]) -> None:
    """Log which classes and splits were found, and prepare the data before anything is trained or written.

    Args:
        modules: Datamodules of one data set, such as one for each size of images.

    Raises:
        ValueError: Image files are missing, damaged or no images.
    """
    first = facts_of(modules[0])
    if first.class_names:
        log.info("%s", contents_text(first.name, first.class_names, contents_of(modules[0])))
    for module in modules:
        module.prepare_data()


def contents_text(name: str, class_names: Sequence[str], splits: Mapping[str, SplitCounts]) -> str:
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


def inputs_and_outputs(data: object) -> dict[str, object]:
    """Return the classes and the preprocessing, which whoever deploys a network has to know.

    Args:
        data: A datamodule; what it does not say is left out.
    """
    facts = facts_of(data)
    found: dict[str, object] = {}
    if facts.class_names:
        found["classes"] = list(facts.class_names)
    if facts.preprocessing is not None:
        found["preprocessing"] = facts.preprocessing
    return found


def training_images(data: SearchData, num_batches: int) -> Tensor:
    """Return the images of a datamodule's first training batches, shape (N, 3, H, W).

    Args:
        data: The datamodule.
        num_batches: How many batches to read.
    """
    # Where nothing has been trained yet, no trainer has done this.
    data.prepare_data()
    data.setup("fit")
    pairs = zip(data.train_dataloader(), range(num_batches), strict=False)
    return torch.cat([images for (images, _), _ in pairs])

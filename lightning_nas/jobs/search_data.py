"""`SearchData`: what a job asks of a datamodule, and what it reads where a datamodule says more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import lightning.pytorch as pl
from torch import Tensor

__all__ = ["DataFacts", "Described", "SearchData", "SplitCounts", "contents_of", "datamodule_of", "facts_of"]


class SearchData(Protocol):
    """A LightningDataModule that recipes can train on.

    It needs no base class of this package. Batches are pairs of images, shape (N, 3, H, W), and targets. What it may
    say beside that is listed in `DataFacts`.
    """

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def input_size(self) -> Sequence[int]:
        """Channels, height and width of one image."""
        ...

    def prepare_data(self) -> None:
        """Download or check files, before anything is trained."""
        ...

    def setup(self, stage: str) -> None:
        """Load the splits that a stage needs, such as ``fit`` or ``test``."""
        ...

    def train_dataloader(self) -> Iterable[tuple[Tensor, object]]:
        """Return the loader of the training data."""
        ...

    def val_dataloader(self) -> Iterable[tuple[Tensor, object]]:
        """Return the loader of the validation data."""
        ...

    def test_dataloader(self) -> Iterable[tuple[Tensor, object]]:
        """Return the loader of the test data."""
        ...


class SplitCounts(Protocol):
    """How many images a split has."""

    @property
    def num_images(self) -> int:
        """Number of images."""
        ...

    @property
    def num_of_class(self) -> Sequence[int]:
        """Number of images that show each class, in the order of the classes."""
        ...


@runtime_checkable
class Described(Protocol):
    """A setting that can be written as data, such as the preprocessing of a datamodule."""

    def to_dict(self) -> dict[str, object]:
        """Return it as data that JSON knows."""
        ...


@dataclass(frozen=True)
class DataFacts:
    """What a datamodule may say of itself in attributes of these names; each may be missing.

    Attributes:
        name: Name of the data set, for records. By default that of the folder `root`, or else the name of the class in
            words, without ``DataModule``.
        class_names: Names of the classes, in the order of their indices. By default records name none.
        preprocessing: What is done to an image before the network: what ``preprocessing.to_dict()`` returns. By default
            records do not say it.
        mask_size: Height and width of the masks that networks are judged on. By default nothing is said of it.
        is_embedded: Whether pages of results may show the images without being told so. By default they may not.
    """

    name: str
    class_names: tuple[str, ...] = ()
    preprocessing: dict[str, object] | None = None
    mask_size: object = None
    is_embedded: bool = False


def facts_of(data: object) -> DataFacts:
    """Return what a datamodule says of itself, with the defaults of `DataFacts` for what it does not say.

    Args:
        data: The datamodule.

    Example::

        >>> class FlowersDataModule:
        ...     class_names = ["rose", "tulip"]
        >>> facts = facts_of(FlowersDataModule())
        >>> facts.name, facts.class_names, facts.is_embedded
        ('flowers', ('rose', 'tulip'), False)
    """
    preprocessing = getattr(data, "preprocessing", None)
    return DataFacts(
        name=_name_of(data),
        class_names=tuple(str(name) for name in getattr(data, "class_names", None) or ()),
        preprocessing=preprocessing.to_dict() if isinstance(preprocessing, Described) else None,
        mask_size=getattr(data, "mask_size", None),
        is_embedded=bool(getattr(data, "is_embedded", False)),
    )


def contents_of(data: object) -> Mapping[str, SplitCounts]:
    """Return how many images each split has, by the name of the split.

    Args:
        data: A datamodule; one without an attribute ``contents`` gives an empty mapping.
    """
    contents = getattr(data, "contents", None)
    return contents if isinstance(contents, Mapping) else {}


def datamodule_of(data: SearchData) -> pl.LightningDataModule:
    """Return the data as what a Trainer takes.

    Args:
        data: The data of a job.

    Raises:
        TypeError: It is no LightningDataModule.
    """
    if not isinstance(data, pl.LightningDataModule):
        raise TypeError(f"The data of a job must be a LightningDataModule; got {type(data).__name__}.")
    return data


def _name_of(data: object) -> str:
    if name := getattr(data, "name", None):
        return str(name)
    if isinstance(root := getattr(data, "root", None), str | Path):
        return Path(root).name
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(data).__name__.removesuffix("DataModule")).lower()

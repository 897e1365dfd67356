"""The splits of a data set: each is loaded when a stage first needs it, and read by a loader of its own."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

from torch.utils.data import DataLoader

from lightning_nas.data._batches import SeededBatches, image_loader
from lightning_nas.data._file_check import check_files, stamp_of
from lightning_nas.data.loading import Loading

__all__ = ["Split", "Splits"]

Item = TypeVar("Item")

Split = Literal["train", "val", "test"]
"""Parts of a data set."""

logger = logging.getLogger(__name__)

STAGES: dict[str | None, tuple[Split, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("test",),
    None: ("train", "val", "test"),
}
"""The splits that each of Lightning's stages needs."""


@dataclass
class Splits(Generic[Item]):
    """The splits of a data set, for `prepare_data`, `setup` and the loaders of a LightningDataModule.

    Attributes:
        load: Returns the images of a split; called once a split.
        loading: How batches are made of them.
        name: Of the data set, for what is said of it.
        has_test: Whether there is a test split; else the images of ``val`` are the test images too, with a warning.
        files: The image files of each split, masks too. All are opened before the training.
        parts: What is loaded.
    """

    load: Callable[[Split], SeededBatches[Item]]
    loading: Loading
    name: str
    has_test: bool = True
    files: Mapping[Split, Sequence[Path]] = field(default_factory=dict)
    parts: dict[Split, SeededBatches[Item]] = field(default_factory=dict)
    _is_checked: bool = False

    def prepare(self) -> None:
        """Open the files of all splits, unless they were: a damaged one is found before the training, not behind it.

        Raises:
            ValueError: Files are missing, damaged or no images.
        """
        if not self._is_checked:
            check_files(path for files in self.files.values() for path in files)
        self._is_checked = True

    def state_of_files(self) -> str:
        """Return how many files there are, and a digest of where they lie, of their sizes and of when they changed."""
        found = hashlib.sha256()
        paths = [path for split in sorted(self.files) for path in self.files[split]]
        for path in paths:
            found.update(f"{path} {stamp_of(path)}\n".encode())
        return f"{len(paths)} files, sha256 {found.hexdigest()[:16]}"

    def setup(self, stage: str | None) -> None:
        """Load what `stage` needs.

        Raises:
            ValueError: Files are missing, damaged or no images.
        """
        self.prepare()
        if not self.has_test and stage in (None, "test"):
            logger.warning("%s has no `test` split; the images of `val` are the test images too.", self.name)
        for split in STAGES[stage]:
            source: Split = "val" if split == "test" and not self.has_test else split
            if source not in self.parts:
                self.parts[source] = self.load(source)
            self.parts[split] = self.parts[source]

    def loader(self, split: Split) -> DataLoader[Item]:
        """Return the loader of a split that is set up; training images are shuffled."""
        batch_size, num_workers = self.loading.batch_size, self.loading.num_workers
        return image_loader(self.parts[split], batch_size, shuffle=split == "train", num_workers=num_workers)

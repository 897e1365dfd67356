"""Classification from a folder of images, one folder a class."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS

from lightning_nas.data._base import SplitDataModule
from lightning_nas.data._batches import BatchedImages
from lightning_nas.data._contents import SplitContents
from lightning_nas.data._decode import DECODE_THREADS, open_image, rgb
from lightning_nas.data._preprocessing import Preprocessing
from lightning_nas.data._split_folders import folder_names, named_splits, split_of
from lightning_nas.data._splits import Split
from lightning_nas.data._walk import files_below
from lightning_nas.data.batch_augment import BatchAugmentation
from lightning_nas.data.loading import Loading
from lightning_nas.io.numbers import check_number

__all__ = ["ImageFolderDataModule"]

logger = logging.getLogger(__name__)

SPLIT_FRACTIONS = (0.7, 0.15, 0.15)


LOADING = Loading(batch_size=32)
"""The default `Loading` of a folder of images."""
AUGMENT = BatchAugmentation()


@dataclass(frozen=True)
class LabelledFiles:
    """The images of one split.

    Attributes:
        paths: Their files.
        labels: The class index of each.
    """

    paths: tuple[Path, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class FolderImages:
    """The images of a folder, as an `ImageSet`.

    Attributes:
        root: Folder of the data set.
        class_names: Names of the classes, in the order of their indices.
        files: The images of each split.
        image_size: Height and width that they are resized to, in pixels.
        augment: What is done to training images, or None.
        seed: Decides the augmentation.
        cache_limit_bytes: Decoded splits above this size are read from files again in every epoch.
    """

    root: Path
    class_names: tuple[str, ...]
    files: dict[Split, LabelledFiles]
    image_size: int
    augment: BatchAugmentation | None
    seed: int
    cache_limit_bytes: int

    @property
    def title(self) -> str:
        """Name of the data set in messages."""
        return str(self.root)

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of an image before the network."""
        return Preprocessing((self.image_size, self.image_size))

    @property
    def contents(self) -> dict[Split, SplitContents]:
        """Number of images of each split, in all and of each class."""
        num_classes = len(self.class_names)
        counts = {split: np.bincount(files.labels, minlength=num_classes) for split, files in self.files.items()}
        return {split: SplitContents(int(count.sum()), tuple(count.tolist())) for split, count in counts.items()}

    @property
    def paths(self) -> dict[Split, tuple[Path, ...]]:
        """The files of each split."""
        return {split: files.paths for split, files in self.files.items()}

    @property
    def has_test(self) -> bool:
        """Whether there are test images."""
        return "test" in self.files

    def load(self, split: Split) -> BatchedImages:
        """Return the images and labels of a split, decoded where they fit into memory."""
        files = self.files[split]
        augment = self.augment if split == "train" else None
        labels = torch.tensor(files.labels)
        size_bytes = 3 * self.image_size**2 * len(files.paths)
        # Decoding image by image would bound short epochs; from memory one core gives about 2000 images of 96 px a
        # second.
        if size_bytes <= self.cache_limit_bytes:
            images = _decode_all(files.paths, self.image_size)
            return BatchedImages(images.__getitem__, labels, augment, self.seed)
        logger.info("%s (%s) would take %d MiB: it is read again in every epoch.", self.root, split, size_bytes >> 20)
        return BatchedImages(partial(_decode_some, files.paths, self.image_size), labels, augment, self.seed)


class ImageFolderDataModule(SplitDataModule[tuple[Tensor, Tensor]]):
    """Images in the layout ``root/{train,val,test}/<class>/*.jpg``, for a classifier.

    Splits may be spelled in other usual ways (``Training``, ``valid``, ``dev``, ``TEST``, ``val_images``); what looks
    like splits and cannot be told is refused. Without a ``test`` folder the images of ``val`` are the test images too,
    with a warning. Without any folder of a split, the folders in ``root`` are the classes and each is split 70/15/15,
    the same way for every seed.

    All files of all splits are opened once before the training; a second run finds in the user's cache that they were.

    Images are decoded and resized once and kept in memory as bytes where they fit. Training images are cropped,
    mirrored and recoloured a batch at a time; all are normalised by ImageNet's mean and deviation.

    Args:
        root: Folder of the data set.
        image_size: Height and width that images are resized to, in pixels.
        extra_test_root: Folder of further test images, one folder a class; with few test images chance decides.
        augment: What is done to training images, or None.
        loading: How batches are made of them.

    Raises:
        ValueError: A setting is out of range, or a folder is not in the layout above.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int = 96,
        extra_test_root: str | Path | None = None,
        augment: BatchAugmentation | None = AUGMENT,
        loading: Loading = LOADING,
    ) -> None:
        check_number("image_size", image_size, whole=True, least=8)
        self.root = Path(root).expanduser()
        # The folder is listed here, so that the number of classes is known before the network is built.
        class_names, files = _scan(self.root)
        if extra_test_root is not None:
            extra = Path(extra_test_root).expanduser()
            self.name = f"{self.root.name}, tested on {extra.name} too"
            files["test"] = _joined(files.get("test"), _further(extra, class_names))
        images = FolderImages(
            self.root, class_names, files, image_size, augment, loading.seed, loading.cache_limit_bytes
        )
        super().__init__(images, loading)


def _scan(root: Path) -> tuple[tuple[str, ...], dict[Split, LabelledFiles]]:
    """Return the class names and the files of each split that the folder has or that is made of it."""
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise ValueError(f"`root` must be a folder of images; there is {found} at '{root}'.")
    folders = folder_names(root)
    if not folders:
        raise ValueError(f"`root` must hold train/, val/ and test/, or one folder a class; '{root}' has no folder.")
    # Folders of something else, such as annotations, are neither classes nor splits; where there are no splits they
    # are told that a class needs images.
    named = named_splits(root, [name for name in folders if split_of(name) or _has_image(root / name)])
    if not named:
        _check_classes(root, folders)
        images = _list_classes(root)
        return tuple(images), _split(images, root)
    order: tuple[Split, ...] = ("train", "val", "test")
    splits = {split: _list_classes(root / named[split]) for split in order if split in named}
    classes = tuple(splits["train"])
    for split, images in splits.items():
        if differing := sorted(set(classes) ^ set(images)):
            raise ValueError(
                f"All splits of '{root}' must have the same class folders; "
                f"train and {split} differ in {', '.join(differing)}."
            )
    return classes, {split: _files(list(images.values())) for split, images in splits.items()}


def _has_image(folder: Path) -> bool:
    return bool(files_below(folder, IMG_EXTENSIONS))


def _check_classes(root: Path, names: Sequence[str]) -> None:
    """Refuse splits inside of classes, and what looks like splits of other names: images would be mixed and split anew.

    Raises:
        ValueError: A class has a folder that is called like a split, or all have the same folders and no other image.
    """
    for name in names:
        if inner := [folder for folder in folder_names(root / name) if split_of(folder)]:
            raise ValueError(
                f"'{root / name}' must hold images of one class, or be called train, val or test; it has the folder"
                f" '{inner[0]}', which looks like a split. HINT: the layout is {root.name}/{{train,val,test}}/CLASS."
            )
    inside = [folder_names(root / name) for name in names]
    is_deep = not any(entry.suffix.lower() in IMG_EXTENSIONS for name in names for entry in (root / name).iterdir())
    if is_deep and len(names) > 1 and inside[0] and all(found == inside[0] for found in inside):
        raise ValueError(
            f"'{root}' may hold splits or classes: {', '.join(names[:4])} have the same folders,"
            f" {', '.join(inside[0][:4])}. HINT: call splits train, val and test; images of a class that are divided"
            " further go into its own folder."
        )


def _further(root: Path, classes: Sequence[str]) -> LabelledFiles:
    """Return further images of the same classes."""
    if not root.is_dir():
        raise ValueError(f"`extra_test_root` must be a folder of images; there is none at '{root}'.")
    images = _list_classes(root)
    if differing := sorted(set(classes) ^ set(images)):
        raise ValueError(f"'{root}' must have the class folders {', '.join(classes)}; it differs in {differing[0]!r}.")
    return _files(list(images.values()))


def _joined(first: LabelledFiles | None, second: LabelledFiles) -> LabelledFiles:
    return second if first is None else LabelledFiles(first.paths + second.paths, first.labels + second.labels)


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    """Return the sorted image paths of each class."""
    classes = {}
    for name in folder_names(folder):
        images = files_below(folder / name, IMG_EXTENSIONS)
        if not images:
            raise ValueError(f"Each class needs an image ({', '.join(IMG_EXTENSIONS)}); '{folder / name}' has none.")
        classes[name] = images
    if len(classes) < 2:
        found = ", ".join(classes) or "none"
        raise ValueError(f"'{folder}' must have a folder for each of at least two classes; it has {found}.")
    return classes


def _split(classes: dict[str, list[Path]], root: Path) -> dict[Split, LabelledFiles]:
    """Split each class 70/15/15; by names alone, so that runs with different seeds have the same test images."""
    parts: dict[Split, list[list[Path]]] = {"train": [], "val": [], "test": []}
    for name, paths in classes.items():
        if len(paths) < 3:
            raise ValueError(
                f"A class needs at least 3 images to be split into train, val and test; "
                f"'{root / name}' has {len(paths)}. Give it more, or make train/, val/ and test/ folders."
            )
        order = np.random.default_rng(0).permutation(len(paths))
        num_val, num_test = (max(1, round(share * len(paths))) for share in SPLIT_FRACTIONS[1:])
        cuts = {
            "val": order[:num_val],
            "test": order[num_val : num_val + num_test],
            "train": order[num_val + num_test :],
        }
        for split, images in parts.items():
            images.append([paths[index] for index in sorted(cuts[split])])
    return {split: _files(images) for split, images in parts.items()}


def _files(classes: Sequence[Sequence[Path]]) -> LabelledFiles:
    pairs = [(path, label) for label, paths in enumerate(classes) for path in paths]
    return LabelledFiles(tuple(path for path, _ in pairs), tuple(label for _, label in pairs))


def _decode_all(paths: Sequence[Path], size: int) -> Tensor:
    """Return all images (N, 3, size, size), uint8."""
    images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)
    with ThreadPoolExecutor(DECODE_THREADS) as pool:
        for index, image in enumerate(pool.map(partial(_decode, size=size), paths)):
            images[index] = image
    return images


def _decode_some(paths: Sequence[Path], size: int, indices: list[int]) -> Tensor:
    return torch.stack([_decode(paths[index], size) for index in indices])


def _decode(path: Path, size: int) -> Tensor:
    """Return one image (3, size, size), uint8, whatever its mode and orientation."""
    with open_image(path) as file:
        # JPEG can skip most of the work for a small copy; twice the size keeps the result sharp.
        file.draft("RGB", (2 * size, 2 * size))
        image = rgb(ImageOps.exif_transpose(file)).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)

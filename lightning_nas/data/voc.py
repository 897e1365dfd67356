"""Detection from Pascal VOC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from torchvision.datasets import VOCDetection
from torchvision.datasets.voc import DATASET_YEAR_DICT

from lightning_nas.data._annotations import AnnotatedImage, AnnotatedSource, checked_splits, warn_of_unseen
from lightning_nas.data._batches import check_loading
from lightning_nas.data._letterbox import canvas_size
from lightning_nas.data.detection import DetectionDataModule
from lightning_nas.data.detection_augment import DetectionAugmentation
from lightning_nas.data.detection_batches import DetectionRecord
from lightning_nas.data.digits import Split
from lightning_nas.io.numbers import check_number
from lightning_nas.io.reading import shown

__all__ = ["VocDetectionDataModule"]

CLASS_NAMES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

Box = tuple[float, float, float, float]

# What reading XML as dictionaries of dictionaries raises where the tags are others, or nested without end.
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
# Pixels; beyond, sums and squares of them are no numbers any more.
_MOST = 1e9


class VocDetectionDataModule(DetectionDataModule):
    """Pascal VOC's 20 classes, or others, in the layout of torchvision's ``VOCDetection``.

    Its images ``train`` and ``val`` are those of this module; the test images are ``test`` where the year has them on
    disk (2007), else ``val`` with a warning. Objects marked as difficult are no training objects; in ``val`` and
    ``test`` they are objects like any other. The batches are those of `DetectionDataModule`.

    Args:
        root: Folder that holds ``VOCdevkit``.
        year: 2007 to 2012.
        image_size: Height and width of the canvas that images are fitted into, or one number for both.
        batch_size: Images a batch.
        num_workers: Worker processes; 0 is usually fastest while the images are in memory.
        seed: Decides the shuffles and the augmentation.
        download: Whether to download what is missing, at once. Of several processes on a machine, only one may.
        min_crop_area: Smallest training crop as a share of the image's area; 1 crops nothing.
        flip: Whether to mirror half of the training images.
        zoom_out: Largest factor by which half of the training images are shrunk; 1 shrinks none.
        color_jitter: Largest relative change of brightness, contrast and saturation of training images.
        cache_limit_bytes: Splits that take more memory on the canvas are read from files again in every epoch.
        class_names: Names of the classes of one's own set in this layout; None for Pascal VOC's.

    Raises:
        ValueError: A setting is out of range, or the folder is not in the layout above.
    """

    def __init__(
        self,
        root: str | Path,
        year: str | int = "2012",
        image_size: int | Sequence[int] = (192, 256),
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        download: bool = False,
        min_crop_area: float = 0.3,
        flip: bool = True,
        zoom_out: float = 2.0,
        color_jitter: float = 0.2,
        cache_limit_bytes: int = 2**31,
        class_names: Sequence[str] | None = None,
    ) -> None:
        self.root = Path(root).expanduser()
        names = CLASS_NAMES if class_names is None else tuple(class_names)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"`class_names` must be different names; got {', '.join(names) or 'none'}.")
        # Reading the folder may take minutes, or a download.
        augment = DetectionAugmentation(min_crop_area, flip, zoom_out, color_jitter)
        check_loading(batch_size, num_workers, seed)
        canvas_size(image_size)
        check_number("cache_limit_bytes", cache_limit_bytes, whole=True, least=0)
        splits = _read_folder(self.root, str(year), download, names)
        super().__init__(
            splits,
            names,
            image_size,
            batch_size,
            num_workers,
            seed,
            augment,
            cache_limit_bytes,
        )


def _read_folder(
    root: Path, year: str, download: bool, class_names: tuple[str, ...]
) -> dict[Split, tuple[DetectionRecord, ...]]:
    """Return the records of each split that the folder has."""
    years = [name for name in DATASET_YEAR_DICT if name.isdigit()]
    if year not in years:
        raise ValueError(f"`year` must be one of {', '.join(sorted(years))}; got {year}.")
    folder = root / DATASET_YEAR_DICT[year]["base_dir"]
    lists = folder / "ImageSets" / "Main"
    names: list[Split] = ["train", "val"]
    if year == "2007" and (download or (lists / "test.txt").is_file()):
        names.append("test")
    splits = checked_splits({split: [_read_split(root, year, split, download, class_names)] for split in names})
    warn_of_unseen(splits["train"], class_names, lists / "train.txt")
    return splits


def _read_split(root: Path, year: str, split: Split, download: bool, class_names: tuple[str, ...]) -> AnnotatedSource:
    file = root / DATASET_YEAR_DICT[year]["base_dir"] / "ImageSets" / "Main" / f"{split}.txt"
    if not (download or file.is_file()):
        raise ValueError(
            f"`root` must hold Pascal VOC {year}; there is no '{file}'. HINT: download=True downloads it into `root`."
        )
    files = VOCDetection(root, year, split, download=download and not file.is_file())
    contents = [_read_annotation(Path(xml), split == "train") for xml in files.annotations]
    unknown = {
        name: xml
        for xml, (_, objects) in zip(files.annotations, contents, strict=True)
        for name, _ in objects
        if name not in class_names
    }
    if unknown:
        raise ValueError(
            f"'{file}': the classes are {', '.join(class_names)}; got {', '.join(sorted(unknown))}, such as in "
            f"'{next(iter(unknown.values()))}'. HINT: `class_names=[...]` names those of a set of one's own."
        )
    images = (
        AnnotatedImage(
            Path(image),
            size,
            tuple(box for _, box in objects),
            tuple(class_names.index(name) for name, _ in objects),
        )
        for image, (size, objects) in zip(files.images, contents, strict=True)
    )
    return AnnotatedSource(file, tuple(images))


def _read_annotation(xml: Path, drop_difficult: bool) -> tuple[tuple[int, int] | None, list[tuple[str, Box]]]:
    """Return height and width, None where the file does not say them, and name and box of each object."""
    try:
        content = VOCDetection.parse_voc_xml(ElementTree.parse(xml).getroot())["annotation"]
        size = (int(content["size"]["height"]), int(content["size"]["width"])) if "size" in content else None
        # An annotation of one object whose parts have boxes too has them inside of it, not beside it.
        objects = [_read_object(entry) for entry in content["object"]]
    except (OSError, ElementTree.ParseError, *_MALFORMED) as error:
        raise ValueError(f"'{xml}' must be a VOC annotation; reading it failed: {error!r}.") from error
    kept = [(name, box) for name, box, difficult in objects if not (difficult and drop_difficult)]
    # A size of zeros is how some tools say that they do not know it.
    return size if size and min(size) > 0 else None, kept


def _read_object(entry: dict[str, Any]) -> tuple[str, Box, bool]:
    """Return name, box and whether it is difficult."""
    left, top, right, bottom = sides = [float(entry["bndbox"][name]) for name in ("xmin", "ymin", "xmax", "ymax")]
    if not isinstance(entry["name"], str) or not all(abs(side) <= _MOST for side in sides):
        raise ValueError(f"an object must have one name and four finite sides; it has {shown(dict(entry))}")
    # VOC counts pixels from 1, and its right and bottom pixels belong to the object.
    return entry["name"], (left - 1, top - 1, right, bottom), entry.get("difficult", "0") != "0"

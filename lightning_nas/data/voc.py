"""Detection from Pascal VOC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from torch import Tensor
from torchvision.datasets import VOCDetection
from torchvision.datasets.voc import DATASET_YEAR_DICT

from lightning_nas.data._annotations import AnnotatedImage, AnnotatedSource, checked_splits, warn_of_unseen
from lightning_nas.data._base import SplitDataModule
from lightning_nas.data._boxed_images import LOADING, BoxedImages
from lightning_nas.data._letterbox import canvas_size
from lightning_nas.data.detection_augment import DetectionAugmentation
from lightning_nas.data.detection_batches import DetectionRecord, Target
from lightning_nas.data.digits import Split
from lightning_nas.data.loading import Loading, loading_of
from lightning_nas.io.reading import JsonObject, shown

__all__ = ["VocDetectionDataModule", "voc_data"]

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
AUGMENT = DetectionAugmentation()


class VocDetectionDataModule(SplitDataModule[tuple[Tensor, Target]]):
    """Pascal VOC's 20 classes, or others, in the layout of torchvision's ``VOCDetection``.

    Its images ``train`` and ``val`` are those of this module; the test images are ``test`` where the year has them on
    disk (2007), else ``val`` with a warning. Objects marked as difficult are no training objects; in ``val`` and
    ``test`` they are objects like any other. The batches are those of
    `lightning_nas.data.detection.DetectionDataModule`.

    Args:
        root: Folder that holds ``VOCdevkit``.
        year: 2007 to 2012.
        image_size: Height and width of the canvas that images are fitted into, or one number for both.
        download: Whether to download what is missing, at once. Of several processes on a machine, only one may.
        class_names: Names of the classes of one's own set in this layout; None for Pascal VOC's.
        augment: What is done to training images, or None.
        loading: How batches are made of them.

    Raises:
        ValueError: A setting is out of range, or the folder is not in the layout above.
    """

    def __init__(
        self,
        root: str | Path,
        year: str | int = "2012",
        image_size: int | Sequence[int] = (192, 256),
        download: bool = False,
        class_names: Sequence[str] | None = None,
        augment: DetectionAugmentation | None = AUGMENT,
        loading: Loading = LOADING,
    ) -> None:
        # Reading the folder may take minutes, or a download.
        size = canvas_size(image_size)
        self.root = Path(root).expanduser()
        names = CLASS_NAMES if class_names is None else tuple(class_names)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"`class_names` must be different names; got {', '.join(names) or 'none'}.")
        splits = _read_folder(self.root, str(year), download, names)
        seed, limit = loading.seed, loading.cache_limit_bytes
        super().__init__(BoxedImages(f"'{self.root}'", splits, names, size, augment, seed, limit), loading)


def voc_data(
    root: str | Path,
    year: str | int = "2012",
    download: bool = False,
    class_names: Sequence[str] | None = None,
    image_size: int | Sequence[int] = (192, 256),
    flip: bool = True,
    **loading: int,
) -> VocDetectionDataModule:
    """Return the datamodule of Pascal VOC for a recipe, whose settings are flat.

    Args:
        root: Folder that holds ``VOCdevkit``.
        year: 2007 to 2012.
        download: Whether to download what is missing.
        class_names: Names of the classes of one's own set in this layout; None for Pascal VOC's.
        image_size: Height and width of the canvas, or one number for both.
        flip: Whether to mirror half of the training images.
        **loading: Values of `Loading`: `batch_size`, `num_workers`, `seed` and `cache_limit_bytes`.

    Raises:
        ValueError: A setting is out of range, or see `VocDetectionDataModule`.
    """
    augment, given = DetectionAugmentation(flip=flip), loading_of(loading, LOADING)
    return VocDetectionDataModule(root, year, image_size, download, class_names, augment, given)


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


def _read_object(entry: JsonObject) -> tuple[str, Box, bool]:
    """Return name, box and whether it is difficult."""
    left, top, right, bottom = sides = [float(entry["bndbox"][name]) for name in ("xmin", "ymin", "xmax", "ymax")]
    if not isinstance(entry["name"], str) or not all(abs(side) <= _MOST for side in sides):
        raise ValueError(f"an object must have one name and four finite sides; it has {shown(dict(entry))}")
    # VOC counts pixels from 1, and its right and bottom pixels belong to the object.
    return entry["name"], (left - 1, top - 1, right, bottom), entry.get("difficult", "0") != "0"

"""Detection from a folder with COCO annotations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard, get_args

from torch import Tensor

from lightning_nas.data._annotations import AnnotatedImage, AnnotatedSource, checked_splits, warn_of_unseen
from lightning_nas.data._base import SplitDataModule
from lightning_nas.data._boxed_images import LOADING, BoxedImages
from lightning_nas.data._letterbox import canvas_size
from lightning_nas.data.detection_augment import DetectionAugmentation
from lightning_nas.data.detection_batches import DetectionRecord, Target
from lightning_nas.data.digits import Split
from lightning_nas.data.loading import Loading
from lightning_nas.io.reading import JsonObject, parse_json

__all__ = ["CocoDataModule"]

logger = logging.getLogger(__name__)

PREFIX = "instances_"
# Pixels; beyond, sums and squares of them are no numbers any more.
_MOST = 1e9
LEAST_AREA = 1e-3
AUGMENT = DetectionAugmentation()


class CocoDataModule(SplitDataModule[tuple[Tensor, Target]]):
    """Images and boxes in COCO's format, for a detector.

    The layout is ``root/annotations/instances_{train,val,test}.json`` and ``root/images/{train,val,test}/FILE``, or
    COCO's own: ``instances_train2017.json``, ``root/train2017/FILE`` and so on, of any year. Without a file for
    ``test`` the images of ``val`` are the test images too, with a warning.

    All annotations and the headers of all images are read at once, so that mistakes come to light before any training.
    Boxes are cut at the border of their image; those without area or wholly outside are dropped with a warning. Images
    without a box are kept.

    What has ``iscrowd`` is no object: what is found there counts neither as right nor as wrong, in training too.
    ``area`` tells small from large objects; without it that of the box does. ``ignore`` alone changes nothing, as in
    COCO's own evaluation.

    Classes are the file's categories in the order of their ids. The batches are those of
    `lightning_nas.data.detection.DetectionDataModule`.

    Args:
        root: Folder of the data set.
        image_size: Height and width of the canvas that images are fitted into, or one number for both.
        extra_roots: Further folders in this layout and with the same categories, whose ``train`` images are training
            images too.
        extra_test: Whether the ``val`` images of these, by which nothing is trained or chosen, are test images too: on
            some dozen images two trainings of one network differ by more than two networks do.
        augment: What is done to training images, or None.
        loading: How batches are made of them.

    Raises:
        ValueError: A setting is out of range, or a folder is not in the layout above.
    """

    def __init__(
        self,
        root: str | Path,
        image_size: int | Sequence[int] = (192, 256),
        extra_roots: Sequence[str | Path] = (),
        extra_test: bool = False,
        augment: DetectionAugmentation | None = AUGMENT,
        loading: Loading = LOADING,
    ) -> None:
        size = canvas_size(image_size)
        self.root = Path(root).expanduser()
        extra = (extra_roots,) if isinstance(extra_roots, str | Path) else extra_roots
        self.extra_roots = tuple(Path(folder).expanduser() for folder in extra)
        self.extra_test = extra_test
        if extra_test:
            added = " and ".join(folder.name for folder in self.extra_roots)
            self.name = f"{self.root.name}, tested on {added} too"
        names, splits = _read_folder(self.root, self.extra_roots, extra_test)
        seed, limit = loading.seed, loading.cache_limit_bytes
        super().__init__(BoxedImages(f"'{self.root}'", splits, names, size, augment, seed, limit), loading)


def _read_folder(
    root: Path, extra_roots: Sequence[Path], extra_test: bool
) -> tuple[tuple[str, ...], dict[Split, tuple[DetectionRecord, ...]]]:
    """Return the class names and the records of each split that the folder has."""
    for folder in (root, *extra_roots):
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            raise ValueError(f"A COCO data set must be a folder; there is {found} at '{folder}'.")
    files = {split: _annotation_file(root, split) for split in get_args(Split)}
    if extra_test and not extra_roots:
        raise ValueError("`extra_test` takes the `val` images of `extra_roots`; there are none.")
    parts: tuple[Split, ...] = ("train", "val") if extra_test else ("train",)
    extra = [_annotation_file(folder, split) for folder in extra_roots for split in parts]
    for file in (files["train"], files["val"], *([files["test"]] if extra_test else []), *extra):
        if not file.is_file():
            raise ValueError(
                f"A COCO data set must have annotations/{file.name}; there is no '{file}', nor one with a year in its "
                "name as COCO's own."
            )
    class_names, train = _read_split(root, files["train"])
    sources: dict[Split, list[AnnotatedSource]] = {"train": [train]}
    for split, file in files.items():
        if split != "train" and file.is_file():
            sources[split] = [_read_split(root, file, class_names)[1]]
    for folder in extra_roots:
        sources["train"].append(_read_split(folder, _annotation_file(folder, "train"), class_names)[1])
        if extra_test:
            sources["test"].append(_read_split(folder, _annotation_file(folder, "val"), class_names)[1])
    splits = checked_splits(sources)
    warn_of_unseen(splits["train"], class_names, files["train"])
    return class_names, splits


def _annotation_file(root: Path, split: Split) -> Path:
    """Return the file of a split, whether or not it exists; COCO's own have a year in their names."""
    plain = root / "annotations" / f"{PREFIX}{split}.json"
    if plain.is_file():
        return plain
    dated = sorted((root / "annotations").glob(f"{PREFIX}{split}20[0-9][0-9].json"))
    if len(dated) > 1:
        names = ", ".join(file.name for file in dated)
        raise ValueError(f"A COCO data set must have one file for {split}; '{root / 'annotations'}' has {names}.")
    return dated[0] if dated else plain


def _image_folder(root: Path, file: Path) -> Path:
    """Return the folder of the images of an annotation file: below ``images``, or as COCO has it, beside it."""
    name = file.stem.removeprefix(PREFIX)
    beside = root / name
    return beside if beside.is_dir() and not (root / "images" / name).is_dir() else root / "images" / name


def _read_split(root: Path, file: Path, expected: tuple[str, ...] = ()) -> tuple[tuple[str, ...], AnnotatedSource]:
    """Return class names, those expected where there are any, and what the file of one split says."""
    content = _load(file)
    categories = _categories(content, file)
    class_names = expected or tuple(categories.values())
    if differing := sorted(set(class_names) ^ set(categories.values())):
        raise ValueError(f"All splits must have the same categories; '{file}' differs in {', '.join(differing)}.")
    labels = {key: class_names.index(name) for key, name in categories.items()}
    images = _annotated_images(content, labels, file, _image_folder(root, file))
    return class_names, AnnotatedSource(file, tuple(images), "xywh")


def _load(file: Path) -> dict[str, list[JsonObject]]:
    try:
        content = parse_json(file.read_bytes(), "it", finite=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"'{file}' must be a COCO file; reading it failed: {str(error).rstrip('.')}.") from error
    for name in ("images", "annotations", "categories"):
        entries = content.get(name) if isinstance(content, dict) else None
        if not (isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)):
            raise ValueError(f"'{file}' must be a COCO file; it has no list `{name}` of objects.")
    return content


def _categories(content: dict[str, list[JsonObject]], file: Path) -> dict[int, str]:
    """Return the names of the categories by id, in the order of the ids."""
    entries = content["categories"]
    for entry in entries:
        _require(isinstance(entry.get("id"), int) and isinstance(entry.get("name"), str), "categories", entry, file)
    names = {entry["id"]: entry["name"] for entry in sorted(entries, key=lambda entry: entry["id"])}
    if not names or len(set(names.values())) < len(entries):
        listed = ", ".join(str(entry["name"]) for entry in entries) or "none"
        raise ValueError(f"'{file}' must have categories with different ids and names; it has {listed}.")
    return names


def _annotated_images(
    content: dict[str, list[JsonObject]], labels: dict[int, int], file: Path, folder: Path
) -> list[AnnotatedImage]:
    objects: dict[int | str, list[JsonObject]] = {}
    for entry in content["images"]:
        _require(_is_image(entry), "images", entry, file)
        if entry["id"] in objects:
            raise ValueError(f"'{file}' must have one image an id; it has several with id {entry['id']!r}.")
        objects[entry["id"]] = []
    for entry in content["annotations"]:
        image, category = entry.get("image_id"), entry.get("category_id")
        _require(isinstance(image, int | str) and isinstance(category, int), "annotations", entry, file)
        if image not in objects:
            raise ValueError(f"'{file}': annotation {entry.get('id')} is of image {image!r}, which is not in `images`.")
        if category not in labels:
            listed = ", ".join(map(str, labels))
            raise ValueError(
                f"'{file}': annotation {entry.get('id')} is of category {category!r}; the categories are {listed}."
            )
        _require(_are_numbers(entry.get("bbox"), 4), "annotations", entry, file)
        area = entry.get("area")
        _require(area is None or (_is_number(area) and 0 <= area <= _MOST**2), "annotations", entry, file)
        for name in ("iscrowd", "ignore"):
            _require(entry.get(name) in (None, 0, 1), "annotations", entry, file)
        objects[image].append(entry)
    if num_ignored := sum(bool(entry.get("ignore")) > bool(entry.get("iscrowd")) for entry in content["annotations"]):
        logger.warning(
            "'%s': %d annotations have `ignore` without `iscrowd`; they are objects like any other, as in COCO's own "
            "evaluation.",
            file,
            num_ignored,
        )
    return [
        AnnotatedImage(
            folder / entry["file_name"],
            (round(entry["height"]), round(entry["width"])) if entry.get("height") else None,
            tuple(_corners(one["bbox"]) for one in objects[entry["id"]]),
            tuple(labels[one["category_id"]] for one in objects[entry["id"]]),
            tuple(bool(one.get("iscrowd")) for one in objects[entry["id"]]),
            tuple(_area(one) for one in objects[entry["id"]]),
        )
        for entry in content["images"]
    ]


def _corners(box: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, width, height = box
    return left, top, left + width, top + height


def _area(entry: JsonObject) -> float:
    area: float = entry["bbox"][2] * entry["bbox"][3] if entry.get("area") is None else entry["area"]
    # The measure takes an area of nothing for one that is not known.
    return max(area, LEAST_AREA)


def _is_image(entry: JsonObject) -> bool:
    """Return whether an entry has an id, a file name and either a size or none."""
    sides = entry.get("height"), entry.get("width")
    sized = sides == (None, None) or all(isinstance(side, int | float) and 1 <= side <= _MOST for side in sides)
    return sized and isinstance(entry.get("id"), int | str) and isinstance(entry.get("file_name"), str)


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_numbers(values: object, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(_is_number(value) and abs(value) <= _MOST for value in values)
    )


def _require(condition: bool, name: str, entry: JsonObject, file: Path) -> None:
    if not condition:
        wanted = {
            "images": "`id`, `file_name`, and `height` and `width` of at least 1 or neither",
            "annotations": "`image_id`, a whole number `category_id`, `bbox` with four numbers, `area` of at"
            " least 0 or none, and `iscrowd` and `ignore` of 0 or 1 or none",
            "categories": "a whole number `id` and `name`",
        }
        raise ValueError(f"'{file}': each of `{name}` must have {wanted[name]}; got {str(entry)[:200]}.")

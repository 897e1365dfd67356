"""COCO files as they come: COCO's own layout, and boxes that are not left, top, width and height in pixels."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_nas.data.coco import CocoDataModule
from lightning_nas.data.voc import VocDetectionDataModule

WIDTH, HEIGHT = 80, 60


def boxes(count: int = 20) -> np.ndarray:
    """Return left, top, width and height of boxes all over an image."""
    generator = np.random.default_rng(0)
    corners = np.sort(generator.integers(0, (WIDTH, HEIGHT), (count, 2, 2)), axis=1)
    corners[:, 1] += 1
    return np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], axis=1).astype(float)


def write(root: Path, split: str, sides: np.ndarray, folder: str = "images/{}") -> None:
    """Write an image for each box."""
    images = root / folder.format(split)
    images.mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
    for number, box in enumerate(sides.tolist()):
        name = f"{number}.png"
        Image.new("RGB", (WIDTH, HEIGHT)).save(images / name)
        content["images"].append({"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT})
        content["annotations"].append({"id": number, "image_id": number, "category_id": 1, "bbox": box})
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def make(root: Path, sides: np.ndarray) -> Path:
    for split in ("train", "val"):
        write(root, split, sides)
    return root


@pytest.mark.parametrize("folder", ["{}", "images/{}"])
def test_cocos_own_layout_is_read(tmp_path: Path, folder: str) -> None:
    for split, count in (("train2017", 3), ("val2017", 2)):
        write(tmp_path, split, boxes(count), folder)
    # The official set has no annotations for its test images, only their names.
    (tmp_path / "annotations" / "image_info_test2017.json").write_text('{"images": [], "categories": []}')
    data = CocoDataModule(tmp_path, image_size=32)
    data.setup()
    assert [len(data.splits.parts[split]) for split in ("train", "val", "test")] == [3, 2, 2]


def test_two_years_in_one_folder_are_refused(tmp_path: Path) -> None:
    for split in ("train2014", "train2017", "val2017"):
        write(tmp_path, split, boxes(2), "{}")
    with pytest.raises(
        ValueError, match=r"one file for train; .* has instances_train2014\.json, instances_train2017\."
    ):
        CocoDataModule(tmp_path)


def test_boxes_that_are_right_are_taken(tmp_path: Path) -> None:
    sides = boxes()
    sides[:3, 2:] += 2  # some reach over the border
    CocoDataModule(make(tmp_path, sides), image_size=32)


def test_corners_for_width_and_height_are_refused(tmp_path: Path) -> None:
    sides = boxes()
    sides[:, 2:] += sides[:, :2]
    message = r"instances_train\.json' must have boxes as left, top, width and height; .* HINT: subtract left"
    with pytest.raises(ValueError, match=message):
        CocoDataModule(make(tmp_path, sides))


@pytest.mark.parametrize("form", ["xywh", "xyxy", "cxcywh"])
def test_shares_of_the_image_for_pixels_are_refused(tmp_path: Path, form: str) -> None:
    sides = boxes()
    if form == "xyxy":
        sides[:, 2:] += sides[:, :2]
    elif form == "cxcywh":
        sides[:, :2] += sides[:, 2:] / 2
    sides /= (WIDTH, HEIGHT, WIDTH, HEIGHT)
    with pytest.raises(
        ValueError, match=r"must have its boxes in pixels; all 20 .* HINT: .* multiply them by its width"
    ):
        CocoDataModule(make(tmp_path, sides))


def test_shares_of_the_image_are_refused_in_the_layout_of_voc(tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True)
    sides = "<xmin>0.1</xmin><ymin>0.2</ymin><xmax>0.7</xmax><ymax>0.9</ymax>"
    for split in ("train", "val"):
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(split)
        Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "JPEGImages" / f"{split}.jpg")
        xml = f"<annotation><object><name>dog</name><bndbox>{sides}</bndbox></object></annotation>"
        (folder / "Annotations" / f"{split}.xml").write_text(xml)
    with pytest.raises(ValueError, match=r"train\.txt' must have its boxes in pixels; all 1 end within the first 2"):
        VocDetectionDataModule(tmp_path)

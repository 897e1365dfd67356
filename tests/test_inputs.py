"""What a run says of its data is what whoever deploys its network needs: the same input, and names for the outputs."""

from pathlib import Path

import numpy as np
import pytest
import test_data_coco
import test_data_file_check
import test_data_masks
from PIL import Image

from lightning_nas.data.coco import CocoDataModule
from lightning_nas.data.image_folder import ImageFolderDataModule
from lightning_nas.data.masks import MaskFolderDataModule
from lightning_nas.jobs.inputs import inputs_and_outputs


def prepared(path: Path, how: dict) -> np.ndarray:
    """Make the input of a network as the record of a run says, by other means."""
    height, width = how["image_size"]
    image = Image.open(path).convert("RGB")
    canvas = Image.new("RGB", (width, height), tuple(how.get("fill", (0, 0, 0))))
    if how["fit"] == "letterbox":
        scale = min(height / image.height, width / image.width)
        height, width = round(scale * image.height), round(scale * image.width)
    canvas.paste(image.resize((width, height), Image.Resampling.BILINEAR))
    pixels = (np.asarray(canvas) / 255 - how["mean"]) / how["std"]
    return pixels.transpose(2, 0, 1)


def folder(root: Path) -> tuple:
    test_data_file_check.make_folder(root)
    return ImageFolderDataModule(root, image_size=32), root / "test/cat/0.jpg", ["cat", "dog"]


def boxes(root: Path) -> tuple:
    test_data_coco.make(root)
    return CocoDataModule(root, image_size=(48, 40)), root / "images/test/0.png", ["cat", "dog"]


def masks(root: Path) -> tuple:
    test_data_masks.make(root)
    test_data_masks.write_labels(root, ("sky", "road", "tree"))
    return MaskFolderDataModule(root, image_size=(32, 24)), root / "images/test/0.png", ["sky", "road", "tree"]


@pytest.mark.parametrize("make", [folder, boxes, masks])
def test_an_image_that_is_prepared_as_the_record_says_is_what_the_network_was_tested_on(tmp_path: Path, make) -> None:
    data, path, classes = make(tmp_path)
    found = inputs_and_outputs(data)
    assert found["classes"] == classes
    data.setup("test")
    tested = data.test_dataloader().dataset[0][0].numpy()
    np.testing.assert_allclose(prepared(path, found["preprocessing"]), tested, atol=0.02)


def test_of_data_that_says_nothing_nothing_is_recorded() -> None:
    assert inputs_and_outputs(object()) == {}

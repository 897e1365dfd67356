"""COCO folders: what batches hold, what a seed repeats, and one clear message for each mistake."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from lightning_nas.data.coco import CocoDataModule
from lightning_nas.data.detection_augment import DetectionAugmentation
from lightning_nas.data.detection_batches import DetectionBatches, DetectionRecord
from lightning_nas.data.detections import detection_data
from lightning_nas.data.digit_detection import DigitDetectionDataModule
from lightning_nas.data.loading import Loading
from lightning_nas.data.masks import mask_data
from lightning_nas.data.pets import pets_data
from lightning_nas.data.voc import voc_data
from lightning_nas.data.voc_segmentation import voc_segmentation_data
from lightning_nas.jobs.inputs import data_name

DATA = Path(os.environ.get("LIGHTNING_NAS_DATA", Path(__file__).parents[2] / "shared" / "data"))
CONF = Path(__file__).parents[1] / "conf" / "data"
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def make_split(root: Path, split: str, count: int = 4) -> dict:
    """Save images of 80x60 with a white square of class `dog` each, and return what their annotation file holds."""
    folder = root / "images" / split
    folder.mkdir(parents=True, exist_ok=True)
    (root / "annotations").mkdir(exist_ok=True)
    content = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]}
    for number in range(count):
        image = Image.new("RGB", (80, 60))
        image.paste((255, 255, 255), (10, 20, 50, 40))
        image.save(folder / f"{number}.png")
        content["images"].append({"id": 100 + number, "file_name": f"{number}.png", "width": 80, "height": 60})
        content["annotations"].append(box(100 + number, [10, 20, 40, 20], number, category=7 if number else 3))
    return content


def box(image: int, sides: object, number: int = 0, category: object = 7, **more: object) -> dict:
    return {"id": number, "image_id": image, "category_id": category, "bbox": sides, **more}


def write(root: Path, split: str, content: object) -> Path:
    file = root / "annotations" / f"instances_{split}.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def make(root: Path, change=None, splits: tuple[str, ...] = ("train", "val", "test")) -> Path:
    """Write all splits; `change` is done to the content of `train`."""
    for split in splits:
        content = make_split(root, split)
        if split == "train" and change is not None:
            change(content)
        write(root, split, content)
    return root


def plain(root: Path, **settings: object) -> CocoDataModule:
    """Return data whose training images are not augmented."""
    data = CocoDataModule(root, **{"image_size": (30, 60), "augment": None, **settings})
    data.setup()
    return data


def targets_of(data: CocoDataModule) -> list[dict]:
    part = data.train_dataloader().dataset
    return part.__getitems__(list(range(len(part))))[1]


def test_batches_are_letterboxed_and_normalised(tmp_path: Path) -> None:
    data = CocoDataModule(make(tmp_path), image_size=(30, 60), loading=Loading(batch_size=3))
    data.setup()
    assert (data.num_classes, data.class_names, data.input_size) == (2, ("cat", "dog"), (3, 30, 60))
    assert data.root == tmp_path
    images, targets = next(iter(data.val_dataloader()))
    assert images.shape == (3, 3, 30, 60)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert [target["labels"].tolist() for target in targets] == [[0], [1], [1]]
    assert targets[0]["labels"].dtype == torch.int64
    assert targets[0]["boxes"].dtype == torch.float32
    assert targets[0]["boxes"].tolist() == [[5, 10, 25, 20]]
    pixels = images * STD + MEAN
    torch.testing.assert_close(pixels[0, :, 15, 15], torch.ones(3))
    torch.testing.assert_close(pixels[0, :, 5, 3], torch.zeros(3), atol=1e-6, rtol=0)
    assert images[:, :, :, 40:].abs().max() < 0.02


@pytest.mark.parametrize("size", [(60, 80), (24, 200), (200, 24), (6, 8), (33, 47)])
def test_boxes_follow_the_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    images, targets = plain(make(tmp_path), image_size=(max(8, size[0]), size[1])).val_dataloader().dataset[0]
    left, top, right, bottom = targets["boxes"][0].tolist()
    white = (images * STD + MEAN).amin(dim=0) > 0.6
    rows, columns = white.any(dim=1).nonzero(), white.any(dim=0).nonzero()
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(np.subtract([left, top, right, bottom], [int(side) for side in found])).max() <= 1


def augmented(data: DetectionBatches, count: int = 200) -> list[tuple[torch.Tensor, dict]]:
    found = []
    for number in range(count):
        images, targets = data.__getitems__([number % len(data), (number + 1 + number // len(data)) % len(data)])
        found += list(zip(images, targets, strict=True))
    return found


def test_augmented_boxes_follow_the_picture(tmp_path: Path) -> None:
    data = CocoDataModule(make(tmp_path), image_size=(60, 80))
    data.setup("fit")
    sides = []
    for image, target in augmented(data.train_dataloader().dataset):
        assert len(target["boxes"]) == len(target["labels"]) == 1
        left, top, right, bottom = target["boxes"][0].tolist()
        assert min(left, top) >= 0
        assert right <= 80
        assert bottom <= 60
        white = (image * STD + MEAN).amin(dim=0) > 0.56
        inside = white[round(top) : round(bottom), round(left) : round(right)]
        assert white.sum() == pytest.approx((right - left) * (bottom - top), rel=0.25, abs=6)
        assert inside.float().mean() > 0.75
        sides.append((left, right - left, bottom - top))
    assert all(deviation > 3 for deviation in np.std(sides, axis=0))


def test_flip_can_be_switched_off() -> None:
    image = torch.zeros(3, 20, 40, dtype=torch.uint8)
    record = DetectionRecord(image, (20, 40), torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([0]))
    for flip, lefts in ((True, {0, 30}), (False, {0})):
        augment = DetectionAugmentation(min_crop_area=1, flip=flip, zoom_out=1, color_jitter=0)
        data = DetectionBatches([record] * 16, (20, 40), augment)
        assert {int(target["boxes"][0, 0]) for target in data.__getitems__(list(range(16)))[1]} == lefts


def test_augmentation_of_extreme_shapes_and_of_nothing() -> None:
    augment = DetectionAugmentation(zoom_out=8)
    boxes = {0: torch.zeros(0, 4), 1: torch.tensor([[0.0, 0.0, 1.0, 1.0]])}
    for size in ((1, 1), (1, 500), (500, 2)):
        for count, found in boxes.items():
            image = torch.zeros(3, *size, dtype=torch.uint8)
            record = DetectionRecord(image, size, found, torch.zeros(count, dtype=torch.int64))
            _, targets = DetectionBatches([record] * 40, (32, 48), augment).__getitems__(list(range(40)))
            assert all(target["boxes"].shape == (len(target["labels"]), 4) for target in targets)


def loaded(root: Path, **settings: int) -> list:
    data = CocoDataModule(root, image_size=32, loading=Loading(batch_size=2, **settings))
    data.setup("fit")
    loader = data.train_dataloader()
    loader.sampler.set_epoch(1)
    return list(loader)


@pytest.mark.parametrize("settings", [{"cache_limit_bytes": 0}, {"num_workers": 2}], ids=["read", "workers"])
def test_a_seed_repeats_every_batch(tmp_path: Path, settings: dict) -> None:
    make(tmp_path)
    state = torch.get_rng_state()
    batches = loaded(tmp_path, seed=3)
    torch.rand(5)
    for (one, targets), (other, repeated) in zip(batches, loaded(tmp_path, seed=3, **settings), strict=True):
        assert torch.equal(one, other)
        for target, again in zip(targets, repeated, strict=True):
            assert all(torch.equal(target[name], again[name]) for name in ("boxes", "labels"))
    assert not torch.equal(batches[0][0], loaded(tmp_path, seed=4)[0][0])
    torch.set_rng_state(state)


def test_augmentation_leaves_the_random_numbers_of_training_alone(tmp_path: Path) -> None:
    data = CocoDataModule(make(tmp_path), image_size=32)
    data.setup("fit")
    state = torch.get_rng_state()
    data.train_dataloader().dataset.__getitems__([0, 1])
    assert torch.equal(torch.get_rng_state(), state)


def test_val_stands_in_for_test_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = plain(make(tmp_path, splits=("train", "val")))
    assert "has no `test` split; the images of `val` are the test images too" in caplog.text
    assert data.test_dataloader().dataset is data.val_dataloader().dataset


def test_extra_roots_add_training_images_only(tmp_path: Path) -> None:
    make(tmp_path / "own")
    content = make_split(tmp_path / "more", "train", count=3)
    # The same names under other ids.
    content["categories"] = [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}]
    write(tmp_path / "more", "train", content)
    data = plain(tmp_path / "own", extra_roots=[tmp_path / "more"])
    assert [len(data.splits.parts[split]) for split in ("train", "val", "test")] == [7, 4, 4]
    assert [int(target["labels"]) for target in targets_of(data)] == [0, 1, 1, 1, 1, 0, 0]


def test_val_images_of_extra_roots_are_test_images_where_that_is_asked_for(tmp_path: Path) -> None:
    make(tmp_path / "own")
    for split, count in (("train", 3), ("val", 2)):
        write(tmp_path / "more", split, make_split(tmp_path / "more", split, count=count))
    data = plain(tmp_path / "own", extra_roots=[tmp_path / "more"], extra_test=True)
    assert [len(data.splits.parts[split]) for split in ("train", "val", "test")] == [7, 4, 6]
    # Figures on other images have another name on pages.
    assert data_name(data) == "own, tested on more too"
    assert data_name(plain(tmp_path / "own", extra_roots=[tmp_path / "more"])) == "own"
    with pytest.raises(ValueError, match="`extra_test` takes the `val` images of `extra_roots`; there are none"):
        plain(tmp_path / "own", extra_test=True)
    (tmp_path / "more" / "annotations" / "instances_val.json").unlink()
    with pytest.raises(ValueError, match=r"must have annotations/instances_val.json; there is no '.*more"):
        plain(tmp_path / "own", extra_roots=[tmp_path / "more"], extra_test=True)


def test_extra_root_of_other_categories_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "own")
    content = make_split(tmp_path / "more", "train")
    content["categories"][1]["name"] = "emu"
    write(tmp_path / "more", "train", content)
    with pytest.raises(ValueError, match=r"more.*differs in cat, emu"):
        CocoDataModule(tmp_path / "own", extra_roots=str(tmp_path / "more"))


def test_boxes_are_clipped_and_useless_ones_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def change(content: dict) -> None:
        content["annotations"] += [
            box(100, [60, -10, 40, 30]),
            box(100, [90, 0, 10, 10]),
            box(101, [10, 10, 0, 5]),
            box(101, [10, 10, 5, -5]),
            box(102, [0, 0, 80, 60], iscrowd=1),
        ]
        del content["annotations"][3]

    targets = targets_of(plain(make(tmp_path, change), image_size=(60, 80)))
    assert targets[0]["boxes"].tolist() == [[10, 20, 50, 40], [60, 0, 80, 20]]
    assert [len(target["boxes"]) for target in targets] == [2, 1, 2, 0]
    assert targets[2]["iscrowd"].tolist() == [0, 1]
    assert targets[3]["boxes"].shape == (0, 4)
    assert "3 of 8 boxes are dropped, 2 without area and 1 wholly outside" in caplog.text
    assert "[90.0, 0.0, 100.0, 10.0] of 0.png" in caplog.text
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_boxes_follow_the_annotated_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def change(content: dict) -> None:
        content["images"][1] |= {"width": 160, "height": 120}
        content["annotations"][1]["bbox"] = [20, 40, 80, 40]
        content["images"][2] |= {"width": None, "height": None}

    for target in targets_of(plain(make(tmp_path, change), image_size=(60, 80))):
        assert target["boxes"].tolist() == [[10, 20, 50, 40]]
    assert "1 of 4 images have another size than annotated" in caplog.text
    assert "1.png is 80x60, not 160x120" in caplog.text


@pytest.mark.parametrize("annotated", ["stored", "turned"])
def test_boxes_of_turned_photos(tmp_path: Path, annotated: str, caplog: pytest.LogCaptureFixture) -> None:
    """A photo that EXIF turns is read the way that its annotated size says."""
    root = make(tmp_path)
    image = Image.open(root / "images" / "train" / "0.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = 6
    image.save(root / "images" / "train" / "0.jpg", exif=exif, quality=95)
    content = json.loads((root / "annotations" / "instances_train.json").read_text())
    content["images"][0]["file_name"] = "0.jpg"
    if annotated == "stored":
        content["images"][0] |= {"width": 60, "height": 80}
        content["annotations"][0]["bbox"] = [20, 30, 20, 40]
    write(root, "train", content)
    images, target = plain(root, image_size=(80, 80)).train_dataloader().dataset[0]
    expected = [20, 30, 40, 70] if annotated == "stored" else [10, 20, 50, 40]
    assert target["boxes"][0].tolist() == expected
    left, top, right, bottom = expected
    assert (images * STD + MEAN)[:, top + 2 : bottom - 2, left + 2 : right - 2].min() > 0.9
    assert "another size" not in caplog.text


@pytest.mark.parametrize(("mode", "suffix"), [("L", "png"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpg")])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    root = make(tmp_path)
    with Image.open(root / "images" / "val" / "0.png") as image:
        image.convert(mode).save(root / "images" / "val" / "0.png", "JPEG" if suffix == "jpg" else None)
    images, _ = plain(root, image_size=(60, 80)).val_dataloader().dataset[0]
    torch.testing.assert_close((images * STD + MEAN)[:, 30, 30], torch.ones(3), atol=0.02, rtol=0)


def test_class_without_a_training_box_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def change(content: dict) -> None:
        content["annotations"][0]["category_id"] = 7

    CocoDataModule(make(tmp_path, change))
    assert "instances_train.json' has no box of cat" in caplog.text


def remove(name: str, index: int = 1):
    return lambda content: content["images"][index].pop(name)


def annotate(**entry: object):
    return lambda content: content["annotations"][1].update(entry)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("images"), "must be a COCO file; it has no list `images`"),
        (lambda content: content.update(annotations={}), "must be a COCO file; it has no list `annotations`"),
        (lambda content: content.update(images=[1]), "must be a COCO file; it has no list `images`"),
        (lambda content: content.update(categories=[]), "categories with different ids and names; it has none"),
        (lambda content: content["categories"][0].update(id=3), "different ids and names; it has dog, cat"),
        (lambda content: content["categories"][0].pop("name"), "each of `categories` must have"),
        (lambda content: content.update(annotations=[]), "must have at least one box; none of its 4 images"),
        (lambda content: content["images"][1].update(id=100), "several with id 100"),
        (remove("file_name"), "each of `images` must have"),
        (remove("width"), "each of `images` must have"),
        (lambda content: content["images"][1].update(width=0), "each of `images` must have"),
        (annotate(category_id=5), "annotation 1 is of category 5; the categories are 3, 7"),
        (annotate(image_id=5), "annotation 1 is of image 5, which is not in `images`"),
        (annotate(image_id=[]), "each of `annotations` must have"),
        (annotate(bbox=[1, 2, 3]), "each of `annotations` must have"),
        (annotate(bbox=[1, 2, 3, float("nan")]), "each of `annotations` must have"),
        (annotate(bbox=[1, 2, 3, 10**400]), "each of `annotations` must have"),
        (annotate(area=10**400), "each of `annotations` must have"),
        (lambda content: content["images"][1].update(width=10**400), "each of `images` must have"),
        (lambda content: content["images"][1].update(file_name="x" * 5000), "must exist; 1 of 4 do not"),
        (lambda content: content["images"][1].update(file_name="a\0b"), "must exist; 1 of 4 do not"),
        (annotate(bbox=None), "each of `annotations` must have"),
        (annotate(iscrowd="0"), "`iscrowd` and `ignore` of 0 or 1"),
        (annotate(ignore=2), "`iscrowd` and `ignore` of 0 or 1"),
        (annotate(area=-4.0), "`area` of at least 0"),
    ],
)
def test_bad_annotations_are_refused(tmp_path: Path, change, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        CocoDataModule(make(tmp_path, change))
    assert "instances_train.json" in str(error.value)


@pytest.mark.parametrize("content", ["no json", "[1]", '"text"', "", "[" * 100_000])
def test_what_is_no_coco_file_is_refused(tmp_path: Path, content: str) -> None:
    write(make(tmp_path), "val", content)
    with pytest.raises(ValueError, match=r"instances_val\.json' must be a COCO file"):
        CocoDataModule(tmp_path)


def test_other_categories_of_a_split_are_refused(tmp_path: Path) -> None:
    def change(content: dict) -> None:
        content["categories"].append({"id": 9, "name": "emu"})

    with pytest.raises(ValueError, match=r"instances_val\.json' differs in emu"):
        CocoDataModule(make(tmp_path, change))


def test_missing_images_are_counted(tmp_path: Path) -> None:
    make(tmp_path)
    for number in (1, 2):
        (tmp_path / "images" / "test" / f"{number}.png").unlink()
    with pytest.raises(ValueError, match=r"instances_test.*2 of 4 do not, first '.*test/1\.png'"):
        CocoDataModule(tmp_path)


def test_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    (make(tmp_path) / "images" / "val" / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"val/3\.png' must be a readable image"):
        CocoDataModule(tmp_path)


def test_missing_folders_and_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is nothing at .*nowhere"):
        CocoDataModule(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"must have annotations/instances_train\.json"):
        CocoDataModule(tmp_path)
    make(tmp_path, splits=("train",))
    with pytest.raises(ValueError, match=r"must have annotations/instances_val\.json"):
        CocoDataModule(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 4}, "`image_size` must be at least 8; got 4"),
        ({"image_size": (32, 32, 3)}, "`image_size` must be"),
        ({"batch_size": 0}, "`batch_size` must be at least 1; got 0"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detection_data(make(tmp_path), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_crop_area": 0}, "`min_crop_area` must be above 0"),
        ({"zoom_out": 0.5}, "`zoom_out` must be between 1 and 8"),
        ({"color_jitter": 1}, "`color_jitter` must be at least 0 and below 1; got 1"),
    ],
)
def test_augmentation_out_of_range_is_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CocoDataModule(make(tmp_path), augment=DetectionAugmentation(**settings))


@pytest.mark.parametrize("make_data", [detection_data, voc_data, mask_data, pets_data, voc_segmentation_data])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be at least 1; got 0"),
        ({"cache_limit_bytes": -1}, "`cache_limit_bytes` must be at least 0"),
        ({"image_size": 4}, "`image_size` must be at least 8; got 4"),
        ({"batchsize": 8}, "There is no setting `batchsize` of this data; beside its own there are batch_size, num"),
    ],
)
def test_settings_are_checked_before_a_file_is_read(tmp_path: Path, make_data, settings: dict, message: str) -> None:
    # There is nothing to read: whoever read first would say that.
    with pytest.raises(ValueError, match=message):
        make_data(tmp_path / "nowhere", **settings)


def test_recipe_data_is_embedded_digits_without_a_folder(tmp_path: Path) -> None:
    conf = OmegaConf.merge({"seed": 2}, {"data": OmegaConf.load(CONF / "coco.yaml")})
    data = instantiate(conf.data)
    assert isinstance(data, DigitDetectionDataModule)
    assert (data.input_size, data.seed) == ((3, 96, 96), 2)
    data = instantiate(conf.data, root=str(make(tmp_path)), image_size=[32, 64], extra_roots=[str(tmp_path)])
    assert isinstance(data, CocoDataModule)
    assert data.input_size == (3, 32, 64)
    with pytest.raises(ValueError, match="digit scenes must be square"):
        detection_data(image_size=(64, 96))
    with pytest.raises(ValueError, match="`extra_roots` and `extra_test` add to the images of `root`"):
        detection_data(extra_roots=[tmp_path])


@pytest.mark.skipif(not (DATA / "coco_person_nc").is_dir(), reason="needs LIGHTNING_NAS_DATA with coco_person")
def test_real_photos() -> None:
    read = Loading(cache_limit_bytes=0)
    data = CocoDataModule(DATA / "coco_person", extra_roots=[DATA / "coco_person_nc"], loading=read)
    data.setup()
    assert data.class_names == ("person",)
    assert [len(data.splits.parts[split]) for split in ("train", "val", "test")] == [925, 76, 75]
    more = CocoDataModule(DATA / "coco_person", extra_roots=data.extra_roots, extra_test=True, loading=read)
    more.setup()
    assert [len(more.splits.parts[split]) for split in ("train", "val", "test")] == [925, 76, 200]
    images, targets = next(iter(data.train_dataloader()))
    assert images.shape == (16, 3, 192, 256)
    boxes = torch.cat([target["boxes"] for target in targets])
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([256, 192, 256, 192])).all()

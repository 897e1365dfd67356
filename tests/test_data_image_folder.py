"""Image folders: every mode of image, every layout, and one clear message for each mistake."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_nas.data.batch_augment import BatchAugmentation
from lightning_nas.data.image_folder import ImageFolderDataModule
from lightning_nas.data.images import image_data
from lightning_nas.data.loading import Loading
from lightning_nas.training.fingerprint import plain

DATA = Path(os.environ.get("LIGHTNING_NAS_DATA", Path(__file__).parents[2] / "shared" / "data"))


def save(path: Path, color: int = 0, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), (color, 100, 50)).convert(mode).save(path)


def make_splits(root: Path, splits: tuple[str, ...] = ("train", "val", "test"), count: int = 4) -> Path:
    for split in splits:
        for number in range(count):
            save(root / split / "cat" / f"{number}.png", 10 * number)
            save(root / split / "dog" / f"{number}.png", 255 - 10 * number)
    return root


def test_reads_splits_with_sorted_classes(tmp_path: Path) -> None:
    data = ImageFolderDataModule(make_splits(tmp_path), image_size=16, loading=Loading(batch_size=3))
    data.setup()
    assert (data.num_classes, data.class_names, data.input_size) == (2, ("cat", "dog"), (3, 16, 16))
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (3, 3, 16, 16)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.cat([labels for _, labels in data.test_dataloader()]).tolist() == [0] * 4 + [1] * 4
    assert len(labels) == 3


def test_evaluation_images_are_normalised_by_imagenet(tmp_path: Path) -> None:
    data = ImageFolderDataModule(make_splits(tmp_path), image_size=16)
    data.setup("test")
    pixel = next(iter(data.test_dataloader()))[0][0, :, 0, 0]
    expected = (torch.tensor([0, 100, 50]) / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(pixel, expected)


def test_val_stands_in_for_test_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = ImageFolderDataModule(make_splits(tmp_path, ("train", "val")), image_size=16)
    with caplog.at_level(logging.WARNING):
        data.setup()
    assert "has no `test` split; the images of `val`" in caplog.text
    assert len(data.test_dataloader().dataset) == len(data.val_dataloader().dataset) == 8


@pytest.mark.parametrize("splits", [("train", "val", "test"), ("train", "val")])
def test_further_test_images_are_tested_on_too(tmp_path: Path, splits: tuple[str, ...]) -> None:
    root = make_splits(tmp_path / "pets", splits)
    further = make_splits(tmp_path, ("field",), count=3) / "field"
    data = ImageFolderDataModule(root, image_size=16, extra_test_root=further)
    data.setup()
    own = [0] * 4 + [1] * 4 if "test" in splits else []
    assert torch.cat([labels for _, labels in data.test_dataloader()]).tolist() == own + [0] * 3 + [1] * 3
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 8
    assert data.name == "pets, tested on field too"


def test_further_test_images_of_other_classes_are_refused(tmp_path: Path) -> None:
    root = make_splits(tmp_path / "pets")
    save(tmp_path / "field" / "cat" / "0.png")
    save(tmp_path / "field" / "horse" / "0.png")
    with pytest.raises(ValueError, match="field' must have the class folders cat, dog; it differs in 'dog'"):
        ImageFolderDataModule(root, image_size=16, extra_test_root=tmp_path / "field")
    with pytest.raises(ValueError, match="`extra_test_root` must be a folder of images"):
        ImageFolderDataModule(root, image_size=16, extra_test_root=tmp_path / "nowhere")


def test_class_folders_are_split_the_same_way_for_every_seed(tmp_path: Path) -> None:
    for number in range(20):
        save(tmp_path / "a" / f"{number:02}.png", number)
        save(tmp_path / "b" / "deeper" / f"{number:02}.png", number)
    one, other = (ImageFolderDataModule(tmp_path, image_size=16, loading=Loading(seed=seed)) for seed in (0, 1))
    assert one.images.files == other.images.files
    assert [len(files.paths) for files in one.images.files.values()] == [28, 6, 6]
    assert len({path for files in one.images.files.values() for path in files.paths}) == 40


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    root = make_splits(tmp_path)
    path = root / "test" / "cat" / ("0.tif" if mode == "CMYK" else "0.png")
    if mode == "I;16":
        Image.fromarray(np.full((8, 8), 128 * 257, dtype=np.uint16)).save(path)
    else:
        save(path, 200, mode)
    data = ImageFolderDataModule(root, image_size=16)
    data.setup("test")
    assert data.test_dataloader().dataset[0][0].shape == (3, 16, 16)
    if mode == "I;16":
        assert data.test_dataloader().dataset.load([0]).unique().tolist() == [128]


def test_transparent_pixels_are_white_whatever_lies_under_them(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(root / "test" / "cat" / "0.png")
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(root / "test" / "cat" / "1.png", transparency=b"\xff\x00")
    data = ImageFolderDataModule(root, image_size=16)
    data.setup("test")
    assert data.test_dataloader().dataset.load([0, 1]).min() == 255


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    image = Image.new("RGB", (16, 16))
    image.paste((255, 255, 255), (0, 0, 16, 8))
    exif = Image.Exif()
    exif[274] = 3
    image.save(root / "test" / "cat" / "0.png", exif=exif)
    data = ImageFolderDataModule(root, image_size=16)
    data.setup("test")
    pixels = data.test_dataloader().dataset.load([0])[0]
    assert pixels[:, :7].max() < 128 < pixels[:, 9:].min()


def test_reading_every_epoch_gives_the_cached_batches(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    batches = []
    for limit in (2**30, 0):
        data = ImageFolderDataModule(root, image_size=16, loading=Loading(4, cache_limit_bytes=limit, seed=3))
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(1)
        batches.append(list(loader))
    for (cached, labels), (read, labels_read) in zip(*batches, strict=True):
        assert torch.equal(cached, read)
        assert torch.equal(labels, labels_read)


@pytest.mark.parametrize("limit", [2**30, 0])
def test_unreadable_image_is_named_before_training(tmp_path: Path, limit: int) -> None:
    root = make_splits(tmp_path)
    (root / "train" / "dog" / "2.png").write_bytes(b"no image")
    data = ImageFolderDataModule(root, image_size=16, loading=Loading(cache_limit_bytes=limit))
    with pytest.raises(ValueError, match=r"dog/2\.png' must be a readable image"):
        data.setup("fit")


def test_truncated_image_is_named(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = root / "train" / "dog" / "2.jpg"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(ValueError, match=r"dog/2\.jpg' must be a readable image"):
        ImageFolderDataModule(root, image_size=16).setup("fit")


def test_missing_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is nothing at .*nowhere"):
        ImageFolderDataModule(tmp_path / "nowhere")


def test_empty_root_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must hold train/, val/ and test/, or one folder a class"):
        ImageFolderDataModule(tmp_path)


def test_train_without_val_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it lacks val"):
        ImageFolderDataModule(make_splits(tmp_path, ("train", "test")))


@pytest.mark.parametrize(
    "spelled",
    [
        ("Train", "Val", "Test"),
        ("training", "validation", "testing"),
        ("TRAIN", "valid", "eval"),
        ("train_images", "dev", "Evaluation"),
        ("trainset", "Val_Set", "test set"),
        ("train2017", "val2017", "test2017"),
        ("TrainingData", "ValidationData", "TestData"),
    ],
)
def test_splits_are_told_however_they_are_spelled(tmp_path: Path, spelled: tuple[str, str, str]) -> None:
    for count, split in enumerate(spelled, start=1):
        make_splits(tmp_path, (split,), count)
    save(tmp_path / "annotations.png")
    (tmp_path / "labels").mkdir()
    data = ImageFolderDataModule(tmp_path, image_size=16)
    assert data.class_names == ("cat", "dog")
    assert {split: content.num_of_class for split, content in data.contents.items()} == {
        "train": (1, 1),
        "val": (2, 2),
        "test": (3, 3),
    }


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (("val",), r"it lacks train \(read: 'val' as val\)"),
        (("Train", "Test"), r"it lacks val \(read: 'Test' as test, 'Train' as train\)"),
        (("train", "val", "dev"), "'dev' and 'val' both mean val"),
        (("train", "val", "test", "Testing"), "'Testing' and 'test' both mean test"),
        (("train", "val", "cat", "dog"), "by name 'train', 'val' would be splits, and 'cat', 'dog' not"),
        (("Training", "holdout2", "unlabelled"), "and 'unlabelled' not"),
    ],
)
def test_what_looks_like_splits_and_cannot_be_told_is_refused(tmp_path: Path, splits: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule(make_splits(tmp_path, splits))


@pytest.mark.parametrize("names", [("tr", "va", "te"), ("fold0", "fold1"), ("learn", "check")])
def test_folders_that_hold_the_same_folders_are_no_classes(tmp_path: Path, names: tuple) -> None:
    with pytest.raises(ValueError, match=r"may hold splits or classes: .* have the same folders, cat, dog"):
        ImageFolderDataModule(make_splits(tmp_path, names))


def test_images_that_are_exchanged_make_another_run(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    before = plain(ImageFolderDataModule(root), whole_paths=True)
    assert plain(ImageFolderDataModule(root), whole_paths=True) == before
    cat, dog = (root / "train" / name for name in ("cat", "dog"))
    cat.rename(root / "train" / "other")
    dog.rename(cat)
    (root / "train" / "other").rename(dog)
    assert plain(ImageFolderDataModule(root), whole_paths=True) != before
    # Records of machines that keep them in other places agree.
    assert "splits" not in plain(ImageFolderDataModule(root))
    # Workers change no image; the seed of the augmentation does.
    assert plain(ImageFolderDataModule(root, loading=Loading(32, num_workers=2))) == plain(ImageFolderDataModule(root))
    assert plain(ImageFolderDataModule(root, loading=Loading(32, seed=1))) != plain(ImageFolderDataModule(root))


def test_splits_inside_of_classes_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for number in range(5):
            save(tmp_path / name / "train" / f"{number}.png")
            save(tmp_path / name / "Test" / f"{number}.png")
    with pytest.raises(ValueError, match=r"cat' must hold images of one class.* the folder 'Test', which looks like a"):
        ImageFolderDataModule(tmp_path)


def test_classes_whose_names_hold_that_of_a_split_are_classes(tmp_path: Path) -> None:
    for name in ("train station", "test_tube", "validator"):
        for number in range(3):
            save(tmp_path / name / f"{number}.png")
    assert ImageFolderDataModule(tmp_path).class_names == ("test_tube", "train station", "validator")


def test_class_without_images_is_refused(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    (root / "train" / "emu").mkdir()
    with pytest.raises(ValueError, match=r"train/emu' has none"):
        ImageFolderDataModule(root)


def test_differing_classes_are_refused(tmp_path: Path) -> None:
    root = make_splits(tmp_path)
    save(root / "val" / "emu" / "0.png")
    with pytest.raises(ValueError, match="train and val differ in emu"):
        ImageFolderDataModule(root)


def test_class_too_small_to_split_is_refused(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "a" / f"{number}.png")
    save(tmp_path / "b" / "0.png")
    with pytest.raises(ValueError, match="at least 3 images"):
        ImageFolderDataModule(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 4}, "`image_size` must be at least 8; got 4"),
        ({"batch_size": 0}, "`batch_size` must be at least 1; got 0"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_data(make_splits(tmp_path), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_crop_area": 0}, "`min_crop_area` must be above 0"),
        ({"color_jitter": 1}, "`color_jitter` must be at least 0 and below 1; got 1"),
    ],
)
def test_augmentation_out_of_range_is_refused(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFolderDataModule(make_splits(tmp_path), augment=BatchAugmentation(**settings))


@pytest.mark.skipif(not (DATA / "person_presence96").is_dir(), reason="needs LIGHTNING_NAS_DATA with person_presence96")
def test_real_photos() -> None:
    data = ImageFolderDataModule(DATA / "person_presence96")
    data.setup("fit")
    assert data.class_names == ("no_person", "person")
    assert (len(data.train_dataloader().dataset), len(data.val_dataloader().dataset)) == (771, 175)
    images, _ = next(iter(data.train_dataloader()))
    assert images.abs().mean() < 2

"""Folders of images and masks: what is read, what is kept with a warning, and one clear message for each mistake."""

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from lightning_nas.data.batch_augment import BatchAugmentation
from lightning_nas.data.digit_masks import DigitMasksDataModule
from lightning_nas.data.masks import MaskFolderDataModule, mask_data
from lightning_nas.data.pets import PetsDataModule
from lightning_nas.data.voc_segmentation import VOCSegmentationDataModule

DATA = Path(os.environ.get("LIGHTNING_NAS_DATA", Path(__file__).parents[2] / "shared" / "data"))
SPLITS = ("train", "val", "test")
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def save_image(path: Path, mode: str = "RGB", size: tuple[int, int] = (20, 16), color: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (color, 100, 50)).convert(mode).save(path)


def save_mask(path: Path, ids: object, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(ids)
    mask = Image.fromarray(values if values.dtype == np.uint16 else values.astype(np.uint8))
    if palette:
        mask.putpalette(list(np.random.default_rng(0).integers(0, 255, 768)))
    mask.save(path)


def halves(left: int = 0, right: int = 1, size: tuple[int, int] = (16, 20)) -> np.ndarray:
    mask = np.full(size, left)
    mask[:, size[1] // 2 :] = right
    return mask


def make(root: Path, splits: tuple[str, ...] = SPLITS, count: int = 4) -> Path:
    for split in splits:
        for number in range(count):
            save_image(root / "images" / split / f"{number}.png", color=60 * number)
            save_mask(root / "masks" / split / f"{number}.png", halves(number % 2, 2))
    return root


def small(root: Path, **options: object) -> MaskFolderDataModule:
    return mask_data(root, **{"image_size": (16, 24), "batch_size": 3, **options})


def write_labels(root: Path, names: tuple[str, ...] = ("a", "b", "c"), ignored: int = 255) -> None:
    classes = [{"id": number, "name": name} for number, name in enumerate(names)]
    (root / "labels.json").write_text(json.dumps({"ignore_index": ignored, "classes": classes}))


def test_reads_splits(tmp_path: Path) -> None:
    data = small(make(tmp_path))
    data.setup()
    assert (data.num_classes, data.class_names, data.input_size) == (3, ("0", "1", "2"), (3, 16, 24))
    assert data.root == tmp_path
    images, masks = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype) == ((3, 3, 16, 24), torch.float32)
    assert (masks.shape, masks.dtype) == ((3, 16, 24), torch.int64)
    assert images.is_contiguous(memory_format=torch.channels_last)
    images, masks = data.test_dataloader().dataset[1]
    expected = (torch.tensor([60, 100, 50]).view(3, 1, 1) / 255 - MEAN) / STD
    torch.testing.assert_close(images, expected.expand(3, 16, 24))
    assert torch.equal(masks, torch.from_numpy(halves(1, 2, (16, 24))))


def test_splits_are_told_however_they_are_spelled(tmp_path: Path) -> None:
    data = small(make(tmp_path, ("Training", "validation", "TEST")))
    assert {split: content.num_of_class for split, content in data.contents.items()} == dict.fromkeys(SPLITS, (2, 2, 4))
    make(tmp_path, ("dev",))
    with pytest.raises(ValueError, match=r"images' must have one folder a split; 'dev' and 'validation' both mean val"):
        small(tmp_path)


def test_labels_file_names_classes_and_what_is_ignored(tmp_path: Path) -> None:
    root = make(tmp_path)
    write_labels(root, ("x", "y"), ignored=2)
    data = small(root)
    data.setup("test")
    assert data.class_names == ("x", "y")
    assert data.test_dataloader().dataset[1][1].unique().tolist() == [1, 255]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "I;16"])
def test_images_of_every_mode(tmp_path: Path, mode: str) -> None:
    root = make(tmp_path)
    path = root / "images" / "test" / "0.png"
    if mode == "I;16":
        Image.fromarray(np.full((16, 20), 128 * 257, dtype=np.uint16)).save(path)
    else:
        save_image(path, mode)
    data = small(root)
    data.setup("test")
    assert data.test_dataloader().dataset[0][0].shape == (3, 16, 24)


def test_masks_with_a_palette_and_of_two_colours_are_ids(tmp_path: Path) -> None:
    root = make(tmp_path)
    save_mask(root / "masks" / "test" / "0.png", halves(2, 1), palette=True)
    Image.fromarray(halves(0, 1).astype(bool)).save(root / "masks" / "test" / "1.png")
    save_mask(root / "masks" / "test" / "2.png", halves(2, 255).astype(np.uint16))
    data = small(root)
    data.setup("test")
    masks = data.test_dataloader().dataset.__getitems__([0, 1, 2])[1]
    assert [mask[0, [0, -1]].tolist() for mask in masks] == [[2, 1], [0, 1], [2, 255]]


def test_a_smaller_mask_of_the_same_proportions_is_resized(tmp_path: Path) -> None:
    root = make(tmp_path)
    save_mask(root / "masks" / "test" / "1.png", halves(1, 2, (8, 10)))
    save_image(root / "images" / "test" / "2.png", size=(641, 480))
    save_mask(root / "masks" / "test" / "2.png", halves(1, 2, (240, 320)))
    data = small(root)
    data.setup("test")
    masks = data.test_dataloader().dataset.__getitems__([1, 2])[1]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], torch.from_numpy(halves(1, 2, (16, 24))))


@pytest.mark.parametrize("cache_limit_bytes", [2**30, 0])
def test_masks_that_are_judged_may_be_larger(tmp_path: Path, cache_limit_bytes: int) -> None:
    data = small(make(tmp_path), mask_size=(32, 40), cache_limit_bytes=cache_limit_bytes)
    data.setup()
    for loader, size in ((data.train_dataloader(), (16, 24)), (data.val_dataloader(), (32, 40))):
        images, masks = next(iter(loader))
        assert images.shape[-2:] == (16, 24)
        assert masks.shape[-2:] == size
    assert (next(iter(data.test_dataloader()))[1][:, :, 20:] == 2).all()
    with pytest.raises(ValueError, match="`mask_size` must be at least 8; got "):
        small(tmp_path, mask_size=4)
    with pytest.raises(ValueError, match="`mask_size` is of the masks in `root`, which is not given; got 32"):
        mask_data(mask_size=32)


def test_val_stands_in_for_test_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = small(make(tmp_path, ("train", "val")))
    data.setup()
    assert "has no `test` split; the images of `val`" in caplog.text
    assert len(data.test_dataloader().dataset) == 4


def test_what_is_there_in_vain_is_kept_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(tmp_path)
    write_labels(root, ("a", "b", "c", "d"))
    save_mask(root / "masks" / "val" / "3.png", np.full((16, 20), 255))
    with caplog.at_level(logging.WARNING):
        data = small(root)
    assert "1 of 4 masks of" in caplog.text
    assert f"such as '{root / 'masks' / 'val' / '3.png'}'; they are kept" in caplog.text
    assert f"No mask of '{root}' (train) has a pixel of d." in caplog.text
    data.setup("validate")
    assert len(data.val_dataloader().dataset) == 4
    assert (data.val_dataloader().dataset[3][1] == 255).all()


def break_mask_size(root: Path) -> None:
    save_mask(root / "masks" / "test" / "1.png", halves(size=(20, 16)))


def break_ids(root: Path) -> None:
    write_labels(root)
    save_mask(root / "masks" / "test" / "2.png", halves(7, 9))


def break_wide_ids(root: Path) -> None:
    save_mask(root / "masks" / "test" / "2.png", halves(300, 9).astype(np.uint16))


def break_mode(root: Path) -> None:
    save_image(root / "masks" / "val" / "0.png")


def break_file(root: Path) -> None:
    (root / "masks" / "val" / "0.png").write_bytes(b"no image")


def break_labels(root: Path) -> None:
    (root / "labels.json").write_text('{"classes": ["sky"]}')


def break_numbering(root: Path) -> None:
    (root / "labels.json").write_text('{"classes": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]}')


def break_train(root: Path) -> None:
    for number in range(4):
        save_mask(root / "masks" / "train" / f"{number}.png", np.full((16, 20), 255))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (break_mask_size, r"test/1.png' must have the proportions .* it is 16x20 and the image 20x16"),
        (break_ids, r"test/2.png' has the label ids 7, 9; known are 0 to 2, and 255"),
        (break_wide_ids, r"test/2.png' has the label ids 300; ids are 0 to 255"),
        (break_mode, r"val/0.png' must hold one label id a pixel, grey or with a palette; its mode is RGB"),
        (break_file, r"val/0.png' must be a readable image"),
        (break_labels, r"labels.json' must be of the form"),
        (break_numbering, r"train/0.png' has the label ids 0; known are 1, 2, and 255 for .* HINT: `classes="),
        (break_train, r"\(train\) has a labelled pixel, such as '.*train/0.png'"),
        (lambda root: (root / "masks/test/1.png").unlink(), r"images/test/1.png' has no mask: there is no '.*1.png'"),
        (lambda root: (root / "images/test/1.png").unlink(), r"masks/test/1.png' has no image: there is no '.*1.jpg'"),
        (lambda root: save_image(root / "images/val/1.jpg"), r"val/1.jpg' and '.*val/1.png' are two images of one"),
        (lambda root: (root / "masks").rename(root / "labels"), r"it lacks masks/train"),
        (lambda root: (root / "masks/test").rename(root / "x"), r"images/test and masks/test, or neither"),
        (lambda root: [p.unlink() for p in root.glob("*/val/*")], r"images/val' has none"),
    ],
)
def test_mistakes_are_told_before_the_training(tmp_path: Path, spoil: object, message: str) -> None:
    root = make(tmp_path)
    spoil(root)
    with pytest.raises(ValueError, match=message):
        small(root)


def test_a_damaged_test_image_is_told_before_the_training(tmp_path: Path) -> None:
    root = make(tmp_path)
    path = root / "images" / "test" / "0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 20, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"test/0.png' must be a readable image"):
        small(root).setup("fit")


def test_settings_out_of_range_are_refused(tmp_path: Path) -> None:
    root = make(tmp_path)
    for options, message in (
        ({"image_size": (4, 16)}, "`image_size` must be at least 8; got 4"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"min_crop_area": 0.0}, "`min_crop_area` must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            small(root, **options)
    with pytest.raises(ValueError, match="Digit scenes are square; got `image_size` 32x64"):
        mask_data(image_size=(32, 64))
    for number in range(4):
        for split in SPLITS:
            save_mask(root / "masks" / split / f"{number}.png", halves(0, 0))
    with pytest.raises(ValueError, match=f"ids of at least two classes; those of '{root}' have 0. HINT"):
        small(root)


def test_images_and_masks_are_augmented_together() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 2, (16, 4, 4), generator=generator).repeat_interleave(8, 1).repeat_interleave(8, 2)
    images = masks[:, None].float().expand(-1, 3, -1, -1)
    moved, labels = BatchAugmentation(0.3, color_jitter=0).together(images, masks.to(torch.uint8), generator)
    assert labels.dtype == torch.uint8
    assert (labels != masks).float().mean() > 0.1
    # Between the two colours a pixel of the image is a mix.
    torch.testing.assert_close(
        (moved[:, 0] > 0.5).to(torch.uint8).float().mean(), labels.float().mean(), atol=0.02, rtol=0
    )
    assert ((moved[:, 0] > 0.5) == labels.bool()).float().mean() > 0.97


def test_augmentation_of_images_alone_draws_the_same_numbers() -> None:
    images = torch.rand(4, 3, 16, 16)
    augment = BatchAugmentation()
    alone = augment(images, torch.Generator().manual_seed(3))
    together, _ = augment.together(images, torch.zeros(4, 16, 16), torch.Generator().manual_seed(3))
    assert torch.equal(alone, together)


def test_batches_repeat_whatever_the_workers_and_the_cache(tmp_path: Path) -> None:
    root = make(tmp_path)
    batches = []
    for options in ({}, {"cache_limit_bytes": 0}, {"num_workers": 1}):
        data = small(root, batch_size=4, seed=3, **options)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(1)
        batches.append(next(iter(loader)))
    for images, masks in batches[1:]:
        assert torch.equal(images, batches[0][0])
        assert torch.equal(masks, batches[0][1])


def test_digit_scenes_are_masked() -> None:
    data = DigitMasksDataModule(image_size=32, scenes_per_digit=1)
    data.setup()
    assert (data.num_classes, data.class_names[:2], data.input_size) == (11, ("background", "0"), (3, 32, 32))
    assert not hasattr(data, "root")
    masks = torch.cat([masks for _, masks in data.test_dataloader()])
    assert masks.unique().tolist() == list(range(11))
    assert all(len(mask.unique()) == 2 for mask in masks[:20])


def test_data_of_a_recipe(tmp_path: Path) -> None:
    make(tmp_path)
    digits = mask_data(None, None, batch_size=2, seed=1)
    assert digits.input_size == (3, 64, 64)
    assert mask_data(image_size=OmegaConf.create([48, 48])).input_size == (3, 48, 48)
    assert mask_data(tmp_path, image_size=OmegaConf.create([32, 48]), seed=1).input_size == (3, 32, 48)
    assert mask_data(tmp_path, image_size=32).input_size == (3, 32, 32)
    assert mask_data(tmp_path).input_size == (3, 192, 256)


@pytest.mark.parametrize("name", ["masks", "pets", "voc_segmentation"])
def test_configured_data_takes_its_options(tmp_path: Path, name: str) -> None:
    config = OmegaConf.load(Path(__file__).parents[1] / "conf" / "data" / f"{name}.yaml")
    settings = OmegaConf.create({"seed": 3, "data": config})
    if name == "masks":
        assert instantiate(settings.data).seed == 3
        make(tmp_path)
    settings.data.root = str(tmp_path)
    if name == "masks":
        assert instantiate(settings.data).input_size == (3, 192, 256)
    else:
        # All options are known to the class, or the error would be another.
        with pytest.raises(InstantiationException, match="HINT: download=true"):
            instantiate(settings.data)


def test_voc_in_torchvisions_layout(tmp_path: Path) -> None:
    base = tmp_path / "VOCdevkit" / "VOC2012"
    names = {"train": ["a", "b"], "val": ["c", "d", "e"]}
    (base / "ImageSets" / "Segmentation").mkdir(parents=True)
    for split, members in names.items():
        (base / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(members))
        for name in members:
            save_image(base / "JPEGImages" / f"{name}.jpg")
            save_mask(base / "SegmentationClass" / f"{name}.png", halves(0, 20), palette=True)
    data = VOCSegmentationDataModule(tmp_path, image_size=(16, 24))
    data.setup()
    assert (data.num_classes, data.class_names[15], data.input_size) == (21, "person", (3, 16, 24))
    assert [len(data.splits.parts[split]) for split in SPLITS] == [2, 2, 1]
    assert data.splits.parts["test"][0][1].unique().tolist() == [0, 20]
    with pytest.raises(ValueError, match=r"There is no VOC 2007 for segmentation in .* HINT: download=true"):
        VOCSegmentationDataModule(tmp_path, year=2007)


@pytest.mark.parametrize("border_ignored", [False, True])
def test_pets_in_torchvisions_layout(tmp_path: Path, border_ignored: bool) -> None:
    base = tmp_path / "oxford-iiit-pet"
    names = {"trainval": [f"Abyssinian_{n}" for n in range(6)], "test": ["beagle_1"]}
    for split, members in names.items():
        for name in members:
            save_image(base / "images" / f"{name}.jpg")
            ids = halves(1, 2)
            ids[:, 9:11] = 3
            save_mask(base / "annotations" / "trimaps" / f"{name}.png", ids)
        (base / "annotations" / f"{split}.txt").write_text("".join(f"{name} 1 1 1\n" for name in members))
    data = PetsDataModule(tmp_path, border_ignored=border_ignored, image_size=16)
    data.setup()
    assert data.class_names == ("pet", "background", "border")[: 2 if border_ignored else 3]
    assert [len(data.splits.parts[split]) for split in SPLITS] == [4, 2, 1]
    assert data.splits.parts["test"][0][1].unique().tolist() == ([0, 1, 255] if border_ignored else [0, 1, 2])
    with pytest.raises(ValueError, match=r"There are no pets in .* HINT: download=true"):
        PetsDataModule(base)


@pytest.mark.parametrize(
    ("name", "classes", "counts"), [("nyuv2_indoor", 13, (695, 100, 330)), ("camvid", 11, (367, 101, 152))]
)
def test_shared_sets(name: str, classes: int, counts: tuple[int, ...]) -> None:
    root = DATA / name
    if not root.is_dir():
        pytest.skip(f"{root} is not there")
    data = mask_data(root, image_size=(48, 64))
    assert data.num_classes == classes
    assert tuple(len(data.images.files[split]) for split in SPLITS) == counts
    data.setup("validate")
    images, masks = next(iter(data.val_dataloader()))
    assert images.shape == (16, 3, 48, 64)
    assert set(masks.unique().tolist()) <= {*range(classes), 255}

"""Digit scenes: deterministic, disjoint splits, boxes and masks that agree, batches that a seed repeats."""

import pytest
import torch

from lightning_nas.data.digits import DigitScenes, DigitsDataModule

SMALL = {"image_size": 32, "scenes_per_digit": 1}


def test_same_settings_make_the_same_scenes_and_another_seed_others() -> None:
    first, again, other = (DigitScenes(**SMALL, seed=seed).make("val") for seed in (3, 3, 4))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.boxes, again.boxes)
    assert not torch.equal(first.images, other.images[: len(first)])


def test_a_split_does_not_depend_on_which_splits_were_made_before() -> None:
    scenes = DigitScenes(**SMALL)
    alone = scenes.make("test")
    scenes.make("train")
    assert torch.equal(alone.images, scenes.make("test").images)


def test_splits_share_no_digit_and_cover_every_class() -> None:
    scenes = DigitScenes(**SMALL)
    members = [set(scenes._members(part).tolist()) for part in range(3)]
    assert sum(map(len, members)) == len(set.union(*members)) == 1797
    assert [set(scenes.make(split).labels.flatten().tolist()) for split in ("train", "val", "test")] == [
        set(range(10))
    ] * 3


@pytest.mark.parametrize("max_digits", [1, 3])
def test_boxes_are_the_bounds_of_the_masks(max_digits: int) -> None:
    scenes = DigitScenes(**SMALL, max_digits=max_digits).make("val")
    assert scenes.images.dtype == scenes.masks.dtype == torch.uint8
    for labels, boxes, mask in zip(scenes.labels[:50], scenes.boxes[:50], scenes.masks[:50], strict=True):
        for label, box in zip(labels.tolist(), boxes.int().tolist(), strict=True):
            if label < 0:
                assert box == [0, 0, 0, 0]
                continue
            left, top, right, bottom = box
            inside = mask[top:bottom, left:right] == label + 1
            assert inside.any(0)[[0, -1]].all()
            assert inside.any(1)[[0, -1]].all()
        assert bool((labels < 0).all()) == bool((mask == 0).all())


def test_batches_repeat_for_a_seed_and_an_epoch() -> None:
    loaders = []
    for _ in range(2):
        data = DigitsDataModule(**SMALL, batch_size=16, seed=5)
        data.setup("fit")
        loaders.append(data.train_dataloader())
    first, resumed = loaders
    assert torch.equal(next(iter(first))[0], next(iter(resumed))[0])
    before = next(iter(first))[1]
    first.sampler.set_epoch(1)
    resumed.sampler.set_epoch(1)
    for (images, labels), (images_again, labels_again) in zip(first, resumed, strict=True):
        assert torch.equal(images, images_again)
        assert torch.equal(labels, labels_again)
    assert not torch.equal(before, next(iter(first))[1])


def test_workers_do_not_change_batches() -> None:
    batches = []
    for num_workers in (0, 1):
        data = DigitsDataModule(**SMALL, batch_size=64, num_workers=num_workers)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.sampler.set_epoch(2)
        batches.append(list(loader))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(*batches, strict=True))


def test_batches_are_channels_last_floats_and_only_training_drops_images() -> None:
    data = DigitsDataModule(**SMALL, batch_size=100)
    data.setup()
    images, labels = next(iter(data.train_dataloader()))
    assert images.shape == (100, *data.input_size)
    assert images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64
    assert [len(labels) for _, labels in data.val_dataloader()] == [100, 100, 100, 60]
    assert all(len(labels) == 100 for _, labels in data.train_dataloader())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 16}, "`image_size` must be between 32 and 128; got 16"),
        ({"fractions": (0.5, 0.5, 0.5)}, "add up to 1; got"),
        ({"fractions": (0.9, 0.08, 0.02)}, "at least 0.05"),
        ({"scenes_per_digit": 0}, "`scenes_per_digit` must be at least 1; got 0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1; got 0"),
        ({"seed": -1}, "`seed` must be between 0 and 4294967295; got -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**settings)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of train, val, test; got 'all'"):
        DigitScenes().make("all")

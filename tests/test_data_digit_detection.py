"""Digit scenes for a detector."""

import pytest
import torch
from torchvision.ops import box_area, box_iou

from lightning_nas.data.digit_detection import DigitDetectionDataModule


@pytest.fixture(scope="module")
def data() -> DigitDetectionDataModule:
    data = DigitDetectionDataModule(image_size=64, batch_size=8, scenes_per_digit=1)
    data.setup()
    return data


def test_scenes_have_one_to_four_digits(data: DigitDetectionDataModule) -> None:
    assert (data.num_classes, data.class_names[3], data.input_size) == (10, "3", (3, 64, 64))
    targets = [target for _, batch in data.val_dataloader() for target in batch]
    assert {len(target["labels"]) for target in targets} == {1, 2, 3, 4}
    assert set(torch.cat([target["labels"] for target in targets]).tolist()) == set(range(10))
    for target in targets:
        assert box_area(target["boxes"]).min() > 16
        assert box_iou(target["boxes"], target["boxes"]).fill_diagonal_(0).max() < 0.1


def test_training_scenes_are_augmented_mildly(data: DigitDetectionDataModule) -> None:
    part = data.train_dataloader().dataset
    whole = sum(len(record.boxes) for record in part.records[:200])
    _, targets = part.__getitems__(list(range(200)))
    assert whole * 0.85 < sum(len(target["boxes"]) for target in targets) <= whole
    assert any(not torch.equal(t["boxes"], r.boxes) for t, r in zip(targets, part.records, strict=False))
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (8, 3, 64, 64)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_seed_decides_the_scenes(data: DigitDetectionDataModule) -> None:
    for seed, same in ((0, True), (1, False)):
        other = DigitDetectionDataModule(image_size=64, batch_size=8, scenes_per_digit=1, seed=seed)
        other.setup("fit")
        batches = [next(iter(module.train_dataloader())) for module in (data, other)]
        assert torch.equal(batches[0][0], batches[1][0]) == same


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 16}, "`image_size` must be between 32 and 128"),
        ({"max_digits": 5}, "`max_digits` must be between 1 and 4"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitDetectionDataModule(**settings)

"""Pictures for a person: boxes and masks beside the truth, in small files that are there whole."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from lightning_nas.report.pictures import Normalization, draw_detections, draw_masks, write_picture

FOUND = torch.tensor([255, 146, 32])
TRUTH = torch.tensor([64, 214, 120])


def boxes(*corners: tuple[float, ...], scores: tuple[float, ...] = ()) -> dict[str, Tensor]:
    made = {"boxes": torch.tensor(corners).view(-1, 4), "labels": torch.zeros(len(corners), dtype=torch.long)}
    return {**made, "scores": torch.tensor(scores)} if scores or not corners else made


def pixels(sheet: Tensor, color: Tensor) -> int:
    # Below the legend, which has all colours.
    return int((sheet[:, 24:] == color.view(3, 1, 1)).all(0).sum())


def test_sure_boxes_and_true_ones_are_drawn_where_they_are() -> None:
    found = boxes((8, 8, 24, 24), (40, 40, 60, 60), scores=(0.9, 0.2))
    sheet = draw_detections(torch.zeros(1, 3, 64, 64), [found], [boxes((32, 8, 48, 24))], ["digit"], cell=128)
    assert sheet.dtype == torch.uint8
    assert sheet.shape == (3, 22 + 4 + 128 + 4, 4 + 128 + 4)
    corner = sheet[:, 26:, 4:]
    assert corner[:, 40, 16].tolist() == FOUND.tolist()  # twice the left edge, 8
    assert corner[:, 40, 96].tolist() == TRUTH.tolist()
    assert (corner[:, 75:, 75:120] != FOUND.view(3, 1, 1)).any(0).all()  # the unsure box


def test_images_are_shown_as_they_were_before_normalising() -> None:
    images = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    empty = boxes(scores=())
    halves = Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    sheet = draw_detections(images, [empty], [boxes()], [], halves, cell=8)
    assert sheet[:, 30, 8].tolist() == [255, 128, 0]


def test_images_without_boxes_and_impossible_boxes_are_no_error() -> None:
    nan = float("nan")
    found = boxes((nan, 0, 1, 1), (20, 20, 10, 10), (-50, -50, 500, 500), scores=(0.9, 0.9, 0.9))
    sheet = draw_detections(
        torch.zeros(2, 3, 32, 48), [found, boxes()], [boxes(), boxes((0, 0, 48, 32))], ["a"], cell=96
    )
    assert sheet.shape == (3, 22 + 4 + 68, 4 + 2 * 100)


def test_no_more_than_eight_images_in_rows_of_four() -> None:
    nothing = [boxes()] * 11
    sheet = draw_detections(torch.zeros(11, 3, 16, 16), nothing, nothing, [], cell=32)
    assert sheet.shape == (3, 22 + 4 + 2 * 36, 4 + 4 * 36)


def test_mask_of_each_class_has_its_color_in_truth_and_prediction() -> None:
    truth = torch.zeros(1, 16, 16, dtype=torch.long)
    truth[:, :8] = 1
    truth[:, :, :2] = 255
    sheet = draw_masks(torch.zeros(1, 3, 16, 16), truth.where(truth != 255, 2), truth, num_classes=3, cell=16)
    image, true, found = (sheet[:, 26:42, 4 + 20 * column : 20 + 20 * column] for column in range(3))
    assert not torch.equal(image, true)
    assert torch.equal(true[:, :, 2:], found[:, :, 2:])
    colors = {tuple(true[:, y, x].tolist()) for y, x in ((0, 0), (0, 8), (12, 8))}
    assert len(colors | {tuple(found[:, 0, 0].tolist())}) == 4


def test_masks_of_many_classes_keep_their_legend_inside() -> None:
    masks = torch.arange(64).view(1, 8, 8) % 40
    sheet = draw_masks(torch.zeros(1, 3, 8, 8), masks, masks, 40, class_names=[f"class {n}" for n in range(40)])
    assert sheet.shape == (3, 22 + 4 + 164, 4 + 3 * 164)


@pytest.mark.parametrize("show_images", [True, False])
def test_name_says_whether_images_may_be_shown(tmp_path: Path, show_images: bool) -> None:
    sheet = torch.zeros(3, 20, 30, dtype=torch.uint8)
    path = write_picture(tmp_path / "run", "masks", sheet, show_images=show_images)
    assert path == tmp_path / "run" / ("picture_masks.jpg" if show_images else "private_masks.jpg")
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("JPEG", (30, 20))
    assert list(path.parent.iterdir()) == [path]


def test_file_is_small_whatever_it_shows(tmp_path: Path) -> None:
    noise = torch.randint(0, 256, (3, 700, 1000), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert write_picture(tmp_path, "noise", noise, show_images=False).stat().st_size < 150_000


def test_counts_and_sizes_must_match() -> None:
    images = torch.zeros(2, 3, 8, 8)
    masks = torch.zeros(2, 8, 8, dtype=torch.long)
    with pytest.raises(ValueError, match="`targets` must have one entry for each of 2 images; got 1"):
        draw_detections(images, [boxes()] * 2, [boxes()], [])
    with pytest.raises(ValueError, match=r"`predicted` must be masks of the images' size \(8, 8\); got \(4, 4\)"):
        draw_masks(images, masks[:, :4, :4], masks, 2)
    with pytest.raises(ValueError, match=r"N of at least 1; got \(0, 3, 8, 8\)"):
        draw_masks(images[:0], masks[:0], masks[:0], 2)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), (0.5, 0.5, 0.5), "`mean` must have one number for each of 3 channels; got 1"),
        ((0.5, 0.5, 0.5), (0.5, 0.0, 0.5), r"`std\[1\]` must be above 0"),
        ((float("nan"), 0.5, 0.5), (0.5, 0.5, 0.5), r"`mean\[0\]` must be a finite number"),
    ],
)
def test_a_normalization_of_other_images_is_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Normalization(mean, std)

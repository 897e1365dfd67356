"""Photos that EXIF turns or mirrors: boxes and masks lie where they were drawn, on the stored pixels or on the seen."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageOps, PngImagePlugin

from lightning_nas.data._orientation import orientation_of
from lightning_nas.data.coco import CocoDataModule
from lightning_nas.data.image_folder import ImageFolderDataModule
from lightning_nas.data.loading import Loading
from lightning_nas.data.masks import MaskFolderDataModule

# A white rectangle in the upper left of a black photo of 80x60.
SIDES = (8, 4, 40, 20)
# How a photo is stored that is seen upright once EXIF's orientation is applied.
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def seen(mode: str = "RGB", fill: int = 255) -> Image.Image:
    image = Image.new(mode, (80, 60))
    image.paste((fill,) * 3 if mode == "RGB" else fill, SIDES)
    return image


def exif(turn: int) -> Image.Exif:
    made = Image.Exif()
    made[274] = turn
    return made


def box_of(mask: Image.Image) -> list[int]:
    left, top, right, bottom = mask.getbbox()
    return [left, top, right - left, bottom - top]


def coco(root: Path, turns: list[int], as_stored: bool) -> Path:
    """Write photos of these orientations, whose boxes count the pixels as they are stored, or as they are seen."""
    for split in ("train", "val"):
        (root / "images" / split).mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "square"}]}
        for number, turn in enumerate(turns):
            stored = seen() if turn == 1 else seen().transpose(STORED[turn])
            stored.save(root / "images" / split / f"{number}.jpg", exif=exif(turn), quality=95)
            annotated = stored if as_stored else seen()
            sides = {"width": annotated.width, "height": annotated.height}
            content["images"].append({"id": number, "file_name": f"{number}.jpg", **sides})
            box = box_of(annotated.convert("L"))
            content["annotations"].append({"id": number, "image_id": number, "category_id": 1, "bbox": box})
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def bright_in_boxes(root: Path) -> list[bool]:
    """Return of each photo whether all that its box holds is white, and all else black."""
    data = CocoDataModule(root, image_size=(80, 80))
    data.setup("validate")
    photos, found = data.splits.parts["val"], []
    for image, target in (photos[number] for number in range(len(photos))):
        pixels = (image * STD + MEAN).mean(dim=0)
        left, top, right, bottom = target["boxes"][0].round().int().tolist()
        inside = pixels[top + 1 : bottom - 1, left + 1 : right - 1].min()
        found.append(bool(inside > 0.9) and (right - left) * (bottom - top) == 32 * 16)
    return found


@pytest.mark.parametrize("turn", range(1, 9))
def test_boxes_drawn_on_photos_as_they_are_seen(tmp_path: Path, turn: int, caplog: pytest.LogCaptureFixture) -> None:
    assert bright_in_boxes(coco(tmp_path, [1, turn], as_stored=False)) == [True, True]
    # Only of photos that keep their sides the size does not tell.
    assert ("taken to be of the images as they are seen. HINT" in caplog.text) == (turn in (2, 3, 4))


@pytest.mark.parametrize("turn", range(1, 9))
def test_boxes_drawn_on_photos_as_they_are_stored(tmp_path: Path, turn: int, caplog: pytest.LogCaptureFixture) -> None:
    """One tool has drawn all boxes: a photo that lies on its side tells how those of mirrored ones are meant."""
    assert bright_in_boxes(coco(tmp_path, [1, turn, 6], as_stored=True)) == [True] * 3
    assert "orientation" not in caplog.text


def masks(root: Path, turns: list[int], as_stored: bool) -> Path:
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for number, turn in enumerate(turns):
            stored = [one if turn == 1 else one.transpose(STORED[turn]) for one in (seen(), seen("L", 1))]
            stored[0].save(root / "images" / split / f"{number}.jpg", exif=exif(turn), quality=95)
            (stored[1] if as_stored else seen("L", 1)).save(root / "masks" / split / f"{number}.png")
    return root


@pytest.mark.parametrize("cache_limit_bytes", [2**30, 0])
@pytest.mark.parametrize("as_stored", [False, True])
def test_masks_lie_on_what_was_masked(tmp_path: Path, as_stored: bool, cache_limit_bytes: int) -> None:
    root = masks(tmp_path, list(range(1, 9)), as_stored)
    data = MaskFolderDataModule(root, image_size=(80, 80), loading=Loading(cache_limit_bytes=cache_limit_bytes))
    data.setup("validate")
    for number in range(8):
        image, mask = data.val_dataloader().dataset[number]
        differing = ((image * STD + MEAN).mean(dim=0) > 0.5) != (mask == 1)
        # All but pixels of the border, which are a mix in the image.
        assert differing.float().mean() < 0.02, number


@pytest.mark.parametrize("turn", range(2, 9))
def test_classified_photos_are_seen_upright(tmp_path: Path, turn: int) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            path = tmp_path / split / name / "0.jpg"
            seen().transpose(STORED[turn]).save(path, exif=exif(turn), quality=95)
    data = ImageFolderDataModule(tmp_path, image_size=80)
    data.setup("validate")
    pixels = (data.val_dataloader().dataset[0][0] * STD + MEAN).mean(dim=0)
    assert pixels[8:24, 10:38].min() > 0.9
    assert pixels[30:].max() < 0.1


def test_the_orientation_of_a_png_is_found_behind_its_pixels(tmp_path: Path) -> None:
    plain, early, late = (tmp_path / f"{name}.png" for name in ("plain", "early", "late"))
    seen().save(plain)
    seen().save(early, exif=exif(3))
    content = early.read_bytes()
    start = content.index(b"eXIf") - 4
    chunk = content[start : start + 12 + int.from_bytes(content[start : start + 4], "big")]
    without, end = content.replace(chunk, b""), 12
    late.write_bytes(without[:-end] + chunk + without[-end:])
    for path, turn in ((plain, 1), (early, 3), (late, 3)):
        with Image.open(path) as file:
            assert isinstance(file, PngImagePlugin.PngImageFile)
            assert orientation_of(file).turn == turn
        with Image.open(path) as file:
            assert (ImageOps.exif_transpose(file).getpixel((10, 5)) == (0, 0, 0)) == (turn == 3)

"""Pictures for a person to look at: what a subnet finds in test images, beside what is there."""

from __future__ import annotations

import colorsys
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from lightning_nas.io.numbers import check_numbers
from lightning_nas.io.writing import write_bytes
from lightning_nas.report.recorded import PICTURE, PRIVATE

__all__ = ["Normalization", "draw_detections", "draw_masks", "write_picture"]

Color = tuple[int, int, int]
Legend = list[tuple[str, Color | None]]
MOST_BYTES = 150_000
# The class of pixels that nobody labelled.
IGNORED = 255
_TRUTH: Color = (64, 214, 120)
_FOUND: Color = (255, 146, 32)
_PAPER: Color = (24, 24, 24)
_INK: Color = (232, 236, 242)
_UNLABELLED: Color = (236, 236, 224)
_BACKGROUND: Color = (28, 30, 44)
# Saturation and value of the colours of classes, in turn.
_TONES = ((0.75, 1.0), (0.6, 0.8), (0.9, 0.85))
_GAP = 4
_STRIP = 22


@dataclass(frozen=True)
class Normalization:
    """Mean and deviation by which images between 0 and 1 were normalised.

    Attributes:
        mean: What was subtracted from each channel.
        std: What each channel was divided by then.

    Raises:
        ValueError: There is not one number for each of three channels, or a deviation is not above 0.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            check_numbers(name, values)
            if len(values) != 3:
                raise ValueError(f"`{name}` must have one number for each of 3 channels; got {len(values)}.")
        check_numbers("std", self.std, above=0)


_IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def draw_detections(
    images: Tensor,
    detections: Sequence[Mapping[str, Tensor]],
    targets: Sequence[Mapping[str, Tensor]],
    class_names: Sequence[str],
    normalization: Normalization = _IMAGENET,
    *,
    threshold: float = 0.3,
    num_images: int = 8,
    cell: int = 256,
) -> Tensor:
    """Return a contact sheet of images with the boxes that were found (orange) and the true ones (green).

    Args:
        images: Normalised images, shape (N, 3, H, W); the first ones are drawn.
        detections: For each image ``boxes`` (n, 4), xyxy in pixels, ``labels`` (n,) and ``scores`` (n,).
        targets: For each image ``boxes`` and ``labels``.
        class_names: Names of the labels.
        normalization: How the images were normalised; by default by ImageNet's mean and deviation.
        threshold: Boxes of no greater score are left out.
        num_images: Most images on the sheet.
        cell: Longer side of an image on the sheet, in pixels.

    Returns:
        The sheet, uint8 of shape (3, height, width).

    Raises:
        ValueError: The images, their detections and their targets are not equally many, or there is none.

    Example::

        >>> box = {"boxes": torch.tensor([[4.0, 4.0, 20.0, 20.0]]), "labels": torch.tensor([1])}
        >>> found = [{**box, "scores": torch.tensor([0.9])}]
        >>> draw_detections(torch.zeros(1, 3, 32, 32), found, [box], ["cat", "dog"], cell=64).shape
        torch.Size([3, 94, 72])
    """
    _check_counts(images, detections=len(detections), targets=len(targets))
    pictures, scale = _enlarged(_displayed(images[:num_images], normalization), cell)
    drawn = []
    for image, found, true in zip(pictures, detections, targets, strict=False):
        sure = found["scores"].cpu() > threshold
        boxes, labels, scores = (found[name].detach().cpu()[sure] for name in ("boxes", "labels", "scores"))
        names = [f"{_name(class_names, int(label))}: {score:.2f}" for label, score in zip(labels, scores, strict=True)]
        image = _boxed(image, true["boxes"].detach().cpu() * scale, _TRUTH, 2)
        image = _boxed(image, boxes * scale, _FOUND, 2)
        crowds = true.get("iscrowd", torch.zeros_like(true["labels"])).tolist()
        labelled = zip(true["labels"], crowds, strict=True)
        true_names = [_name(class_names, int(label)) + (" (crowd)" if crowd else "") for label, crowd in labelled]
        image = _named(image, true["boxes"].detach().cpu() * scale, true_names, _TRUTH, below=True)
        drawn.append(_named(image, boxes * scale, names, _FOUND, below=False))
    legend: Legend = [("found, with its score", _FOUND), ("truth", _TRUTH)]
    return _sheet(torch.stack(drawn), min(4, len(drawn)), legend)


def draw_masks(
    images: Tensor,
    predicted: Tensor,
    targets: Tensor,
    num_classes: int,
    normalization: Normalization = _IMAGENET,
    *,
    class_names: Sequence[str] = (),
    num_images: int = 8,
    cell: int = 160,
) -> Tensor:
    """Return a contact sheet of image, truth and prediction, side by side, with one colour a class.

    Args:
        images: Normalised images, shape (N, 3, H, W); the first ones are drawn.
        predicted: Class of each pixel, shape (N, H, W).
        targets: True class of each pixel, shape (N, H, W); 255 where nobody labelled it.
        num_classes: Number of classes, background counted.
        normalization: How the images were normalised; by default by ImageNet's mean and deviation.
        class_names: Names of the classes, for the legend, or nothing.
        num_images: Most images on the sheet.
        cell: Longer side of an image on the sheet, in pixels.

    Returns:
        The sheet, uint8 of shape (3, height, width).

    Raises:
        ValueError: The images and masks are not equally many or large, or there is none.

    Example::

        >>> masks = torch.zeros(2, 32, 32, dtype=torch.long)
        >>> draw_masks(torch.zeros(2, 3, 32, 32), masks, masks, num_classes=3, cell=64).shape
        torch.Size([3, 94, 412])
    """
    _check_counts(images, predicted=len(predicted), targets=len(targets))
    for name, masks in (("predicted", predicted), ("targets", targets)):
        if masks.shape[1:] != images.shape[2:]:
            size = tuple(images.shape[2:])
            raise ValueError(f"`{name}` must be masks of the images' size {size}; got {tuple(masks.shape[1:])}.")
    pictures, _ = _enlarged(_displayed(images[:num_images], normalization), cell)
    size = pictures.shape[-2:]
    colors = _palette(num_classes)
    cells = []
    for image, truth, found in zip(pictures, targets, predicted, strict=False):
        # Grey below, so that a colour is a class and nothing else.
        grey = (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2]).to(torch.uint8).expand(3, -1, -1)
        cells += [image, *(_painted(grey, _resized(masks, size), colors) for masks in (truth, found))]
    legend: Legend = [("image | truth | prediction", None)]
    seen = [
        int(label) for label in torch.cat([predicted[:num_images].flatten(), targets[:num_images].flatten()]).unique()
    ]
    if class_names:
        legend += [(_name(class_names, label), colors[label]) for label in seen if label < num_classes]
    legend += [("not labelled", _UNLABELLED)] if IGNORED in seen else []
    return _sheet(torch.stack(cells), 3 if len(cells) == 3 else 6, legend)


def write_picture(run_dir: str | Path, name: str, sheet: Tensor, *, show_images: bool) -> Path:
    """Write a contact sheet as a JPEG file of less than 150 KB; it is there whole or not at all.

    Args:
        run_dir: Directory of the run.
        name: What the picture is of, such as ``detections``.
        sheet: The picture, uint8 of shape (3, height, width).
        show_images: Whether the licence of the images lets them be shown. The file is ``picture_NAME.jpg`` then, which
            the page of recorded results links; otherwise it is ``private_NAME.jpg``, which is for the run's own
            directory: git ignores it and a page of results refuses it.

    Returns:
        Path of the file.
    """
    path = Path(run_dir) / f"{PICTURE if show_images else PRIVATE}{name}.jpg"
    write_bytes(path, _jpeg(to_pil_image(sheet.cpu())))
    return path


def _check_counts(images: Tensor, **counts: int) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"`images` must have the shape (N, 3, H, W) with N of at least 1; got {tuple(images.shape)}.")
    for name, count in counts.items():
        if count != len(images):
            raise ValueError(f"`{name}` must have one entry for each of {len(images)} images; got {count}.")


def _displayed(images: Tensor, normalization: Normalization) -> Tensor:
    """Return normalised images as uint8."""
    scale, shift = (torch.tensor(values).view(3, 1, 1) for values in (normalization.std, normalization.mean))
    plain = images.detach().float().cpu() * scale + shift
    return plain.clamp(0, 1).mul(255).round().to(torch.uint8)


def _enlarged(pictures: Tensor, cell: int) -> tuple[Tensor, float]:
    height, width = pictures.shape[-2:]
    scale = cell / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    resized = functional.interpolate(pictures.float(), size, mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8), scale


def _resized(masks: Tensor, size: torch.Size) -> Tensor:
    return functional.interpolate(masks.detach().cpu()[None, None].float(), tuple(size), mode="nearest")[0, 0].long()


def _boxed(image: Tensor, boxes: Tensor, color: Color, width: int) -> Tensor:
    drawable = boxes[_is_drawable(boxes)]
    # An empty list of boxes would be warned of.
    return draw_bounding_boxes(image, drawable, colors=color, width=width) if len(drawable) else image


def _is_drawable(boxes: Tensor) -> Tensor:
    return boxes.isfinite().all(1) & (boxes[:, 2] >= boxes[:, 0]) & (boxes[:, 3] >= boxes[:, 1])


def _named(image: Tensor, boxes: Tensor, names: Sequence[str], color: Color, below: bool) -> Tensor:
    """Write the names of boxes: at their upper left corners, or at their lower left ones."""
    picture = to_pil_image(image)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(11)
    height = 13
    for box, name, drawable in zip(boxes.tolist(), names, _is_drawable(boxes).tolist(), strict=True):
        if not drawable:
            continue
        width = draw.textlength(name, font=font) + 4
        x = min(max(box[0], 0), picture.width - width)
        y = min(max(box[3] - height if below else box[1], 0), picture.height - height)
        draw.rectangle((x, y, x + width, y + height), fill=color)
        draw.text((x + 2, y), name, fill=(0, 0, 0), font=font)
    return pil_to_tensor(picture)


def _painted(grey: Tensor, labels: Tensor, colors: Sequence[Color]) -> Tensor:
    classes = [*range(len(colors)), IGNORED]
    masks = torch.stack([labels == label for label in classes])
    return draw_segmentation_masks(grey.contiguous(), masks, alpha=0.75, colors=[*colors, _UNLABELLED])


def _palette(num_classes: int) -> list[Color]:
    """Return a dark colour for the background, then hues that are far from those before them."""
    # Steps of the golden ratio keep each hue far from all that came before it.
    hues = [colorsys.hsv_to_rgb(0.618034 * n % 1, *_TONES[n % len(_TONES)]) for n in range(num_classes - 1)]
    return [_BACKGROUND, *((round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in hues)]


def _name(names: Sequence[str], label: int) -> str:
    return str(names[label]) if 0 <= label < len(names) else str(label)


def _sheet(cells: Tensor, columns: int, legend: Legend) -> Tensor:
    """Return the cells in rows, below a strip that says what the colours are."""
    missing = -len(cells) % columns
    padded = functional.pad(cells, (0, _GAP, 0, _GAP, 0, 0, 0, missing), value=_PAPER[0])
    height, width = padded.shape[-2:]
    rows = padded.view(-1, columns, 3, height, width).permute(2, 0, 3, 1, 4)
    grid = functional.pad(rows.reshape(3, -1, columns * width), (_GAP, 0, _GAP, 0), value=_PAPER[0])
    return torch.cat([_strip(grid.shape[-1], legend), grid], dim=1)


def _strip(width: int, legend: Legend) -> Tensor:
    picture = Image.new("RGB", (width, _STRIP), _PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(12)
    x = float(_GAP)
    for name, color in legend:
        if x + 15 + draw.textlength(name, font=font) > width:
            break  # with many classes the rest finds no room
        if color is not None:
            draw.rectangle((x, 6, x + 10, 16), fill=color)
            x += 15
        draw.text((x, 4), name, fill=_INK, font=font)
        x += draw.textlength(name, font=font) + 16
    return pil_to_tensor(picture)


def _jpeg(picture: Image.Image) -> bytes:
    """Return a JPEG file of quality 80, or as much less as keeps it small."""
    for quality in (80, 70, 60, 50, 40, 30):
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality, optimize=True)
        if len(stream.getvalue()) < MOST_BYTES:
            return stream.getvalue()
    return _jpeg(picture.resize((max(1, picture.width * 3 // 4), max(1, picture.height * 3 // 4))))

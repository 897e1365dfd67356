"""Choosing boxes: what every detector does with what its places or anchors give."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from lightning_nas.io.numbers import check_number, check_numbers

__all__ = ["Target", "pick"]

Target = dict[str, Tensor]
"""``boxes`` (n, 4), xyxy in pixels, and ``labels`` (n,); of detections also ``scores`` (n,).

The truth may have ``iscrowd`` (n,), not 0 for regions of many objects that are not told apart; then also ``area`` (n,)
and ``scale`` (2,), by which COCO's measure tells small from large objects: the square pixels of each, and how many
pixels these are counted in are one of the boxes, across and down.
"""

# COCO's measure looks at the 100 surest of an image.
_MOST = 100


def check_head(in_widths: Sequence[int], strides: Sequence[int], num_classes: int, width: int) -> None:
    """Refuse sizes that no head has.

    Raises:
        ValueError: One of them is out of range.
    """
    check_numbers("in_widths", in_widths, whole=True, least=1)
    check_numbers("strides", strides, whole=True, least=1)
    check_number("num_classes", num_classes, whole=True, least=1)
    check_number("width", width, whole=True, least=1)


def objects_and_crowds(target: Target) -> tuple[Target, Target]:
    """Return boxes and labels of the objects of an image, and those of its crowd regions, which may be any number.

    Example::

        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [5.0, 5.0, 9.0, 9.0]])
        >>> target = {"boxes": boxes, "labels": torch.tensor([1, 2]), "iscrowd": torch.tensor([0, 1])}
        >>> [part["labels"].tolist() for part in objects_and_crowds(target)]
        [[1], [2]]
    """
    boxes, labels = target["boxes"], target["labels"]
    crowd = target["iscrowd"].bool() if "iscrowd" in target else torch.zeros_like(labels, dtype=torch.bool)
    objects: Target = {"boxes": boxes[~crowd], "labels": labels[~crowd]}
    return objects, {"boxes": boxes[crowd], "labels": labels[crowd]}


def pick(scores: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float, iou: float) -> Target:
    """Return the surest boxes of an image that do not overlap each other much, the surest first.

    Args:
        scores: How sure each class is at each place, shape (places, num_classes).
        boxes: The box of each place, xyxy in pixels, shape (places, 4).
        size: Height and width of the image in pixels; boxes are clipped to it.
        threshold: Least score.
        iou: A box that overlaps a surer one of its class by more is dropped.

    Example::

        >>> boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 5.0], [5.0, 5.0, 9.0, 9.0]])
        >>> pick(torch.tensor([[0.9], [0.8], [0.3]]), boxes, (8, 8), threshold=0.1, iou=0.5)["boxes"].tolist()
        [[0.0, 0.0, 4.0, 4.0], [5.0, 5.0, 8.0, 8.0]]
    """
    check_numbers("size", size, whole=True, least=1)
    check_number("threshold", threshold, least=0, most=1)
    check_number("iou", iou, least=0, most=1)
    places, labels = torch.where(scores > threshold)
    found = scores[places, labels]
    # Suppression compares all pairs, so that it gets the surest only.
    order = found.argsort(descending=True)[: 10 * _MOST]
    places, labels, found = places[order], labels[order], found[order]
    clipped = clip_boxes_to_image(boxes[places], size)
    kept = batched_nms(clipped, found, labels, iou)[:_MOST]
    return {"boxes": clipped[kept], "scores": found[kept], "labels": labels[kept]}

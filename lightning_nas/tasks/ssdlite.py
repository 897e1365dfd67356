"""SSDLite: anchor boxes on the coarse features, each with a class and a correction of its box."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import box_convert, box_iou

from lightning_nas.io.numbers import check_number
from lightning_nas.tasks.boxes import Target, check_head, objects_and_crowds, pick

__all__ = ["SSDLiteHead"]

_RATIOS = (1.0, 2.0, 0.5, 3.0, 1 / 3)
# SSD's variances: what a correction of one means, for middles and for sizes.
_VARIANCES = (0.1, 0.1, 0.2, 0.2)
_MATCH, _NEGATIVES = 0.5, 3


class SSDLiteHead(nn.Module):
    """Depthwise-separable predictors on the backbone's features and on extra, coarser ones (SSDLite).

    SSD is arXiv 1512.02325, its light form that of MobileNetV2 (arXiv 1801.04381). Each place has an anchor for each
    of five ratios and one between this level's size and the next; sizes grow evenly from a tenth to nine tenths of the
    image. Anchors are matched by overlap, each object has at least one, and of the others the three hardest for each
    matched one are negatives.

    Args:
        in_widths: Channels of the features that are read, finest first.
        strides: Image pixels to a place of each of these features.
        num_classes: Classes, background not counted.
        width: Channels of the extra features.
        extra: How many of these there are, each of half the size of the one before.
    """

    def __init__(
        self, in_widths: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 128, extra: int = 1
    ) -> None:
        super().__init__()
        check_head(in_widths, strides, num_classes, width)
        check_number("extra", extra, whole=True, least=0)
        self.num_classes = num_classes
        self.num_anchors = len(_RATIOS) + 1
        widths = [*in_widths, *[width] * extra]
        self.extra = nn.ModuleList(_halving(widths[len(in_widths) - 1 + n], width) for n in range(extra))
        self.scores = nn.ModuleList(_predictor(c, self.num_anchors * (num_classes + 1)) for c in widths)
        self.boxes = nn.ModuleList(_predictor(c, self.num_anchors * 4) for c in widths)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return for each level the anchors' class logits, the background first, then their corrections.

        Args:
            features: Outputs of blocks, finest first, shape (N, C, H / stride, W / stride) each.

        Returns:
            Shapes (N, num_anchors * (num_classes + 1), H / stride, W / stride) and (N, num_anchors * 4, ...).
        """
        levels = list(features)
        for halving in self.extra:
            levels.append(halving(levels[-1]))
        outputs = []
        for level, scores, boxes in zip(levels, self.scores, self.boxes, strict=True):
            outputs += [scores(level), boxes(level)]
        return outputs

    def losses(self, outputs: Sequence[Tensor], targets: Sequence[Target], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return cross-entropy of the classes and the smooth L1 loss of the boxes.

        Args:
            outputs: What `forward` gave.
            targets: For each image ``boxes`` (n, 4), xyxy in pixels, and ``labels`` (n,). Where it also has ``iscrowd``
                (n,), anchors that are mostly in a crowd region are no negatives.
            size: Height and width of the images in pixels.
        """
        scores, corrections = self._flat(outputs)
        anchors = self._anchors(outputs, size)
        parts = [objects_and_crowds(target) for target in targets]
        matches = [_match(anchors, own["boxes"], own["labels"]) for own, _ in parts]
        labels, wanted = (torch.stack(tensors) for tensors in zip(*matches, strict=True))
        positive = labels > 0
        negative = ~positive & ~torch.stack([_crowded(anchors, crowds["boxes"]) for _, crowds in parts])
        count = positive.sum().clamp(min=1)
        each = functional.cross_entropy(scores.transpose(1, 2), labels, reduction="none")
        # Sorted twice, which gives each anchor its rank.
        hardest = each.detach().masked_fill(~negative, -math.inf).argsort(dim=1, descending=True).argsort(dim=1)
        # An image without objects teaches by some negatives, too.
        most = (_NEGATIVES * positive.sum(dim=1, keepdim=True)).clamp(min=_NEGATIVES)
        kept = positive | (negative & (hardest < most))
        regression = functional.smooth_l1_loss(corrections[positive], wanted[positive], reduction="sum")
        return {"classes": each[kept].sum() / count, "boxes": regression / count}

    def imitation(self, outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """Return how far outputs are from a teacher's, as far as that is sure of something.

        Classes are compared by cross-entropy with the teacher's probabilities as soft labels, and count by how much
        they differ (quality focal loss, arXiv 2006.04388); corrections by smooth L1, weighted by the teacher's
        probability of an object, as it learned none where nothing is.

        Args:
            outputs: What `forward` gave.
            wanted: What the teacher's gave for the same images.
        """
        (scores, corrections), (goal_scores, goal_corrections) = self._flat(outputs), self._flat(wanted)
        probable = goal_scores.softmax(dim=2)
        sure = 1 - probable[..., 0]
        unlike = (scores.detach().softmax(dim=2) - probable).abs().sum(2).div(2).square()
        classes = functional.cross_entropy(scores.transpose(1, 2), probable.transpose(1, 2), reduction="none") * unlike
        boxes = functional.smooth_l1_loss(corrections, goal_corrections, reduction="none").sum(2) * sure
        return (classes.sum() + boxes.sum()) / sure.sum().clamp(min=1.0)

    @torch.no_grad()
    def detections(
        self, outputs: Sequence[Tensor], size: tuple[int, int], threshold: float = 0.02, iou: float = 0.55
    ) -> list[Target]:
        """Return for each image its ``boxes`` (n, 4), ``scores`` (n,) and ``labels`` (n,), the surest first.

        Args:
            outputs: What `forward` gave.
            size: Height and width of the images in pixels.
            threshold: Least probability of a class.
            iou: Boxes of a class that overlap a surer one by more are dropped.
        """
        scores, corrections = self._flat(outputs)
        sure = scores.float().softmax(dim=2)[..., 1:]
        boxes = _decoded(self._anchors(outputs, size), corrections.float())
        return [pick(s, b, size, threshold, iou) for s, b in zip(sure, boxes, strict=True)]

    def _flat(self, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return class logits (N, anchors, num_classes + 1) and corrections (N, anchors, 4)."""
        parts = []
        for kind, channels in ((0, self.num_classes + 1), (1, 4)):
            maps = [output.permute(0, 2, 3, 1).reshape(len(output), -1, channels) for output in outputs[kind::2]]
            parts.append(torch.cat(maps, dim=1))
        return parts[0], parts[1]

    def _anchors(self, outputs: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Return the anchors (anchors, 4), cxcywh in pixels, in the order of `_flat`."""
        levels = outputs[0::2]
        scales = torch.linspace(0.1, 0.9, len(levels) + 1).tolist()
        found = []
        for level, scale, following in zip(levels, scales, scales[1:], strict=False):
            shapes = [(scale * ratio**0.5, scale / ratio**0.5) for ratio in _RATIOS] + [
                ((scale * following) ** 0.5,) * 2
            ]
            rows, columns = level.shape[-2:]
            y = (torch.arange(rows) + 0.5) / rows * size[0]
            x = (torch.arange(columns) + 0.5) / columns * size[1]
            middles = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).view(-1, 1, 2)
            sides = torch.tensor(shapes) * min(size)
            parts = middles.expand(-1, len(shapes), -1), sides.expand(len(middles), -1, -1)
            found.append(torch.cat(parts, dim=-1).view(-1, 4))
        return torch.cat(found).to(outputs[0].device)


def _halving(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width // 2, 1, bias=False),
        nn.BatchNorm2d(width // 2),
        nn.ReLU6(),
        nn.Conv2d(width // 2, width // 2, 3, 2, 1, groups=width // 2, bias=False),
        nn.BatchNorm2d(width // 2),
        nn.ReLU6(),
        nn.Conv2d(width // 2, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
    )


def _predictor(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU6(),
        nn.Conv2d(channels, outputs, 1),
    )


def _match(anchors: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each anchor its label, 0 for background, and the correction (anchors, 4) that gives the box."""
    if len(boxes) == 0:
        return labels.new_zeros(len(anchors)), anchors.new_zeros(len(anchors), 4)
    overlap = box_iou(boxes, box_convert(anchors, "cxcywh", "xyxy"))
    best, which = overlap.max(dim=0)
    favourite = overlap.argmax(dim=1)
    # Each object gets the anchor that fits it best, however little that overlaps.
    best[favourite], which[favourite] = 1.0, torch.arange(len(boxes), device=boxes.device)
    wanted = box_convert(boxes, "xyxy", "cxcywh")[which]
    middles = (wanted[:, :2] - anchors[:, :2]) / anchors[:, 2:]
    sizes = (wanted[:, 2:].clamp(min=1e-3) / anchors[:, 2:]).log()
    corrections = torch.cat([middles, sizes], dim=1) / anchors.new_tensor(_VARIANCES)
    return torch.where(best >= _MATCH, labels[which] + 1, 0), corrections


def _crowded(anchors: Tensor, crowds: Tensor) -> Tensor:
    """Return which anchors (anchors, 4), cxcywh, have half of their area or more in one of the crowd regions (n, 4)."""
    if len(crowds) == 0:
        return torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
    corners = box_convert(anchors, "cxcywh", "xyxy")[:, None]
    low, high = torch.maximum(corners[..., :2], crowds[:, :2]), torch.minimum(corners[..., 2:], crowds[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    return (shared >= _MATCH * anchors[:, 2:].prod(dim=1, keepdim=True)).any(dim=1)


def _decoded(anchors: Tensor, corrections: Tensor) -> Tensor:
    """Return the boxes (N, anchors, 4), xyxy in pixels."""
    scaled = corrections * corrections.new_tensor(_VARIANCES)
    middles = anchors[:, :2] + scaled[..., :2] * anchors[:, 2:]
    # A start of training that overflows would be lost.
    sizes = anchors[:, 2:] * scaled[..., 2:].clamp(max=4.0).exp()
    return torch.cat([middles - sizes / 2, middles + sizes / 2], dim=-1)

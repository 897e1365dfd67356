"""FCOS-lite: one score for each class, one box and one centre-ness for each place of a feature pyramid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from lightning_nas.io.numbers import check_number
from lightning_nas.tasks.boxes import Target, check_head, objects_and_crowds, pick

__all__ = ["FCOSHead"]

# FCOS (arXiv 1904.01355) assigns objects to levels by the farthest side of the box; in strides, as P3 has 64 = 8 * 8.
_REACH = 8.0
# Of the improved FCOS: places within so many strides of a box's middle belong to it.
_RADIUS = 1.5
# Scores begin at this probability, or the many empty places would decide the first steps (RetinaNet, arXiv 1708.02002).
_PRIOR = 0.01
# The least score by which a detection counts, and a teacher's box is imitated.
_SURE = 0.05


class FCOSHead(nn.Module):
    """A pyramid of three levels and depthwise-separable towers that all levels share (FCOS, arXiv 1904.01355).

    Laterals read the backbone, coarser levels are enlarged by repetition and added (FPN, arXiv 1612.03144). Each
    place of each level gives the logit of each class, the distances of the box's sides and the logit of how central
    it is. Assignment is FCOS's: a place belongs to the smallest box that is near enough and suits its level.

    Args:
        in_widths: Channels of the features that are read, finest first.
        strides: Image pixels to a place of each of these features.
        num_classes: Classes, background not counted.
        width: Channels of pyramid and towers.
        depth: Depthwise-separable convolutions of each tower.
    """

    def __init__(
        self, in_widths: Sequence[int], strides: Sequence[int], num_classes: int, width: int = 64, depth: int = 2
    ) -> None:
        super().__init__()
        check_head(in_widths, strides, num_classes, width)
        check_number("depth", depth, whole=True, least=0)
        self.strides = tuple(strides)
        self.num_classes = num_classes
        self.laterals = nn.ModuleList(_conv_norm(channels, width) for channels in in_widths)
        self.scores_tower = nn.Sequential(*(_separable(width) for _ in range(depth)))
        self.boxes_tower = nn.Sequential(*(_separable(width) for _ in range(depth)))
        self.scores = nn.Conv2d(width, num_classes, 1)
        self.boxes = nn.Conv2d(width, 5, 1)  # four distances and the centre-ness
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.constant_(_bias(self.scores), -math.log((1 - _PRIOR) / _PRIOR))
        nn.init.normal_(self.boxes.weight, std=0.01)
        nn.init.zeros_(_bias(self.boxes))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return for each level the classes' logits (N, num_classes, H / stride, W / stride), then five for the box.

        Args:
            features: Outputs of blocks, finest first, shape (N, C, H / stride, W / stride) each.

        Raises:
            ValueError: A level is not half of the one before: the images have no multiple of the largest stride.
        """
        levels = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        for finer in range(len(levels) - 2, -1, -1):
            if levels[finer].shape[-2:] != torch.Size(2 * side for side in levels[finer + 1].shape[-2:]):
                sides = [side * self.strides[0] for side in levels[0].shape[-2:]]
                raise ValueError(
                    f"Images must have multiples of {self.strides[-1]} pixels a side; got about {sides[0]}x{sides[1]}."
                )
            levels[finer] = levels[finer] + functional.interpolate(levels[finer + 1], scale_factor=2.0, mode="nearest")
        outputs = []
        for level in levels:
            # Not joined: that would be one more operator of the accelerator.
            outputs += [self.scores(self.scores_tower(level)), self.boxes(self.boxes_tower(level))]
        return outputs

    def losses(self, outputs: Sequence[Tensor], targets: Sequence[Target], size: tuple[int, int]) -> dict[str, Tensor]:
        """Return focal loss of the classes, generalised-IoU loss of the boxes, and the centre-ness' cross-entropy.

        Args:
            outputs: What `forward` gave.
            targets: For each image ``boxes`` (n, 4), xyxy in pixels, and ``labels`` (n,). Where it also has ``iscrowd``
                (n,), places in a crowd region may find its class or not, if they belong to no object of it.
            size: Height and width of the images in pixels; places know theirs.
        """
        flat, points, strides = self._flat(outputs)
        parts = [objects_and_crowds(target) for target in targets]
        wanted = [_assign(points, strides, own["boxes"], own["labels"], self.strides) for own, _ in parts]
        free = torch.stack([_crowded(points, crowds, self.num_classes) for _, crowds in parts])
        labels, boxes = torch.stack([label for label, _ in wanted]), torch.stack([box for _, box in wanted])
        positive = labels >= 0
        count = positive.sum().clamp(min=1).float()
        # -1 stands for no object, which `one_hot` does not take; what it makes of these places is set to zero.
        classes = functional.one_hot(labels.clamp(min=0), self.num_classes).float() * positive[..., None]
        scores, sides, middles = flat.split([self.num_classes, 4, 1], dim=2)
        focal = (
            sigmoid_focal_loss(scores, classes, reduction="none").masked_fill(free & (classes == 0), 0).sum() / count
        )
        distances = _distances(points, boxes)[positive]
        centre = _centreness(distances)
        found = _boxes(points, strides, sides)[positive]
        giou = generalized_box_iou_loss(found, boxes[positive], reduction="none")
        return {
            "focal": focal,
            # As in FCOS, boxes count by how central their places are.
            "giou": (giou * centre).sum() / centre.sum().clamp(min=1e-6),
            "centre": functional.binary_cross_entropy_with_logits(middles[positive][:, 0], centre, reduction="sum")
            / count,
        }

    def imitation(self, outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """Return how far outputs are from a teacher's, as far as that is sure of something.

        Scores are compared by quality focal loss with the teacher's as soft labels (arXiv 2006.04388), boxes by the
        generalised IoU with the teacher's of the same place, and centre-ness by cross-entropy. The last two are
        weighted by the teacher's score, as it learned no boxes where nothing is (localisation distillation, arXiv
        2102.12252).

        Args:
            outputs: What `forward` gave.
            wanted: What the teacher's gave for the same images.
        """
        (flat, points, strides), (goal, *_) = self._flat(outputs), self._flat(wanted)
        scores, sides, middles = flat.split([self.num_classes, 4, 1], dim=2)
        goal_scores, goal_sides, goal_middles = goal.split([self.num_classes, 4, 1], dim=2)
        probable, centre = goal_scores.sigmoid(), goal_middles.sigmoid()
        sure = (probable.amax(2, keepdim=True) * centre).sqrt()
        sure = (sure * (sure > _SURE))[..., 0]
        unlike = (scores.detach().sigmoid() - probable).square()
        quality = functional.binary_cross_entropy_with_logits(scores, probable, reduction="none") * unlike
        found, boxes = _boxes(points, strides, sides), _boxes(points, strides, goal_sides)
        giou = generalized_box_iou_loss(found, boxes, reduction="none") * sure
        middle = functional.binary_cross_entropy_with_logits(middles, centre, reduction="none")[..., 0] * sure
        return (quality.sum() + giou.sum() + middle.sum()) / sure.sum().clamp(min=1.0)

    @torch.no_grad()
    def detections(
        self, outputs: Sequence[Tensor], size: tuple[int, int], threshold: float = _SURE, iou: float = 0.6
    ) -> list[Target]:
        """Return for each image its ``boxes`` (n, 4), ``scores`` (n,) and ``labels`` (n,), the surest first.

        Args:
            outputs: What `forward` gave.
            size: Height and width of the images in pixels.
            threshold: Least score, the root of class times centre-ness.
            iou: Boxes of a class that overlap a surer one by more are dropped.
        """
        flat, points, strides = self._flat(outputs)
        scores, sides, middles = flat.float().split([self.num_classes, 4, 1], dim=2)
        sure = (scores.sigmoid() * middles.sigmoid()).sqrt()
        boxes = _boxes(points, strides, sides)
        return [pick(s, b, size, threshold, iou) for s, b in zip(sure, boxes, strict=True)]

    def _flat(self, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return outputs (N, places, channels), the middle (places, 2) and the stride (places, 1) of each place."""
        pairs = [torch.cat(pair, dim=1) for pair in zip(outputs[0::2], outputs[1::2], strict=True)]
        flat = torch.cat([pair.flatten(2).transpose(1, 2) for pair in pairs], dim=1)
        points, strides = [], []
        for output, stride in zip(pairs, self.strides, strict=True):
            height, width = output.shape[-2:]
            rows = (torch.arange(height, device=output.device) + 0.5) * stride
            columns = (torch.arange(width, device=output.device) + 0.5) * stride
            # Rows come first in a map, but x in a point.
            grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1).view(-1, 2)
            points.append(grid)
            strides.append(torch.full_like(grid[:, :1], float(stride)))
        return flat, torch.cat(points), torch.cat(strides)


def _conv_norm(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))


def _separable(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
        nn.Conv2d(width, width, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU6(),
    )


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _assign(
    points: Tensor, strides: Tensor, boxes: Tensor, labels: Tensor, all_strides: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return for each place the label that it belongs to, -1 for none, and the box (places, 4)."""
    if len(boxes) == 0:
        return labels.new_full((len(points),), -1), boxes.new_zeros(len(points), 4)
    sides = _distances(points[:, None], boxes[None])  # (places, boxes, 4)
    inside = sides.amin(dim=2) > 0
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (points[:, None] - middle[None]).abs().amax(dim=2) < _RADIUS * strides
    farthest = sides.amax(dim=2)
    # The finest level has no lower bound and the coarsest no upper one, so that every object suits one.
    low = torch.where(strides == min(all_strides), torch.zeros_like(strides), _REACH * strides / 2)
    high = torch.where(strides == max(all_strides), torch.full_like(strides, torch.inf), _REACH * strides)
    suits = (farthest >= low) & (farthest < high)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    cost = torch.where(inside & near & suits, areas[None], torch.inf)
    least, which = cost.min(dim=1)
    return torch.where(least.isfinite(), labels[which], -1), boxes[which]


def _crowded(points: Tensor, crowds: Target, num_classes: int) -> Tensor:
    """Return whether each place is in a crowd region of each class, (places, num_classes)."""
    found = torch.zeros(len(points), num_classes, dtype=torch.bool, device=points.device)
    for box, label in zip(crowds["boxes"], crowds["labels"], strict=True):
        found[:, label] |= _distances(points, box).amin(dim=1) > 0
    return found


def _distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Return how far the left, top, right and bottom sides are from points, positive inside, shape (..., 4)."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def _centreness(distances: Tensor) -> Tensor:
    across, down = distances[:, 0::2], distances[:, 1::2]
    ratio = (across.amin(1) / across.amax(1).clamp(min=1e-6)) * (down.amin(1) / down.amax(1).clamp(min=1e-6))
    return ratio.clamp(min=0).sqrt()


def _boxes(points: Tensor, strides: Tensor, sides: Tensor) -> Tensor:
    """Return boxes (N, places, 4), xyxy in pixels, of what the head gives for their sides."""
    # Beyond e^6 strides no box of an image ends; a start of training that overflows would be lost.
    reach = sides.float().clamp(max=6.0).exp() * strides
    return torch.cat([points - reach[..., :2], points + reach[..., 2:]], dim=-1)

"""The part of torchvision's detectors that runs on an accelerator: their backbones and heads."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models.detection import FCOS, RetinaNet
from torchvision.models.detection.ssd import SSD

__all__ = ["without_detection"]


def without_detection(model: nn.Module) -> nn.Module:
    """Return a module that runs a detector's backbone and heads, or the model itself where it is no detector.

    Resizing of the images, anchors, decoding of boxes and suppression of overlapping ones are not the accelerator's
    work, and are not priced. The modules keep the paths that they have in the detector.
    """
    return _BackboneAndHead(model) if isinstance(model, (SSD, FCOS, RetinaNet)) else model


class _BackboneAndHead(nn.Module):
    def __init__(self, model: SSD | FCOS | RetinaNet) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, image: Tensor) -> object:
        features = self.backbone(image)
        return self.head([features] if isinstance(features, Tensor) else list(features.values()))

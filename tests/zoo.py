"""Networks as people have them: stock ones of several families, and home-made ones. `build(NAME)` makes one."""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import detection, segmentation
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import _mobilenet_extractor
from torchvision.models.detection.ssd import SSD

TORCHVISION = (
    *("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5", "mnasnet1_0", "efficientnet_b0"),
    *("efficientnet_v2_s", "resnet18", "resnet50", "shufflenet_v2_x1_0", "regnet_y_400mf", "squeezenet1_1"),
    *("convnext_tiny", "densenet121", "googlenet", "vgg11_bn"),
)
TIMM = (
    *("mobilenetv2_100", "mobilenetv3_large_100", "mobilenetv4_conv_small", "efficientnet_lite0"),
    *("tf_efficientnet_lite0", "efficientnet_b0", "tf_efficientnetv2_b0", "mnasnet_100", "fbnetc_100", "fbnetv3_b"),
    *("spnasnet_100", "hardcorenas_a", "tinynet_a", "ghostnet_100", "mixnet_s", "resnet18", "repvgg_a0", "rexnet_100"),
    *("edgenext_xx_small", "mobileone_s0", "lcnet_100", "efficientvit_b0", "fastvit_t8", "mobilenet_edgetpu_v2_xs"),
)
# What is slow to convert or to run: for the table, not for each run of the tests.
SLOW = frozenset(
    (
        *(
            "detection/fasterrcnn_mobilenet_v3_large_320_fpn",
            "torchvision/convnext_tiny",
            "torchvision/densenet121",
            "torchvision/googlenet",
            "torchvision/resnet50",
        ),
        *("torchvision/efficientnet_v2_s", "torchvision/vgg11_bn", "torchvision/shufflenet_v2_x1_0"),
        *("timm/edgenext_xx_small", "timm/efficientvit_b0", "timm/fastvit_t8", "timm/fbnetv3_b", "timm/ghostnet_100"),
        *("timm/mixnet_s", "timm/rexnet_100", "timm/tf_efficientnetv2_b0", "torchvision/regnet_y_400mf"),
    )
)


class InvertedResidual(nn.Module):
    """The block as many repositories write it: one Sequential of convolutions, norms and activations."""

    def __init__(self, width: int, out_width: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = width * expansion
        expand = (*_unit(width, hidden, 1), nn.ReLU6(inplace=True)) if expansion > 1 else ()
        depthwise = (*_unit(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(inplace=True))
        self.conv = nn.Sequential(*expand, *depthwise, *_unit(hidden, out_width, 1))
        self.is_residual = stride == 1 and width == out_width

    def forward(self, x):
        return x + self.conv(x) if self.is_residual else self.conv(x)


class OwnMobileNet(nn.Module):
    """A MobileNetV2 of a class that no library has."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        stages = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        layers = [nn.Sequential(*_unit(3, 32, 3, 2), nn.ReLU6(inplace=True))]
        width = 32
        for expansion, out_width, count, stride in stages:
            for number in range(count):
                layers.append(InvertedResidual(width, out_width, stride if number == 0 else 1, expansion))
                width = out_width
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(*_unit(width, 1280, 1), nn.ReLU6(inplace=True))
        self.classifier = nn.Linear(1280, num_classes)

    def forward(self, x):
        x = functional.adaptive_avg_pool2d(self.head(self.features(x)), 1)
        return self.classifier(x.view(x.size(0), -1))


class MobileUNet(nn.Module):
    """A U-Net whose encoder is cut out of torchvision's MobileNetV2."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        features = torchvision.models.mobilenet_v2(weights=None).features
        cuts = ((0, 2), (2, 4), (4, 7), (7, 14), (14, 18))
        self.encoder = nn.ModuleList(features[first:last] for first, last in cuts)
        widths = ((320, 96, 96), (96, 32, 64), (64, 24, 32), (32, 16, 16))
        self.decoder = nn.ModuleList(_double(below + skip, width) for below, skip, width in widths)
        self.out = nn.Conv2d(16, num_classes, 1)

    def forward(self, x):
        maps = []
        for stage in self.encoder:
            x = stage(x)
            maps.append(x)
        for skip, decode in zip(reversed(maps[:-1]), self.decoder, strict=True):
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = decode(torch.cat([x, skip], dim=1))
        return functional.interpolate(self.out(x), scale_factor=2, mode="bilinear", align_corners=False)


class Bottleneck(nn.Module):
    def __init__(self, width: int, is_residual: bool) -> None:
        super().__init__()
        self.first, self.second, self.is_residual = _silu(width, width, 3), _silu(width, width, 3), is_residual

    def forward(self, x):
        return x + self.second(self.first(x)) if self.is_residual else self.second(self.first(x))


class C2f(nn.Module):
    """The cross-stage block of YOLOv8: halves of a split, one of which runs through bottlenecks."""

    def __init__(self, width: int, out_width: int, count: int = 1, is_residual: bool = False) -> None:
        super().__init__()
        half = out_width // 2
        self.split, self.join = _silu(width, 2 * half), _silu((2 + count) * half, out_width)
        self.blocks = nn.ModuleList(Bottleneck(half, is_residual) for _ in range(count))

    def forward(self, x):
        parts = list(self.split(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.join(torch.cat(parts, dim=1))


class PyramidPool(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce, self.join, self.pool = _silu(width, width // 2), _silu(2 * width, width), nn.MaxPool2d(5, 1, 2)

    def forward(self, x):
        maps = [self.reduce(x)]
        for _ in range(3):
            maps.append(self.pool(maps[-1]))
        return self.join(torch.cat(maps, dim=1))


class YoloLike(nn.Module):
    """A detector's backbone, path aggregation neck and heads."""

    def __init__(self, num_classes: int = 2, widths: tuple[int, int, int, int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        first, second, third, fourth = widths
        self.stem = _silu(3, first, 3, 2)
        self.stage2 = nn.Sequential(_silu(first, second, 3, 2), C2f(second, second, 1, True))
        self.stage3 = nn.Sequential(_silu(second, third, 3, 2), C2f(third, third, 2, True))
        self.stage4 = nn.Sequential(_silu(third, fourth, 3, 2), C2f(fourth, fourth, 1, True), PyramidPool(fourth))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.neck1, self.neck2 = C2f(third + fourth, third), C2f(second + third, second)
        self.down, self.neck3 = _silu(second, second, 3, 2), C2f(second + third, third)
        self.heads = nn.ModuleList(
            nn.Sequential(_silu(width, 32, 3), nn.Conv2d(32, 4 + num_classes, 1)) for width in (second, third)
        )

    def forward(self, x):
        fine = self.stage2(self.stem(x))
        middle = self.stage3(fine)
        coarse = self.stage4(middle)
        middle = self.neck1(torch.cat([self.up(coarse), middle], dim=1))
        fine = self.neck2(torch.cat([self.up(middle), fine], dim=1))
        middle = self.neck3(torch.cat([self.down(fine), middle], dim=1))
        found = [head(x) for head, x in zip(self.heads, (fine, middle), strict=True)]
        return torch.cat([x.flatten(2) for x in found], dim=2)


class PlainVGG(nn.Module):
    """Convolutions with biases, no norms, and a classifier that reads a flattened map."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 3
        for out_width in (32, 32, 0, 64, 64, 0, 128, 128, 0, 256, 0):
            if out_width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(width, out_width, 3, padding=1), nn.ReLU(inplace=True)]
            width = out_width
        self.features, self.pool = nn.Sequential(*layers), nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(4 * width, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, num_classes)
        )

    def forward(self, x):
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class TimmPyramid(nn.Module):
    """A segmenter on timm's feature maps: 1x1 convolutions, summed from coarse to fine."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.backbone = timm.create_model("mobilenetv2_100", features_only=True, out_indices=(1, 2, 3, 4))
        self.laterals = nn.ModuleList(nn.Conv2d(width, 48, 1) for width in self.backbone.feature_info.channels())
        self.head = nn.Sequential(*_unit(48, 48, 3), nn.ReLU(), nn.Conv2d(48, num_classes, 1))

    def forward(self, x):
        size, summed = x.shape[-2:], None
        for map_, lateral in zip(reversed(self.backbone(x)), reversed(self.laterals), strict=True):
            here = lateral(map_)
            summed = here if summed is None else here + functional.interpolate(summed, size=here.shape[-2:])
        return functional.interpolate(self.head(summed), size=size, mode="bilinear", align_corners=False)


def _unit(width: int, out_width: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, nn.Module]:
    conv = nn.Conv2d(width, out_width, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(out_width)


def _silu(width: int, out_width: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*_unit(width, out_width, kernel, stride), nn.SiLU(inplace=True))


def _double(width: int, out_width: int) -> nn.Sequential:
    first, second = _unit(width, out_width, 3), _unit(out_width, out_width, 3)
    return nn.Sequential(*first, nn.ReLU(inplace=True), *second, nn.ReLU(inplace=True))


def _torchvision(name: str) -> nn.Module:
    options = {"init_weights": True, "aux_logits": False} if name == "googlenet" else {}
    return getattr(torchvision.models, name)(weights=None, **options)


def _on_pyramid(kind: str) -> nn.Module:
    backbone = _mobilenet_extractor(torchvision.models.mobilenet_v2(weights=None), True, 6, returned_layers=[3, 4, 5])
    ratios = ((1.0,),) if kind == "fcos" else ((0.5, 1.0, 2.0),)
    scales = [(s,) if kind == "fcos" else (s, int(1.26 * s), int(1.59 * s)) for s in (16, 32, 64, 128)]
    make = detection.FCOS if kind == "fcos" else detection.RetinaNet
    return make(backbone, 3, anchor_generator=AnchorGenerator(scales, ratios * 4), min_size=224, max_size=224)


def _stock_detector(name: str) -> nn.Module:
    return getattr(detection, name)(weights=None, weights_backbone=None, num_classes=3)


def _stock_segmenter(name: str) -> nn.Module:
    return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=3)


def _of_segmentation_models(kind: str, encoder: str) -> nn.Module:
    import segmentation_models_pytorch

    return getattr(segmentation_models_pytorch, kind)(encoder, encoder_weights=None, classes=2)


ZOO: dict[str, Callable[[], nn.Module]] = {
    **{f"torchvision/{name}": lambda name=name: _torchvision(name) for name in TORCHVISION},
    **{
        f"segmentation/{name}": lambda name=name: _stock_segmenter(name)
        for name in ("lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large")
    },
    **{
        f"detection/{name}": lambda name=name: _stock_detector(name)
        for name in ("ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn")
    },
    **{f"detection/{kind}_mobilenet_v2_fpn": lambda kind=kind: _on_pyramid(kind) for kind in ("retinanet", "fcos")},
    **{f"timm/{name}": lambda name=name: timm.create_model(name) for name in TIMM},
    "own/mobilenet": OwnMobileNet,
    "own/unet": MobileUNet,
    "own/yolo": YoloLike,
    "own/vgg": PlainVGG,
    "own/timm_pyramid": TimmPyramid,
    "smp/unet_mobilenet_v2": lambda: _of_segmentation_models("Unet", "mobilenet_v2"),
    "smp/unet_timm_mobilenetv2_100": lambda: _of_segmentation_models("Unet", "tu-mobilenetv2_100"),
    "smp/fpn_efficientnet_lite0": lambda: _of_segmentation_models("FPN", "tu-tf_efficientnet_lite0"),
}


class OneImage(nn.Module):
    """A detector that takes a list of images, run on a batch of one; in training its losses, of a made-up object."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images):
        if not self.training:
            return self.detector([images[0]])
        box = torch.tensor([[20.0, 30.0, 160.0, 200.0]], device=images.device)
        target = {"boxes": box, "labels": torch.ones(1, dtype=torch.int64, device=images.device)}
        return self.detector([*images], [target] * len(images))


class BackboneAndHead(nn.Module):
    """What of a detector runs on an accelerator, of a class of these tests: a process without the package can load."""

    def __init__(self, detector: SSD | FCOS | RetinaNet) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head

    def forward(self, images):
        features = self.backbone(images)
        return self.head([features] if isinstance(features, torch.Tensor) else list(features.values()))


def is_available(name: str) -> bool:
    """Whether the package that a network comes from is installed."""
    return not name.startswith("smp/") or find_spec("segmentation_models_pytorch") is not None


def build(name: str, seed: int = 0) -> tuple[nn.Module, torch.Tensor]:
    """Return a network in evaluation mode and images that it runs on.

    Statistics and scales of its norms are drawn as a trained network has them, so that equal outputs mean something.
    """
    torch.manual_seed(seed)
    network = ZOO[name]()
    if isinstance(network, FasterRCNN):
        network = OneImage(network)
    elif isinstance(network, SSD | FCOS | RetinaNet):
        network = BackboneAndHead(network)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.7, 1.4, generator=generator)
                if module.weight is not None:
                    module.weight.uniform_(0.7, 1.3, generator=generator)
                    module.bias.normal_(0, 0.1, generator=generator)
    size = 320 if "320" in name else 224 if name.startswith("detection") else 64
    return network.eval(), torch.rand(1, 3, size, size, generator=generator)


def tensors(found) -> list[torch.Tensor]:
    """Return the tensors in nested tuples, lists and dictionaries, in order, without any help of the package."""
    if isinstance(found, torch.Tensor):
        return [found]
    found = list(found.values()) if isinstance(found, dict) else found
    return [tensor for part in found for tensor in tensors(part)] if isinstance(found, list | tuple) else []


def drawn(groups, seed: int) -> dict[int, int]:
    """Return random widths of all open groups, odd ones among them; a depthwise convolution of one channel is none."""
    generator = np.random.default_rng(seed)
    sizes = {number: groups.groups[number].size for number in groups.open}
    return {number: int(generator.integers(min(2, size), size + 1)) for number, size in sizes.items()}

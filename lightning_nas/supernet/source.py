"""Reading stock networks: what blocks a torchvision or timm network is made of, and where they sit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from timm.models import EfficientNet
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual as TorchvisionInvertedResidual
from torchvision.models.mobilenetv2 import MobileNetV2

from .._modes import evaluating
from ..space.spec import BlockOption, ConvSpec, Kind

__all__ = ["ConvNorm", "Source", "SourceBlock", "named_blocks", "read_source"]

ConvNorm = tuple[nn.Conv2d, nn.BatchNorm2d]
SUPPORTED = "torchvision's mobilenet_v2 and timm's mobilenetv2_* and efficientnet_lite*"


@dataclass(frozen=True)
class SourceBlock:
    """A block as found: its place, its shape and its layers.

    Attributes:
        path: Name of the submodule in the network.
        option: Kind, expansion and kernel.
        stride: Stride of the depthwise convolution.
        parts: Convolutions with the norm behind each, in order of execution.
        act: The activation between them.
        drop_path: What stands on the residual branch, or None.
    """

    path: str
    option: BlockOption
    stride: int
    parts: tuple[ConvNorm, ...]
    act: nn.Module
    drop_path: nn.Module | None

    @property
    def in_width(self) -> int:
        """Input channels."""
        return self.parts[0][0].in_channels

    @property
    def out_width(self) -> int:
        """Output channels."""
        return self.parts[-1][0].out_channels


@dataclass(frozen=True)
class Source:
    """A network as found.

    Attributes:
        stem: First convolution.
        stem_path: Name of its submodule.
        stem_norm_path: Name of the norm behind it.
        stages: Blocks by stage; a stage begins where the width or the resolution changes.
        head: 1x1 convolution before pooling; None where the blocks stand in a larger network, such as a detector.
        head_path: Name of its submodule.
        head_norm_path: Name of the norm behind it.
        reader_path: Name of the linear layer that reads the head's pooled channels; empty where something else does.
        num_classes: Outputs of the classifier; 0 without one.
    """

    stem: ConvSpec
    stem_path: str
    stem_norm_path: str
    stages: tuple[tuple[SourceBlock, ...], ...]
    head: ConvSpec | None
    head_path: str
    head_norm_path: str
    reader_path: str
    num_classes: int

    @property
    def block_paths(self) -> list[str]:
        """Names of the blocks' submodules, in order."""
        return [block.path for stage in self.stages for block in stage]


def read_source(model: nn.Module, example_input: Tensor) -> Source:
    """Find the blocks of a supported network.

    Args:
        model: A network of torchvision's `MobileNetV2` or timm's `EfficientNet` class, or one that holds such a
            network as its backbone and reads its blocks.
        example_input: One batch that it can run, shape (N, C, H, W); shapes are checked with it.

    Raises:
        ValueError: Another network, or one with a block that cannot be converted; the message names it.
    """
    prefix, backbone = _backbone(model)
    is_torchvision = isinstance(backbone, MobileNetV2)
    blocks = (_torchvision_blocks if is_torchvision else _timm_blocks)(backbone, prefix)
    stem_paths = ("features.0.0", "features.0.1") if is_torchvision else ("conv_stem", "bn1")
    stem = _stem(backbone, *stem_paths)
    _check_runs(model, example_input)
    if not any(block.option.kind == "ibn" for block in blocks):
        raise ValueError(f"{type(model).__name__} has no inverted bottleneck to convert; supported are {SUPPORTED}.")
    stem_spec, stages = ConvSpec(stem.out_channels, stem.kernel_size[0], stem.stride[0]), tuple(_stages(blocks))
    first = (stem_spec, prefix + stem_paths[0], prefix + stem_paths[1], stages)
    if backbone is not model:
        return Source(*first, None, "", "", "", 0)
    last = len(model.features) - 1 if isinstance(model, MobileNetV2) else 0
    paths = (f"features.{last}.0", f"features.{last}.1") if last else ("conv_head", "bn2")
    head = model.get_submodule(paths[0])
    if not isinstance(head, nn.Conv2d):
        raise ValueError(f"{type(model).__name__} has no 1x1 convolution at {paths[0]!r}; supported are {SUPPORTED}.")
    return Source(*first, ConvSpec(head.out_channels, 1, 1), *paths, _reader_path(backbone), _num_classes(backbone))


def named_blocks(network: nn.Module) -> Iterator[tuple[str, tuple[ConvNorm, ...]]]:
    """Yield path and parts of each block that torchvision or timm made, fused ones too; convolution, norm by order."""
    for path, module in network.named_modules():
        if isinstance(module, TorchvisionInvertedResidual | InvertedResidual | DepthwiseSeparableConv | EdgeResidual):
            yield path, _parts(module)


def _parts(module: nn.Module) -> tuple[ConvNorm, ...]:
    if isinstance(module, TorchvisionInvertedResidual):
        *inner, conv, norm = module.conv
        return (*((unit[0], unit[1]) for unit in inner), (conv, norm))
    if isinstance(module, InvertedResidual):
        return (module.conv_pw, module.bn1), (module.conv_dw, module.bn2), (module.conv_pwl, module.bn3)
    if isinstance(module, EdgeResidual):
        return (module.conv_exp, module.bn1), (module.conv_pwl, module.bn2)
    assert isinstance(module, DepthwiseSeparableConv)
    return (module.conv_dw, module.bn1), (module.conv_pw, module.bn2)


def _backbone(model: nn.Module) -> tuple[str, MobileNetV2 | EfficientNet]:
    """Return the network whose blocks are searched, and the path prefix of its modules in the model."""
    found = [(path, child) for path, child in model.named_modules() if isinstance(child, MobileNetV2 | EfficientNet)]
    if len(found) != 1:
        raise ValueError(
            f"{type(model).__name__} has no block that can become a choice of IBN and fused-IBN, or several networks"
            f" with such: supported is one of {SUPPORTED}, alone or as the backbone of something larger; it holds"
            f" {len(found)}. HINT: for a LightningModule pass its network: `supernet_from(model.backbone, ...)`."
        )
    path, backbone = found[0]
    return f"{path}." if path else "", backbone


def _torchvision_blocks(model: MobileNetV2, prefix: str) -> list[SourceBlock]:
    # Behind the blocks stands the 1x1 convolution; a backbone of something larger may have dropped it.
    units = list(model.features)[1:]
    units = units if isinstance(units[-1], TorchvisionInvertedResidual) else units[:-1]
    blocks = []
    for index, module in enumerate(units, start=1):
        path = f"{prefix}features.{index}"
        if not isinstance(module, TorchvisionInvertedResidual):
            raise ValueError(f"Block {path!r} is a {type(module).__name__}; an InvertedResidual is needed.")
        unit = cast(nn.Sequential, module.conv[0])  # convolution, norm, activation
        blocks.append(_block(path, _parts(module), unit[2], None))
    return blocks


def _timm_blocks(model: EfficientNet, prefix: str) -> list[SourceBlock]:
    blocks = []
    for name, module in model.blocks.named_modules(prefix="blocks"):
        path = prefix + name
        if isinstance(module, InvertedResidual | DepthwiseSeparableConv):
            parts = _parts(module)
        elif name.count(".") == 2:
            raise ValueError(f"Block {path!r} is a {type(module).__name__}; supported are {SUPPORTED}.")
        else:
            continue
        if not isinstance(module.se, nn.Identity):
            raise ValueError(f"Block {path!r} has squeeze-and-excitation, which is not supported; use {SUPPORTED}.")
        blocks.append(_block(path, parts, cast(nn.Module, parts[0][1].act), module.drop_path))
    return blocks


def _block(path: str, parts: tuple[ConvNorm, ...], act: nn.Module, drop_path: nn.Module | None) -> SourceBlock:
    for conv, norm in parts:
        _check_conv(path, conv, norm)
    depthwise = parts[-2][0]
    expansion = parts[-1][0].in_channels / parts[0][0].in_channels
    kind: Kind = "ibn" if len(parts) == 3 else "ds"
    option = BlockOption(kind, expansion, depthwise.kernel_size[0])
    return SourceBlock(path, option, depthwise.stride[0], parts, act, drop_path)


def _check_conv(path: str, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    if not isinstance(conv, nn.Conv2d):
        raise ValueError(f"Block {path!r} convolves by {type(conv).__name__}; a Conv2d is needed.")
    kernel = conv.kernel_size[0]
    if not isinstance(norm, nn.BatchNorm2d):
        raise ValueError(f"Block {path!r} is normalised by {type(norm).__name__}; a BatchNorm2d is needed.")
    if conv.padding != (kernel // 2, kernel // 2) or conv.dilation != (1, 1) or conv.bias is not None:
        raise ValueError(
            f"Block {path!r} has a convolution with padding {conv.padding}, dilation {conv.dilation} or a bias; needed "
            f"are symmetric padding of half the kernel, no dilation, no bias (timm's 'tf_' networks pad otherwise)."
        )


def _stem(backbone: nn.Module, conv_path: str, norm_path: str) -> nn.Conv2d:
    conv = backbone.get_submodule(conv_path)
    if not isinstance(conv, nn.Conv2d):
        raise ValueError(f"The network begins with a {type(conv).__name__}; a Conv2d is needed.")
    _check_conv(conv_path, conv, cast(nn.BatchNorm2d, backbone.get_submodule(norm_path)))
    return conv


def _stages(blocks: list[SourceBlock]) -> Iterator[tuple[SourceBlock, ...]]:
    stage: list[SourceBlock] = []
    for block in blocks:
        if stage and (block.stride != 1 or block.in_width != block.out_width):
            yield tuple(stage)
            stage = []
        stage.append(block)
    yield tuple(stage)


def _num_classes(model: nn.Module) -> int:
    classifier = cast(nn.Module, model.classifier)
    layers = [layer for layer in classifier.modules() if isinstance(layer, nn.Linear)]
    return layers[-1].out_features if layers else 0


def _reader_path(model: nn.Module) -> str:
    """Return the name of the classifier's first layer that is more than dropout, if it is linear; empty otherwise."""
    for name, layer in cast(nn.Module, model.classifier).named_modules(prefix="classifier"):
        if not isinstance(layer, nn.Sequential | nn.Dropout | nn.Identity | nn.Flatten):
            return name if type(layer) is nn.Linear else ""
    return ""


def _check_runs(model: nn.Module, example_input: Tensor) -> None:
    if example_input.ndim != 4:
        raise ValueError(f"`example_input` must have the shape (N, C, H, W); got {tuple(example_input.shape)}.")
    try:
        with evaluating(model):
            model(example_input)
    except RuntimeError as error:
        raise ValueError(
            f"{type(model).__name__} cannot run `example_input` of shape {tuple(example_input.shape)}: {error}"
        ) from error

"""Reading of stock networks: the blocks of a torchvision or timm network, and their places."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

from timm.layers.norm_act import BatchNormAct2d
from timm.models import EfficientNet
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual as TorchvisionInvertedResidual
from torchvision.models.mobilenetv2 import MobileNetV2

from lightning_nas.graph.eval_mode import undisturbed
from lightning_nas.space.spec import BlockOption, ConvSpec, Kind
from lightning_nas.supernet.choice import ChoiceBlock
from lightning_nas.supernet.replacing import check_replaceable
from lightning_nas.supernet.timm_blocks import DepthwiseSeparableConv, EdgeResidual, InvertedResidual

__all__ = ["ConvNorm", "Source", "SourceBlock", "backbone_of", "named_blocks", "read_source"]

ConvNorm = tuple[nn.Conv2d, nn.BatchNorm2d]
SUPPORTED = "torchvision's mobilenet_v2 and timm's mobilenetv2_* and efficientnet_lite*"


@dataclass(frozen=True)
class SourceBlock:
    """A block of a source network: its place, its shape and its layers.

    Attributes:
        path: Name of the submodule in the network.
        option: Kind, expansion and kernel.
        stride: Stride of the depthwise convolution.
        parts: Convolutions with the norm behind each, in order of execution.
        act: The activation between them.
        drop_path: What stands on the residual branch, or None.
        training: Whether it is in training mode.
    """

    path: str
    option: BlockOption
    stride: int
    parts: tuple[ConvNorm, ...]
    act: nn.Module
    drop_path: nn.Module | None
    training: bool = False

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
    """A source network: its stem, blocks and head with their places.

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
    _refuse_supernet(model)
    prefix, backbone = backbone_of(model)
    is_torchvision = isinstance(backbone, MobileNetV2)
    modules = (_torchvision_modules if is_torchvision else _timm_modules)(backbone, prefix)
    stem_paths = ("features.0.0", "features.0.1") if is_torchvision else ("conv_stem", "bn1")
    check_replaceable(model, [*modules, *(prefix + path for path in stem_paths)])
    blocks = [_block(path, module) for path, module in modules.items()]
    stem = _end(backbone, *stem_paths)
    _check_runs(model, example_input)
    if not any(block.option.kind == "ibn" for block in blocks):
        raise ValueError(f"{type(model).__name__} has no inverted bottleneck to convert; supported are {SUPPORTED}.")
    stem_spec, stages = ConvSpec(stem.out_channels, stem.kernel_size[0], stem.stride[0]), tuple(_stages(blocks))
    first = (stem_spec, prefix + stem_paths[0], prefix + stem_paths[1], stages)
    if backbone is not model:
        return Source(*first, None, "", "", "", 0)
    last = len(model.features) - 1 if isinstance(model, MobileNetV2) else 0
    paths = (f"features.{last}.0", f"features.{last}.1") if last else ("conv_head", "bn2")
    head = _end(model, *paths)
    if head.kernel_size != (1, 1):
        raise ValueError(f"{type(model).__name__} has no 1x1 convolution at {paths[0]!r}; supported are {SUPPORTED}.")
    reader = _reader_path(backbone, head.out_channels)
    check_replaceable(model, [*paths, reader] if reader else paths)
    return Source(*first, ConvSpec(head.out_channels, 1, 1), *paths, reader, _num_classes(backbone))


def backbone_of(model: nn.Module) -> tuple[str, MobileNetV2 | EfficientNet]:
    """Return the path prefix in a model of the network whose blocks are searched, and that network.

    Raises:
        ValueError: There is none, or more than one.
    """
    found = [(path, child) for path, child in model.named_modules() if isinstance(child, MobileNetV2 | EfficientNet)]
    if not found:
        raise ValueError(
            f"No supported network was found in {type(model).__name__}. Supported are {SUPPORTED}, alone or as the"
            " backbone of something larger."
        )
    if len(found) > 1:
        paths = ", ".join(repr(path) for path, _ in found)
        raise ValueError(
            f"{type(model).__name__} holds {len(found)} supported networks, at {paths}; one can be searched. HINT: of"
            " a LightningModule pass the network: `supernet_from(model.backbone, ...)`."
        )
    path, backbone = found[0]
    return f"{path}." if path else "", backbone


def named_blocks(network: nn.Module) -> Iterator[tuple[str, tuple[ConvNorm, ...]]]:
    """Yield the path and the convolutions with their norms of each plain block, fused ones included."""
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


def _refuse_supernet(model: nn.Module) -> None:
    if any(isinstance(module, ChoiceBlock) for module in model.modules()):
        raise ValueError(
            f"{type(model).__name__} is a supernet already, or holds one: `supernet_from` has converted it. HINT: use"
            " it as it is, or convert a new network of the same kind."
        )
    if hasattr(model, "supernet"):
        raise ValueError(
            f"{type(model).__name__} has an attribute `supernet` of its own, where the supernet's handle belongs."
            " HINT: rename it."
        )


def _torchvision_modules(model: MobileNetV2, prefix: str) -> dict[str, nn.Module]:
    # Behind the blocks stands the 1x1 convolution; a backbone of something larger may have dropped it.
    blocks = list(model.features)[1:]
    blocks = blocks if isinstance(blocks[-1], TorchvisionInvertedResidual) else blocks[:-1]
    found = {f"{prefix}features.{index}": module for index, module in enumerate(blocks, start=1)}
    for path, module in found.items():
        if type(module) is not TorchvisionInvertedResidual:
            raise ValueError(
                f"Block {path!r} is a {type(module).__name__}; torchvision's own InvertedResidual is needed."
                f" HINT: convert {SUPPORTED}, and quantize or change the network that is derived."
            )
        units, last = module.conv[:-2], module.conv[-2:]
        fits = len(units) in (1, 2) and all(isinstance(unit, nn.Sequential) and len(unit) == 3 for unit in units)
        if not fits or not isinstance(last[0], nn.Conv2d):
            raise ValueError(
                f"Block {path!r} must be one or two units of convolution, norm and activation, a convolution and a"
                f" norm; it holds {', '.join(type(part).__name__ for part in module.conv)}."
            )
    return found


def _timm_modules(model: EfficientNet, prefix: str) -> dict[str, nn.Module]:
    found = {}
    for name, module in model.blocks.named_modules(prefix="blocks"):
        path = prefix + name
        if name.count(".") != 2:
            continue
        if type(module) not in (InvertedResidual, DepthwiseSeparableConv):
            raise ValueError(f"Block {path!r} is a {type(module).__name__}; supported are {SUPPORTED}.")
        found[path] = module
    return found


def _block(path: str, module: nn.Module) -> SourceBlock:
    parts = _parts(module)
    depthwise = parts[-2][0]
    for conv, norm in parts:
        _check_conv(f"Block {path!r}", conv, norm, conv is depthwise)
    if isinstance(module, TorchvisionInvertedResidual):
        acts, drop_path = [unit[2] for unit in module.conv[:-2]], None
    else:
        _check_timm_block(path, module, [norm for _, norm in parts])
        acts, drop_path = [cast(nn.Module, norm.act) for _, norm in parts[:-1]], cast(nn.Module, module.drop_path)
    _check_activations(path, acts)
    expansion = parts[-1][0].in_channels / parts[0][0].in_channels
    kind: Kind = "ibn" if len(parts) == 3 else "ds"
    option = BlockOption(kind, expansion, depthwise.kernel_size[0])
    return SourceBlock(path, option, depthwise.stride[0], parts, acts[0], drop_path, module.training)


def _check_conv(where: str, conv: nn.Conv2d, norm: nn.BatchNorm2d, depthwise: bool = False) -> None:
    if not isinstance(conv, nn.Conv2d):
        raise ValueError(f"{where} convolves by {type(conv).__name__}; a Conv2d is needed.")
    kernel = conv.kernel_size[0]
    if type(norm) not in (nn.BatchNorm2d, BatchNormAct2d):
        raise ValueError(f"{where} is normalised by {type(norm).__name__}; a BatchNorm2d is needed.")
    if norm.weight is None or norm.running_mean is None:
        raise ValueError(f"{where} has a norm without weights or without running statistics; both are needed.")
    if conv.padding != (kernel // 2, kernel // 2) or conv.dilation != (1, 1) or conv.bias is not None:
        raise ValueError(
            f"{where} has a convolution with padding {conv.padding}, dilation {conv.dilation} or a bias; needed "
            f"are symmetric padding of half the kernel, no dilation, no bias (timm's 'tf_' networks pad otherwise)."
        )
    if type(conv) is not nn.Conv2d:
        raise ValueError(f"{where} convolves by {type(conv).__name__}; torch.nn's own Conv2d is needed.")
    groups = conv.in_channels if depthwise else 1
    square = len({*conv.kernel_size}) == len({*conv.stride}) == 1
    if conv.groups != groups or not square or conv.padding_mode != "zeros":
        raise ValueError(
            f"{where} has a convolution of kernel {conv.kernel_size}, stride {conv.stride}, {conv.groups} groups and"
            f" padding mode {conv.padding_mode!r}; needed are a square kernel and stride, {groups} groups and 'zeros'."
        )


def _check_timm_block(path: str, module: nn.Module, norms: Sequence[nn.BatchNorm2d]) -> None:
    if not isinstance(module.se, nn.Identity):
        raise ValueError(f"Block {path!r} has squeeze-and-excitation, which is not supported; use {SUPPORTED}.")
    if not isinstance(module.aa, nn.Identity) or getattr(module, "conv_s2d", None) is not None:
        raise ValueError(f"Block {path!r} has anti-aliasing or space-to-depth, which is not supported.")
    drops = any(not isinstance(getattr(norm, "drop", None), nn.Identity) for norm in norms)
    if drops or not isinstance(norms[-1].act, nn.Identity):
        raise ValueError(f"Block {path!r} has dropout behind a norm or ends with an activation; that is not supported.")


def _check_activations(where: str, acts: Sequence[nn.Module]) -> None:
    first = acts[0]
    for act in acts:
        if any(True for _ in (*act.parameters(), *act.buffers())):
            raise ValueError(
                f"Block {where!r} has an activation with weights or buffers, {type(act).__name__}, which its options"
                " cannot share. HINT: one without, such as ReLU6 or LeakyReLU."
            )
        if _settings(act) != _settings(first):
            raise ValueError(f"Block {where!r} has two activations that differ, {first} and {act}; one is needed.")


def _settings(act: nn.Module) -> tuple[object, ...]:
    """Return what tells an activation from another: its class, its settings, and those of what it holds."""
    own = {k: v for k, v in vars(act).items() if not k.startswith("_") and k not in ("training", "inplace")}
    return type(act), own, tuple((name, _settings(child)) for name, child in act.named_children())


def _end(backbone: nn.Module, conv_path: str, norm_path: str) -> nn.Conv2d:
    """Return the first or the last convolution of a network, if it can become elastic."""
    conv, norm = backbone.get_submodule(conv_path), backbone.get_submodule(norm_path)
    _check_conv(f"Module {conv_path!r}", cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm))
    behind = norm.act if isinstance(norm, BatchNormAct2d) else backbone.get_submodule(f"{norm_path[:-1]}2")
    if any(parameter.numel() > 1 for parameter in cast(nn.Module, behind).parameters()):
        raise ValueError(
            f"Behind module {norm_path!r} stands an activation with weights for each channel,"
            f" {type(behind).__name__}, which cannot follow another width. HINT: one without, such as ReLU6."
        )
    return cast(nn.Conv2d, conv)


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


def _reader_path(model: nn.Module, width: int) -> str:
    """Return the name of the classifier's first layer that is more than dropout; empty where it cannot be elastic.

    That is, unless it is linear and reads each of the head's channels once.
    """
    for name, layer in cast(nn.Module, model.classifier).named_modules(prefix="classifier"):
        if not isinstance(layer, nn.Sequential | nn.Dropout | nn.Identity | nn.Flatten):
            return name if type(layer) is nn.Linear and layer.in_features == width else ""
    return ""


def _check_runs(model: nn.Module, example_input: Tensor) -> None:
    if example_input.ndim != 4:
        raise ValueError(f"`example_input` must have the shape (N, C, H, W); got {tuple(example_input.shape)}.")
    try:
        with undisturbed(model):
            model(example_input)
    except RuntimeError as error:
        raise ValueError(
            f"{type(model).__name__} cannot run `example_input` of shape {tuple(example_input.shape)}: {error}"
        ) from error

"""Feature maps of a stock network, as a detector's or a segmenter's head reads them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from timm.models import EfficientNet
from torch import Tensor, nn
from torchvision.models import MobileNetV2
from torchvision.models.mobilenetv2 import InvertedResidual

from lightning_nas.io.numbers import check_number, check_numbers
from lightning_nas.supernet.timm_blocks import DepthwiseSeparableConv
from lightning_nas.supernet.timm_blocks import InvertedResidual as TimmInvertedResidual
from lightning_nas.supernet.trunk import limit_trunk, measured_taps, trunk_of, units_of

__all__ = ["block_strides", "features", "headless", "limit_stride", "strides_to_taps", "tap_widths"]


def features(backbone: nn.Module, images: Tensor, taps: Sequence[int]) -> list[Tensor]:
    """Return the outputs of chosen blocks, in the order of `taps`; what stands behind the last of them does not run.

    Args:
        backbone: torchvision's `MobileNetV2`, a network of timm's `EfficientNet` class, or what `headless` makes of
            another; also one whose blocks `supernet_from` has converted.
        images: Images, shape (N, 3, H, W).
        taps: Which blocks, see `strides_to_taps`: indices of ``features`` (torchvision) or of ``blocks`` (timm),
            or of the modules in a row.

    Returns:
        One map (N, C, H / stride, W / stride) for each tap.

    Raises:
        TypeError: A network of another class.
        ValueError: There is no such block, or no tap.

    Example::

        >>> import torch
        >>> backbone = headless(MobileNetV2())
        >>> [tuple(found.shape) for found in features(backbone, torch.rand(1, 3, 64, 64), taps=[6, 17])]
        [(1, 32, 8, 8), (1, 320, 2, 2)]
    """
    stem, units = _units(backbone)
    _check_taps(taps, units)
    x = stem(images)
    found: dict[int, Tensor] = {}
    for index, unit in units.items():
        if index <= max(taps):
            x = unit(x)
            found[index] = x
    return [found[tap] for tap in taps]


def strides_to_taps(backbone: nn.Module, strides: Sequence[int]) -> tuple[int, ...]:
    """Return for each stride the last block whose output has it.

    Strides are those before `supernet_from` converts the blocks, so ask then.

    Args:
        backbone: Network as in `features`.
        strides: Input pixels to an output pixel, such as 8 and 32.

    Raises:
        TypeError: A network of another class.
        ValueError: No block gives such a stride; the message says which there are.

    Example::

        >>> strides_to_taps(MobileNetV2(), [4, 8, 16, 32])
        (3, 6, 13, 17)
    """
    check_numbers("strides", strides, whole=True, least=1)
    last = block_strides(backbone)
    if missing := [stride for stride in strides if stride not in last]:
        raise ValueError(f"`strides` can be {', '.join(map(str, last))} for this backbone; got {missing[0]}.")
    return tuple(last[stride] for stride in strides)


def block_strides(backbone: nn.Module) -> dict[int, int]:
    """Return the strides of a network's blocks, in rising order, each with the last block that has it.

    Raises:
        TypeError: A network of another class.

    Example::

        >>> block_strides(MobileNetV2())
        {2: 1, 4: 3, 8: 6, 16: 13, 32: 17}
    """
    if isinstance(backbone, nn.Sequential):
        taps = enumerate(measured_taps(backbone))
        return {tap.stride: index for index, tap in taps if index and tap.stride is not None}
    stem, units = _units(backbone)
    last: dict[int, int] = {}
    stride = _stride(stem)
    for index, unit in units.items():
        stride *= _stride(unit)
        last[stride] = index
    return last


def limit_stride(backbone: nn.Module, stride: int) -> nn.Module:
    """Let no block have a larger stride than `stride`, in place, and return the network.

    Convolutions that would go beyond keep their weights and lose their step, so that maps are larger behind them.
    Unlike in the networks of DeepLab (Chen et al. 2017, arXiv 1706.05587) none becomes dilated: blocks stay ordinary.

    Raises:
        TypeError: A network of another class.
        ValueError: The stride is not a whole number of at least 1, or the network has steps that are no convolution's.

    Example::

        >>> block_strides(limit_stride(headless(MobileNetV2()), 16))
        {2: 1, 4: 3, 8: 6, 16: 17}
    """
    check_number("stride", stride, whole=True, least=1)
    if isinstance(backbone, nn.Sequential):
        return limit_trunk(backbone, stride)
    stem, units = _units(backbone)
    total = _stride(stem)
    for unit in units.values():
        for module in unit.modules():
            if isinstance(module, nn.Conv2d) and total * module.stride[0] > stride:
                module.stride = (1, 1)
            total *= module.stride[0] if isinstance(module, nn.Conv2d) else 1
        # Blocks decide on their residual when they are made, by their stride; other blocks stay as they are.
        for module in unit.modules():
            if isinstance(module, InvertedResidual):
                module.stride = _stride(module)
                module.use_res_connect = module.stride == 1 and _is_square(module)
            elif isinstance(module, DepthwiseSeparableConv | TimmInvertedResidual):
                module.has_skip = _stride(module) == 1 and _is_square(module)
    return backbone


def tap_widths(backbone: nn.Module, taps: Sequence[int]) -> tuple[int, ...]:
    """Return the output channels of chosen blocks; ask before `supernet_from` converts them.

    Raises:
        TypeError: A network of another class.
        ValueError: There is no such block, or no tap.

    Example::

        >>> tap_widths(MobileNetV2(), [6, 17])
        (32, 320)
    """
    _, units = _units(backbone)
    _check_taps(taps, units)
    if isinstance(backbone, nn.Sequential):
        measured = measured_taps(backbone)
        return tuple(measured[tap].width for tap in taps)
    return tuple(_convolutions(units[tap])[-1].out_channels for tap in taps)


def headless(network: nn.Module) -> nn.Module:
    """Remove the last 1x1 convolution and the classifier of a stock network, and return it.

    torchvision's `MobileNetV2` and networks of timm's `EfficientNet` class stay what they are and are changed in place;
    of another network its modules are returned in a row, see `lightning_nas.supernet.trunk.trunk_of`. Weights are best
    loaded before: a file of weights holds the whole network.

    Raises:
        TypeError: The network does not run its modules in a chain.

    Example::

        >>> len(headless(MobileNetV2()).features)
        18
    """
    if not isinstance(network, MobileNetV2 | EfficientNet):
        return trunk_of(network)
    if isinstance(network, MobileNetV2):
        if isinstance(network.features[-1], nn.Sequential):
            network.features = network.features[:-1]
        network.classifier = nn.Identity()
    else:
        for name in ("conv_head", "bn2", "global_pool", "classifier"):
            setattr(network, name, nn.Identity())
    return network


def _units(backbone: nn.Module) -> tuple[nn.Module, dict[int, nn.Module]]:
    """Return the stem and the numbered blocks, or stages of blocks, behind it."""
    if isinstance(backbone, MobileNetV2):
        stem, *units = backbone.features
        # The 1x1 convolution behind the blocks is a Sequential; no block is, before or after the conversion.
        return stem, {index: unit for index, unit in enumerate(units, 1) if not isinstance(unit, nn.Sequential)}
    if isinstance(backbone, EfficientNet):
        stem = nn.Sequential(backbone.conv_stem, backbone.bn1)
        return stem, dict(enumerate(backbone.blocks))
    if isinstance(backbone, nn.Sequential):
        stem, *units = units_of(backbone)
        return stem, dict(enumerate(units, 1))
    raise TypeError(
        "The backbone must be torchvision's MobileNetV2, of timm's EfficientNet class, or what `headless` returns; got"
        f" {type(backbone).__name__}."
    )


def _check_taps(taps: Sequence[int], units: dict[int, nn.Module]) -> None:
    check_numbers("taps", taps, whole=True, least=0)
    if not taps or not set(taps) <= set(units):
        raise ValueError(f"`taps` must be one or more of the blocks {min(units)} to {max(units)}; got {list(taps)}.")


def _convolutions(module: nn.Module) -> list[nn.Conv2d]:
    return [child for child in module.modules() if isinstance(child, nn.Conv2d)]


def _stride(module: nn.Module) -> int:
    return prod(convolution.stride[0] for convolution in _convolutions(module))


def _is_square(module: nn.Module) -> bool:
    convolutions = _convolutions(module)
    return convolutions[0].in_channels == convolutions[-1].out_channels

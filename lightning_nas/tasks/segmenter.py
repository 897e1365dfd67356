"""Networks that segment images: a stock backbone read at two blocks, and a light head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lightning_nas.io.numbers import check_number, check_numbers
from lightning_nas.supernet.features import block_strides, features, headless, limit_stride, tap_widths
from lightning_nas.supernet.stock import library_of, stock_network

__all__ = ["DeepLabV3LiteHead", "HeadName", "LRASPPHead", "Segmenter", "segmenter"]

HeadName = Literal["lraspp", "deeplabv3_lite"]
"""``lraspp`` is `LRASPPHead`, ``deeplabv3_lite`` is `DeepLabV3LiteHead`."""


class LRASPPHead(nn.Module):
    """The head of MobileNetV3 (Howard et al. 2019, arXiv 1905.02244): one gated projection, and a skip.

    Classes are computed before the enlargement: both are linear, so the values are the same, for fewer channels. The
    gate looks at the mean of the whole map, as accelerators pool it in one operator.

    Args:
        low_width: Channels of the finer map.
        high_width: Channels of the coarser map.
        num_classes: Number of classes.
        width: Channels of the projection.
        enlargement: By how many the finer map has more rows and columns: a power of 2.

    Raises:
        ValueError: `enlargement` is no power of 2.

    Example::

        >>> head = LRASPPHead(32, 320, num_classes=5, width=16, enlargement=4)
        >>> head(torch.rand(2, 32, 8, 8), torch.rand(2, 320, 2, 2)).shape
        torch.Size([2, 5, 8, 8])
    """

    def __init__(self, low_width: int, high_width: int, num_classes: int, width: int, enlargement: int) -> None:
        super().__init__()
        _check_widths(low_width=low_width, high_width=high_width, num_classes=num_classes, width=width)
        self.project = _unit(nn.Conv2d(high_width, width, 1, bias=False))
        self.gate = _gate(high_width, width)
        self.classify_high = nn.Conv2d(width, num_classes, 1)
        self.classify_low = nn.Conv2d(low_width, num_classes, 1)
        self.enlarge = _enlarge(enlargement)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Return logits (N, num_classes, H, W) of a map (N, low_width, H, W) and one `enlargement` times smaller."""
        x = self.project(high) * self.gate(high)
        return self.enlarge(self.classify_high(x)) + self.classify_low(low)


class DeepLabV3LiteHead(nn.Module):
    """A light pyramid of dilated convolutions (Chen et al. 2017, arXiv 1706.05587), depthwise separable, with a skip.

    Beside the 1x1 branch one branch for each rate, all joined by a 1x1 convolution. The mean of the whole map gates
    what is joined, as in `LRASPPHead`, rather than being enlarged to a branch; the skip is of that head, too.

    Args:
        low_width: Channels of the finer map.
        high_width: Channels of the coarser map.
        num_classes: Number of classes.
        width: Channels of each branch and behind them.
        enlargement: By how many the finer map has more rows and columns: a power of 2.
        rates: Dilation of each branch. The paper's 6, 12 and 18 are for maps of 33 pixels; most of a filter of rate r
            lies outside of a map of fewer than 2r.

    Raises:
        ValueError: `enlargement` is no power of 2.

    Example::

        >>> head = DeepLabV3LiteHead(32, 320, num_classes=5, width=16, enlargement=4)
        >>> head(torch.rand(2, 32, 32, 32), torch.rand(2, 320, 8, 8)).shape
        torch.Size([2, 5, 32, 32])
    """

    def __init__(
        self,
        low_width: int,
        high_width: int,
        num_classes: int,
        width: int,
        enlargement: int,
        rates: Sequence[int] = (1, 2, 4),
    ) -> None:
        super().__init__()
        _check_widths(low_width=low_width, high_width=high_width, num_classes=num_classes, width=width)
        check_numbers("rates", rates, whole=True, least=1)
        branches = [_unit(nn.Conv2d(high_width, width, 1, bias=False))]
        for rate in rates:
            depthwise = nn.Conv2d(high_width, high_width, 3, 1, rate, rate, groups=high_width, bias=False)
            branches.append(nn.Sequential(*_unit(depthwise), *_unit(nn.Conv2d(high_width, width, 1, bias=False))))
        self.branches = nn.ModuleList(branches)
        self.join = _unit(nn.Conv2d(width * len(branches), width, 1, bias=False))
        self.gate = _gate(high_width, width)
        self.classify_high = nn.Conv2d(width, num_classes, 1)
        self.classify_low = nn.Conv2d(low_width, num_classes, 1)
        self.enlarge = _enlarge(enlargement)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """Return logits (N, num_classes, H, W) of a map (N, low_width, H, W) and one `enlargement` times smaller."""
        x = torch.cat([branch(high) for branch in self.branches], dim=1)
        x = self.join(x) * self.gate(high)
        return self.enlarge(self.classify_high(x)) + self.classify_low(low)


class Segmenter(nn.Module):
    """A backbone whose last block and a finer one are read by a head.

    Logits are smaller than the image by the stride of the finer block. The rest of the enlargement belongs to the loss
    and the metric, see `Segmentation`, so that an accelerator needs not run it. `supernet_from` converts the backbone's
    blocks; the head follows their widths.

    Args:
        backbone: Network as in `features`, best without its own head (`headless`).
        taps: The finer block and the last, see `strides_to_taps`.
        head: Module of the two maps.

    Raises:
        ValueError: On a forward pass: height or width of the images is no multiple of the largest stride.

    Example::

        >>> from torchvision.models import MobileNetV2
        >>> head = LRASPPHead(32, 320, num_classes=5, width=16, enlargement=4)
        >>> network = Segmenter(headless(MobileNetV2()), (6, 17), head)
        >>> network(torch.rand(1, 3, 64, 96)).shape
        torch.Size([1, 5, 8, 12])
    """

    def __init__(self, backbone: nn.Module, taps: tuple[int, int], head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.taps = taps
        self.head = head
        self.stride = max(block_strides(backbone))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (N, num_classes, H / output_stride, W / output_stride) of images (N, 3, H, W)."""
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride:
            raise ValueError(f"Images must have multiples of {self.stride} pixels a side; got {height}x{width}.")
        low, high = features(self.backbone, images, self.taps)
        return self.head(low, high)


def segmenter(
    num_classes: int,
    backbone: str = "mobilenet_v2",
    head: HeadName = "lraspp",
    weights: str | Path | None = None,
    weights_prefix: str | None = None,
    head_width: int = 128,
    output_stride: int = 8,
    backbone_stride: int = 32,
    **options: object,
) -> Segmenter:
    """Return a network that segments, in channels-last memory format.

    Height and width of its images must be multiples of the largest stride in it.

    Args:
        num_classes: Number of classes.
        backbone: Any classifier of torchvision's or timm's that runs its modules in a chain, as `headless` needs it,
            such as ``mobilenet_v2``, ``resnet18`` or ``mobilenetv4_conv_small``.
        head: ``lraspp`` or ``deeplabv3_lite``.
        weights: Those of the backbone as a classifier: None (random), ``imagenet`` (downloaded by torchvision or
            timm), or a file of a state_dict or a Lightning checkpoint.
        weights_prefix: Where the backbone stands in the module of the file; by default it is found.
        head_width: Channels inside the head.
        output_stride: How many times smaller than the image the logits are: a stride of the backbone's blocks but its
            largest, such as 8 or 16.
        backbone_stride: Largest stride of a block, see `limit_stride`: 16 in place of 32 gives four times as many
            pixels to the last blocks, which finds smaller things and costs accordingly.
        **options: Further arguments of the backbone, such as ``width_mult`` or ``inverted_residual_setting``
            (torchvision), or ``drop_path_rate`` (timm).

    Raises:
        ValueError: A setting is out of range, an unknown network, or weights that are of another one.
        TypeError: A network that runs its modules otherwise than in a chain.
        FileNotFoundError: There is no such file of weights.

    Example::

        >>> segmenter(num_classes=13, output_stride=16)(torch.rand(1, 3, 64, 64)).shape
        torch.Size([1, 13, 4, 4])
    """
    if head not in get_args(HeadName):
        raise ValueError(f"`head` must be one of {', '.join(get_args(HeadName))}; got {head!r}.")
    check_number("num_classes", num_classes, whole=True, least=2)
    check_number("head_width", head_width, whole=True, least=1)
    if library_of(backbone) == "timm" and (width_mult := options.pop("width_mult", 1)) != 1:
        raise ValueError(
            f"`width_mult` scales networks of torchvision alone; got {width_mult} for {backbone!r}."
            " HINT: timm has networks of other widths by name, such as mobilenetv2_050."
        )
    if backbone_stride not in (4, 8, 16, 32):
        raise ValueError(f"`backbone_stride` must be one of 4, 8, 16, 32; got {backbone_stride}.")
    # The classifier goes, so it has as few outputs as there can be.
    stock = limit_stride(headless(stock_network(backbone, 1, weights, weights_prefix, **options)), backbone_stride)
    *finer, deepest = strides = block_strides(stock)
    if output_stride not in finer:
        raise ValueError(
            f"`output_stride` must be one of {', '.join(map(str, finer))}, the strides of this backbone below its"
            f" largest, {deepest}; got {output_stride}."
        )
    taps = strides[output_stride], strides[deepest]
    low_width, high_width = tap_widths(stock, taps)
    make: Callable[..., nn.Module] = LRASPPHead if head == "lraspp" else DeepLabV3LiteHead
    made = make(low_width, high_width, num_classes, width=head_width, enlargement=deepest // output_stride)
    return Segmenter(stock, taps, made.to(memory_format=torch.channels_last))


def _check_widths(**widths: int) -> None:
    for name, width in widths.items():
        check_number(name, width, whole=True, least=1)


def _unit(convolution: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU())


def _gate(in_width: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(in_width, width, 1), nn.Sigmoid())


def _enlarge(factor: int) -> nn.Sequential:
    """Return steps of 2, since some accelerators take no other factor."""
    check_number("enlargement", factor, whole=True, least=1)
    if factor & (factor - 1):
        raise ValueError(f"`enlargement` must be a power of 2; got {factor}.")
    steps = factor.bit_length() - 1
    return nn.Sequential(*(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False) for _ in range(steps)))

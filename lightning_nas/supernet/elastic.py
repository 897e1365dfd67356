"""Convolution, batch norm and linear layer that run on a slice of their maximal weight."""

from __future__ import annotations

import os
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "ElasticBatchNorm2d",
    "ElasticConv2d",
    "ElasticLinear",
    "elastic_conv",
    "elastic_linear",
    "elastic_norm",
    "elastic_unit",
    "keep_modes",
]

ElasticT = TypeVar("ElasticT", bound=nn.Module)

# On the CPU, oneDNN compiles a kernel for each shape of convolution and keeps the last 1024 by default. The paths of a
# supernet have more shapes than that: kernels would be compiled again and again, at a quarter of the step's time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")


class ElasticConv2d(nn.Conv2d):
    """A convolution of which any leading part of the channels and any centred part of the kernel can run.

    Every narrower or smaller convolution is a slice of the one weight (super-kernels; Single-Path NAS, arXiv
    1904.02877): nothing is masked or copied, and what is outside the slice gets a gradient of zero. With
    ``groups=in_channels`` it is depthwise and keeps the number of its input's channels.

    Attributes:
        width: Output channels to compute where a call does not say; None for all.
        reached: Output channels, input channels and kernel of the largest slice that ran with a gradient, for
            `SlicedStep`, which sets it back to zeros.
    """

    width: int | None = None
    reached: tuple[int, ...] = (0, 0, 0)

    # The head reads any width, and would be compiled for each.
    @torch.compiler.disable
    def forward(self, x: Tensor, out_channels: int | None = None, kernel: int | None = None) -> Tensor:
        """Convolve x, shape (N, C, H, W), C up to `in_channels`.

        Args:
            x: Input.
            out_channels: Leading output channels to compute; `width` by default.
            kernel: Odd size of the centred part of the kernel to use; all of it by default.
        """
        depthwise = self.groups > 1
        num_out = x.shape[1] if depthwise else out_channels or self.width or self.out_channels
        size = kernel or self.kernel_size[0]
        if torch.is_grad_enabled():
            self.reached = tuple(map(max, self.reached, (num_out, 1 if depthwise else x.shape[1], size)))
        weight = _Block.apply(self.weight, num_out, 1 if depthwise else x.shape[1], size)
        bias = None if self.bias is None else self.bias[:num_out]
        return F.conv2d(
            x, weight, bias, self.stride, self.dilation[0] * (size // 2), self.dilation, num_out if depthwise else 1
        )


class _Block(torch.autograd.Function):
    """The leading channels and centred kernel of a weight, as one operation.

    Indexing by slices is one operation a dimension, and in the backward pass each fills a tensor of its own.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, num_out: int, num_in: int, size: int) -> Tensor:
        margin = (weight.shape[-1] - size) // 2
        ctx.region = (slice(num_out), slice(num_in), slice(margin, margin + size), slice(margin, margin + size))
        ctx.whole = weight.shape
        block = weight[ctx.region]
        return weight.view_as(weight) if block.shape == weight.shape else block.contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = gradients
        if gradient.shape == ctx.whole:
            return gradient, None, None, None
        whole = gradient.new_zeros(ctx.whole)
        whole[ctx.region] = gradient
        return whole, None, None, None


class ElasticBatchNorm2d(nn.BatchNorm2d):
    """Batch norm on the leading channels, as many as the input has.

    The affine parameters are shared by all subnets, the statistics cannot be: with `batch_statistics` set, as during
    a search, each batch is normalised by its own, in evaluation too, and the running statistics stay untouched.

    Attributes:
        batch_statistics: Whether each batch is normalised by its own statistics.
        channel_weights: What each channel is multiplied by, where a baseline mixes widths; None otherwise.
        reached: The most channels that ran with a gradient, for `SlicedStep`, which sets it back to zero.
    """

    batch_statistics = False
    channel_weights: Tensor | None = None
    reached: tuple[int, ...] = (0,)

    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """Normalise x, shape (N, C, H, W), C up to `num_features`."""
        y = self._normalised(x)
        return y if self.channel_weights is None else y * self.channel_weights.view(-1, 1, 1).to(y.dtype)

    def _normalised(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        if torch.is_grad_enabled():
            self.reached = (max(self.reached[0], n),)
        weight, bias = self.weight[:n], self.bias[:n]
        if self.batch_statistics:
            return F.batch_norm(x, None, None, weight, bias, True, 0.0, self.eps)
        assert self.running_mean is not None
        assert self.running_var is not None
        mean, var = self.running_mean[:n], self.running_var[:n]
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return F.batch_norm(x, mean, var, weight, bias, self.training, self._update_rate(), self.eps)

    def _update_rate(self) -> float:
        # PyTorch's convention: no momentum means the cumulative average over all batches.
        if self.momentum is None:
            return 1.0 / max(1, int(torch.as_tensor(self.num_batches_tracked)))
        return self.momentum


class ElasticLinear(nn.Linear):
    """A linear layer on the leading features, as many as the input has.

    Attributes:
        reached: Output and most input features that ran with a gradient, for `SlicedStep`, which sets them to zero.
    """

    reached: tuple[int, ...] = (0, 0)

    # It reads any width, and would be compiled for each.
    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """Map x, shape (N, F), F up to `in_features`."""
        if torch.is_grad_enabled():
            self.reached = (self.out_features, max(self.reached[1], x.shape[-1]))
        return F.linear(x, self.weight[:, : x.shape[-1]], self.bias)


def keep_modes(new: nn.Module, old: nn.Module) -> None:
    """Give a module the modes of the one it replaces: training or evaluation, and by parameter trained or frozen."""
    new.training = old.training
    for name, parameter in old.named_parameters(recurse=False):
        getattr(new, name).requires_grad_(parameter.requires_grad)


def elastic_conv(conv: nn.Conv2d) -> ElasticConv2d:
    """Return a convolution's elastic form, with its weights."""
    elastic = ElasticConv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size[0],
        conv.stride[0],
        int(conv.padding[0]),
        conv.dilation[0],
        conv.groups,
        conv.bias is not None,
    )
    return _filled(elastic, conv)


def elastic_norm(norm: nn.BatchNorm2d) -> ElasticBatchNorm2d:
    """Return a norm's elastic form, with its weights and statistics."""
    return _filled(ElasticBatchNorm2d(norm.num_features, norm.eps, norm.momentum), norm)


def elastic_linear(linear: nn.Linear) -> ElasticLinear:
    """Return a linear layer's elastic form, with its weights."""
    return _filled(ElasticLinear(linear.in_features, linear.out_features, linear.bias is not None), linear)


def elastic_unit(
    model: nn.Module, conv_path: str, norm_path: str
) -> tuple[ElasticConv2d, ElasticBatchNorm2d, dict[str, nn.Module]]:
    """Return the elastic forms of a convolution and the norm behind it, and by path what takes their places.

    Args:
        model: The network that holds them; it is not changed.
        conv_path: Path of the convolution.
        norm_path: Path of the norm; one that applies an activation too, as timm's do, becomes a sequence of both.
    """
    conv = elastic_conv(cast(nn.Conv2d, model.get_submodule(conv_path)))
    found = cast(nn.BatchNorm2d, model.get_submodule(norm_path))
    norm, act = elastic_norm(found), getattr(found, "act", None)
    placed: nn.Module = norm
    if act is not None:
        placed = nn.Sequential(norm, act)
        placed.training = found.training
    return conv, norm, {conv_path: conv, norm_path: placed}


def _filled(elastic: ElasticT, plain: nn.Module) -> ElasticT:
    elastic.to(cast(Tensor, plain.weight))
    elastic.load_state_dict(plain.state_dict())
    keep_modes(elastic, plain)
    return elastic

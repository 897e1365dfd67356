"""Weights of a block of another kind: an inverted bottleneck's convolutions as one, and one as two."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["composed", "decomposed"]


@torch.no_grad()
def composed(
    expand: nn.Conv2d, norm: nn.Module | None, act: nn.Module | None, depthwise: nn.Conv2d, norm2: nn.Module | None
) -> tuple[nn.Conv2d, nn.Module | None]:
    """Return the KxK convolution that an expanding and a depthwise one make, and the norm behind it.

    The convolution is the exact composition; the activation between the two is replaced by its best linear fit to
    what expand's batch norm gives (Bussgang's theorem), which only moves the running statistics: a scale of the
    convolution's output is undone by the norm behind it. Where no batch norms track statistics, the activation is left
    out of the composition.

    Args:
        expand: The expanding convolution.
        norm: The norm behind it; None for none.
        act: The activation behind that; None for none, and for one that is not known.
        depthwise: The depthwise convolution, whose class, stride, dilation and padding stay.
        norm2: The norm behind that; None for none.
    """
    fused = deepcopy(depthwise)
    fused.in_channels, fused.groups = expand.in_channels, 1
    fused.weight = nn.Parameter(
        depthwise.weight * expand.weight, expand.weight.requires_grad or depthwise.weight.requires_grad
    )
    taps = depthwise.weight.sum((1, 2, 3))
    if not (_tracks(norm) and _tracks(norm2)):
        fused.bias = _composed_bias(expand, depthwise, taps)
        return fused, None if norm is None or norm2 is None else _with_values(norm, norm2)
    assert isinstance(norm, _BatchNorm)
    assert isinstance(norm2, _BatchNorm)
    fused.bias = None  # one in front of a norm changes nothing
    spread, centre = _affine(norm)
    mean, var = _statistics(norm)
    scale = spread / (var + norm.eps).sqrt()
    shift = centre + ((0 if expand.bias is None else expand.bias) - mean) * scale
    fused.weight.mul_(scale.view(-1, 1, 1, 1))
    gain, offset = _linear_fit(act, spread, centre)
    behind = _with_values(norm, norm2)
    constant = taps * (gain * shift + offset) + (0 if depthwise.bias is None else depthwise.bias)
    mean, var = _statistics(behind)
    mean.sub_(constant).div_(gain)
    var.div_(gain.square())
    _rescale_filters(fused, behind)
    return fused, behind


@torch.no_grad()
def decomposed(conv: nn.Conv2d, norm: nn.Module, act: nn.Module) -> tuple[list[nn.Module], nn.Module]:
    """Return a 1x1 convolution, a norm, an activation and a depthwise convolution for a KxK one, and the norm behind.

    Each filter is replaced by the nearest product of input channels and taps, its first singular pair. The norm within
    is the one that the convolution had, so that the activation works where it did; that behind undoes the activation's
    best linear fit, as in `composed`.

    Args:
        conv: The convolution, whose class, stride, dilation and padding the depthwise one gets.
        norm: The norm behind it.
        act: The activation behind that. One that the norm applies itself is not doubled.
    """
    channels, taps = _rank_one(conv.weight)
    out_channels, in_channels = channels.shape
    expand = nn.Conv2d(in_channels, out_channels, 1, bias=False).train(conv.training)
    expand.weight = nn.Parameter(channels.view(out_channels, in_channels, 1, 1), conv.weight.requires_grad)
    depthwise = deepcopy(conv)
    depthwise.in_channels = depthwise.groups = out_channels
    depthwise.weight = nn.Parameter(taps.view(out_channels, 1, *conv.weight.shape[2:]), conv.weight.requires_grad)
    depthwise.bias = None
    within, behind = deepcopy(norm), deepcopy(norm)
    parts = [expand, within, *(() if any(act is child for child in norm.modules()) else (deepcopy(act),)), depthwise]
    if not (_tracks(norm) and isinstance(norm, _BatchNorm)):
        return parts, behind
    spread, centre = _affine(norm)
    mean, var = _statistics(within)
    if conv.bias is not None:
        mean.sub_(conv.bias)
    scale = spread / (var + norm.eps).sqrt()
    gain, offset = _linear_fit(act, spread, centre)
    shift = centre - mean * scale
    mean2, var2 = _statistics(behind)
    mean2.copy_(gain * scale * mean + taps.sum(1) * (gain * shift + offset))
    factor = (gain * scale).square()
    assert isinstance(behind, _BatchNorm)
    if behind.weight is not None:
        # Of a channel that is scaled by nearly nothing the statistics would be rounded away.
        sign = torch.where(scale < 0, -1.0, 1.0)
        behind.weight.mul_(sign * ((factor * var + norm.eps) / (factor * (var + norm.eps)).clamp(min=1e-12)).sqrt())
    var2.copy_(factor * var)
    _rescale_filters(expand, within)
    _rescale_filters(depthwise, behind)
    return parts, behind


def _rank_one(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each filter the factors over input channels and taps whose product is nearest to it.

    The taps add up to one where they have one sign, so that the 1x1 convolution gives about what the filter did.
    """
    filters = weight.flatten(2).double()
    taps = torch.linalg.eigh(filters.mT @ filters).eigenvectors[..., -1]  # of length one
    total = taps.sum(1, keepdim=True)
    taps = taps * torch.where(total < 0, -1.0, 1.0)
    size = total.abs().clamp(min=1.0)
    channels = (filters @ taps.unsqueeze(2)).squeeze(2) * size
    return channels.to(weight.dtype), (taps / size).to(weight.dtype)


def _composed_bias(expand: nn.Conv2d, depthwise: nn.Conv2d, taps: Tensor) -> nn.Parameter | None:
    if expand.bias is None and depthwise.bias is None:
        return None
    bias = torch.zeros_like(taps)
    for own, factor in ((expand.bias, taps), (depthwise.bias, torch.ones_like(taps))):
        if own is not None:
            bias += factor * own
    return nn.Parameter(bias, any(conv.bias is not None and conv.bias.requires_grad for conv in (expand, depthwise)))


def _with_values(norm: nn.Module, other: nn.Module) -> nn.Module:
    """Return a copy of a norm with the values of another one; what either learns, it learns."""
    copy = deepcopy(norm)
    values = dict(_own_tensors(other))
    for name, target in _own_tensors(copy):
        if name in values:
            target.copy_(values[name])
            if isinstance(target, nn.Parameter):
                target.requires_grad_(target.requires_grad or values[name].requires_grad)
    for name in ("eps", "momentum"):
        if hasattr(other, name):
            setattr(copy, name, getattr(other, name))
    copy.training = other.training
    return copy


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


@torch.no_grad()
def _rescale_filters(conv: nn.Conv2d, norm: nn.Module) -> None:
    """Bring each filter to the norm of He's initialisation (arXiv 1502.01852), its normalised output unchanged.

    The product of two trained layers has entries a tenth of a fresh layer's. In front of batch norm the gradient
    grows as the filter shrinks, so an optimizer whose step suits the rest of the network would throw these about.
    """
    assert isinstance(norm, _BatchNorm)
    mean, var = _statistics(norm)
    factor = 2**0.5 / conv.weight.flatten(1).norm(dim=1).clamp(min=1e-6)
    conv.weight.mul_(factor.view(-1, 1, 1, 1))
    if norm.weight is not None:
        # Where epsilon outweighs the variance, as it does for channels that are nearly off, it would no longer damp
        # them.
        norm.weight.mul_(((factor.square() * var + norm.eps) / (factor.square() * (var + norm.eps))).sqrt())
    mean.mul_(factor)
    var.mul_(factor.square())


def _tracks(norm: nn.Module | None) -> bool:
    return isinstance(norm, _BatchNorm) and norm.running_mean is not None and norm.running_var is not None


def _statistics(norm: nn.Module) -> tuple[Tensor, Tensor]:
    mean, var = norm.running_mean, norm.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(var, Tensor)
    return mean, var


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return scale and offset of a norm's output."""
    mean, _ = _statistics(norm)
    return (
        torch.ones_like(mean) if norm.weight is None else norm.weight,
        torch.zeros_like(mean) if norm.bias is None else norm.bias,
    )


def _linear_fit(act: nn.Module | None, spread: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Return slope and offset of the least-squares line through `act` under a normal distribution per channel."""
    if act is None:
        return torch.ones_like(spread), torch.zeros_like(centre)
    points = torch.linspace(-4, 4, 161)
    density = torch.exp(-points.square() / 2)
    density = density / density.sum()
    z = points.to(spread).view(-1, 1)
    weight = density.to(spread).view(-1, 1)
    values = deepcopy(act).eval()((centre + spread * z).clone())
    slope = (weight * values * z).sum(0) / (weight * z.square()).sum()
    gain = slope / torch.where(spread.abs() < 1e-5, torch.ones_like(spread), spread)
    # A channel whose activation is off nearly always has no slope to speak of; the floor keeps its norm finite.
    gain = gain.clamp(min=0.05)
    return gain, (weight * values).sum(0) - gain * centre

"""Least squares for one convolution: the weights whose output is nearest to a goal."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["normalised", "sampled_rows", "solve"]

# Enough for a Gram matrix of a thousand channels; more positions cost time and change nothing.
MAX_ROWS = 2**14
# Of the mean square of the inputs. By the features of held-out images 0.1 was the best of 0.001 to 1.
RIDGE = 0.1


def solve(conv: nn.Conv2d, norm: _BatchNorm | None, x: Tensor, before: Tensor, goal: Tensor) -> Tensor:
    """Set a convolution and its norm to the ridge regression of a goal on its inputs; return the convolution's output.

    The ridge pulls towards the inherited weights: late blocks have more weights than the images have positions.

    Args:
        conv: A dense convolution; changed in place.
        norm: The batch norm behind it, changed, too; None for none.
        x: Its inputs, shape (N, C, H, W).
        before: What the inherited weights give.
        goal: What the norm, or the convolution where there is none, is to give at the sampled positions, shape
            (rows, C_out).
    """
    patches = _patches(x, conv, before)
    patches -= patches.mean(0)
    mean = goal.mean(0)
    gram = (patches.T @ patches).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp(min=1e-12))
    inherited = conv.weight.flatten(1)  # conv and norm in one
    if norm is not None:
        inherited = inherited * (norm.weight / (before.var((0, 2, 3), unbiased=False) + norm.eps).sqrt())[:, None]
    missing = goal - mean - patches @ inherited.T
    weight = inherited + torch.linalg.solve(gram, (patches.T @ missing).double()).T.to(conv.weight)
    if norm is None:
        conv.weight.copy_(weight.view_as(conv.weight))
        output = _run(conv, x)
        if conv.bias is not None:
            shift = mean - output.mean((0, 2, 3))
            conv.bias.add_(shift)
            output = output + shift[:, None, None]
        return output
    # The filters keep their length, which in front of a norm decides only how fast they learn.
    length = conv.weight.flatten(1).norm(dim=1)
    factor = length / weight.norm(dim=1).clamp(min=1e-6 * float(length.mean()))
    conv.weight.copy_((weight * factor[:, None]).view_as(conv.weight))
    output = _run(conv, x)
    var = output.var((0, 2, 3), unbiased=False)
    norm.weight.copy_((var + norm.eps).sqrt() / factor)
    norm.bias.copy_(mean)
    return output


def normalised(norm: nn.Module | None, rows: Tensor) -> Tensor:
    """Return what a batch norm makes of channels, shape (rows, C), by its running statistics; as they are for none."""
    if not isinstance(norm, _BatchNorm):
        return rows
    return functional.batch_norm(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def sampled_rows(values: Tensor) -> Tensor:
    """Return the channels (rows, C) of a feature map (N, C, H, W) at the sampled positions."""
    count, channels, height, width = values.shape
    flat = values.permute(0, 2, 3, 1).reshape(-1, channels)
    return flat[_positions(count * height * width, values.device)]


def _run(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the output of a convolution, without its hooks."""
    output: Tensor = type(conv).forward(conv, x)
    return output


def _patches(x: Tensor, conv: nn.Conv2d, output: Tensor) -> Tensor:
    """Return what each sampled output position reads, shape (rows, C_in * K * K)."""
    padded = functional.pad(x, _padding(x, conv, output))
    for dim, (taps, apart, stride) in enumerate(
        zip(conv.kernel_size, conv.dilation, conv.stride, strict=True), start=2
    ):
        padded = padded.unfold(dim, (taps - 1) * apart + 1, stride)[..., ::apart]
    windows = padded  # (N, C, H, W, K, K), a view
    count, channels, height, width = windows.shape[:4]
    picked = _positions(count * height * width, x.device)
    image, place = picked // (height * width), picked % (height * width)
    return windows[image, :, place // width, place % width].reshape(len(picked), channels * windows[0, 0, 0, 0].numel())


def _padding(x: Tensor, conv: nn.Conv2d, output: Tensor) -> tuple[int, int, int, int]:
    """Return how much is added left, right, above and below: by what the convolution says, or by the output's size.

    Those that pad by the size of their input, as TensorFlow does, add one more behind than before where it is odd.
    """
    found: list[int] = []
    sides = zip(x.shape[2:], output.shape[2:], conv.kernel_size, conv.dilation, conv.stride, conv.padding, strict=True)
    for size, out, taps, apart, stride, padding in sides:
        needed = max(0, (out - 1) * stride + (taps - 1) * apart + 1 - size)
        is_own = type(conv).forward is nn.Conv2d.forward and isinstance(padding, int)
        before = int(padding) if is_own else needed // 2
        found = [before, max(before if is_own else 0, needed - before), *found]
    left, right, above, below = found
    return left, right, above, below


def _positions(count: int, device: torch.device) -> Tensor:
    """Return spread positions that depend on the count alone."""
    generator = torch.Generator().manual_seed(count)
    return torch.randperm(count, generator=generator)[:MAX_ROWS].to(device)

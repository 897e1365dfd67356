"""Refit of a derived subnet to its source, block by block, by least squares in place of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.supernet.source import ConvNorm, named_blocks

__all__ = ["refit", "refit_block"]

# Enough for a Gram matrix of a thousand channels; more positions cost time and change nothing.
MAX_ROWS = 2**14
# Of the mean square of the inputs. By the features of held-out images 0.1 was the best of 0.001 to 1.
RIDGE = 0.1


def refit(subnet: nn.Module, teacher: nn.Module, images: Tensor) -> None:
    """Fit the convolutions of each block so that its output is that of the teacher's block; no gradients, one pass.

    A narrower block lost hidden channels, a fused one its inner activation. From the input that the refitted subnet
    itself gives a block, two linear maps are solved for: the fused-IBN's KxK convolution, towards what the teacher's
    depthwise norm gives, and the projection, towards the teacher's block output (less the residual input). This is
    the reconstruction of channel pruning (He et al. 2017, arXiv 1707.06168; Luo et al. 2017, arXiv 1707.06342). Batch
    norms get the statistics of `images`.

    Args:
        subnet: Network that `derive` gave; changed in place.
        teacher: The network of the widest blocks, with the same channel order: `derive(supernet,
            supernet.supernet.space.reference_encoding)`, before or after the search. It is not changed.
        images: Training images, shape (N, 3, H, W), normalised; some hundred.

    Raises:
        ValueError: The two networks do not have the same blocks.
    """
    students, teachers = dict(named_blocks(subnet)), dict(named_blocks(teacher))
    if not students or students.keys() != teachers.keys():
        raise ValueError(
            f"`subnet` and `teacher` must have the same blocks; got {len(students)} and {len(teachers)}: derive both "
            f"from one supernet."
        )
    images = images.contiguous(memory_format=torch.channels_last)
    with evaluating(teacher), _recording(teacher, students, teachers) as targets:
        teacher(images)
    norms = [module for module in subnet.modules() if isinstance(module, nn.BatchNorm2d)]
    with evaluating(subnet), _single_pass(norms), _fitting(subnet, students, targets):
        subnet(images)


def refit_block(subnet: nn.Module, teacher: nn.Module, path: str, inputs: Tensor) -> None:
    """Fit one block to the teacher's of the same name, as `refit` does, on the same inputs (N, C, H, W)."""
    students, teachers = ({path: dict(named_blocks(network))[path]} for network in (subnet, teacher))
    block = subnet.get_submodule(path)
    with evaluating(teacher), _recording(teacher, students, teachers) as targets:
        teacher.get_submodule(path)(inputs)
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    with evaluating(block), _single_pass(norms), _fitting(subnet, students, targets):
        block(inputs)


_Hook = Callable[[nn.Module, tuple[Tensor], Tensor], Tensor | None]

Targets = dict[str, tuple[Tensor, Tensor | None]]
"""For each block: rows of its output, and of its depthwise norm's output where the subnet's block is fused."""


@contextmanager
def _recording(
    teacher: nn.Module, students: dict[str, tuple[ConvNorm, ...]], teachers: dict[str, tuple[ConvNorm, ...]]
) -> Iterator[Targets]:
    """Collect what the teacher's blocks give at sampled positions."""
    outputs: dict[str, Tensor] = {}
    hidden: dict[str, Tensor] = {}
    handles = []

    def keep(path: str, store: dict[str, Tensor], norm: nn.BatchNorm2d | None) -> _Hook:
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            rows = _rows(output)
            # By hand, since timm's norms apply the activation too.
            store[path] = rows if norm is None else _normalise(norm, rows)

        return hook

    for path, parts in teachers.items():
        handles.append(teacher.get_submodule(path).register_forward_hook(keep(path, outputs, None)))
        if _is_fused(students[path]) and not _is_fused(parts):
            conv, norm = parts[-2]
            handles.append(conv.register_forward_hook(keep(path, hidden, norm)))
    targets: Targets = {}
    try:
        yield targets
        targets.update({path: (rows, hidden.get(path)) for path, rows in outputs.items()})
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _fitting(subnet: nn.Module, blocks: dict[str, tuple[ConvNorm, ...]], targets: Targets) -> Iterator[None]:
    """Solve for each convolution when the forward pass reaches it, and go on with what it gives then."""
    handles = []
    for path, parts in blocks.items():
        block = subnet.get_submodule(path)
        goal, hidden = targets[path]
        goal = goal[:, : parts[-1][0].out_channels].clone()
        if parts[0][0].in_channels == parts[-1][0].out_channels and _strides(parts) == 1:
            handles.append(block.register_forward_pre_hook(_subtract_input(goal)))
        if hidden is not None:
            conv, norm = parts[0]
            handles.append(conv.register_forward_hook(_solver(norm, hidden[:, : conv.out_channels])))
        conv, norm = parts[-1]
        handles.append(conv.register_forward_hook(_solver(norm, goal)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _subtract_input(goal: Tensor) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
        goal.sub_(_rows(inputs[0]))

    return hook


def _solver(norm: nn.BatchNorm2d, goal: Tensor) -> _Hook:
    def hook(conv: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        assert isinstance(conv, nn.Conv2d)
        return _solve(conv, norm, inputs[0], output, goal)

    return hook


def _solve(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor, before: Tensor, goal: Tensor) -> Tensor:
    """Set `conv` and `norm` to the ridge regression of `goal`, shape (rows, C_out), on x; return the conv's output.

    `before` is what the inherited weights give.

    The ridge pulls towards the inherited weights: late blocks have more weights than the images have positions.
    """
    patches = _patches(x, conv)
    patches -= patches.mean(0)
    mean = goal.mean(0)
    gram = (patches.T @ patches).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp(min=1e-12))
    spread = (before.var((0, 2, 3), unbiased=False) + norm.eps).sqrt()
    inherited = conv.weight.flatten(1) * (norm.weight / spread)[:, None]  # conv and norm in one
    missing = goal - mean - patches @ inherited.T
    weight = inherited + torch.linalg.solve(gram, (patches.T @ missing).double()).T.to(conv.weight)
    # The filters keep their length, which in front of a norm decides only how fast they learn.
    length = conv.weight.flatten(1).norm(dim=1)
    factor = length / weight.norm(dim=1).clamp(min=1e-6 * float(length.mean()))
    conv.weight.copy_((weight * factor[:, None]).view_as(conv.weight))
    output = functional.conv2d(x, conv.weight, None, conv.stride, conv.padding)
    var = output.var((0, 2, 3), unbiased=False)
    norm.weight.copy_((var + norm.eps).sqrt() / factor)
    norm.bias.copy_(mean)
    return output


def _patches(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Return what each sampled output position reads, shape (rows, C_in * K * K)."""
    size, stride, pad = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    padded = functional.pad(x, (pad, pad, pad, pad))
    windows = padded.unfold(2, size, stride).unfold(3, size, stride)  # (N, C, H, W, K, K), a view
    count, channels, height, width = windows.shape[:4]
    picked = _positions(count * height * width, x.device)
    image, place = picked // (height * width), picked % (height * width)
    return windows[image, :, place // width, place % width].reshape(len(picked), channels * size * size)


def _rows(values: Tensor) -> Tensor:
    """Return the channels (rows, C) of a feature map (N, C, H, W) at the sampled positions."""
    count, channels, height, width = values.shape
    flat = values.permute(0, 2, 3, 1).reshape(-1, channels)
    return flat[_positions(count * height * width, values.device)]


def _positions(count: int, device: torch.device) -> Tensor:
    """Return spread positions that depend on the count alone."""
    generator = torch.Generator().manual_seed(count)
    return torch.randperm(count, generator=generator)[:MAX_ROWS].to(device)


def _normalise(norm: nn.BatchNorm2d, rows: Tensor) -> Tensor:
    return functional.batch_norm(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def _is_fused(parts: tuple[ConvNorm, ...]) -> bool:
    return len(parts) == 2 and parts[0][0].groups == 1


def _strides(parts: tuple[ConvNorm, ...]) -> int:
    return max(conv.stride[0] for conv, _ in parts)


@contextmanager
def _single_pass(norms: list[nn.BatchNorm2d]) -> Iterator[None]:
    """Let batch norms normalise by the one batch to come, and keep its statistics."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

"""Refit of a derived subnet to its source, block by block, by least squares in place of training."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from lightning_nas.graph.blocks import Block, blocks_of
from lightning_nas.graph.elastic_network import read_network
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.residuals import residuals
from lightning_nas.supernet.least_squares import normalised, sampled_rows, solve
from lightning_nas.supernet.source_outputs import run_network

__all__ = ["FittedBlock", "Targets", "fit_blocks", "fitted_blocks", "recorded", "refit", "refit_block"]


@dataclass(frozen=True)
class FittedBlock:
    """A block that can be fitted to that of a teacher.

    Attributes:
        block: Its convolutions.
        residual: Path of the residual module that adds what it gives to its input; empty for none.
    """

    block: Block
    residual: str = ""


def refit(subnet: nn.Module, teacher: nn.Module, images: Tensor, blocks: Sequence[FittedBlock] | None = None) -> None:
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
        blocks: What `fitted_blocks` gave for the teacher, where it is known already.

    Raises:
        ValueError: The two networks do not have the same blocks.
    """
    blocks = fitted_blocks(teacher, images[:1]) if blocks is None else blocks
    _check_same(subnet, teacher, blocks)
    images = images.contiguous(memory_format=torch.channels_last)
    targets = recorded(teacher, subnet, blocks, lambda: run_network(teacher, images))
    fit_blocks(subnet, blocks, targets, lambda: run_network(subnet, images))


def refit_block(
    subnet: nn.Module,
    teacher: nn.Module,
    path: str,
    block: FittedBlock,
    inputs: Tensor,
    teacher_inputs: Tensor | None = None,
) -> None:
    """Fit one block to the teacher's, as `refit` does.

    Args:
        subnet: Network that `derive` gave; changed in place.
        teacher: The network of the widest blocks, with the same channel order.
        path: The module that runs the block and no other one.
        block: The block.
        inputs: What goes into it, shape (N, C, H, W).
        teacher_inputs: What goes into the teacher's; by default the same.
    """
    own, module = teacher.get_submodule(path), subnet.get_submodule(path)
    targets = recorded(teacher, subnet, [block], lambda: own(inputs if teacher_inputs is None else teacher_inputs))
    fit_blocks(subnet, [block], targets, lambda: module(inputs), within=path)


def fit_blocks(
    subnet: nn.Module,
    blocks: Sequence[FittedBlock],
    targets: Targets,
    run: Callable[[], object],
    within: str = "",
    skipped: Collection[str] = (),
) -> None:
    """Fit blocks while a network runs, and let its batch norms keep the statistics of this run.

    Args:
        subnet: The network; changed in place.
        blocks: Its blocks; those of `skipped` modules are left as they are.
        targets: What each is to give, see `recorded`.
        run: Runs the network, or a part of it, on the images of the targets.
        within: The module that runs; by default the network.
        skipped: Paths of modules that do not run.
    """
    runs = [fitted for fitted in blocks if not _is_within(fitted.block.project, skipped)]
    module = subnet.get_submodule(within)
    norms = [
        norm
        for path, norm in module.named_modules(prefix=within)
        if isinstance(norm, _BatchNorm) and not _is_within(path, skipped)
    ]
    with evaluating(module), _single_pass(norms), _fitting(subnet, runs, targets):
        run()


def fitted_blocks(teacher: nn.Module, example_input: Tensor) -> list[FittedBlock]:
    """Return the blocks of a network that can be fitted: those that give the channels of one width group in order.

    Args:
        teacher: The network.
        example_input: One batch that it can run, shape (N, C, H, W).
    """
    network, _ = read_network(teacher, example_input)
    written = {
        operation.path: counts[1]
        for operation, counts in zip(network.network.operations, network.counts, strict=True)
        if operation.layer.operator == "conv"
    }
    found = []
    around = [residual.path for residual in residuals(teacher, example_input)]
    for block in blocks_of(teacher, network):
        if len(written[block.project].gains) <= 1:
            module = next((path for path in around if block.project.startswith(f"{path}.")), "")
            found.append(FittedBlock(block, module))
    # Of a residual module with several blocks, what the last one gives is added.
    last = {fitted.residual: fitted for fitted in found}
    return [f if last[f.residual] is f else replace(f, residual="") for f in found]


@dataclass
class _Target:
    """What the teacher's block gives, by sampled positions.

    Attributes:
        output: What its projection's norm gives, shape (rows, C_out), and the residual input where that is added.
        window: Kernel size and stride of its projection.
        hidden: What its depthwise norm gives, where the subnet's block is fused.
    """

    output: Tensor
    window: tuple[object, object]
    hidden: Tensor | None = None


Targets = Mapping[str, _Target]
"""What the blocks of a teacher give, by the path of their projection."""

_Hook = Callable[[nn.Module, tuple[Tensor], Tensor], Tensor | None]


def recorded(
    teacher: nn.Module, student: nn.Module, blocks: Sequence[FittedBlock], run: Callable[[], object]
) -> Targets:
    """Return what the teacher's blocks give at sampled positions, by the path of their projection.

    Args:
        teacher: The network of the widest blocks.
        student: The network that is to be fitted: where its block is fused, the hidden channels are targets, too.
        blocks: The blocks.
        run: Runs the teacher, or the part of it that has the blocks.
    """
    rows: dict[str, Tensor] = {}
    handles: list[RemovableHandle] = []

    def keep(key: str, norm: nn.Module | None) -> _Hook:
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            # By hand, since timm's norms apply the activation too.
            rows[key] = normalised(norm, sampled_rows(output))

        return hook

    def keep_input(key: str) -> Callable[[nn.Module, tuple[Tensor]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
            rows[key] = sampled_rows(inputs[0])

        return hook

    for fitted in blocks:
        block = fitted.block
        project = teacher.get_submodule(block.project)
        handles.append(project.register_forward_hook(keep(block.project, _module(teacher, block.project_norm))))
        if fitted.residual:
            module = teacher.get_submodule(fitted.residual)
            handles.append(module.register_forward_pre_hook(keep_input(fitted.residual)))
        if _is_fused(student, block):
            depthwise = teacher.get_submodule(block.depthwise)
            handles.append(depthwise.register_forward_hook(keep(block.depthwise, _module(teacher, block.norm))))
    try:
        with evaluating(teacher):
            run()
    finally:
        for handle in handles:
            handle.remove()
    targets = {}
    for fitted in blocks:
        output = rows[fitted.block.project]
        if fitted.residual:
            output = output + rows[fitted.residual]
        window = _window(teacher.get_submodule(fitted.block.project))
        targets[fitted.block.project] = _Target(output, window, rows.get(fitted.block.depthwise))
    return targets


@contextmanager
def _fitting(subnet: nn.Module, blocks: Sequence[FittedBlock], targets: Targets) -> Iterator[None]:
    """Solve for each convolution when the forward pass reaches it, and go on with what it gives then."""
    handles = []
    for fitted in blocks:
        block, target = fitted.block, targets[fitted.block.project]
        # The last convolution of a block can be the first of the next one, which is another where that is fused.
        if not _is_fitted(subnet, fitted) or _window(subnet.get_submodule(block.project)) != target.window:
            continue
        conv = _conv(subnet, block.project)
        goal = target.output[:, : conv.out_channels].clone()
        if fitted.residual:
            module = subnet.get_submodule(fitted.residual)
            handles.append(module.register_forward_pre_hook(_subtract_input(goal)))
        if target.hidden is not None:
            first = _conv(subnet, block.expand)
            hidden = target.hidden[:, : first.out_channels]
            handles.append(first.register_forward_hook(_solver(_module(subnet, block.expand_norm), hidden)))
        handles.append(conv.register_forward_hook(_solver(_module(subnet, block.project_norm), goal)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _subtract_input(goal: Tensor) -> Callable[[nn.Module, tuple[Tensor]], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor]) -> None:
        goal.sub_(sampled_rows(inputs[0]))

    return hook


def _solver(norm: nn.Module | None, goal: Tensor) -> _Hook:
    def hook(conv: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        assert isinstance(conv, nn.Conv2d)
        return solve(conv, norm if isinstance(norm, _BatchNorm) else None, inputs[0], output, goal)

    return hook


def _module(network: nn.Module, path: str) -> nn.Module | None:
    return network.get_submodule(path) if path else None


def _conv(network: nn.Module, path: str) -> nn.Conv2d:
    conv = network.get_submodule(path)
    assert isinstance(conv, nn.Conv2d)
    return conv


def _window(conv: nn.Module) -> tuple[object, object]:
    return getattr(conv, "kernel_size", None), getattr(conv, "stride", None)


def _has(network: nn.Module, path: str) -> bool:
    try:
        return isinstance(network.get_submodule(path), nn.Conv2d)
    except AttributeError:
        return False


def _check_same(subnet: nn.Module, teacher: nn.Module, blocks: Sequence[FittedBlock]) -> None:
    """Refuse a subnet that has not the teacher's blocks, or of which one is wider or has another stride."""
    for fitted in blocks:
        path, first = fitted.block.project, fitted.block.depthwise or fitted.block.expand
        if not _is_fitted(subnet, fitted):
            continue
        found = "" if _has(subnet, path) else "none"
        if not found and _conv(subnet, path).out_channels > _conv(teacher, path).out_channels:
            found = "a wider one"
        if not found and _has(subnet, first) and _conv(subnet, first).stride != _conv(teacher, first).stride:
            found = "one of another stride"
        if found:
            raise ValueError(
                f"`subnet` and `teacher` must have the same blocks; `subnet` has {found} at {path!r}: derive both from"
                " one supernet."
            )


def _is_fused(network: nn.Module, block: Block) -> bool:
    """Return whether a derived block is fused where the source's is not."""
    if not block.depthwise or not _has(network, block.expand):
        return False
    return isinstance(network.get_submodule(block.depthwise), nn.Identity)


def _is_within(path: str, modules: Collection[str]) -> bool:
    return any(path == module or path.startswith(f"{module}.") for module in modules)


def _is_fitted(network: nn.Module, fitted: FittedBlock) -> bool:
    """Return whether a network runs a block to its end: it may be left out, or its last convolution be two."""
    modules = dict(network.named_modules())
    if fitted.residual and isinstance(modules.get(fitted.residual), nn.Identity):
        return False
    return not isinstance(modules.get(fitted.block.project), nn.Sequential)


@contextmanager
def _single_pass(norms: list[_BatchNorm]) -> Iterator[None]:
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

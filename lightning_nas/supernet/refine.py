"""Refinement of a refitted network by gradient: each block alone learns to give what the source's block gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.space.spec import Encoding, SearchSpace
from lightning_nas.supernet.refit import FittedBlock, fitted_blocks, refit
from lightning_nas.supernet.source_outputs import run_network

__all__ = ["block_modules", "fit_member", "refine", "refine_block"]

_LR, _BATCH, _SEED = 1e-3, 64, 0


def fit_member(
    subnet: nn.Module,
    source: nn.Module,
    images: Tensor,
    space: SearchSpace,
    encoding: Encoding,
    refine_steps: int = 0,
    blocks: Sequence[FittedBlock] | None = None,
) -> None:
    """Fit a member of a space to its source, in closed form and then, if that is asked for, by gradient.

    Args:
        subnet: What `derive` gave; changed in place.
        source: The network of the widest blocks, with the same channel order.
        images: Training images, shape (N, 3, H, W), normalised.
        space: The space.
        encoding: The member.
        refine_steps: Optimizer steps of each block, see `refine`; 0 for none.
        blocks: What `fitted_blocks` gave for the source, where it is known already.
    """
    blocks = fitted_blocks(source, images[:1]) if blocks is None else blocks
    refit(subnet, source, images, blocks)
    if refine_steps:
        refine(subnet, source, images, block_modules(space, encoding, blocks), refine_steps)


def refine(network: nn.Module, source: nn.Module, images: Tensor, paths: Sequence[str], steps: int) -> None:
    """Train blocks of a refitted network, one after the other and each alone, on what the source's blocks give.

    A block gets what the network itself gives it, so that it also mends what blocks before it do. This is blockwise
    distillation (DNA, Li et al. 2020, arXiv 1911.13053; DONNA, Moons et al. 2021, arXiv 2012.08859), begun from the
    closed form of `lightning_nas.supernet.refit`.

    Args:
        network: A fitted member; changed in place.
        source: The network of the widest blocks, with the same channel order.
        images: Training images, shape (N, 3, H, W), normalised.
        paths: Modules that run a block each, in the order in which they run.
        steps: Optimizer steps of each block, on 64 images each.
    """
    for path in paths:
        goal = _recorded(source, path, images)[1]
        inputs, output = _recorded(network, path, images)
        refine_block(network.get_submodule(path), inputs, goal[:, : output.shape[1]], steps)


def block_modules(space: SearchSpace, encoding: Encoding, blocks: Sequence[FittedBlock]) -> list[str]:
    """Return the modules of a member that run one block each, from input to output, in the order in which they run.

    Args:
        space: Its space.
        encoding: The member.
        blocks: The blocks that can be fitted: of others the output's channels are not the first of the source's.
    """
    fitted = {one.block.project for one in blocks}
    pairs = zip(space.choices, space.options(encoding), strict=True)
    return [
        c.module for c, option in pairs if c.module and c.block and option.kind != "skip" and c.block.project in fitted
    ]


def refine_block(block: nn.Module, inputs: Tensor, goal: Tensor, steps: int) -> None:
    """Train a block to give a goal, from cached inputs; norms keep their statistics. What does not improve is undone.

    Args:
        block: The module; changed in place.
        inputs: What goes into it, shape (N, C, H, W).
        goal: What it is to give, shape (N, C_out, H', W').
        steps: Optimizer steps.
    """
    known = {name: value.detach().clone() for name, value in block.state_dict().items()}
    # A plain tensor, also of one that is recorded where no gradients are kept.
    inputs, goal = inputs.detach().clone(), goal.detach().clone()
    frozen = [parameter for parameter in block.parameters() if not parameter.requires_grad]
    with evaluating(block):
        before = _error(block, inputs, goal)
        with torch.enable_grad():
            _train(block.requires_grad_(), inputs, goal, steps)
        improved = _error(block, inputs, goal) < before
    for parameter in frozen:
        parameter.requires_grad_(False)
    for parameter in block.parameters():
        parameter.grad = None
    if not improved:
        block.load_state_dict(known)


def _train(block: nn.Module, inputs: Tensor, goal: Tensor, steps: int) -> None:
    optimizer = torch.optim.Adam(block.parameters(), _LR)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    scale = goal.var().clamp(min=1e-12)
    for _, picked in zip(range(steps), _picked(len(inputs)), strict=False):
        loss = (block(inputs[picked]) - goal[picked]).square().mean() / scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _picked(count: int) -> Iterator[Tensor]:
    """Yield the images of one step after another, each pass in another order."""
    generator = torch.Generator().manual_seed(_SEED)
    while True:
        yield from torch.randperm(count, generator=generator).split(_BATCH)


def _error(block: nn.Module, inputs: Tensor, goal: Tensor) -> float:
    batches = zip(inputs.split(_BATCH), goal.split(_BATCH), strict=True)
    # A copy, since a block may work in place.
    return sum(float((block(x.clone()) - wanted).square().sum()) for x, wanted in batches)


def _recorded(network: nn.Module, path: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return what goes into a module of a network and what it gives."""
    found: list[Tensor] = []

    def keep_input(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        # What works in place within or behind it would change what is kept.
        found.append(inputs[0].clone())

    def keep_output(_: nn.Module, __: object, output: Tensor) -> None:
        found.append(output.clone())

    module = network.get_submodule(path)
    handles = [module.register_forward_pre_hook(keep_input), module.register_forward_hook(keep_output)]
    try:
        with evaluating(network):
            run_network(network, images)
    finally:
        for handle in handles:
            handle.remove()
    return found[0], found[1]

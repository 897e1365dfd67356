"""Errors of single options: the distance of each from the block of the trained source network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.writers import writers_of
from lightning_nas.space.choice import Choice
from lightning_nas.space.spec import SearchSpace
from lightning_nas.supernet.derive import derive
from lightning_nas.supernet.refit import FittedBlock, refit_block
from lightning_nas.supernet.supernet import find_supernet

__all__ = ["option_errors"]

# A block's weights are fitted on the first part of the images and judged on the others.
FITTED_PART = 0.67

Maps = Mapping[str, tuple[Tensor, Tensor]]
"""Input and output of modules, by their paths."""


def option_errors(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return for each option of each node the distance from the source network's own block or width.

    Each option of each block is fitted by least squares to the source's block, on the source's own inputs (see
    `refit`), and its error is the mean squared difference of the block's output on other images, relative to that
    output's variance. Errors of blocks add up to that of a network well enough to choose by: this is the blockwise
    imitation of DNA (Li et al. 2020, arXiv 1911.13053) and the program of LANA (Molchanov et al. 2022, arXiv
    2107.10624), with closed forms in place of their training. A block that is no module of its own is judged by the
    variance of the hidden channels that it drops.

    A narrower width loses the variance of the channels that it drops, in each module that gives them: once where they
    are written and once where they are read.

    Args:
        network: A supernet with the weights of a trained network, its channels sorted: `sort_channels`.
        images: Training images, shape (N, 3, H, W), normalised; some hundred.

    Returns:
        For each node of the space the error of each option, shape (num_options,); 0 is as good as the source.
    """
    space = find_supernet(network).space
    teacher = derive(network, space.reference_encoding)
    num_fitted = round(FITTED_PART * len(images))
    modules = [choice.module for choice in space.choices if choice.module]
    fitted = _maps(teacher, modules, images[:num_fitted])
    judged = _maps(teacher, modules, images[num_fitted:])
    writers = writers_of(space.network)
    written = _maps(teacher, sorted({path for paths in writers.values() for path in paths}), images[num_fitted:])
    errors = [torch.zeros(len(choice.options)) for choice in space.choices]
    widths = space.reference_encoding[: len(space.multipliers)]
    for option in tqdm(range(max(map(len, errors), default=0)), desc="Trying options", leave=False):
        subnet = derive(network, (*widths, *(min(option, len(error) - 1) for error in errors)))
        for choice, error in zip(space.choices, errors, strict=True):
            if option < len(error) and choice.module:
                error[option] = _tried(subnet, teacher, choice, option, fitted, judged)
    for choice, error in zip(space.choices, errors, strict=True):
        if not choice.module:
            error.copy_(_hidden_error(space, choice, writers, written))
    return [*_width_errors(space, writers, written), *errors]


def _tried(subnet: nn.Module, teacher: nn.Module, choice: Choice, option: int, fitted: Maps, judged: Maps) -> float:
    path = choice.module
    if choice.block is not None and choice.options[option].kind != "skip":
        refit_block(subnet, teacher, path, FittedBlock(choice.block, choice.residual), fitted[path][0])
    return _error(subnet.get_submodule(path), *judged[path])


def _maps(network: nn.Module, paths: Sequence[str], images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return input and output of modules."""
    maps: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(path: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        maps[path] = inputs[0], output

    handles = [
        network.get_submodule(path).register_forward_hook(
            lambda _, inputs, output, path=path: keep(path, inputs, output)
        )
        for path in paths
    ]
    try:
        with evaluating(network):
            network(images.contiguous(memory_format=torch.channels_last))
    finally:
        for handle in handles:
            handle.remove()
    return maps


def _error(block: nn.Module, images: Tensor, goal: Tensor) -> float:
    with evaluating(block):
        return float((block(images) - goal).square().mean() / goal.var(unbiased=False).clamp(min=1e-12))


def _hidden_error(space: SearchSpace, choice: Choice, writers: Mapping[int, Sequence[str]], written: Maps) -> Tensor:
    """Return the variance that each option of a block loses of its hidden channels."""
    if choice.block is None:
        return torch.zeros(len(choice.options))
    goals = [written[path][1] for path in writers.get(choice.block.group, ())]
    sizes = space.network.sizes
    kept = [choice.hidden(option, sizes, sizes) for option in choice.options]
    return torch.tensor([sum(_dropped(goal, width, choice.size) for goal in goals) for width in kept])


def _width_errors(space: SearchSpace, writers: Mapping[int, Sequence[str]], written: Maps) -> list[Tensor]:
    """Return for each ratio the variance that the modules lose that give its channels, read and written."""
    errors = []
    for multiplier in space.multipliers:
        error = torch.zeros(len(multiplier.widths))
        for option, row in enumerate(multiplier.widths):
            for group, width in zip(multiplier.groups, row, strict=True):
                goals = [written[path][1] for path in writers.get(group, ())]
                error[option] += 2 * sum(_dropped(goal, width, space.network.sizes[group]) for goal in goals)
        errors.append(error)
    return errors


def _dropped(goal: Tensor, width: int, size: int) -> float:
    """Return the part of the variance of a map that the channels behind a width have."""
    variances = goal.transpose(0, 1).flatten(1).var(1, unbiased=False)
    kept = width * len(variances) // size
    return float(variances[kept:].sum() / variances.sum().clamp(min=1e-12))

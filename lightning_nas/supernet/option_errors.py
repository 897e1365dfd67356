"""Errors of single options: the distance of each from the block of the trained source network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.space.spec import HEAD, STEM, SearchSpace
from lightning_nas.supernet.derive import derive
from lightning_nas.supernet.refit import refit_block
from lightning_nas.supernet.source import named_blocks
from lightning_nas.supernet.supernet import find_supernet

__all__ = ["option_errors"]

# A block's weights are fitted on the first part of the images and judged on the others.
FITTED_PART = 0.67


def option_errors(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return for each option of each node the distance from the source network's own block or width.

    Each option of each block is fitted by least squares to the source's block, on the source's own inputs (see
    `refit`), and its error is the mean squared difference of the block's output on other images, relative to that
    output's variance. Errors of blocks add up to that of a network well enough to choose by: this is the blockwise
    imitation of DNA (Li et al. 2020, arXiv 1911.13053) and the program of LANA (Molchanov et al. 2022, arXiv
    2107.10624), with closed forms in place of their training.

    A narrower stage loses the variance of the channels that it drops; each of its blocks reads and writes them.

    Args:
        network: A supernet with the weights of a trained network, its channels sorted: `sort_channels`.
        images: Training images, shape (N, 3, H, W), normalised; some hundred.

    Returns:
        For each node of the space the error of each option, shape (num_options,); 0 is as good as the source.
    """
    supernet = find_supernet(network)
    space = supernet.space
    teacher = derive(network, space.reference_encoding)
    paths = [path for path, _ in named_blocks(teacher)]
    num_fitted = round(FITTED_PART * len(images))
    fitted, judged = (_block_maps(teacher, paths, part) for part in (images[:num_fitted], images[num_fitted:]))
    errors = [torch.zeros(len(choice.options)) for choice in space.choices]
    widths = space.reference_encoding[: len(space.multipliers)]
    for option in tqdm(range(max(map(len, errors))), desc="Trying options", leave=False):
        subnet = derive(network, (*widths, *(min(option, len(error) - 1) for error in errors)))
        for path, error in zip(paths, errors, strict=True):
            if option < len(error):
                refit_block(subnet, teacher, path, fitted[path][0])
                error[option] = _error(subnet.get_submodule(path), *judged[path])
    goals = [goal for _, goal in judged.values()]
    ends = {STEM: judged[paths[0]][0]}
    if HEAD in supernet.ends:
        reader = next(path for path, m in network.named_modules() if m is supernet.ends[HEAD].classifier)
        ends[HEAD] = _block_maps(teacher, [reader], images)[reader][0][:, :, None, None]
    return [*_width_errors(space, ends, goals), *errors]


def _block_maps(network: nn.Module, paths: list[str], images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return input and output of each block."""
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


def _width_errors(space: SearchSpace, ends: Mapping[int, Tensor], goals: list[Tensor]) -> list[Tensor]:
    """Return for each ratio the variance that its stages' blocks, stem and head lose, read and written."""
    stage_goals = {place: [goal] for place, goal in ends.items()}
    for (stage, _, _), goal in zip(space.stage_blocks(), goals, strict=True):
        stage_goals.setdefault(stage, []).append(goal)
    errors = []
    for multiplier in space.multipliers:
        error = torch.zeros(len(multiplier.widths))
        for option, row in enumerate(multiplier.widths):
            for stage, width in zip(multiplier.stages, row, strict=True):
                error[option] += 2 * sum(_dropped(goal, width) for goal in stage_goals[stage])
        errors.append(error)
    return errors


def _dropped(goal: Tensor, width: int) -> float:
    variances = goal.var((0, 2, 3), unbiased=False)
    return float(variances[width:].sum() / variances.sum().clamp(min=1e-12))

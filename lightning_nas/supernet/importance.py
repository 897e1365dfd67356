"""Sorting channels by importance, so that a narrow slice keeps what matters (Once-for-All, arXiv 1908.09791)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..space.spec import HEAD, STEM
from .choice import ChoiceBlock, ElasticDS
from .elastic import ElasticBatchNorm2d, ElasticConv2d
from .ends import ElasticEnd
from .supernet import find_supernet

__all__ = ["sort_channels"]


@torch.no_grad()
def sort_channels(network: nn.Module) -> None:
    """Sort the hidden channels of each block and the channels of stem, stages and head, most important first.

    Importance is the L1 norm of the weights that read a channel, times the spread that batch norm and activation
    give it. The widest subnet computes the same function as before, up to the order of its sums.

    Args:
        network: A supernet, or a module that holds one; it is changed in place.
    """
    supernet = find_supernet(network)
    blocks = iter(supernet.blocks)
    stages = [[next(blocks) for _ in stage.blocks] for stage in supernet.space.stages]
    for block in supernet.blocks:
        _sort_hidden(block)
    if STEM in supernet.ends:
        _sort_stem(supernet.ends[STEM], supernet.blocks[0])
    if HEAD in supernet.ends:
        _sort_head(supernet.ends[HEAD])
    for index, stage in enumerate(stages):
        following = stages[index + 1][:1] if index + 1 < len(stages) else []
        numbers = [supernet.blocks.index(block) for block in stage]
        _sort_stage(stage, following, [module for module, _ in supernet.tail.reading(numbers)])


def _sort_hidden(block: ChoiceBlock) -> None:
    for _, candidate in block.elastic_blocks():
        if isinstance(candidate, ElasticDS):
            continue  # its hidden channels are its input's
        *inner, (project, _) = candidate.parts()
        order = _descending(_read_by([project]) * _activity(inner[-1][1], candidate.act))
        project.weight.copy_(project.weight[:, order])
        for conv, norm in inner:
            conv.weight.copy_(conv.weight[order])
            _permute_norm(norm, order)


def _sort_stem(stem: ElasticEnd, first: ChoiceBlock) -> None:
    """Sort what the first block reads; where that is depthwise-separable, by what its projection reads of it."""
    candidates = [candidate for _, candidate in first.elastic_blocks()]
    through = [candidate for candidate in candidates if isinstance(candidate, ElasticDS)]
    readers = [candidate.parts()[0][0] for candidate in candidates if not isinstance(candidate, ElasticDS)]
    readers += [candidate.project for candidate in through]
    spreads = [_activity(candidate.depthwise_norm, candidate.act) for candidate in through]
    order = _descending(_read_by(readers) * torch.stack(spreads or [stem.norm.weight.abs()]).mean(0))
    for conv in readers:
        conv.weight.copy_(conv.weight[:, order])
    for conv, norm in ((stem.conv, stem.norm), *((c.depthwise, c.depthwise_norm) for c in through)):
        conv.weight.copy_(conv.weight[order])
        _permute_norm(norm, order)


def _sort_head(head: ElasticEnd) -> None:
    """Sort what the classifier reads."""
    assert head.classifier is not None
    order = _descending(head.classifier.weight.abs().sum(0) * head.norm.weight.abs())
    head.conv.weight.copy_(head.conv.weight[order])
    _permute_norm(head.norm, order)
    head.classifier.weight.copy_(head.classifier.weight[:, order])


def _sort_stage(stage: list[ChoiceBlock], following: list[ChoiceBlock], tail: Sequence[nn.Module]) -> None:
    readers = [c.parts()[0][0] for block in stage[1:] + following for _, c in block.elastic_blocks()]
    convs = list(dict.fromkeys(m for m in tail if isinstance(m, ElasticConv2d)))
    readers += convs
    writers = [c.parts()[-1] for block in stage for _, c in block.elastic_blocks()]
    spread = torch.stack([norm.weight.abs() for _, norm in writers]).mean(0)
    order = _descending(_read_by(readers) * spread)
    for conv, norm in writers:
        conv.weight.copy_(conv.weight[order])
        _permute_norm(norm, order)
    for conv in readers:
        conv.weight.copy_(conv.weight[order] if conv.groups > 1 else conv.weight[:, order])
        if conv.groups > 1 and conv.bias is not None:
            conv.bias.copy_(conv.bias[order])
    for norm in dict.fromkeys(m for m in tail if isinstance(m, ElasticBatchNorm2d)):
        _permute_norm(norm, order)


def _activity(norm: ElasticBatchNorm2d, act: nn.Module) -> Tensor:
    """Return each channel's standard deviation behind norm and activation, were the norm's output normal.

    The norm's scale alone would rank a channel high that the activation nearly always cuts to zero.
    """
    points = torch.linspace(-4, 4, 161).to(norm.weight).view(-1, 1)
    density = torch.exp(-points.square() / 2)
    density = density / density.sum()
    values = act(norm.bias + norm.weight.abs() * points)
    mean = (density * values).sum(0)
    return (density * (values - mean).square()).sum(0).sqrt()


def _read_by(convs: list[ElasticConv2d]) -> Tensor:
    """Return the L1 norm of the weights that read each input channel, each convolution counting alike."""
    norms = [conv.weight.abs().sum((1, 2, 3) if conv.groups > 1 else (0, 2, 3)) for conv in convs]
    return torch.stack([norm / norm.mean().clamp(min=1e-12) for norm in norms]).mean(0)


def _descending(importance: Tensor) -> Tensor:
    return importance.argsort(descending=True, stable=True)


def _permute_norm(norm: ElasticBatchNorm2d, order: Tensor) -> None:
    for value in norm.state_dict().values():
        if value.ndim:
            value.copy_(value[order])

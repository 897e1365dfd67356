"""Channel sorting by importance, so that a narrow slice keeps the best channels (Once-for-All, arXiv 1908.09791)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_nas.space.spec import HEAD, STEM
from lightning_nas.supernet.choice import ChoiceBlock, ElasticDS
from lightning_nas.supernet.elastic import ElasticBatchNorm2d, ElasticConv2d
from lightning_nas.supernet.ends import ElasticEnd
from lightning_nas.supernet.supernet import find_supernet

__all__ = ["sort_channels"]


@torch.no_grad()
def sort_channels(network: nn.Module) -> None:
    """Sort the hidden channels of each block and the channels of stem, stages and head, most important first.

    Importance is the L1 norm of the weights that read a channel, times the spread that batch norm and activation
    give it. The widest subnet computes the same function as before, up to the order of its sums.

    Where the first block adds its input to what it gives, stem and first stage are one set of channels: they are sorted
    as one, or not at all where the stem's width is not searched.

    Args:
        network: A supernet, or a module that holds one; it is changed in place.
    """
    supernet = find_supernet(network)
    blocks = iter(supernet.blocks)
    stages = [[next(blocks) for _ in stage.blocks] for stage in supernet.space.stages]
    for block in supernet.blocks:
        _sort_hidden(block)
    if HEAD in supernet.ends:
        _sort_head(supernet.ends[HEAD])
    stem = [_stem_channels(supernet.ends[STEM], supernet.blocks[0])] if STEM in supernet.ends else []
    sets = []
    for index, stage in enumerate(stages):
        following = stages[index + 1][:1] if index + 1 < len(stages) else []
        numbers = [supernet.blocks.index(block) for block in stage]
        sets.append(_stage_channels(stage, following, [module for module, _ in supernet.tail.reading(numbers)]))
    # No later stage begins so: it would be part of the one before.
    is_added = supernet.blocks[0].stride == 1 and supernet.space.stem.width == supernet.space.stages[0].width
    if is_added:
        sets[:1] = [_joint([*stem, sets[0]])] if stem else []
    else:
        sets = stem + sets
    for channels in sets:
        order = _descending(channels.importance)
        for permute in channels.permutations:
            permute(order)


@dataclass(frozen=True)
class _Channels:
    """Channels that are sorted as one: how important each is, and what puts all that writes and reads them in order."""

    importance: Tensor
    permutations: tuple[Callable[[Tensor], None], ...]


def _joint(places: Sequence[_Channels]) -> _Channels:
    relative = [channels.importance / channels.importance.mean().clamp(min=1e-12) for channels in places]
    permutations = tuple(permute for channels in places for permute in channels.permutations)
    return _Channels(torch.stack(relative).mean(0), permutations)


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


def _stem_channels(stem: ElasticEnd, first: ChoiceBlock) -> _Channels:
    """Return what the first block reads; where that is depthwise-separable, judged by what its projection reads."""
    candidates = [candidate for _, candidate in first.elastic_blocks()]
    through = [candidate for candidate in candidates if isinstance(candidate, ElasticDS)]
    readers = [candidate.parts()[0][0] for candidate in candidates if not isinstance(candidate, ElasticDS)]
    readers += [candidate.project for candidate in through]
    spreads = [_activity(candidate.depthwise_norm, candidate.act) for candidate in through]
    writers = [(stem.conv, stem.norm), *((c.depthwise, c.depthwise_norm) for c in through)]

    def permute(order: Tensor) -> None:
        for conv in readers:
            conv.weight.copy_(conv.weight[:, order])
        _permute_outputs(writers, order)

    importance = _read_by(readers) * torch.stack(spreads or [stem.norm.weight.abs()]).mean(0)
    return _Channels(importance, (permute,))


def _sort_head(head: ElasticEnd) -> None:
    """Sort what the classifier reads."""
    assert head.classifier is not None
    order = _descending(head.classifier.weight.abs().sum(0) * head.norm.weight.abs())
    head.conv.weight.copy_(head.conv.weight[order])
    _permute_norm(head.norm, order)
    head.classifier.weight.copy_(head.classifier.weight[:, order])


def _stage_channels(stage: list[ChoiceBlock], following: list[ChoiceBlock], tail: Sequence[nn.Module]) -> _Channels:
    readers = [c.parts()[0][0] for block in stage[1:] + following for _, c in block.elastic_blocks()]
    readers += list(dict.fromkeys(m for m in tail if isinstance(m, ElasticConv2d)))
    writers = [c.parts()[-1] for block in stage for _, c in block.elastic_blocks()]
    spread = torch.stack([norm.weight.abs() for _, norm in writers]).mean(0)

    def permute(order: Tensor) -> None:
        _permute_outputs(writers, order)
        for conv in readers:
            conv.weight.copy_(conv.weight[order] if conv.groups > 1 else conv.weight[:, order])
            if conv.groups > 1 and conv.bias is not None:
                conv.bias.copy_(conv.bias[order])
        for norm in dict.fromkeys(m for m in tail if isinstance(m, ElasticBatchNorm2d)):
            _permute_norm(norm, order)

    return _Channels(_read_by(readers) * spread, (permute,))


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


def _permute_outputs(units: Sequence[tuple[ElasticConv2d, ElasticBatchNorm2d]], order: Tensor) -> None:
    for conv, norm in units:
        conv.weight.copy_(conv.weight[order])
        _permute_norm(norm, order)


def _permute_norm(norm: ElasticBatchNorm2d, order: Tensor) -> None:
    for value in norm.state_dict().values():
        if value.ndim:
            value.copy_(value[order])

"""Conversion of a stock network into a supernet, in place, with its weights kept."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from lightning_nas.io.numbers import check_number
from lightning_nas.space.curate import curate
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.spec import HEAD, STEM, BlockOption, Choice, DepthMultiplier, SearchSpace, Stage
from lightning_nas.space.tail import Tail
from lightning_nas.supernet.agreement import check_agreement, outputs_of
from lightning_nas.supernet.choice import ChoiceBlock
from lightning_nas.supernet.elastic import ElasticBatchNorm2d, ElasticConv2d, elastic_linear, elastic_unit, keep_modes
from lightning_nas.supernet.ends import ElasticEnd
from lightning_nas.supernet.replacing import replace_modules
from lightning_nas.supernet.source import ConvNorm, Source, SourceBlock, read_source
from lightning_nas.supernet.supernet import Supernet
from lightning_nas.supernet.tail import elastic_tail, head_tail, read_tail

__all__ = ["space_of", "supernet_from"]


def space_of(
    model: nn.Module, example_input: Tensor, lanes: int = 8, options: SpaceOptions | None = None
) -> SearchSpace:
    """Return the search space around a stock network.

    Each inverted bottleneck can be of any of the kinds, expansions and kernels of `options`; its own always is an
    option, and so is the full width.

    Args:
        model: Network that `supernet_from` supports.
        example_input: One batch that it can run, shape (N, C, H, W).
        lanes: Parallelism factor of the device (`Estimator.lanes`).
        options: What is offered; by default that of `SpaceOptions`.

    Raises:
        ValueError: The network is not supported, or a width is not valid for the lanes.

    Example::

        >>> from torchvision.models import mobilenet_v2
        >>> options = SpaceOptions(expansions=(3, 6), kernels=(3, 5))
        >>> space = space_of(mobilenet_v2(), torch.zeros(1, 3, 64, 64), lanes=16, options=options)
        >>> [str(option) for option in space.choices[1].options][:3]
        ['ibn e3 k3', 'ibn e3 k5', 'ibn e6 k3']
    """
    check_number("lanes", lanes, whole=True, least=1)
    options = options or SpaceOptions()
    source = read_source(model, example_input)
    stages, reference = [], []
    for blocks in source.stages:
        choices = [_choice(block, options) for block in blocks]
        reference += [choice.options.index(block.option) for choice, block in zip(choices, blocks, strict=True)]
        stages.append(Stage(blocks[-1].out_width, tuple(choices)))
    channels, height, width = example_input.shape[1:]
    space = SearchSpace(
        input_size=(channels, height, width),
        stem=source.stem,
        stages=tuple(stages),
        multipliers=tuple(DepthMultiplier((i,), ((stage.width,),)) for i, stage in enumerate(stages)),
        head=source.head,
        num_classes=source.num_classes,
        reference=tuple(reference),
        tail=Tail() if source.head else read_tail(model, example_input, source.block_paths),
    )
    if not source.reader_path:
        offered = options.head_widths
        if offered and source.head and set(offered) != {source.head.width}:
            raise ValueError(f"`head_widths` needs a classifier that begins with a linear layer; got {offered}.")
        options = replace(options, head_widths=())
    return curate(space, lanes, options)


def supernet_from(model: nn.Module, example_input: Tensor, space: SearchSpace | None = None) -> nn.Module:
    """Turn `model` into a supernet in place and return it.

    Each inverted bottleneck becomes a `ChoiceBlock` whose IBN holds the block's weights; the fused-IBN starts from
    the composition of expand and depthwise. The network keeps its class and gains the submodule `supernet`. With the
    source's own options at full width, which are active at first, it computes exactly what it did.

    What is frozen stays frozen (`requires_grad`), and modules in evaluation mode stay so. A network that holds what its
    supernet would lose, such as hooks, pruning or a class of block of one's own, is refused. So is one that, converted
    or derived, computes something else: the three are run on random images.

    Args:
        model: torchvision's `mobilenet_v2`, or timm's `mobilenetv2_*` or `efficientnet_lite*`; or a larger network
            with one of these as its backbone, such as a detector. Its convolutions that read blocks follow them.
        example_input: One batch that it can run, shape (N, C, H, W).
        space: What to choose from; by default `space_of(model, example_input)`.

    Raises:
        ValueError: The network is not supported, or `space` does not fit it. The network is unchanged then.

    Example::

        >>> from torchvision.models import mobilenet_v2
        >>> network = supernet_from(mobilenet_v2(), torch.rand(1, 3, 64, 64))
        >>> len(network.supernet.blocks)
        17
    """
    source = read_source(model, example_input)
    space = space or space_of(model, example_input)
    _check_fit(source, space, example_input)
    device, expected = next(model.parameters()).device, outputs_of(model, example_input)
    tail = None if source.head else elastic_tail(model, example_input, source.block_paths)
    found = [block for stage in source.stages for block in stage]
    blocks = [_choice_block(block, choice) for choice, block in zip(space.choices, found, strict=True)]
    replaced: dict[str, nn.Module] = dict(zip(source.block_paths, blocks, strict=True))
    ends = {}
    if space.stem_node[0] is not None:
        conv, norm, placed = elastic_unit(model, source.stem_path, source.stem_norm_path)
        ends[STEM] = ElasticEnd(conv, norm)
        replaced |= placed
    if tail is not None:
        replaced |= tail.modules
    else:
        conv, norm, placed = elastic_unit(model, source.head_path, source.head_norm_path)
        tail = head_tail(conv, norm, len(blocks))
        replaced |= placed
        if space.head_node[0] is not None:
            classifier = elastic_linear(cast(nn.Linear, model.get_submodule(source.reader_path)))
            replaced[source.reader_path] = classifier
            ends[HEAD] = ElasticEnd(conv, norm, classifier)
    supernet = Supernet(space, blocks, tail, ends).to(device)
    undo = replace_modules(model, replaced)
    model.supernet = supernet
    try:
        check_agreement(model, example_input, expected)
    except BaseException:
        undo()
        del model.supernet
        raise
    return model


def _choice(block: SourceBlock, offered: SpaceOptions) -> Choice:
    own = block.option
    sizes = sorted({own.kernel, *offered.kernels})
    if own.kind == "ds":
        return Choice(block.stride, tuple(BlockOption("ds", 1.0, kernel) for kernel in sizes))
    ratios = sorted({own.expansion, *(e for e in offered.expansions if e < own.expansion)})
    options = {BlockOption(kind, e, kernel): None for kind in offered.kinds for e in ratios for kernel in sizes}
    return Choice(block.stride, tuple(dict.fromkeys([*options, own])))


def _check_fit(source: Source, space: SearchSpace, example_input: Tensor) -> None:
    found = [[(b.stride, b.out_width) for b in stage] for stage in source.stages]
    wanted = [[(choice.stride, stage.width) for choice in stage.blocks] for stage in space.stages]
    if found != wanted or source.stem != space.stem or source.head != space.head:
        raise ValueError(f"`space` describes blocks of (stride, width) {wanted}; the network has {found}.")
    if tuple(example_input.shape[1:]) != space.input_size:
        raise ValueError(f"`space` is for images of {space.input_size}; got {tuple(example_input.shape[1:])}.")
    blocks = [block for stage in source.stages for block in stage]
    for block, choice, reference in zip(blocks, space.choices, space.reference, strict=True):
        if choice.options[reference] != block.option:
            raise ValueError(f"Block {block.path!r} is {block.option}; the space says {choice.options[reference]}.")


def _choice_block(source: SourceBlock, choice: Choice) -> ChoiceBlock:
    drop_path = deepcopy(source.drop_path)
    block = ChoiceBlock(choice, source.in_width, source.out_width, source.act, drop_path)
    block.to(source.parts[0][0].weight).train(source.training)
    if drop_path is not None and source.drop_path is not None:
        drop_path.train(source.drop_path.training)
    for kind, candidate in block.elastic_blocks():
        candidate.act.train(source.act.training)
        parts = source.parts if kind == source.option.kind else _composed(source.parts, source.act)
        for (conv, norm), (elastic, elastic_norm) in zip(parts, candidate.parts(), strict=True):
            _copy_conv(conv, elastic.to(conv.weight))
            _copy_norm(norm, elastic_norm.to(norm.weight))
            keep_modes(elastic, conv)
            keep_modes(elastic_norm, norm)
    return block


@torch.no_grad()
def _copy_conv(conv: nn.Conv2d, elastic: ElasticConv2d) -> None:
    out, inner, size, _ = conv.weight.shape
    margin = (elastic.kernel_size[0] - size) // 2
    if margin > 0:
        elastic.weight[:out, :inner].zero_()
    end = elastic.kernel_size[0] - margin
    elastic.weight[:out, :inner, margin:end, margin:end] = conv.weight


@torch.no_grad()
def _copy_norm(norm: nn.BatchNorm2d, elastic: ElasticBatchNorm2d) -> None:
    n = norm.num_features
    elastic.eps, elastic.momentum = norm.eps, norm.momentum
    for name, value in norm.state_dict().items():
        target = getattr(elastic, name)
        (target if value.ndim == 0 else target[:n]).copy_(value)


@torch.no_grad()
def _composed(parts: Sequence[ConvNorm], act: nn.Module) -> list[ConvNorm]:
    """Return the fused-IBN's parts: the KxK convolution that expand and depthwise make, and a copy of project.

    The convolution is the exact composition; the activation between the two is replaced by its best linear fit to
    what expand's batch norm gives (Bussgang's theorem), which only moves the running statistics: a scale of the
    convolution's output is undone by the norm behind it.
    """
    (expand, norm1), (depthwise, norm2), project = parts
    mean1, var1 = _statistics(norm1)
    scale = norm1.weight / (var1 + norm1.eps).sqrt()
    shift = norm1.bias - mean1 * scale
    fused = nn.Conv2d(expand.in_channels, expand.out_channels, depthwise.kernel_size[0], bias=False)
    fused.weight.copy_(depthwise.weight * (expand.weight * scale.view(-1, 1, 1, 1)))
    gain, offset = _linear_fit(act, norm1.weight, norm1.bias)
    norm = nn.BatchNorm2d(expand.out_channels, eps=norm2.eps, momentum=norm2.momentum)
    norm.load_state_dict({name: value for name, value in norm2.state_dict().items() if name in norm.state_dict()})
    constant = depthwise.weight.sum((1, 2, 3)) * (gain * shift + offset)
    (mean, var), (mean2, var2) = _statistics(norm), _statistics(norm2)
    mean.copy_((mean2 - constant) / gain)
    var.copy_(var2 / gain.square())
    _rescale_filters(fused, norm)
    # Each stands for two, and learns where one of them did.
    fused.weight.requires_grad_(expand.weight.requires_grad or depthwise.weight.requires_grad)
    norm.weight.requires_grad_(norm1.weight.requires_grad or norm2.weight.requires_grad)
    norm.bias.requires_grad_(norm1.bias.requires_grad or norm2.bias.requires_grad)
    fused.training, norm.training = depthwise.training, norm2.training
    return [(fused.to(expand.weight), norm.to(norm2.weight)), project]


@torch.no_grad()
def _rescale_filters(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Bring each filter to the norm of He's initialisation (arXiv 1502.01852), its normalised output unchanged.

    The product of two trained layers has entries a tenth of a fresh layer's. In front of batch norm the gradient
    grows as the filter shrinks, so an optimizer whose step suits the rest of the network would throw these about.
    """
    mean, var = _statistics(norm)
    factor = 2**0.5 / conv.weight.flatten(1).norm(dim=1).clamp(min=1e-6)
    conv.weight.mul_(factor.view(-1, 1, 1, 1))
    # Where epsilon outweighs the variance, as it does for channels that are nearly off, it would no longer damp them.
    norm.weight.mul_(((factor.square() * var + norm.eps) / (factor.square() * (var + norm.eps))).sqrt())
    mean.mul_(factor)
    var.mul_(factor.square())


def _statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def _linear_fit(act: nn.Module, spread: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Return slope and offset of the least-squares line through `act` under a normal distribution per channel."""
    points = torch.linspace(-4, 4, 161)
    density = torch.exp(-points.square() / 2)
    density = density / density.sum()
    z = points.to(spread).view(-1, 1)
    weight = density.to(spread).view(-1, 1)
    values = act((centre + spread * z).clone())
    slope = (weight * values * z).sum(0) / (weight * z.square()).sum()
    gain = slope / torch.where(spread.abs() < 1e-5, torch.ones_like(spread), spread)
    # A channel whose activation is off nearly always has no slope to speak of; the floor keeps its norm finite.
    gain = gain.clamp(min=0.05)
    return gain, (weight * values).sum(0) - gain * centre

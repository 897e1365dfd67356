"""The derived subnet: the user's own class with plain blocks, weights inherited, batch norm recalibrated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import TypeVar

import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.models import EfficientNet
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual as TorchvisionInvertedResidual
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.ops import Conv2dNormActivation

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.finite import refuse_not_finite
from lightning_nas.space.spec import STEM, Architecture, BlockOption, hidden_width
from lightning_nas.supernet.choice import ChoiceBlock
from lightning_nas.supernet.elastic import ElasticBatchNorm2d, ElasticConv2d, ElasticLinear, keep_modes
from lightning_nas.supernet.supernet import find_supernet, owner_of
from lightning_nas.supernet.timm_blocks import DepthwiseSeparableConv, EdgeResidual, InvertedResidual

__all__ = ["derive", "recalibrate"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)
BatchT = TypeVar("BatchT")


def derive(module: ModuleT, architecture: Architecture | Sequence[int]) -> ModuleT:
    """Return a copy of `module` in which the supernet is the plain network of `architecture`.

    The copy is made of torchvision's or timm's own blocks and needs no lightning_nas to run, train or export. It
    inherits the slices of the weights and of the running statistics; those of batch norm belong to other subnets and
    have to be made anew: `recalibrate`.

    Args:
        module: A supernet, or a module that holds one (a LightningModule); it is not changed.
        architecture: A member of the supernet's space, or its encoding.

    Raises:
        ValueError: `module` holds no supernet, the architecture is not in its space, or the weights or statistics that
            it inherits are not finite.
    """
    supernet = find_supernet(module)
    encoding = supernet.space.encode(architecture) if isinstance(architecture, Architecture) else architecture
    chosen = supernet.space.decode(encoding)
    _, network = owner_of(supernet, module)
    timm_network = next((child for child in network.modules() if isinstance(child, EfficientNet)), None)
    # deepcopy takes what the memo holds as the copy of a module, so that each choice is replaced, never copied.
    memo: dict[int, nn.Module] = {id(supernet): nn.Identity()}
    in_width = chosen.stem.width
    blocks = iter(supernet.blocks)
    for stage in chosen.stages:
        for fixed in stage.blocks:
            block = next(blocks)
            memo[id(block)] = _plain_block(block, fixed.option, in_width, stage.width, timm_network is not None)
            in_width = stage.width
    for elastic, num_in, num_out in supernet.tail.at_widths([s.width for s in chosen.stages for _ in s.blocks]):
        if isinstance(elastic, ElasticConv2d):
            memo[id(elastic)] = _plain_conv(elastic, num_out, num_in, elastic.kernel_size[0])
        else:
            memo[id(elastic)] = _plain_norm(elastic, num_out)
    for place, end in supernet.ends.items():
        node, offered = supernet.space.stage_node(place)
        num_out, num_in = offered[encoding[node]], end.conv.in_channels if place == STEM else in_width
        memo[id(end.conv)] = _plain_conv(end.conv, num_out, num_in, end.conv.kernel_size[0])
        memo[id(end.norm)] = _plain_norm(end.norm, num_out)
        if end.classifier is not None:
            memo[id(end.classifier)] = _plain_linear(end.classifier, num_out)
    plain = deepcopy(module, memo)
    copied = memo[id(network)]
    del copied.supernet
    for child in list(copied.modules()):
        if isinstance(child, MobileNetV2):
            _finish_torchvision(child, chosen)
        elif isinstance(child, EfficientNet):
            _finish_timm(child, chosen)
    refuse_not_finite(copied)
    return plain


def recalibrate(
    module: nn.Module,
    run: Callable[[BatchT], object],
    batches: Iterable[BatchT],
    kind: type[nn.BatchNorm2d] = nn.BatchNorm2d,
) -> None:
    """Replace the running statistics of batch norm by those of `batches` (Once-for-All, arXiv 1908.09791).

    Each statistic becomes the plain average over the batches. Everything else stays in evaluation mode.

    Args:
        module: The module whose batch norms are recalibrated.
        run: Forward pass of one batch through `module`.
        batches: At least one batch of training data; some hundred images suffice.
        kind: Only batch norms of this class.

    Raises:
        ValueError: `batches` is empty.
    """
    norms = [m for m in module.modules() if isinstance(m, kind) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    num_batches = 0
    with evaluating(module):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            for batch in batches:
                run(batch)
                num_batches += 1
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if num_batches == 0:
        raise ValueError("`batches` holds no batch; at least one is needed to recalibrate batch norm.")


def _plain_block(block: ChoiceBlock, option: BlockOption, in_width: int, out_width: int, timm: bool) -> nn.Module:
    candidate = block.candidate(option.kind)
    hidden = in_width if option.kind == "ds" else hidden_width(in_width, option.expansion)
    widths = [in_width, *[hidden] * (len(candidate.parts()) - 1), out_width]
    parts = [
        (_plain_conv(conv, n_out, n_in, option.kernel), _plain_norm(norm, n_out))
        for (conv, norm), n_in, n_out in zip(candidate.parts(), widths[:-1], widths[1:], strict=True)
    ]
    build = _timm_block if timm else _torchvision_block
    return build(block, option, in_width, out_width, parts, candidate.act)


@torch.no_grad()
def _plain_conv(conv: ElasticConv2d, num_out: int, num_in: int, kernel: int | None = None) -> nn.Conv2d:
    depthwise = conv.groups > 1
    # A pointwise convolution of the block keeps its size of 1, whatever the option's kernel.
    size = min(kernel or 1, conv.kernel_size[0])
    margin = (conv.kernel_size[0] - size) // 2
    end = conv.kernel_size[0] - margin
    groups = num_out if depthwise else 1
    bias = conv.bias is not None
    step, apart = conv.stride[0], conv.dilation[0]
    plain = nn.Conv2d(num_in, num_out, size, step, apart * (size // 2), apart, groups, bias).to(conv.weight)
    plain.weight.copy_(conv.weight[:num_out, : 1 if depthwise else num_in, margin:end, margin:end])
    if conv.bias is not None and plain.bias is not None:
        plain.bias.copy_(conv.bias[:num_out])
    keep_modes(plain, conv)
    return plain


@torch.no_grad()
def _plain_linear(linear: ElasticLinear, num_in: int) -> nn.Linear:
    plain = nn.Linear(num_in, linear.out_features, linear.bias is not None).to(linear.weight)
    plain.weight.copy_(linear.weight[:, :num_in])
    if linear.bias is not None and plain.bias is not None:
        plain.bias.copy_(linear.bias)
    keep_modes(plain, linear)
    return plain


@torch.no_grad()
def _plain_norm(norm: ElasticBatchNorm2d, num_features: int) -> nn.BatchNorm2d:
    plain = nn.BatchNorm2d(num_features, norm.eps, norm.momentum).to(norm.weight)
    for name, value in norm.state_dict().items():
        getattr(plain, name).copy_(value if value.ndim == 0 else value[:num_features])
    keep_modes(plain, norm)
    return plain


def _torchvision_block(
    block: ChoiceBlock,
    option: BlockOption,
    in_width: int,
    out_width: int,
    parts: list[tuple[nn.Conv2d, nn.BatchNorm2d]],
    act: nn.Module,
) -> nn.Module:
    """Return torchvision's InvertedResidual; for a fused-IBN its `conv` holds one KxK unit in place of the two."""
    plain = TorchvisionInvertedResidual(in_width, out_width, block.stride, expand_ratio=1).train(block.training)
    units = []
    for conv, norm in parts[:-1]:
        unit = Conv2dNormActivation(1, 1, norm_layer=nn.BatchNorm2d, activation_layer=nn.ReLU6).train(block.training)
        unit[0], unit[1], unit[2] = conv, norm, deepcopy(act)
        unit.out_channels = conv.out_channels
        units.append(unit)
    plain.conv = nn.Sequential(*units, *parts[-1])
    plain.conv.training = block.training
    return plain


def _timm_block(
    block: ChoiceBlock,
    option: BlockOption,
    in_width: int,
    out_width: int,
    parts: list[tuple[nn.Conv2d, nn.BatchNorm2d]],
    act: nn.Module,
) -> nn.Module:
    """Return the block that timm builds from the architecture string, with the weights of `parts`."""
    kinds = {"ibn": InvertedResidual, "fused": EdgeResidual, "ds": DepthwiseSeparableConv}
    arguments: dict[str, float] = {"stride": block.stride}
    arguments["exp_kernel_size" if option.kind == "fused" else "dw_kernel_size"] = option.kernel
    if option.kind != "ds":
        arguments["exp_ratio"] = option.expansion
    plain = kinds[option.kind](in_width, out_width, **arguments).train(block.training)
    plain.drop_path = deepcopy(block.drop_path)
    convs = [name for name, m in plain.named_children() if isinstance(m, nn.Conv2d)]
    norms = [name for name, m in plain.named_children() if isinstance(m, nn.BatchNorm2d)]
    acts = [*(deepcopy(act) for _ in parts[:-1]), nn.Identity()]
    for name, norm_name, (conv, norm), behind in zip(convs, norms, parts, acts, strict=True):
        setattr(plain, name, conv)
        setattr(plain, norm_name, _timm_norm(norm, behind))
    return plain


def _finish_torchvision(network: MobileNetV2, chosen: Architecture) -> None:
    """Give what torchvision says of the widths of stem and head the chosen ones."""
    network.features[0].out_channels = chosen.stem.width
    if chosen.head is not None:
        network.features[-1].out_channels = network.last_channel = chosen.head.width


def _finish_timm(network: EfficientNet, chosen: Architecture) -> None:
    """Give timm's norms of stem and head their class back, and what it says of the widths the chosen ones."""
    if chosen.head is not None:
        network.num_features = network.head_hidden_size = chosen.head.width
    for name in ("bn1", "bn2"):
        if isinstance(found := getattr(network, name), nn.Sequential):  # a detector has no second
            setattr(network, name, _timm_norm(*found))
    for info in network.feature_info:
        convs = [m for m in network.get_submodule(info["module"]).modules() if isinstance(m, nn.Conv2d)]
        info["num_chs"] = convs[-1].out_channels


def _timm_norm(norm: nn.BatchNorm2d, act: nn.Module) -> BatchNormAct2d:
    plain = BatchNormAct2d(norm.num_features, norm.eps).to(norm.weight)
    plain.momentum = norm.momentum
    plain.load_state_dict(norm.state_dict())
    keep_modes(plain, norm)
    plain.drop.training, plain.act = norm.training, act
    return plain

"""Narrower networks: a plain copy of a network, with the parameters of its width groups cut."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_nas.graph.width_groups import WidthGroups

__all__ = ["masked", "narrow", "narrowed"]


def narrowed(model: nn.Module, groups: WidthGroups, widths: Mapping[int, int]) -> nn.Module:
    """Return a plain copy of a network at other widths: its own classes with smaller parameters.

    Args:
        model: The network; it is not changed.
        groups: Its width groups.
        widths: For groups, by number, how many of their leading channels are kept.

    Example::

        >>> from lightning_nas.graph.width_groups import width_groups
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> narrowed(net, width_groups(net, torch.zeros(1, 3, 8, 8)), {0: 6})[2]
        Conv2d(6, 4, kernel_size=(1, 1), stride=(1, 1))
    """
    copy = deepcopy(model)
    narrow(copy, groups, widths)
    return copy


@torch.no_grad()
def narrow(model: nn.Module, groups: WidthGroups, widths: Mapping[int, int]) -> None:
    """Cut the parameters of a network to other widths, in place, and what its modules say of their sizes.

    Args:
        model: The network.
        groups: Its width groups.
        widths: For groups, by number, how many of their leading channels are kept.
    """
    cuts: dict[str, dict[int, Tensor]] = {}
    for name, dim in groups.slots_of(list(widths)):
        cuts.setdefault(name, {})[dim] = torch.from_numpy(groups.kept((name, dim), widths))
    for name, kept in cuts.items():
        path, _, attribute = name.rpartition(".")
        owner = model.get_submodule(path)
        whole = getattr(owner, attribute)
        part = whole.detach()
        for dim, index in kept.items():
            part = part.index_select(dim, index.to(part.device))
        if isinstance(whole, nn.Parameter):
            setattr(owner, attribute, nn.Parameter(part.contiguous(), whole.requires_grad))
        else:
            setattr(owner, attribute, part.contiguous())
        _follow(owner, attribute, whole)


@torch.no_grad()
def masked(model: nn.Module, groups: WidthGroups, widths: Mapping[int, int]) -> nn.Module:
    """Return a copy of a network of full width in which nobody reads the channels that `narrowed` takes away.

    Where the groups are right it computes what the narrower network does.

    Args:
        model: The network; it is not changed.
        groups: Its width groups.
        widths: For groups, by number, how many of their leading channels are kept.
    """
    copy = deepcopy(model)
    for name, dim in groups.slots_of(list(widths)):
        owner = copy.get_submodule(name.rpartition(".")[0])
        weight = getattr(owner, name.rpartition(".")[2])
        reads = 0 if isinstance(owner, nn.ConvTranspose2d) else 1
        if weight.ndim < 2 or dim != reads:
            continue
        mask = torch.zeros(weight.shape[dim], device=weight.device)
        mask[torch.from_numpy(groups.kept((name, dim), widths))] = 1
        weight.mul_(mask.view([-1 if n == dim else 1 for n in range(weight.ndim)]))
    return copy


def _follow(owner: nn.Module, attribute: str, whole: Tensor) -> None:
    """Let what a module says of its sizes follow one of its parameters."""
    if attribute != "weight":
        return
    weight = owner.weight
    assert isinstance(weight, Tensor)
    if isinstance(owner, _ConvNd):
        _follow_convolution(owner, weight, whole)
    elif isinstance(owner, _BatchNorm):
        owner.num_features = len(weight)
    elif isinstance(owner, nn.Linear):
        owner.out_features, owner.in_features = weight.shape
    elif isinstance(owner, nn.LayerNorm):
        owner.normalized_shape = tuple(weight.shape)
    elif isinstance(owner, nn.GroupNorm):
        owner.num_groups = len(weight) // (len(whole) // owner.num_groups)
        owner.num_channels = len(weight)
    elif isinstance(owner, nn.PReLU):
        owner.num_parameters = len(weight)


def _follow_convolution(conv: _ConvNd, weight: Tensor, whole: Tensor) -> None:
    if isinstance(conv, nn.ConvTranspose2d):
        conv.in_channels, conv.out_channels = weight.shape[0], weight.shape[1] * conv.groups
        return
    if conv.groups > 1:
        # What a group gives stays, so fewer outputs are fewer groups.
        conv.groups = len(weight) // (len(whole) // conv.groups)
    conv.out_channels, conv.in_channels = len(weight), weight.shape[1] * conv.groups

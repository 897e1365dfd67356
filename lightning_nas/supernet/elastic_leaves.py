"""Elastic leaves: modules of any network that run on chosen channels, in their own class and forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lightning_nas.graph.narrowing import narrowed
from lightning_nas.graph.width_groups import WidthGroups

__all__ = ["ElasticLeaves", "elastic_leaves"]

Cut = tuple[int, int, Tensor | None]
"""A dimension, how many of its indices are kept, and which; None for the leading ones."""

_CHOSEN = "_chosen"


@dataclass
class _Chosen:
    """What a leaf runs on.

    Attributes:
        num_groups: Groups of a convolution or of a group norm at full width; 1 for other leaves.
        cuts: For each elastic parameter or buffer how it is cut.
    """

    num_groups: int
    cuts: dict[str, tuple[Cut, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ElasticLeaves:
    """The modules of a network that hold channels of its open groups, elastic.

    Attributes:
        model: The network; it runs at the widths that were set last.
        groups: Its width groups.
        tensors: For each elastic parameter or buffer the module that has it, by name.
    """

    model: nn.Module
    groups: WidthGroups
    tensors: Mapping[str, nn.Module]

    def set_widths(self, widths: Mapping[int, int]) -> None:
        """Let the network run on the leading channels of groups; those that are not named are whole.

        Args:
            widths: By number of the group, how many of its channels are kept.
        """
        for name, owner in self.tensors.items():
            attribute = name.rpartition(".")[2]
            whole = _whole(owner, attribute)
            chosen = _chosen(owner)
            chosen.cuts[attribute] = self._cuts(name, whole, widths)
            if attribute == "weight":
                _set_counts(owner, whole, chosen.num_groups)

    def derive(self, widths: Mapping[int, int]) -> nn.Module:
        """Return a plain copy of the network at some widths: the user's classes, with smaller parameters.

        Args:
            widths: By number of the group, how many of its channels are kept.
        """
        copy = deepcopy(self.model)
        for name in self.tensors:
            owner = copy.get_submodule(name.rpartition(".")[0])
            if hasattr(owner, _CHOSEN):
                num_groups = _chosen(owner).num_groups
                delattr(owner, _CHOSEN)
                owner.__class__ = type(owner).__bases__[0]
                if isinstance(getattr(owner, "weight", None), Tensor):
                    _set_counts(owner, _whole(owner, "weight"), num_groups)
        return narrowed(copy, self.groups, widths)

    def _cuts(self, name: str, whole: Tensor, widths: Mapping[int, int]) -> tuple[Cut, ...]:
        cuts = []
        for dim in range(whole.ndim):
            if (name, dim) not in self.groups.slots:
                continue
            kept = torch.from_numpy(self.groups.kept((name, dim), widths))
            if len(kept) < whole.shape[dim]:
                is_leading = bool((kept == torch.arange(len(kept))).all())
                cuts.append((dim, len(kept), None if is_leading else kept.to(whole.device)))
        return tuple(cuts)


def elastic_leaves(model: nn.Module, groups: WidthGroups) -> ElasticLeaves:
    """Make the leaves of a network elastic, in place: they keep their forward pass, parameters and names of these.

    Each gets a class that is derived from its own, in which an elastic parameter is read as the part that is chosen.

    Args:
        model: The network.
        groups: Its width groups; those that are frozen keep their width.

    Example::

        >>> from lightning_nas.graph.width_groups import width_groups
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> leaves = elastic_leaves(net, width_groups(net, torch.zeros(1, 3, 8, 8)))
        >>> leaves.set_widths({0: 6})
        >>> net[:3](torch.zeros(1, 3, 8, 8)).shape[1], leaves.derive({0: 6})[3]
        (6, Conv2d(6, 4, kernel_size=(1, 1), stride=(1, 1)))
    """
    names = sorted({name for name, _ in groups.slots_of(groups.open)})
    tensors = {name: model.get_submodule(name.rpartition(".")[0]) for name in names}
    attributes: dict[nn.Module, list[str]] = {}
    for name, owner in tensors.items():
        attributes.setdefault(owner, []).append(name.rpartition(".")[2])
    for owner, found in attributes.items():
        owner.__class__ = _elastic_class(type(owner), tuple(sorted(set(found))))
        setattr(owner, _CHOSEN, _Chosen(_num_groups(owner)))
    return ElasticLeaves(model, groups, tensors)


_classes: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}


def _elastic_class(plain: type[nn.Module], attributes: tuple[str, ...]) -> type[nn.Module]:
    """Return a class derived from one of modules, in which some parameters are read as their chosen part."""
    key = plain, attributes
    if key not in _classes:
        _classes[key] = type(f"Elastic{plain.__name__}", (plain,), {name: property(_read(name)) for name in attributes})
    return _classes[key]


def _read(attribute: str) -> Callable[[nn.Module], Tensor]:
    def read(module: nn.Module) -> Tensor:
        part, cuts = _whole(module, attribute), _chosen(module).cuts.get(attribute, ())
        if part.ndim > 1 and any(index is None for _, _, index in cuts):
            counts = {dim: count for dim, count, index in cuts if index is None}
            part = _Leading.apply(part, tuple(slice(counts.get(dim)) for dim in range(part.ndim)))
        for dim, count, index in cuts:
            if index is not None:
                part = part.index_select(dim, index)
            elif part.ndim == 1:
                part = part.narrow(0, 0, count)  # a view, so that a norm tracks the statistics of the channels that run
        return part

    return read


class _Leading(torch.autograd.Function):
    """The leading part of a weight along several dimensions, as one operation.

    It is a copy: products of matrices are rounded by their layout, and so the network computes what the plain one does,
    bit by bit. A slice a dimension would fill a tensor for each in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, whole: Tensor, region: tuple[slice, ...]) -> Tensor:
        ctx.region, ctx.shape = region, whole.shape
        return whole[region].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        whole = gradients[0].new_zeros(ctx.shape)
        whole[ctx.region] = gradients[0]
        return whole, None


def _chosen(module: nn.Module) -> _Chosen:
    chosen = vars(module)[_CHOSEN]
    assert isinstance(chosen, _Chosen)
    return chosen


def _whole(module: nn.Module, attribute: str) -> Tensor:
    """Return a parameter or buffer as it is, whatever part of it is chosen."""
    whole = nn.Module.__getattr__(module, attribute)
    assert isinstance(whole, Tensor)
    return whole


def _num_groups(owner: nn.Module) -> int:
    if isinstance(owner, _ConvNd):
        return owner.groups
    return owner.num_groups if isinstance(owner, nn.GroupNorm) else 1


def _set_counts(owner: nn.Module, whole: Tensor, num_groups: int) -> None:
    """Let what a module says of groups and sizes follow its weight."""
    weight = owner.weight
    assert isinstance(weight, Tensor)
    # What one group gives stays, so fewer channels are fewer groups.
    kept = 1 if num_groups == 1 else len(weight) * num_groups // len(whole)
    if isinstance(owner, _ConvNd) and not isinstance(owner, nn.ConvTranspose2d):
        owner.groups = kept
    elif isinstance(owner, nn.GroupNorm):
        owner.num_groups = kept
    elif isinstance(owner, nn.LayerNorm):
        owner.normalized_shape = tuple(weight.shape)

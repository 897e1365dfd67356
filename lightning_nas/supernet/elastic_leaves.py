"""Elastic leaves: modules of any network that run on chosen channels, in their own class and forward pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_nas.graph.blocks import Block, BlockForm
from lightning_nas.graph.narrowing import narrow
from lightning_nas.graph.width_groups import WidthGroups
from lightning_nas.supernet.alternates import Kernel, Offer, Run, offered, with_alternates
from lightning_nas.supernet.elastic_class import (
    IDENTITY,
    Extent,
    chosen_of,
    elastic_modules,
    make_elastic,
    make_plain,
)
from lightning_nas.supernet.extents import Extents

__all__ = ["ElasticLeaves", "elastic_leaves"]

_ATTRIBUTES = ("groups", "num_groups", "normalized_shape", "kernel_size", "padding", "_reversed_padding_repeated_twice")


@dataclass(frozen=True, eq=False)
class ElasticLeaves:
    """The modules of a network that hold channels of its open groups, elastic, and the forms of its blocks.

    Attributes:
        model: The network; it runs as was set last.
        groups: Its width groups, those of alternates included.
        offers: The forms of the blocks that have several.
        residuals: Paths of the modules that can be skipped.
        extents: How many channels run.
        counted: Modules that say of themselves how many channels run.
        named: By path the modules that are elastic.
    """

    model: nn.Module
    groups: WidthGroups
    offers: tuple[Offer, ...]
    residuals: tuple[str, ...]
    extents: Extents
    counted: tuple[nn.Module, ...]
    named: Mapping[str, nn.Module]

    def run(self, widths: Mapping[int, int], forms: Sequence[BlockForm] = (), skipped: Collection[str] = ()) -> None:
        """Let the network run on the leading channels of groups, its blocks in some forms, without some residuals.

        Args:
            widths: By number of the group, how many of its channels are kept; those that are not named are whole.
            forms: The form of each block of `offers`; by default their own.
            skipped: Paths of the modules of `residuals` that give back their input.

        Raises:
            ValueError: A form is not offered, or a module cannot be skipped.
        """
        runs = self._runs(forms, skipped)
        self.extents.set(widths, next(self.model.parameters()).device)
        for module in self.counted:
            _set_counts(module)
        for run in runs:
            for path, name in run.names.items():
                chosen_of(self.named[path]).runs = name
            if run.kernel is not None:
                _set_kernel(self.named[run.kernel.path], run.kernel)
        for path in self.residuals:
            chosen_of(self.named[path]).runs = IDENTITY if path in skipped else ""

    def use_batch_statistics(self, use: bool) -> None:
        """Let all batch norms normalise by the batch, in evaluation too, and leave their running statistics alone.

        Args:
            use: Whether they do; if not, they work as they did in the network.
        """
        for module in elastic_modules(self.model):
            if isinstance(module, _BatchNorm):
                chosen_of(module).batch_statistics = use

    def derive(
        self,
        widths: Mapping[int, int],
        forms: Sequence[BlockForm] = (),
        skipped: Collection[str] = (),
        copy_of: nn.Module | None = None,
    ) -> nn.Module:
        """Return a plain copy of the network as it would `run`: the user's classes, with smaller parameters.

        Args:
            widths: As in `run`.
            forms: As in `run`.
            skipped: As in `run`.
            copy_of: What to copy in place of the network; one that was made elastic in the same way.
        """
        copy = deepcopy(self.model if copy_of is None else copy_of)
        self.strip(copy, widths, forms, skipped)
        return copy

    @torch.no_grad()
    def strip(
        self,
        network: nn.Module,
        widths: Mapping[int, int],
        forms: Sequence[BlockForm] = (),
        skipped: Collection[str] = (),
    ) -> None:
        """Make a copy of the network plain, in place, such as the one within a copy of a larger module.

        Args:
            network: A deep copy of the network; the leaves of the network itself stay elastic.
            widths: As in `run`.
            forms: As in `run`.
            skipped: As in `run`.
        """
        runs = self._runs(forms, skipped)
        for module in elastic_modules(network):
            make_plain(module)
        narrow(network, self.groups, widths)
        placed: dict[nn.Module, nn.Module] = {}
        for run in runs:
            if run.kernel is not None:
                _cut_kernel(network.get_submodule(run.kernel.path), run.kernel)
            for path, name in run.names.items():
                leaf = network.get_submodule(path)
                if name:
                    placed[leaf] = _identity(leaf) if name == IDENTITY else leaf.get_submodule(name)
        for offer in self.offers:
            for path, name in offer.alternates:
                delattr(network.get_submodule(path), name)
        for path in skipped:
            placed[network.get_submodule(path)] = _identity(network.get_submodule(path))
        _place(network, placed)

    @torch.no_grad()
    def undo(self) -> None:
        """Make the network what it was before it became elastic: the same modules, classes, parameters and values."""
        for module in self.named.values():
            make_plain(module)
        for offer in self.offers:
            for path, name in offer.alternates:
                delattr(self.model.get_submodule(path), name)
        for offer in self.offers:
            kernel = offer.run(offer.own).kernel
            conv = None if kernel is None else self.model.get_submodule(kernel.path)
            if kernel is not None and isinstance(conv, nn.Conv2d) and conv.weight.shape[2] > kernel.size:
                conv.weight.data = _middle(conv.weight.data, kernel.size)
                vars(conv).update(kernel.attributes)

    def _runs(self, forms: Sequence[BlockForm], skipped: Collection[str]) -> list[Run]:
        if unknown := set(skipped) - set(self.residuals):
            raise ValueError(f"Only {list(self.residuals)} can be skipped; got {sorted(unknown)}.")
        chosen = forms or [offer.own for offer in self.offers]
        return [offer.run(form) for offer, form in zip(self.offers, chosen, strict=True)]


def elastic_leaves(
    model: nn.Module,
    groups: WidthGroups,
    offers: Sequence[tuple[Block, Sequence[BlockForm]]] = (),
    residuals: Sequence[str] = (),
) -> ElasticLeaves:
    """Make the leaves of a network elastic, in place: they keep their forward pass, parameters and names of these.

    Each gets a class that is derived from its own, in which an elastic parameter is read as the part that is chosen.
    Where a block can be of another kind, some get submodules that run in their place. All batch norms become elastic.
    The network computes what it did until something is chosen.

    Args:
        model: The network.
        groups: Its width groups; those that are frozen keep their width.
        offers: Blocks, each with the forms that it can have; its own always is one.
        residuals: Paths of modules that can be skipped.

    Raises:
        ValueError: The network is elastic already, or a block cannot have a form. It is unchanged then.

    Example::

        >>> from lightning_nas.graph.width_groups import width_groups
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> leaves = elastic_leaves(net, width_groups(net, torch.zeros(1, 3, 8, 8)))
        >>> leaves.run({0: 6})
        >>> net[:3](torch.zeros(1, 3, 8, 8)).shape[1], leaves.derive({0: 6})[3]
        (6, Conv2d(6, 4, kernel_size=(1, 1), stride=(1, 1)))
    """
    if elastic_modules(model):
        raise ValueError("The network is elastic already. HINT: convert one that is not a supernet.")
    found = offered(model, offers)
    groups = with_alternates(groups, found)
    extents = Extents(groups)
    slots: dict[str, dict[str, list[tuple[int, Extent]]]] = {}
    for name, dim in sorted(groups.slots_of(groups.open)):
        path, _, attribute = name.rpartition(".")
        slots.setdefault(path, {}).setdefault(attribute, []).append((dim, extents.of((name, dim))))
    kernels = {run.kernel.path for offer in found for run in offer.runs.values() if run.kernel is not None}
    norms = {path for path, module in model.named_modules() if isinstance(module, _BatchNorm)}
    leaves = {path for offer in found for run in offer.runs.values() for path in run.names}
    named = {path: model.get_submodule(path) for path in sorted({*slots, *kernels, *norms, *leaves, *residuals})}
    for path, module in named.items():
        _make_leaf(module, slots.get(path, {}), path in kernels)
    counted = tuple(module for path, module in named.items() if "weight" in slots.get(path, {}) and _is_counted(module))
    made = ElasticLeaves(model, groups, found, tuple(residuals), extents, counted, named)
    made.run({})
    return made


def _make_leaf(module: nn.Module, cuts: Mapping[str, Sequence[tuple[int, Extent]]], has_kernels: bool) -> None:
    names = {*cuts, *(["weight"] if has_kernels else [])}
    attributes = {name: vars(module)[name] for name in _ATTRIBUTES if name in vars(module)}
    taps = module.kernel_size[0] if has_kernels and isinstance(module, nn.Conv2d) else 0
    chosen = make_elastic(module, sorted(names))
    chosen.attributes = attributes
    chosen.extents = {name: tuple(found) for name, found in cuts.items()}
    if taps:
        chosen.kernel = Extent(taps, taps, is_centred=True)
        chosen.extents["weight"] = (*chosen.extents.get("weight", ()), (2, chosen.kernel), (3, chosen.kernel))


def _is_counted(module: nn.Module) -> bool:
    is_grouped = isinstance(module, _ConvNd) and module.groups > 1 and not isinstance(module, nn.ConvTranspose2d)
    return is_grouped or isinstance(module, (nn.GroupNorm, nn.LayerNorm))


def _set_counts(module: nn.Module) -> None:
    """Let what a module says of groups and sizes follow its weight."""
    chosen = chosen_of(module)
    extents = chosen.extents["weight"]
    if isinstance(module, nn.LayerNorm):
        shape = list(cast(tuple[int, ...], chosen.attributes["normalized_shape"]))
        for dim, extent in extents:
            shape[dim] = extent.count
        module.normalized_shape = tuple(shape)
        return
    # What one group gives stays, so fewer channels are fewer groups.
    name = "num_groups" if isinstance(module, nn.GroupNorm) else "groups"
    for dim, extent in extents:
        if dim == 0:
            vars(module)[name] = extent.count * cast(int, chosen.attributes[name]) // extent.size


def _set_kernel(module: nn.Module, kernel: Kernel) -> None:
    extent = chosen_of(module).kernel
    assert extent is not None
    extent.count = kernel.size
    vars(module).update(kernel.attributes)


def _cut_kernel(module: nn.Module, kernel: Kernel) -> None:
    assert isinstance(module, nn.Conv2d)
    part = _middle(module.weight.detach(), kernel.size)
    module.weight = nn.Parameter(part, module.weight.requires_grad)
    vars(module).update(kernel.attributes)


def _middle(weight: Tensor, size: int) -> Tensor:
    """Return the taps around the middle of a kernel, in its memory format."""
    taps = Extent(weight.shape[2], size, is_centred=True).region
    # Of one channel a weight is contiguous in both formats; its strides tell which it was given.
    form = torch.channels_last if weight.stride(1) == 1 else torch.contiguous_format
    return weight[:, :, taps, taps].clone(memory_format=form)


def _identity(module: nn.Module) -> nn.Module:
    return nn.Identity().train(module.training)


def _place(network: nn.Module, placed: Mapping[nn.Module, nn.Module]) -> None:
    """Put modules in the places of others, wherever these are registered."""
    for owner in list(network.modules()):
        for name, child in owner.named_children():
            if child in placed:
                owner._modules[name] = placed[child]

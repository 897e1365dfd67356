"""Channel sorting by importance, so that a narrow slice keeps the best channels (Once-for-All, arXiv 1908.09791)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from lightning_nas.graph.labelling import Slot
from lightning_nas.graph.network import Network
from lightning_nas.graph.width_groups import WidthGroups
from lightning_nas.supernet.supernet import Supernet, find_supernet

__all__ = ["sort_channels"]


@torch.no_grad()
def sort_channels(network: nn.Module) -> None:
    """Sort the channels of each width group that is searched, most important first.

    Importance is the L1 norm of the weights that read a channel, times the spread that batch norm and activation
    give it. The widest subnet computes the same function as before, up to the order of its sums.

    Args:
        network: A supernet, or a module that holds one; it is changed in place.
    """
    supernet = find_supernet(network)
    sorter = _Sorter(supernet)
    searched = supernet.space.nodes_of
    orders = {group: sorter.order(group) for group in supernet.space.network.open if group in searched}
    for name, dims in sorter.dimensions(orders).items():
        whole = sorter.tensors[name]
        for dim, index in dims:
            whole.copy_(whole.index_select(dim, torch.from_numpy(index).to(whole.device)))


@dataclass
class _Sorter:
    """Reads how important channels are, and where they stand in parameters."""

    supernet: Supernet
    tensors: Mapping[str, Tensor] = field(init=False)
    groups: WidthGroups = field(init=False)
    activations: Mapping[str, nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        model = self.supernet.leaves.model
        self.groups = self.supernet.leaves.groups
        self.tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.activations = _activations(model, self.supernet.space.network.network)

    def order(self, number: int) -> NDArray[np.int64]:
        """Return the ranks of a group's channels, the most important one first."""
        size = self.groups.groups[number].size
        read, spread = [], []
        for slot, _ in self.groups.groups[number].slots:
            owner = self._owner(slot)
            if slot[0].endswith(".weight") and isinstance(owner, _ConvNd | nn.Linear) and _reads(owner, slot[1]):
                weight = self.tensors[slot[0]]
                norm = weight.abs().sum([dim for dim in range(weight.ndim) if dim != slot[1]])
                read.append(_relative(self._by_rank(norm, slot, number, size)))
            elif slot[0].endswith(".weight") and isinstance(owner, _BatchNorm):
                spread.append(self._by_rank(self._activity(slot[0], owner), slot, number, size))
        importance = torch.ones(size)
        for found in (read, spread):
            importance = importance * (torch.stack(found).mean(0) if found else 1.0)
        return importance.argsort(descending=True, stable=True).numpy()

    def dimensions(self, orders: Mapping[int, NDArray[np.int64]]) -> dict[str, list[tuple[int, NDArray[np.int64]]]]:
        """Return for each parameter the dimensions that are sorted, with what comes to each index."""
        found: dict[str, list[tuple[int, NDArray[np.int64]]]] = {}
        for slot in sorted(self.groups.slots_of(list(orders))):
            index = self._index(slot, orders)
            if not np.array_equal(index, np.arange(len(index))):
                found.setdefault(slot[0], []).append((slot[1], index))
        return found

    def _index(self, slot: Slot, orders: Mapping[int, NDArray[np.int64]]) -> NDArray[np.int64]:
        numbers, ranks = self.groups.places(self.groups.slots[slot])
        index = np.arange(len(numbers))
        for number, order in orders.items():
            here = np.flatnonzero(numbers == number)
            # Places of one rank keep their order among each other.
            by_rank = here[np.argsort(ranks[here], kind="stable")].reshape(len(order), -1) if len(here) else None
            if by_rank is not None:
                index[by_rank] = by_rank[order]
        return index

    def _by_rank(self, values: Tensor, slot: Slot, number: int, size: int) -> Tensor:
        """Return the sum of the values of each channel of a group."""
        numbers, ranks = self.groups.places(self.groups.slots[slot])
        here = np.flatnonzero(numbers == number)
        sums = torch.zeros(size)
        return sums.index_add(
            0,
            torch.from_numpy(ranks[here].astype(np.int64)),
            values[torch.from_numpy(here).to(values.device)].float().cpu(),
        )

    def _activity(self, name: str, norm: _BatchNorm) -> Tensor:
        """Return each channel's standard deviation behind norm and activation, were the norm's output normal.

        The norm's scale alone would rank a channel high that the activation nearly always cuts to zero.
        """
        weight, bias = self.tensors[name], self.tensors[f"{name.removesuffix('weight')}bias"]
        act = self._activation(name)
        if act is None:
            return weight.abs()
        points = torch.linspace(-4, 4, 161).to(weight).view(-1, 1)
        density = torch.exp(-points.square() / 2)
        density = density / density.sum()
        values = act(bias + weight.abs() * points)
        mean = (density * values).sum(0)
        return (density * (values - mean).square()).sum(0).sqrt()

    def _activation(self, name: str) -> nn.Module | None:
        """Return the activation behind a norm; that of an alternate is behind the norm that it stands for."""
        path = name.removesuffix(".weight")
        return self.activations.get(path) or self.activations.get(path.rpartition(".")[0])

    def _owner(self, slot: Slot) -> nn.Module:
        return self.supernet.leaves.model.get_submodule(slot[0].rpartition(".")[0])


def _reads(owner: nn.Module, dim: int) -> bool:
    """Return whether a dimension of a weight is that of what it reads."""
    if isinstance(owner, nn.modules.conv._ConvTransposeNd):
        return dim == 0
    return dim == 1


def _relative(values: Tensor) -> Tensor:
    """Return values relative to their mean, so that each reader counts alike."""
    return values / values.mean().clamp(min=1e-12)


def _activations(model: nn.Module, network: Network) -> dict[str, nn.Module]:
    """Return for each norm the module of the activation that alone reads it, if it works value by value."""
    readers: dict[int, list[int]] = {}
    for number, operation in enumerate(network.operations):
        for source in operation.inputs:
            readers.setdefault(source, []).append(number)
    found = {}
    for number, operation in enumerate(network.operations):
        behind = [network.operations[n] for n in readers.get(number, [])]
        if operation.layer.operator == "norm" and len(behind) == 1 and behind[0].layer.operator == "activation":
            module = model.get_submodule(behind[0].path)
            if _is_plain(module):
                found[operation.path] = module
    return found


def _is_plain(module: nn.Module) -> bool:
    """Return whether a module is an activation without weights, and nothing more."""
    held: Sequence[object] = [*module.children(), *module.parameters()]
    return not held and not isinstance(module, _ConvNd | _BatchNorm)

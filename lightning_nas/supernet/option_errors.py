"""Errors of single options: what one option does to the trained network, with everything else left as it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.space.choice import Choice
from lightning_nas.space.spec import Encoding
from lightning_nas.supernet.cached_run import CachedRun
from lightning_nas.supernet.derive import derive
from lightning_nas.supernet.read_maps import watching_maps
from lightning_nas.supernet.refit import FittedBlock, fit_blocks, fitted_blocks, recorded, refit_block
from lightning_nas.supernet.source_maps import SourceMaps, run_network
from lightning_nas.supernet.supernet import find_supernet

__all__ = ["FITTED_PART", "OptionErrors", "option_errors", "replace_one"]

# A block's weights are fitted on the first part of the images and judged on the others.
FITTED_PART = 0.67
_BATCH = 64


@dataclass(frozen=True)
class OptionErrors:
    """Errors of all options of all nodes, each put alone into a network.

    Attributes:
        maps: For each node the error of each option, shape (num_options,): the squared distance of the maps that the
            network's last layers read from the source's, relative to their variance, on average over the maps.
        divergences: The same by the divergence of the classes' probabilities from the source's; None where the
            network's output is no single tensor of classes.
    """

    maps: list[Tensor]
    divergences: list[Tensor] | None


def option_errors(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return for each option of each node what it alone does to the trained network, in relative squared distance.

    Args:
        network: As in `replace_one`.
        images: As in `replace_one`.

    Returns:
        For each node of the space the error of each option, shape (num_options,); 0 is as good as the source.
    """
    return replace_one(network, images).maps


def replace_one(network: nn.Module, images: Tensor, start: Encoding | None = None) -> OptionErrors:
    """Put each option of each node alone into a trained network, fit it, and measure what reaches the last layers.

    The convolutions of a block are fitted by least squares to the source's block, on the inputs that it gets in the
    network, see `refit`; where a width is another one, all blocks behind it are. The error is taken on other images,
    where the network's last linear maps read their feature maps: errors there add up to that of a network with many
    options replaced well enough to choose by. The program over such scores is that of LANA (Molchanov et al. 2022,
    arXiv 2107.10624) and of Puzzle (Bercovich et al. 2024, arXiv 2411.19146), with closed forms in place of training.

    Only what stands behind the changed module runs: of modules that end before it begins the output is known.

    Args:
        network: A supernet with the weights of a trained network, its channels sorted: `sort_channels`.
        images: Training images, shape (N, 3, H, W), normalised; some hundred. Two thirds are for fitting.
        start: The member that options are put into; by default the source. A later round begins with what an earlier
            one found.

    Raises:
        ValueError: There are fewer than 2 images.
    """
    if len(images) < 2:
        raise ValueError(f"`images` must be 2 or more, for fitting and for judging; got {len(images)}.")
    return _ReplaceOne(network, images, start).errors()


class _ReplaceOne:
    """The network that options are put into, and what it gives on the images."""

    def __init__(self, network: nn.Module, images: Tensor, start: Encoding | None) -> None:
        self.network, self.space = network, find_supernet(network).space
        self.groups = find_supernet(network).leaves.groups
        self.encoding = self.space.reference_encoding if start is None else start
        images = images.contiguous(memory_format=torch.channels_last)
        count = min(len(images) - 1, max(1, round(FITTED_PART * len(images))))
        self.images, judged = images[:count], list(images[count:].split(_BATCH))
        self.teacher = derive(network, self.space.reference_encoding)
        self.blocks = fitted_blocks(self.teacher, images[:1])
        self.start = self._start()
        modules = [choice.module for choice in self.space.choices if choice.module]
        self.fitting = CachedRun(self.start, [self.images], modules)
        self.judging = CachedRun(self.start, judged, modules)
        self.inputs = self.source_inputs = _inputs(self.start, modules, self.images)
        if self.start is not self.teacher:
            self.source_inputs = _inputs(self.teacher, modules, self.images)
        self.targets = recorded(self.teacher, self.start, self.blocks, lambda: run_network(self.teacher, self.images))
        self.source = SourceMaps(self.teacher, judged)
        self.own_maps: list[list[float]] = []
        self.own = self._measured(self.start, (), self.encoding)

    def errors(self) -> OptionErrors:
        """Try all options, and return their errors."""
        rows = [torch.full((size, 2), torch.nan) for size in self.space.node_sizes]
        for row, option in zip(rows, self.encoding, strict=True):
            row[option] = torch.tensor(self.own)
        total = sum(self.space.node_sizes) - len(rows)
        with tqdm(total=total, desc="Trying options", leave=False) as bar:
            for node, option, found in self._tried():
                rows[node][option] = torch.tensor(found)
                bar.update()
        divergences = [row[:, 1] for row in rows]
        has_classes = not any(row.isnan().any() for row in divergences)
        return OptionErrors([row[:, 0] for row in rows], divergences if has_classes else None)

    def _tried(self) -> Iterator[tuple[int, int, tuple[float, float]]]:
        """Yield each node and option with its errors."""
        first = len(self.space.multipliers)
        alone = {first + number: choice for number, choice in enumerate(self.space.choices) if choice.module}
        for option in range(max((len(choice.options) for choice in alone.values()), default=0)):
            # One network has this option in every block, of which each is taken by itself.
            here = [node for node, c in alone.items() if option < len(c.options) and option != self.encoding[node]]
            subnet = self._derived(dict.fromkeys(here, option))
            for node in here:
                yield node, option, self._block_error(subnet, alone[node], node, option)
        for node, size in enumerate(self.space.node_sizes):
            for option in range(size) if node not in alone else ():
                if option != self.encoding[node]:
                    yield node, option, self._network_error({node: option})

    def _start(self) -> nn.Module:
        """Return the network that options are put into, fitted to the source where it is another one."""
        if self.encoding == self.space.reference_encoding:
            return self.teacher
        start = derive(self.network, self.encoding)
        targets = recorded(self.teacher, start, self.blocks, lambda: run_network(self.teacher, self.images))
        fit_blocks(start, self.blocks, targets, lambda: run_network(start, self.images))
        return start

    def _derived(self, changes: Mapping[int, int]) -> nn.Module:
        return derive(self.network, self._encoding(changes))

    def _encoding(self, changes: Mapping[int, int]) -> Encoding:
        return tuple(changes.get(node, option) for node, option in enumerate(self.encoding))

    def _block_error(self, subnet: nn.Module, choice: Choice, node: int, option: int) -> tuple[float, float]:
        """Return the errors of a block that is a module of its own, put into the network as it is."""
        path = choice.module
        if choice.block is not None and choice.options[option].kind != "skip":
            inputs = self.inputs[path], self.source_inputs[path]
            refit_block(subnet, self.teacher, path, FittedBlock(choice.block, choice.residual), *inputs)
        with _replaced(self.start, path, subnet.get_submodule(path)):
            return self._measured(self.start, [path], self._encoding({node: option}))

    def _network_error(self, changes: Mapping[int, int]) -> tuple[float, float]:
        """Return the errors of a network that is derived with some options changed, fitted behind the change."""
        subnet = self._derived(changes)
        changed = _changed(self.start, subnet)
        targets, nodes = self.targets, [node - len(self.space.multipliers) for node in changes]
        if any(node >= 0 for node in nodes):
            targets = recorded(self.teacher, subnet, self.blocks, lambda: run_network(self.teacher, self.images))
        with self.fitting.resumed(subnet, changed, 0):
            skipped = self.fitting.skipped(changed)
            fit_blocks(subnet, self.blocks, targets, lambda: run_network(subnet, self.images), skipped=skipped)
        return self._measured(subnet, changed, self._encoding(changes))

    def _measured(self, network: nn.Module, changed: Collection[str], encoding: Encoding) -> tuple[float, float]:
        """Return how far a network is from the source: by its read maps, and by its classes."""
        kept = self._kept(encoding)
        maps, divergence = list(self.source.dropped(kept)), 0.0
        with evaluating(network):
            for number, images in enumerate(self.judging.batches):
                with self.judging.resumed(network, changed, number), watching_maps(network, self.source.maps) as found:
                    output = run_network(network, images)
                distance = self.source.distance(found, output, number, kept)
                divergence += distance.divergence
                for index, part in enumerate(distance.maps):
                    # What ran before the change is as far as it was.
                    maps[index] += self.own_maps[number][index] if part is None else part
                if network is self.start and not changed:
                    self.own_maps.append([float(part or 0.0) for part in distance.maps])
        return sum(maps) / len(maps), divergence / sum(map(len, self.judging.batches))

    def _kept(self, encoding: Encoding) -> dict[str, Tensor]:
        """Return the channels of the read maps that a member has, by the path of their readers, where some are gone."""
        widths = dict(enumerate(self.space.widths(encoding)))
        slots = {path: slot for path, slot in self.source.slots.items() if slot in self.groups.slots}
        found = {path: self.groups.kept(slot, widths) for path, slot in slots.items()}
        return {
            path: torch.from_numpy(kept)
            for path, kept in found.items()
            if len(kept) < len(self.groups.slots[slots[path]])
        }


def _inputs(network: nn.Module, paths: Sequence[str], images: Tensor) -> dict[str, Tensor]:
    """Return the input of modules."""
    found: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        # What works in place behind it would change what is kept.
        return lambda _, inputs: found.update({path: inputs[0].clone()})

    handles = [network.get_submodule(path).register_forward_pre_hook(keep(path)) for path in paths]
    try:
        with evaluating(network):
            run_network(network, images)
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def _replaced(network: nn.Module, path: str, module: nn.Module) -> Iterator[None]:
    """Put another module into a network for as long as the context lasts."""
    own = network.get_submodule(path)
    network.set_submodule(path, module)
    try:
        yield
    finally:
        network.set_submodule(path, own)


def _changed(network: nn.Module, other: nn.Module) -> list[str]:
    """Return the modules of another network that are not of the class or the shape that they have in a network."""
    known = {path: _shape(module) for path, module in network.named_modules()}
    return [path for path, module in other.named_modules() if known.get(path) != _shape(module)]


def _shape(module: nn.Module) -> tuple[object, ...]:
    values = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return type(module), *((name, tuple(value.shape)) for name, value in values)

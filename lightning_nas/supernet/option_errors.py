"""Errors of single options: what one option does to the trained network, with everything else left as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.space.spec import Encoding
from lightning_nas.supernet.cached_run import CachedRun
from lightning_nas.supernet.derive import derive
from lightning_nas.supernet.refine import refine_block
from lightning_nas.supernet.refit import FittedBlock, fit_blocks, recorded, refit_block
from lightning_nas.supernet.source_judge import Judgement, SourceJudge
from lightning_nas.supernet.source_outputs import run_network

__all__ = ["OptionErrors", "OptionTrials", "option_errors", "replace_one"]


@dataclass(frozen=True)
class OptionErrors:
    """Errors of all options of all nodes, each put alone into a network.

    Attributes:
        distances: For each node the error of each option, shape (num_options,): the squared distance of what the
            network's last layers give from what the source's give, relative to its variance, on average over them.
        divergences: The same by the divergence of the classes' probabilities from the source's; None where the
            network's output is no single tensor of classes.
    """

    distances: list[Tensor]
    divergences: list[Tensor] | None


def option_errors(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Return for each option of each node what it alone does to the trained network, in relative squared distance.

    Args:
        network: A supernet with the weights of a trained network, its channels sorted: `sort_channels`.
        images: Training images, shape (N, 3, H, W), normalised; some hundred. Two thirds are for fitting.

    Returns:
        For each node of the space the error of each option, shape (num_options,); 0 is as good as the source.

    Raises:
        ValueError: There are fewer than 2 images.
    """
    return replace_one(SourceJudge(network, images)).distances


def replace_one(judge: SourceJudge, start: Encoding | None = None, num_workers: int = 0) -> OptionErrors:
    """Put each option of each node alone into a trained network, fit it, and measure what the last layers give.

    The convolutions of a block are fitted by least squares to the source's block, on the inputs that it gets in the
    network, see `refit`; where a width is another one, all blocks behind it are. The error is taken on other images,
    in what the network's last linear maps give at each position: errors there add up to that of a network with many
    options replaced well enough to choose by. In front of these maps channels would count that they hardly read: of a
    MobileNetV2 with a head narrower by a quarter, what was dropped held 0.27 of the variance, and the classes'
    divergence was 0.0002. The program over such scores is that of LANA (Molchanov et al. 2022, arXiv 2107.10624) and
    of Puzzle (Bercovich et al. 2024, arXiv 2411.19146), with closed forms in place of training.

    Only what stands behind the changed module runs: of modules that end before it begins the output is known.

    Args:
        judge: The trained network and the images.
        start: The member that options are put into; by default the source. A later round begins with what an earlier
            one found.
        num_workers: Processes that try options, of one thread each, as those of a `DataLoader`; 0 for this one alone.
            They are for networks on the CPU.
    """
    return OptionTrials(judge, judge.space.reference_encoding if start is None else start).errors(num_workers)


class OptionTrials(Dataset[tuple[int, int, float, float]]):
    """The options of a space, each with its errors once it is tried in a network, of whose modules outputs are kept.

    A data set, so that a `DataLoader` tries them in several processes: an item is node, option, error and divergence.

    Args:
        judge: The trained network and the images.
        encoding: The member that options are put into.

    Attributes:
        tried: The node and the option of each item.
    """

    def __init__(self, judge: SourceJudge, encoding: Encoding) -> None:
        self.judge, self.space, self.encoding = judge, judge.space, encoding
        self.start = judge.refitted(encoding)
        modules = [choice.module for choice in self.space.choices if choice.module]
        self.fitting = CachedRun(self.start, [judge.images], modules)
        self.judging = CachedRun(self.start, judge.batches, modules)
        self.inputs = self.source_inputs = _inputs(self.start, modules, judge.images)
        if self.start is not judge.source:
            self.source_inputs = _inputs(judge.source, modules, judge.images)
        self.targets = recorded(judge.source, self.start, judge.blocks, self._run_source)
        self.own = judge.judge(self.start)
        first = len(self.space.multipliers)
        self.alone = {first + number: choice for number, choice in enumerate(self.space.choices) if choice.module}
        # Blocks come option by option: one network has the option in every block, of which each is taken by itself.
        pairs = [(node, option) for node, size in enumerate(self.space.node_sizes) for option in range(size)]
        tried = [(node, option) for node, option in pairs if option != encoding[node]]
        self.tried = sorted(tried, key=lambda pair: (pair[0] not in self.alone, pair[0] in self.alone and pair[1]))
        self.derived: dict[int, nn.Module] = {}

    def errors(self, num_workers: int) -> OptionErrors:
        """Try all options, and return their errors."""
        rows = [torch.full((size, 2), torch.nan) for size in self.space.node_sizes]
        for row, option in zip(rows, self.encoding, strict=True):
            row[option] = torch.tensor([self.own.error, self.own.divergence])
        # With a generator of its own it draws nothing from the one that trainings go by.
        own = torch.Generator()
        results = DataLoader(self, batch_size=None, collate_fn=_as_it_is, num_workers=num_workers, generator=own)
        for node, option, error, divergence in tqdm(results, desc="Trying options", leave=False):
            rows[node][option] = torch.tensor([error, divergence])
        divergences = [row[:, 1] for row in rows]
        has_classes = not any(row.isnan().any() for row in divergences)
        return OptionErrors([row[:, 0] for row in rows], divergences if has_classes else None)

    def __len__(self) -> int:
        return len(self.tried)

    def __getitem__(self, index: int) -> tuple[int, int, float, float]:
        node, option = self.tried[index]
        with torch.no_grad():
            found = self._judged_block(node, option) if node in self.alone else self._judged_network(node, option)
        return node, option, found.error, found.divergence

    def _with(self, nodes: Sequence[int], option: int) -> Encoding:
        return tuple(option if node in nodes else own for node, own in enumerate(self.encoding))

    def _run_source(self) -> object:
        return run_network(self.judge.source, self.judge.images)

    def _with_option(self, option: int) -> nn.Module:
        """Return a network with an option in every block that has it; the last one is kept."""
        if option not in self.derived:
            here = [node for node, c in self.alone.items() if option < len(c.options) and option != self.encoding[node]]
            self.derived = {option: derive(self.judge.network, self._with(here, option))}
        return self.derived[option]

    def _judged_block(self, node: int, option: int) -> Judgement:
        """Return the errors of a block that is a module of its own, put into the network as it is."""
        choice, subnet = self.alone[node], self._with_option(option)
        path, block = choice.module, subnet.get_submodule(choice.module)
        if choice.block is not None and choice.options[option].kind != "skip":
            inputs, source_inputs = self.inputs[path], self.source_inputs[path]
            refit_block(
                subnet, self.judge.source, path, FittedBlock(choice.block, choice.residual), inputs, source_inputs
            )
            if self.judge.refine_steps and choice.block.project in self.targets:
                goal = _given(self.judge.source.get_submodule(path), source_inputs)
                refine_block(block, inputs, goal[:, : _given(block, inputs[:1]).shape[1]], self.judge.refine_steps)
        with _replaced(self.start, path, block):
            return self._judged(self.start, [path])

    def _judged_network(self, node: int, option: int) -> Judgement:
        """Return the errors of a network that is derived with one option changed, fitted behind the change."""
        judge = self.judge
        subnet = derive(judge.network, self._with([node], option))
        changed, targets = _changed(self.start, subnet), self.targets
        if node >= len(self.space.multipliers):
            targets = recorded(judge.source, subnet, judge.blocks, self._run_source)
        with self.fitting.resumed(subnet, changed, 0):
            skipped = self.fitting.skipped(changed)
            fit_blocks(subnet, judge.blocks, targets, lambda: run_network(subnet, judge.images), skipped=skipped)
        return self._judged(subnet, changed)

    def _judged(self, network: nn.Module, changed: Sequence[str]) -> Judgement:
        def resumed(number: int) -> AbstractContextManager[None]:
            return self.judging.resumed(network, changed, number)

        return self.judge.judge(network, resumed, self.own.parts)


def _as_it_is(item: object) -> object:
    return item


def _given(module: nn.Module, inputs: Tensor) -> Tensor:
    """Return what a module gives; a copy of the inputs runs, since it may work in place."""
    with evaluating(module):
        output = module(inputs.clone())
    assert isinstance(output, Tensor)
    return output


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

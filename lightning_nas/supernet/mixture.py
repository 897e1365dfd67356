"""`Mixing`: the weighted sum of all options of blocks and widths, for searches by a gradient through the choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_nas.graph.writers import writers_of
from lightning_nas.space.block_option import BlockOption
from lightning_nas.space.choice import Choice
from lightning_nas.space.multiplier import DepthMultiplier
from lightning_nas.space.spec import SearchSpace
from lightning_nas.supernet.elastic_leaves import ElasticLeaves
from lightning_nas.supernet.member import member_of

__all__ = ["Mixing", "check_mixable"]

Used = Sequence[tuple[BlockOption, Tensor]]
"""Options with their weights, those without a weight left out."""


def check_mixable(space: SearchSpace, model: nn.Module) -> None:
    """Refuse a supernet with blocks whose options cannot be mixed.

    Args:
        space: What can be chosen.
        model: The network.

    Raises:
        ValueError: A block has no module of its own, whose outputs could be summed.
    """
    for choice in space.choices:
        if len(choice.options) > 1 and not _module_of(choice, space, model):
            raise ValueError(
                f"The block at {choice.path!r} is no module of its own, and its options cannot be mixed. HINT: a"
                " strategy that trains single paths, such as Rloo."
            )


def _module_of(choice: Choice, space: SearchSpace, model: nn.Module) -> str:
    """Return the module whose outputs are mixed: the smallest that runs a block and no other one; empty for none.

    It may run more than the block, such as the convolution beside it in a residual module that changes the width.
    """
    if choice.module:
        return choice.module
    names = _common([path.split(".") for path in _paths(choice)])
    path = ".".join(names)
    others = (inside for other in space.choices if other is not choice for inside in _paths(other))
    is_run = path and not isinstance(model.get_submodule(path), nn.ModuleList | nn.ModuleDict)
    return path if is_run and not any(f"{other}.".startswith(f"{path}.") for other in others) else ""


def _paths(choice: Choice) -> list[str]:
    block = choice.block
    if block is None:
        return [choice.path]
    return [path for path in (block.expand, block.depthwise, block.project, block.project_norm) if path]


def _common(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return what rows have in common at their beginning.

    Example::

        >>> _common([["layer1", "0", "conv1"], ["layer1", "0", "bn2"]])
        ['layer1', '0']
    """
    found = []
    for names in zip(*rows, strict=False):
        if len(set(names)) > 1:
            break
        found.append(names[0])
    return found


class Mixing:
    """A network that runs all of its options, weighted, until `end`.

    The module of a block runs once for each option that has a weight. Widths are mixed by scaling each channel by the
    weights of the widths that have it (FBNetV2, arXiv 2004.05565), so that they cost one run. A hidden width follows
    from the width that really comes in, which is the widest here: a mixture cannot say that a narrower input would have
    made the hidden layer narrower.

    Args:
        space: What can be chosen.
        leaves: The elastic modules of the network.
        gates: For each node the weight of each option, differentiable.
        shared: Whether the expansions of a kind and kernel share one run.

    Raises:
        ValueError: A block has no module of its own.
    """

    def __init__(self, space: SearchSpace, leaves: ElasticLeaves, gates: Sequence[Tensor], shared: bool) -> None:
        check_mixable(space, leaves.model)
        self._space, self._leaves = space, leaves
        self._handles: list[RemovableHandle] = []
        count = len(space.multipliers)
        pairs = list(zip(space.choices, gates[count:], strict=True))
        # A weight of exactly zero is that of an option that was not drawn, or that no budget allows.
        self._options = [choice.options[int(gate.detach().argmax())] for choice, gate in pairs]
        self._widths = list(space.network.sizes)
        writers = writers_of(space.network)
        for multiplier, gate in zip(space.multipliers, gates[:count], strict=True):
            self._mix_widths(multiplier, gate, writers)
        for number, (choice, gate) in enumerate(pairs):
            used = [(o, g) for o, g in zip(choice.options, gate, strict=True) if float(g.detach()) != 0]
            if _is_mixed(gate, used):
                self._mix_block(choice, _runs_of(number, choice, used, shared))
        self._run(self._options)

    def end(self) -> None:
        """Let every module run as itself again."""
        for handle in self._handles:
            handle.remove()

    def _run(self, options: Sequence[BlockOption]) -> None:
        widths = self._space.with_hidden(self._widths, options)
        self._leaves.run(*member_of(self._space, widths, options))

    def _mix_widths(self, multiplier: DepthMultiplier, gate: Tensor, writers: Mapping[int, Sequence[str]]) -> None:
        used = [(g, row) for g, row in zip(gate, multiplier.widths, strict=True) if float(g.detach()) != 0]
        for column, group in enumerate(multiplier.groups):
            sizes = [row[column] for _, row in used]
            self._widths[group] = max(sizes)
            if _is_mixed(gate, used):
                weights = _reaching([g for g, _ in used], sizes)
                for path in writers.get(group, ()):
                    module = self._leaves.model.get_submodule(path)
                    self._handles.append(module.register_forward_hook(_scaled(weights)))

    def _mix_block(self, choice: Choice, runs: Sequence[_Run]) -> None:
        """Let a block's module run several times: the call itself is the first, and its hook makes the others.

        Hooks, and no other `forward`: these are nothing that a step could change, and so stay where they are.
        """
        module = self._leaves.model.get_submodule(_module_of(choice, self._space, self._leaves.model))
        scaling: list[RemovableHandle] = []

        def begin(run: _Run) -> None:
            for handle in scaling:
                handle.remove()
            scaling.clear()
            self._run([run.option if place == run.number else own for place, own in enumerate(self._options)])
            if choice.block is not None and len(run.alike) > 1:
                sizes = [choice.hidden(option, self._widths, self._space.network.sizes) for option, _ in run.alike]
                weights = _reaching([gate / run.weight for _, gate in run.alike], sizes)
                project = self._leaves.model.get_submodule(choice.block.project)
                scaling.append(project.register_forward_pre_hook(_scaled_input(weights)))

        def first(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            begin(runs[0])

        def others(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            outputs = [runs[0].weight.to(output.dtype) * output]
            for run in runs[1:]:
                begin(run)
                outputs.append(run.weight.to(output.dtype) * module.forward(*inputs))
            for handle in scaling:
                handle.remove()
            return torch.stack(outputs).sum(0) if len(outputs) > 1 else outputs[0]

        # Before hooks of the user, which are to see the sum.
        self._handles.append(module.register_forward_pre_hook(first))
        self._handles.append(module.register_forward_hook(others, prepend=True))


@dataclass(frozen=True, eq=False)
class _Run:
    """One run of a block in a mixture.

    Attributes:
        number: The block, among the choices of the space.
        option: What runs.
        alike: The options that it stands for, with their weights.
    """

    number: int
    option: BlockOption
    alike: Used

    @property
    def weight(self) -> Tensor:
        return torch.stack([gate for _, gate in self.alike]).sum()


def _is_mixed(gate: Tensor, used: Sequence[object]) -> bool:
    """Return whether a node is mixed; one option alone is where its gate learns from the loss (GDAS)."""
    return len(used) > 1 or gate.requires_grad


def _runs_of(number: int, choice: Choice, used: Used, shared: bool) -> list[_Run]:
    """Return the runs of a block: one an option; or, shared, one of each kind and kernel at its largest expansion.

    The projection is linear: scaled by the weights of the expansions that have it, a hidden channel contributes what it
    would to the sum of their outputs, up to the norm behind the projection.
    """
    if not shared:
        return [_Run(number, option, [(option, gate)]) for option, gate in used]
    runs = []
    for structure in dict.fromkeys((option.kind, option.kernel) for option, _ in used):
        alike = [(option, gate) for option, gate in used if (option.kind, option.kernel) == structure]
        runs.append(_Run(number, max((o for o, _ in alike), key=lambda option: option.expansion), alike))
    return runs


def _scaled(weights: Tensor) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def hook(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        return output * _spread(weights, output)

    return hook


def _scaled_input(weights: Tensor) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * _spread(weights, inputs[0]), *inputs[1:])

    return hook


def _spread(weights: Tensor, values: Tensor) -> Tensor:
    """Return weights of channels in the shape of what they scale, repeated where a weight stands for several."""
    repeats = values.shape[1] // len(weights)
    return weights.repeat_interleave(repeats).view(-1, *[1] * (values.ndim - 2)).to(values.dtype)


def _reaching(gates: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Return for each channel the sum of the gates of the sizes that have it, shape (max size,)."""
    places = torch.arange(max(sizes), device=gates[0].device)
    return torch.stack([gate * (places < size) for gate, size in zip(gates, sizes, strict=True)]).sum(0)

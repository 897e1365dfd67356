"""`Mixing`: the weighted sum of all options of blocks and widths, for searches by a gradient through the choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_nas.graph.writers import writers_of
from lightning_nas.space.block_option import BlockOption
from lightning_nas.space.choice import Choice
from lightning_nas.space.spec import SearchSpace
from lightning_nas.supernet.elastic_leaves import ElasticLeaves
from lightning_nas.supernet.member import member_of

__all__ = ["Mixing"]

Used = Sequence[tuple[BlockOption, Tensor]]
"""Options with their weights, those without a weight left out."""


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
        ValueError: A block that is mixed has no module of its own.
    """

    def __init__(self, space: SearchSpace, leaves: ElasticLeaves, gates: Sequence[Tensor], shared: bool) -> None:
        self._space, self._leaves, self._shared = space, leaves, shared
        self._handles: list[RemovableHandle] = []
        self._mixed: list[nn.Module] = []
        self._writers = writers_of(space.network)
        count = len(space.multipliers)
        # A weight of exactly zero is that of an option that was not drawn, or that no budget allows.
        self._options = [choice.options[int(gate.detach().argmax())] for choice, gate in self._pairs(gates)]
        self._widths = list(space.network.sizes)
        for multiplier, gate in zip(space.multipliers, gates[:count], strict=True):
            self._mix_widths(multiplier.groups, multiplier.widths, gate)
        for number, (choice, gate) in enumerate(self._pairs(gates)):
            used = [(o, g) for o, g in zip(choice.options, gate, strict=True) if float(g.detach()) != 0]
            if len(used) > 1:
                self._mix_block(number, choice, used)
        self._run(self._options)

    def end(self) -> None:
        """Let every module run as itself again."""
        for handle in self._handles:
            handle.remove()
        for module in self._mixed:
            del vars(module)["forward"]

    def _pairs(self, gates: Sequence[Tensor]) -> list[tuple[Choice, Tensor]]:
        return list(zip(self._space.choices, gates[len(self._space.multipliers) :], strict=True))

    def _run(self, options: Sequence[BlockOption]) -> None:
        widths = self._space.with_hidden(self._widths, options)
        self._leaves.run(*member_of(self._space, widths, options))

    def _mix_widths(self, groups: Sequence[int], rows: Sequence[Sequence[int]], gate: Tensor) -> None:
        used = [(g, row) for g, row in zip(gate, rows, strict=True) if float(g.detach()) != 0]
        for column, group in enumerate(groups):
            sizes = [row[column] for _, row in used]
            self._widths[group] = max(sizes)
            if len(used) > 1:
                weights = _reaching([g for g, _ in used], sizes)
                for path in self._writers.get(group, ()):
                    module = self._leaves.model.get_submodule(path)
                    self._handles.append(module.register_forward_hook(_scaled(weights)))

    def _mix_block(self, number: int, choice: Choice, used: Used) -> None:
        if not choice.module:
            raise ValueError(
                f"The block at {choice.path!r} is no module of its own, and its options cannot be mixed. HINT: a"
                " strategy that trains single paths, such as Rloo."
            )
        module = self._leaves.model.get_submodule(choice.module)
        plain: Callable[..., Tensor] = module.forward
        run = self._run_shared if self._shared else self._run_each
        vars(module)["forward"] = partial(run, number, used, plain)
        self._mixed.append(module)

    def _run_each(self, number: int, used: Used, plain: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return the sum of a block's options, each by itself."""
        outputs = [gate.to(inputs[0].dtype) * self._as(number, option, plain, inputs) for option, gate in used]
        return torch.stack(outputs).sum(0)

    def _run_shared(self, number: int, used: Used, plain: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return the sum of a block's options, where each kind and kernel runs once, at its largest expansion.

        The projection is linear: scaled by the weights of the expansions that have it, a hidden channel contributes
        what it would to the sum of their outputs, up to the norm behind the projection.
        """
        outputs = []
        choice = self._space.choices[number]
        for kind, kernel in dict.fromkeys((option.kind, option.kernel) for option, _ in used):
            alike = [(option, gate) for option, gate in used if (option.kind, option.kernel) == (kind, kernel)]
            largest = max((option for option, _ in alike), key=lambda option: option.expansion)
            total = torch.stack([gate for _, gate in alike]).sum()
            handle = None
            if choice.block is not None and len(alike) > 1:
                sizes = [choice.hidden(option, self._widths, self._space.network.sizes) for option, _ in alike]
                weights = _reaching([gate / total for _, gate in alike], sizes)
                project = self._leaves.model.get_submodule(choice.block.project)
                handle = project.register_forward_pre_hook(_scaled_input(weights))
            outputs.append(total.to(inputs[0].dtype) * self._as(number, largest, plain, inputs))
            if handle is not None:
                handle.remove()
        return torch.stack(outputs).sum(0) if len(outputs) > 1 else outputs[0]

    def _as(self, number: int, option: BlockOption, plain: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Tensor:
        """Return what a block gives as one of its options."""
        if option.kind == "skip":
            return inputs[0]
        self._run([option if place == number else own for place, own in enumerate(self._options)])
        return plain(*inputs)


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

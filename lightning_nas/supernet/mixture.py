"""`Mixture`: the weighted sum of all options of a block, for searches by a gradient through the choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_nas.space.spec import BlockOption, SearchSpace, hidden_width
from lightning_nas.supernet.choice import ChoiceBlock

__all__ = ["Mixture", "channel_weights", "mixtures"]


@dataclass(frozen=True)
class Mixture:
    """The weighted sum of a block's options, at the widest of the widths that have a weight.

    Widths are mixed by scaling each output channel by the weights of the widths that have it (FBNetV2, arXiv
    2004.05565), so that they cost one run. A hidden width follows from the width that really comes in, which is the
    widest here: a mixture cannot say that a narrower input would have made the hidden layer narrower.

    Attributes:
        options: Weight of each option, shape (num_options,).
        channels: Weight of each output channel, shape (out_width,).
        shared: Whether the expansions of a kind and kernel share one run.
    """

    options: Tensor
    channels: Tensor
    shared: bool

    def __call__(self, block: ChoiceBlock, x: Tensor) -> Tensor:
        """Return the mixture, shape (N, out_width, H / stride, W / stride), before the residual is added."""
        # A weight of exactly zero is that of an option that was not drawn, or that no budget allows.
        used = [
            (option, gate)
            for option, gate in zip(block.options, self.options, strict=True)
            if float(gate.detach()) != 0
        ]
        run = self._run_shared if self.shared else self._run_each
        return run(block, x, used) * self.channels.view(-1, 1, 1).to(x.dtype)

    def _run_each(self, block: ChoiceBlock, x: Tensor, used: Sequence[tuple[BlockOption, Tensor]]) -> Tensor:
        width = len(self.channels)
        outputs = [gate.to(x.dtype) * block.candidate(option.kind)(x, option, width) for option, gate in used]
        return torch.stack(outputs).sum(0) if len(outputs) > 1 else outputs[0]

    def _run_shared(self, block: ChoiceBlock, x: Tensor, used: Sequence[tuple[BlockOption, Tensor]]) -> Tensor:
        """Run each kind and kernel once, at its largest expansion.

        The projection is linear: scaled by the weights of the expansions that have it, a hidden channel contributes
        what it would to the sum of their outputs, up to the norm behind the projection.
        """
        outputs = []
        for kind, kernel in dict.fromkeys((option.kind, option.kernel) for option, _ in used):
            alike = [(option, gate) for option, gate in used if (option.kind, option.kernel) == (kind, kernel)]
            candidate = block.candidate(kind)
            largest = max((option for option, _ in alike), key=lambda option: option.expansion)
            features = candidate.features(x, largest)
            total = torch.stack([gate for _, gate in alike]).sum()
            sizes = [min(features.shape[1], hidden_width(x.shape[1], option.expansion)) for option, _ in alike]
            hidden = _reaching([gate / total for _, gate in alike], sizes).view(-1, 1, 1).to(x.dtype)
            projected = candidate.project_norm(candidate.project(features * hidden, len(self.channels)))
            outputs.append(total.to(x.dtype) * projected)
        return torch.stack(outputs).sum(0) if len(outputs) > 1 else outputs[0]


def mixtures(space: SearchSpace, gates: Sequence[Tensor], shared: bool) -> list[Mixture]:
    """Return the mixture of each block.

    Args:
        space: What can be chosen.
        gates: For each node the weight of each option, differentiable.
        shared: Whether the expansions of a kind and kernel share one run.
    """
    found = []
    blocks = iter(gates[len(space.multipliers) :])
    for number, stage in enumerate(space.stages):
        channels = channel_weights(space, gates, number)
        found += [Mixture(next(blocks), channels, shared) for _ in stage.blocks]
    return found


def channel_weights(space: SearchSpace, gates: Sequence[Tensor], stage: int) -> Tensor:
    """Return the weight of each channel of a stage, `STEM` or `HEAD`, shape (width,).

    Args:
        space: What can be chosen.
        gates: As in `mixtures`.
        stage: One whose width is searched.
    """
    node, widths = space.stage_node(stage)
    used = [(gate, width) for gate, width in zip(gates[node], widths, strict=True) if float(gate.detach()) != 0]
    return _reaching([gate for gate, _ in used], [width for _, width in used])


def _reaching(gates: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Return for each channel the sum of the gates of the sizes that have it, shape (max size,)."""
    places = torch.arange(max(sizes), device=gates[0].device)
    return torch.stack([gate * (places < size) for gate, size in zip(gates, sizes, strict=True)]).sum(0)

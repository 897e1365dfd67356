"""`SourceJudge`: fits networks to a trained source on some images, and tells on others how far they are from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.space.spec import Encoding
from lightning_nas.supernet.derive import derive
from lightning_nas.supernet.last_layers import watching_layers
from lightning_nas.supernet.refine import fit_member
from lightning_nas.supernet.refit import fitted_blocks
from lightning_nas.supernet.source_outputs import SourceOutputs, run_network
from lightning_nas.supernet.supernet import find_supernet, owner_of

__all__ = ["FITTED_PART", "Judgement", "SourceJudge"]

# Blocks are fitted on the first part of the images and judged on the others.
FITTED_PART = 0.67
_BATCH = 64


@dataclass(frozen=True)
class Judgement:
    """How far a network is from the source.

    Attributes:
        error: The squared distance of what its last layers give, relative to its variance, on average over the layers.
        divergence: Of the classes, on average over images; NaN where the output is no classes.
        parts: What each batch adds to the distance of each output.
    """

    error: float
    divergence: float
    parts: tuple[tuple[float, ...], ...]


class SourceJudge:
    """A trained source network, the images that others are fitted to it on, and those on which they are judged.

    Args:
        network: A supernet with the weights of the trained network, its channels sorted, or a module of one; not
            changed.
        images: Training images, shape (N, 3, H, W), normalised. Two thirds are for fitting.
        refine_steps: Optimizer steps by which each changed block is refined once it is fitted, see `refine`; 0 for
            none.

    Attributes:
        network: The supernet.
        space: Its space.
        images: The images for fitting.
        batches: Those for judging.
        source: The source, as a plain network.
        blocks: Its blocks that can be fitted.
        outputs: What its last layers give.

    Raises:
        ValueError: There are fewer than 2 images.
    """

    def __init__(self, network: nn.Module, images: Tensor, refine_steps: int = 0) -> None:
        if len(images) < 2:
            raise ValueError(f"`images` must be 2 or more, for fitting and for judging; got {len(images)}.")
        supernet = find_supernet(network)
        self.network = owner_of(supernet, network)[1]
        self.space = supernet.space
        images = images.contiguous(memory_format=torch.channels_last)
        count = min(len(images) - 1, max(1, round(FITTED_PART * len(images))))
        self.images, self.batches = images[:count], list(images[count:].split(_BATCH))
        self.source = derive(self.network, self.space.reference_encoding)
        self.blocks = fitted_blocks(self.source, images[:1])
        self.outputs = SourceOutputs(self.source, self.batches)
        self.refine_steps = refine_steps

    def refitted(self, encoding: Encoding) -> nn.Module:
        """Return a member, its blocks fitted to the source's; the source itself is returned as it is."""
        if encoding == self.space.reference_encoding:
            return self.source
        subnet = derive(self.network, encoding)
        fit_member(subnet, self.source, self.images, self.space, encoding, self.refine_steps, self.blocks)
        return subnet

    def judge(
        self,
        subnet: nn.Module,
        resumed: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext(),
        before: Sequence[Sequence[float]] = (),
    ) -> Judgement:
        """Return how far a member is from the source.

        Args:
            subnet: The network.
            resumed: Gives the context in which it runs a batch, by the number of the batch.
            before: The parts of the network that it goes on from, for layers that do not run in this context.
        """
        divergence, parts = 0.0, []
        with evaluating(subnet):
            for number, images in enumerate(self.batches):
                with resumed(number), watching_layers(subnet, self.outputs.layers) as found:
                    result = run_network(subnet, images)
                distance = self.outputs.distance(found, result, number)
                divergence += distance.divergence
                pairs = enumerate(distance.outputs)
                parts.append(tuple(before[number][n] if part is None else part for n, part in pairs))
        sums = [sum(rows) for rows in zip(*parts, strict=True)]
        count = sum(map(len, self.batches))
        return Judgement(sum(sums) / len(sums), divergence / count, tuple(parts))

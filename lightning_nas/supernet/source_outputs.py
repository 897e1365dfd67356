"""`SourceOutputs`: what the last layers of a trained network give, and how far another network is from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_nas.graph.detector import without_detection
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.supernet.last_layers import last_layers, watching_layers

__all__ = ["Distance", "SourceOutputs", "run_network"]


def run_network(network: nn.Module, images: Tensor) -> object:
    """Return what the part of a network that an accelerator runs gives for images: of detectors no boxes."""
    return without_detection(network)(images)


@dataclass(frozen=True)
class Distance:
    """How far a network is from the source on a batch.

    Attributes:
        outputs: For each output of a last layer the squared difference as a part of its variance on all batches; None
            for one that did not run.
        divergence: The sum over images of the divergence of the classes; NaN where the output is no classes.
    """

    outputs: tuple[float | None, ...]
    divergence: float


class SourceOutputs:
    """What the last layers of a trained network give on some images, see `last_layers`, and what it gives itself.

    Args:
        source: The network.
        batches: Images, shape (N, 3, H, W).

    Attributes:
        layers: The last layers.
    """

    def __init__(self, source: nn.Module, batches: Sequence[Tensor]) -> None:
        self.layers = last_layers(source, batches[0])
        self._goals: list[list[Tensor]] = []
        self._results: list[object] = []
        with evaluating(source):
            for batch in batches:
                with watching_layers(source, self.layers) as found:
                    result = run_network(source, batch)
                self._goals.append([values for one in self.layers for values in found[one.path]])
                self._results.append(result)
        # A layer that runs several times, as one of a head that all levels share, has several outputs.
        self._owners = [(one.path, time) for one in self.layers for time in range(len(found[one.path]))]
        self._spreads = [_spread([goals[index] for goals in self._goals]) for index in range(len(self._owners))]

    def distance(self, found: Mapping[str, Sequence[Tensor]], result: object, batch: int) -> Distance:
        """Return how far what the last layers of a network gave is from what the source's gave.

        Args:
            found: What they gave, see `watching_layers`.
            result: What the network gave.
            batch: Number of the batch.
        """
        distances: list[float | None] = []
        for (path, time), goal, spread in zip(self._owners, self._goals[batch], self._spreads, strict=True):
            has_run = path in found
            distances.append(float((found[path][time] - goal).square().sum()) / spread if has_run else None)
        return Distance(tuple(distances), _divergence(result, self._results[batch]))


def _spread(goals: Sequence[Tensor]) -> float:
    """Return the sum of squared deviations of each channel from its mean over all batches."""
    rows = torch.cat([goal.transpose(0, 1).flatten(1) for goal in goals], dim=1)
    return max(1e-12, float((rows - rows.mean(1, keepdim=True)).square().sum()))


def _divergence(output: object, goal: object) -> float:
    if (
        not isinstance(output, Tensor)
        or not isinstance(goal, Tensor)
        or output.ndim not in (2, 4)
        or output.shape[1] < 2
    ):
        return float("nan")
    logs, wanted = (functional.log_softmax(one.float(), dim=1) for one in (output, goal))
    each = functional.kl_div(logs, wanted, reduction="none", log_target=True).sum(1)
    return float(each.flatten(1).mean(1).sum()) if each.ndim > 1 else float(each.sum())

"""`SourceMaps`: what the last layers of a trained network read and give, and how far another network is from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_nas.graph.detector import without_detection
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.labelling import Slot
from lightning_nas.supernet.read_maps import ReadMap, read_maps, watching_maps

__all__ = ["Distance", "SourceMaps", "run_network"]


def run_network(network: nn.Module, images: Tensor) -> object:
    """Return what the part of a network that an accelerator runs gives for images: of detectors no boxes."""
    return without_detection(network)(images)


@dataclass(frozen=True)
class Distance:
    """How far a network is from the source on a batch.

    Attributes:
        maps: For each read map the squared difference as a part of the map's variance on all batches; None for a map
            that did not run.
        divergence: The sum over images of the divergence of the classes; NaN where the output is no classes.
    """

    maps: tuple[float | None, ...]
    divergence: float


class SourceMaps:
    """The read maps of a trained network on some images, see `read_maps`, and its outputs.

    Args:
        source: The network.
        batches: Images, shape (N, 3, H, W).
        by_reader: Whether a channel counts by the squared weights that read it, in place of by its variance alone.

    Attributes:
        maps: The read maps.
        spread: For each map, and each time that it is read, the sum of squared deviations of each channel from its
            mean over all batches, shape (C,).
    """

    def __init__(self, source: nn.Module, batches: Sequence[Tensor], by_reader: bool = False) -> None:
        self.maps = read_maps(source, batches[0])
        self._goals: list[list[Tensor]] = []
        self._outputs: list[object] = []
        with evaluating(source):
            for batch in batches:
                with watching_maps(source, self.maps) as found:
                    output = run_network(source, batch)
                self._goals.append([_channels_first(one, values) for one in self.maps for values in found[one.reader]])
                self._outputs.append(output)
        # A map that is read several times, as by a head that all levels share, has several goals.
        self._owners = [(one, time) for one in self.maps for time in range(len(found[one.reader]))]
        spread = [_spread([goals[index] for goals in self._goals]) for index in range(len(self._owners))]
        self._weights = [_weights(source, one, by_reader) for one, _ in self._owners]
        self.spread = [rows * weights for rows, weights in zip(spread, self._weights, strict=True)]

    @property
    def slots(self) -> dict[str, Slot]:
        """The dimension of a parameter that counts the channels of each map, by the path of its reader."""
        return {one.reader: (f"{one.reader}.weight", 0 if one.is_transposed else 1) for one in self.maps}

    def dropped(self, kept: Mapping[str, Tensor]) -> tuple[float, ...]:
        """Return for each goal the part of its variance in channels that a network does not have.

        Args:
            kept: Indices of the channels that it has, by the path of the reader; those that are not named are whole.
        """
        found = []
        for (one, _), spread in zip(self._owners, self.spread, strict=True):
            total = float(spread.sum().clamp(min=1e-12))
            found.append(1 - float(spread[kept[one.reader]].sum()) / total if one.reader in kept else 0.0)
        return tuple(found)

    def distance(
        self, found: Mapping[str, Sequence[Tensor]], output: object, batch: int, kept: Mapping[str, Tensor]
    ) -> Distance:
        """Return how far what a network read and gave is from the source's.

        Args:
            found: The read maps of the network, see `watching_maps`.
            output: What it gave.
            batch: Number of the batch.
            kept: As in `dropped`.
        """
        distances: list[float | None] = []
        rows = zip(self._owners, self._goals[batch], self.spread, self._weights, strict=True)
        for (one, time), goal, spread, weights in rows:
            if one.reader not in found:
                distances.append(None)
                continue
            if one.reader in kept:
                goal, weights = goal[:, kept[one.reader]], weights[kept[one.reader]]
            error = (_channels_first(one, found[one.reader][time]) - goal).square().transpose(0, 1).flatten(1).sum(1)
            distances.append(float((error * weights).sum() / spread.sum().clamp(min=1e-12)))
        return Distance(tuple(distances), _divergence(output, self._outputs[batch]))


def _channels_first(one: ReadMap, values: Tensor) -> Tensor:
    return values if one.is_map else values.movedim(-1, 1)


def _weights(source: nn.Module, one: ReadMap, by_reader: bool) -> Tensor:
    """Return what each channel of a map counts: the sum of the squared weights that read it, or one."""
    weight = source.get_parameter(f"{one.reader}.weight").detach()
    dim = 0 if one.is_transposed or getattr(source.get_submodule(one.reader), "groups", 1) > 1 else 1
    squares = weight.square().transpose(0, dim).flatten(1).sum(1)
    return squares if by_reader else torch.ones_like(squares)


def _spread(goals: Sequence[Tensor]) -> Tensor:
    rows = torch.cat([goal.transpose(0, 1).flatten(1) for goal in goals], dim=1)
    return (rows - rows.mean(1, keepdim=True)).square().sum(1)


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

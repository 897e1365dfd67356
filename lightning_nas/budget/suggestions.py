"""Suggestions that a space around a network can apply: other blocks, other widths, blocks left out."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lightning_nas.budget.suggestion import Change, Suggestion, SuggestionKind, changed, network_cost, suggestion
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.space.block_option import SKIP, BlockOption, Kind
from lightning_nas.space.choice import Choice
from lightning_nas.space.spec import SearchSpace

__all__ = ["space_suggestions"]

# Of the latency: what saves less is not worth a change of the network.
_LEAST_SAVED = 0.003
# Narrower ones are other networks; and prices of so many widths show every step of the latency.
_LEAST_RATIO, _MOST_ROWS = 0.5, 8
# How much more a channel costs than the median width's, both as parts of a whole, for `narrow`.
_FAR_ABOVE, _ABOUT = 1.5, 0.85
# Half the channels have to save this much more than all of them.
_MORE = 1.15


@dataclass(frozen=True)
class _Width:
    """A width that can be chosen: of a multiplier, or the hidden channels of a block.

    Attributes:
        node: Its node.
        path: Where it is, for people.
        channels: Its channels.
        changes: By the number of channels, what sets it.
    """

    node: int
    path: str
    channels: int
    changes: dict[int, Change]


def space_suggestions(space: SearchSpace, estimator: CostModel) -> list[Suggestion]:
    """Return what a space can change so that its source gets faster, each priced alone.

    Every suggestion is priced as a whole network, since a narrower width is read by others and a fused block is cut
    otherwise.

    Args:
        space: The space around the network; it should offer the kinds ``ibn``, ``fused`` and ``skip``.
        estimator: The estimator of the device.
    """
    finder = _Finder(space, estimator)
    found = [*finder.blocks(), *finder.widths()]
    least_ms = _LEAST_SAVED * finder.source.latency_ms
    return [one for one in found if one.saved_ms >= least_ms or one.kind == "widen"]


class _Finder:
    def __init__(self, space: SearchSpace, estimator: CostModel) -> None:
        self.space, self.estimator, self.lanes = space, estimator, estimator.lanes
        self.source = network_cost(estimator, changed(space, []).network)

    def blocks(self) -> Iterator[Suggestion]:
        """Yield blocks of another kind, and blocks left out."""
        for node, choice in enumerate(self.space.choices, start=len(self.space.multipliers)):
            kinds = {kind for kind, kernel in choice.structures if kernel == choice.own.kernel}
            if choice.own.kind == "ibn" and "fused" in kinds:
                yield from self._fused(node, choice)
            if choice.own.kind == "fused" and "ibn" in kinds:
                yield self._of_block("unfuse", node, choice, replace(choice.own, kind="ibn"))
            if SKIP in choice.options:
                yield self._of_block("skip", node, choice, SKIP)

    def _fused(self, node: int, choice: Choice) -> Iterator[Suggestion]:
        """Yield the fused block of as many hidden channels, and where that saves more, of about half as many."""
        whole = self._of_block("fuse", node, choice, replace(choice.own, kind="fused"))
        yield whole
        narrow = self._hidden_changes(node, choice, "fused")
        unit = 1 if choice.block is None else self.space.network.units[choice.block.group]
        channels = min(narrow, key=lambda found: abs(2 * found - unit * choice.size), default=0)
        option = narrow[channels].block if channels else None
        if option is not None:
            half = self._of_block("fuse", node, choice, option)
            if half.saved_ms > max(_MORE * whole.saved_ms, 0.0):
                yield half

    def widths(self) -> list[Suggestion]:
        """Return widths that do not fill the lanes, and those that cost far more than others."""
        widths = [width for width in [*self._outer(), *self._hidden()] if width.changes]
        found, prices = [], []
        for width in widths:
            rows = {channels: self._of_width(width, channels) for channels in sorted(width.changes, reverse=True)}
            if width.channels % self.lanes:
                first = next(iter(rows))
                found.append(rows.pop(first))
            priced = [(self._price(width, *row), row[1]) for row in rows.items()]
            if priced:
                # Of widths that give up channels at about one price, the widest.
                most = max(price for price, _ in priced)
                prices.append(next(row for row in priced if row[0] >= _ABOUT * most or row[0] >= most))
        usual = statistics.median(price for price, _ in prices) if prices else 0.0
        found += [one for price, one in prices if price > _FAR_ABOVE * max(usual, 0.0)]
        return [*found, *self._free_widths()]

    def _price(self, width: _Width, channels: int, one: Suggestion) -> float:
        """Return the part of the latency that is saved over the part of the channels that is given up."""
        return one.saved_ms / self.source.latency_ms / (1 - channels / width.channels)

    def _outer(self) -> Iterator[_Width]:
        units = self.space.network.units
        for node, multiplier in enumerate(self.space.multipliers):
            unit, full = units[multiplier.groups[0]], multiplier.widths[-1]
            changes = {row[0] * unit: Change(node, widths=row) for row in multiplier.widths[:-1]}
            if len(full) == 1:
                changes = {
                    channels: Change(node, widths=(channels // unit,))
                    for channels in self._rows(full[0] * unit)
                    if channels % unit == 0
                }
            yield _Width(node, multiplier.name, full[0] * unit, changes)

    def _hidden(self) -> Iterator[_Width]:
        space = self.space
        for node, choice in enumerate(space.choices, start=len(space.multipliers)):
            if choice.block is None or not choice.size:
                continue
            unit = space.network.units[choice.block.group]
            changes = self._hidden_changes(node, choice, choice.own.kind)
            yield _Width(node, f"{choice.path} (hidden)", choice.size * unit, changes)

    def _hidden_changes(self, node: int, choice: Choice, kind: Kind) -> dict[int, Change]:
        """Return by their number what sets the hidden channels of a block, where it is of a kind."""
        assert choice.block is not None  # those without one have no hidden channels
        sizes = self.space.network.sizes
        num_in, unit = choice.inputs.at(sizes), self.space.network.units[choice.block.group]
        found = {}
        for channels in self._rows(choice.size * unit):
            option = BlockOption(kind, channels / unit / num_in, choice.own.kernel)
            if choice.hidden(option, sizes, sizes) * unit == channels:
                found[channels] = Change(node, option)
        return found

    def _rows(self, channels: int) -> list[int]:
        """Return the widths of full lanes below one: the next, and some down to half of it."""
        top = (channels - 1) // self.lanes
        least = max(1, -(-int(_LEAST_RATIO * channels) // self.lanes))
        steps = range(top, least - 1, -1)
        return [step * self.lanes for step in steps[:: -(-len(steps) // _MOST_ROWS) or 1]]

    def _of_block(self, kind: SuggestionKind, node: int, choice: Choice, option: BlockOption) -> Suggestion:
        words = {
            "fuse": f"fuse: {choice.own} -> {option}",
            "unfuse": f"unfuse: {choice.own} -> {option}",
            "skip": "leave this residual block out",
        }
        return self._priced(kind, choice.path, words[kind], Change(node, option))

    def _of_width(self, width: _Width, channels: int) -> Suggestion:
        is_next = width.channels % self.lanes and width.channels - channels < self.lanes
        lanes = f", whole lanes of {self.lanes}" if is_next else ""
        text = f"{width.channels} -> {channels} channels{lanes}"
        return self._priced("align" if is_next else "narrow", width.path, text, width.changes[channels])

    def _free_widths(self) -> Iterator[Suggestion]:
        """Yield widths that fill the lanes when they are rounded up, at no cost in latency."""
        network = self.space.network
        hidden = {c.block.group: c.path for c in self.space.choices if c.block is not None and c.size}
        outer = {m.groups[0]: m.name for m in self.space.multipliers if len(m.groups) == 1}
        options = [choice.own for choice in self.space.choices]
        for group, path in itertools.chain(outer.items(), ((g, f"{p} (hidden)") for g, p in hidden.items())):
            unit = network.units[group]
            channels = network.sizes[group] * unit
            wider = -(-channels // self.lanes) * self.lanes
            if wider == channels or wider % unit:
                continue
            widths = [*network.sizes]
            widths[group] = wider // unit
            after = network_cost(self.estimator, self.space.member(widths, options).network)
            if after.latency_ms <= self.source.latency_ms * (1 + _LEAST_SAVED / 3):
                text = f"{channels} -> {wider} channels cost no time: the lanes are there"
                yield suggestion("widen", (path, text), self.source, after)

    def _priced(self, kind: SuggestionKind, path: str, text: str, change: Change) -> Suggestion:
        after = network_cost(self.estimator, changed(self.space, [change]).network)
        return suggestion(kind, (path, text), self.source, after, change)

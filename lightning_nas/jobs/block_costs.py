"""Latency of a network by block: its priced parts, gathered into columns of a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from lightning_nas.graph.decompose import runs_of, subgraph_of
from lightning_nas.graph.fold import folded
from lightning_nas.graph.layer import Layer
from lightning_nas.graph.network import Operation
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.report.architecture_svg import BlockCost, BlockKind
from lightning_nas.space.architecture import Architecture
from lightning_nas.space.block_option import BlockOption

__all__ = ["block_costs"]

MAX_COLUMNS = 64
"""Of a picture that a person still reads; with more, columns of one module are one."""

_COLOURED: dict[str, BlockKind] = {"ibn": "ibn", "fused": "fused", "ds": "ds", "basic": "basic"}
# Dense and depthwise convolutions that blocks of each kind are made of.
_NUM_CONVS = {"ibn": 3, "fused": 2, "ds": 2, "basic": 2}
_WEIGHTED = ("conv", "depthwise", "transposed_conv", "linear")

Prices = Callable[[Sequence[Subgraph]], NDArray[np.float64]]
"""Returns the latency of each part of a network, such as `Estimator.predict_ms`."""


def block_costs(predict_ms: Prices, architectures: Sequence[Architecture]) -> list[list[BlockCost]]:
    """Return what each network costs block by block.

    A block is what a space chooses an option for, or what is priced as one. Other convolutions are columns of their
    own; additions, poolings and the like are part of the column beside them that is of the nearest module. Where that
    makes more columns than a picture can have, those of one module become one, in all networks alike.

    Args:
        predict_ms: Returns the latency of each part of a network.
        architectures: The networks: members of one space.
    """
    found = [_Columns(predict_ms, architecture).columns() for architecture in architectures]
    depths = range(max((len(_names(column.path)) for columns in found for column in columns), default=1), 0, -1)
    for depth in depths:
        if max(map(len, found)) <= MAX_COLUMNS:
            break
        found = [_gathered(columns, depth) for columns in found]
    return [[column.cost() for column in columns] for columns in found]


@dataclass(frozen=True)
class _Part:
    """A priced part of a network.

    Attributes:
        subgraph: The part.
        layers: What it runs.
        paths: The modules that run it.
        latency_ms: Its share of the latency.
    """

    subgraph: Subgraph
    layers: tuple[Layer, ...]
    paths: tuple[str, ...]
    latency_ms: float

    @property
    def is_weighted(self) -> bool:
        """Whether it has a convolution or a linear layer."""
        return any(layer.operator in _WEIGHTED for layer in self.layers)

    @property
    def convs(self) -> list[Layer]:
        """Its convolutions on more than single pixels; of a part with several all, however small its images are."""
        found = [layer for layer in self.layers if layer.operator in ("conv", "depthwise")]
        return found if len(found) > 1 else [layer for layer in found if layer.in_shape[:2] != (1, 1)]

    def convs_from(self, path: str) -> list[Layer]:
        """Return its convolutions from the first on that runs in a module: a part may be of two blocks."""
        before = next((place for place, own in enumerate(self.paths) if _is_within(own, path)), len(self.paths))
        return [layer for layer in self.convs if all(layer is not other for other in self.layers[:before])]

    def is_in(self, path: str) -> bool:
        """Return whether any of it runs in a module."""
        return any(_is_within(own, path) for own in self.paths)


@dataclass(frozen=True)
class _Column:
    """Consecutive parts that are shown as one.

    Attributes:
        path: Where they are.
        kind: What they make.
        parts: The parts.
        option: The option of the block, where it is one of a space.
    """

    path: str
    kind: BlockKind
    parts: tuple[_Part, ...]
    option: BlockOption | None = None

    @property
    def latency_ms(self) -> float:
        """Their share of the latency."""
        return sum(part.latency_ms for part in self.parts)

    def cost(self) -> BlockCost:
        """Return what a picture shows of them."""
        # Those that work on single pixels, such as squeeze-and-excitation, say nothing of its shape.
        convs = [part for part in self.parts if part.convs] or [part for part in self.parts if part.is_weighted]
        shown = [part.subgraph for part in convs or self.parts]
        first, last = shown[0], shown[-1]
        expansion, kernel = first.hidden_channels / first.in_channels, max(map(_kernel, shown))
        if self.option is not None and self.option.kind in _NUM_CONVS:
            expansion, kernel = self.option.expansion, self.option.kernel
        return BlockCost(
            name=self.path,
            kind=self.kind,
            in_width=first.in_channels,
            # The width of a head is that of its convolution; its outputs are the classes.
            out_width=last.hidden_channels if last.kind == "head" else last.out_channels,
            expansion=expansion,
            kernel=kernel,
            stride=max(map(_stride, shown)),
            resolution=_resolution(last),
            latency_ms=self.latency_ms,
        )


class _Columns:
    """Gathers the parts of one network."""

    def __init__(self, predict_ms: Prices, architecture: Architecture) -> None:
        network = folded(architecture.network)
        runs = [(kind, [network.operations[n] for n in numbers]) for kind, numbers in runs_of(network)]
        subgraphs = [subgraph_of(kind, operations) for kind, operations in runs]
        shares = _shares(predict_ms(subgraphs)).tolist()
        self._parts = [
            _part(subgraph, run, share) for subgraph, (_, run), share in zip(subgraphs, runs, shares, strict=True)
        ]
        self._blocks = architecture.blocks
        self._owners: list[int | None] = [None] * len(self._parts)
        self._found: list[tuple[str, BlockKind, BlockOption | None]] = []

    def columns(self) -> list[_Column]:
        """Return the columns, in order of execution."""
        for path, option in self._blocks:
            self._own(self._members(path, option.kind), path, _COLOURED.get(option.kind, "other"), option)
        for number, part in enumerate(self._parts):
            if part.subgraph.kind in _COLOURED:
                self._own([number], _place(part.paths), _COLOURED[part.subgraph.kind])
        self._join_modules()
        for number, part in enumerate(self._parts):
            if part.is_weighted and not self._is_aside(number):
                self._own([number], _place(part.paths), "other")
        self._join_rest()
        order = dict.fromkeys(owner for owner in self._owners if owner is not None)
        return [self._column(owner) for owner in order]

    def _column(self, owner: int) -> _Column:
        path, kind, option = self._found[owner]
        parts = (part for part, own in zip(self._parts, self._owners, strict=True) if own == owner)
        return _Column(path, kind, tuple(parts), option)

    def _own(self, numbers: Iterable[int], path: str, kind: BlockKind, option: BlockOption | None = None) -> None:
        """Make those of some parts that are free a column."""
        free = [number for number in numbers if self._owners[number] is None]
        for number in free:
            self._owners[number] = len(self._found)
        if free:
            self._found.append((path, kind, option))

    def _members(self, path: str, kind: str) -> Iterable[int]:
        """Return the parts of a block: those in its module, or those behind its first convolution up to its last."""
        inside = [number for number, part in enumerate(self._parts) if part.is_in(path)]
        convs = [layer for number in inside for layer in self._parts[number].convs_from(path)]
        missing = _NUM_CONVS.get(kind, 0) - len(convs)
        if not convs or missing <= 0:
            return inside
        hidden = convs[-1].out_channels
        for number in range(inside[-1] + 1, len(self._parts)):
            # Others run beside the block.
            missing -= sum(layer.in_channels == hidden for layer in self._parts[number].convs)
            if missing <= 0:
                return range(inside[0], number + 1)
        return inside

    def _is_aside(self, number: int) -> bool:
        """Whether a part is on single pixels in the module of the one before it, as squeeze-and-excitation is."""
        part = self._parts[number]
        return number > 0 and not part.convs and _shared(part.paths[0], self._parts[number - 1].paths[0]) > 0

    def _join_modules(self) -> None:
        """Let blocks have what is beside them in their modules, such as the projection of a residual."""
        for owner in range(len(self._found)):
            numbers = [number for number, own in enumerate(self._owners) if own == owner]
            module = _common(path for number in numbers for path in self._parts[number].paths)
            inside = [number for number, part in enumerate(self._parts) if part.is_in(module)]
            blocks = {self._owners[number] for number in inside} - {None}
            own, all_ = (sum(len(self._parts[n].convs) for n in some) for some in (numbers, inside))
            # A module with one block and much else is no block.
            if module and blocks == {owner} and all_ <= 2 * own:
                for number in inside:
                    self._owners[number] = owner

    def _join_rest(self) -> None:
        """Let each part that is left be of the column beside it whose module is nearest."""
        owners, first = self._owners, next((own for own in self._owners if own is not None), None)
        if first is None:
            self._own(range(len(owners)), _place(self._parts[0].paths), "other")
            return
        before = first
        for number, part in enumerate(self._parts):
            if owners[number] is None:
                after = next((own for own in owners[number:] if own is not None), before)
                owners[number] = max((before, after), key=lambda own: _shared(part.paths[0], self._found[own][0]))
            before = owners[number] or before


def _part(subgraph: Subgraph, run: Sequence[Operation], latency_ms: float) -> _Part:
    return _Part(
        subgraph, tuple(operation.layer for operation in run), tuple(operation.path for operation in run), latency_ms
    )


def _gathered(columns: Sequence[_Column], depth: int) -> list[_Column]:
    """Make consecutive columns one that are in the same module at a depth."""
    groups = (list(group) for _, group in groupby(columns, key=lambda column: _names(column.path)[:depth]))
    return [_merged(group, depth) if len(group) > 1 else group[0] for group in groups]


def _merged(columns: Sequence[_Column], depth: int) -> _Column:
    kinds: dict[BlockKind, float] = {}
    for column in columns:
        kinds[column.kind] = kinds.get(column.kind, 0.0) + column.latency_ms
    path = ".".join(_names(columns[0].path)[:depth])
    return _Column(path, max(kinds, key=kinds.__getitem__), tuple(part for column in columns for part in column.parts))


def _shares(latency_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return latencies of the same sum of which none is negative, as what networks have in common may be."""
    positive = np.maximum(latency_ms, 0)
    # The bound only avoids 0 / 0 where no latency is positive.
    shares: NDArray[np.float64] = positive * max(latency_ms.sum(), 0) / max(positive.sum(), 1e-12)
    return shares


def _kernel(part: Subgraph) -> int:
    return part.kernel if part.form is None else max(part.form.window)


def _stride(part: Subgraph) -> int:
    return part.stride if part.form is None else max(part.form.step)


def _resolution(part: Subgraph) -> tuple[int, int]:
    """Return height and width behind its last convolution; a pooling and a linear layer behind that have none."""
    shapes = [layer.out_shape for layer in part.layers if layer.operator not in ("pool", "linear")]
    height, width, _ = shapes[-1] if shapes else (part.height, part.width, 0)
    return height, width


def _names(path: str) -> list[str]:
    return path.split(".")


def _is_within(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def _shared(path: str, other: str) -> int:
    """Return how many modules hold both."""
    pairs = list(zip(_names(path), _names(other), strict=False))
    return next((number for number, (one, two) in enumerate(pairs) if one != two), len(pairs))


def _place(paths: Sequence[str]) -> str:
    """Return the innermost module that holds all; where that is the whole network, the first."""
    return _common(paths) or next(filter(None, paths), "network")


def _common(paths: Iterable[str]) -> str:
    """Return the innermost module that holds all; empty for the whole network."""
    first, *others = paths
    return ".".join(_names(first)[: min([_shared(first, other) for other in others], default=None)])

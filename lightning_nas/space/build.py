"""Search spaces of networks: which widths can be chosen, and what each block can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lightning_nas.graph.blocks import Block
from lightning_nas.graph.elastic_network import ChannelCount, ElasticNetwork
from lightning_nas.graph.sizes import hidden_width
from lightning_nas.io.numbers import check_number
from lightning_nas.space.block_option import SKIP, BlockOption, Kind
from lightning_nas.space.choice import Choice
from lightning_nas.space.curate import curated_widths
from lightning_nas.space.left_out import LeftOut
from lightning_nas.space.multiplier import DepthMultiplier
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.spec import SearchSpace
from lightning_nas.space.tied import tied

__all__ = ["build_space"]

_OWN = BlockOption("own")
# A width that follows from more groups than these would make costs that depend on too many choices.
_MAX_SOURCES = 2


def build_space(
    network: ElasticNetwork,
    blocks: Sequence[Block],
    residuals: Sequence[str],
    lanes: int = 8,
    options: SpaceOptions | None = None,
) -> SearchSpace:
    """Return the search space around a network.

    The hidden width of a block follows from its option and its input width; all other widths have depth multipliers,
    one for two or more where too many meet (see `tied`).

    Args:
        network: The network as data, with its width groups.
        blocks: Its blocks, see `blocks_of`.
        residuals: Paths of its residual modules, see `residuals`.
        lanes: Parallelism factor of the device (`Estimator.lanes`).
        options: What is offered; by default that of `SpaceOptions`.

    Raises:
        ValueError: The lanes are not positive, an explicit width is not valid, or a pattern matches nothing.
    """
    check_number("lanes", lanes, whole=True, least=1)
    return _Builder(network, lanes, options or SpaceOptions()).space(blocks, residuals)


@dataclass(frozen=True)
class _Place:
    """Where channels of a group are first written."""

    order: int
    rows: int
    columns: int


class _Builder:
    def __init__(self, network: ElasticNetwork, lanes: int, options: SpaceOptions) -> None:
        self._network, self._lanes, self._options = network, lanes, options
        self._places = _places(network)
        self._numbers: dict[str, int] = {}
        for number, operation in enumerate(network.network.operations):
            self._numbers.setdefault(operation.path, number)
        self._hidden: set[int] = set()
        self._left_out: list[LeftOut] = []

    def space(self, blocks: Sequence[Block], residuals: Sequence[str]) -> SearchSpace:
        """Return the space."""
        self._check_patterns(blocks, residuals)
        choices = self._choices(blocks, residuals)
        hidden = {choice.block.group for choice in choices if choice.block is not None and choice.size}
        for number, width in enumerate(self._network.widths):
            if reason := width.frozen or ("" if number in hidden else self._unwanted(width.name)):
                self._left_out.append(LeftOut(width.name, "width", reason))
        left = {part.path for part in self._left_out if part.what == "width"}
        free = [g for g in self._network.open if g not in hidden and self._network.widths[g].name not in left]
        # Those of blocks that are left out stay as they are.
        free = [group for group in free if group in self._places]
        return tied(SearchSpace(self._network, self._multipliers(free), choices, tuple(self._left_out)))

    def _unwanted(self, name: str) -> str:
        """Return why a width stays as the user wants it; empty where it may be another."""
        if not self._options.admits(name):
            return "`only` or `except_` leaves it out"
        explicit = self._options.explicit(name)
        return "`widths` leaves it its own" if explicit is not None and not explicit else ""

    def _check_patterns(self, blocks: Sequence[Block], residuals: Sequence[str]) -> None:
        options = self._options
        paths = [*(w.name for w in self._network.widths), *map(_path, blocks), *residuals]
        for name, patterns in (("only", options.only), ("except_", options.except_), ("widths", options.widths or ())):
            for pattern in patterns:
                if not any(SpaceOptions(only=[pattern]).admits(path) for path in paths):
                    raise ValueError(
                        f"The pattern {pattern!r} of `{name}` matches no width and no block; the first of"
                        f" {len(paths)} paths are {', '.join(paths[:4])}."
                    )

    def _choices(self, blocks: Sequence[Block], residuals: Sequence[str]) -> tuple[Choice, ...]:
        skipped = [path for path in residuals if "skip" in self._options.kinds and self._options.admits(path)]
        left = list(skipped)
        found: list[Choice] = []
        self._hidden = {b.group for b in blocks if b.kind != "ds" and self._options.admits(_path(b))}
        for block in blocks:
            if not self._options.admits(_path(block)):
                continue
            # What holds this block alone is left out with it; others are choices of their own.
            around = next((p for p in residuals if [b for b in blocks if _is_inside(b, p)] == [block]), "")
            choice = self._choice(block, around or block.module or _path(block), around if around in skipped else "")
            if choice is not None:
                left = [path for path in left if path != around]
                found.append(choice)
        found += [Choice(path, (_OWN, SKIP), _OWN, residual=path) for path in left]
        return tuple(sorted(found, key=self._order))

    def _order(self, choice: Choice) -> int:
        start = choice.block and (choice.block.expand or choice.block.depthwise)
        if start:
            return self._numbers[start]
        return min(n for path, n in self._numbers.items() if path == choice.path or path.startswith(f"{choice.path}."))

    def _choice(self, block: Block, path: str, residual: str) -> Choice | None:
        kernel, columns = block.kernel
        if kernel != columns or kernel % 2 == 0:
            return None
        kernels = sorted({kernel, *self._options.kernels})
        skips = (SKIP,) if residual else ()
        if block.kind == "ds":
            options = (*(BlockOption("ds", 1.0, size) for size in kernels), *skips)
            return (
                Choice(path, options, BlockOption("ds", 1.0, kernel), block, 0, residual=residual)
                if len(options) > 1
                else None
            )
        size = self._network.sizes[block.group]
        inputs = self._network.counts[self._numbers[block.expand]][0]
        if not inputs.gains:
            return None  # the first convolution of a network
        # Hidden widths that follow from each other would all follow from the first block's option.
        fixed = self._hidden.union(set(range(len(self._network.widths))) - set(self._network.open))
        if len(inputs.gains) > _MAX_SOURCES or fixed.intersection(inputs.groups):
            inputs = ChannelCount(inputs.at(self._network.sizes))
        num_in = inputs.at(self._network.sizes)
        own = size / num_in
        kinds, expansions = self._kinds(block), self._expansions(own, num_in)
        grid = (BlockOption(kind, e, k) for kind in kinds for e in expansions for k in kernels)
        options = tuple(dict.fromkeys([*grid, *skips]))
        return Choice(path, options, BlockOption(block.kind, own, kernel), block, size, inputs, residual)

    def _kinds(self, block: Block) -> list[Kind]:
        offered: list[Kind] = [kind for kind in self._options.kinds if kind in ("ibn", "fused")]
        if block.kind == "basic":
            return [block.kind]
        if block.unfusable and any(kind != block.kind for kind in offered):
            self._left_out.append(LeftOut(_path(block), "block", block.unfusable))
            return [block.kind]
        return list(dict.fromkeys([*offered, block.kind]))

    def _expansions(self, own: float, num_in: int) -> list[float]:
        below = [expansion for expansion in self._options.expansions if expansion < own]
        below = below or [own * ratio for ratio in self._options.ratios if ratio < 1]
        # Of those that round to the same channels the largest is kept.
        found = {hidden_width(num_in, expansion): expansion for expansion in sorted(below)}
        return [*(e for width, e in sorted(found.items()) if width < round(own * num_in)), own]

    def _multipliers(self, groups: Sequence[int]) -> tuple[DepthMultiplier, ...]:
        options, widths = self._options, self._network.widths
        columns = {group: self._column(group) for group in groups}
        if options.scope == "group":
            found = (
                DepthMultiplier(widths[g].name, (g,), tuple((w,) for w in column)) for g, column in columns.items()
            )
            return tuple(multiplier for multiplier in found if len(multiplier.widths) > 1)
        tied: dict[str, list[int]] = {}
        for group in groups:
            place = self._places[group]
            name = "model" if options.scope == "model" else f"stage {place.rows}x{place.columns}"
            tied.setdefault(name, []).append(group)
        found = (DepthMultiplier(name, tuple(members), self._rows(members)) for name, members in tied.items())
        return tuple(multiplier for multiplier in found if len(multiplier.widths) > 1)

    def _column(self, group: int) -> tuple[int, ...]:
        """Return the widths that a group can have, ascending."""
        width, explicit = self._network.widths[group], self._options.explicit(self._network.widths[group].name)
        if explicit is None:
            return self._aligned(group, self._options.ratios)
        unit = self._network.units[group]
        full = width.size * unit
        for offered in explicit:
            if offered > full:
                raise ValueError(f"Width {offered} of {width.name} must be above 0 and at most {full}.")
            if (offered % self._lanes or offered % unit) and offered != full:
                valid = [channels for channels in range(unit, full, unit) if channels % self._lanes == 0]
                raise ValueError(
                    f"Width {offered} of {width.name} is not a multiple of the device's {self._lanes} lanes"
                    f"{f' and of its {unit} channels a group' if unit > 1 else ''}; valid are "
                    f"{', '.join(map(str, valid[:12]))} and the full width {full}."
                )
        return tuple(sorted({*(offered // unit for offered in explicit), width.size}))

    def _aligned(self, group: int, ratios: Iterable[float]) -> tuple[int, ...]:
        """Return widths of a group whose channels fill the lanes."""
        size, unit = self._network.sizes[group], self._network.units[group]
        channels = curated_widths(size * unit, tuple(ratios), self._lanes)
        return tuple(sorted({-(-width // unit) for width in channels}))

    def _rows(self, groups: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        rows = {tuple(self._aligned(group, (ratio,))[0] for group in groups) for ratio in self._options.ratios}
        return tuple(sorted({*rows, tuple(self._network.sizes[group] for group in groups)}))


def _places(network: ElasticNetwork) -> Mapping[int, _Place]:
    found: dict[int, _Place] = {}
    for number, (operation, (_, result)) in enumerate(zip(network.network.operations, network.counts, strict=True)):
        rows, columns, _ = operation.layer.out_shape
        for group in result.groups:
            found.setdefault(group, _Place(number, rows, columns))
    return found


def _path(block: Block) -> str:
    return block.expand or block.depthwise


def _is_inside(block: Block, path: str) -> bool:
    return _path(block).startswith(f"{path}.")

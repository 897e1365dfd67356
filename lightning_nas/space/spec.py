"""`SearchSpace`: all networks that a supernet holds, as frozen data without tensors."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias

from lightning_nas.graph.elastic_network import ElasticNetwork
from lightning_nas.graph.structures import Structures
from lightning_nas.io.numbers import check_number
from lightning_nas.io.reading import parse_json
from lightning_nas.space.architecture import Architecture
from lightning_nas.space.block_option import BlockOption
from lightning_nas.space.choice import Choice
from lightning_nas.space.lanes import HasLanes, aligned_width
from lightning_nas.space.left_out import LeftOut
from lightning_nas.space.multiplier import DepthMultiplier
from lightning_nas.space.space_files import space_fields, space_to_dict
from lightning_nas.space.table import space_table

__all__ = ["Architecture", "BlockOption", "Choice", "DepthMultiplier", "Encoding", "SearchSpace"]

Encoding: TypeAlias = tuple[int, ...]
"""An architecture of a space as indices of the options chosen, one per multiplier and choice block, multipliers first:
`SearchSpace.decode` and `SearchSpace.encode` convert between the two."""


@dataclass(frozen=True)
class SearchSpace:
    """All networks that a supernet holds.

    A member is named by one integer a *node*: first one for each depth multiplier, then one for each block.

    Attributes:
        network: The source network, with its width groups.
        multipliers: The depth multipliers; none two scale the same group.
        choices: The blocks with their options, in order of execution.
        left_out: What is not searched, with the reason; not compared.

    Raises:
        ValueError: The parts do not fit each other.
    """

    network: ElasticNetwork
    multipliers: tuple[DepthMultiplier, ...]
    choices: tuple[Choice, ...]
    left_out: tuple[LeftOut, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        hidden = [choice.block.group for choice in self.choices if choice.block is not None and choice.size]
        scaled = [group for multiplier in self.multipliers for group in multiplier.groups]
        if len({*hidden, *scaled}) < len(hidden) + len(scaled):
            raise ValueError("A width group can be scaled by one depth multiplier, or by one block; one is by two.")
        for multiplier in self.multipliers:
            full = tuple(self.network.sizes[group] for group in multiplier.groups)
            if multiplier.widths[-1] != full or any(
                width > limit for row in multiplier.widths for width, limit in zip(row, full, strict=True)
            ):
                raise ValueError(f"Widths of {multiplier} must end at {full}; got {multiplier.widths}.")

    @cached_property
    def node_sizes(self) -> tuple[int, ...]:
        """Number of options of each node: depth multipliers first, then blocks."""
        return (*(len(m.widths) for m in self.multipliers), *(len(c.options) for c in self.choices))

    @property
    def num_architectures(self) -> int:
        """Number of members."""
        return math.prod(self.node_sizes)

    @property
    def reference_encoding(self) -> Encoding:
        """The source network: its own options at full width."""
        return (*(len(m.widths) - 1 for m in self.multipliers), *(choice.reference for choice in self.choices))

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of one image (CHW)."""
        height, width, channels = self.network.network.image_shape
        return channels, height, width

    @cached_property
    def structures(self) -> Structures:
        """The source network, and what the kinds and kernels of its blocks change in it."""
        return Structures(self.network, tuple(choice.edits(self.network) for choice in self.choices))

    @cached_property
    def nodes_of(self) -> Mapping[int, tuple[int, ...]]:
        """For each width group that is searched, the nodes that its width follows from, ascending."""
        found: dict[int, tuple[int, ...]] = {}
        for node, multiplier in enumerate(self.multipliers):
            found |= dict.fromkeys(multiplier.groups, (node,))
        for node, choice in enumerate(self.choices, start=len(self.multipliers)):
            if choice.block is not None and choice.size:
                sources = itertools.chain(*(found.get(group, ()) for group in choice.inputs.groups))
                found[choice.block.group] = tuple(sorted({node, *sources}))
        return found

    def widths(self, encoding: Sequence[int]) -> tuple[int, ...]:
        """Return the width of each group, by its number, for the options chosen."""
        found = list(self.network.sizes)
        for multiplier, number in zip(self.multipliers, encoding, strict=False):
            for group, width in zip(multiplier.groups, multiplier.widths[number], strict=True):
                found[group] = width
        return self.with_hidden(found, self.options(encoding))

    def with_hidden(self, widths: Sequence[int], options: Sequence[BlockOption]) -> tuple[int, ...]:
        """Return the width of each group, those within blocks as the options give them for the others."""
        found = list(widths)
        for choice, option in zip(self.choices, options, strict=True):
            if choice.block is not None and choice.size:
                found[choice.block.group] = choice.hidden(option, found, self.network.sizes)
        return tuple(found)

    def options(self, encoding: Sequence[int]) -> list[BlockOption]:
        """Return the option of each block."""
        pairs = zip(self.choices, encoding[len(self.multipliers) :], strict=True)
        return [choice.options[number] for choice, number in pairs]

    @property
    def feature_modules(self) -> list[str]:
        """Paths of the modules that give the feature maps behind its blocks, in order of execution."""
        return list(dict.fromkeys(choice.output for choice in self.choices))

    def curate(self, device: HasLanes | int) -> SearchSpace:
        """Return the space with its widths rounded to the lanes of a device; those that become the same are one option.

        Args:
            device: Anything with `lanes`, such as an estimator, or their number.

        Raises:
            ValueError: The lanes are not positive.
        """
        lanes = device.lanes if isinstance(device, HasLanes) else device
        check_number("lanes", lanes, whole=True, least=1)
        multipliers, units = [], self.network.units
        for multiplier in self.multipliers:
            full = multiplier.widths[-1]
            rows = (zip(row, full, multiplier.groups, strict=True) for row in multiplier.widths)
            rounded = {tuple(aligned_width(limit, w / limit, units[g], lanes) for w, limit, g in row) for row in rows}
            multipliers.append(replace(multiplier, widths=tuple(sorted({*rounded, full}))))
        return replace(self, multipliers=tuple(multipliers))

    def decode(self, encoding: Sequence[int]) -> Architecture:
        """Return the architecture of an encoding: the index of the chosen option of each node.

        Raises:
            ValueError: It has another number of indices than the space has nodes, or one is out of range.
        """
        if len(encoding) != len(self.node_sizes) or any(
            # Integers of NumPy and PyTorch are indices as well.
            not (hasattr(node, "__index__") and 0 <= node < size)
            for node, size in zip(encoding, self.node_sizes, strict=False)
        ):
            raise ValueError(f"`encoding` must hold one index below each of {self.node_sizes}; got {tuple(encoding)}.")
        return self.member(self.widths(encoding), self.options(encoding))

    def member(self, widths: Sequence[int], options: Sequence[BlockOption]) -> Architecture:
        """Return the network at any widths with any options, which need not be among those that are offered.

        Args:
            widths: The width of each group, by its number.
            options: The option of each block; its kind and kernel must be among those that are offered.
        """
        pairs = enumerate(zip(self.choices, options, strict=True))
        chosen = {number: choice.structure_of(option) for number, (choice, option) in pairs}
        names = tuple((self.network.widths[group].name, widths[group]) for group in self.network.open)
        blocks = tuple((choice.path, option) for choice, option in zip(self.choices, options, strict=True))
        return Architecture(names, blocks, self.structures.at(chosen).at(widths))

    def widths_of(self, architecture: Architecture) -> tuple[int, ...]:
        """Return the width of each group of an architecture, by its number."""
        named = dict(architecture.widths)
        return tuple(named.get(width.name, width.size) for width in self.network.widths)

    def encode(self, architecture: Architecture) -> Encoding:
        """Return the option index of each node; the inverse of `decode`.

        Raises:
            ValueError: The architecture is not a member; the message names the first part that is not.
        """
        widths, options = self.widths_of(architecture), dict(architecture.blocks)
        encoding: list[int] = []
        for multiplier in self.multipliers:
            row = tuple(widths[group] for group in multiplier.groups)
            if row not in multiplier.widths:
                raise ValueError(f"Widths of {multiplier} can be {multiplier.widths}; got {row}.")
            encoding.append(multiplier.widths.index(row))
        for choice in self.choices:
            option = options.get(choice.path)
            if option not in choice.options:
                offered = ", ".join(map(str, choice.options))
                raise ValueError(f"Block {choice.path!r} offers {offered}; got {option}.")
            encoding.append(choice.options.index(option))
        if self.decode(encoding) != architecture:
            raise ValueError("The architecture differs from the space outside its choices: it is of another network.")
        return tuple(encoding)

    def to_json(self) -> str:
        """Return the JSON text of the space."""
        parts = self.network, self.multipliers, self.choices
        return json.dumps({**space_to_dict(*parts), "left_out": [list(vars(part).values()) for part in self.left_out]})

    @classmethod
    def from_json(cls, text: str) -> SearchSpace:
        """Read the JSON text of `to_json`.

        Raises:
            ValueError: A field is missing or of the wrong form.
        """
        network, multipliers, choices, left_out = space_fields(parse_json(text, "A search space"))
        return cls(network, multipliers, choices, tuple(LeftOut(*row) for row in left_out))

    def table(self) -> str:
        """Return what can be chosen, and what is not searched with the reason, as text; see `space_table`."""
        return space_table(self.multipliers, self.choices, self.left_out, self.network.units)

    def __str__(self) -> str:
        counts = f"{len(self.multipliers)} widths and {len(self.choices)} blocks"
        return f"{counts}: {self.num_architectures:.3g} architectures"

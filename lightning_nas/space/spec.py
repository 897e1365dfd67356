"""`SearchSpace` and `Architecture`: frozen data, without tensors."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, TypeAlias, get_args

from lightning_nas.graph.sizes import hidden_width, out_size
from lightning_nas.io.numbers import check_number, check_numbers
from lightning_nas.io.reading import FORMAT, JsonObject, parse_json, reading, whole
from lightning_nas.space import _limits as limits
from lightning_nas.space.lanes import HasLanes, round_to_lanes
from lightning_nas.space.multiplier import HEAD, STEM, DepthMultiplier
from lightning_nas.space.tail import Tail

__all__ = [
    "HEAD",
    "STEM",
    "Architecture",
    "BlockOption",
    "Choice",
    "ConvSpec",
    "DepthMultiplier",
    "Encoding",
    "FixedBlock",
    "Kind",
    "SearchSpace",
    "Stage",
    "StageArchitecture",
    "hidden_width",
    "out_size",
]

Encoding: TypeAlias = tuple[int, ...]
"""An architecture of a space as indices of the options chosen, one per multiplier and choice block, multipliers first:
`SearchSpace.decode` and `SearchSpace.encode` convert between the two."""

Kind = Literal["ibn", "fused", "ds"]
"""Block kinds: ``ibn`` is the inverted bottleneck (1x1 expand, KxK depthwise, 1x1 project; MobileNetV2,
arXiv 1801.04381), ``fused`` the fused inverted bottleneck (KxK expand, 1x1 project; MobileDets, arXiv
2004.14525), ``ds`` the depthwise-separable block (KxK depthwise, 1x1 project), an IBN without expansion."""


@dataclass(frozen=True, order=True)
class BlockOption:
    """One way to run a block.

    Attributes:
        kind: ``ibn``, ``fused`` or ``ds``.
        expansion: Hidden channels over input channels; 1 for ``ds``.
        kernel: Odd spatial size of the depthwise (IBN, DS) or of the expanding (fused) convolution.

    Example::

        >>> str(BlockOption("fused", 4, 3))
        'fused e4 k3'
    """

    kind: Kind
    expansion: float
    kernel: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"`kind` must be one of {', '.join(get_args(Kind))}; got {self.kind!r}.")
        check_number("expansion", self.expansion, above=0)
        check_number("kernel", self.kernel, whole=True, least=1)
        if self.kind == "ds" and self.expansion != 1:
            raise ValueError(f"`expansion` of a 'ds' block must be 1; got {self.expansion}.")
        if self.kernel % 2 == 0:
            raise ValueError(f"`kernel` must be odd; got {self.kernel}.")

    def __str__(self) -> str:
        return f"{self.kind} e{self.expansion:g} k{self.kernel}"


@dataclass(frozen=True)
class Choice:
    """The options of one block position, and its stride.

    The first option has no special role; `SearchSpace.reference` says which options the source network had.
    """

    stride: int
    options: tuple[BlockOption, ...]

    def __post_init__(self) -> None:
        check_number("stride", self.stride, whole=True)
        if self.stride not in (1, 2):
            raise ValueError(f"`stride` must be 1 or 2; got {self.stride}.")
        if not self.options:
            raise ValueError("A block needs at least one option; got none.")
        if len(set(self.options)) != len(self.options):
            raise ValueError(f"The options of a block must differ; got {', '.join(map(str, self.options))}.")


@dataclass(frozen=True)
class Stage:
    """Blocks that share one output width; `width` is the widest, that of the source network."""

    width: int
    blocks: tuple[Choice, ...]

    def __post_init__(self) -> None:
        check_number("width", self.width, whole=True, least=1)


@dataclass(frozen=True)
class ConvSpec:
    """A convolution, norm and activation outside the choice blocks (stem, head)."""

    width: int
    kernel: int
    stride: int

    def __post_init__(self) -> None:
        for name in ("width", "kernel", "stride"):
            check_number(name, getattr(self, name), whole=True, least=1)


@dataclass(frozen=True)
class FixedBlock:
    """A chosen block of an architecture: its option and its stride."""

    option: BlockOption
    stride: int

    def __post_init__(self) -> None:
        check_number("stride", self.stride, whole=True, least=1)


@dataclass(frozen=True)
class StageArchitecture:
    """A chosen stage: output channels and blocks."""

    width: int
    blocks: tuple[FixedBlock, ...]

    def __post_init__(self) -> None:
        check_number("width", self.width, whole=True, least=1)


@dataclass(frozen=True)
class Architecture:
    """One network of a space, complete: it can be priced and rebuilt from this data alone.

    Attributes:
        input_size: Channels, height and width of one image (CHW).
        stem: First convolution.
        stages: Chosen stages.
        head: 1x1 convolution before pooling, or None where the network has none.
        num_classes: Outputs of the classifier; 0 for a network without pooling and classifier.
        tail: What else stands behind the blocks, at their widths: a detector's or segmenter's neck and heads.
    """

    input_size: tuple[int, int, int]
    stem: ConvSpec
    stages: tuple[StageArchitecture, ...]
    head: ConvSpec | None
    num_classes: int
    tail: Tail = field(default_factory=Tail)

    def __post_init__(self) -> None:
        _check_ends(self.input_size, self.num_classes)

    def to_dict(self) -> dict[str, object]:
        """Return builtins that `from_dict` reads back."""
        return {"format": FORMAT, **asdict(self), "tail": self.tail.to_list()}

    @classmethod
    def from_dict(cls, data: JsonObject) -> Architecture:
        """Return the architecture that `to_dict` wrote.

        Raises:
            ValueError: A field is missing or of the wrong form.
        """
        with reading("architecture", data):
            stages = tuple(
                StageArchitecture(wide, tuple(_fixed_block(block) for block in blocks))
                for wide, blocks in limits.block_list(data["stages"])
            )
            return cls(
                input_size=limits.image_size(data["input_size"]),
                stem=ConvSpec(**limits.conv_fields(data["stem"])),
                stages=stages,
                head=_head(data["head"]),
                num_classes=limits.num_classes(data["num_classes"]),
                tail=Tail.from_list(data.get("tail", []), sum(len(stage.blocks) for stage in stages)),
            )

    def to_json(self) -> str:
        """Return the JSON text of the architecture."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read the JSON text of `to_json`."""
        return cls.from_dict(parse_json(text, "An architecture"))

    @property
    def blocks(self) -> tuple[FixedBlock, ...]:
        """All blocks in order."""
        return tuple(block for stage in self.stages for block in stage.blocks)

    def __str__(self) -> str:
        stages = (f"{s.width}: " + ", ".join(str(block.option) for block in s.blocks) for s in self.stages)
        head = [] if self.head is None else [f"head {self.head.width}"]
        return " | ".join([f"stem {self.stem.width}", *stages, *head])


@dataclass(frozen=True)
class SearchSpace:
    """All networks that a supernet holds.

    A member is named by one integer a *node*: first one for each depth multiplier, then one for each block.

    Attributes:
        input_size: Channels, height and width of one image (CHW).
        stem: First convolution, at full width.
        stages: The stages with the options of each block.
        multipliers: The depth multipliers; together they cover each stage once, stem and head where searched.
        head: 1x1 convolution before pooling, at full width, or None.
        num_classes: Outputs of the classifier; 0 for a network without one.
        reference: For each block the index of the option that the source network had.
        tail: What else stands behind the blocks, at full width; not searched, but its inputs follow the stages.

    Raises:
        ValueError: The parts do not fit each other.
    """

    input_size: tuple[int, int, int]
    stem: ConvSpec
    stages: tuple[Stage, ...]
    multipliers: tuple[DepthMultiplier, ...]
    head: ConvSpec | None
    num_classes: int
    reference: tuple[int, ...]
    tail: Tail = field(default_factory=Tail)

    def __post_init__(self) -> None:
        _check_ends(self.input_size, self.num_classes)
        check_numbers("reference", self.reference, whole=True, least=0)
        covered = sorted(stage for multiplier in self.multipliers for stage in multiplier.stages)
        ends = [HEAD, STEM] if self.head else [STEM]
        if len(set(covered)) < len(covered) or [n for n in covered if n not in ends] != list(range(len(self.stages))):
            raise ValueError(f"Depth multipliers must cover each of {len(self.stages)} stages once; got {covered}.")
        if len(self.reference) != len(self.choices):
            raise ValueError(f"`reference` must name {len(self.choices)} options; got {len(self.reference)}.")
        for multiplier in self.multipliers:
            full = tuple(self._full_width(stage) for stage in multiplier.stages)
            if multiplier.widths[-1] != full or any(
                width > limit or width < 1 for row in multiplier.widths for width, limit in zip(row, full, strict=True)
            ):
                raise ValueError(f"Widths of {multiplier} must end at {full}; got {multiplier.widths}.")

    @property
    def choices(self) -> tuple[Choice, ...]:
        """All block positions in order."""
        return tuple(choice for stage in self.stages for choice in stage.blocks)

    @property
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
        return (*(len(m.widths) - 1 for m in self.multipliers), *self.reference)

    def stage_node(self, stage: int) -> tuple[int, tuple[int, ...]]:
        """Return the node that sets the width of a stage, `STEM` or `HEAD`, and that width for each of its options."""
        for node, multiplier in enumerate(self.multipliers):
            if stage in multiplier.stages:
                column = multiplier.stages.index(stage)
                return node, tuple(row[column] for row in multiplier.widths)
        raise IndexError(f"There is no stage {stage}; the space has {len(self.stages)}.")

    @property
    def stem_node(self) -> tuple[int | None, tuple[int, ...]]:
        """The node that sets the width of the stem, None if it is not searched, and that width for each option."""
        return self._end_node(STEM)

    @property
    def head_node(self) -> tuple[int | None, tuple[int, ...]]:
        """The node that sets the width of the head, None if it is not searched, and that width for each option.

        Raises:
            ValueError: The networks have none.
        """
        if self.head is None:
            raise ValueError("The networks of this space have no head.")
        return self._end_node(HEAD)

    def _end_node(self, end: int) -> tuple[int | None, tuple[int, ...]]:
        is_searched = any(end in multiplier.stages for multiplier in self.multipliers)
        return self.stage_node(end) if is_searched else (None, (self._full_width(end),))

    def _full_width(self, stage: int) -> int:
        if stage == HEAD and self.head is not None:
            return self.head.width
        return self.stem.width if stage == STEM else self.stages[stage].width

    def stage_blocks(self) -> Iterator[tuple[int, int, Choice]]:
        """Yield the stage index, the node and the choice of every block in order."""
        node = itertools.count(len(self.multipliers))
        for index, stage in enumerate(self.stages):
            for choice in stage.blocks:
                yield index, next(node), choice

    def curate(self, device: HasLanes | int) -> SearchSpace:
        """Return the space with its widths rounded to the lanes of a device; those that become the same are one option.

        Args:
            device: Anything with `lanes`, such as an estimator, or their number.

        Raises:
            ValueError: The lanes are not positive.
        """
        lanes = device.lanes if isinstance(device, HasLanes) else device
        check_number("lanes", lanes, whole=True, least=1)
        multipliers = []
        for multiplier in self.multipliers:
            full = multiplier.widths[-1]
            rows = (zip(row, full, strict=True) for row in multiplier.widths)
            rounded = {tuple(min(limit, round_to_lanes(width, lanes)) for width, limit in row) for row in rows}
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
        options = iter(encoding[len(self.multipliers) :])
        stages = []
        for index, stage in enumerate(self.stages):
            node, widths = self.stage_node(index)
            blocks = tuple(FixedBlock(choice.options[next(options)], choice.stride) for choice in stage.blocks)
            stages.append(StageArchitecture(widths[encoding[node]], blocks))
        tail = self.tail_at([stage.width for stage in stages])
        stem = replace(self.stem, width=_width_at(encoding, *self.stem_node))
        head = self.head and replace(self.head, width=_width_at(encoding, *self.head_node))
        return Architecture(self.input_size, stem, tuple(stages), head, self.num_classes, tail)

    def tail_at(self, widths: Sequence[int]) -> Tail:
        """Return the tail behind stages of such widths."""
        pairs = zip(widths, self.stages, strict=True)
        return self.tail.resized([width for width, stage in pairs for _ in stage.blocks])

    def encode(self, architecture: Architecture) -> Encoding:
        """Return the option index of each node; the inverse of `decode`.

        Raises:
            ValueError: The architecture is not a member; the message names the first part that is not.
        """
        widths = {STEM: architecture.stem.width, **{n: stage.width for n, stage in enumerate(architecture.stages)}}
        widths |= {HEAD: architecture.head.width} if architecture.head else {}
        encoding: list[int] = []
        for multiplier in self.multipliers:
            row = tuple(widths[stage] for stage in multiplier.stages if stage in widths)
            if row not in multiplier.widths:
                raise ValueError(f"Widths of {multiplier} can be {multiplier.widths}; got {row}.")
            encoding.append(multiplier.widths.index(row))
        for number, (choice, block) in enumerate(zip(self.choices, architecture.blocks, strict=True)):
            if block.option not in choice.options:
                offered = ", ".join(map(str, choice.options))
                raise ValueError(f"Block {number} offers {offered}; got {block.option}.")
            encoding.append(choice.options.index(block.option))
        if self.decode(encoding) != architecture:
            raise ValueError("The architecture differs from the space outside its choices (input, stem, stride, head).")
        return tuple(encoding)

    def to_json(self) -> str:
        """Return the JSON text of the space."""
        return json.dumps({"format": FORMAT, **asdict(self), "tail": self.tail.to_list()}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> SearchSpace:
        """Read the JSON text of `to_json`.

        Raises:
            ValueError: A field is missing or of the wrong form.
        """
        data = parse_json(text, "A search space")
        with reading("search space", data):
            stages = tuple(
                Stage(wide, tuple(_choice(block) for block in blocks))
                for wide, blocks in limits.block_list(data["stages"])
            )
            option_counts = [len(choice.options) for stage in stages for choice in stage.blocks]
            multipliers = tuple(
                DepthMultiplier(
                    limits.stage_numbers(item["stages"]), tuple(tuple(map(limits.width, row)) for row in item["widths"])
                )
                for item in data["multipliers"]
            )
            return cls(
                input_size=limits.image_size(data["input_size"]),
                stem=ConvSpec(**limits.conv_fields(data["stem"])),
                stages=stages,
                multipliers=multipliers,
                head=_head(data["head"]),
                num_classes=limits.num_classes(data["num_classes"]),
                reference=limits.reference(
                    data["reference"], [len(choice.options) for stage in stages for choice in stage.blocks]
                ),
                tail=Tail.from_list(data.get("tail", []), len(option_counts)),
            )


def _fixed_block(data: JsonObject) -> FixedBlock:
    return FixedBlock(BlockOption(**limits.option_fields(data["option"])), whole(data["stride"], "stride", 2))


def _choice(data: JsonObject) -> Choice:
    options = tuple(BlockOption(**limits.option_fields(option)) for option in data["options"])
    return Choice(whole(data["stride"], "stride", 2), options)


def _head(data: object) -> ConvSpec | None:
    return ConvSpec(**limits.conv_fields(data)) if data is not None else None


def _check_ends(input_size: Sequence[int], num_classes: int) -> None:
    check_numbers("input_size", input_size, whole=True, least=1)
    check_number("num_classes", num_classes, whole=True, least=0)


def _width_at(encoding: Sequence[int], node: int | None, widths: Sequence[int]) -> int:
    return widths[0 if node is None else encoding[node]]

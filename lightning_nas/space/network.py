"""Networks of architectures: the chain of blocks, and the necks and heads that read several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning_nas.graph.decompose import split
from lightning_nas.graph.network import IMAGE, Network, Operation, chain
from lightning_nas.graph.sizes import hidden_width
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.space.spec import Architecture, BlockOption, ConvSpec
from lightning_nas.space.tail import Tail, from_block

__all__ = [
    "block_subgraph",
    "head_subgraph",
    "network_of",
    "parts_of",
    "stem_subgraph",
    "subgraphs",
    "tail_of",
]


def stem_subgraph(input_size: tuple[int, int, int], stem: ConvSpec, path: str = "stem") -> Subgraph:
    """Return the first convolution of a network, on images of `input_size` (CHW)."""
    channels, height, width = input_size
    return Subgraph("stem", height, width, channels, stem.width, stem.width, stem.kernel, stem.stride, path=path)


def block_subgraph(
    option: BlockOption, stride: int, in_width: int, out_width: int, height: int, width: int, path: str = ""
) -> Subgraph:
    """Return a block that runs as `option` on an input of `in_width` channels and `height` x `width` pixels.

    Example::

        >>> print(block_subgraph(BlockOption("ibn", 6, 3), 1, 24, 24, 56, 56))
        ibn 56x56 24->144->24 k3 s1
    """
    hidden = in_width if option.kind == "ds" else hidden_width(in_width, option.expansion)
    residual = stride == 1 and in_width == out_width
    return Subgraph(
        option.kind, height, width, in_width, hidden, out_width, option.kernel, stride, residual=residual, path=path
    )


def head_subgraph(
    head: ConvSpec | None, num_classes: int, in_width: int, height: int, width: int, path: str = "head"
) -> Subgraph | None:
    """Return what follows the last block, or None where nothing does (no head and no classes)."""
    if head is None:
        return (
            Subgraph("classifier", height, width, in_width, in_width, num_classes, path=path) if num_classes else None
        )
    if not num_classes:
        return Subgraph("conv", height, width, in_width, head.width, head.width, head.kernel, head.stride, path=path)
    return Subgraph("head", height, width, in_width, head.width, num_classes, head.kernel, head.stride, path=path)


def subgraphs(architecture: Architecture) -> list[Subgraph]:
    """Cut an architecture into subgraphs, in order of execution, from its data alone.

    Example::

        >>> from lightning_nas.space.spec import FixedBlock, StageArchitecture
        >>> stage = StageArchitecture(24, (FixedBlock(BlockOption("fused", 6, 3), 2),))
        >>> net = Architecture((3, 64, 64), ConvSpec(16, 3, 2), (stage,), None, 10)
        >>> for subgraph in subgraphs(net):
        ...     print(subgraph)
        stem 64x64 3->16->16 k3 s2
        fused 32x32 16->96->24 k3 s2
        classifier 16x16 24->24->10 k1 s1
    """
    parts = [stem_subgraph(architecture.input_size, architecture.stem)]
    for index, stage in enumerate(architecture.stages):
        for number, block in enumerate(stage.blocks):
            height, width, channels = parts[-1].out_shape
            path = f"stages.{index}.{number}"
            parts.append(block_subgraph(block.option, block.stride, channels, stage.width, height, width, path))
    height, width, channels = parts[-1].out_shape
    head = head_subgraph(architecture.head, architecture.num_classes, channels, height, width)
    return parts if head is None else [*parts, head]


def tail_of(network: Network, block_paths: Sequence[str]) -> Tail:
    """Return what a traced network runs behind its blocks.

    Args:
        network: The whole network, as `trace` recorded it.
        block_paths: Paths of the modules of its blocks, in order of execution.

    Raises:
        ValueError: The tail reads something else than the outputs of blocks, such as the image.
    """
    owners = [_owner(operation.path, block_paths) for operation in network.operations]
    first = owners.index(0) if 0 in owners else len(owners)
    numbers = {place: from_block(owner) for place, owner in enumerate(owners) if owner is not None}
    ends = {block: max(place for place, owner in enumerate(owners) if owner == block) for block in set(owners) - {None}}
    found: list[Operation] = []
    outputs: list[int] = []
    for place, operation in enumerate(network.operations):
        if owners[place] is not None or place < first:
            continue
        for source in operation.inputs:
            block = owners[source] if source != IMAGE else None
            if source not in numbers or (block is not None and ends[block] != source):
                raise ValueError(
                    f"Module {operation.path!r} reads what is no output of a block: the image, the first"
                    " convolution, or the inside of a block. Only the ends of blocks can be followed in width."
                )
        numbers[place] = len(found)
        outputs += [len(found)] if place in network.outputs else []
        found.append(replace(operation, inputs=tuple(numbers[source] for source in operation.inputs)))
    return Tail(tuple(found), tuple(outputs))


def network_of(architecture: Architecture) -> Network:
    """Return the whole network of an architecture, its tail included."""
    parts = subgraphs(architecture)
    backbone = chain(parts)
    if not architecture.tail:
        return backbone
    ends = {operation.path: number for number, operation in enumerate(backbone.operations)}
    blocks = [ends[part.path] for part in parts[1 : 1 + len(architecture.blocks)]]
    operations = list(backbone.operations)
    first = len(operations)
    for item in architecture.tail.operations:
        inputs = tuple(blocks[-1 - source] if source < 0 else first + source for source in item.inputs)
        operations.append(replace(item, inputs=inputs))
    return Network(backbone.image_shape, tuple(operations), tuple(first + n for n in architecture.tail.outputs))


def parts_of(architecture: Architecture) -> list[Subgraph]:
    """Return all subgraphs of an architecture: those of its blocks, and those that its tail is split into."""
    return split(network_of(architecture)) if architecture.tail else subgraphs(architecture)


def _owner(path: str, block_paths: Sequence[str]) -> int | None:
    return next((n for n, block in enumerate(block_paths) if path == block or path.startswith(f"{block}.")), None)

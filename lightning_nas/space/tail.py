"""`Tail`: a detector's or segmenter's neck and heads behind the blocks of a network, as frozen data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

from lightning_nas.graph.layer import Form, Layer, Operator
from lightning_nas.graph.network import Operation
from lightning_nas.io.reading import listed, only, shown, text, truth, whole

__all__ = ["Tail", "block_number", "from_block"]

_SIZES = ("height", "width", "in_channels", "out_channels", "kernel", "stride")
_MAX_OPERATIONS = 4096
# Heads of detectors are joined to one row a place.
_MAX_SIZE = 2**24
_OWN_WIDTH = ("conv", "linear", "transposed_conv")


@dataclass(frozen=True)
class Tail:
    """The operations behind the blocks of a network, in order of execution.

    Attributes:
        operations: What runs. Their `inputs` are numbers of earlier operations of the tail, or blocks of the network,
            see `from_block`.
        outputs: Numbers of the operations whose results the network returns.

    Example::

        >>> lateral = Operation(Layer("conv", 8, 8, 32, 64), (from_block(0),), "lateral")
        >>> tail = Tail((lateral, Operation(Layer("resize", 8, 8, 64, 64), (0,))), (1,))
        >>> tail.resized([24]).operations[0].layer.in_channels
        24
    """

    operations: tuple[Operation, ...] = ()
    outputs: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.operations)

    @property
    def blocks(self) -> frozenset[int]:
        """Numbers of the blocks that it reads."""
        numbers = (block_number(source) for operation in self.operations for source in operation.inputs)
        return frozenset(number for number in numbers if number is not None)

    def resized(self, block_widths: Sequence[int]) -> Tail:
        """Return the tail behind blocks of other widths: convolutions keep their outputs, all else what goes in.

        Args:
            block_widths: Output channels of each block.
        """
        found: list[Operation] = []
        for operation in self.operations:
            layer = operation.layer
            widths = [block_widths[-1 - n] if n < 0 else found[n].layer.out_channels for n in operation.inputs]
            in_channels = sum(widths) if layer.operator == "concat" else max(widths)
            out_channels = layer.out_channels if layer.operator in _OWN_WIDTH else in_channels
            layer = _whole(replace(layer, in_channels=in_channels, out_channels=out_channels))
            found.append(replace(operation, layer=layer))
        return replace(self, operations=tuple(found))

    def sources(self) -> list[frozenset[int]]:
        """Return for each operation the blocks whose widths are its input's.

        Example::

            >>> pool = Operation(Layer("pool", 8, 8, 32, 32), (from_block(4),))
            >>> convs = [Operation(Layer("conv", 1, 1, width, 64), (n,)) for n, width in enumerate((32, 64))]
            >>> [sorted(blocks) for blocks in Tail((pool, *convs)).sources()]
            [[4], [4], []]
        """
        read: list[frozenset[int]] = []
        passed: list[frozenset[int]] = []  # those that decide the widths of what comes out
        for operation in self.operations:
            parts = [frozenset((-1 - n,)) if n < 0 else passed[n] for n in operation.inputs]
            read.append(frozenset().union(*parts))
            passed.append(frozenset() if operation.layer.operator in _OWN_WIDTH else read[-1])
        return read

    def to_list(self) -> list[dict[str, object]]:
        """Return builtins that `from_list` reads back: an object for each operation."""
        return [
            _fields(operation.layer)
            | {"inputs": list(operation.inputs), "path": operation.path}
            | {"is_bounded": operation.is_bounded, "is_output": place in self.outputs}
            for place, operation in enumerate(self.operations)
        ]

    @classmethod
    def from_list(cls, rows: object, num_blocks: int) -> Tail:
        """Return the tail that `to_list` wrote.

        Args:
            rows: What a file has.
            num_blocks: Blocks of its network, which the tail may read.

        Raises:
            ValueError: It is no list of operations, or one of them is not valid.
        """
        items = listed(rows, "tail", _MAX_OPERATIONS)
        operations = tuple(_operation(item, place, num_blocks) for place, item in enumerate(items))
        outputs = (place for place, item in enumerate(items) if truth(item.get("is_output", False), "is_output"))
        return cls(operations, tuple(outputs))


def from_block(block: int) -> int:
    """Return the number by which operations of a tail read the output of a block, counted from 0 over all stages."""
    return -1 - block


def block_number(source: int) -> int | None:
    """Return the block that a number among the inputs of a tail's operation means; None for another operation.

    Example::

        >>> block_number(from_block(3)), block_number(3)
        (3, None)
    """
    return -1 - source if source < 0 else None


def _fields(layer: Layer) -> dict[str, object]:
    form = "" if layer.form is None else str(layer.form)
    return {"operator": layer.operator, **{name: getattr(layer, name) for name in _SIZES}, "form": form}


def _operation(data: object, place: int, num_blocks: int) -> Operation:
    texts, truths = ("operator", "form", "path"), ("is_bounded", "is_output")
    found = only(data, (*_SIZES, *texts, *truths, "inputs"), "An operation of the tail")
    sizes = {name: whole(found[name], name, _MAX_SIZE) for name in _SIZES if name in found}
    if found["operator"] not in get_args(Operator):
        valid = ", ".join(get_args(Operator))
        raise ValueError(f"`operator` must be one of {valid}; got {shown(found['operator'])}.")
    written = text(found.get("form", ""), "form")
    sources = listed(found["inputs"], "inputs", _MAX_OPERATIONS)
    if not sources:
        raise ValueError(f"Operation {place} of the tail reads nothing.")
    # Numbers below zero are those of blocks.
    inputs = tuple(whole(number, "inputs", place - 1, least=-num_blocks) for number in sources)
    form = Form.parse(written) if written else None
    layer = _whole(Layer(found["operator"], **sizes, form=form))
    bounded = truth(found.get("is_bounded", False), "is_bounded")
    return Operation(layer, inputs, text(found.get("path", ""), "path"), bounded)


def _whole(layer: Layer) -> Layer:
    """Return a depthwise layer with as many groups as it has channels, and any other as it is."""
    if layer.operator != "depthwise" or layer.form is None:
        return layer
    return replace(layer, form=replace(layer.form, groups=layer.in_channels))

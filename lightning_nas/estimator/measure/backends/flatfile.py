"""Write the tables of a TFLite file: tensors, buffers and operators, by TFLite's schema version 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from flatbuffers import Builder

__all__ = ["Field", "File"]

Field = tuple[int, str, int | float | bool]
"""Slot, type and value of a field of a table."""

_TYPES = {np.dtype(np.int32): 2, np.dtype(np.int8): 9}
# Builtin operator code, type of its options, number of its option fields, and version of the operator.
_OPERATORS = {
    "CONV_2D": (3, 1, 7, 2),
    "DEPTHWISE_CONV_2D": (4, 2, 7, 2),
    "ADD": (0, 11, 2, 2),
    "MEAN": (40, 27, 1, 1),
    "FULLY_CONNECTED": (9, 8, 5, 2),
    "AVERAGE_POOL_2D": (1, 5, 6, 2),
    "MAX_POOL_2D": (17, 5, 6, 2),
    "CONCATENATION": (2, 10, 2, 2),
    "LOGISTIC": (14, 0, 0, 2),
    "TANH": (28, 0, 0, 2),
    "RELU6": (21, 0, 0, 2),
    "LEAKY_RELU": (98, 75, 1, 2),
    "HARD_SWISH": (117, 91, 0, 1),
    "MUL": (18, 21, 1, 2),
    "RESHAPE": (22, 17, 1, 1),
    "RESIZE_BILINEAR": (23, 15, 4, 2),
    "RESIZE_NEAREST_NEIGHBOR": (97, 74, 2, 2),
    "TRANSPOSE_CONV": (67, 49, 5, 3),
}
_CODES = tuple(_OPERATORS)


class File:
    """Tensors, buffers and operators of the one subgraph of a TFLite file."""

    def __init__(self) -> None:
        from flatbuffers import Builder

        self.builder: Builder = Builder(1 << 20)
        # TFLite wants an empty first buffer, which tensors without values refer to.
        self.buffers = [_table(self.builder, 3, [])]
        self.tensors: list[int] = []
        self.operators: list[int] = []

    def tensor(
        self, shape: Sequence[int], dtype: np.dtype, buffer: int = 0, quantization: int = 0, name: str = ""
    ) -> int:
        """Add a tensor and return its index; buffer 0 is for those that are computed."""
        text, sizes = self.builder.CreateString(name or f"constant{len(self.tensors)}"), _ints(self.builder, shape)
        fields = [
            (0, "Offset", sizes),
            (1, "Int8", _TYPES[dtype]),
            (2, "Uint32", buffer),
            (3, "Offset", text),
            (4, "Offset", quantization),
        ]
        self.tensors.append(_table(self.builder, 10, [field for field in fields if field[1] != "Offset" or field[2]]))
        return len(self.tensors) - 1

    def constant(self, values: np.ndarray, quantization: int = 0) -> int:
        """Add a tensor with values and return its index."""
        data = self.builder.CreateNumpyVector(values.reshape(-1).view(np.uint8))
        self.buffers.append(_table(self.builder, 3, [(0, "Offset", data)]))
        return self.tensor(values.shape, values.dtype, len(self.buffers) - 1, quantization)

    def quantization(self, scales: np.ndarray, axis: int = 0, zero: int = 0) -> int:
        """Add the scales of a tensor, one for all values or one an entry of an axis, and return their place."""
        scale = self.builder.CreateNumpyVector(scales)
        zeros = self.builder.CreateNumpyVector(np.full(len(scales), zero, np.int64))
        return _table(self.builder, 7, [(2, "Offset", scale), (3, "Offset", zeros), (6, "Int32", axis)])

    def operator(self, code: str, inputs: Sequence[int], outputs: Sequence[int], options: Sequence[Field]) -> None:
        """Add an operator between tensors."""
        builder = self.builder
        sources, targets = _ints(builder, inputs), _ints(builder, outputs)
        _, options_type, num_fields, _ = _OPERATORS[code]
        fields = [(0, "Uint32", _CODES.index(code)), (1, "Offset", sources), (2, "Offset", targets)]
        if options_type:
            fields += [(3, "Uint8", options_type), (4, "Offset", _table(builder, num_fields, options))]
        self.operators.append(_table(builder, 14, fields))

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """Return the file with the given input and output tensors."""
        builder = self.builder
        codes = [
            # The field of one byte is for old readers; codes that are larger stand in the last one only.
            _table(builder, 4, [(0, "Int8", min(code, 127)), (2, "Int32", version), (3, "Int32", code)])
            for code, _, _, version in _OPERATORS.values()
        ]
        tensors, operators = _offsets(builder, self.tensors), _offsets(builder, self.operators)
        ends = _ints(builder, inputs), _ints(builder, outputs)
        fields = [(0, "Offset", tensors), (1, "Offset", ends[0]), (2, "Offset", ends[1]), (3, "Offset", operators)]
        graph = _offsets(builder, [_table(builder, 6, fields)])
        parts = (_offsets(builder, codes), graph, _offsets(builder, self.buffers))
        model = [(0, "Uint32", 3), (1, "Offset", parts[0]), (2, "Offset", parts[1]), (4, "Offset", parts[2])]
        builder.Finish(_table(builder, 8, model), b"TFL3")
        return bytes(builder.Output())


def _table(builder: Builder, num_fields: int, fields: Sequence[Field]) -> int:
    # Offsets must exist before the table that holds them is begun, so fields hold those, not values.
    builder.StartObject(num_fields)
    for slot, kind, value in fields:
        # Defaults are written out: a field equal to the schema's default may be left out, but need not.
        if kind == "Offset":
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        else:
            getattr(builder, f"Prepend{kind}Slot")(slot, value, None)
    offset: int = builder.EndObject()
    return offset


def _ints(builder: Builder, values: Sequence[int]) -> int:
    offset: int = builder.CreateNumpyVector(np.asarray(values, np.int32))
    return offset


def _offsets(builder: Builder, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    # A builder writes vectors from their end.
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    vector: int = builder.EndVector()
    return vector

"""Layers: the operators that cost time and memory, by their sizes alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lightning_nas.graph.sizes import out_size

__all__ = ["BOUNDS", "MAX_SIZE", "Form", "Layer", "Operator"]

Operator = Literal[
    "conv",
    "depthwise",
    "add",
    "pool",
    "linear",
    "transposed_conv",
    "mul",
    "concat",
    "avg_pool",
    "max_pool",
    "resize",
    "activation",
    "norm",
    "other",
]
"""``pool`` is the global average, ``norm`` one that cannot be folded, ``other`` what has no model of its own, kept for
those who ask for an estimate by the bytes that it moves."""

_WEIGHTLESS = ("add", "pool", "mul", "concat", "avg_pool", "max_pool", "resize", "activation", "other")

BOUNDS = ("relu", "clamp")
"""Activations that only bound values: compilers fold them, and they change nothing where they run twice."""

MAX_SIZE = 2**30
"""Of what a table says of an operator: no tensor has as many rows, columns or channels."""

_FORM = re.compile(r"(\d+)x(\d+) k(\d+)x(\d+) s(\d+)x(\d+) d(\d+) g(\d+) n(\d+)(?: (\w+))?")


@dataclass(frozen=True)
class Form:
    """Properties of an operator that its plain sizes do not give: filter shape, strides, dilation, groups, output size.

    Attributes:
        out_size: Output rows and columns.
        window: Rows and columns of the filter.
        step: Strides over rows and columns.
        dilation: Distance of the taps of the filter.
        groups: Groups of channels that a convolution keeps apart.
        variant: Which activation, which interpolation, which operator of the framework; ``broadcast`` where one
            operand of an addition or a product is smaller than the other.
        num_values: Values of constants, for operators whose sizes do not say how many there are.

    Example::

        >>> print(Form((14, 14), window=(3, 3), dilation=2, groups=96))
        14x14 k3x3 s1x1 d2 g96 n0
    """

    out_size: tuple[int, int]
    window: tuple[int, int] = (1, 1)
    step: tuple[int, int] = (1, 1)
    dilation: int = 1
    groups: int = 1
    variant: str = ""
    num_values: int = 0

    def __str__(self) -> str:
        sizes = (("", self.out_size), ("k", self.window), ("s", self.step))
        text = " ".join(f"{name}{rows}x{columns}" for name, (rows, columns) in sizes)
        return f"{text} d{self.dilation} g{self.groups} n{self.num_values} {self.variant}".rstrip()

    @classmethod
    def parse(cls, text: str) -> Form:
        """Return the form that a text describes, as `str` writes it.

        Raises:
            ValueError: The text is not a valid form.

        Example::

            >>> Form.parse("14x14 k3x3 s1x1 d2 g96 n0") == Form((14, 14), (3, 3), dilation=2, groups=96)
            True
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a valid form of an operator, such as '14x14 k3x3 s1x1 d2 g96 n0'.")
        *numbers, variant = match.groups()
        rows, columns, down, across, steps_down, steps_across, dilation, groups, num_values = map(int, numbers)
        sizes = ((rows, columns), (down, across), (steps_down, steps_across))
        counts = (*sizes[0], *sizes[1], *sizes[2], dilation, groups)
        if min(counts) < 1 or max(*counts, num_values) > MAX_SIZE:
            raise ValueError(f"The numbers of a form must be 1 to {MAX_SIZE}, and n may be 0; got {text!r}.")
        return cls(*sizes, dilation, groups, variant or "", num_values)


@dataclass(frozen=True)
class Layer:
    """One operator, with the norm and the activation folded into it.

    Attributes:
        operator: What it does, see `Operator`.
        height: Input rows.
        width: Input columns.
        in_channels: Input channels; those of all inputs together of a concatenation.
        out_channels: Output channels.
        kernel: Spatial size of the filter.
        stride: Spatial stride.
        form: What these sizes cannot say; None where the filter is square, the padding keeps the size and so on.

    Example::

        >>> Layer("conv", 8, 8, 16, 32, 3, 1, Form((8, 8), (3, 3), dilation=2, groups=4)).macs
        73728
    """

    operator: Operator
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    form: Form | None = None

    @property
    def in_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the first input."""
        return self.height, self.width, self.in_channels

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the output."""
        if self.form is not None:
            return *self.form.out_size, self.out_channels
        if self.operator in ("pool", "linear"):
            return 1, 1, self.out_channels
        return out_size(self.height, self.stride), out_size(self.width, self.stride), self.out_channels

    @property
    def window(self) -> tuple[int, int]:
        """Rows and columns of the filter."""
        return self.form.window if self.form is not None else (self.kernel, self.kernel)

    @property
    def num_weights(self) -> int:
        """Weights, biases not counted."""
        if self.operator in _WEIGHTLESS:
            return self.form.num_values if self.form is not None else 0
        if self.operator == "norm":
            return self.out_channels
        rows, columns = self.window
        groups = self.form.groups if self.form is not None else 1
        fan_in = 1 if self.operator == "depthwise" else self.in_channels // groups
        return rows * columns * fan_in * self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and linear layers; other operators count none."""
        if self.operator in (*_WEIGHTLESS, "norm"):
            return 0
        height, width, _ = self.in_shape if self.operator == "transposed_conv" else self.out_shape
        return height * width * self.num_weights

    @property
    def num_biases(self) -> int:
        """Values that are added to the output channels."""
        return 0 if self.operator in _WEIGHTLESS else self.out_channels

    @property
    def parameter_bytes(self) -> int:
        """Bytes of int8 weights and int32 biases after the norm is folded."""
        return self.num_weights + 4 * self.num_biases

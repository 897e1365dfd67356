"""Subgraphs: what a network is cut into to be priced, at its thin bottleneck tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral
from typing import Literal, get_args

from lightning_nas.graph.layer import Form, Layer, Operator
from lightning_nas.graph.sizes import stored_values

__all__ = ["KINDS", "OPERATORS", "PartKind", "Subgraph", "SubgraphKind"]

SubgraphKind = Literal["stem", "conv", "ds", "ibn", "fused", "head", "classifier", "depthwise", "pool", "linear"]
"""``stem``: convolution on the image; ``conv``: any other convolution; ``ds``: depthwise, 1x1; ``ibn``: 1x1,
depthwise, 1x1; ``fused``: KxK, 1x1; ``head``: 1x1, global pool, linear; ``classifier``: global pool, linear.
``depthwise``, ``pool`` and ``linear`` are single operators: networks are not cut there, but tables may hold them."""

OPERATORS: dict[str, Operator] = {name: name for name in get_args(Operator) if name not in get_args(SubgraphKind)}
"""Single operators that are no kind of subgraph by another name; networks are cut at them. All but additions have a
`Form`."""

PartKind = SubgraphKind | Operator | Literal["general_conv"]
"""A pattern of operators, or one operator. ``general_conv`` is a convolution that is dilated, grouped, not square or
changes the size otherwise than by its stride."""

KINDS: tuple[PartKind, ...] = (*get_args(SubgraphKind), "general_conv", *OPERATORS.values())

_SIZES = ("height", "width", "in_channels", "hidden_channels", "out_channels", "kernel", "stride")
_KINDS = frozenset(KINDS)


@dataclass(frozen=True)
class Subgraph:
    """One priced part of a network. Two with equal shapes are equal, wherever they are.

    Attributes:
        kind: What it is made of, see `SubgraphKind`.
        height: Input rows.
        width: Input columns.
        in_channels: Input channels.
        hidden_channels: Channels between its convolutions; where there are none, those of its widest tensor:
            output channels of ``stem`` and ``conv``, input channels of ``ds`` and ``classifier``.
        out_channels: Output channels; the number of classes for ``head`` and ``classifier``.
        kernel: Size of its spatial convolution.
        stride: Stride of its spatial convolution.
        residual: Whether another tensor, that of the input where the shapes are equal, is added to the output.
        path: Module path, to say where it is; not compared.
        form: What these sizes cannot say, for ``general_conv`` and the kinds of `OPERATORS`.

    Example::

        >>> block = Subgraph("fused", 112, 112, 16, 96, 24, kernel=3, stride=2)
        >>> block.macs, block.parameter_bytes
        (50577408, 16608)
    """

    kind: PartKind
    height: int
    width: int
    in_channels: int
    hidden_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    residual: bool = False
    path: str = field(default="", compare=False)
    form: Form | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f"`kind` must be one of {', '.join(KINDS)}; got {self.kind!r}.")
        for name in _SIZES:
            size = getattr(self, name)
            # Nearly all are of the package's own making, and there are very many.
            if type(size) is not int or size < 1:
                _check_size(name, size, self.path)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The operators in order of execution."""
        layers = _LAYERS[self.kind](self)
        return (*layers, Layer("add", *layers[-1].out_shape, self.out_channels)) if self.residual else layers

    @property
    def operators(self) -> tuple[Subgraph, ...]:
        """The operators, each as a subgraph of its own, for tables of single operators; the last has the residual.

        Example::

            >>> for operator in Subgraph("ds", 56, 56, 32, 32, 16, kernel=3).operators:
            ...     print(operator)
            depthwise 56x56 32->32->32 k3 s1
            conv 56x56 32->16->16 k1 s1
        """
        if self.kind in _LAYERS_OF_ONE:
            return (self,)
        layers = _LAYERS[self.kind](self)
        return tuple(
            _operator(layer, self.residual and number == len(layers), self.path)
            for number, layer in enumerate(layers, start=1)
        )

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the output."""
        return self.layers[-1].out_shape

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of int8 weights (1 each) and int32 biases (4 each) after norms are folded."""
        return sum(layer.parameter_bytes for layer in self.layers)

    @property
    def peak_activation_bytes(self) -> int:
        """Largest sum of live int8 tensors over the execution order.

        Channels are rounded up to 16, as NPUs store tensors in bricks of 16, except those of the image, and the
        residual is added in place. The peak of a network is the largest of its subgraphs.
        """
        return self.peak_bytes()

    def peak_bytes(self, keeps_input: bool = False) -> int:
        """Return the largest sum of its live int8 tensors.

        Args:
            keeps_input: Whether later parts of the network need its input, too, so that it stays live.
        """
        image = self.height * self.width * self.in_channels
        source = image if self.kind == "stem" else stored_values((self.height, self.width, self.in_channels))
        tensors = [source] + [stored_values(layer.out_shape) for layer in self.layers if layer.operator != "add"]
        stays = self.residual or keeps_input
        kept = [source if stays and index else 0 for index in range(len(tensors) - 1)]
        return max(a + b + keep for a, b, keep in zip(tensors, tensors[1:], kept, strict=False))

    def __str__(self) -> str:
        channels = f"{self.in_channels}->{self.hidden_channels}->{self.out_channels}"
        form = f"k{self.kernel} s{self.stride}" if self.form is None else f"-> {self.form}"
        return f"{self.kind} {self.height}x{self.width} {channels} {form}"


def _check_size(name: str, size: object, path: str) -> None:
    if not isinstance(size, Integral) or isinstance(size, bool) or size < 1:
        raise ValueError(f"`{name}` of subgraph {path!r} must be a whole number of at least 1; got {size!r}.")


def _plain(part: Subgraph) -> tuple[Layer, ...]:
    return (_spatial("conv", part, part.in_channels, part.out_channels),)


def _separable(part: Subgraph) -> tuple[Layer, ...]:
    return _projected(_spatial("depthwise", part, part.in_channels, part.in_channels), part.out_channels)


def _inverted(part: Subgraph) -> tuple[Layer, ...]:
    expand = Layer("conv", part.height, part.width, part.in_channels, part.hidden_channels)
    depthwise = _spatial("depthwise", part, part.hidden_channels, part.hidden_channels)
    return (expand, *_projected(depthwise, part.out_channels))


def _fused(part: Subgraph) -> tuple[Layer, ...]:
    return _projected(_spatial("conv", part, part.in_channels, part.hidden_channels), part.out_channels)


def _head(part: Subgraph) -> tuple[Layer, ...]:
    conv = _spatial("conv", part, part.in_channels, part.hidden_channels)
    return (conv, *_pooled(conv.out_shape, part.out_channels))


def _classifier(part: Subgraph) -> tuple[Layer, ...]:
    return _pooled((part.height, part.width, part.in_channels), part.out_channels)


def _spatial(operator: Operator, part: Subgraph, in_channels: int, out_channels: int) -> Layer:
    return Layer(operator, part.height, part.width, in_channels, out_channels, part.kernel, part.stride)


def _projected(layer: Layer, out_channels: int) -> tuple[Layer, ...]:
    return layer, Layer("conv", *layer.out_shape, out_channels)


def _pooled(shape: tuple[int, int, int], out_channels: int) -> tuple[Layer, ...]:
    channels = shape[2]
    return Layer("pool", *shape, channels), Layer("linear", 1, 1, channels, out_channels)


def _depthwise(part: Subgraph) -> tuple[Layer, ...]:
    return (_spatial("depthwise", part, part.in_channels, part.out_channels),)


def _pool(part: Subgraph) -> tuple[Layer, ...]:
    return (_spatial("pool", part, part.in_channels, part.out_channels),)


def _linear(part: Subgraph) -> tuple[Layer, ...]:
    return (_spatial("linear", part, part.in_channels, part.out_channels),)


def _single(part: Subgraph) -> tuple[Layer, ...]:
    if part.kind == "general_conv":
        groups = part.form.groups if part.form is not None else 1
        operator: Operator = "depthwise" if 1 < groups == part.in_channels else "conv"
    else:
        operator = OPERATORS[part.kind]
    return (Layer(operator, part.height, part.width, part.in_channels, part.out_channels, form=part.form),)


def _operator(layer: Layer, residual: bool, path: str) -> Subgraph:
    assert layer.operator != "add"  # additions belong to the operator before them
    channels = layer.in_channels, layer.out_channels, layer.out_channels
    return Subgraph(
        layer.operator, layer.height, layer.width, *channels, layer.kernel, layer.stride, residual=residual, path=path
    )


_LAYERS = {
    "stem": _plain,
    "conv": _plain,
    "ds": _separable,
    "ibn": _inverted,
    "fused": _fused,
    "head": _head,
    "classifier": _classifier,
    "depthwise": _depthwise,
    "pool": _pool,
    "linear": _linear,
    **dict.fromkeys(("general_conv", *OPERATORS), _single),
}
_LAYERS_OF_ONE = ("stem", "conv", "depthwise", "pool", "linear", "general_conv", *OPERATORS)

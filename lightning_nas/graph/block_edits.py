"""Edits that make a block of a network another: fused, unfused, of another kernel, or left out with its module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning_nas.graph.blocks import Block
from lightning_nas.graph.edits import Edit, Link
from lightning_nas.graph.elastic_network import ChannelCount, ElasticNetwork
from lightning_nas.graph.layer import Form, Layer, Operator
from lightning_nas.graph.network import Operation

__all__ = ["block_edit", "residual_edit"]


def block_edit(network: ElasticNetwork, block: Block, kind: str, kernel: int) -> Edit:
    """Return the change that makes a block of a network run as another kind or with another kernel.

    Args:
        network: The source network.
        block: One of its blocks.
        kind: ``fused``: its expansion becomes a KxK convolution, and what the depthwise one did is left out; ``ibn``:
            a fused block's becomes a 1x1 convolution and a depthwise one; its own for none of both.
        kernel: Size of its spatial convolution.
    """
    editor = _Editor(network)
    if kind == block.kind or kind not in ("ibn", "fused"):
        return editor.resized(block, kernel)
    return editor.fused(block, kernel) if kind == "fused" else editor.unfused(block, kernel)


def residual_edit(network: ElasticNetwork, path: str) -> Edit:
    """Return the change that leaves out what a residual module adds to its input.

    Args:
        network: The source network.
        path: The module, one of `residuals`.
    """
    operations = network.network.operations
    body = [
        n for n, operation in enumerate(operations) if operation.path == path or operation.path.startswith(f"{path}.")
    ]
    inside = frozenset(body)
    sources = {source for number in body for source in operations[number].inputs if source not in inside}
    (source,) = sources
    return Edit(bypassed={body[-1]: source}, removed=inside - {body[-1]})


class _Editor:
    def __init__(self, network: ElasticNetwork) -> None:
        self._network = network
        self._operations = network.network.operations

    def resized(self, block: Block, kernel: int) -> Edit:
        """Give the spatial convolution of a block another kernel."""
        if (kernel, kernel) == block.kernel:
            return Edit()
        unit = self._unit(block.depthwise or block.expand)
        source, result = self._network.counts[unit[0]][0], self._network.counts[unit[-1]][1]
        operator: Operator = "depthwise" if block.depthwise else "conv"
        return self._chained(unit, self._spatial(unit, kernel, operator, source, result))

    def fused(self, block: Block, kernel: int) -> Edit:
        """Let the expansion of an inverted bottleneck do the work of its depthwise convolution."""
        expand, unit = self._unit(block.expand), self._unit(block.depthwise)
        source, result = self._network.counts[expand[0]][0], self._network.counts[expand[-1]][1]
        # The convolution is the expanding one with another kernel, so it goes by that one's path.
        links = [
            Link(replace(link.operation, path=block.expand), link.counts)
            for link in self._spatial(unit, kernel, "conv", source, result)
        ]
        edit = self._chained(expand, links)
        edit = replace(edit, chains={**edit.chains, **self._shrunk(expand[-1], unit)})
        # A norm that applies its activation itself takes it along; without another one before it, it stays.
        takes = block.expand_activation or block.activation.startswith(f"{block.norm}.")
        paths = {block.norm, block.activation if takes else ""} - {""}
        behind = [n for n, operation in enumerate(self._operations) if operation.path in paths]
        gone = {number: self._operations[number].inputs[0] for number in (*unit, *behind)}
        return replace(edit, bypassed={**edit.bypassed, **gone})

    def _shrunk(self, expand: int, unit: Sequence[int]) -> dict[int, tuple[Link, ...]]:
        """Put what runs between an expansion and a depthwise convolution on maps of the size that the latter gives."""
        before, spatial = self._operations[expand].layer, self._operations[unit[-1]].layer
        assert before.form is not None  # as it was traced, every convolution has one
        assert spatial.form is not None
        size, given = before.form.out_size, spatial.form.out_size
        if size == given:
            return {}
        found = {expand}
        links: dict[int, tuple[Link, ...]] = {}
        for number in range(expand + 1, unit[0]):
            operation = self._operations[number]
            if found.isdisjoint(operation.inputs):
                continue
            found.add(number)
            layer, form = operation.layer, operation.layer.form
            if (layer.height, layer.width) == size:
                form = form and (replace(form, out_size=given) if form.out_size == size else form)
                layer = replace(layer, height=given[0], width=given[1], form=form)
                links[number] = (Link(replace(operation, layer=layer), self._network.counts[number]),)
        return links

    def unfused(self, block: Block, kernel: int) -> Edit:
        """Let a 1x1 convolution and a depthwise one do the work of a fused block's expansion."""
        unit = self._unit(block.expand)
        source, result = self._network.counts[unit[0]][0], self._network.counts[unit[-1]][1]
        first = self._operations[unit[0]].layer
        size = (first.height, first.width)
        layer = Layer("conv", *size, source.at(self._network.sizes), result.at(self._network.sizes), form=Form(size))
        links = [Link(self._operation(layer, block.expand), (source, result))]
        paths = {block.expand_norm, block.expand_activation} - {""}
        for operation in self._operations:
            if operation.path in paths:
                form = operation.layer.form and replace(operation.layer.form, out_size=size)
                behind = replace(operation.layer, height=size[0], width=size[1], form=form)
                links.append(Link(replace(operation, layer=behind), (result, result)))
        return self._chained(unit, [*links, *self._spatial(unit, kernel, "depthwise", result, result)])

    def _unit(self, path: str) -> list[int]:
        """Return the numbers of a convolution and of the padding that its module runs before it."""
        return [number for number, operation in enumerate(self._operations) if operation.path == path]

    def _chained(self, unit: Sequence[int], links: Sequence[Link]) -> Edit:
        """Put links in the place of a convolution with its padding."""
        *before, last = unit
        gone = {number: self._operations[number].inputs[0] for number in before}
        return Edit(chains={last: tuple(links)}, bypassed=gone)

    def _spatial(
        self, unit: Sequence[int], kernel: int, operator: Operator, source: ChannelCount, result: ChannelCount
    ) -> list[Link]:
        """Return a convolution like another one, with its padding, of another kernel or on other channels."""
        operation = self._operations[unit[-1]]
        conv, form = operation.layer, operation.layer.form
        assert form is not None  # as it was traced, every convolution has one
        num_in, num_out = source.at(self._network.sizes), result.at(self._network.sizes)
        links: list[Link] = []
        size = (conv.height, conv.width)
        if len(unit) > 1:
            pad = self._operations[unit[0]]
            size = _padded(pad.layer, conv, kernel)
            if size != (pad.layer.height, pad.layer.width):
                layer = replace(pad.layer, in_channels=num_in, out_channels=num_in, form=_sized(pad.layer.form, size))
                links.append(Link(replace(pad, layer=layer), (source, source)))
        groups = num_out if operator == "depthwise" else 1
        layer = Layer(operator, *size, num_in, num_out, form=replace(form, window=(kernel, kernel), groups=groups))
        return [*links, Link(replace(operation, layer=layer), (source, result))]

    def _operation(self, layer: Layer, path: str) -> Operation:
        return Operation(layer, (), path)


def _sized(form: Form | None, size: tuple[int, int]) -> Form:
    assert form is not None  # of a padding
    return replace(form, out_size=size)


def _padded(pad: Layer, conv: Layer, kernel: int) -> tuple[int, int]:
    """Return rows and columns behind a padding that suits another kernel, as its own suits the convolution's own."""
    assert conv.form is not None
    form = conv.form
    rows = zip((pad.height, pad.width), (conv.height, conv.width), form.window, form.step, form.out_size, strict=True)
    height, width = (
        size + _padding(size, padded - size, own, kernel, (step, form.dilation, out))
        for size, padded, own, step, out in rows
    )
    return height, width


def _padding(size: int, amount: int, own: int, kernel: int, steps: tuple[int, int, int]) -> int:
    """Return how much is added to a side: what TensorFlow's ``SAME`` adds, where that is what was added."""
    step, dilation, out = steps
    needed = [max(0, (out - 1) * step + (window - 1) * dilation + 1 - size) for window in (own, kernel)]
    return needed[1] if needed[0] == amount else amount + (kernel - own) * dilation

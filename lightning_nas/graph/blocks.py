"""Blocks of a network, told from its width groups alone: no class of block and no name of an attribute is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_nas.graph.elastic_network import ElasticNetwork
from lightning_nas.graph.layer import BOUNDS, Layer
from lightning_nas.graph.network import Operation

__all__ = ["Block", "BlockForm", "BlockKind", "blocks_of"]

BlockKind = Literal["ibn", "fused", "ds", "basic"]
"""``ibn``: a dense 1x1 convolution, a depthwise one, a dense 1x1; ``fused``: a dense KxK convolution, a dense 1x1;
``ds``: a depthwise convolution, a dense 1x1; ``basic``: two dense KxK convolutions, as in ResNet's basic block."""

_CONVOLUTIONS = ("conv", "depthwise", "transposed_conv", "linear")
_NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class BlockForm:
    """A way for a block to run.

    Attributes:
        kind: What it is made of; ``own`` for what it is in the network.
        kernel: Size of the depthwise convolution, or of the expanding one where there is none.
    """

    kind: BlockKind | Literal["own"]
    kernel: int


@dataclass(frozen=True)
class Block:
    """Convolutions around one width group, the hidden channels.

    Attributes:
        kind: What it is made of.
        group: Number of the group of its hidden channels; those that a ``ds`` block runs on.
        expand: Path of the convolution that writes them; empty for a ``ds`` block.
        depthwise: Path of the depthwise convolution on them; empty where there is none.
        project: Path of the convolution that reads them.
        kernel: Size of the depthwise convolution, or of the expanding one where there is none.
        norm: Path of the norm behind the depthwise convolution; empty for none.
        activation: Path of the module of the activation behind that; empty for none, and for a function. A norm that
            applies its activation itself, as timm's do, holds it.
        expand_norm: Path of the norm behind the expanding convolution; empty for none.
        expand_activation: Path of the module of the activation behind that; empty for none, and for a function.
        project_norm: Path of the norm behind the projecting convolution; empty for none.
        unfusable: Why an ``ibn`` block cannot be fused, or a ``fused`` one cannot be told apart; empty where it can.
        module: Path of the smallest module that runs the block and no other one; empty where there is none.
    """

    kind: BlockKind
    group: int
    expand: str
    depthwise: str
    project: str
    kernel: tuple[int, int]
    norm: str = ""
    activation: str = ""
    expand_norm: str = ""
    expand_activation: str = ""
    project_norm: str = ""
    unfusable: str = ""
    module: str = ""

    @property
    def own(self) -> BlockForm:
        """The form in which it runs in the network."""
        return BlockForm(self.kind, max(self.kernel))


def blocks_of(model: nn.Module, network: ElasticNetwork) -> tuple[Block, ...]:
    """Return the blocks of a network, in order of execution.

    A block is a width group that one dense convolution writes and one reads, and that at most one depthwise convolution
    runs on. What else touches the group works on single pixels, as squeeze-and-excitation does. Other channels on which
    a depthwise convolution runs, and that one dense 1x1 convolution reads then, make a block of those two alone.

    Args:
        model: The network.
        network: The same as data, with its groups.

    Example::

        >>> import torch
        >>> from torchvision.models import mobilenet_v2
        >>> from lightning_nas.graph.elastic_network import elastic_network
        >>> net = mobilenet_v2()
        >>> found = blocks_of(net, elastic_network(net, torch.zeros(1, 3, 64, 64)))
        >>> len(found), found[1].kind, found[1].expand, found[1].activation
        (17, 'ibn', 'features.2.conv.0.0', 'features.2.conv.1.2')
    """
    finder = _Finder(model, network)
    return tuple(block for number in network.open if (block := finder.block(number)) is not None)


class _Finder:
    def __init__(self, model: nn.Module, network: ElasticNetwork) -> None:
        self._modules = dict(model.named_modules())
        self._network = network
        self._operations = network.network.operations
        self._pooled = _pooled(self._operations)
        self._calls: dict[str, list[int]] = {}
        self._readers: dict[int, list[int]] = {}
        for number, operation in enumerate(self._operations):
            self._calls.setdefault(operation.path, []).append(number)
            for source in operation.inputs:
                self._readers.setdefault(source, []).append(number)

    def block(self, group: int) -> Block | None:
        writers, depthwise, readers = self._around(group)
        if len(readers) != 1 or len(depthwise) > 1:
            return None
        numbers = [*writers, *depthwise, *readers]
        if len(writers) == 1 and self._are_dense(group, numbers) and (found := self._dense_block(group, *numbers)):
            return found
        numbers = [*depthwise, *readers]
        if len(depthwise) != 1 or not self._are_dense(group, numbers) or not self._leads_to(*numbers):
            return None
        return self._separable(group, *numbers)

    def _dense_block(self, group: int, expand: int, *others: int) -> Block | None:
        """Return the block of an expanding convolution, a depthwise one or none, and a projecting one."""
        first, last = self._layer(expand).window, self._layer(others[-1]).window
        norm, activation, reason = self._behind(expand)
        paths = [self._operations[number].path for number in (expand, others[-1])]
        block = Block("basic", group, paths[0], "", paths[1], first, expand_norm=norm, expand_activation=activation)
        block = replace(block, project_norm=self._behind(others[-1])[0])
        if len(others) == 2:
            is_wider = self._layer(expand).in_channels <= self._layer(expand).out_channels
            if first != (1, 1) or last != (1, 1) or not is_wider:
                return None  # such as a depthwise convolution between the projection of a block and the next expansion
            block = self._with_depthwise(replace(block, kind="ibn"), others[0])
            block = replace(block, unfusable=block.unfusable or self._unfusable(block))
        elif first == (1, 1):
            return None
        elif last == (1, 1):
            block = replace(block, kind="fused", unfusable=reason or self._inseparable(block))
        return replace(block, module=self._module(expand, *others, norm=block.project_norm))

    def _separable(self, group: int, depthwise: int, project: int) -> Block | None:
        if self._layer(project).window != (1, 1):
            return None
        block = Block("ds", group, "", "", self._operations[project].path, (1, 1))
        block = replace(self._with_depthwise(block, depthwise), unfusable="it has no convolution that expands")
        norm = self._behind(project)[0]
        return replace(block, project_norm=norm, module=self._module(depthwise, project, norm=norm))

    def _with_depthwise(self, block: Block, depthwise: int) -> Block:
        norm, activation, reason = self._behind(depthwise)
        return replace(
            block,
            depthwise=self._operations[depthwise].path,
            kernel=self._layer(depthwise).window,
            norm=norm,
            activation=activation,
            unfusable=reason,
        )

    def _layer(self, number: int) -> Layer:
        return self._operations[number].layer

    def _around(self, group: int) -> tuple[list[int], list[int], list[int]]:
        """Return the dense convolutions that write a group, the depthwise ones on it, and the dense ones that read it.

        Convolutions behind a global average are left out.
        """
        writers, depthwise, readers = [], [], []
        for number, (operation, (source, result)) in enumerate(
            zip(self._operations, self._network.counts, strict=True)
        ):
            if operation.layer.operator not in _CONVOLUTIONS or number in self._pooled:
                continue
            if operation.layer.operator == "depthwise" and group in result.groups:
                depthwise.append(number)
            elif group in result.groups:
                writers.append(number)
            elif group in source.groups:
                readers.append(number)
        return writers, depthwise, readers

    def _are_dense(self, group: int, numbers: Sequence[int]) -> bool:
        """Return whether convolutions have no other channels than the group's, keep none apart and run once each."""
        size = self._network.sizes[group]
        for number in numbers:
            operation, layer = self._operations[number], self._layer(number)
            is_reader = number == numbers[-1]
            is_whole = (layer.in_channels if is_reader else layer.out_channels) == size
            is_apart = layer.operator == "conv" and layer.form is not None and layer.form.groups != 1
            is_module = isinstance(self._modules.get(operation.path), nn.Conv2d)
            if not is_whole or is_apart or not is_module or layer.operator not in ("conv", "depthwise"):
                return False
            if len(self._calls[operation.path]) > 1:
                return False  # shared weights run in several places
        return True

    def _leads_to(self, first: int, last: int) -> bool:
        """Return whether an operation's result depends on another one's, with no convolution in between."""
        todo = [last]
        while todo:
            number = todo.pop()
            if number == first:
                return True
            if number == last or (number >= first and self._layer(number).operator not in _CONVOLUTIONS):
                todo += self._operations[number].inputs
        return False

    def _module(self, *numbers: int, norm: str) -> str:
        """Return the smallest module that runs some convolutions, the norm behind the last, and none of others."""
        paths = [*(self._operations[number].path for number in numbers), *([norm] if norm else [])]
        path = _common(paths)
        while path and not self._runs_just(path, numbers):
            path = path.rpartition(".")[0]
        return path

    def _runs_just(self, path: str, numbers: Sequence[int]) -> bool:
        """Return whether a module takes one tensor, runs some convolutions and no others, and gives one tensor."""
        body = [n for n, operation in enumerate(self._operations) if _is_within(operation.path, path)]
        inside = set(body)
        convolutions = [n for n in body if self._layer(n).operator in _CONVOLUTIONS]
        if [n for n in convolutions if n not in self._pooled] != list(numbers):
            return False
        entries = {n for number in body for n in self._operations[number].inputs if n not in inside}
        given = [
            n for n in body if n in self._network.network.outputs or not inside.issuperset(self._readers.get(n, ()))
        ]
        is_run = type(self._modules[path]).forward is not nn.Module.forward  # a list of modules is none that runs
        return is_run and body == list(range(numbers[0], body[-1] + 1)) and len(entries) == len(given) == 1

    def _unfusable(self, block: Block) -> str:
        """Return why an inverted bottleneck cannot be fused."""
        expand = self._modules[block.expand]
        assert isinstance(expand, nn.Conv2d)
        if expand.stride != (1, 1) or expand.padding not in ((0, 0), "same", "valid"):
            return f"its expanding convolution {block.expand!r} has a stride or padding"
        if bool(block.norm) != bool(block.expand_norm):
            return "only one of its convolutions has a norm"
        if not block.expand_activation and block.norm and block.activation.startswith(f"{block.norm}."):
            return f"its only activation is a part of the norm {block.norm!r}"
        if type(self._modules[block.norm]) is not type(self._modules[block.expand_norm]):
            return f"the norms {block.expand_norm!r} and {block.norm!r} are of different classes"
        return self._unshared((block.expand_norm, block.norm, block.project_norm))

    def _inseparable(self, block: Block) -> str:
        """Return why a fused block cannot become an expanding and a depthwise convolution."""
        if not isinstance(self._modules[block.expand_norm], _BatchNorm):
            return f"no batch norm follows its convolution {block.expand!r}"
        if not block.expand_activation:
            return f"no module of an activation follows its convolution {block.expand!r}"
        return self._unshared((block.expand_norm, block.project_norm))

    def _unshared(self, norms: Iterable[str]) -> str:
        """Return why norms cannot be left out or doubled."""
        for path in filter(None, norms):
            if not isinstance(self._modules[path], _NORMS):
                return f"the norm at {path!r} is a function"
            if sum(self._layer(n).operator == "norm" for n in self._calls[path]) > 1:
                return f"the norm {path!r} runs in several places"
        return ""

    def _behind(self, convolution: int) -> tuple[str, str, str]:
        """Return norm and activation behind a convolution, and why they cannot be left out."""
        norm, activation, reason, number = "", "", "", convolution
        while len(readers := self._readers.get(number, [])) == 1:
            (number,) = readers
            operation = self._operations[number]
            if operation.layer.operator == "norm" and not norm and not activation:
                norm = operation.path
            elif operation.layer.operator == "activation" and not activation and len(operation.inputs) == 1:
                activation, reason = self._activation(operation)
            else:
                break
        return norm, activation, reason

    def _activation(self, operation: Operation) -> tuple[str, str]:
        """Return the path of an activation's module, empty for a function; and why it cannot be left out, if so."""
        form = operation.layer.form
        may_run_twice = form is not None and form.variant in BOUNDS
        module = self._modules.get(operation.path)
        is_leaf = module is not None and not any(True for _ in module.children())
        is_own = is_leaf and not isinstance(module, nn.Conv2d) and len(self._calls[operation.path]) == 1
        if is_own:
            return operation.path, ""
        return "", "" if may_run_twice else f"its activation at {operation.path!r} is a function or a shared module"


def _pooled(operations: Sequence[Operation]) -> frozenset[int]:
    """Return the operations that see an image as one pixel, by a global average: those of squeeze-and-excitation."""
    found: set[int] = set()
    for number, operation in enumerate(operations):
        is_pool = operation.layer.operator in ("pool", "avg_pool") and operation.layer.out_shape[:2] == (1, 1)
        if is_pool or (operation.inputs and all(source in found for source in operation.inputs)):
            found.add(number)
    return frozenset(found)


def _is_within(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def _common(paths: Sequence[str]) -> str:
    """Return the path of the smallest module that holds some modules."""
    path = paths[0].rpartition(".")[0]
    while path and not all(_is_within(other, path) for other in paths):
        path = path.rpartition(".")[0]
    return path

"""Blocks of a network, told from its width groups alone: no class of block and no name of an attribute is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from lightning_nas.graph.elastic_network import ElasticNetwork
from lightning_nas.graph.layer import BOUNDS
from lightning_nas.graph.network import Operation

__all__ = ["Block", "BlockKind", "blocks_of"]

BlockKind = Literal["ibn", "fused", "ds", "basic"]
"""``ibn``: a dense 1x1 convolution, a depthwise one, a dense 1x1; ``fused``: a dense KxK convolution, a dense 1x1;
``basic``: two dense KxK convolutions, as in ResNet's basic block."""


@dataclass(frozen=True)
class Block:
    """Convolutions around one width group, the hidden channels.

    Attributes:
        kind: What it is made of.
        group: Number of the group of its hidden channels.
        expand: Path of the convolution that writes them.
        depthwise: Path of the depthwise convolution on them; empty where there is none.
        project: Path of the convolution that reads them.
        kernel: Size of the depthwise convolution, or of the expanding one where there is none.
        norm: Path of the norm behind the depthwise convolution; empty for none.
        activation: Path of the module of the activation behind that; empty for none, and for a function.
        unfusable: Why the block cannot be fused; empty where it can.
    """

    kind: BlockKind
    group: int
    expand: str
    depthwise: str
    project: str
    kernel: tuple[int, int]
    norm: str = ""
    activation: str = ""
    unfusable: str = ""
    expand_norm: str = ""
    expand_activation: str = ""
    project_norm: str = ""
    module: str = ""


def blocks_of(model: nn.Module, network: ElasticNetwork) -> tuple[Block, ...]:
    """Return the blocks of a network, in order of execution.

    A block is a width group that one dense convolution writes and one reads, and that at most one depthwise convolution
    runs on. What else touches the group works on single pixels, as squeeze-and-excitation does.

    Args:
        model: The network.
        network: The same as data, with its groups.

    Example::

        >>> import torch
        >>> from torchvision.models import mobilenet_v2
        >>> from lightning_nas.graph.elastic_network import elastic_network
        >>> net = mobilenet_v2()
        >>> found = blocks_of(net, elastic_network(net, torch.zeros(1, 3, 64, 64)))
        >>> len(found), found[0].kind, found[0].expand, found[0].activation
        (16, 'ibn', 'features.2.conv.0.0', 'features.2.conv.1.2')
    """
    finder = _Finder(model, network)
    return tuple(block for number in network.open if (block := finder.block(number)) is not None)


class _Finder:
    def __init__(self, model: nn.Module, network: ElasticNetwork) -> None:
        self._modules = dict(model.named_modules())
        self._network = network
        self._operations = network.network.operations
        self._calls: dict[str, list[int]] = {}
        self._readers: dict[int, list[int]] = {}
        for number, operation in enumerate(self._operations):
            self._calls.setdefault(operation.path, []).append(number)
            for source in operation.inputs:
                self._readers.setdefault(source, []).append(number)

    def block(self, group: int) -> Block | None:
        writers, depthwise, readers = self._around(group)
        if len(writers) != 1 or len(readers) != 1 or len(depthwise) > 1:
            return None
        (expand,), (project,) = writers, readers
        paths = [self._operations[number].path for number in (expand, *depthwise, project)]
        if any(len(self._calls[path]) > 1 for path in paths):
            return None  # shared weights run in several places
        first, last = self._operations[expand].layer.window, self._operations[project].layer.window
        if depthwise:
            is_wider = self._operations[expand].layer.in_channels <= self._operations[expand].layer.out_channels
            if first != (1, 1) or last != (1, 1) or not is_wider:
                return None  # such as a depthwise convolution between the projection of a block and the next expansion
            norm, activation, reason = self._behind(depthwise[0])
            kernel = self._operations[depthwise[0]].layer.window
            return Block("ibn", group, paths[0], paths[1], paths[2], kernel, norm, activation, reason)
        if first == (1, 1):
            return None
        return Block("fused" if last == (1, 1) else "basic", group, paths[0], "", paths[1], first)

    def _around(self, group: int) -> tuple[list[int], list[int], list[int]]:
        """Return the dense convolutions that write a group, the depthwise ones on it, and the dense ones that read it.

        Convolutions on single pixels are left out. One that has other channels, too, makes the group part of no block.
        """
        size = self._network.sizes[group]
        writers, depthwise, readers = [], [], []
        for number, (operation, (source, result)) in enumerate(
            zip(self._operations, self._network.counts, strict=True)
        ):
            layer = operation.layer
            if layer.operator not in ("conv", "depthwise", "transposed_conv", "linear") or _is_on_pixel(operation):
                continue
            if layer.operator == "depthwise" and group in result.groups:
                depthwise.append(number)
            elif group in result.groups:
                writers.append(number)
            elif group in source.groups:
                readers.append(number)
        whole = all(self._operations[n].layer.out_channels == size for n in (*writers, *depthwise))
        whole &= all(self._operations[n].layer.in_channels == size for n in readers)
        plain = all(self._operations[n].layer.operator in ("conv", "depthwise") for n in (*writers, *readers))
        dense = all((form := self._operations[n].layer.form) is None or form.groups == 1 for n in (*writers, *readers))
        return (writers, depthwise, readers) if whole and plain and dense else ([], [], [])

    def _behind(self, depthwise: int) -> tuple[str, str, str]:
        """Return norm and activation behind a depthwise convolution, and why they cannot be left out."""
        norm, activation, reason, number = "", "", "", depthwise
        while len(readers := self._readers.get(number, [])) == 1:
            (number,) = readers
            operation = self._operations[number]
            if operation.layer.operator == "norm" and not norm and not activation:
                norm = operation.path
            elif operation.layer.operator == "activation" and not activation and len(operation.inputs) == 1:
                activation, reason = self._activation(operation)
            else:
                break
        if norm and sum(self._operations[n].layer.operator == "norm" for n in self._calls[norm]) > 1:
            reason = f"the norm {norm!r} runs in several places"
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


def _is_on_pixel(operation: Operation) -> bool:
    height, width, _ = operation.layer.in_shape
    return (height, width) == (1, 1) and operation.layer.window == (1, 1)

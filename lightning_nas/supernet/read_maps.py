"""Read maps: the last feature maps of a network, those that its final linear maps read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from lightning_nas.graph.module_calls import CalledNetwork, module_calls
from lightning_nas.graph.network import IMAGE

__all__ = ["ReadMap", "read_maps", "watching_maps"]

_LINEAR = ("conv", "depthwise", "transposed_conv", "linear")
# What stands between the last map of a classifier and its linear layer.
_POOLING = ("pool", "avg_pool", "max_pool", "activation", "norm", "other")


@dataclass(frozen=True)
class ReadMap:
    """A feature map that a network's output follows from by one linear map.

    Attributes:
        reader: Path of the convolution or linear layer that reads it, whose output nothing but the output follows from.
        module: Path of the module that gives the map before it is pooled; empty where the reader takes it as it is.
        is_map: Whether channels are its second dimension; if not, they are its last.
        is_transposed: Whether the reader is a transposed convolution, whose weight counts them first.
    """

    reader: str
    module: str = ""
    is_map: bool = True
    is_transposed: bool = False


def read_maps(model: nn.Module, example_input: Tensor) -> tuple[ReadMap, ...]:
    """Return the feature maps that the last linear maps of a network read, in order of execution.

    Of a classifier this is the map that is pooled; of a segmenter or a detector each map that a last convolution reads.

    Args:
        model: The network.
        example_input: One batch that it can run, shape (N, C, H, W); one image of it runs.

    Example::

        >>> import torch
        >>> from torchvision.models import mobilenet_v2
        >>> read_maps(mobilenet_v2(), torch.zeros(1, 3, 64, 64))
        (ReadMap(reader='classifier.1', module='features', is_map=True, is_transposed=False),)
    """
    ran = module_calls(model, example_input)
    layers = dict(model.named_modules())
    found: dict[str, ReadMap] = {}
    for number in sorted(_last_linear(ran)):
        path = ran.operations[number].path
        if isinstance(layers.get(path), nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            module, layer = _pooled_module(ran, number), layers[path]
            is_map = bool(module) or not isinstance(layer, nn.Linear)
            found[path] = ReadMap(path, module, is_map, isinstance(layer, nn.ConvTranspose2d))
    return tuple(found.values())


@contextmanager
def watching_maps(network: nn.Module, maps: Sequence[ReadMap]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the read maps of what a network runs, by the path of their reader; of one that runs often all of them.

    Args:
        network: The network.
        maps: Which.
    """
    found: dict[str, list[Tensor]] = {}

    def keep_input(reader: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, inputs: found.setdefault(reader, []).append(inputs[0])

    def keep_output(reader: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _, __, output: found.setdefault(reader, []).append(output)

    handles = []
    for one in maps:
        if one.module:
            handles.append(network.get_submodule(one.module).register_forward_hook(keep_output(one.reader)))
        else:
            handles.append(network.get_submodule(one.reader).register_forward_pre_hook(keep_input(one.reader)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _last_linear(ran: CalledNetwork) -> set[int]:
    """Return the convolutions and linear layers from which an output follows with no other one in between."""
    found, seen, todo = set[int](), set[int](), list(ran.outputs)
    while todo:
        number = todo.pop()
        if number == IMAGE or number in seen:
            continue
        seen.add(number)
        if ran.operations[number].layer.operator in _LINEAR:
            found.add(number)
        else:
            todo += ran.operations[number].inputs
    return found


def _pooled_module(ran: CalledNetwork, reader: int) -> str:
    """Return the module that gives the map in front of the pooling that a linear layer reads; empty for none."""
    operations = ran.operations
    if operations[reader].layer.operator != "linear":
        return ""
    channels, number = operations[reader].layer.in_channels, operations[reader].inputs[0]
    while number != IMAGE and prod(operations[number].layer.out_shape[:2]) == 1:
        layer = operations[number].layer
        if layer.operator in _LINEAR or layer.operator not in _POOLING or len(operations[number].inputs) != 1:
            return ""
        number = operations[number].inputs[0]
    if number == IMAGE or operations[number].layer.out_channels != channels:
        return ""  # flattened with its pixels, or not pooled at all
    giving: Mapping[str, int] = {call.path: len(call.body) for call in ran.calls if call.outputs == (number,)}
    return max(giving, key=lambda path: giving[path], default="")

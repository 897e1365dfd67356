"""Last layers: the linear maps of a network from which nothing but its output follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn
from torch.nn import functional

from lightning_nas.graph.module_calls import CalledNetwork, module_calls
from lightning_nas.graph.network import IMAGE

__all__ = ["LastLayer", "last_layers", "watching_layers"]

_LINEAR = ("conv", "depthwise", "transposed_conv", "linear")
# What stands between the last map of a classifier and its linear layer.
_POOLING = ("pool", "avg_pool", "max_pool", "activation", "norm", "other")


@dataclass(frozen=True)
class LastLayer:
    """A convolution or linear layer from which nothing but the network's output follows.

    Attributes:
        path: The layer.
        pooled: Path of the module that gives the map that is pooled in front of it; empty where it takes what it reads
            as it is.
        is_map: Whether channels are the second dimension of what it gives; if not, they are the last.
    """

    path: str
    pooled: str = ""
    is_map: bool = True


def last_layers(model: nn.Module, example_input: Tensor) -> tuple[LastLayer, ...]:
    """Return the last layers of a network, in order of execution.

    Of a classifier this is its linear layer; of a segmenter or a detector each last convolution.

    Args:
        model: The network.
        example_input: One batch that it can run, shape (N, C, H, W); one image of it runs.

    Example::

        >>> import torch
        >>> from torchvision.models import mobilenet_v2
        >>> last_layers(mobilenet_v2(), torch.zeros(1, 3, 64, 64))
        (LastLayer(path='classifier.1', pooled='features', is_map=True),)
    """
    ran = module_calls(model, example_input)
    layers = dict(model.named_modules())
    found: dict[str, LastLayer] = {}
    for number in sorted(_last_linear(ran)):
        path = ran.operations[number].path
        if isinstance(layers.get(path), nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            pooled = _pooled_module(ran, number)
            found[path] = LastLayer(path, pooled, bool(pooled) or not isinstance(layers[path], nn.Linear))
    return tuple(found.values())


@contextmanager
def watching_layers(network: nn.Module, layers: Sequence[LastLayer]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect what the last layers that run give, by path, channels second; of one that runs often all of it.

    A layer behind pooling gives a map here, too: it is applied to every position of what is pooled. A few classes of
    some hundred images would be few numbers to tell networks apart by.

    Args:
        network: The network.
        layers: Its last layers.
    """
    found: dict[str, list[Tensor]] = {}

    def keep(one: LastLayer) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(_: nn.Module, __: object, output: Tensor) -> None:
            if one.pooled:
                # Of the layer's bias nothing is told: it is the same in each network.
                output = functional.conv2d(output, network.get_parameter(f"{one.path}.weight")[:, :, None, None])
            found.setdefault(one.path, []).append(output if one.is_map else output.movedim(-1, 1))

        return hook

    handles = [network.get_submodule(one.pooled or one.path).register_forward_hook(keep(one)) for one in layers]
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

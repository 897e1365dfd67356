"""The trunk of any classifier: its modules up to the last map, in a row as they run, and the strides of their maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn

from lightning_nas.io.numbers import check_number

_Module = TypeVar("_Module", bound=nn.Module)

__all__ = ["Tap", "limit_trunk", "measured_taps", "trunk_of", "units_of"]

# Pixels a side of the image by which strides are found; and more than that many times smaller is no map, but pooled.
_SIZE = 256
_MAX_STRIDE = 64


@dataclass(frozen=True)
class Tap:
    """The map behind a unit of a trunk.

    Attributes:
        stride: Image pixels to a pixel of it; None where that is no whole number, as without padding.
        width: Its channels.
    """

    stride: int | None
    width: int


def trunk_of(network: nn.Module) -> nn.Sequential:
    """Return the modules of a classifier up to its last map in a Sequential, under the names that they have.

    It is run once without values, to see which module reads the output of which: no class of network is known. Then it
    is tried that nothing of the image reaches the classes but by the last of these. The 1x1 convolution that some
    classifiers have in front of their pooling is left out.

    Args:
        network: A classifier of images.

    Raises:
        TypeError: The network does not run its modules in a chain, or gives no map.

    Example::

        >>> from torchvision.models import resnet18
        >>> list(dict(trunk_of(resnet18()).named_children()))
        ['conv1', 'bn1', 'relu', 'maxpool', 'layer1', 'layer2', 'layer3', 'layer4']
    """
    chain = _chain(network)
    maps = [path for path, out in chain if _is_map(out)]
    kept = maps[: _before_head(network, [(path, out) for path, out in chain if path in maps])]
    has_layers = any(isinstance(part, nn.Conv2d) for path in kept for part in network.get_submodule(path).modules())
    if not (has_layers and _is_only_way(network, kept[-1])):
        raise TypeError(
            f"The backbone must run its modules in a chain, each on what the one before gives; {type(network).__name__}"
            " does not. HINT: networks such as mobilenet_v2, resnet18 and mobilenetv4_conv_small do."
        )
    return _gathered(network, [path.split(".") for path in kept])


def units_of(trunk: nn.Sequential) -> list[nn.Module]:
    """Return the modules of a trunk in the order in which they run, those of nested Sequentials among them.

    Example::

        >>> len(units_of(nn.Sequential(nn.Conv2d(3, 8, 1), nn.Sequential(nn.ReLU(), nn.ReLU()))))
        3
    """
    found: list[nn.Module] = []
    for child in trunk:
        found += units_of(child) if _is_sequence(child) else [child]
    return found


def measured_taps(trunk: nn.Sequential) -> list[Tap]:
    """Return the strides and widths of the maps behind the units of a trunk, from one run without values.

    Example::

        >>> measured_taps(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()))
        [Tap(stride=2, width=8), Tap(stride=2, width=8)]
    """
    copied = _weightless(trunk)
    x, found = _example(copied), []
    for unit in units_of(copied):
        x = unit(x)
        is_whole = x.shape[2] == x.shape[3] and _SIZE % x.shape[2] == 0
        found.append(Tap(_SIZE // x.shape[2] if is_whole else None, x.shape[1]))
    return found


def limit_trunk(trunk: nn.Sequential, stride: int) -> nn.Sequential:
    """Let no map of a trunk have a larger stride than `stride`, in place, and return the trunk.

    Convolutions and poolings beyond keep their weights and lose their step.

    Raises:
        ValueError: The stride is not a whole number of at least 1; or a module makes smaller maps without such a step,
            or larger ones once it has none.

    Example::

        >>> from torchvision.models import resnet18
        >>> max(tap.stride for tap in measured_taps(limit_trunk(trunk_of(resnet18()), 16)))
        16
    """
    check_number("stride", stride, whole=True, least=1)
    for unit, tap in zip(units_of(trunk), measured_taps(trunk), strict=True):
        for module in unit.modules() if tap.stride is None or tap.stride > stride else ():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
            elif isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
                # One that only halves does nothing then; else it would leave out a row and a column.
                module.kernel_size = 1 if module.kernel_size == module.stride else module.kernel_size
                module.stride = 1
    try:
        strides = [tap.stride for tap in measured_taps(trunk)]
    except RuntimeError:  # branches of a block that have other sizes now
        strides = [None]
    if any(found is None or found > stride for found in strides):
        raise ValueError(
            f"The maps of this backbone cannot be kept at a stride of {stride}: more than convolutions and poolings"
            " with padding make them smaller. HINT: set `backbone_stride` to 32, or choose another backbone."
        )
    return trunk


def _chain(network: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the paths of a network's modules that run on each other's output, from the image on, with their output."""
    copied = _weightless(network)
    # In the order in which they run: what works in place gives the tensor that it was given.
    calls: dict[str, tuple[Tensor, Tensor]] = {}
    for path, module in copied.named_modules():

        def note(_: nn.Module, inputs: tuple[object, ...], output: object, path: str = path) -> None:
            if len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
                calls[path] = inputs[0], output

        module.register_forward_hook(note)
    image = _example(copied)
    # Networks for images of another size, or that read values, stop on the way: what ran is known.
    with suppress(RuntimeError, ValueError, TypeError, AssertionError):
        copied(image)
    found: list[tuple[str, Tensor]] = []
    _follow(copied, "", image, calls, found)
    return found


def _is_only_way(network: nn.Module, path: str) -> bool:
    """Return whether the output of a network depends on its image by the output of one of its modules alone."""
    copied = deepcopy(network).eval()
    if any(weight.is_meta for weight in copied.parameters()):
        return True  # without values nothing can be tried
    first, second = (torch.rand_like(_example(copied), device="cpu") for _ in range(2))
    kept: list[Tensor] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        handle = copied.get_submodule(path).register_forward_hook(lambda *call: kept.append(call[-1].clone()))
        try:
            wanted = copied(first)
            handle.remove()
            copied.get_submodule(path).register_forward_hook(lambda *_: kept[0])
            return bool(torch.allclose(copied(second), wanted, rtol=1e-4, atol=1e-6))
        except (RuntimeError, ValueError, TypeError, AssertionError):
            return False  # made for images of one other size


def _follow(
    module: nn.Module, path: str, x: Tensor, calls: Mapping[str, tuple[Tensor, Tensor]], found: list[tuple[str, Tensor]]
) -> Tensor:
    """Add the children of a module that run one behind the other from `x` on, and return what the last one gives."""
    left = {name: f"{path}.{name}".lstrip(".") for name, _ in module.named_children()}
    order = list(calls)
    while reading := [name for name, place in left.items() if place in calls and calls[place][0] is x]:
        name = min(reading, key=lambda name: order.index(left[name]))
        place, child = left.pop(name), module.get_submodule(name)
        if _is_sequence(child):
            x = _follow(child, place, x, calls, found)
        else:
            x = calls[place][1]
            found.append((place, x))
    return x


def _before_head(network: nn.Module, chain: Sequence[tuple[str, Tensor]]) -> int:
    """Return how many modules of a chain stand before a 1x1 convolution that widens its last map, if there is one."""
    for number in reversed(range(1, len(chain))):
        path, out = chain[number]
        layers = [part for part in network.get_submodule(path).modules() if isinstance(part, nn.Conv2d)]
        if layers:
            is_head = len(layers) == 1 and layers[0].kernel_size == (1, 1) and layers[0].groups == 1
            return number if is_head and out.shape[1] > chain[number - 1][1].shape[1] else len(chain)
        if out.shape != chain[number - 1][1].shape:
            break
    return len(chain)


def _gathered(module: nn.Module, paths: Sequence[Sequence[str]]) -> nn.Sequential:
    """Return the modules at some paths in a Sequential, nested as they are."""
    found = nn.Sequential()
    for name in dict.fromkeys(path[0] for path in paths):
        within = [path[1:] for path in paths if path[0] == name]
        child = module.get_submodule(name)
        is_part = all(within) and _is_sequence(child) and len(within) < len(units_of(child))
        found.add_module(name, _gathered(child, within) if is_part else child)
    return found


def _is_sequence(module: nn.Module) -> TypeGuard[nn.Sequential]:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _is_map(out: Tensor) -> bool:
    return out.dim() == 4 and min(out.shape[2:]) * _MAX_STRIDE >= _SIZE


def _weightless(module: _Module) -> _Module:
    return deepcopy(module).to("meta").eval()


def _example(module: nn.Module) -> Tensor:
    first = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    return torch.empty(1, 3 if first is None else first.in_channels, _SIZE, _SIZE, device="meta")

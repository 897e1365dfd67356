"""Check of a network that is to be converted: what cannot be is said in one sentence, and nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from lightning_nas.graph.detector import without_detection
from lightning_nas.graph.operator_calls import check_same_calls
from lightning_nas.supernet.elastic_class import elastic_modules

__all__ = ["check_source"]

_WRAPPERS = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")
# What torchvision's quantizable networks hold is plain arithmetic until it is prepared.
_PLAIN_QUANTIZABLE = ("FloatFunctional", "QuantStub", "DeQuantStub", "QuantWrapper")


def check_source(model: nn.Module, example_input: Tensor) -> None:
    """Raise an error unless a network is one that can be converted, and leave it as it is.

    The network runs twice, as a copy, on images of other values. That it runs in evaluation mode, in half precision, or
    that a module runs several times is no error.

    Args:
        model: The network.
        example_input: One batch that it can run, shape (N, C, H, W).

    Raises:
        TypeError: The network is no module, or the input no tensor.
        ValueError: Something in the network cannot be converted; the message names it.

    Example::

        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> check_source(net, torch.zeros(1, 3, 8, 8))
        >>> check_source(nn.DataParallel(net), torch.zeros(1, 3, 8, 8))
        Traceback (most recent call last):
        ValueError: The network is wrapped in a DataParallel. HINT: pass what it wraps, its `module`, and wrap...
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"The network must be a torch.nn.Module; got {_of_type(model)}.")
    _check_whole(model)
    for path, module in model.named_modules():
        place = f"Module {path!r}" if path else "The network"
        for check in (_check_form, _check_tensors, _check_bare):
            check(place, module)
    _check_devices(model)
    _check_input(model, example_input)
    check_same_calls(without_detection(_copied(model)), example_input, type(model).__name__)


def _check_whole(model: nn.Module) -> None:
    name = type(model).__name__
    if any(base.__name__ == "LightningModule" for base in type(model).__mro__):
        inside = [path for path, child in model.named_children() if _holds_convolution(child)]
        shown = " or ".join(f"`model.{path}`" for path in inside) or "its network"
        raise ValueError(
            f"{name} is a LightningModule, and not the network that it trains. HINT: pass {shown}, and put back what"
            " the conversion returns."
        )
    if elastic_modules(model):
        raise ValueError(
            f"{name} is a supernet already, or holds one. HINT: use it as it is, or convert a new network of the same"
            " kind."
        )
    if hasattr(model, "supernet"):
        raise ValueError(
            f"{name} has an attribute `supernet` of its own, where the supernet's handle belongs. HINT: rename it."
        )


def _check_form(place: str, module: nn.Module) -> None:
    """Refuse what wraps, compiles, scripts or quantizes modules."""
    name, home = type(module).__name__, type(module).__module__
    if name in _WRAPPERS:
        raise ValueError(
            f"{place} is wrapped in a {name}. HINT: pass what it wraps, its `module`, and wrap what comes back."
        )
    # The class itself is not imported: that of torch.compile takes seconds to import.
    if name == "OptimizedModule" or module._compiled_call_impl is not None:
        raise ValueError(
            f"{place} is compiled by `torch.compile`, whose code knows the widths that it has now. HINT: pass the plain"
            " network, such as `model._orig_mod`, and compile the network that is derived."
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(
            f"{place} is scripted or traced by `torch.jit`, and its code cannot change. HINT: pass the plain network,"
            " and script the network that is derived."
        )
    if home.startswith("torch.ao.") and name not in _PLAIN_QUANTIZABLE:
        raise ValueError(
            f"{place} is quantized, or prepared for it: it is a {name} of `{home}`. HINT: pass the plain network, and"
            " quantize the network that is derived."
        )


def _check_tensors(place: str, module: nn.Module) -> None:
    for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        if is_lazy(tensor):
            raise ValueError(
                f"{place} is lazy: its {name!r} has no shape before it has run. HINT: run the network once, such as on"
                " the example input."
            )
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_quantized or tensor.layout != torch.strided:
            kind = type(tensor).__name__ if type(tensor) not in (Tensor, nn.Parameter) else str(tensor.layout)
            raise ValueError(
                f"{place} holds {name!r} as a {tensor.dtype} {kind}, and not as a plain tensor. HINT: convert the plain"
                " network; quantize, prune or shard the network that is derived."
            )


def _check_bare(place: str, module: nn.Module) -> None:
    """Refuse what would not be computed, or not be called, at another width."""
    if is_parametrized(module):
        raise ValueError(
            f"{place} has parametrizations, which compute its weights at one width. HINT: make them permanent first:"
            " `torch.nn.utils.parametrize.remove_parametrizations`."
        )
    computed = [
        name
        for name, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        if name.endswith(("_orig", "_g", "_v")) and isinstance(vars(module).get(name.rpartition("_")[0]), Tensor)
    ]
    if computed:
        raise ValueError(
            f"{place} holds {', '.join(computed)} in place of a plain weight, as weight norm and pruning leave it."
            " HINT: make that permanent first: `torch.nn.utils.remove_weight_norm`,"
            " `torch.nn.utils.remove_spectral_norm`, or `torch.nn.utils.prune.remove(module, 'weight')`."
        )
    if "forward" in vars(module):
        raise ValueError(f"{place} has a `forward` set on the instance. HINT: derive a class that has it.")
    is_leaf = not any(True for _ in module.children())
    hooks = [name.strip("_") for name, found in vars(module).items() if name.endswith("_hooks") and found]
    if is_leaf and hooks:
        raise ValueError(
            f"{place} has {', '.join(hooks)}, which its converted form would lose. HINT: remove them, and register"
            " hooks on what the conversion returns."
        )
    for name, parameter in module.named_parameters(recurse=False):
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise ValueError(
                f"{place} has hooks on the gradient of its {name!r}, which the converted one would lose. HINT: remove"
                " them, and register them on the parameters of what the conversion returns."
            )


def _check_devices(model: nn.Module) -> None:
    homes: dict[torch.device, str] = {}
    for name, tensor in _tensors(model):
        homes.setdefault(tensor.device, name)
        if tensor.is_meta:
            raise ValueError(
                f"{name!r} of {type(model).__name__} has no values: it is on the device 'meta'. HINT: `model.to_empty`,"
                " and load its weights, before it is converted."
            )
    if len(homes) > 1:
        shown = " and ".join(f"{name!r} on {str(device)!r}" for device, name in homes.items())
        raise ValueError(f"{type(model).__name__} holds {shown}. HINT: move it to one device, such as by `.to('cpu')`.")


def _check_input(model: nn.Module, example_input: Tensor) -> None:
    name = type(model).__name__
    if not isinstance(example_input, Tensor):
        raise TypeError(
            f"{name} must take one tensor of images, and `example_input` must be one, of shape (N, C, H, W); got"
            f" {_of_type(example_input)}. HINT: convert the part of the network that takes images, such as its"
            " backbone."
        )
    shape = tuple(example_input.shape)
    if len(shape) != 4 or 0 in shape:
        raise ValueError(
            f"`example_input` of {name} must have the shape (N, C, H, W), none of them 0; got {shape}. HINT:"
            " such as one batch of the images that it is trained on."
        )
    place, first = next(_tensors(model), (name, example_input))
    if first.device != example_input.device:
        raise ValueError(
            f"`example_input` is on the device {str(example_input.device)!r}, and {place!r} of {name} on"
            f" {str(first.device)!r}. HINT: `example_input.to({str(first.device)!r})`."
        )


def _copied(model: nn.Module) -> nn.Module:
    """Return a copy, on which the network runs: whatever that changes, it is not the user's."""
    if (copied := _try_copy(model)) is not None:
        return copied
    failing = next((path for path, module in reversed([*model.named_modules()]) if _try_copy(module) is None), "")
    place = f"Module {failing!r}" if failing else type(model).__name__
    raise ValueError(
        f"{place} cannot be copied by `copy.deepcopy`, as derived networks are. HINT: keep out of its attributes what"
        " cannot be, such as open files, locks, and tensors that have a gradient function."
    )


def _try_copy(module: nn.Module) -> nn.Module | None:
    try:
        return deepcopy(module)
    except Exception:  # of any kind: what cannot be copied says so in its own way
        return None


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _holds_convolution(module: nn.Module) -> bool:
    return any(isinstance(child, _ConvNd) for child in module.modules())


def _of_type(value: object) -> str:
    return f"the class {value.__name__} itself" if isinstance(value, type) else f"a {type(value).__name__}"

"""Stock networks by name, torchvision's and timm's, with weights from a file or from their library's own download."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torchvision import models
from typing_extensions import override

from lightning_nas.io.numbers import check_number
from lightning_nas.supernet.weights import load_state, load_weights, weights_file

__all__ = ["check_stock_name", "is_stock_name", "library_of", "stock_network", "without_memory"]

Library = Literal["torchvision", "timm"]

_RATES = ("dropout", "drop_rate", "drop_path_rate")
# Without outputs for training alone, which would make tuples of what these return, and a warning of a default.
_WITH_AUXILIARY = ("googlenet", "inception_v3")
_WITHOUT_AUXILIARY = {"aux_logits": False, "init_weights": True}
# What libraries raise for options that they do not know, or that do not go together.
_OPTION_ERRORS = (TypeError, ValueError, ArithmeticError, RuntimeError, LookupError, AttributeError, AssertionError)


def stock_network(
    name: str,
    num_classes: int,
    weights: str | Path | None = None,
    weights_prefix: str | None = None,
    **options: object,
) -> nn.Module:
    """Return a stock network of torchvision or timm, its classifier of `num_classes`, in channels-last memory format.

    A name that both libraries have, such as ``resnet18``, is timm's; ``torchvision/resnet18`` is the other one.

    Args:
        name: A classifier of torchvision, such as ``mobilenet_v2``, or any name of timm's, such as ``mobilenetv2_050``.
        num_classes: Outputs of the classifier.
        weights: None (random), ``imagenet`` (downloaded by torchvision or timm), or a file: a state_dict (.pth, .pt or
            .safetensors) or a Lightning checkpoint (.ckpt), see `lightning_nas.supernet.weights.load_weights`.
        weights_prefix: Where the network stands in the module of the file, as in ``backbone``; by default it is found.
        **options: Further arguments of the network, such as ``width_mult`` (torchvision) or ``drop_rate`` (timm). They
            are passed on as they are; timm's ``checkpoint_path`` has a file read.

    Raises:
        ValueError: An unknown name, options that the network does not take, or weights that are damaged or of another
            network.
        FileNotFoundError: There is no such file of weights.

    Example::

        >>> type(stock_network("mobilenetv2_050", num_classes=10)).__name__
        'EfficientNet'
        >>> stock_network("torchvision/resnet18", num_classes=10).fc.out_features
        10
    """
    check_number("num_classes", num_classes, whole=True, least=0)
    _check_options(options)
    check_stock_name(name)
    file = None if weights in (None, "imagenet") else weights_file(str(weights))
    library, plain = _named(name)
    make = _torchvision_network if library == "torchvision" else _timm_network
    network = make(plain, weights == "imagenet", num_classes, options)
    if file is not None:
        load_weights(network, file, weights_prefix)
    return network.to(memory_format=torch.channels_last)


def is_stock_name(name: str) -> bool:
    """Return whether a name is that of a network that `stock_network` makes.

    Example::

        >>> is_stock_name("mobilenet_v2"), is_stock_name("torchvision/resnet18"), is_stock_name("raft_small")
        (True, True, False)
    """
    library, plain = _named(name)
    return plain in _classifiers() if library == "torchvision" else timm.is_model(plain)


def library_of(name: str) -> Library:
    """Return which library makes the network of a name: timm where both have one.

    Example::

        >>> library_of("mobilenet_v2"), library_of("resnet18"), library_of("torchvision/resnet18")
        ('torchvision', 'timm', 'torchvision')
    """
    return _named(name)[0]


def check_stock_name(name: str) -> None:
    """Raise a ValueError that names the nearest networks of both libraries where a name is of none.

    Example::

        >>> check_stock_name("mobilnet_v2")
        Traceback (most recent call last):
        ValueError: Unknown network 'mobilnet_v2': neither torchvision nor timm has it. HINT: near are mobilenet_v2, ...
    """
    if is_stock_name(name):
        return
    _, plain = _named(name)
    if plain in models.list_models():
        builder = models.get_model_builder(plain)
        module = builder.__module__
        raise ValueError(
            f"{name!r} is no classifier of torchvision, but one of its networks in {module}. HINT: a callable of your"
            f" own that returns it can be searched, `network._target_={module}.{builder.__name__}`."
        )
    known = [*_classifiers(), *timm.list_models()]
    near = list(dict.fromkeys(difflib.get_close_matches(plain, known, n=6, cutoff=0.5)))
    hint = f"near are {', '.join(near)}" if near else "`timm.list_models()` and `torchvision.models.list_models()` tell"
    raise ValueError(f"Unknown network {name!r}: neither torchvision nor timm has it. HINT: {hint}.")


def without_memory(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a network whose weights are on the device ``meta``: of their shapes, without values and without memory.

    Args:
        make: Makes the network.

    Example::

        >>> without_memory(lambda: stock_network("torchvision/regnet_y_128gf", 1000)).fc.weight.device
        device(type='meta')
    """
    try:
        with torch.device("meta"):
            return make()
    except Exception:  # some compute their widths by tensors, whose values they read
        with _WeightsOnMeta():
            return make()


class _WeightsOnMeta(TorchFunctionMode):
    """Makes tensors on the device ``meta`` where these are filled as weights are, and not as numbers to count with."""

    _FILLED = frozenset((torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn))

    @override
    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Collection[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        given = dict(kwargs or {})
        if func in self._FILLED:
            given["device"] = "meta"
        return func(*args, **given)


@cache
def _classifiers() -> frozenset[str]:
    """Return the names of torchvision's classifiers of images."""
    return frozenset(models.list_models(module=models))


def _named(name: str) -> tuple[Library, str]:
    """Return the library of a network, and its name there: timm's where both have one, or none."""
    for library in ("torchvision", "timm"):
        if name.startswith(f"{library}/"):
            return library, name.removeprefix(f"{library}/")
    is_torchvisions = name in _classifiers() and not timm.is_model(name)
    return ("torchvision" if is_torchvisions else "timm"), name


def _check_options(options: Mapping[str, object]) -> None:
    """Refuse numbers of which the libraries would make something, or fail late."""
    for name, value in options.items():
        if name in _RATES and value is not None:
            check_number(name, value, least=0, most=1)
        elif name == "width_mult":
            check_number(name, value, above=0)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            check_number(name, value, least=0)


def _torchvision_network(name: str, download: bool, num_classes: int, options: dict[str, Any]) -> nn.Module:
    given = {**(_WITHOUT_AUXILIARY if name in _WITH_AUXILIARY else {}), **options}
    network = _made(models.get_model, "torchvision", name, {"num_classes": num_classes, **given}, options)
    if download:
        trained = models.get_model_weights(name)["DEFAULT"].get_state_dict(progress=True)
        load_state(network, trained, "torchvision's ImageNet weights")
    return network


def _timm_network(name: str, download: bool, num_classes: int, options: dict[str, Any]) -> nn.Module:
    return _made(
        timm.create_model, "timm", name, {"pretrained": download, "num_classes": num_classes, **options}, options
    )


def _made(
    make: Callable[..., nn.Module], library: Library, name: str, arguments: dict[str, Any], options: dict[str, object]
) -> nn.Module:
    try:
        return make(name, **arguments)
    except OSError:  # of a download; some are RuntimeErrors, too
        raise
    except _OPTION_ERRORS as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        cannot = f"does not take the options {options}" if options else "cannot be made"
        raise ValueError(f"{library}'s {name} {cannot}: {reason}.") from error

"""Networks of recipes: stock ones and what a callable of the user's makes, and how records say which it was."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from torch import nn

from lightning_nas.supernet.stock import check_stock_name, stock_network
from lightning_nas.supernet.weights import load_weights
from lightning_nas.tasks.detector import detector
from lightning_nas.tasks.segmenter import segmenter
from lightning_nas.training.fingerprint import plain

__all__ = ["BUILDERS", "check_network", "make_network", "network_settings", "stock_name", "stock_variant"]

BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "classification": stock_network,
    "detection": detector,
    "segmentation": segmenter,
}
"""What makes the networks of a task by the name of a stock network; runs record its arguments."""

# What a network began with says nothing of what it is.
_WEIGHTS = ("weights", "weights_prefix")


def make_network(make: Callable[..., nn.Module], num_classes: int, **variant: object) -> nn.Module:
    """Return the network of a recipe: what `make` returns, with `network.weights` loaded where it takes none itself.

    Args:
        make: One of `BUILDERS`, or any callable, with its arguments. It gets `num_classes` if it takes that.
        num_classes: Number of classes.
        **variant: Further arguments, or others in place of its own.

    Raises:
        TypeError: It does not take these arguments, or it returns no module.
        ValueError: The weights are damaged, or of another network.
        FileNotFoundError: There is no such file of weights.

    Example::

        >>> make_network(partial(nn.Linear, 3, 4, bias=False), num_classes=2)
        Linear(in_features=3, out_features=4, bias=False)
    """
    function, values, arguments = _opened(make)
    arguments |= variant
    named, takes_any = _parameters(function)
    if "num_classes" in named or takes_any:
        arguments["num_classes"] = num_classes
    apart: dict[str, object] = {}
    if "weights" not in named:
        apart = {name: arguments.pop(name) for name in _WEIGHTS if name in arguments}
    network = function(*values, **arguments)
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"`network._target_` must return a torch.nn.Module; {_path(function)} returns a {type(network).__name__}."
        )
    if isinstance(weights := apart.get("weights"), str | Path):
        prefix = apart.get("weights_prefix")
        load_weights(network, weights, None if prefix is None else str(prefix))
    return network


def network_settings(make: Callable[..., nn.Module], num_classes: int) -> dict[str, object]:
    """Return the settings of a network for a record, without the weights that it began with.

    Of a callable that is none of `BUILDERS` they say under ``_target_`` which it is.

    Args:
        make: Makes the network.
        num_classes: Number of classes that it was made for.

    Example::

        >>> network_settings(partial(stock_network, name="resnet18", weights="imagenet"), 3)
        {'num_classes': 3, 'name': 'resnet18'}
    """
    function, _, arguments = _opened(make)
    kept = {name: value for name, value in arguments.items() if name not in _WEIGHTS}
    if function in BUILDERS.values():
        return {"num_classes": num_classes, **kept}
    return {"_target_": _path(function), "num_classes": num_classes, **plain(kept)}


def stock_name(make: Callable[..., nn.Module]) -> str | None:
    """Return the name of the stock network that a recipe is built on; None of a callable that is none of `BUILDERS`.

    Args:
        make: Makes the network of the recipe.

    Example::

        >>> stock_name(partial(detector)), stock_name(partial(stock_network, name="resnet18")), stock_name(nn.Identity)
        ('mobilenet_v2', 'resnet18', None)
    """
    function, _, arguments = _opened(make)
    if function not in BUILDERS.values():
        return None
    key = _stock_key(function)
    return str(arguments.get(key, inspect.signature(function).parameters[key].default))


def stock_variant(make: Callable[..., nn.Module], name: str, num_classes: int, weights: str | None = None) -> nn.Module:
    """Return the network of a recipe on another stock network: with the same head, without options of its own one.

    Args:
        make: Makes the network of the recipe; of a callable that is none of `BUILDERS` a classifier takes the place.
        name: The other stock network.
        num_classes: Number of classes.
        weights: None for random ones, or ``imagenet``.

    Raises:
        ValueError: There is no such network, or it does not go with the head.
        TypeError: Its modules do not run in a chain, as a head needs it.

    Example::

        >>> make = partial(segmenter, backbone="mobilenet_v2", head_width=16, width_mult=0.5)
        >>> stock_variant(make, "resnet18", num_classes=3).head.classify_high
        Conv2d(16, 3, kernel_size=(1, 1), stride=(1, 1))
    """
    function, _, arguments = _opened(make)
    if function not in BUILDERS.values():
        function, arguments = stock_network, {}
    named, _ = _parameters(function)
    kept = {key: value for key, value in arguments.items() if key in named and key not in _WEIGHTS}
    changed = {_stock_key(function): name, "num_classes": num_classes, "weights": weights}
    return function(**{**kept, **changed})


def check_network(config: DictConfig) -> None:
    """Raise a ValueError where a recipe names a stock network that there is not, before anything is made of it.

    Args:
        config: The composed recipe.
    """
    target = OmegaConf.select(config, "network._target_")
    names = {f"{function.__module__}.{function.__name__}" for function in BUILDERS.values()}
    if target in names or target == "lightning_nas.supernet.stock_network":
        name = OmegaConf.select(config, "network.name") or OmegaConf.select(config, "network.backbone")
        if isinstance(name, str):
            check_stock_name(name)


def _opened(make: Callable[..., nn.Module]) -> tuple[Callable[..., nn.Module], tuple[object, ...], dict[str, object]]:
    """Return a callable without what is bound to it, and the values and named arguments that are."""
    if isinstance(make, partial):
        return make.func, make.args, dict(make.keywords)
    return make, (), {}


def _parameters(function: Callable[..., nn.Module]) -> tuple[frozenset[str], bool]:
    """Return the names of a callable's parameters, and whether it takes any others."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of a class in C, which says nothing
        return frozenset(), True
    return frozenset(parameters), any(one.kind is one.VAR_KEYWORD for one in parameters.values())


def _stock_key(function: Callable[..., nn.Module]) -> str:
    """Return which argument of one of `BUILDERS` names the stock network."""
    return "name" if function is stock_network else "backbone"


def _path(function: Callable[..., nn.Module]) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"

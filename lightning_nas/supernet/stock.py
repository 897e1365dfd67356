"""Stock networks by name, with weights from a file or from their library's own download."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, get_model

from lightning_nas.io.numbers import check_number

__all__ = ["is_stock_name", "read_weights", "stock_network"]

_RATES = ("dropout", "drop_rate", "drop_path_rate")


def stock_network(name: str, num_classes: int, weights: str | Path | None = None, **options: object) -> nn.Module:
    """Return a stock network whose blocks `supernet_from` converts, in channels-last memory format.

    Args:
        name: ``mobilenet_v2`` (torchvision), or a timm name such as ``mobilenetv2_050`` or ``efficientnet_lite0``.
        num_classes: Outputs of the classifier.
        weights: None (random), ``imagenet`` (downloaded by torchvision or timm), or a file of a state_dict (.pth,
            .pt or .safetensors). A classifier of another size in the file is left out.
        **options: Further arguments of the network, such as ``width_mult`` (torchvision) or ``drop_rate`` (timm). They
            are passed on as they are; timm's ``checkpoint_path`` has a file read.

    Raises:
        ValueError: An unknown name, options that the network does not take, or weights that are damaged or of another
            network.
        FileNotFoundError: There is no such file of weights.

    Example::

        >>> type(stock_network("mobilenetv2_050", num_classes=10)).__name__
        'EfficientNet'
    """
    check_number("num_classes", num_classes, whole=True, least=0)
    _check_options(options)
    file = None if weights in (None, "imagenet") else Path(str(weights)).expanduser()
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"There is no file of weights at {str(file)!r}; give a .pth, .pt or .safetensors file.")
    download = weights == "imagenet"
    if name == "mobilenet_v2":
        network = _torchvision_network(name, num_classes, options)
        if download:
            _load(network, MobileNet_V2_Weights.DEFAULT.get_state_dict(progress=True), "torchvision's ImageNet weights")
    elif timm.is_model(name):
        network = _timm_network(name, download, num_classes, options)
    else:
        near = ", ".join(timm.list_models(f"*{name[:9]}*")[:8]) or ", ".join(timm.list_models("mobilenetv2_*"))
        raise ValueError(f"Unknown network {name!r}; known are mobilenet_v2 (torchvision) and timm's, such as {near}.")
    if file is not None:
        _load(network, read_weights(file), str(file))
    return network.to(memory_format=torch.channels_last)


def is_stock_name(name: str) -> bool:
    """Return whether a name is that of a stock network whose blocks `supernet_from` converts.

    Example::

        >>> is_stock_name("mobilenet_v2"), is_stock_name("mobilenetv2_050"), is_stock_name("resnet18")
        (True, True, False)
    """
    return name == "mobilenet_v2" or name in timm.list_models(module="efficientnet")


def _check_options(options: Mapping[str, object]) -> None:
    """Refuse numbers of which the libraries would make something, or fail late."""
    for name, value in options.items():
        if name in _RATES and value is not None:
            check_number(name, value, least=0, most=1)
        elif name == "width_mult":
            check_number(name, value, above=0)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            check_number(name, value, least=0)


def _torchvision_network(name: str, num_classes: int, options: dict[str, object]) -> nn.Module:
    try:
        return get_model(name, num_classes=num_classes, **options)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"torchvision's {name} does not take the options {options}: {error}.") from error


def _timm_network(name: str, download: bool, num_classes: int, options: dict[str, Any]) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=download, num_classes=num_classes, **options)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"timm's {name} does not take all of the options {', '.join(options)}: {error}.") from error


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of weights by name; reading it runs no code.

    Raises:
        ValueError: The file is damaged, or holds something else.
    """
    try:
        is_safe = file.suffix == ".safetensors"
        state = load_file(file) if is_safe else torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises nearly anything
        # Of a pickle, PyTorch says how to load it unsafely.
        is_pickle = type(error).__name__ == "UnpicklingError"
        reason = "it holds more than tensors" if is_pickle else str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(
            f"The file of weights {str(file)!r} cannot be read, it is damaged or of another kind: {reason}."
        ) from error
    if not (isinstance(state, Mapping) and state and all(isinstance(value, Tensor) for value in state.values())):
        raise ValueError(
            f"The file of weights {str(file)!r} must hold a state_dict, tensors by name; it holds a"
            f" {type(state).__name__}. HINT: torch.save(network.state_dict(), PATH)."
        )
    return dict(state)


def _load(network: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    own = network.state_dict()
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    missing = [key for key in own if key not in fitting and not key.startswith("classifier.")]
    if missing:
        raise ValueError(
            f"The weights of {origin} are not of a {type(network).__name__} like this one: {len(missing)} of "
            f"{len(own)} tensors are missing or of another shape, the first is {missing[0]!r}."
        )
    try:
        network.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # sparse or quantized ones, or without values
        reason = " ".join(str(error).split())
        raise ValueError(f"The weights of {origin} are tensors of another kind: {reason}") from error

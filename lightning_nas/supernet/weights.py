"""Weights of a network from a file: a state_dict, or a checkpoint of a module in which the network stands somewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["load_state", "load_weights", "read_weights", "weights_file"]

# Where Lightning and timm, and where torchvision's own trainings keep the state_dict of a checkpoint.
_CHECKPOINT_KEYS = ("state_dict", "model")


def weights_file(path: str | Path) -> Path:
    """Return the file of weights that a path names.

    Raises:
        FileNotFoundError: There is no such file.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(
            f"There is no file of weights at {str(file)!r}; give a .pth, .pt, .ckpt or .safetensors file."
        )
    return file


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file of weights, or of a checkpoint's state_dict, by name; reading it runs no code.

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
        hint = " HINT: save the state_dict of your module alone, torch.save(module.state_dict(), PATH)."
        raise ValueError(
            f"The file of weights {str(file)!r} cannot be read, it is damaged or of another kind: {reason}."
            f"{hint if is_pickle else ''}"
        ) from error
    found = _state_of_checkpoint(state) if isinstance(state, Mapping) else None
    if found is None:
        raise ValueError(
            f"The file of weights {str(file)!r} must hold a state_dict, tensors by name, or a checkpoint with one; it"
            f" holds a {type(state).__name__}. HINT: torch.save(network.state_dict(), PATH)."
        )
    return found


def _state_of_checkpoint(content: Mapping[str, object]) -> dict[str, Tensor] | None:
    """Return the tensors of a state_dict, or of that within a checkpoint; None where there are none."""
    for key in _CHECKPOINT_KEYS:
        inner = content.get(key)
        if isinstance(inner, Mapping):
            # Modules may keep more than tensors in their state.
            tensors = {str(name): value for name, value in inner.items() if isinstance(value, Tensor)}
            return tensors or None
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return tensors if content and len(tensors) == len(content) else None


def load_weights(network: nn.Module, file: str | Path, prefix: str | None = None) -> None:
    """Load a file of weights into a network in place, whatever the network is called in the module of the file.

    Of a module that holds the network, as a LightningModule does, the place with most tensors of the names and shapes
    of this network is taken. A classifier of another size is left as it is in the network.

    Args:
        network: What gets the weights.
        file: A state_dict (.pth, .pt or .safetensors), or a checkpoint with one, such as Lightning's (.ckpt).
        prefix: Path of the network in the module of the file, such as ``model.backbone``; by default it is found.

    Raises:
        ValueError: The file is damaged, or of another network, or several places fit equally well.
        FileNotFoundError: There is no such file.
    """
    found = weights_file(file)
    load_state(network, read_weights(found), str(found), prefix)


def load_state(network: nn.Module, state: Mapping[str, Tensor], origin: str, prefix: str | None = None) -> None:
    """Load a state_dict into a network as `load_weights` does.

    Args:
        network: What gets the weights.
        state: Tensors by name.
        origin: Where they are from, for messages.
        prefix: As in `load_weights`.
    """
    own = network.state_dict()
    place = _place(network, own, state, origin) if prefix is None else prefix.rstrip(".")
    fitting = _fitting(own, state, place)
    if missing := _missing(network, own, fitting):
        named = f" under {place!r}" if place else ""
        raise ValueError(
            f"The weights of {origin} are not of a {type(network).__name__} like this one: {len(missing)} of "
            f"{len(own)} tensors are missing{named} or of another shape, the first is {missing[0]!r}."
        )
    try:
        network.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # sparse or quantized ones, or without values
        reason = " ".join(str(error).split())
        raise ValueError(f"The weights of {origin} are tensors of another kind: {reason}") from error


def _place(network: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor], origin: str) -> str:
    """Return the path in the module of a state_dict under which most tensors of a network are."""
    counts: Counter[str] = Counter()
    for key, value in state.items():
        names = key.split(".")
        for depth in range(len(names)):
            name = ".".join(names[depth:])
            if name in own and own[name].shape == value.shape:
                counts[".".join(names[:depth])] += 1
    if not counts:
        return ""
    most = max(counts.values())
    # Shorter ones first, so that the same tensors under two names are taken from the outer one.
    best = sorted((place for place, count in counts.items() if count == most), key=lambda place: (len(place), place))
    first = _fitting(own, state, best[0])
    others = [place for place in best[1:] if not _is_same(first, _fitting(own, state, place))]
    if others and not _missing(network, own, first):
        places = ", ".join(map(repr, (best[0], *others)))
        raise ValueError(
            f"The weights of {origin} hold a {type(network).__name__} like this one in several places: {places}; one"
            f" must be chosen. HINT: `weights_prefix={others[0]}`."
        )
    return best[0]


def _fitting(own: Mapping[str, Tensor], state: Mapping[str, Tensor], place: str) -> dict[str, Tensor]:
    prefix = f"{place}." if place else ""
    pairs = ((name, state.get(f"{prefix}{name}")) for name in own)
    return {name: value for name, value in pairs if value is not None and value.shape == own[name].shape}


def _is_same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _missing(network: nn.Module, own: Mapping[str, Tensor], fitting: Mapping[str, Tensor]) -> list[str]:
    """Return the tensors of a network, without its classifier's, that a file does not give."""
    classifiers = tuple(f"{name}." for name in _classifiers(network))
    return [name for name in own if name not in fitting and not name.startswith(classifiers)]


def _classifiers(network: nn.Module) -> list[str]:
    """Return the paths of a network's last layers: those that timm names, or else the last one of its modules."""
    config = getattr(network, "pretrained_cfg", None)
    named = config.get("classifier") if isinstance(config, Mapping) else None
    if named:
        return [named] if isinstance(named, str) else list(named)
    layers = [name for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    return layers[-1:]

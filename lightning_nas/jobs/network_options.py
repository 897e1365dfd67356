"""Check the options of a network in a file: shapes and operators are valid, files and addresses are not."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import get_args

from torch import nn

from lightning_nas.io.reading import listed, number, only, shown, whole
from lightning_nas.supernet.stock import is_stock_name, stock_network, without_memory
from lightning_nas.tasks.detector import HEADS
from lightning_nas.tasks.segmenter import HeadName

__all__ = ["checked_options"]

# Beyond all that the families have, so that nothing a file asks for fills a memory or takes for ever.
_MAX_ROWS, _MAX_BLOCKS, _MAX_WIDTH, _MAX_CLASSES, _MAX_MULTIPLIER = 64, 256, 2**14, 2**16, 8
_ROW = (("expansion", 64), ("channels", 2**12), ("repeats", 64), ("stride", 2))
_MAX_WORDS = 64
_NAME = re.compile(r"((?:torchvision|timm)/)?[a-z0-9_]{1,64}(\.[a-z0-9_]{1,64})?", re.ASCII)
_WORD = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
# Parts of the names of options that have something read or fetched, in whatever network.
_OUTSIDE = ("pretrain", "checkpoint", "path", "file", "url", "cache", "dir", "weights", "hub", "cfg", "config")
_ACTIVATIONS = ("celu", "elu", "gelu", "hard_sigmoid", "hard_swish", "leaky_relu", "mish", "relu", "relu6", "selu")
_POOLINGS = ("avg", "avgmax", "catavgmax", "max")

Check = Callable[[object, str], object]
"""Returns a value, or raises a ValueError that names the option."""


def checked_options(options: object, task: str) -> dict[str, object]:
    """Return the options of a run's source network, each of which must be one of shape or operator.

    What would name a file, an address or a cache, such as timm's ``checkpoint_path`` and ``pretrained_cfg``, or a
    source of models in place of a name, such as ``hf-hub:``, is not among them. Of networks of other families those are
    known that their class takes, of which a file may set numbers, truth values, and words that are no path.

    Args:
        options: What ``source`` of an ``architecture.json`` holds.
        task: ``classification``, ``detection`` or ``segmentation``.

    Raises:
        ValueError: An option is unknown, or its value is none that a network has.

    Example::

        >>> checked_options({"name": "mobilenetv2_050", "drop_rate": 0.1}, "classification")
        {'name': 'mobilenetv2_050', 'drop_rate': 0.1}
    """
    valid = {**_own_options(options, task), **_OPTIONS[task]}
    found = only(options, valid, "`source`")
    return {name: valid[name](value, name) for name, value in found.items()}


def _own_options(options: object, task: str) -> dict[str, Check]:
    """Return the checks of what the class of a network takes beside what most families have."""
    key = "name" if task == "classification" else "backbone"
    if not isinstance(options, Mapping) or key not in options or options.keys() <= _OPTIONS[task].keys():
        return {}
    name = _network_name(options[key], key)
    made = type(without_memory(lambda: stock_network(name, num_classes=1)))
    signatures = (inspect.signature(one) for one in made.__mro__ if issubclass(one, nn.Module) and one is not nn.Module)
    names = {name for signature in signatures for name in signature.parameters} - {"args", "kwargs", "device", "dtype"}
    return {name: _plain for name in sorted(names) if not any(part in name for part in _OUTSIDE)}


def _plain(value: object, name: str) -> object:
    """Return a number, a truth value, a word that is no path, or a list of such."""
    if isinstance(value, list):
        found = [_plain(item, name) for item in listed(value, name, _MAX_WORDS) if not isinstance(item, list)]
        if len(found) == len(value):
            return found
    elif isinstance(value, bool | None) or (isinstance(value, str) and _WORD.fullmatch(value)):
        return value
    elif isinstance(value, int):
        return whole(value, name, _MAX_WIDTH, -1)
    elif isinstance(value, float):
        return number(value, name, _MAX_WIDTH)
    raise ValueError(f"`{name}` must be a number, true or false, or a word of small letters; got {shown(value)}.")


def _whole(most: int, least: int = 1) -> Check:
    return lambda value, name: whole(value, name, most, least)


def _number(most: float) -> Check:
    return lambda value, name: number(value, name, most)


def _one_of(*values: object) -> Check:
    def check(value: object, name: str) -> object:
        # By type as well: 1 equals True, and JSON tells them apart.
        if not any(type(value) is type(known) and value == known for known in values):
            raise ValueError(f"`{name}` must be one of {', '.join(map(repr, values))}; got {shown(value)}.")
        return value

    return check


def _network_name(value: object, name: str) -> str:
    # timm names weights behind a point; they are not loaded.
    plain = value.partition(".")[0] if isinstance(value, str) and _NAME.fullmatch(value) else ""
    if not (isinstance(value, str) and plain and is_stock_name(plain)):
        raise ValueError(f"`{name}` must be a classifier of torchvision or a network of timm; got {shown(value)}.")
    return str(value)


def _no_weights(value: object, name: str) -> None:
    if value is not None:
        raise ValueError(f"`{name}` must be null: those of a run are in its subnet.safetensors; got {shown(value)}.")


def _rows(value: object, name: str) -> list[list[int]]:
    rows = listed(value, name, _MAX_ROWS)
    for row in rows:
        if len(listed(row, name, len(_ROW))) != len(_ROW):
            raise ValueError(f"`{name}` must have rows of {', '.join(what for what, _ in _ROW)}; got {shown(row)}.")
        for entry, (what, most) in zip(row, _ROW, strict=True):
            whole(entry, f"{name}, {what}", most)
    whole(sum(row[2] for row in rows), f"{name}, blocks", _MAX_BLOCKS)
    return rows


def _head_options(value: object, name: str) -> dict[str, object]:
    valid = {"width": _whole(2**12), "depth": _whole(16, 0), "extra": _whole(8, 0)}
    return {key: valid[key](item, f"{name}.{key}") for key, item in only(value or {}, valid, f"`{name}`").items()}


_FLAG = _one_of(True, False)
_SHARE = _number(1.0)
_BACKBONE: Mapping[str, Check] = {
    "num_classes": _whole(_MAX_CLASSES),
    "weights": _no_weights,
    "width_mult": _number(_MAX_MULTIPLIER),
    # torchvision's.
    "inverted_residual_setting": _rows,
    "round_nearest": _whole(_MAX_WIDTH),
    "dropout": _SHARE,
    # timm's.
    "act_layer": _one_of(*_ACTIVATIONS, "sigmoid", "silu", "swish", "tanh"),
    "bn_eps": _SHARE,
    "bn_momentum": _SHARE,
    "drop_path_rate": _SHARE,
    "drop_rate": _SHARE,
    "exportable": _FLAG,
    "fix_stem": _FLAG,
    "global_pool": _one_of(*_POOLINGS),
    "in_chans": _whole(64),
    "num_features": _whole(_MAX_WIDTH),
    "output_stride": _one_of(2, 4, 8, 16, 32),
    "pad_type": _one_of("", "same"),
    "scriptable": _FLAG,
    "stem_kernel_size": _whole(15),
    "stem_size": _whole(_MAX_WIDTH),
}
_OPTIONS: Mapping[str, Mapping[str, Check]] = {
    "classification": {"name": _network_name, **_BACKBONE},
    "detection": {
        "backbone": _network_name,
        "head": _one_of(*HEADS),
        "head_options": _head_options,
        **_BACKBONE,
    },
    "segmentation": {
        "backbone": _network_name,
        "head": _one_of(*get_args(HeadName)),
        "head_width": _whole(2**12),
        "backbone_stride": _one_of(4, 8, 16, 32),
        **_BACKBONE,
    },
}

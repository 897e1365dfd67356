"""A description of hardware for ZigZag, read from a file that people edit, and checked before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from zigzag.hardware.architecture.accelerator import Accelerator
from zigzag.parser.accelerator_factory import AcceleratorFactory
from zigzag.parser.accelerator_validator import AcceleratorValidator
from zigzag.parser.mapping_validator import MappingValidator

from lightning_nas.io.reading import JsonObject

__all__ = ["Hardware", "read_hardware"]

_CHANNELWISE = ("Add", "Pooling")


@dataclass(frozen=True)
class Hardware:
    """An accelerator, and which loops of a layer run over its array.

    Attributes:
        accelerator: Array and memories, as ZigZag's own object.
        mappings: What runs over the array, for each type of layer.
    """

    accelerator: Accelerator
    mappings: list[dict[str, object]]


def read_hardware(path: Path) -> Hardware:
    """Read a hardware description, see ``targets/edge_tpu_hardware.yaml``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It describes no hardware; the message names the file and what is wrong.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no hardware description {path}.")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"The hardware description {path} cannot be read: {error}") from error
    if problems := list(_problems(data)):
        raise ValueError(f"{path} does not describe hardware: {'; '.join(problems)}.")
    try:
        # Past its validators ZigZag has no errors of its own: it raises what a wrong value runs into.
        return Hardware(AcceleratorFactory(_normalised(data)).create(), _mappings(data))
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{path} does not describe hardware: {type(error).__name__}: {error}.") from error


def _normalised(data: JsonObject) -> dict[str, object]:
    normalised: dict[str, object] = AcceleratorValidator(data).normalized_data
    return normalised


def _problems(data: object) -> Iterator[str]:
    if not isinstance(data, dict):
        yield f"it must have `name`, `operational_array` and `memories`; got {type(data).__name__}"
        return
    validator = AcceleratorValidator(data)
    found: list[str] = []
    # Logged otherwise, and lost.
    validator.invalidate = found.append
    try:
        validator.validate()
    except (AttributeError, KeyError, TypeError) as error:
        found = found or [f"{type(error).__name__}: {error}"]
    yield from found
    if not found:
        yield from _impossible(data)


def _impossible(data: JsonObject) -> Iterator[str]:
    """Yield what ZigZag would accept and compute nonsense from."""
    array = data["operational_array"]
    sizes = dict(zip(array["dimensions"], array["sizes"], strict=True))
    yield from (f"`sizes` of {name} must be 1 or more; got {size}" for name, size in sizes.items() if size < 1)
    for name, memory in data["memories"].items():
        if memory["size"] < 1:
            yield f"`size` of memory {name} must be 1 or more; got {memory['size']}"
        for port in memory["ports"]:
            if port["bandwidth_min"] < 1:
                yield f"`bandwidth_min` of {name}, {port['name']}, must be 1 or more; got {port['bandwidth_min']}"
    for name, loops in (data.get("dataflows") or {}).items():
        count = math.prod(int(loop.split(",")[1]) for loop in loops)
        if sizes.get(name) != count:
            yield f"`dataflows` of {name} fill {count} of the {sizes.get(name)} units that `sizes` says"


def _mappings(data: JsonObject) -> list[dict[str, object]]:
    array = data["operational_array"]
    mappings: list[dict[str, object]] = [{"name": "default"}]
    if data.get("dataflows"):
        mappings[0]["spatial_mapping"] = data["dataflows"]
    # Sums over channels have nothing to do there.
    alone = {name: ["C, 1"] for name in array["dimensions"][1:]}
    first = {array["dimensions"][0]: [f"G, {array['sizes'][0]}"]}
    mappings += [{"name": name, "spatial_mapping": {**first, **alone}} for name in _CHANNELWISE]
    validator = MappingValidator(mappings)
    validator.validate()
    normalised: list[dict[str, object]] = validator.normalized_data
    return normalised

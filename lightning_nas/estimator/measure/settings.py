"""Settings that each backend takes, and their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Literal, SupportsFloat, SupportsInt

from lightning_nas.estimator.analytic import AnalyticArray
from lightning_nas.estimator.device import ANALYTIC, TABLE_ONLY, Device
from lightning_nas.io.numbers import check_number
from lightning_nas.io.reading import shown

__all__ = [
    "BACKENDS",
    "SETTINGS",
    "TIMING",
    "Settings",
    "check_settings",
    "checked_settings",
    "files_of",
    "most_spread",
]

BACKENDS = ("vela", "zigzag", "onnxruntime", "torch", "analytic")

TIMING = {"window_ms": 20.0, "num_windows": 9, "max_spread": 0.25}
"""Settings of all backends that time, and their defaults; `max_spread` is that of `measure`."""


@dataclass(frozen=True)
class Needed:
    """A setting without a default.

    Attributes:
        kind: Its values; or what it is: a whole number of at least one, a positive number, text, or a file beside the
            device's own.
    """

    kind: tuple[object, ...] | Literal["whole", "number", "text", "file"]


@dataclass(frozen=True)
class Settings:
    """All settings of a backend, checked; each is read as the type that it was checked for.

    Attributes:
        values: The settings by name.
    """

    values: Mapping[str, object]

    def text(self, name: str) -> str:
        """Return a setting that is text."""
        return str(self.values[name])

    def number(self, name: str) -> float:
        """Return a setting that is a number."""
        value = self.values[name]
        assert isinstance(value, SupportsFloat)
        return float(value)

    def count(self, name: str) -> int:
        """Return a setting that is a whole number."""
        value = self.values[name]
        assert isinstance(value, SupportsInt)
        return int(value)

    def is_on(self, name: str) -> bool:
        """Return a setting that is true or false."""
        return self.values[name] is True


# No clock, and no number of anything, comes near.
_MOST = 10**15
_TIMED = {**TIMING, "clock": ("wall", "cpu")}

SETTINGS: Mapping[str, Mapping[str, object]] = {
    "vela": {
        "accelerator": Needed(("EthosU55", "EthosU65", "EthosU85")),
        "macs": Needed("whole"),
        "cores": Needed("whole"),
        "clock_hz": Needed("number"),
        "system_config": Needed("text"),
        "memory_mode": Needed("text"),
    },
    "zigzag": {"hardware": Needed("file"), "clock_hz": Needed("number")},
    "onnxruntime": {**_TIMED, "precision": ("fp32", "int8"), "batch": 1, "threads": 1},
    "torch": {
        **_TIMED,
        "device": ("cpu", "cuda"),
        "precision": ("fp32", "fp16", "bf16"),
        "channels_last": (False, True),
        "batch": 1,
        "threads": 1,
    },
}
"""The settings of each backend but the closed form, as `checked_settings` takes them."""


def check_settings(device: Device) -> None:
    """Check the backend of a device and its settings, without what the backend needs to be installed.

    Raises:
        ValueError: There is no such backend, or a setting is missing, unknown or of another type.

    Example::

        >>> check_settings(Device("npu", "zigzag", 8, settings={"hardware": "../array.yaml", "clock_hz": 1e9}))
        Traceback (most recent call last):
        ValueError: `hardware` of device 'npu' must be the name of a file beside its own; got '../array.yaml'.
    """
    if device.backend == ANALYTIC:
        AnalyticArray.of(device)
    elif device.backend in SETTINGS:
        checked_settings(device, SETTINGS[device.backend])
    elif device.backend != TABLE_ONLY:
        raise ValueError(
            f"`backend` of device {device.name!r} must be one of {', '.join((*BACKENDS, TABLE_ONLY))}; got"
            f" {device.backend!r}."
        )


def files_of(device: Device) -> list[str]:
    """Return the names of the files beside a device's own that its settings name."""
    valid = SETTINGS.get(device.backend, {})
    return [
        str(device.settings[name]) for name, kind in valid.items() if kind == Needed("file") and name in device.settings
    ]


def most_spread(device: Device) -> float:
    """Return the spread above which a timing is left out of the table of a device."""
    value = device.settings.get("max_spread", TIMING["max_spread"])
    assert isinstance(value, SupportsFloat)  # or its file would have been refused
    return float(value)


def checked_settings(device: Device, valid: Mapping[str, object]) -> Settings:
    """Return all settings of a backend: those of the device, and defaults where it has none.

    Args:
        device: Its ``settings`` are checked.
        valid: By the name of a setting: a tuple of its values, of which the first is the default; or a default, whose
            type says what is valid: a whole number of at least one, or a positive number; or what is `Needed`.

    Raises:
        ValueError: There is no such setting or value; the message names those that there are.

    Example::

        >>> device = Device("my_cpu", "torch", 8, settings={"threads": 2})
        >>> checked_settings(device, {"precision": ("fp32", "fp16"), "threads": 1, "window_ms": 20.0})
        Settings(values={'precision': 'fp32', 'threads': 2, 'window_ms': 20.0})
    """
    unknown = [name for name in device.settings if name not in valid]
    if unknown:
        raise ValueError(
            f"`settings` of device {device.name!r} must be of {', '.join(valid)}; got {', '.join(map(repr, unknown))}."
        )
    needed = [name for name, kind in valid.items() if isinstance(kind, Needed)]
    if missing := [name for name in needed if name not in device.settings]:
        raise ValueError(
            f"Device {device.name!r} lacks the setting {missing[0]!r}, which {device.backend} needs; all that it needs"
            f" are {', '.join(needed)}."
        )
    return Settings({name: _checked(device, name, values) for name, values in valid.items()})


def _checked(device: Device, name: str, valid: object) -> object:
    kind = valid.kind if isinstance(valid, Needed) else valid
    choices = kind if isinstance(kind, tuple) else None
    value = (
        device.settings[name]
        if isinstance(valid, Needed)
        else device.settings.get(name, choices[0] if choices else valid)
    )
    if choices:
        # By type as well, since True equals 1.
        if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
            raise ValueError(
                f"`{name}` of device {device.name!r} must be one of {', '.join(map(str, choices))}; got {value!r}."
            )
        return value
    if kind in ("text", "file"):
        if not (isinstance(value, str) and value.isprintable() and (kind == "text" or _is_file_name(value))):
            rule = "text of one line" if kind == "text" else "the name of a file beside its own"
            raise ValueError(f"`{name}` of device {device.name!r} must be {rule}; got {shown(value)}.")
        return value
    is_whole = kind == "whole" or isinstance(kind, int)
    least, above = (1, None) if is_whole else (None, 0)
    check_number(name, value, whole=is_whole, least=least, above=above, most=_MOST, of=f"device {device.name!r}")
    return value


def _is_file_name(value: str) -> bool:
    """Return whether a path is that of a file beside another one, on any system."""
    return value not in ("", ".", "..") and PurePosixPath(value).name == value == PureWindowsPath(value).name

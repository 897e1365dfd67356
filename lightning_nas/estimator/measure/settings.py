"""What a device's file tells its backend, checked before it is used: the file may come from anybody."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_nas._numbers import check_number
from lightning_nas.estimator.device import Device

__all__ = ["checked_settings"]


def checked_settings(device: Device, valid: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings of a backend: those of the device, and defaults where it has none.

    Args:
        device: Its ``settings`` are checked.
        valid: By the name of a setting: a tuple of its values, of which the first is the default; or a default, whose
            type says what is valid: a whole number of at least one, or a positive number.

    Raises:
        ValueError: There is no such setting or value; the message names those that there are.

    Example::

        >>> device = Device("my_cpu", "torch", 8, settings={"threads": 2})
        >>> checked_settings(device, {"precision": ("fp32", "fp16"), "threads": 1, "window_ms": 20.0})
        {'precision': 'fp32', 'threads': 2, 'window_ms': 20.0}
    """
    unknown = [name for name in device.settings if name not in valid]
    if unknown:
        raise ValueError(
            f"`settings` of device {device.name!r} must be of {', '.join(valid)}; got {', '.join(map(repr, unknown))}."
        )
    return {name: _checked(device, name, values) for name, values in valid.items()}


def _checked(device: Device, name: str, valid: Any) -> Any:
    choices = valid if isinstance(valid, tuple) else None
    value = device.settings.get(name, choices[0] if choices else valid)
    if choices:
        if not any(value is choice or (type(value) is type(choice) and value == choice) for choice in choices):
            raise ValueError(
                f"`{name}` of device {device.name!r} must be one of {', '.join(map(str, choices))}; got {value!r}."
            )
        return value
    check_number(name, value, whole=isinstance(valid, int), above=0, of=f"device {device.name!r}")
    return value

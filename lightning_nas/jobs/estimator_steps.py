"""Steps that the recipe and the commands of estimators have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lightning_nas.estimator import Device, Subgraph, measure
from lightning_nas.estimator.files import DEFAULT_LANES
from lightning_nas.estimator.fit.staircase import Staircase, curves_in, find_lanes
from lightning_nas.estimator.measure.backend import SPLIT, Backend

__all__ = ["measured_staircase", "new_device", "rounded", "save_record", "staircase_record"]


def new_device(name: str, backend: str, lanes: int | None, settings: Mapping[str, object], folder: Path) -> Device:
    """Return a device that has no file yet.

    Args:
        name: Its name.
        backend: Name of the backend that measures it.
        lanes: Channels that it processes together; None while they are not known.
        settings: What the backend must know.
        folder: Where paths in the settings are relative to.
    """
    return Device(name, backend, DEFAULT_LANES if lanes is None else lanes, backend in SPLIT, settings, folder=folder)


def measured_staircase(device: Device, curves: Sequence[Subgraph], path: Path, backend: Backend) -> Staircase:
    """Measure latency against channels into a table of its own, and find the lanes."""
    rows = measure(device, curves, path, backend)
    return find_lanes(curves_in(rows, curves))


def staircase_record(documented: int | None, staircase: Staircase) -> dict[str, object]:
    """Return what is recorded of the lanes: those of the device's file, and those that were found."""
    return {"documented": documented, "found": staircase.lanes, "reason": staircase.reason}


def save_record(table: Path, device: Device, values: Mapping[str, object]) -> None:
    """Write the device beside its table, with values that are added to its record."""
    units = {"latency_ms": "milliseconds", "sram_bytes": "bytes"}
    replace(device, record={**device.record, "units": units, **values}).save(table.with_suffix(".json"))


def rounded(values: Mapping[str, float]) -> dict[str, float]:
    """Return figures as they are recorded: with five decimals.

    Example::

        >>> rounded({"count": 9, "mape": 0.0123456})
        {'count': 9, 'mape': 0.01235}
    """
    return {key: round(value, 5) for key, value in values.items()}

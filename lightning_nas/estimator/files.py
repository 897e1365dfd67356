"""Files of devices: those of the package, and those of a user."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from lightning_nas.estimator.device import ANALYTIC, FORMAT, TABLE_ONLY, Device
from lightning_nas.estimator.fit.interval import ErrorQuantiles
from lightning_nas.estimator.fit.pieces import OPERATOR_KINDS
from lightning_nas.estimator.fit.staircase import curves_in, find_lanes
from lightning_nas.estimator.measure.settings import check_settings
from lightning_nas.estimator.measurements import Measurements
from lightning_nas.estimator.share import SUFFIX
from lightning_nas.io.reading import read_json

__all__ = [
    "DEFAULT_LANES",
    "MIN_ROWS",
    "TARGETS",
    "available_devices",
    "closed_form",
    "closed_form_errors",
    "device_of",
    "find_device",
    "read_device",
]

TARGETS = Path(__file__).parent / "targets"
"""Where the devices are that come with the package."""

MIN_ROWS = 20
"""Fewer measurements of a device of your own are refused: there would be nothing left to judge a fit by."""

DEFAULT_LANES = 8
"""Of a device whose table does not show where latency steps: most widths that people use are multiples of it."""

_log = logging.getLogger(__name__)


def read_device(path: Path) -> Device:
    """Read a device from a JSON file, and check its backend and settings.

    Raises:
        ValueError: The file does not hold a valid device.
    """
    try:
        data = read_json(path)
        # Taken out, since the rest are the arguments of `Device`.
        if data.pop("format") != FORMAT:
            raise ValueError(f"its format is not {FORMAT}")
        device = Device(**data, folder=path.parent)
        check_settings(device)
        if device.errors:
            ErrorQuantiles.from_dict(device.errors)
        if not isinstance(device.record.get("measured_by", {}), Mapping):
            raise ValueError("`measured_by` in its record must be an object of names and versions")
        return device
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        reason = str(error).rstrip(".")
        raise ValueError(f"{path.name} is not a valid device: {reason}.") from error


def available_devices() -> list[str]:
    """Return the names of the devices that come with the package."""
    return sorted(path.stem for path in TARGETS.glob("*.json") if _is_complete(path))


def _is_complete(path: Path) -> bool:
    return path.with_suffix(".csv").exists() or read_device(path).backend == ANALYTIC


def find_device(name_or_path: str | Path) -> Path:
    """Return the path of a device's table, or of the ``.json`` file of a closed form.

    Raises:
        ValueError: There is no such device.
    """
    path = Path(name_or_path)
    if path.suffix not in (".csv", ".json"):
        if str(name_or_path) not in available_devices():
            known = ", ".join(available_devices())
            raise ValueError(f"Device must be one of {known}, a .csv, a .json or an {SUFFIX} file; got {path}.")
        path = TARGETS / f"{path}.json"
    if path.suffix == ".json":
        if not path.exists():
            raise ValueError(f"There is no device {path}.")
        if _is_complete(path) and not path.with_suffix(".csv").exists():
            return path
        path = path.with_suffix(".csv")
    if not path.exists():
        raise ValueError(f"A device of your own is a .csv table of measurements; there is no {path}.")
    return path


def closed_form(path: Path, lanes: int | None, settings: Mapping[str, object]) -> Device:
    """Read the device of a closed form, and replace its lanes and settings where others are given."""
    device = read_device(path)
    device = replace(device, settings={**device.settings, **settings})
    return device if lanes is None else replace(device, lanes=lanes)


def closed_form_errors() -> ErrorQuantiles:
    """Return the error quantiles of closed forms: those of the shipped one, against a simulator."""
    return ErrorQuantiles.from_dict(read_device(TARGETS / "analytic_array.json").errors)


def device_of(table: Path, rows: Measurements, lanes: int | None) -> Device:
    """Return the device beside a table; without a file, one that is derived from the table alone.

    Raises:
        ValueError: The table has too few rows to stand alone.
    """
    path = table.with_suffix(".json")
    device = read_device(path) if path.exists() else _undescribed(table, rows, lanes)
    if device.backend == TABLE_ONLY:
        count = len(rows.subgraphs or rows.networks)
        if count < MIN_ROWS:
            raise ValueError(f"{table.name} has {count} measurements; at least {MIN_ROWS} are needed.")
        parts = rows.subgraphs or [part for network in rows.networks.values() for part in network.parts]
        device = replace(device, is_split={part.kind for part in parts} <= OPERATOR_KINDS)
    return device if lanes is None else replace(device, lanes=lanes)


def _undescribed(table: Path, rows: Measurements, lanes: int | None) -> Device:
    device = Device(table.stem, TABLE_ONLY, lanes or _lanes(rows))
    # A fit to whole networks knows all of what those are off by.
    return device if rows.subgraphs else replace(device, spread=0.0)


def _lanes(rows: Measurements) -> int:
    found = find_lanes(curves_in(rows.subgraphs))
    if found.lanes is not None:
        _log.info("The table shows %d lanes. %s", found.lanes, found.reason)
    return found.lanes or DEFAULT_LANES

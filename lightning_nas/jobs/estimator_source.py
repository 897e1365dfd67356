"""What there is of a device before anything is measured: read from wherever it is, and copied into a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from lightning_nas.estimator import Device, Estimator, available_devices
from lightning_nas.estimator.files import TARGETS, read_device
from lightning_nas.estimator.measure.backend import BACKENDS
from lightning_nas.estimator.measure.settings import files_of
from lightning_nas.estimator.measurements import COLUMNS, Measurements, read_measurements, to_row
from lightning_nas.estimator.share import SUFFIX, unpacked
from lightning_nas.io.writing import write_bytes, write_text
from lightning_nas.jobs.estimator_plan import DeviceChoice
from lightning_nas.jobs.estimator_steps import new_device
from lightning_nas.training.fingerprint import keep_fingerprint

__all__ = ["DeviceSource", "begin_table", "open_source"]

_OPERATORS = "_operators.csv"


@dataclass(frozen=True)
class DeviceSource:
    """What there is of a device before anything is measured.

    Attributes:
        device: The device.
        table: Its table, if it has one.
        documented: The lanes that its file says, if it has one.
        folder: Where its file is; settings may name others there.
    """

    device: Device
    table: Path | None = None
    documented: int | None = None
    folder: Path | None = None


@contextmanager
def open_source(choice: DeviceChoice) -> Iterator[DeviceSource]:
    """Find the device, and read all that there is of it: whatever is wrong is said before any work.

    Args:
        choice: Which device.

    Raises:
        ValueError: There is no such device, or its files do not fit what was chosen.
    """
    device = choice.device
    if device.endswith(SUFFIX):
        with unpacked(Path(device)) as table:
            yield _known(table, choice)
    elif device.endswith(".csv"):
        yield _known(Path(device), choice)
    elif device in available_devices():
        table = TARGETS / f"{device}.csv"
        if not table.exists():
            raise ValueError(f"Device {device!r} is a closed form: there is no table to fit or to judge.")
        yield _known(table, choice)
    elif device.endswith(".json"):
        yield _described(Path(device), choice)
    else:
        yield _new(choice)


def _known(table: Path, choice: DeviceChoice) -> DeviceSource:
    described = table.with_suffix(".json").exists()
    chip = Estimator.load(table, lanes=choice.lanes).device
    if described:
        documented = read_device(table.with_suffix(".json")).lanes
        return DeviceSource(_agreeing(chip, choice.backend, choice.settings), table, documented, table.parent)
    if choice.backend is not None:
        chip = replace(chip, backend=choice.backend, settings=dict(choice.settings or {}))
    return DeviceSource(_agreeing(chip, choice.backend, None), table, None, table.parent)


def _described(path: Path, choice: DeviceChoice) -> DeviceSource:
    if not path.exists():
        raise ValueError(f"There is no device at {path}.")
    if path.with_suffix(".csv").exists():
        return _known(path.with_suffix(".csv"), choice)
    chip = _agreeing(read_device(path), choice.backend, choice.settings)
    if choice.backend is None:
        raise ValueError(f"{path.name} has no table beside it; to measure one, say backend={chip.backend}.")
    return DeviceSource(replace(chip, lanes=choice.lanes or chip.lanes), None, chip.lanes, path.parent)


def _agreeing(chip: Device, backend: str | None, settings: Mapping[str, object] | None) -> Device:
    if backend is not None and chip.backend != backend:
        raise ValueError(f"Device {chip.name!r} is measured by backend={chip.backend}; got backend={backend}.")
    if settings is not None and dict(settings) != dict(chip.settings):
        raise ValueError(f"Device {chip.name!r} has settings of its own, {dict(chip.settings)}; leave `settings` out.")
    return chip


def _new(choice: DeviceChoice) -> DeviceSource:
    name = choice.device
    if choice.backend is None:
        raise ValueError(
            f"There is no device {name!r}: it must be one of {', '.join(available_devices())}, the path of a .csv"
            f" table, of a .json device or of an {SUFFIX} file; a new one needs a backend of"
            f" {', '.join(BACKENDS)}."
        )
    given, folder = dict(choice.settings or {}), None
    if isinstance(hardware := given.get("hardware"), str):
        # Whoever starts the run may name any folder; its device then names the copy beside it.
        folder, given["hardware"] = Path(hardware).expanduser().parent, Path(hardware).name
    return DeviceSource(new_device(name, choice.backend, choice.lanes, given, folder or Path()), folder=folder)


def begin_table(run_dir: Path, source: DeviceSource, is_measured: bool, settings: Mapping[str, object]) -> Path:
    """Return the table of the run, beside its device: that of a run to be continued, or a copy of what there is.

    Args:
        run_dir: Directory of the run.
        source: What there is of the device.
        is_measured: Whether rows are added, which needs the columns and units of this package.
        settings: What the run depends on, for its fingerprint.

    Raises:
        ValueError: The directory holds a run of another device, or of other settings.
    """
    chip = source.device
    table, described = (run_dir / f"{chip.name}{suffix}" for suffix in (".csv", ".json"))
    if described.exists():
        known = read_device(described)
        if (known.backend, dict(known.settings)) != (chip.backend, dict(chip.settings)):
            raise ValueError(
                f"{run_dir} holds measurements of another {chip.name!r}, with backend={known.backend} and"
                f" {dict(known.settings)}; continue it with those, or give another hydra.run.dir."
            )
    keep_fingerprint(run_dir, "fingerprint.json", settings, is_begun=described.exists())
    if described.exists():
        return table
    run_dir.mkdir(parents=True, exist_ok=True)
    if source.table is not None:
        operators = f"{source.table.stem}{_OPERATORS}"
        if source.table.with_name(operators).exists():
            _copy(source.table.with_name(operators), run_dir / f"{chip.name}{_OPERATORS}")
        if is_measured:
            _write_rows(read_measurements(source.table), table)
        else:
            _copy(source.table, table)
    if source.folder is not None:
        for name in files_of(chip):
            _copy_beside(source.folder / name, run_dir)
    # Last: a run is one that can be continued once it has this file.
    chip.save(described)
    return table


def _copy_beside(file: Path, run_dir: Path) -> None:
    """Copy a file that a device names, unless it is a link that leads out of the device's folder."""
    if not file.resolve().is_relative_to(file.parent.resolve()):
        raise ValueError(f"{file} leads out of the folder of its device. HINT: put a copy there.")
    if file.is_file() and not (run_dir / file.name).exists():
        _copy(file, run_dir / file.name)


def _copy(source: Path, target: Path) -> None:
    write_bytes(target, source.read_bytes())


def _write_rows(rows: Measurements, path: Path) -> None:
    """Write a table with the columns and in the units in which more rows are appended to it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*COLUMNS, *(["network"] if rows.networks else [])])
    writer.writerows(to_row(part, figures) for part, figures in rows.subgraphs.items())
    for name, network in rows.networks.items():
        writer.writerows([*to_row(part, network.figures), name] for part in network.parts)
    write_text(path, buffer.getvalue())

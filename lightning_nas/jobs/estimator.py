"""The job of the recipe `estimator`: measure a device, fit its table, judge the fit, and draw it."""

from __future__ import annotations

import csv
import datetime
import io
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning_nas.estimator import Device, Estimator, Subgraph, available_devices, measure
from lightning_nas.estimator.device import TABLE_ONLY
from lightning_nas.estimator.files import DEFAULT_LANES, TARGETS, read_device
from lightning_nas.estimator.fit.staircase import (
    FIRST_WIDTH,
    MIN_POINTS,
    Staircase,
    curve_subgraphs,
    curves_in,
    find_lanes,
)
from lightning_nas.estimator.judge.correction import format_correction
from lightning_nas.estimator.judge.error import format_error
from lightning_nas.estimator.judge.granularity import best_granularity
from lightning_nas.estimator.judge.judge import judge
from lightning_nas.estimator.judge.verdict import Verdict
from lightning_nas.estimator.measure.backend import (
    BACKENDS,
    SPLIT,
    Backend,
    available_backend,
    open_backend,
    why_unavailable,
)
from lightning_nas.estimator.measure.device_table import measure_device
from lightning_nas.estimator.measure.settings import files_of
from lightning_nas.estimator.measurements import COLUMNS, Measurements, read_measurements, to_row
from lightning_nas.estimator.share import SUFFIX, pack, unpacked
from lightning_nas.io.locks import alone
from lightning_nas.io.numbers import check_number, check_seed
from lightning_nas.io.writing import remove_parts, write_bytes, write_text
from lightning_nas.jobs.record import versions
from lightning_nas.report.estimator import estimator_page
from lightning_nas.training.fingerprint import described_device, keep_fingerprint

__all__ = ["build_estimator"]

log = logging.getLogger(__name__)

EITHER = ("vela",)
"""Backends that measure operators or whole subgraphs, as the device says."""

PROBE = Subgraph("conv", 8, 8, 16, 16, 16, kernel=3)
"""Measured and forgotten before anything is written: settings that the backend refuses are said then."""

_OPERATORS = "_operators.csv"


@dataclass(frozen=True)
class _Source:
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


def build_estimator(
    *,
    recipe: str,
    output_dir: str | Path,
    seed: int,
    device: str,
    backend: str | None = None,
    settings: Mapping[str, Any] | None = None,
    lanes: int | None = None,
    num_subgraphs: int | None = None,
    num_networks: int = 30,
    num_folds: int = 5,
    staircase_width: int | None = 129,
) -> dict[str, Any]:
    """Measure what is missing, find the lanes, fit, judge and draw; a run that was stopped continues.

    Args:
        recipe: Name of the recipe, for the record.
        output_dir: Directory of the run; it receives the table, the device, both in one ``.estimator.zip`` to hand on,
            report.html and, last of all, result.json.
        seed: Seed of the subgraphs that are measured.
        device: Name of a shipped device; the path of a table, of a device's ``.json`` file, or of an estimator that
            somebody handed on; or the name of a new device, which needs `backend`.
        backend: What measures: the table is then continued to `num_subgraphs`. None for the table as it is.
        settings: Of a new device, in the terms of its backend.
        lanes: Channels that the device processes together; by default as documented, else as found.
        num_subgraphs: How many subgraphs the table is to cover; by default 10,000 that are compiled or simulated, and
            300 that are timed.
        num_networks: How many subnets are measured whole, beside stock networks, to judge the estimator; 0 for none.
        num_folds: Folds of the cross-validation over the rows.
        staircase_width: Up to which width latency is measured against channels; None for what the table holds.

    Returns:
        The content of result.json.

    Raises:
        ValueError: No such device, a table that is not valid, or settings that do not fit, before any work; or whole
            networks are off to one side, and no correction mends that: there is a report then, and nothing to use.
        ImportError: The packages of the backend are not installed.
    """
    check_seed(seed)
    for name, value, least in (
        ("lanes", lanes, 1),
        ("num_subgraphs", num_subgraphs, 20),
        ("num_networks", num_networks, 0),
        ("num_folds", num_folds, 2),
        ("staircase_width", staircase_width, FIRST_WIDTH + MIN_POINTS - 1),
    ):
        if value is not None or name in ("num_networks", "num_folds"):
            check_number(name, value, whole=True, least=least)
    run_dir = Path(output_dir)
    with _source(device, backend, settings, lanes) as source:
        curves = curve_subgraphs(staircase_width) if staircase_width is not None else []
        measures = _open(source.device, backend is not None, bool(curves or num_networks))
        begun = {"device": described_device(device), "backend": backend, "settings": settings, "seed": seed}
        with alone(run_dir / ".lock", f"The run directory {str(run_dir)!r}"):
            remove_parts(run_dir)
            table = _started(run_dir, source, backend is not None, begun)

            log.info("Lanes")
            chip = read_device(table.with_suffix(".json"))
            staircase = _staircase(chip, table, curves, measures)
            chip = _with_lanes(chip, lanes, source, staircase)

            if backend is not None:
                assert measures is not None
                log.info("Granularity")
                is_new = source.table is None and "granularity" not in chip.record
                if is_new and num_networks and chip.backend in EITHER:
                    sizes = {"num_subgraphs": num_subgraphs or 1500, "num_networks": num_networks}
                    chip = _with_best_granularity(
                        chip, table, **{name: min(size, 1500) for name, size in sizes.items()}
                    )
                    measures = open_backend(chip)
                log.info("Table")
                measure_device(chip, table, seed, num_subgraphs, measures)
                if not curves:  # the rows that were measured just now may hold one
                    staircase = _staircase(chip, table, curves, measures)
                    chip = _with_lanes(chip, lanes, source, staircase)
            chip.save(table.with_suffix(".json"))

            log.info("Fit and error")
            verdict = judge(Estimator.load(table), num_networks, num_folds, measures, run_dir)
            chip = verdict.estimator.device

            log.info("Report")
            result = {
                "recipe": recipe,
                "device": chip.name,
                "backend": chip.backend,
                "settings": dict(chip.settings),
                "seed": seed,
                "rows": len(verdict.estimator.measurements),
                "networks": len(verdict.estimator.networks),
                "lanes": {
                    "used": chip.lanes,
                    "documented": source.documented,
                    "found": staircase.lanes,
                    "reason": staircase.reason,
                },
                "granularity": chip.record.get("granularity"),
                "fit": str(verdict.estimator.regressor),
                "correction": _rounded(verdict.correction),
                "error": _rounded(verdict.error),
                "measured_by": measures.versions() if measures is not None else chip.record.get("measured_by"),
                "file": f"{chip.name}{SUFFIX}",
                "versions": versions(),
            }
            write_text(run_dir / "report.html", estimator_page(result, verdict, staircase))
            if verdict.refusal is not None:
                raise ValueError(f"{verdict.refusal} Network by network: {run_dir / 'report.html'}")
            _write(table, chip, result, backend is not None)
            write_text(run_dir / "result.json", json.dumps(result, indent=1))
            log.info("%s\nWritten to %s", _summary(result, verdict), run_dir)
            return result


@contextmanager
def _source(
    device: str, backend: str | None, settings: Mapping[str, Any] | None, lanes: int | None
) -> Iterator[_Source]:
    """Find out what `device` is, and read all that there is of it: whatever is wrong is said before any work."""
    if device.endswith(SUFFIX):
        with unpacked(Path(device)) as table:
            yield _known(table, backend, settings, lanes)
    elif device.endswith(".csv"):
        yield _known(Path(device), backend, settings, lanes)
    elif device in available_devices():
        table = TARGETS / f"{device}.csv"
        if not table.exists():
            raise ValueError(f"Device {device!r} is a closed form: there is no table to fit or to judge.")
        yield _known(table, backend, settings, lanes)
    elif device.endswith(".json"):
        path = Path(device)
        if not path.exists():
            raise ValueError(f"There is no device at {path}.")
        if path.with_suffix(".csv").exists():
            yield _known(path.with_suffix(".csv"), backend, settings, lanes)
        else:
            chip = _agreeing(read_device(path), backend, settings)
            if backend is None:
                raise ValueError(f"{path.name} has no table beside it; to measure one, say backend={chip.backend}.")
            yield _Source(replace(chip, lanes=lanes or chip.lanes), None, chip.lanes, path.parent)
    else:
        yield _new(device, backend, settings, lanes)


def _known(table: Path, backend: str | None, settings: Mapping[str, Any] | None, lanes: int | None) -> _Source:
    described = table.with_suffix(".json").exists()
    chip = Estimator.load(table, lanes=lanes).device
    if not described and backend is not None:
        chip = replace(chip, backend=backend, settings=dict(settings or {}))
    documented = read_device(table.with_suffix(".json")).lanes if described else None
    return _Source(_agreeing(chip, backend, settings if described else None), table, documented, table.parent)


def _agreeing(chip: Device, backend: str | None, settings: Mapping[str, Any] | None) -> Device:
    if backend is not None and chip.backend != backend:
        raise ValueError(f"Device {chip.name!r} is measured by backend={chip.backend}; got backend={backend}.")
    if settings is not None and dict(settings) != dict(chip.settings):
        raise ValueError(f"Device {chip.name!r} has settings of its own, {dict(chip.settings)}; leave `settings` out.")
    return chip


def _new(name: str, backend: str | None, settings: Mapping[str, Any] | None, lanes: int | None) -> _Source:
    if backend is None:
        raise ValueError(
            f"There is no device {name!r}: it must be one of {', '.join(available_devices())}, the path of a .csv"
            f" table, of a .json device or of an {SUFFIX} file; a new one needs a backend of"
            f" {', '.join(BACKENDS)}."
        )
    given, folder = dict(settings or {}), None
    if isinstance(hardware := given.get("hardware"), str):
        # Whoever starts the run may name any folder; its device then names the copy beside it.
        folder, given["hardware"] = Path(hardware).expanduser().parent, Path(hardware).name
    device = Device(name, backend, lanes or DEFAULT_LANES, backend in SPLIT, given, folder=folder or Path())
    return _Source(device, folder=folder)


def _open(chip: Device, is_required: bool, is_wanted: bool) -> Backend | None:
    if is_required:
        try:
            measures = open_backend(chip)
            measures.measure_subgraph(PROBE)
        except KeyError as error:
            raise ValueError(f"Device {chip.name!r} lacks the setting {error}, which {chip.backend} needs.") from error
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"Device {chip.name!r} cannot be measured: {error}") from error
        return measures
    if chip.backend == TABLE_ONLY or not is_wanted:
        return None
    measures_here = available_backend(chip)
    if measures_here is None:
        reason = why_unavailable(chip) or f"nothing here measures {chip.name}."
        log.warning("Skipping whole-network and staircase measurements: %s", reason)
    return measures_here


def _started(run_dir: Path, source: _Source, is_measured: bool, settings: Mapping[str, Any]) -> Path:
    """Return the table of the run, beside its device: that of a run to be continued, or a copy of what there is."""
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


def _staircase(chip: Device, table: Path, curves: list[Any], measures: Backend | None) -> Staircase:
    if measures is not None and curves:
        rows = measure(chip, curves, table.with_name(f"{table.stem}_staircase.csv"), measures)
        return find_lanes(curves_in(rows, curves))
    return find_lanes(curves_in(read_measurements(table).subgraphs) if table.exists() else [])


def _with_lanes(chip: Device, lanes: int | None, source: _Source, staircase: Staircase) -> Device:
    used = lanes or source.documented or staircase.lanes or DEFAULT_LANES
    log.info("%d lanes. %s", used, staircase.reason)
    return replace(chip, lanes=used)


def _with_best_granularity(chip: Device, table: Path, **sizes: int) -> Device:
    is_split, record = best_granularity(chip, table, **sizes, folder=table.parent)
    if is_split != chip.is_split:
        # Rows of the other granularity are measured anew, under the same name.
        table.unlink()
    text = "whole networks are off by {operators:.2%} by operators, by {subgraphs:.2%} by whole subgraphs"
    log.info(text.format(**record).replace("%", " %"))
    chip = replace(chip, is_split=is_split, record={**chip.record, "granularity": _rounded(record)})
    chip.save(table.with_suffix(".json"))
    return chip


def _rounded(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _rounded(value) for key, value in values.items()}
    return round(values, 5) if isinstance(values, float) else values


def _write(table: Path, chip: Device, result: Mapping[str, Any], is_measured: bool) -> None:
    """Write the device with what is known of it, and the file to hand on."""
    record = {
        **chip.record,
        "units": {"latency_ms": "milliseconds", "sram_bytes": "bytes"},
        "rows": result["rows"],
        "networks": result["networks"],
        "staircase": {key: result["lanes"][key] for key in ("documented", "found", "reason")},
    }
    # What a device was judged by at length is not replaced by less.
    record.setdefault("error", {key: result["error"][key] for key in ("rows", "networks") if key in result["error"]})
    if is_measured:
        record |= {"date": datetime.date.today().isoformat(), "measured_by": result["measured_by"]}
    replace(chip, record=record).save(table.with_suffix(".json"))
    pack(table, table.with_name(result["file"]))


def _summary(result: Mapping[str, Any], verdict: Verdict) -> str:
    lines = [f"{result['device']}: {result['rows']} rows, {result['lanes']['used']} lanes. {result['fit']}"]
    lines.append(format_error(verdict.error))
    if verdict.correction is not None:
        lines.append(format_correction(verdict.correction))
    return "\n".join([*lines, f"To hand on: {result['file']}"])

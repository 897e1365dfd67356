"""Commands of `lightning-nas estimator`: what each does with a table and a device."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lightning_nas.estimator.device import ANALYTIC, TABLE_ONLY, Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.files import TARGETS, read_device
from lightning_nas.estimator.fit.interval import ErrorQuantiles
from lightning_nas.estimator.fit.staircase import curve_subgraphs
from lightning_nas.estimator.judge.correction import format_correction
from lightning_nas.estimator.judge.error import format_error
from lightning_nas.estimator.judge.granularity import best_granularity
from lightning_nas.estimator.judge.judge import judge
from lightning_nas.estimator.judge.parity import PredictionPairs
from lightning_nas.estimator.judge.peak import format_peak, peak_error
from lightning_nas.estimator.measure.backend import BACKENDS, Backend, available_backend, open_backend
from lightning_nas.estimator.measure.device_table import measure_device
from lightning_nas.estimator.measure.sampling.sample import plan_subgraphs
from lightning_nas.estimator.measure.whole import scratch_table
from lightning_nas.estimator.measurements import COLUMNS, Figures, to_row
from lightning_nas.io.numbers import check_number, check_seed
from lightning_nas.io.writing import write_text
from lightning_nas.jobs.estimator_steps import measured_staircase, new_device, rounded, save_record, staircase_record

__all__ = [
    "compare_lanes",
    "compare_memory",
    "choose_granularity",
    "judge_closed_form",
    "judge_table",
    "measure_table",
    "measured_device",
    "plan_table",
    "run_command",
]

SIMULATED = "edge_tpu"
"""Device that closed forms are compared with: the settings of `analytic_array` are those of its array."""


def run_command(args: argparse.Namespace) -> None:
    """Run the command that was given for a device.

    Args:
        args: The command line, as `estimator_command_line` parses it.

    Raises:
        ValueError: An option, a table or a device is not valid.
        ImportError: The packages of the backend are not installed.
    """
    check_seed(args.seed)
    # None is the default of each command.
    least = {"num_subgraphs": 1, "num_networks": 0 if args.command == "error" else 1, "lanes": 1}
    for name, smallest in least.items():
        if (value := getattr(args, name)) is not None:
            check_number(f"--{name.replace('_', '-')}", value, whole=True, least=smallest)
    table = Path(args.device) if args.device.endswith(".csv") else TARGETS / f"{args.device}.csv"
    if args.command == "plan":
        plan_table(table, args.seed, args.num_subgraphs or 300)
    elif args.command == "measure":
        device = measured_device(table, args.backend, args.set, args.lanes)
        measure_table(table, device, args.seed, args.num_subgraphs)
    elif args.command == "lanes":
        compare_lanes(table)
    elif args.command == "granularity":
        choose_granularity(table)
    elif args.command == "memory":
        compare_memory(table, args.num_networks or 150)
    elif table.with_suffix(".json").exists() and not table.exists():
        judge_closed_form(table)
    else:
        judge_table(table, 200 if args.num_networks is None else args.num_networks, args.lanes)


def plan_table(table: Path, seed: int, num_subgraphs: int) -> None:
    """Write a table of sampled subgraphs whose latency is empty, and say that it is to be filled in.

    Raises:
        ValueError: The table exists.
    """
    if table.exists():
        raise ValueError(f"{table} exists; it is not overwritten.")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # Up to the latency, which is to be filled in: memory is what compilers know.
    writer.writerow(COLUMNS[:-1])
    rows = [[*to_row(part, Figures(1))[:-2], ""] for part in plan_subgraphs(seed, num_subgraphs)]
    writer.writerows(rows)
    write_text(table, text.getvalue())
    sys.stdout.write(
        f"{len(rows)} rows written to {table}: fill in latency_ms, then `lightning-nas estimator error {table}`\n"
    )


def measured_device(table: Path, backend: str | None, settings: Sequence[str], lanes: int | None) -> Device:
    """Return the device beside a table, or a new one of a backend.

    Args:
        table: A ``.csv`` file that may not be there yet.
        backend: Name of the backend of a new device.
        settings: Its settings, each ``name=value``.
        lanes: Channels that a new device processes together.

    Raises:
        ValueError: There is no device and no backend, or there is a device and it is another one.
    """
    path, given = table.with_suffix(".json"), dict(map(_setting, settings))
    if path.exists():
        device = read_device(path)
        same = backend in (None, device.backend) and lanes in (None, device.lanes)
        if not same or any(device.settings.get(name) != value for name, value in given.items()):
            raise ValueError(
                f"{path} is of another device: backend {device.backend}, lanes {device.lanes}, settings"
                f" {dict(device.settings)}. Measure into a table of another name, or leave the options out."
            )
        return device
    if backend is None:
        raise ValueError(f"There is no {path}: say what measures, with `--backend`, one of {', '.join(BACKENDS)}.")
    return new_device(table.stem, backend, lanes, given, table.parent)


def measure_table(table: Path, device: Device, seed: int, num_subgraphs: int | None) -> None:
    """Measure sampled subgraphs into a table and record by what."""
    backend = open_backend(device)
    # Before the rows, so that an interrupted run is continued as it was begun.
    device.save(table.with_suffix(".json"))
    rows = measure_device(device, table, seed, num_subgraphs, backend)
    record = {"date": datetime.date.today().isoformat(), "rows": len(rows), "measured_by": backend.versions()}
    save_record(table, device, record)


def _setting(text: str) -> tuple[str, object]:
    """Return name and value of a setting; what is no number and no truth value is text."""
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"A setting must be name=value; got {text!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def compare_lanes(table: Path) -> None:
    """Find the lanes in measured latency against channels, and record them."""
    device = read_device(table.with_suffix(".json"))
    backend, curves = open_backend(device), curve_subgraphs()
    found = measured_staircase(device, curves, scratch_table(device, backend, "staircase"), backend)
    save_record(table, device, {"staircase": staircase_record(device.lanes, found)})
    sys.stdout.write(f"{device.name}: {device.lanes} lanes, found {found.lanes}. {found.reason}\n")


def choose_granularity(table: Path) -> None:
    """Find out whether operators or subgraphs predict networks best, and record it; the table is not made anew."""
    device = read_device(table.with_suffix(".json"))
    is_split, record = best_granularity(device, table)
    save_record(table, device, {"granularity": rounded(record)})
    errors = ", ".join(f"{name} {record[name]:.2%}".replace("%", " %") for name in ("operators", "subgraphs"))
    sys.stdout.write(f"{device.name}: mean error on whole networks by {errors}\n")
    if is_split != device.is_split:
        sys.stdout.write(f'HINT: set "is_split" to {str(is_split).lower()} in {table.stem}.json, and measure again.\n')


def compare_memory(table: Path, num_networks: int) -> None:
    """Compare peak memory with the compiler's and record it."""
    device = read_device(table.with_suffix(".json"))
    error = peak_error(device, num_networks)
    save_record(table, device, {"memory": rounded(error)})
    sys.stdout.write(f"{device.name}: {format_peak(error)}\n")


def judge_table(table: Path, num_networks: int, lanes: int | None) -> None:
    """Correct the estimator by whole networks, measure how wrong it is on others, and record both."""
    estimator = Estimator.load(table, lanes=lanes)
    verdict = judge(estimator, num_networks, backend=_judging_backend(estimator.device, num_networks))
    if verdict.refusal is not None:
        raise ValueError(f"{format_error(verdict.error)}\n{verdict.refusal}")
    regressor, device = verdict.estimator.regressor, verdict.estimator.device
    counts = {"rows": len(estimator.measurements), "networks": len(estimator.networks)}
    fit = {"by": regressor.choice, **rounded(regressor.held_out)}
    error = {name: rounded(row) for name, row in verdict.error.items()}
    found = {"correction": rounded(verdict.correction)} if verdict.correction else {}
    save_record(table, device, {**counts, **found, "fit": fit, "error": error})
    measured = f"{counts['rows']} subgraphs and {counts['networks']} whole networks"
    sys.stdout.write(f"{estimator.name}: {measured}, {estimator.lanes} lanes\n")
    sys.stdout.write(f"{regressor}\n{format_error(verdict.error)}\n")
    if verdict.correction:
        sys.stdout.write(format_correction(verdict.correction) + "\n")


def _judging_backend(device: Device, num_networks: int) -> Backend | None:
    """Return the backend that measures networks to judge by; None where the table alone is asked for.

    Raises:
        ImportError: The packages of the backend are not installed.
        ValueError: It was timed on another machine.
    """
    if device.backend == TABLE_ONLY or num_networks == 0:
        return None
    backend = available_backend(device)
    if backend is None:
        open_backend(device)  # says what is missing
        raise ValueError(
            f"{device.name} was timed on another machine, where alone networks can judge it. HINT: `--num-networks 0`"
            " judges by the rows of its table."
        )
    return backend


def judge_closed_form(table: Path) -> None:
    """Compare a closed form with the table of a simulated device, and record its errors.

    Raises:
        ValueError: The device is no closed form.
    """
    device = read_device(table.with_suffix(".json"))
    if device.backend != ANALYTIC:
        raise ValueError(f"There is no table of {device.name} yet: `lightning-nas estimator measure` makes it.")
    rows = Estimator.load(SIMULATED).measurements
    predicted_ms = Estimator(device).predict_ms(list(rows))
    true_ms = np.array([figures.latency_ms for figures in rows.values()])
    error = rounded(PredictionPairs((SIMULATED,) * len(rows), predicted_ms, true_ms).figures)
    device = dataclasses.replace(device, errors=ErrorQuantiles.of(list(rows), np.log(predicted_ms / true_ms)).to_dict())
    save_record(table, device, {"error": {"against": SIMULATED, **error}})
    sys.stdout.write(f"{device.name} against {SIMULATED}:\n{format_error({'operators': error})}\n")

"""The command `lightning-nas estimator`: measure devices, and judge their estimators.

``lightning-nas estimator plan|measure|lanes|granularity|error|memory DEVICE``:

``plan`` writes the subgraphs that are to be measured on a chip of your own, ``measure`` measures them where a backend
can. ``lanes`` finds where latency steps with the channels, ``granularity`` whether operators or whole subgraphs predict
networks best. ``error`` fits what was measured, corrects it by whole networks, says how far it is off on others, and
records that beside the table. ``memory`` compares peak memory with the compiler's.

A table of this machine, which should do nothing else meanwhile:

    lightning-nas estimator measure my_cpu.csv --backend torch
    lightning-nas estimator measure my_gpu.csv --backend torch --set device=cuda precision=fp16
    lightning-nas estimator measure my_cpu.csv --backend onnxruntime --set precision=int8 threads=2
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import io
import json
import logging
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
from lightning_nas.io.writing import write_text
from lightning_nas.jobs.estimator_steps import measured_staircase, new_device, rounded, save_record, staircase_record
from lightning_nas.training.stop import Stopped, stoppable

_log = logging.getLogger(__name__)

SIMULATED = "edge_tpu"
"""Device that closed forms are compared with: the settings of `analytic_array` are those of its array."""


def main(arguments: Sequence[str]) -> None:
    """Plan or measure a table, or judge what is estimated from it.

    Args:
        arguments: The command line behind ``lightning-nas estimator``.
    """
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("lightning-nas estimator", description=__doc__, formatter_class=form)
    parser.add_argument("command", choices=("plan", "measure", "lanes", "granularity", "error", "memory"))
    parser.add_argument("device", help="name of a device of the package, or the path of a .csv table")
    parser.add_argument(
        "--num-subgraphs",
        type=int,
        help="random parts to plan (300) or to measure besides stock ones (10000, timed 300)",
    )
    parser.add_argument("--num-networks", type=int, help="subnets to judge by (200), networks to plan memory of (150)")
    parser.add_argument("--seed", type=int, default=0, help="of the sampled subgraphs")
    parser.add_argument("--lanes", type=int, help="channels that a device of your own processes together (8)")
    parser.add_argument("--backend", choices=BACKENDS, help="what measures a device that has no .json file yet")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of that backend")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    table = Path(args.device) if args.device.endswith(".csv") else TARGETS / f"{args.device}.csv"
    with stoppable() as came:
        try:
            _run(args, table)
        except (OSError, ValueError, ImportError) as error:
            parser.exit(2, f"{error}\n")
        except Stopped:
            _log.warning("Stopped by %s. What was measured is kept; to go on, repeat the command.", came[0].name)
            parser.exit(came[0].exit_code)


def _run(args: argparse.Namespace, table: Path) -> None:
    """Run the command that was given for a table."""
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
    """Write a table of sampled subgraphs whose latency is empty, to be filled in.

    Raises:
        ValueError: The table exists.
    """
    if table.exists():
        raise ValueError(f"{table} exists; it is not overwritten.")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    # Up to the latency, which is to be filled in: memory is what compilers know.
    writer.writerow(COLUMNS[:-1])
    writer.writerows([*to_row(part, Figures(1))[:-2], ""] for part in plan_subgraphs(seed, num_subgraphs))
    write_text(table, text.getvalue())


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

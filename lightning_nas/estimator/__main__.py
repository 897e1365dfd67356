"""What an estimator is made from, and how far it is off.

``python -m lightning_nas.estimator plan|measure|error DEVICE``:

``plan`` writes the subgraphs that are to be measured on a chip of your own, ``measure`` measures them where a backend
can, ``error`` fits what was measured, says how far it is off, and records that beside the table.

A table of this machine, which should do nothing else meanwhile:

    python -m lightning_nas.estimator measure my_cpu.csv --backend torch
    python -m lightning_nas.estimator measure my_gpu.csv --backend torch --set device=cuda precision=fp16
    python -m lightning_nas.estimator measure my_cpu.csv --backend onnxruntime --set precision=int8 threads=2
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_nas.estimator.device import TABLE_ONLY, Device
from lightning_nas.estimator.error import format_error, held_out_error
from lightning_nas.estimator.estimator import DEFAULT_LANES, TARGETS, Estimator
from lightning_nas.estimator.measure.backend import BACKENDS, TIMED, open_backend
from lightning_nas.estimator.measure.campaign import measure
from lightning_nas.estimator.measure.sample import plan_subgraphs, sample_subgraphs
from lightning_nas.estimator.measurements import COLUMNS, Figures, to_row


def main() -> None:
    """Plan or measure a table, or judge what is estimated from it."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m lightning_nas.estimator", description=__doc__, formatter_class=form)
    parser.add_argument("command", choices=("plan", "measure", "error"))
    parser.add_argument("device", help="name of a device of the package, or the path of a .csv table")
    parser.add_argument("--num-subgraphs", type=int, help="how many to plan (300) or measure (10000, timed 300)")
    parser.add_argument("--num-networks", type=int, default=100, help="how many networks to measure whole")
    parser.add_argument("--seed", type=int, default=0, help="of the sampled subgraphs")
    parser.add_argument("--lanes", type=int, help="channels that a device of your own processes together (8)")
    parser.add_argument("--backend", choices=BACKENDS, help="what measures a device that has no .json file yet")
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings of that backend")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    table = Path(args.device) if args.device.endswith(".csv") else TARGETS / f"{args.device}.csv"
    try:
        if args.command == "plan":
            plan_table(table, args.seed, args.num_subgraphs or 300)
        elif args.command == "measure":
            device = measured_device(table, args.backend, args.set, args.lanes)
            measure_table(table, device, args.seed, args.num_subgraphs)
        else:
            judge_table(table, args.num_networks, args.lanes)
    except (OSError, ValueError, ImportError) as error:
        parser.exit(2, f"{error}\n")


def plan_table(table: Path, seed: int, num_subgraphs: int) -> None:
    """Write a table of sampled subgraphs whose latency is empty, to be filled in.

    Raises:
        ValueError: The table exists.
    """
    if table.exists():
        raise ValueError(f"{table} exists; it is not overwritten.")
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS[:-1])
        writer.writerows([*to_row(part, Figures(1))[:-2], ""] for part in plan_subgraphs(seed, num_subgraphs))


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
        device = Device.load(path)
        same = backend in (None, device.backend) and lanes in (None, device.lanes)
        if not same or any(device.settings.get(name) != value for name, value in given.items()):
            raise ValueError(
                f"{path} is of another device: backend {device.backend}, lanes {device.lanes}, settings"
                f" {dict(device.settings)}. Measure into a table of another name, or leave the options out."
            )
        return device
    if backend is None:
        raise ValueError(f"There is no {path}: say what measures, with `--backend`, one of {', '.join(BACKENDS)}.")
    return Device(table.stem, backend, DEFAULT_LANES if lanes is None else lanes, settings=given)


def measure_table(table: Path, device: Device, seed: int, num_subgraphs: int | None) -> None:
    """Measure sampled subgraphs into a table and record by what."""
    versions = open_backend(device).versions()
    # Before the rows, so that an interrupted run is continued as it was begun.
    device.save(table.with_suffix(".json"))
    is_timed = device.backend in TIMED
    wanted = plan_subgraphs(seed, num_subgraphs or 300) if is_timed else sample_subgraphs(seed, num_subgraphs or 10_000)
    rows = measure(device, wanted, table)
    _record(table, device, {"date": datetime.date.today().isoformat(), "rows": len(rows), "measured_by": versions})


def _setting(text: str) -> tuple[str, Any]:
    """Return name and value of a setting; what is no number and no truth value is text."""
    name, separator, value = text.partition("=")
    if not separator:
        raise ValueError(f"A setting must be name=value; got {text!r}.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def judge_table(table: Path, num_networks: int, lanes: int | None) -> None:
    """Measure how wrong the estimator is and record it."""
    estimator = Estimator.load(table, lanes=lanes)
    can_measure = estimator.device.backend != TABLE_ONLY
    error = held_out_error(estimator, num_networks if can_measure else 0)
    held_out = {name: round(value, 5) for name, value in estimator.regressor.held_out.items()}
    fitted = {"by": estimator.regressor.choice, **held_out}
    rounded = {key: {k: round(v, 5) for k, v in row.items()} for key, row in error.items()}
    counts = {"rows": len(estimator.measurements), "networks": len(estimator.networks)}
    _record(table, estimator.device, {**counts, "fit": fitted, "error": rounded})
    measured = f"{counts['rows']} subgraphs and {counts['networks']} whole networks"
    sys.stdout.write(f"{estimator.name}: {measured}, {estimator.lanes} lanes\n")
    sys.stdout.write(f"{estimator.regressor}\n{format_error(error)}\n")


def _record(table: Path, device: Device, values: dict[str, object]) -> None:
    units = {"latency_ms": "milliseconds", "sram_bytes": "bytes"}
    dataclasses.replace(device, record={**device.record, "units": units, **values}).save(table.with_suffix(".json"))


if __name__ == "__main__":
    main()

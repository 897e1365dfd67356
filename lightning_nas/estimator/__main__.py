"""What an estimator is made from, and how far it is off.

``python -m lightning_nas.estimator plan|measure|error DEVICE``:

``plan`` writes the subgraphs that are to be measured on a chip of your own, ``measure`` measures them where a backend
can, ``error`` fits what was measured, says how far it is off, and records that beside the table.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import datetime
import logging
import sys
from pathlib import Path

from lightning_nas.estimator.device import ANALYTIC, TABLE_ONLY, Device
from lightning_nas.estimator.error import format_error, held_out_error
from lightning_nas.estimator.estimator import TARGETS, Estimator
from lightning_nas.estimator.measure.backend import open_backend
from lightning_nas.estimator.measure.campaign import measure
from lightning_nas.estimator.measure.sample import plan_subgraphs, sample_subgraphs
from lightning_nas.estimator.measurements import COLUMNS, Figures, to_row


def main() -> None:
    """Plan or measure a table, or judge what is estimated from it."""
    parser = argparse.ArgumentParser(prog="python -m lightning_nas.estimator", description=__doc__)
    parser.add_argument("command", choices=("plan", "measure", "error"))
    parser.add_argument("device", help="name of a device of the package, or the path of a .csv table")
    parser.add_argument("--num-subgraphs", type=int, help="how many subgraphs to plan (300) or measure (10000)")
    parser.add_argument("--num-networks", type=int, default=100, help="how many networks to measure whole")
    parser.add_argument("--seed", type=int, default=0, help="of the sampled subgraphs")
    parser.add_argument("--lanes", type=int, help="channels that a device of your own processes together (8)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    table = Path(args.device) if args.device.endswith(".csv") else TARGETS / f"{args.device}.csv"
    try:
        if args.command == "plan":
            plan_table(table, args.seed, args.num_subgraphs or 300)
        elif args.command == "measure":
            measure_table(table, args.seed, args.num_subgraphs or 10_000)
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


def measure_table(table: Path, seed: int, num_subgraphs: int) -> None:
    """Measure sampled subgraphs into a table and record by what."""
    device = Device.load(table.with_suffix(".json"))
    rows = measure(device, sample_subgraphs(seed, num_subgraphs), table)
    versions = open_backend(device).versions()
    _record(table, device, {"date": datetime.date.today().isoformat(), "rows": len(rows), "measured_by": versions})


def judge_table(table: Path, num_networks: int, lanes: int | None) -> None:
    """Measure how wrong the estimator is and record it."""
    estimator = Estimator.load(table, lanes=lanes)
    if estimator.device.backend == ANALYTIC:
        raise ValueError(f"{estimator.name} is a closed form: nothing is measured or fitted that could be judged.")
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

"""Developer command: ``python -m lightning_nas.estimator measure|error DEVICE``."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import logging
import sys
from pathlib import Path

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.error import format_error, held_out_error
from lightning_nas.estimator.estimator import TARGETS, Estimator
from lightning_nas.estimator.measure.backend import open_backend
from lightning_nas.estimator.measure.campaign import measure
from lightning_nas.estimator.measure.sample import sample_subgraphs


def main() -> None:
    """Measure a table, or judge what is estimated from it; either is recorded in the device's file."""
    parser = argparse.ArgumentParser(prog="python -m lightning_nas.estimator", description=__doc__)
    parser.add_argument("command", choices=("measure", "error"))
    parser.add_argument("device", help="name of a device of the package, or the path of a .csv table")
    parser.add_argument("--num-subgraphs", type=int, default=10_000, help="how many different subgraphs to measure")
    parser.add_argument("--num-networks", type=int, default=100, help="how many networks to measure whole")
    parser.add_argument("--seed", type=int, default=0, help="of the sampled subgraphs")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    table = Path(args.device) if args.device.endswith(".csv") else TARGETS / f"{args.device}.csv"
    if args.command == "measure":
        measure_table(table, args.seed, args.num_subgraphs)
    else:
        judge_table(table, args.num_networks)


def measure_table(table: Path, seed: int, num_subgraphs: int) -> None:
    """Measure sampled subgraphs into a table and record by what."""
    device = Device.load(table.with_suffix(".json"))
    rows = measure(device, sample_subgraphs(seed, num_subgraphs), table)
    versions = open_backend(device).versions()
    _record(table, {"date": datetime.date.today().isoformat(), "rows": len(rows), "measured_by": versions})


def judge_table(table: Path, num_networks: int) -> None:
    """Measure how wrong the estimator is and record it."""
    error = held_out_error(Estimator.load(table), num_networks)
    _record(table, {"error": {key: {k: round(v, 5) for k, v in row.items()} for key, row in error.items()}})
    sys.stdout.write(format_error(error) + "\n")


def _record(table: Path, values: dict[str, object]) -> None:
    path = table.with_suffix(".json")
    device = Device.load(path)
    units = {"latency_ms": "milliseconds", "sram_bytes": "bytes"}
    dataclasses.replace(device, record={**device.record, "units": units, **values}).save(path)


if __name__ == "__main__":
    main()

"""Measure many subgraphs into a table, in a way that can be stopped at any moment and continued."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.measure.backend import Backend, ParallelBackend, open_backend
from lightning_nas.estimator.measurements import COLUMNS, Figures, read_measurements, to_row
from lightning_nas.estimator.subgraph import Subgraph

__all__ = ["measure"]


def measure(
    device: Device, subgraphs: Iterable[Subgraph], path: Path, backend: Backend | None = None
) -> dict[Subgraph, Figures]:
    """Measure the subgraphs that a table does not hold yet, whole or by operators, and return the whole table.

    Every subgraph is on disk before the next is measured, so Ctrl-C loses nothing; the next call continues.

    Args:
        device: What to measure on.
        subgraphs: What to measure; equal ones are measured once.
        path: The table, a CSV file; it is made where it is not there.
        backend: What measures; by default that of the device.
    """
    _repair(path)
    known = dict(read_measurements(path).subgraphs)
    missing = [subgraph for subgraph in dict.fromkeys(subgraphs) if not _is_known(subgraph, known)]
    if missing:
        backend = backend or open_backend(device)
        with path.open("a", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            for rows in _measured(backend, missing, known, f"Measuring {device.name}"):
                new = {part: figures for part, figures in rows.items() if part not in known}
                writer.writerows(to_row(part, figures) for part, figures in new.items())
                file.flush()
                known.update(new)
    return dict(read_measurements(path).subgraphs)


def _measured(
    backend: Backend, missing: Sequence[Subgraph], known: Mapping[Subgraph, Figures], title: str
) -> Iterator[dict[Subgraph, Figures]]:
    if isinstance(backend, ParallelBackend):
        operators = (operator for subgraph in missing for operator in subgraph.operators)
        wanted = list(dict.fromkeys(operator for operator in operators if operator not in known))
        yield from tqdm(backend.measure_many(wanted), desc=title, unit="operator", total=len(wanted))
        return
    for subgraph in tqdm(missing, desc=title, unit="subgraph"):
        # An earlier one may have brought all of its operators meanwhile.
        if not _is_known(subgraph, known):
            yield backend.measure_subgraph(subgraph)


def _is_known(subgraph: Subgraph, known: Mapping[Subgraph, Figures]) -> bool:
    return subgraph in known or all(operator in known for operator in subgraph.operators)


def _repair(path: Path) -> None:
    """Make sure that a table exists and ends with a whole line: a process may die in the middle of one."""
    header = ",".join(COLUMNS) + "\n"
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1] or header
    if whole != text:
        part = path.with_suffix(".part")
        part.write_text(whole)
        os.replace(part, path)

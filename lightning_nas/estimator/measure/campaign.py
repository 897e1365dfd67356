"""Measure many subgraphs into a table, in a way that can be stopped at any moment and continued."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.measure.backend import TIMED, Backend, ParallelBackend, UnsupportedError, open_backend
from lightning_nas.estimator.measure.settings import most_spread
from lightning_nas.estimator.measurements import COLUMNS, SPREAD, Figures, read_measurements, to_row
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.io.locks import alone
from lightning_nas.io.writing import appending, write_text

__all__ = ["measure"]

_log = logging.getLogger(__name__)


def measure(
    device: Device, subgraphs: Iterable[Subgraph], path: Path, backend: Backend | None = None
) -> dict[Subgraph, Figures]:
    """Measure the subgraphs that a table does not hold yet, whole or by operators, and return the whole table.

    Those that the device does not run are left out, and that is logged.

    Every subgraph is on disk before the next is measured, so Ctrl-C loses nothing; the next call continues. What was
    timed with a spread above the device's setting ``max_spread`` is left out, with a warning, and measured anew by the
    next call.

    Args:
        device: What to measure on.
        subgraphs: What to measure; equal ones are measured once.
        path: The table, a CSV file; it is made where it is not there.
        backend: What measures; by default that of the device.

    Raises:
        InUseError: Another process measures into the table.
        UnwritableError: There is no room for a row, or no right to write there.
    """
    with alone(path.with_name(f".{path.name}.lock"), f"The table {str(path)!r}"):
        return _measure(device, subgraphs, path, backend)


def _measure(
    device: Device, subgraphs: Iterable[Subgraph], path: Path, backend: Backend | None
) -> dict[Subgraph, Figures]:
    _repair(path, device.backend in TIMED)
    known = dict(read_measurements(path).subgraphs)
    missing = [subgraph for subgraph in dict.fromkeys(subgraphs) if not _is_known(subgraph, known)]
    if missing:
        backend = backend or open_backend(device)
        limit = most_spread(device)
        names, num_spread = _header(path), 0
        with appending(path) as append:
            for rows in _measured(backend, missing, known, device.name):
                calm = {part: figures for part, figures in rows.items() if (figures.spread or 0) <= limit}
                # Subgraphs share operators, of which each is to be there once.
                new = {part: figures for part, figures in calm.items() if part not in known}
                append(_lines(names, new))
                known.update(new)
                num_spread += len(rows) - len(calm)
        if num_spread:
            _log.warning(
                "%d of %d measurements of %s are left out: their spread is above %g, because this machine did something"
                " else meanwhile. Measure again when it is idle; what is in %s is kept.",
                *(num_spread, len(missing), device.name, limit, path),
            )
    return dict(read_measurements(path).subgraphs)


def _measured(
    backend: Backend, missing: Sequence[Subgraph], known: Mapping[Subgraph, Figures], name: str
) -> Iterator[dict[Subgraph, Figures]]:
    """Yield the rows of each subgraph, or of each operator where several are measured at once."""
    title = f"Measuring {name}"
    if isinstance(backend, ParallelBackend):
        operators = (operator for subgraph in missing for operator in subgraph.operators)
        wanted = list(dict.fromkeys(operator for operator in operators if operator not in known))
        yield from tqdm(backend.measure_many(wanted), desc=title, unit="operator", total=len(wanted))
        return
    for subgraph in tqdm(missing, desc=title, unit="subgraph"):
        # An earlier one may have brought all of its operators meanwhile.
        if _is_known(subgraph, known):
            continue
        try:
            rows = backend.measure_subgraph(subgraph)
        except UnsupportedError as error:
            _log.warning("%s is left out of %s: %s", subgraph, name, error)
            continue
        yield rows


def _is_known(subgraph: Subgraph, known: Mapping[Subgraph, Figures]) -> bool:
    return subgraph in known or all(operator in known for operator in subgraph.operators)


def _header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return next(csv.reader(file))


def _lines(names: Sequence[str], rows: Mapping[Subgraph, Figures]) -> str:
    text = io.StringIO()
    # By the table's own header: somebody's table may lack optional columns, or have others.
    writer = csv.DictWriter(text, names, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writerows(_row(part, figures) for part, figures in rows.items())
    return text.getvalue()


def _row(subgraph: Subgraph, figures: Figures) -> dict[str, object]:
    spread = "" if figures.spread is None else f"{figures.spread:.3g}"
    return dict(zip((*COLUMNS, SPREAD), (*to_row(subgraph, figures), spread), strict=True))


def _repair(path: Path, is_timed: bool) -> None:
    """Make sure that a table exists and ends with a whole line: a process may die in the middle of one."""
    header = ",".join((*COLUMNS, SPREAD) if is_timed else COLUMNS) + "\n"
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1] or header
    if whole != text:
        write_text(path, whole)

"""Tables of measured subgraphs and networks: plain CSV files that are checked when they are read.

One line a subgraph (a block, or a single operator, see `Subgraph`), with these columns in any order:

* ``kind``, ``height``, ``width``, ``in_channels``, ``hidden_channels``, ``out_channels``, ``kernel``, ``stride``,
  ``residual`` (0 or 1): what was measured. ``hidden_channels`` may be empty where a kind has none.
* ``latency_ms``: time for one image. Or ``latency_s``, ``latency_us``, ``latency_ns``; they are converted.
* ``sram_bytes``, optional: the largest fast memory in use at once.
* ``spread``, optional: how far the timings are apart that the latency is the median of, as a share of it.
* ``network``, optional: lines with the same name are the parts, in order, of one network that was measured whole. Its
  latency stands in each of them, or in one and the others are empty.

Names of columns are read whatever their case. Other columns are ignored, and that is logged, such as the index that
pandas writes. Lines in which all is empty are left out.
"""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from lightning_nas.graph.layer import MAX_SIZE, Form
from lightning_nas.graph.subgraph import KINDS, Subgraph, SubgraphKind
from lightning_nas.io.numbers import check_number
from lightning_nas.io.units import counted

__all__ = ["COLUMNS", "SPREAD", "Figures", "MeasuredNetwork", "Measurements", "read_measurements", "to_row"]

_SHAPE = ("height", "width", "in_channels", "hidden_channels", "out_channels", "kernel", "stride", "residual")
COLUMNS = ("kind", *_SHAPE, "latency_ms", "sram_bytes")

SPREAD = "spread"
"""Column of tables of what was timed; compilers count and have none."""

_MS_PER = {"latency_ms": 1.0, "latency_s": 1e3, "latency_us": 1e-3, "latency_ns": 1e-6}
_TRUTH = {"True": 1.0, "False": 0.0}
_OPTIONAL = ("sram_bytes", SPREAD, "network")
# What `hidden_channels` repeats for kinds that have nothing between their convolutions.
_HIDDEN = {
    "in_channels": ("ds", "classifier", "pool", "depthwise"),
    "out_channels": ("stem", "conv", "linear"),
}

# A light's way through a transistor, eleven days, an exabyte: beyond, logarithms and squares are no numbers any more.
_LEAST_MS, _MOST_MS, _MOST_BYTES = 1e-12, 1e9, 1e18

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Figures:
    """What was measured of one subgraph or network.

    Attributes:
        latency_ms: Time for one image.
        sram_bytes: Largest fast memory in use at once, with the compiler's own buffers; 0 where not reported.
        spread: Distance between the quartiles of the timings over their median; None where nothing was timed.
    """

    latency_ms: float
    sram_bytes: int = 0
    spread: float | None = None

    def __post_init__(self) -> None:
        check_number("latency_ms", self.latency_ms, above=0)
        check_number("sram_bytes", self.sram_bytes, least=0)
        if self.spread is not None:
            check_number("spread", self.spread, least=0)


@dataclass(frozen=True)
class MeasuredNetwork:
    """A network that was measured whole.

    Attributes:
        parts: Its subgraphs, in order.
        figures: What was measured.
    """

    parts: tuple[Subgraph, ...]
    figures: Figures


@dataclass(frozen=True)
class Measurements:
    """The content of a table.

    Attributes:
        subgraphs: Figures of subgraphs or of operators.
        networks: Networks that were measured whole, by name.
    """

    subgraphs: Mapping[Subgraph, Figures]
    networks: Mapping[str, MeasuredNetwork] = field(default_factory=dict)


def to_row(subgraph: Subgraph, figures: Figures) -> list[object]:
    """Return the row of a table, in the order of `COLUMNS`."""
    shape = [int(getattr(subgraph, name)) for name in _SHAPE]
    kind = subgraph.kind if subgraph.form is None else f"{subgraph.kind} {subgraph.form}"
    return [kind, *shape, f"{figures.latency_ms:.9g}", figures.sram_bytes]


def read_measurements(path: Path) -> Measurements:
    """Read a table.

    Raises:
        ValueError: A column is missing or has an unknown unit, or a row is malformed, not finite, negative or there
            twice; the message names the line, the value and what would be valid.
    """
    try:
        # Spreadsheets put a mark in front of UTF-8, which would be part of the first column's name.
        with path.open(encoding="utf-8-sig") as file:
            rows = csv.reader(file, skipinitialspace=True)
            names = [name.strip().lower() for name in next(rows, [])]
            latency = _checked_header(path, names)
            filled = ((rows.line_num, [value.strip() for value in row]) for row in rows)
            return _collect(path, latency, ((line, _named(path, line, names, row)) for line, row in filled if any(row)))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no text in UTF-8: {error}.") from error
    except csv.Error as error:
        raise ValueError(f"{path.name} is no table of comma-separated values: {error}.") from error


@dataclass(frozen=True)
class _Row:
    line: int
    subgraph: Subgraph
    network: str
    # None: empty, as a line of a network may be, and none of a subgraph.
    figures: Figures | None


def _named(path: Path, line: int, names: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    """Return the values of a line by the names of their columns."""
    if beyond := [value for value in row[len(names) :] if value]:
        raise ValueError(
            f"{path.name}, line {line}: it has more values than the header has columns: {beyond}."
            " HINT: write numbers with a point, not with a comma."
        )
    return {name: value for name, value in zip(names, row, strict=False) if name}


def _checked_header(path: Path, names: Sequence[str]) -> str:
    """Return the column of the latency."""
    for separator, marks in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(names) == 1 and separator in names[0]:
            raise ValueError(f"{path.name} is separated by {marks}; save it with commas, and points in its numbers.")
    read = ("kind", *_SHAPE, *_MS_PER, *_OPTIONAL)
    twice = sorted({name for name in names if names.count(name) > 1 and name in read})
    if twice:
        raise ValueError(f"{path.name} has the columns {', '.join(twice)} twice.")
    times = [name for name in names if name in _MS_PER]
    missing = [name for name in ("kind", *_SHAPE) if name not in names]
    if not times:
        missing.append("latency_ms")
    unknown = [
        name or f"number {number}, which has no name" for number, name in enumerate(names, 1) if name not in read
    ]
    if missing:
        near = [name for name in unknown if "latency" in name.lower() or "time" in name.lower()]
        hint = f" {', '.join(near)} has no known unit: name it one of {', '.join(_MS_PER)}." if near else ""
        required = ", ".join(("kind", *_SHAPE, "latency_ms"))
        raise ValueError(f"{path.name} lacks the columns {', '.join(missing)}; it must have {required}.{hint}")
    if len(times) > 1:
        raise ValueError(f"{path.name} has several columns of latency, {', '.join(times)}; it must have one.")
    if unknown:
        _log.warning("Columns of %s that are ignored: %s.", path.name, ", ".join(unknown))
    return times[0]


def _collect(path: Path, latency: str, rows: Iterator[tuple[int, Mapping[str, str]]]) -> Measurements:
    subgraphs: dict[Subgraph, Figures] = {}
    lines: dict[Subgraph, int] = {}
    networks: dict[str, list[_Row]] = {}
    for line, values in rows:
        row = _read_row(values, latency, line, f"{path.name}, line {line}")
        if row.network:
            networks.setdefault(row.network, []).append(row)
        elif row.subgraph in lines:
            first = subgraphs[row.subgraph].latency_ms
            raise ValueError(
                f"{path.name}, line {line}: {row.subgraph} is on line {lines[row.subgraph]} already, with {first:g} ms;"
                " each subgraph must be there once. HINT: of repeated measurements, keep the median."
            )
        else:
            if row.figures is None:
                # Of those before, none is.
                num_empty = 1 + sum(not other.get(latency) and not other.get("network") for _, other in rows)
                raise ValueError(
                    f"{path.name}, line {line}: `{latency}` must be a positive, finite number; got"
                    f" {values.get(latency)!r}. It is empty in {counted(num_empty, 'row')}."
                )
            subgraphs[row.subgraph], lines[row.subgraph] = row.figures, line
    return Measurements(subgraphs, {name: _network(path, name, parts) for name, parts in networks.items()})


def _network(path: Path, name: str, rows: Sequence[_Row]) -> MeasuredNetwork:
    measured = [row for row in rows if row.figures]
    if not measured:
        raise ValueError(f"{path.name}, line {rows[0].line}: network {name!r} has no latency in any of its lines.")
    first = measured[0]
    for row in measured:
        if row.figures != first.figures:
            raise ValueError(
                f"{path.name}, line {row.line}: network {name!r} has other figures than on line {first.line}; the lines"
                " of a network must all have the figures of the whole, or be empty."
            )
    assert first.figures is not None
    return MeasuredNetwork(tuple(row.subgraph for row in rows), first.figures)


def _read_row(row: Mapping[str, str], latency: str, line: int, place: str) -> _Row:
    try:
        network = row.get("network", "")
        name, _, form = row.get("kind", "").partition(" ")
        kind = next((known for known in KINDS if known == name), None)
        if kind is None:
            raise ValueError(f"`kind` must be one of {', '.join(get_args(SubgraphKind))}; got {name!r}.")
        shape = {name: _size(name, row.get(name)) for name in _SHAPE if name != "hidden_channels"}
        hidden_channels = _hidden(kind, row.get("hidden_channels"), shape)
        if kind in ("pool", "depthwise") and shape["in_channels"] != shape["out_channels"]:
            raise ValueError(f"`out_channels` of {kind} must be `in_channels`; got {shape['out_channels']}.")
        subgraph = Subgraph(
            kind,
            shape["height"],
            shape["width"],
            shape["in_channels"],
            hidden_channels,
            shape["out_channels"],
            kernel=shape["kernel"],
            stride=shape["stride"],
            residual=bool(shape["residual"]),
            form=Form.parse(form) if form else None,
        )
        if not row.get(latency):
            return _Row(line, subgraph, network, None)
        return _Row(line, subgraph, network, _figures(latency, row))
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _size(name: str, text: str | None) -> int:
    lowest = 0 if name == "residual" else 1
    valid = "0 or 1" if name == "residual" else "a whole number, 1 or more"
    try:
        # Spreadsheets write whole numbers as 8.0, and pandas truth values as words.
        value = _TRUTH[text] if name == "residual" and text in _TRUTH else float(text or "")
    except ValueError:
        raise ValueError(f"`{name}` must be {valid}; got {text!r}.") from None
    if not value.is_integer() or value < lowest or (name == "residual" and value > 1):
        raise ValueError(f"`{name}` must be {valid}; got {text!r}.")
    if value > MAX_SIZE:
        raise ValueError(f"`{name}` must be {MAX_SIZE} at most; got {text!r}.")
    return int(value)


def _hidden(kind: str, text: str | None, shape: Mapping[str, int]) -> int:
    same = next((name for name, kinds in _HIDDEN.items() if kind in kinds), None)
    if same is None:
        return _size("hidden_channels", text)
    if text and _size("hidden_channels", text) != shape[same]:
        raise ValueError(f"`hidden_channels` of {kind} must be `{same}`, {shape[same]}, or empty; got {text!r}.")
    return shape[same]


def _figures(latency: str, row: Mapping[str, str]) -> Figures:
    text = row.get(latency)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        hint = " HINT: write it with a point, not with a comma." if text and "," in text else ""
        raise ValueError(f"`{latency}` must be a positive, finite number; got {text!r}.{hint}")
    if not _LEAST_MS <= value * _MS_PER[latency] <= _MOST_MS:
        raise ValueError(f"`{latency}` must be {_LEAST_MS:g} to {_MOST_MS:g} milliseconds; got {text!r}.")
    return Figures(value * _MS_PER[latency], _bytes(row.get("sram_bytes")), _spread(row.get(SPREAD)))


def _bytes(text: str | None) -> int:
    try:
        value = float(text or 0)
    except ValueError:
        value = -1.0
    if not (value.is_integer() and 0 <= value <= _MOST_BYTES):
        raise ValueError(f"`sram_bytes` must be a whole number, 0 or more, or empty; got {text!r}.")
    return int(value)


def _spread(text: str | None) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"`spread` must be a number, 0 or more, or empty; got {text!r}.")
    return value

"""Tables of measured subgraphs: plain CSV files that are checked when they are read."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_nas.estimator.layer import Form
from lightning_nas.estimator.subgraph import Subgraph

__all__ = ["COLUMNS", "Figures", "read_measurements", "to_row"]

_SHAPE = ("height", "width", "in_channels", "hidden_channels", "out_channels", "kernel", "stride", "residual")
COLUMNS = ("kind", *_SHAPE, "latency_ms", "sram_bytes")


@dataclass(frozen=True)
class Figures:
    """What was measured of one subgraph or network.

    Attributes:
        latency_ms: Time for one image.
        sram_bytes: Largest fast memory in use at once, with the compiler's own buffers; 0 where not reported.
    """

    latency_ms: float
    sram_bytes: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_ms) and self.latency_ms > 0):
            raise ValueError(f"`latency_ms` must be positive and finite; got {self.latency_ms}.")
        if self.sram_bytes < 0:
            raise ValueError(f"`sram_bytes` must not be negative; got {self.sram_bytes}.")


def to_row(subgraph: Subgraph, figures: Figures) -> list[Any]:
    """Return the row of a table, in the order of `COLUMNS`."""
    shape = [int(getattr(subgraph, name)) for name in _SHAPE]
    kind = subgraph.kind if subgraph.form is None else f"{subgraph.kind} {subgraph.form}"
    return [kind, *shape, f"{figures.latency_ms:.9g}", figures.sram_bytes]


def read_measurements(path: Path) -> dict[Subgraph, Figures]:
    """Read a table.

    Raises:
        ValueError: A column is missing, or a row is malformed, not finite or negative; the message names the line.
    """
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            raise ValueError(f"{path.name} lacks the columns {', '.join(missing)}; it must have {', '.join(COLUMNS)}.")
        return dict(_read_row(row, f"{path.name}, line {rows.line_num}") for row in rows)


def _read_row(row: Mapping[str, Any], place: str) -> tuple[Subgraph, Figures]:
    try:
        shape: dict[str, Any] = {name: int(row[name]) for name in _SHAPE}
        kind, _, form = row["kind"].partition(" ")
        shape = {**shape, "residual": bool(shape["residual"]), "form": Form.parse(form) if form else None}
        subgraph = Subgraph(kind, **shape)
        return subgraph, Figures(float(row["latency_ms"]), int(row["sram_bytes"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error

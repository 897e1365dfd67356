"""Results in words: budgets, sizes, changes, means with their spread, and tables in markdown and plain text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from lightning_nas.io.units import bytes_text
from lightning_nas.report.network_record import BudgetRecord, MetricRecord

__all__ = [
    "budget_text",
    "change_text",
    "markdown_table",
    "metric_text",
    "plain_table",
    "searched_text",
    "signed",
    "spread_text",
]

SEARCHED = {"widths": "widths (V1)", "kinds": "kinds (V2)", "both": "both (V3)"}


def metric_text(metric: MetricRecord) -> str:
    """Return what a metric is, and on what it was taken.

    Example::

        >>> metric_text(MetricRecord("AP50", 0.5, "test", num_images=75))
        'AP50 (test, 75 images)'
    """
    images = f", {metric.num_images} images" if metric.num_images else ""
    direction = "" if metric.larger_is_better else ", less is better"
    return f"{metric.name} ({metric.split}{images}{direction})"


def budget_text(budget: BudgetRecord) -> str:
    """Return a budget in words.

    Example::

        >>> budget_text(BudgetRecord(latency_ms=8.0, parameter_bytes=262144))
        '8 ms, 256 KiB parameters'
    """
    texts = []
    if budget.latency_ms is not None:
        texts.append(f"{budget.latency_ms:.4g} ms")
    if budget.peak_activation_bytes is not None:
        texts.append(f"{bytes_text(budget.peak_activation_bytes)} peak")
    if budget.parameter_bytes is not None:
        texts.append(f"{bytes_text(budget.parameter_bytes)} parameters")
    return ", ".join(texts) + (f" ({budget.requested})" if budget.requested else "") or "none"


def searched_text(choices: str) -> str:
    """Return what was searched, with its short name.

    Example::

        >>> searched_text("both"), searched_text("widths")
        ('both (V3)', 'widths (V1)')
    """
    return SEARCHED.get(choices, choices)


def signed(text: str) -> str:
    """Return a formatted number with a minus sign for its hyphen."""
    return text.replace("-", "\u2212")


def change_text(pairs: Sequence[tuple[float | None, float | None]]) -> str:
    """Return the mean relative change over the pairs (before, after) that have both.

    Example::

        >>> change_text([(4.0, 5.0), (None, 1.0)])
        '+25%'
    """
    changes = [after / before - 1 for before, after in pairs if before and after is not None]
    return signed(f"{statistics.fmean(changes):+.0%}") if changes else "n/a"


def spread_text(values: Sequence[float], form: str = ".3f") -> str:
    """Return the mean of `values` in the format `form`, with the standard deviation where there are several.

    Example::

        >>> spread_text([0.5, 0.7]), spread_text([0.5]), spread_text([])
        ('0.600 ± 0.141', '0.500', 'n/a')
    """
    if not values:
        return "n/a"
    mean = signed(format(statistics.fmean(values), form))
    return f"{mean} ± {statistics.stdev(values):.3f}" if len(values) > 1 else mean


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table.

    Example::

        >>> markdown_table(["a"], [["b"]]).splitlines()
        ['| a |', '| --- |', '| b |']
    """
    # A bar inside a cell would end it.
    lines = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *lines])


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of aligned columns for a terminal.

    Example::

        >>> plain_table(["a", "b"], [["long", "1"]]).splitlines()
        ['a     b', 'long  1']
    """
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in [head, *rows])
    return "\n".join(line.rstrip() for line in lines)

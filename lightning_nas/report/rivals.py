"""Networks that a subnet is compared with, over the runs of a group: plain multiplier, random subnets, the rule."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lightning_nas.report.network_record import ComparisonRecord
from lightning_nas.report.recorded import RecordedRun, source_text, training_text
from lightning_nas.report.text import budget_text, searched_text, spread_text

__all__ = [
    "GROUP_HEAD",
    "Rival",
    "RivalPoint",
    "distinct",
    "group_cells",
    "rivals",
    "rivals_of",
    "rivals_table",
    "shown_name",
    "verdict_text",
    "verdicts",
]

Group = Sequence[RecordedRun]
Table = tuple[list[str], list[list[str]]]

GROUP_HEAD = ("Recipe, data", "Device", "Budget", "Searched")
"""What the runs of a group have in common, see `group_cells`."""


_NAMES = {
    "uniform": "plain multiplier",
    "rule": "expert's rule",
    "stock": "stock network",
    "taught": "source taught by itself (beyond the budget)",
}
_RANDOM = re.compile(r"random \d+")
# A smaller difference is none at three digits.
_LEVEL = 0.0005


@dataclass(frozen=True)
class RivalPoint:
    """Another network in one run, or the mean of several of a kind.

    Attributes:
        latency_ms: Its latency by the estimator.
        value: Its metric, or None where it was not measured.
        count: Number of networks that this is the mean of.
    """

    latency_ms: float
    value: float | None
    count: int = 1


@dataclass(frozen=True)
class Rival:
    """Another network over the runs of a group.

    Attributes:
        name: What a person calls it.
        kind: Its name in `rivals_of`.
        latency_ms: Mean latency.
        values: Its metric in each run that has it.
        leads: By how much the subnet's metric is better than its, in each of those runs.
        num_runs: Number of runs that were compared with it.
    """

    name: str
    kind: str
    latency_ms: float
    values: tuple[float, ...]
    leads: tuple[float, ...]
    num_runs: int


def rivals_of(comparisons: Mapping[str, ComparisonRecord]) -> dict[str, RivalPoint]:
    """Return the other networks of one run by name, random ones averaged.

    Args:
        comparisons: The networks by their names in the record.

    Example::

        >>> from lightning_nas.report.network_record import CostRecord, MetricRecord
        >>> cost = CostRecord(2.0, None, parameter_bytes=10, peak_activation_bytes=10, macs=None)
        >>> metrics = [MetricRecord("accuracy", 0.1 * n, "test") for n in (1, 2, 3)]
        >>> rivals_of({f"random {n}": ComparisonRecord(cost, metric) for n, metric in enumerate(metrics)})
        {'random subnets': RivalPoint(latency_ms=2.0, value=0.2, count=3)}
    """
    networks: dict[str, list[ComparisonRecord]] = {}
    for name, network in comparisons.items():
        shown = "random subnets" if _RANDOM.fullmatch(name) else _NAMES.get(name, name)
        shown = shown if network.network is None else f"{shown} {network.network}"
        networks.setdefault(shown, []).append(network)
    return {name: _mean(items) for name, items in networks.items()}


def shown_name(name: str, network: str | None) -> str:
    """Return what pages of one run call a network that it was compared with.

    Args:
        name: Its name in the record.
        network: Which stock network it is, if it is one.

    Example::

        >>> shown_name("stock", "resnet18"), shown_name("random 1", None)
        ('stock network resnet18', 'random 1')
    """
    return name if network is None else f"{_NAMES.get(name, name)} {network}"


def rivals(runs: Sequence[RecordedRun]) -> list[Rival]:
    """Return the other networks of a group of runs."""
    found = [rivals_of(run.record.comparisons) for run in runs]
    metrics = [run.record.subnet.metric for run in runs]
    # So that more is better, of the subnet and of the others.
    signs = [1.0 if metric.larger_is_better else -1.0 for metric in metrics]
    named = []
    for name in dict.fromkeys(name for points in found for name in points):
        pairs = [
            (points[name], sign, sign * metric.value)
            for points, sign, metric in zip(found, signs, metrics, strict=True)
            if name in points
        ]
        counts = sorted({point.count for point, *_ in pairs})
        of = f" (mean of {'-'.join(map(str, counts))})" if counts[-1] > 1 else ""
        measured = [(point.value, sign, score) for point, sign, score in pairs if point.value is not None]
        named.append(
            Rival(
                name=name + of,
                kind=name,
                latency_ms=statistics.fmean(point.latency_ms for point, *_ in pairs),
                values=tuple(value for value, *_ in measured),
                leads=tuple(score - sign * value for value, sign, score in measured),
                num_runs=len(pairs),
            )
        )
    return named


def verdict_text(others: Sequence[Rival]) -> str:
    """Return whether the subnet is ahead of each of `others`, by how much and in how many runs.

    Example::

        >>> plain = Rival("plain", "plain", 2.0, values=(0.8, 0.9), leads=(0.1, 0.0), num_runs=2)
        >>> verdict_text([plain, Rival("rule", "rule", 2.0, values=(0.9,), leads=(0.0,), num_runs=1)])
        'ahead of plain (+0.050 ± 0.071, in 1 of 2 runs); level with rule (+0.000, in 0 of 1 run)'
    """
    texts = []
    for side in ("ahead of", "level with", "behind"):
        same = [_lead_text(other) for other in others if other.leads and _side(other) == side]
        texts += [f"{side} {', '.join(same)}"] if same else []
    return "; ".join(texts)


def group_cells(group: Group) -> list[str]:
    """Return what the runs of a group have in common, in the order of `GROUP_HEAD`."""
    first = group[0].record
    return [_recipe_text(group), first.device, budget_text(first.budget), searched_text(first.choices)]


def _recipe_text(group: Group) -> str:
    """Return recipe, network, data, the size of the subnets' images, and how they were fine-tuned."""
    first = group[0]
    pixels = distinct("\u00d7".join(map(str, run.architecture.input_size[1:])) for run in group)
    data = " ".join([first.provenance.data or "", " or ".join(pixels)]).strip()
    return ", ".join(filter(None, [first.record.recipe, source_text(first), data, training_text(first.provenance)]))


def rivals_table(
    groups: Sequence[Group],
    named: Sequence[str] = GROUP_HEAD,
    cells: Callable[[Group], list[str]] = group_cells,
) -> Table:
    """Return head and rows of the table of the other networks that runs were compared with.

    Args:
        groups: Runs by what they have in common.
        named: Columns that name a group.
        cells: Gives what stands in them.
    """
    head = [*named, "Network", "Metric", "Subnet minus it", "Latency (ms)", "Runs"]
    rows = []
    for group in groups:
        for other in rivals(group):
            figures = [spread_text(other.values), spread_text(other.leads, "+.3f"), f"{other.latency_ms:.3g}"]
            rows.append([*cells(group), other.name, *figures, str(other.num_runs)])
    return head, rows


def verdicts(groups: Sequence[Group], cells: Callable[[Group], list[str]] = group_cells) -> list[str]:
    """Return for each group with comparisons a sentence on whether the subnet is ahead of them."""
    texts = ((cells(group), verdict_text(rivals(group))) for group in groups)
    return [f"* **{', '.join(filter(None, names))}**: the subnet is {text}." for names, text in texts if text]


def distinct(texts: Iterable[object]) -> list[str]:
    """Return the texts that are not empty, each once, in their order.

    Args:
        texts: Texts, or what has one; None is left out.

    Example::

        >>> distinct(["2.9", None, "2.8", "2.9"])
        ['2.9', '2.8']
    """
    found = (str(text) for text in texts if text is not None)
    return list(dict.fromkeys(filter(None, found)))


def _lead_text(other: Rival) -> str:
    num_ahead = sum(lead >= _LEVEL for lead in other.leads)
    runs = "run" if len(other.leads) == 1 else "runs"
    return f"{other.name} ({spread_text(other.leads, '+.3f')}, in {num_ahead} of {len(other.leads)} {runs})"


def _side(other: Rival) -> str:
    lead = statistics.fmean(other.leads)
    return "level with" if abs(lead) < _LEVEL else "ahead of" if lead > 0 else "behind"


def _mean(networks: Sequence[ComparisonRecord]) -> RivalPoint:
    values = [network.metric.value for network in networks if network.metric is not None]
    latency_ms = statistics.fmean(network.cost.latency_ms for network in networks)
    # Rounded, since sums of floats would show in comparisons with zero.
    return RivalPoint(latency_ms, round(statistics.fmean(values), 12) if values else None, len(networks))

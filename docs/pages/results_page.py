"""The page of recorded results: markdown as a pure function of the files of runs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ablation_text import ablation_lines
from fused_blocks import fused_cells, ranges

from lightning_nas.io.reading import read_json
from lightning_nas.io.units import bytes_text, count_text
from lightning_nas.report.network_record import CostRecord, MetricRecord
from lightning_nas.report.recorded import PRIVATE, RecordedRun, grouped, read_run, source_text, training_text
from lightning_nas.report.rivals import GROUP_HEAD, distinct, group_cells, rivals_table, verdicts
from lightning_nas.report.search_record import TrialsRecord
from lightning_nas.report.text import (
    change_text,
    markdown_table,
    metric_text,
    searched_text,
    spread_text,
)

__all__ = ["page_path", "results_page"]

Group = Sequence[RecordedRun]
Table = tuple[list[str], list[list[str]]]
Figure = Callable[[CostRecord], float | None]
"""One of the costs of a network."""

PICTURES = (".png", ".jpg", ".jpeg", ".svg")


def results_page(folder: str | Path) -> str:
    """Return the markdown page of all results in `folder`, at any depth.

    The page depends on the files alone: no dates, no machine of the moment, so that a check can compare it.

    Args:
        folder: Folder of one task, such as ``recipes/results/classification``. What its ``notes.md`` says of the
            results, if there is one, is on the page.

    Raises:
        ValueError: There is no result in the folder, one of them is not in the form of ``result.json``, or there is a
            picture that must not be shown.
    """
    folder = Path(folder)
    runs = _recorded_runs(folder)
    groups = grouped(runs)
    title = folder.name.replace("_", " ").capitalize()
    files = "file" if len(runs) == 1 else "files"
    parts = [
        f"# Recorded results: {title}",
        f"Written by `python docs/pages/write.py` from the {len(runs)} recorded `result.json` {files} in "
        f"`{folder.name}/`; edit those, not this page. The search starts from a trained source network, which "
        "teaches the subnet too where nothing else is said; the baseline is that source, trained on for as many steps. "
        "Figures are means over seeds, ± is the standard deviation; the difference is the mean over seeds of subnet "
        "minus baseline of the same seed. *Searched* are the widths (V1), the kinds of blocks (V2) or both (V3). "
        "Epochs are those of fine-tuning.",
        markdown_table(*_metric_table(groups)),
        *_ablation(groups),
        *_notes(folder),
        "## Cost",
        "Latency is the estimator's; *verified* is the measurement of the whole network by the target's own compiler, "
        "simulator or clock, where it was available.",
        markdown_table(*_cost_table(groups)),
        *_rivals(groups),
        "## What the search took",
        "Steps of the supernet, which models of several budgets can share, or of all trials of a multishot search. "
        "What comes before and after, the source and fine-tuning of a model, is as long for both; networks that were "
        "fine-tuned beyond the models come on top. One step is one batch.",
        markdown_table(*_search_table(groups)),
        *_fused(groups),
        *_pictures(groups, folder),
        "## How they were made",
        _provenance(groups),
    ]
    return "\n\n".join(parts) + "\n"


def page_path(folder: str | Path) -> Path:
    """Return where the page of a folder of results is: beside it."""
    folder = Path(folder)
    return folder.parent / f"{folder.name}.md"


def _metric_table(groups: Sequence[Group]) -> Table:
    """Return head and rows of the table of means over seeds: metric, change of latency, budget."""
    head = ["Seeds", "Metric", "Baseline", "Subnet", "Difference", "Latency", "Within budget"]
    rows = []
    for group in groups:
        pairs = [(run.record.baseline.metric, run.record.subnet.metric) for run in group]
        rows.append(
            [
                *group_cells(group),
                _seeds_text(group),
                metric_text(_metric([after for _, after in pairs])),
                spread_text([before.value for before, _ in pairs]),
                spread_text([after.value for _, after in pairs]),
                spread_text([after.value - before.value for before, after in pairs], "+.3f"),
                _change(group, _latency_ms),
                _all_within(group),
            ]
        )
    return [*GROUP_HEAD, *head], rows


def _notes(folder: Path) -> list[str]:
    path = folder / "notes.md"
    return ["## Notes", path.read_text(encoding="utf-8").strip()] if path.is_file() else []


def _ablation(groups: Sequence[Group]) -> list[str]:
    lines = ablation_lines(groups)
    intro = (
        "Budgets are what was asked for, so what is saved stands beside what it cost in the metric; runs may be of "
        "other spaces (*Widths* below) and seeds."
    )
    return [intro, "\n".join(lines)] if lines else []


def _cost_table(groups: Sequence[Group]) -> Table:
    head = ["Latency (ms)", "Verified (ms)", "Verified change", "Parameters", "Peak activations", "MACs"]
    rows = [
        [
            *group_cells(group),
            _pair(group, _latency_ms, "{:.3g}".format),
            _pair(group, _verified_ms, "{:.3g}".format),
            _change(group, _verified_ms),
            _pair(group, lambda cost: cost.parameter_bytes, bytes_text),
            _pair(group, lambda cost: cost.peak_activation_bytes, bytes_text),
            _pair(group, lambda cost: cost.macs, count_text),
        ]
        for group in groups
    ]
    return [*GROUP_HEAD, *head], rows


def _search_table(groups: Sequence[Group]) -> Table:
    together: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        record, provenance = group[0].record, group[0].provenance
        words = [record.recipe, source_text(group[0]), provenance.data, training_text(provenance)]
        named = ", ".join(filter(None, words))
        together.setdefault((named, record.device, searched_text(record.choices)), []).append(group)
    rows = []
    for cells, models in together.items():
        searches = [run.record.search for group in models for run in group if run.record.search is not None]
        if searches:
            steps = statistics.fmean(search.steps for search in searches)
            minutes = statistics.fmean(search.seconds for search in searches) / 60
            trials = distinct(_trials_text(search.trials) for search in searches if search.trials is not None)
            rows.append([*cells, str(len(models)), ", ".join(trials) or "-", f"{steps:.0f}", f"{minutes:.0f}"])
    return ["Recipe, data", "Device", "Searched", "Models", "Trials", "Steps", "Minutes"], rows


def _trials_text(trials: TrialsRecord) -> str:
    """Return how many trials there were, and how many were trained to the end, which older records do not tell."""
    return str(trials.trials) + ("" if trials.finetuned is None else f", {trials.finetuned} fine-tuned")


def _rivals(groups: Sequence[Group]) -> list[str]:
    head, rows = rivals_table(groups)
    if not rows:
        return []
    intro = (
        "*Plain multiplier*: the source with all widths scaled by one ratio. *Random*: subnets of the space that use "
        "the budget up. *Expert's rule*: blocks fused where the estimator says that it pays, and widths scaled. Each "
        "was fine-tuned as the subnet was. *In 2 of 3 runs*: in how many the subnet is ahead."
    )
    table = markdown_table(head, rows)
    return [
        "## Other networks within reach of the budget",
        intro,
        table,
        *(["\n".join(v)] if (v := verdicts(groups)) else []),
    ]


def _fused(groups: Sequence[Group]) -> list[str]:
    found = [(group, cells) for group in groups if (cells := fused_cells(group)) is not None]
    if not found:
        return []
    most = max(len(cells) for _, cells in found)
    head = [*GROUP_HEAD, "Seeds", "Fused blocks", "Widths", *_stage_heads(most - 2)]
    rows = [[*group_cells(group), _seeds_text(group), *cells, *[""] * (most - len(cells))] for group, cells in found]
    intro = (
        "Blocks are counted from 1. *ibn*: inverted bottleneck, *fused*: fused inverted bottleneck, *ds*: depthwise "
        "separable; *fused 1/3*: fused by one seed of three. *Widths*: channels of the stem and of each stage, or, "
        "of networks without stages, of what is outside of blocks; *64/96*: not the same in all seeds."
    )
    return ["## Which blocks were fused", intro, markdown_table(head, rows), *_fusing(groups)]


def _stage_heads(count: int) -> list[str]:
    return ["Blocks"] if count == 1 else [f"Stage {number}" for number in range(1, count + 1)]


def _fusing(groups: Sequence[Group]) -> list[str]:
    """Return what fusing blocks of the baseline would have cost, once for each device and data."""
    lines: dict[str, None] = {}
    for group in groups:
        record, provenance = group[0].record, group[0].provenance
        fusing = provenance.fusing
        if fusing is None:
            continue
        before_ms = record.baseline.cost.latency_ms
        changes = [
            f"{latency_ms:.3g} ms ({change_text([(before_ms, latency_ms)])})"
            for latency_ms in (fusing.all_ms, fusing.where_faster_ms)
        ]
        named = ", ".join(f"`{path}`" for path in fusing.blocks if isinstance(path, str))
        named = named or ranges([number for number in fusing.blocks if isinstance(number, int)])
        blocks = f"block{'s' * (len(fusing.blocks) > 1)} {named}" if fusing.blocks else "none"
        words = [source_text(group[0]), provenance.data or record.recipe, record.device]
        line = (
            f"* **{', '.join(filter(None, words))}**: {before_ms:.3g} ms as it is, {changes[0]} with"
            f" all blocks fused, {changes[1]} with those fused where the estimator says that it pays: {blocks}."
        )
        lines[line] = None
    intro = "What fusing blocks of the baseline would have cost, at its own widths and expansions:"
    return [intro, "\n".join(lines)] if lines else []


def _pictures(groups: Sequence[Group], folder: Path) -> list[str]:
    """Return links to the pictures of the first run of each group that has some."""
    private = sorted(folder.rglob(f"{PRIVATE}*"))
    if private:
        raise ValueError(f"'{private[0]}' is of images that may not be shown, and must not be among recorded results.")
    parts = []
    for group in groups:
        found = next(filter(None, (_pictures_of(run.folder) for run in group)), [])
        if found:
            parts.append("**" + ", ".join(group_cells(group)) + "**")
        for path in found:
            parts.append(f"![{path.stem.replace('_', ' ')}]({path.relative_to(folder.parent).as_posix()})")
    return ["## Pictures", *parts] if parts else []


def _pictures_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("picture*") if path.suffix.lower() in PICTURES)


def _provenance(groups: Sequence[Group]) -> str:
    lines = []
    for group in groups:
        origins = [run.provenance for run in group]
        facts = [f"seeds {', '.join(distinct(run.record.seed for run in group))}"]
        facts += [f"data: {text}" for text in distinct(origin.data for origin in origins)]
        facts += [f"epochs: {text}" for text in distinct(origin.epochs for origin in origins)]
        facts += [f"machine: {text}" for text in distinct(origin.machine for origin in origins)]
        facts += [f"command `{text}`" for text in distinct(_any_seed(origin.command) for origin in origins)]
        facts += [f"versions: {text}" for text in distinct(_versions(run.record.versions) for run in group)]
        lines.append(f"* **{', '.join(group_cells(group))}**: " + "; ".join(facts) + ".")
    return "\n".join(lines)


def _any_seed(command: str | None) -> str | None:
    return command and re.sub(r"(?<= seed=)\d+", "SEED", command)


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _seeds_text(group: Group) -> str:
    """Return the number of seeds, and that of runs where some seed was run again, on other versions or machines."""
    num_seeds = len({run.record.seed for run in group})
    return str(num_seeds) if num_seeds == len(group) else f"{num_seeds} ({len(group)} runs)"


def _metric(metrics: Sequence[MetricRecord]) -> MetricRecord:
    """Return the first that tells on how many images it was taken, as older records do not."""
    return next((metric for metric in metrics if metric.num_images), metrics[0])


def _latency_ms(cost: CostRecord) -> float:
    return cost.latency_ms


def _verified_ms(cost: CostRecord) -> float | None:
    return cost.verified_latency_ms


def _pair(group: Group, figure: Figure, form: Callable[[float], str]) -> str:
    """Return the mean of a cost over the baselines, and over the subnets."""
    sides = zip(*((figure(run.record.baseline.cost), figure(run.record.subnet.cost)) for run in group), strict=True)
    known = [[value for value in side if value is not None] for side in sides]
    return " → ".join(form(statistics.fmean(side)) if side else "n/a" for side in known)


def _change(group: Group, figure: Figure) -> str:
    return change_text([(figure(run.record.baseline.cost), figure(run.record.subnet.cost)) for run in group])


def _all_within(group: Group) -> str:
    num_within = sum(run.record.is_within_budget for run in group)
    return "yes" if num_within == len(group) else f"no ({num_within} of {len(group)})"


def _recorded_runs(folder: Path) -> list[RecordedRun]:
    """Return all recorded runs in `folder`, at any depth, by seed.

    Raises:
        ValueError: There is no result in the folder, or one of them is not in the form of ``result.json``.
    """
    runs = []
    for path in sorted(folder.rglob("*.json")):
        if path.name == "run.json":
            continue
        # A run's folder may hold its architecture.json as well.
        if path.name != "result.json" and not _looks_like_result(path):
            continue
        runs.append(read_run(path))
    if not runs:
        raise ValueError(f"`folder` must hold a result.json; '{folder}' has none.")
    return sorted(runs, key=lambda run: run.record.seed)


def _looks_like_result(path: Path) -> bool:
    data = read_json(path, finite=False)
    return isinstance(data, dict) and "subnet" in data

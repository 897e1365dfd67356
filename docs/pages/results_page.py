"""The page of recorded results: markdown as a pure function of the files of runs."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablation_text import ablation_lines
from fused_blocks import fused_cells, ranges

from lightning_nas.report.recorded import PRIVATE, Run, grouped, read_results, training_text
from lightning_nas.report.rivals import GROUP_HEAD, distinct, group_cells, rivals_table, verdicts
from lightning_nas.report.text import (
    bytes_text,
    change_text,
    count_text,
    is_within_budget,
    markdown_table,
    metric_text,
    searched_text,
    spread_text,
)

__all__ = ["page_path", "results_page"]

Group = Sequence[Run]
Table = tuple[list[str], list[list[str]]]
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
    runs = read_results(folder)
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
        metrics = [run.result["subnet"]["metric"] for run in group]
        # Older records do not say on how many images.
        metric = next((metric for metric in metrics if metric.get("num_images")), metrics[0])
        before, after = _metrics(group, "baseline"), _metrics(group, "subnet")
        rows.append(
            [
                *group_cells(group),
                _seeds_text(group),
                metric_text(metric),
                spread_text(before),
                spread_text(after),
                spread_text([b - a for a, b in zip(before, after, strict=True)], "+.3f"),
                _change(group, "latency_ms"),
                _all_within(group),
            ]
        )
    return [*GROUP_HEAD, *head], rows


def _notes(folder: Path) -> list[str]:
    path = folder / "notes.md"
    return ["## Notes", path.read_text(encoding="utf-8").strip()] if path.is_file() else []


def _ablation(groups: Sequence[Group]) -> list[str]:
    lines = ablation_lines(groups)
    said = (
        "Budgets are what was asked for, so what is saved stands beside what it cost in the metric; runs may be of "
        "other spaces (*Widths* below) and seeds."
    )
    return [said, "\n".join(lines)] if lines else []


def _cost_table(groups: Sequence[Group]) -> Table:
    head = ["Latency (ms)", "Verified (ms)", "Verified change", "Parameters", "Peak activations", "MACs"]
    rows = [
        [
            *group_cells(group),
            _pair(group, "latency_ms", "{:.3g}".format),
            _pair(group, "verified_latency_ms", "{:.3g}".format),
            _change(group, "verified_latency_ms"),
            _pair(group, "parameter_bytes", bytes_text),
            _pair(group, "peak_activation_bytes", bytes_text),
            _pair(group, "macs", count_text),
        ]
        for group in groups
    ]
    return [*GROUP_HEAD, *head], rows


def _search_table(groups: Sequence[Group]) -> Table:
    together: dict[tuple[str, ...], list[Group]] = {}
    for group in groups:
        first = group[0].result
        named = ", ".join(filter(None, [str(first["recipe"]), str(first.get("data", "")), training_text(first)]))
        together.setdefault((named, str(first["device"]), searched_text(first)), []).append(group)
    rows = []
    for cells, models in together.items():
        spent = [run.result["search"] for group in models for run in group if run.result.get("search")]
        if spent:
            means = [statistics.fmean(item[name] for item in spent) for name in ("steps", "seconds")]
            trials = distinct(_trials_text(item) for item in spent if "trials" in item)
            figures = [str(len(models)), ", ".join(trials) or "-", f"{means[0]:.0f}", f"{means[1] / 60:.0f}"]
            rows.append([*cells, *figures])
    return ["Recipe, data", "Device", "Searched", "Models", "Trials", "Steps", "Minutes"], rows


def _trials_text(spent: Mapping[str, Any]) -> str:
    """Return how many trials there were, and how many were trained to the end, which older records do not tell."""
    finetuned = f", {spent['finetuned']} fine-tuned" if "finetuned" in spent else ""
    return f"{spent['trials']}{finetuned}"


def _rivals(groups: Sequence[Group]) -> list[str]:
    head, rows = rivals_table(groups)
    if not rows:
        return []
    said = (
        "*Plain multiplier*: the source with all widths scaled by one ratio. *Random*: subnets of the space that use "
        "the budget up. *Expert's rule*: blocks fused where the estimator says that it pays, and widths scaled. Each "
        "was fine-tuned as the subnet was. *In 2 of 3 runs*: in how many the subnet is ahead."
    )
    table = markdown_table(head, rows)
    return [
        "## Other networks within reach of the budget",
        said,
        table,
        *(["\n".join(v)] if (v := verdicts(groups)) else []),
    ]


def _fused(groups: Sequence[Group]) -> list[str]:
    found = [(group, cells) for group in groups if (cells := fused_cells(group)) is not None]
    if not found:
        return []
    most = max(len(cells) for _, cells in found)
    head = [*GROUP_HEAD, "Seeds", "Fused blocks", "Widths", *(f"Stage {number}" for number in range(1, most - 1))]
    rows = [[*group_cells(group), _seeds_text(group), *cells, *[""] * (most - len(cells))] for group, cells in found]
    said = (
        "Blocks are counted from 1. *ibn*: inverted bottleneck, *fused*: fused inverted bottleneck, *ds*: depthwise "
        "separable; *fused 1/3*: fused by one seed of three. *Widths*: channels of the stem and of each stage; "
        "*64/96*: not the same in all seeds."
    )
    return ["## Which blocks were fused", said, markdown_table(head, rows), *_fusing(groups)]


def _fusing(groups: Sequence[Group]) -> list[str]:
    """Return what fusing blocks of the baseline would have cost, once for each device and data."""
    lines: dict[str, None] = {}
    for group in groups:
        result = group[0].result
        if not (told := result.get("fusing")):
            continue
        before = result["baseline"]["latency_ms"]
        costs = [told[name]["latency_ms"] for name in ("all", "where_faster")]
        changes = [f"{cost:.3g} ms ({change_text([(before, cost)])})" for cost in costs]
        blocks = f"block{'s' * (len(told['blocks']) > 1)} {ranges(told['blocks'])}" if told["blocks"] else "none"
        named = ", ".join([str(result.get("data", result["recipe"])), str(result["device"])])
        line = (
            f"* **{named}**: {before:.3g} ms as it is, {changes[0]} with all blocks fused, {changes[1]} with those "
            f"fused where the estimator says that it pays: {blocks}."
        )
        lines[line] = None
    said = "What fusing blocks of the baseline would have cost, at its own widths and expansions:"
    return [said, "\n".join(lines)] if lines else []


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
        results = [run.result for run in group]
        facts = [f"seeds {', '.join(distinct(str(result['seed']) for result in results))}"]
        for field in ("data", "epochs", "machine"):
            facts += [f"{field}: {value}" for value in distinct(result.get(field) for result in results)]
        facts += [f"command `{value}`" for value in distinct(_any_seed(result.get("command")) for result in results)]
        facts += [f"versions: {value}" for value in distinct(_versions(result) for result in results)]
        lines.append(f"* **{', '.join(group_cells(group))}**: " + "; ".join(facts) + ".")
    return "\n".join(lines)


def _any_seed(command: str | None) -> str | None:
    return command and re.sub(r"(?<= seed=)\d+", "SEED", command)


def _versions(result: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted((result.get("versions") or {}).items()))


def _seeds_text(group: Group) -> str:
    """Return the number of seeds, and that of runs where some seed was run again, on other versions or machines."""
    num_seeds = len({run.result["seed"] for run in group})
    return str(num_seeds) if num_seeds == len(group) else f"{num_seeds} ({len(group)} runs)"


def _metrics(group: Group, network: str) -> list[float]:
    return [run.result[network]["metric"]["value"] for run in group]


def _pair(group: Group, field: str, form: Callable[[float], str]) -> str:
    sides = [[run.result[network].get(field) for run in group] for network in ("baseline", "subnet")]
    known = [[value for value in side if value is not None] for side in sides]
    return " → ".join(form(statistics.fmean(side)) if side else "n/a" for side in known)


def _change(group: Group, field: str) -> str:
    return change_text([(run.result["baseline"].get(field), run.result["subnet"].get(field)) for run in group])


def _all_within(group: Group) -> str:
    num_within = sum(is_within_budget(run.result) for run in group)
    return "yes" if num_within == len(group) else f"no ({num_within} of {len(group)})"

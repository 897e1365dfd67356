"""Sentences on what searching widths and kinds together saves beyond searching one after the other."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from lightning_nas.report.recorded import RecordedRun, source_text, training_text
from lightning_nas.report.text import signed, spread_text

__all__ = ["ablation_lines"]

Group = Sequence[RecordedRun]


def ablation_lines(groups: Sequence[Group]) -> list[str]:
    """Return a sentence for each device, data and kind of fine-tuning where widths, kinds and both were searched.

    Of each, the runs of the smallest budget count. One after the other means that the shares of the latency that they
    leave multiply, as they would if they had nothing to do with each other.

    Args:
        groups: Runs by what they have in common, the largest budget first.
    """
    together: dict[tuple[str, ...], dict[str, Group]] = {}
    for group in groups:
        record, provenance = group[0].record, group[0].provenance
        key = (record.recipe, source_text(group[0]), provenance.data or "", record.device, training_text(provenance))
        together.setdefault(key, {})[record.choices] = group
    return [
        f"* **{', '.join(filter(None, names))}**: {_sentence(found)}"
        for names, found in together.items()
        if {"widths", "kinds", "both"} <= found.keys()
    ]


def _sentence(found: dict[str, Group]) -> str:
    left = {choices: statistics.fmean(_shares(found[choices])) for choices in ("widths", "kinds", "both")}
    product = left["widths"] * left["kinds"]
    gain = round(100 * (product - left["both"]))
    side = f"{gain} points beyond that" if gain > 0 else f"{-gain} points short of that" if gain else "as much"
    return (
        f"widths alone save {_saved(left['widths'])} of the latency ({_lost(found['widths'])}), kinds alone "
        f"{_saved(left['kinds'])} ({_lost(found['kinds'])}); one after the other that would be {_saved(product)} "
        f"({left['widths']:.2f} x {left['kinds']:.2f} = {product:.2f}). Both together save {_saved(left['both'])} "
        f"({_lost(found['both'])}), {side}."
    )


def _shares(group: Group) -> list[float]:
    return [run.record.subnet.cost.latency_ms / run.record.baseline.cost.latency_ms for run in group]


def _saved(left: float) -> str:
    return signed(f"{1 - left:.0%}")


def _lost(group: Group) -> str:
    """Return how far the subnets' metric is from the baselines'."""
    pairs = [(run.record.baseline.metric, run.record.subnet.metric) for run in group]
    return f"{pairs[0][0].name} {spread_text([after.value - before.value for before, after in pairs], '+.3f')}"

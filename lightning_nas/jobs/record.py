"""Files of a finished run: weights, architecture, report, and the record of its figures."""

from __future__ import annotations

import json
import logging
import math
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lightning_nas.budget.budget import LATENCY, PARAMETERS, PEAK_ACTIVATIONS, Budget
from lightning_nas.budget.limits import Limits
from lightning_nas.estimator import Estimator
from lightning_nas.estimator.measure.backend import why_unavailable
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.io.writing import write_text, write_weights
from lightning_nas.jobs.comparisons import fused_everywhere, fused_where_faster
from lightning_nas.jobs.plan import Epochs
from lightning_nas.report.architecture_svg import BlockKind
from lightning_nas.report.network_record import BudgetRecord, ComparisonRecord, CostRecord, MetricRecord, NetworkRecord
from lightning_nas.report.run import BlockCost, write_architecture_svg, write_report
from lightning_nas.report.run_record import EpochsRecord, FusingRecord, ProvenanceRecord, RunRecord
from lightning_nas.report.search_record import SearchRecord
from lightning_nas.space.network import parts_of
from lightning_nas.space.spec import Architecture
from lightning_nas.space.timm_strings import to_timm

__all__ = ["Compared", "Outcome", "log_hints", "summary", "versions", "write_run"]

log = logging.getLogger(__name__)

# Folders of a path wherever it begins: behind the key, or in a list.
_FOLDERS = re.compile(r"(?<=[=\[,])(?:~|\.{1,2})?/?(?:[^/,\[\]=]*/)+(?=[^/,\]])")
PACKAGES = ("lightning-nas", "torch", "torchvision", "lightning", "timm", "hydra-core", "scikit-learn", "ethos-u-vela")


@dataclass(frozen=True)
class Compared:
    """Another network of the same budget, trained as the subnet was.

    Attributes:
        name: What it is, such as ``uniform``.
        architecture: Its architecture.
        metric: Its metric on the test data.
    """

    name: str
    architecture: Architecture
    metric: MetricRecord


@dataclass(frozen=True)
class Outcome:
    """What a run found, as its files are written from it.

    Attributes:
        recipe: Name of the recipe.
        task: What was learnt: classification, detection or segmentation.
        seed: Seed of everything random.
        estimator: The estimator of the device.
        budget: What was asked for.
        limits: The budget in milliseconds and bytes.
        choices: What was searched: both, widths or kinds.
        source: The architecture of the network before the search, which the baseline has, too.
        chosen: The subnet's architecture.
        subnet: The subnet, fine-tuned.
        baseline_metric: The baseline's metric on the test data.
        baseline_steps: Optimizer steps of the baseline since the source.
        subnet_metric: The subnet's metric on the test data.
        subnet_steps: Optimizer steps of its fine-tuning; in multishot search with those of the trial that it goes on.
        compared: Other networks of the same budget.
        search: What the search cost, and what is known of its supernet or trials.
        history: What the search logged, one record a step.
        network: Settings of the source network, without its weights.
        epochs: How long each part trained.
        data_name: Name of the data.
        taught_by: What the subnet began from and imitated: the source or the baseline.
        interface: What whoever deploys the subnet has to know of the data: names of the classes, in the order of its
            outputs, and what is done to an image before it.
    """

    recipe: str
    task: str
    seed: int
    estimator: Estimator
    budget: Budget
    limits: Limits
    choices: str
    source: Architecture
    chosen: Architecture
    subnet: nn.Module
    baseline_metric: MetricRecord
    baseline_steps: int
    subnet_metric: MetricRecord
    subnet_steps: int
    compared: Sequence[Compared]
    search: SearchRecord
    history: Sequence[Mapping[str, float]]
    network: Mapping[str, object]
    epochs: Epochs
    data_name: str
    taught_by: str = "source"
    interface: Mapping[str, object] = field(default_factory=dict)


def write_run(run_dir: Path, outcome: Outcome) -> RunRecord:
    """Write the files of a run; ``result.json`` is the last, since it says that the run is complete.

    Args:
        run_dir: Directory of the run.
        outcome: What the run found.

    Returns:
        The content of ``result.json``.
    """
    estimator, chosen = outcome.estimator, outcome.chosen
    record = _record(outcome)
    write_weights(run_dir / "subnet.safetensors", outcome.subnet.state_dict())
    described = {
        **chosen.to_dict(),
        "timm": to_timm(chosen.stages),
        "task": outcome.task,
        "network": outcome.network,
        "device": estimator.device.name,
        "latency_ms": record.subnet.cost.latency_ms,
    }
    write_text(run_dir / "architecture.json", json.dumps(described, indent=1))
    limits = outcome.limits
    reach = {limit.name: span for limit, span in zip(limits.costs, limits.reaches, strict=True)}
    subnet_blocks, source_blocks = _block_costs(estimator, chosen), _block_costs(estimator, outcome.source)
    write_report(run_dir, record, subnet_blocks, outcome.history, baseline_blocks=source_blocks, feasibility=reach)
    title = f"{outcome.recipe} on {estimator.device.name}"
    write_architecture_svg(run_dir / "architecture.svg", subnet_blocks, source_blocks, title)
    write_text(run_dir / "run.json", json.dumps(_provenance(outcome).to_dict(), indent=1))
    write_text(run_dir / "result.json", json.dumps(record.to_dict(), indent=1))
    return record


def summary(record: RunRecord) -> str:
    """Return baseline, comparisons and subnet as a table of text."""
    lines = [f"{'':<10}{'latency':>12}{'compiled':>12}{'parameters':>16}{'test':>10}"]
    networks: dict[str, NetworkRecord | ComparisonRecord] = {
        "baseline": record.baseline,
        **record.comparisons,
        "subnet": record.subnet,
    }
    for name, network in networks.items():
        cost, metric = network.cost, network.metric
        compiled = "-" if cost.verified_latency_ms is None else f"{cost.verified_latency_ms:.4f} ms"
        value = "-" if metric is None else f"{metric.value:.4f}"
        lines.append(f"{name:<10}{cost.latency_ms:>9.4f} ms{compiled:>12}{cost.parameter_bytes:>14,} B{value:>10}")
    before, after = record.baseline.cost, record.subnet.cost
    saved = _saved_text(before.latency_ms, after.latency_ms) or "n/a"
    compiled_saved = _saved_text(before.verified_latency_ms, after.verified_latency_ms)
    return "\n".join([*lines, f"Latency saved: {saved}{compiled_saved and f', compiled {compiled_saved}'}"])


def log_hints(estimator: Estimator) -> None:
    """Log once, at the end of a run, what to install for figures that it lacks."""
    if reason := why_unavailable(estimator.device):
        log.info("HINT: nothing was compiled or measured whole. %s", reason)


def _saved_text(before: float | None, after: float | None) -> str:
    return f"{1 - after / before:.1%}" if before and after else ""


def _record(outcome: Outcome) -> RunRecord:
    estimator = outcome.estimator
    baseline = _cost(estimator, outcome.source)
    subnet = _cost(estimator, outcome.chosen)
    return RunRecord(
        recipe=outcome.recipe,
        task=outcome.task,
        device=estimator.device.name,
        seed=outcome.seed,
        budget=_budget(outcome.budget, outcome.limits),
        baseline=NetworkRecord(baseline, outcome.baseline_metric, outcome.baseline_steps),
        subnet=NetworkRecord(subnet, outcome.subnet_metric, outcome.subnet_steps),
        choices=outcome.choices,
        comparisons={
            other.name: ComparisonRecord(_cost(estimator, other.architecture), other.metric)
            for other in outcome.compared
        },
        verified_sram_bytes=_verified_memory(outcome),
        search=outcome.search,
        versions=versions(),
    )


def _provenance(outcome: Outcome) -> ProvenanceRecord:
    return ProvenanceRecord(
        command=_command(sys.argv),
        machine=f"{platform.machine()}, {torch.get_num_threads()} threads",
        epochs=EpochsRecord(**vars(outcome.epochs)),
        taught_by=outcome.taught_by,
        data=outcome.data_name,
        fusing=_fusing(outcome.estimator, outcome.source),
        finished=time.strftime("%Y-%m-%d"),
        interface=outcome.interface,
    )


def _fusing(estimator: Estimator, source: Architecture) -> FusingRecord:
    """Return what fusing blocks of the source would have cost: all of them, and those where it pays."""
    faster = fused_where_faster(source, estimator)
    blocks = [number for number, block in enumerate(faster.blocks, start=1) if block.option.kind == "fused"]
    all_ms, where_faster_ms = (estimator.latency_ms(fused) for fused in (fused_everywhere(source), faster))
    return FusingRecord(all_ms, where_faster_ms, tuple(blocks))


def _verified_memory(outcome: Outcome) -> dict[str, int]:
    """Return how much fast memory the backend counts, where that was budgeted and the backend is here."""
    peak = outcome.limits.peak
    if peak is None:
        return {}
    named = (("baseline", outcome.source), ("subnet", outcome.chosen))
    figures = {name: outcome.estimator.verify(architecture) for name, architecture in named}
    found = {name: figure.sram_bytes for name, figure in figures.items() if figure is not None and figure.sram_bytes}
    if found.get("subnet", 0) > peak.budget:
        log.warning(
            "The backend of %s uses %d bytes of fast memory for the subnet, its own buffers among them: more than the"
            " budget peak_activation_bytes=%d, which bounds live activations.",
            outcome.estimator.device.name,
            found["subnet"],
            peak.budget,
        )
    return found


def _budget(budget: Budget, limits: Limits) -> BudgetRecord:
    # What a relative budget was asked as; an absolute one says it itself.
    relative = [str(value) for value in budget.given.values() if str(value).endswith("x")]
    return BudgetRecord(
        latency_ms=limits.figures.get(LATENCY),
        peak_activation_bytes=limits.figures.get(PEAK_ACTIVATIONS),
        parameter_bytes=limits.figures.get(PARAMETERS),
        requested=", ".join(relative) or None,
    )


def _cost(estimator: Estimator, architecture: Architecture) -> CostRecord:
    memory = estimator.memory(architecture)
    return CostRecord(
        latency_ms=estimator.latency_ms(architecture),
        verified_latency_ms=estimator.verify_ms(architecture),
        parameter_bytes=memory.parameter_bytes,
        peak_activation_bytes=memory.peak_activation_bytes,
        macs=estimator.macs(architecture),
    )


def versions() -> dict[str, str]:
    """Return the versions of what a run depends on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _command(arguments: Sequence[str]) -> str:
    """Return the command without what belongs to one machine: the run directory, and the folders of paths."""
    machine = ("hydra.", "shared_dir=", "output_dir=")
    kept = [argument for argument in arguments[1:] if not argument.startswith(machine)]
    return " ".join(["lightning-nas", *(_FOLDERS.sub("", argument) for argument in kept)])


def _block_costs(estimator: Estimator, architecture: Architecture) -> list[BlockCost]:
    parts = parts_of(architecture)
    costs = [_block_cost(part, ms) for part, ms in zip(parts, _shares(estimator.predict_ms(parts)), strict=True)]
    if not architecture.tail:
        return costs
    count = 1 + len(architecture.blocks)  # the stem and the blocks
    tail, last = costs[count:], costs[count - 1]
    total = sum(cost.latency_ms for cost in tail)
    return [*costs[:count], replace(last, name="tail", kind="head", in_width=last.out_width, latency_ms=total)]


def _shares(latency_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return latencies of the same sum of which none is negative, as what networks have in common may be."""
    positive = np.maximum(latency_ms, 0)
    # The bound only avoids 0 / 0 where no latency is positive.
    shares: NDArray[np.float64] = positive * max(latency_ms.sum(), 0) / max(positive.sum(), 1e-12)
    return shares


def _block_cost(part: Subgraph, latency_ms: float) -> BlockCost:
    kind: BlockKind = next((kind for kind in get_args(BlockKind) if kind == part.kind), "head")
    return BlockCost(
        name=part.path,
        kind=kind,
        in_width=part.in_channels,
        # The width of a head is that of its convolution; its outputs are the classes.
        out_width=part.hidden_channels if part.kind == "head" else part.out_channels,
        expansion=part.hidden_channels / part.in_channels if part.kind in ("ibn", "fused") else 1.0,
        kernel=part.kernel,
        stride=part.stride,
        # Convolutions are padded, so that an odd size is rounded up.
        resolution=(math.ceil(part.height / part.stride), math.ceil(part.width / part.stride)),
        latency_ms=float(latency_ms),
    )

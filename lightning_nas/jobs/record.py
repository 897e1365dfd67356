"""Record of a run: its figures, its files and its summary."""

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
from typing import Any, cast, get_args

import numpy as np
import torch
from torch import nn

from lightning_nas.budget.budget import LATENCY, PARAMETERS, PEAK_ACTIVATIONS, Budget
from lightning_nas.budget.limits import Limits
from lightning_nas.estimator import Estimator
from lightning_nas.estimator.measure.backend import why_unavailable
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.io.writing import write_text, write_weights
from lightning_nas.jobs.comparisons import fused_everywhere, fused_where_faster
from lightning_nas.report.architecture_svg import BlockKind
from lightning_nas.report.run import BlockCost, write_architecture_svg, write_report
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
    """Another network of the same budget: its name, what it is, and its figure."""

    name: str
    architecture: Architecture
    metric: Mapping[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    Attributes:
        recipe: Name of the recipe.
        task: What was learnt: classification, detection or segmentation.
        seed: Seed of everything random.
        costs: The estimator of the device.
        budget: What was asked for.
        limits: What that is, in milliseconds and bytes.
        choices: What was searched: both, widths or kinds.
        source: The network as it was.
        chosen: The subnet's architecture.
        subnet: The subnet, fine-tuned.
        source_metric: Name, value and split of the baseline's figure.
        source_steps: Optimizer steps by which the source was trained on.
        subnet_metric: Name, value and split of the subnet's figure.
        subnet_steps: Optimizer steps of its fine-tuning; in multishot search with those of the trial that it goes on.
        compared: Other networks of the same budget.
        search: Seconds and steps of the search, and what it says of itself.
        history: What the search logged.
        network: Settings of the source network, without its weights.
        epochs: How long each part trained.
        data_name: What it was trained on.
        taught_by: What the subnet began from and imitated: the source or the baseline.
        interface: What whoever deploys the subnet has to know of the data: names of the classes, in the order of its
            outputs, and what is done to an image before it.
    """

    recipe: str
    task: str
    seed: int
    costs: Estimator
    budget: Budget
    limits: Limits
    choices: str
    source: Architecture
    chosen: Architecture
    subnet: nn.Module
    source_metric: Mapping[str, Any]
    source_steps: int
    subnet_metric: Mapping[str, Any]
    subnet_steps: int
    compared: Sequence[Compared]
    search: Mapping[str, Any]
    history: Sequence[Mapping[str, float]]
    network: Mapping[str, Any]
    epochs: Mapping[str, int]
    data_name: str
    taught_by: str = "source"
    interface: Mapping[str, Any] = field(default_factory=dict)


def write_run(run_dir: Path, outcome: Outcome) -> dict[str, Any]:
    """Write the files of a run, result.json last, since it says that the run is complete; return its content."""
    costs, chosen = outcome.costs, outcome.chosen
    result = _result(outcome)
    write_weights(run_dir / "subnet.safetensors", outcome.subnet.state_dict())
    described = {
        **chosen.to_dict(),
        "timm": to_timm(chosen.stages),
        "task": outcome.task,
        "network": outcome.network,
        "device": costs.device.name,
        "latency_ms": result["subnet"]["latency_ms"],
    }
    write_text(run_dir / "architecture.json", json.dumps(described, indent=1))
    limits = outcome.limits
    reach = {
        limit.name: {"source": reference, "budget": limit.budget, **vars(span)}
        for limit, span, reference in zip(limits.costs, limits.reaches, limits.references, strict=True)
    }
    found, before = _block_costs(costs, chosen), _block_costs(costs, outcome.source)
    write_report(run_dir, result, found, outcome.history, baseline_blocks=before, feasibility=reach)
    title = f"{outcome.recipe} on {costs.device.name}"
    write_architecture_svg(run_dir / "architecture.svg", found, before, title)
    described_run = {
        "command": _command(sys.argv),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "epochs": outcome.epochs,
        "taught_by": outcome.taught_by,
        "data": outcome.data_name,
        "fusing": _fusing(costs, outcome.source),
        "finished": time.strftime("%Y-%m-%d"),
        **outcome.interface,
    }
    write_text(run_dir / "run.json", json.dumps(described_run, indent=1))
    write_text(run_dir / "result.json", json.dumps(result, indent=1))
    return result


def summary(result: Mapping[str, Any]) -> str:
    """Return baseline beside subnet as a table of text."""
    lines = [f"{'':<10}{'latency':>12}{'compiled':>12}{'parameters':>16}{'test':>10}"]
    networks = {"baseline": result["baseline"], **result.get("comparisons", {}), "subnet": result["subnet"]}
    for name, cost in networks.items():
        compiled = "-" if cost["verified_latency_ms"] is None else f"{cost['verified_latency_ms']:.4f} ms"
        lines.append(
            f"{name:<10}{cost['latency_ms']:>9.4f} ms{compiled:>12}{cost['parameter_bytes']:>14,} B"
            f"{cost['metric']['value']:>10.4f}"
        )
    saved = {
        field: 1 - result["subnet"][field] / result["baseline"][field]
        for field in ("latency_ms", "verified_latency_ms")
        if result["baseline"][field] and result["subnet"][field]
    }
    compiled = f", compiled {saved['verified_latency_ms']:.1%}" if "verified_latency_ms" in saved else ""
    return "\n".join([*lines, f"Latency saved: {saved['latency_ms']:.1%}{compiled}"])


def log_hints(costs: Estimator) -> None:
    """Say once, at the end of a run, what would tell more than it could."""
    if reason := why_unavailable(costs.device):
        log.info("HINT: nothing was compiled or measured whole. %s", reason)


def _result(outcome: Outcome) -> dict[str, Any]:
    costs = outcome.costs
    compared = {other.name: _cost(costs, other.architecture, other.metric) for other in outcome.compared}
    return {
        "recipe": outcome.recipe,
        "task": outcome.task,
        "device": costs.device.name,
        "seed": outcome.seed,
        "budget": _budget(outcome.budget, outcome.limits),
        "baseline": {**_cost(costs, outcome.source, outcome.source_metric), "steps": outcome.source_steps},
        "subnet": {**_cost(costs, outcome.chosen, outcome.subnet_metric), "steps": outcome.subnet_steps},
        **({} if outcome.choices == "both" else {"choices": outcome.choices}),
        **({"comparisons": compared} if compared else {}),
        **_verified_memory(outcome),
        "search": outcome.search,
        "versions": versions(),
    }


def _fusing(costs: Estimator, source: Architecture) -> dict[str, Any]:
    """Return what fusing blocks of the baseline would have cost: all of them, and those where it pays."""
    all_fused, faster = fused_everywhere(source), fused_where_faster(source, costs)
    chosen = [number for number, block in enumerate(faster.blocks, start=1) if block.option.kind == "fused"]
    named = {"all": all_fused, "where_faster": faster}
    return {**{name: {"latency_ms": costs.latency_ms(item)} for name, item in named.items()}, "blocks": chosen}


def _verified_memory(outcome: Outcome) -> dict[str, Any]:
    """Return what the backend says of the fast memory, where that was budgeted and the backend is here."""
    peak = outcome.limits.peak
    if peak is None:
        return {}
    named = (("baseline", outcome.source), ("subnet", outcome.chosen))
    figures = {name: outcome.costs.verify(architecture) for name, architecture in named}
    found = {name: figure.sram_bytes for name, figure in figures.items() if figure is not None and figure.sram_bytes}
    if found.get("subnet", 0) > peak.budget:
        log.warning(
            "The backend of %s uses %d bytes of fast memory for the subnet, its own buffers among them: more than the"
            " budget peak_activation_bytes=%d, which bounds live activations.",
            outcome.costs.device.name,
            found["subnet"],
            peak.budget,
        )
    return {"verified_sram_bytes": found} if found else {}


def _budget(budget: Budget, limits: Limits) -> dict[str, Any]:
    given: dict[str, Any] = {**dict.fromkeys((LATENCY, PEAK_ACTIVATIONS, PARAMETERS)), **limits.figures}
    # What a relative budget was asked as; an absolute one says it itself.
    relative = [str(value) for value in budget.given.values() if str(value).endswith("x")]
    return {**given, "requested": ", ".join(relative)} if relative else given


def _cost(estimator: Estimator, architecture: Architecture, metric: Mapping[str, Any]) -> dict[str, Any]:
    memory = estimator.memory(architecture)
    return {
        "latency_ms": estimator.latency_ms(architecture),
        "verified_latency_ms": estimator.verify_ms(architecture),
        "parameter_bytes": memory.parameter_bytes,
        "peak_activation_bytes": memory.peak_activation_bytes,
        "macs": estimator.macs(architecture),
        "metric": metric,
    }


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


def _shares(latency_ms: np.ndarray) -> np.ndarray:
    """Return latencies of the same sum of which none is negative, as what networks have in common may be."""
    positive = np.maximum(latency_ms, 0)
    shares: np.ndarray = positive * max(latency_ms.sum(), 0) / max(positive.sum(), 1e-12)
    return shares


def _block_cost(part: Subgraph, latency_ms: float) -> BlockCost:
    return BlockCost(
        name=part.path,
        kind=cast(BlockKind, part.kind if part.kind in get_args(BlockKind) else "head"),
        in_width=part.in_channels,
        out_width=part.hidden_channels if part.kind == "head" else part.out_channels,
        expansion=part.hidden_channels / part.in_channels if part.kind in ("ibn", "fused") else 1.0,
        kernel=part.kernel,
        stride=part.stride,
        resolution=(math.ceil(part.height / part.stride), math.ceil(part.width / part.stride)),
        latency_ms=float(latency_ms),
    )

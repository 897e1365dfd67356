"""Files of a finished run: weights, architecture, report, and the record of its figures."""

from __future__ import annotations

import json
import logging
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_nas.budget.budget import LATENCY, PARAMETERS, PEAK_ACTIVATIONS, Budget
from lightning_nas.budget.limits import Limits
from lightning_nas.estimator import Estimator
from lightning_nas.estimator.measure.backend import why_unavailable
from lightning_nas.io.writing import write_text
from lightning_nas.jobs.block_costs import block_costs
from lightning_nas.jobs.comparisons import fused_everywhere, fused_where_faster
from lightning_nas.jobs.plan import Epochs
from lightning_nas.report.network_record import BudgetRecord, ComparisonRecord, CostRecord, MetricRecord, NetworkRecord
from lightning_nas.report.rivals import shown_name
from lightning_nas.report.run import write_architecture_svg, write_report
from lightning_nas.report.run_record import EpochsRecord, FusingRecord, ProvenanceRecord, RunRecord
from lightning_nas.report.search_record import SearchRecord
from lightning_nas.space.architecture import Architecture
from lightning_nas.space.spec import SearchSpace
from lightning_nas.supernet.rebuilding import Rebuilding
from lightning_nas.supernet.subnet_files import write_subnet

__all__ = ["Compared", "Outcome", "cost_of", "log_hints", "summary", "versions", "write_run"]

log = logging.getLogger(__name__)

# Folders of a path wherever it begins: behind the key, or in a list.
_FOLDERS = re.compile(r"(?<=[=\[,])(?:~|\.{1,2})?/?(?:[^/,\[\]=]*/)+(?=[^/,\]])")
PACKAGES = ("lightning-nas", "torch", "torchvision", "lightning", "timm", "hydra-core", "scikit-learn", "ethos-u-vela")


@dataclass(frozen=True)
class Compared:
    """Another network of the same budget, trained as the subnet was.

    Attributes:
        name: What it is, such as ``uniform``.
        cost: What it costs, see `cost_of`; it need be no member of the space.
        metric: Its metric on the test data.
        network: Its name, where it is a stock one.
    """

    name: str
    cost: CostRecord
    metric: MetricRecord
    network: str | None = None


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
        space: The space that was searched, around the network before the search, which the baseline is, too.
        chosen: The subnet's architecture.
        subnet: The subnet, fine-tuned.
        origin: The network that the subnet was derived of, plain, as it was before its conversion.
        baseline_metric: The baseline's metric on the test data.
        baseline_steps: Optimizer steps of the baseline since the source.
        subnet_metric: The subnet's metric on the test data.
        subnet_steps: Optimizer steps of its fine-tuning; in multishot search with those of the trial that it goes on.
        compared: Other networks of the same budget.
        search: What the search cost, and what is known of its supernet or trials.
        history: What the search logged, one record a step.
        network: Settings of the source network, without its weights: ``source`` of ``architecture.json``.
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
    space: SearchSpace
    chosen: Architecture
    subnet: nn.Module
    origin: nn.Module
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

    @property
    def source(self) -> Architecture:
        """The architecture of the network before the search."""
        return self.space.decode(self.space.reference_encoding)


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
    described = {
        "task": outcome.task,
        "source": outcome.network,
        "device": estimator.device.name,
        "latency_ms": record.subnet.cost.latency_ms,
    }
    rebuilding = Rebuilding.of(outcome.origin, outcome.subnet)
    write_subnet(run_dir, chosen, rebuilding, outcome.subnet.state_dict(), described)
    limits = outcome.limits
    reach = {limit.name: span for limit, span in zip(limits.costs, limits.reaches, strict=True)}
    subnet_blocks, source_blocks = block_costs(estimator.predict_ms, [chosen, outcome.source])
    write_report(run_dir, record, subnet_blocks, outcome.history, baseline_blocks=source_blocks, feasibility=reach)
    title = f"{outcome.recipe} on {estimator.device.name}"
    write_architecture_svg(run_dir / "architecture.svg", subnet_blocks, source_blocks, title)
    write_text(run_dir / "run.json", json.dumps(_provenance(outcome).to_dict(), indent=1))
    write_text(run_dir / "result.json", json.dumps(record.to_dict(), indent=1))
    return record


def summary(record: RunRecord) -> str:
    """Return baseline, comparisons and subnet as a table of text."""
    networks: dict[str, NetworkRecord | ComparisonRecord] = {
        "baseline": record.baseline,
        **{shown_name(name, other.network): other for name, other in record.comparisons.items()},
        "subnet": record.subnet,
    }
    wide = max(10, *(len(name) + 1 for name in networks))
    lines = [f"{'':<{wide}}{'latency':>12}{'compiled':>12}{'parameters':>16}{'test':>10}"]
    for name, network in networks.items():
        cost, metric = network.cost, network.metric
        compiled = "-" if cost.verified_latency_ms is None else f"{cost.verified_latency_ms:.4f} ms"
        value = "-" if metric is None else f"{metric.value:.4f}"
        lines.append(f"{name:<{wide}}{cost.latency_ms:>9.4f} ms{compiled:>12}{cost.parameter_bytes:>14,} B{value:>10}")
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
    baseline, subnet = cost_of(estimator, outcome.source), cost_of(estimator, outcome.chosen)
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
            other.name: ComparisonRecord(other.cost, other.metric, other.network) for other in outcome.compared
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
        fusing=_fusing(outcome.estimator, outcome.space),
        finished=time.strftime("%Y-%m-%d"),
        interface=outcome.interface,
    )


def _fusing(estimator: Estimator, space: SearchSpace) -> FusingRecord | None:
    """Return what fusing blocks of the source would have cost: all of them, and those where it pays; None for none."""
    everywhere, faster = fused_everywhere(space), fused_where_faster(space, estimator)
    own = [choice.own for choice in space.choices]
    if everywhere == own:
        return None
    pairs = zip(space.choices, faster, strict=True)
    blocks = tuple(choice.path for choice, option in pairs if option != choice.own)
    full = space.network.sizes
    all_ms, where_faster_ms = (estimator.latency_ms(space.member(full, options)) for options in (everywhere, faster))
    return FusingRecord(all_ms, where_faster_ms, blocks)


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


def cost_of(estimator: Estimator, network: Architecture | nn.Module, example_input: Tensor | None = None) -> CostRecord:
    """Return what a network costs.

    Args:
        estimator: The estimator of the device.
        network: An architecture, or a network that is no member of a space.
        example_input: Images (NCHW); needed with the latter only.
    """
    memory = estimator.memory(network, example_input)
    return CostRecord(
        latency_ms=estimator.latency_ms(network, example_input),
        verified_latency_ms=estimator.verify_ms(network, example_input),
        parameter_bytes=memory.parameter_bytes,
        peak_activation_bytes=memory.peak_activation_bytes,
        macs=estimator.macs(network, example_input),
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

"""The jobs that recipes name: what is built, trained, searched and written, in which order."""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from ._architecture_svg import BlockKind
from ._files import write_text
from ._modes import evaluating
from ._phases import Phases
from .estimator import Estimator
from .estimator.subgraph import Subgraph, subgraphs
from .report import BlockCost, write_architecture_svg, write_report
from .search import ArchitectureSearch
from .search.budget import Budgets, format_reach
from .search.probe import quiet_copy, task_loss
from .search.tables import space_budgets
from .space.spec import Architecture
from .space.timm_strings import to_timm
from .supernet import derive, refit, sort_channels, space_of, supernet_from
from .supernet.source import named_blocks

__all__ = ["Epochs", "search_and_finetune"]

log = logging.getLogger(__name__)

# Batch norm is measured again by the refit: what `derive` measures before is a start.
CANDIDATE_BATCHES = 4
PACKAGES = ("lightning-nas", "torch", "torchvision", "lightning", "timm", "hydra-core", "scikit-learn", "ethos-u-vela")


@dataclass(frozen=True)
class Epochs:
    """How long each part trains.

    From the trained source, one way leads over the search and fine-tuning to the subnet; the other, as long, to the
    baseline.

    Attributes:
        source: Epochs of the network as it is; 0 where its weights are of this task already.
        search: Epochs of the supernet, which starts from the source.
        finetune: Epochs of the derived subnet.
    """

    source: int
    search: int
    finetune: int

    def __post_init__(self) -> None:
        for name, least in (("source", 0), ("search", 1), ("finetune", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`epochs.{name}` must be at least {least}; got {getattr(self, name)}.")


def search_and_finetune(
    *,
    recipe: str,
    output_dir: str | Path,
    seed: int,
    latency: float | str | None,
    parameter_bytes: float | str | None,
    peak_activation_bytes: float | str | None,
    network: partial[nn.Module],
    space: Mapping[str, Any],
    data: Any,
    device: str,
    estimator: Callable[[str], Estimator],
    search: Callable[..., ArchitectureSearch],
    task: Callable[..., pl.LightningModule],
    trainer: Callable[..., pl.Trainer],
    logger: Callable[..., Any],
    epochs: Epochs,
    distillation_weight: float = 0.0,
    feature_weight: float = 0.0,
    search_task: Mapping[str, Any] | None = None,
    finetune_task: Mapping[str, Any] | None = None,
    num_refitted: int = 8,
    num_calibration_batches: int = 32,
) -> dict[str, Any]:
    """Train the source, turn it into a supernet, search, derive the subnet inside the budget, fine-tune it, compare.

    The source's weights are the supernet's (channels sorted by importance), it teaches the supernet and the subnet, and
    the subnet's blocks are refitted to its blocks before fine-tuning. The baseline is the source, trained on by the
    plain recipe for as many steps as search and fine-tuning took. A run that was interrupted continues when it is
    started again with the same output directory.

    Args:
        recipe: Name of the recipe, for the record.
        output_dir: Directory of the run; it receives result.json, architecture.json, subnet.safetensors, report.html
            and the checkpoints.
        seed: Seed of everything random.
        latency: Budget in milliseconds or relative to the baseline ("0.5x").
        parameter_bytes: Budget on int8 parameters.
        peak_activation_bytes: Budget on live int8 activations.
        network: Makes the source network of `num_classes`.
        space: Options of `space_of`.
        data: A LightningDataModule with `num_classes` and `input_size`.
        device: Name of a shipped device, or the path of a table.
        estimator: Makes the estimator of `device`.
        search: Makes the callback of an estimator and budgets.
        task: Makes the LightningModule of a network and `num_classes`.
        trainer: Makes the Trainer of `max_epochs`, `callbacks` and `logger`.
        logger: Makes the logger of `save_dir` and `version`.
        epochs: How long each part trains.
        distillation_weight: Part of the loss, in search and fine-tuning, that imitates the source's logits; 0 for
            none.
        feature_weight: Weight of imitating its feature maps, the last one and those of the blocks; 0 for none.
        search_task: Options of the task that differ in the search, such as a lower learning rate.
        finetune_task: Those that differ in fine-tuning, and where the source is trained on.
        num_refitted: How many of the search's candidates are refitted; the one of the lowest validation loss then, of
            imitation too, is the subnet. An undertrained supernet ranks badly, a refitted subnet shows what it can
            become, and how far it is from the source is seen on fewer images than how often it is right.
        num_calibration_batches: Training batches for the refit.

    Returns:
        The content of result.json.

    Raises:
        ValueError: A setting that is not valid or a budget out of reach; before any training.
    """
    budgets_requested = {
        "latency_ms": latency,
        "parameter_bytes": parameter_bytes,
        "peak_activation_bytes": peak_activation_bytes,
    }
    run_dir = Path(output_dir)
    pl.seed_everything(seed, workers=True, verbose=False)
    example = torch.zeros(1, *data.input_size)
    costs = estimator(device)
    source = network(num_classes=data.num_classes)
    full = space_of(source, example, **{"lanes": costs.lanes, **space})
    budgets = space_budgets(full, costs, budgets_requested)
    count = full.num_architectures
    log.info("Budgets and what the space of %.3g architectures can reach:\n%s", count, format_reach(budgets))

    fingerprint = {"space": full.to_json(), "seed": seed, "epochs": vars(epochs), "budgets": budgets_requested}
    phases = Phases(run_dir, trainer, logger, data, seed, fingerprint)
    own = full.decode(full.reference_nodes)

    log.info("1/4 Training the source, %.4g ms", costs.latency_ms(own))
    if epochs.source:
        phases.fit("source", task(network=source, num_classes=data.num_classes), epochs.source)

    log.info("2/4 Searching")
    pl.seed_everything(seed, workers=True, verbose=False)
    supernet = supernet_from(deepcopy(source), example, full)
    sort_channels(supernet)
    teacher = derive(supernet, full.reference_nodes)
    teaching = {
        "teacher": teacher,
        "distillation_weight": distillation_weight,
        "feature_weight": feature_weight,
        "feature_modules": [path for path, _ in named_blocks(teacher)] if feature_weight else [],
    }
    taught = partial(task, num_classes=data.num_classes, **teaching)
    callback = search(
        costs,
        latency=latency,
        parameter_bytes=parameter_bytes,
        peak_activation_bytes=peak_activation_bytes,
        seed=seed,
    )
    fit = phases.fit("search", taught(network=supernet, **(search_task or {})), epochs.search, [callback])
    images = torch.cat(_images(data, num_calibration_batches))
    refitted = []
    for architecture in tqdm(callback.candidates[:num_refitted], desc="Refitting candidates"):
        subnet = callback.derive(supernet, CANDIDATE_BATCHES, architecture)
        refit(subnet, teacher, images)
        loss = _validation_loss(taught(network=subnet), data)
        refitted.append((loss, architecture, subnet))
    _, chosen, subnet = min(refitted, key=lambda entry: entry[0])
    log.info("Found %s, %.4g ms", chosen, costs.latency_ms(chosen))

    log.info("3/4 Fine-tuning the subnet")
    tuned = taught(network=subnet, **(finetune_task or {}))
    subnet_metric = phases.train("finetune", tuned, epochs.finetune)

    log.info("4/4 Training the source on, for comparison")
    pl.seed_everything(seed, workers=True, verbose=False)
    baseline = task(network=source, num_classes=data.num_classes, **(finetune_task or {}))
    baseline_metric = phases.train("baseline", baseline, epochs.search + epochs.finetune)

    result = {
        "recipe": recipe,
        "task": "classification",
        "device": costs.device.name,
        "seed": seed,
        "budget": _budget(budgets, budgets_requested),
        "baseline": _cost(costs, own, baseline_metric),
        "subnet": _cost(costs, chosen, subnet_metric),
        "search": {"seconds": round(fit.seconds, 1), "steps": fit.steps},
        "versions": _versions(),
    }
    tuned_network = cast(nn.Module, tuned.network)
    _write(run_dir, result, costs, budgets, own, chosen, tuned_network, callback.history, network, data, epochs)
    log.info("%s\nWritten to %s", _summary(result), run_dir)
    return result


def _validation_loss(module: pl.LightningModule, data: Any) -> float:
    """Return the mean loss of `module` on the validation data, in evaluation mode."""
    quiet = quiet_copy(module)
    with evaluating(module):
        losses = [task_loss(quiet, batch, index) for index, batch in enumerate(data.val_dataloader())]
    return float(torch.stack(losses).mean())


def _images(data: Any, num_batches: int) -> list[Tensor]:
    loader = iter(data.train_dataloader())
    return [images for (images, _), _ in zip(loader, range(num_batches), strict=False)]


def _budget(budgets: Budgets, requested: Mapping[str, float | str | None]) -> dict[str, Any]:
    given: dict[str, Any] = dict.fromkeys(("latency_ms", "peak_activation_bytes", "parameter_bytes"))
    given.update({limit.name: limit.budget for limit in budgets.limits})
    given["peak_activation_bytes"] = budgets.peak_activation_bytes
    # What a relative budget was asked as; an absolute one says it itself.
    relative = [str(value) for value in requested.values() if str(value).endswith("x")]
    return {**given, "requested": ", ".join(relative)} if relative else given


def _cost(estimator: Estimator, architecture: Architecture, metric: dict[str, Any]) -> dict[str, Any]:
    memory = estimator.memory(architecture)
    return {
        "latency_ms": estimator.latency_ms(architecture),
        "verified_latency_ms": estimator.verify_ms(architecture),
        "parameter_bytes": memory.parameter_bytes,
        "peak_activation_bytes": memory.peak_activation_bytes,
        "macs": sum(part.macs for part in subgraphs(architecture)),
        "metric": metric,
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _write(
    run_dir: Path,
    result: dict[str, Any],
    costs: Estimator,
    budgets: Budgets,
    source: Architecture,
    chosen: Architecture,
    subnet: nn.Module,
    history: list[dict[str, float]],
    network: partial[nn.Module],
    data: Any,
    epochs: Epochs,
) -> None:
    """Write the run's files; result.json last, since it says that the run is complete."""
    state = {key: value.contiguous() for key, value in subnet.state_dict().items()}
    save_file(state, run_dir / "subnet.safetensors.part")
    (run_dir / "subnet.safetensors.part").replace(run_dir / "subnet.safetensors")
    described = {
        **chosen.to_dict(),
        "timm": to_timm(chosen.stages),
        "network": {key: value for key, value in network.keywords.items() if key != "weights"},
        "device": costs.device.name,
        "latency_ms": result["subnet"]["latency_ms"],
    }
    write_text(run_dir / "architecture.json", json.dumps(described, indent=1))
    reach = {
        limit.name: {"source": reference, "budget": limit.budget, **vars(span)}
        for limit, span, reference in zip(budgets.limits, budgets.reaches, budgets.references, strict=True)
    }
    write_report(
        run_dir,
        result,
        _block_costs(costs, chosen),
        history,
        baseline_blocks=_block_costs(costs, source),
        feasibility=reach,
    )
    write_architecture_svg(
        run_dir / "architecture.svg",
        _block_costs(costs, chosen),
        _block_costs(costs, source),
        f"{result['recipe']} on {costs.device.name}",
    )
    described_run = {
        "command": _command(sys.argv),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "epochs": vars(epochs),
        "data": data.root.name if hasattr(data, "root") else type(data).__name__,
        "finished": time.strftime("%Y-%m-%d"),
    }
    write_text(run_dir / "run.json", json.dumps(described_run, indent=1))
    write_text(run_dir / "result.json", json.dumps(result, indent=1))


def _command(arguments: Sequence[str]) -> str:
    """Return the command without what belongs to one machine: the run directory, and the folders of paths."""
    kept = [argument for argument in arguments[1:] if not argument.startswith("hydra.")]
    parts = [argument.partition("=") for argument in kept]
    named = [
        key + sep + (Path(value).name if value.startswith(("/", "~", ".")) else value) for key, sep, value in parts
    ]
    return " ".join(["lightning-nas", *named])


def _block_costs(estimator: Estimator, architecture: Architecture) -> list[BlockCost]:
    parts = subgraphs(architecture)
    return [_block_cost(part, ms) for part, ms in zip(parts, estimator.predict_ms(parts), strict=True)]


def _block_cost(part: Subgraph, latency_ms: float) -> BlockCost:
    return BlockCost(
        name=part.path,
        kind=cast(BlockKind, part.kind),
        in_width=part.in_channels,
        out_width=part.hidden_channels if part.kind == "head" else part.out_channels,
        expansion=part.hidden_channels / part.in_channels if part.kind in ("ibn", "fused") else 1.0,
        kernel=part.kernel,
        stride=part.stride,
        resolution=part.height,
        latency_ms=float(latency_ms),
    )


def _summary(result: Mapping[str, Any]) -> str:
    lines = [f"{'':<10}{'latency':>12}{'compiled':>12}{'parameters':>14}{'test':>10}"]
    for name in ("baseline", "subnet"):
        cost = result[name]
        compiled = "-" if cost["verified_latency_ms"] is None else f"{cost['verified_latency_ms']:.4f} ms"
        lines.append(
            f"{name:<10}{cost['latency_ms']:>9.4f} ms{compiled:>12}{cost['parameter_bytes']:>14,}"
            f"{cost['metric']['value']:>10.4f}"
        )
    saved = 1 - result["subnet"]["latency_ms"] / result["baseline"]["latency_ms"]
    return "\n".join([*lines, f"Latency saved: {saved:.1%}"])

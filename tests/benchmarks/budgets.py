"""A budget is a promise: real searches on every device with a table, and how far below each budget the subnets are.

``python tests/benchmarks/budgets.py run`` trains one supernet a device and seed by the callback, asks it for five
budgets on latency and for one search under three budgets at once, and derives each subnet. With the first seed a
second search has its logits learn beside the weights. Each result is kept in ``budgets.json`` beside this file as soon
as it is there; what is known is not run again. ``report`` writes ``budgets.md`` from it. Training is short: what an
architecture costs does not depend on what its weights have learnt, only which one is chosen does. Where a device's
compiler is installed (Vela, ZigZag), the search has it too; ``compile`` compiles what was found without.
"""

import argparse
import dataclasses
import json
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from torch.nn import functional
from torchvision.models import mobilenet_v2

sys.path.insert(0, str(Path(__file__).parents[1]))

from searches import search_of

from lightning_nas import Estimator
from lightning_nas.budget.budget import Budget
from lightning_nas.budget.resolve import resolve_search
from lightning_nas.budget.solver import solve
from lightning_nas.budget.tables import cost_tables
from lightning_nas.data.digits import DigitsDataModule
from lightning_nas.estimator.files import TARGETS, available_devices
from lightning_nas.io.writing import write_text
from lightning_nas.supernet import space_of, supernet_from

RECORD = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).with_suffix(".md")
SEEDS = (0, 1, 2)
# The least that every space here can reach is 0.30x (Ethos-U85).
LATENCIES = ("0.35x", "0.5x", "0.6x", "0.75x", "0.9x")
TRAINED = {"latency": "0.6x"}
TOGETHER = {"latency": "0.6x", "parameter_bytes": "0.5x", "peak_activation_bytes": "0.6x"}
FIELDS = {"latency": "latency", "parameter_bytes": "parameters", "peak_activation_bytes": "peak_activations"}
EXAMPLE = torch.zeros(1, 3, 64, 64)
BATCH, LEARNING_RATE = 8, 1e-3
# An epoch of 22 steps, and ninety scenes to compare subnets on; the rest is not needed.
FRACTIONS = (0.1, 0.05, 0.85)
# Few of them, so that a run of all takes minutes; fewer candidates are the harder case, since one must hold.
SETTINGS = {"candidates": 4, "evaluations": 8, "random_subnets": 2, "lr": 0.1, "warmup": 0.25, "every": 2, "steps": 30}
GOAL = 0.02


class Classifier(pl.LightningModule):
    """A user's module."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        images, targets = batch
        return functional.cross_entropy(self.network(images), targets)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), LEARNING_RATE)


def devices():
    """Return the names of the devices that have a table; a closed form is for ranking."""
    return [name for name in available_devices() if (TARGETS / f"{name}.csv").exists()]


def key(row):
    return row["device"], row["seed"], row["phases"], json.dumps(row["requested"])


def known():
    return json.loads(RECORD.read_text()) if RECORD.exists() else []


def wanted(device, seed):
    """Return what is asked of a device with a seed, the phases of the search first."""
    decoupled = [TRAINED, *({"latency": ratio} for ratio in LATENCIES if ratio != TRAINED["latency"]), TOGETHER]
    jobs = [("decoupled", requested) for requested in decoupled]
    if seed == SEEDS[0]:
        jobs.append(("joint", TRAINED))
    return [{"device": device, "seed": seed, "phases": phases, "requested": job} for phases, job in jobs]


def fit(estimator, seed, phases):
    """Train and search with the budget `TRAINED`; return the module and the search."""
    torch.manual_seed(seed)
    network = mobilenet_v2(num_classes=10)
    space = space_of(network, EXAMPLE, lanes=estimator.lanes)
    module = Classifier(supernet_from(network, EXAMPLE, space))
    data = DigitsDataModule(EXAMPLE.shape[-1], BATCH, seed=seed, fractions=FRACTIONS, scenes_per_digit=1)
    search = search_of(estimator, **TRAINED, phases=phases, seed=seed, **SETTINGS)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, callbacks=[search], enable_progress_bar=False, **quiet)
    trainer.fit(module, data)
    return module, search


def next_step(limits):
    """Return how far below the latency budget the nearest member of the space is, as a part of the budget.

    Found to a twentieth of itself by asking the solver for members in ever narrower bands; below 0.01 % it is not
    looked for further.
    """
    limit, *others = limits.costs
    scores = [np.zeros(size) for size in limit.table.node_sizes]

    def nearest(gap):
        band = dataclasses.replace(limit, floor=max(1 - gap, 0.0) * limit.budget)
        nodes = solve(scores, [band, *others], limits.forbidden)
        return None if nodes is None else 1 - limit.table.exact(nodes) / limit.budget

    without, gap = 0.0, 1e-4
    while (found := nearest(gap)) is None:
        without, gap = gap, 10 * gap
    while without and found > 1.05 * without:
        middle = (without * found) ** 0.5
        nearer = nearest(middle)
        without, found = (middle, found) if nearer is None else (without, nearer)
    return found


def costs_of(estimator, network):
    memory = estimator.memory(network, EXAMPLE)
    return {
        "latency_ms": estimator.latency_ms(network, EXAMPLE),
        "parameter_bytes": memory.parameter_bytes,
        "peak_activation_bytes": memory.peak_activation_bytes,
    }


def result(job, module, search, fit_s):
    """Return a row of the record: what was asked, and what the derived network costs, traced as the user has it."""
    started = time.process_time()
    estimator, space, requested = search.estimator, module.network.supernet.space, job["requested"]
    budget = Budget(**{FIELDS[name]: value for name, value in requested.items()})
    found = None if requested == TRAINED else search.find(budget)[0]
    seconds = fit_s if found is None else time.process_time() - started
    subnet = search.derive(module, num_batches=2, architecture=found).network
    limits = resolve_search(budget, space, cost_tables(space, estimator))
    return {
        **job,
        "budget": limits.figures,
        "estimate": costs_of(estimator, subnet),
        "compiled_ms": estimator.verify_ms(subnet, EXAMPLE),
        "next_step": next_step(limits),
        "nodes": " ".join(map(str, space.encode(search.architecture if found is None else found))),
        "seconds": round(seconds, 1),
    }


def run(names):
    """Run what is not known yet."""
    rows = known()
    for name in names:
        estimator = Estimator.load(name)
        for seed in SEEDS:
            done = {key(row) for row in rows}
            jobs = [job for job in wanted(name, seed) if key(job) not in done]
            for phases in dict.fromkeys(job["phases"] for job in jobs):
                started = time.process_time()
                module, search = fit(estimator, seed, phases)
                fit_s = time.process_time() - started
                for job in jobs:
                    if job["phases"] == phases:
                        rows.append(result(job, module, search, fit_s))
                        write_text(RECORD, json.dumps(rows, indent=1) + "\n")
                        print(line(rows[-1]), flush=True)  # noqa: T201


def compile_rest():
    """Compile what was found where the compiler was not installed."""
    rows = known()
    for row in rows:
        if row["compiled_ms"] is None:
            estimator = Estimator.load(row["device"])
            space = space_of(mobilenet_v2(num_classes=10), EXAMPLE, lanes=estimator.lanes)
            row["compiled_ms"] = estimator.verify_ms(space.decode(tuple(map(int, row["nodes"].split()))))
            row["compiled_after"] = row["compiled_ms"] is not None
            write_text(RECORD, json.dumps(rows, indent=1) + "\n")


def slack(row, compiled=False):
    """Return what is left of the latency budget, as a part of it; None where there is no compiler."""
    cost = row["compiled_ms"] if compiled else row["estimate"]["latency_ms"]
    return None if cost is None else 1 - cost / row["budget"]["latency_ms"]


def line(row):
    compiled = slack(row, compiled=True)
    shown = "-" if compiled is None else f"{compiled:.2%}"
    asked = " ".join(row["requested"].values())
    step = f"step {row['next_step']:.3%}"
    return f"{row['device']} {row['seed']} {row['phases']} {asked}: {slack(row):.2%} {shown} {step} {row['seconds']}s"


def is_over(row, compiled=False):
    """Return whether a subnet costs more than any of its budgets; sums of floats may differ in their last digits."""
    if compiled:
        return row["compiled_ms"] is not None and row["compiled_ms"] > row["budget"]["latency_ms"]
    return any(row["estimate"][name] > budget * (1 + 1e-9) for name, budget in row["budget"].items())


def percent(value):
    return "-" if value is None else f"{100 * value:.2f} %"


def figures(rows, compiled=False):
    """Return as cells the median and the largest slack, and how many are over."""
    slacks = [slack(row, compiled) for row in rows]
    if None in slacks:
        return ["-"] * 3
    return [percent(statistics.median(slacks)), percent(max(slacks)), str(sum(is_over(r, compiled) for r in rows))]


def table(head, rows):
    return ["", *("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows))]


HEAD = ["searches", "median slack", "worst", "over", "compiled: median slack", "worst", "over", "next step"]


def cells(rows):
    step = max(row["next_step"] for row in rows)
    return [str(len(rows)), *figures(rows), *figures(rows, compiled=True), percent(step)]


def is_kept(rows):
    """Return whether the goal is met: none is over, and the median slack is small, or as small as the space allows."""
    over = any(is_over(row) or is_over(row, compiled=True) for row in rows)
    allowed = max(GOAL, statistics.median(row["next_step"] for row in rows))
    return not over and statistics.median(slack(row) for row in rows) < allowed


def report():
    rows = known()
    groups = {name: [row for row in rows if row["device"] == name] for name in devices()}
    groups = {name: group for name, group in groups.items() if group}
    one = {name: [row for row in group if row["requested"].keys() == {"latency"}] for name, group in groups.items()}
    lines = [
        "# A budget is a promise",
        "",
        "Written by `python tests/benchmarks/budgets.py report` from `budgets.json`.",
        "",
        "torchvision's `mobilenet_v2` for images of 64 px with the default space; five budgets on latency, parts of",
        f"the source's own, and {len(SEEDS)} seeds a device. Every figure is of the derived, plain network.",
        "",
        "*Slack* is the part of the latency budget that is left, by the estimate; *compiled*, by the device's compiler",
        "where that is installed. *Over* counts networks above their budget. *Next step* is how near to the budget the",
        "solver finds a member of the space at all, at the worst of the budgets (0.01 % is near enough to stop). The",
        f"goal: never over, and a median slack below {100 * GOAL:g} %, or the space's next step where that is larger.",
        "",
        f"Trainings and searches took {sum(row['seconds'] for row in rows) / 60:.0f} minutes of one core.",
    ]
    summary = [[f"`{name}`", *cells(group), "yes" if is_kept(group) else "no"] for name, group in one.items()]
    every = [row for group in one.values() for row in group]
    summary.append(["all", *cells(every), f"{sum(map(is_kept, one.values()))} of {len(one)}"])
    lines += table(["device", *HEAD, "goal met"], summary)
    late = sorted({f"`{row['device']}`" for row in rows if row.get("compiled_after")})
    if late:
        lines += ["", f"The search had no compiler for {', '.join(late)}: its subnets were compiled afterwards."]
    for name, group in one.items():
        lines += ["", f"## {name}"]
        by_budget = [[r for r in group if r["requested"]["latency"] == ratio] for ratio in LATENCIES]
        budgets = [
            [row[0]["requested"]["latency"], f"{row[0]['budget']['latency_ms']:.4g}"] for row in by_budget if row
        ]
        lines += table(
            ["budget", "ms", *HEAD], [a + cells(b) for a, b in zip(budgets, filter(None, by_budget), strict=True)]
        )
    asked = ", ".join(f"`{name}={value}`" for name, value in TOGETHER.items())
    lines += ["", "## Three budgets at once", "", f"{asked}: what is left of each, by seed."]
    together = [
        [
            f"`{row['device']}`",
            str(row["seed"]),
            *(percent(1 - row["estimate"][name] / budget) for name, budget in row["budget"].items()),
            percent(slack(row, compiled=True)),
            percent(row["next_step"]),
            "yes" if is_over(row) or is_over(row, compiled=True) else "no",
        ]
        for group in groups.values()
        for row in group
        if row["requested"] == TOGETHER
    ]
    head = ["device", "seed", "latency", "parameters", "peak memory", "latency, compiled", "next step", "over"]
    lines += table(head, together)
    write_text(PAGE, "\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "compile", "report"))
    parser.add_argument("devices", nargs="*", default=devices(), help="which to run; by default all that have a table")
    args = parser.parse_args()
    if args.command == "report":
        return report()
    torch.set_num_threads(1)
    # What Lightning says of short trainings, twenty times.
    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return run(args.devices) if args.command == "run" else compile_rest()


if __name__ == "__main__":
    main()

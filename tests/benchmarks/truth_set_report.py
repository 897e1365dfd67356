"""Scores of members and what they are worth: ranks against the truth of ``truth_set.py``, its noise, and the page."""

import json
import time
from copy import deepcopy
from functools import partial
from pathlib import Path

import numpy as np
from truth_set import BAND, DEVICE, Setting, Task, fitted, rows_in, say

from lightning_nas import ArchitectureSearch, Estimator
from lightning_nas.budget.sampling import kept_weights
from lightning_nas.search import Decoupled, Selection
from lightning_nas.search.zero_shot import rank_products
from lightning_nas.supernet import derive
from lightning_nas.supernet.option_errors import replace_one
from lightning_nas.supernet.source_judge import SourceJudge
from lightning_nas.supernet.zero_cost import SCORES, zero_cost

HERE = Path(__file__).parent
PAGE = HERE / "truth_set.md"
TRUTHS = {"ce": -1.0, "metric": 1.0, "kl": -1.0}
"""What is measured of a fine-tuned member, and the sign by which more is better."""
NUM_BOOTSTRAP = 200


def run(given):
    """Do what the command line asks for."""
    if given.action == "scores":
        ask_scores(Task(given.task, given.data, given.extra), given.work)
    elif given.action == "record":
        record(given.task, given.work)
    else:
        PAGE.write_text(page())


def ask_scores(task, work):
    """Ask each score for all members, and keep what it says and the seconds that it took; higher is better."""
    setting, path = Setting(task, work), work / "scores.json"
    found = json.loads(path.read_text()) if path.exists() else {"step_seconds": seconds_per_step(setting)}
    families = {one.__name__: one for one in (replaced, replaced_and_refined, counted, whole_members, zero_shot)}
    families |= {f"supernet {seed}": partial(supernet, seed=seed) for seed in range(3)}
    for kind, family in families.items():
        scores = found.setdefault("scores", {})
        if kind in {score["family"] for score in scores.values()}:
            continue
        for name, seconds, values in family(setting):
            values = {key: float(f"{value:.6g}") for key, value in values.items()}
            scores[name] = {"family": kind, "seconds": round(seconds, 1), "values": values}
            say(f"{name}: {seconds:.1f} s")
            path.write_text(json.dumps(found))


def seconds_per_step(setting):
    """Return the seconds of a training step of the source, for what scores cost in steps."""
    task, network = setting.task, deepcopy(setting.source_network)
    started = time.monotonic()
    fitted(task, task.module(network, task.lr[1]), 1, 0)
    return (time.monotonic() - started) / len(task.datamodule.train_dataloader())


def encodings_of(setting):
    return {name: encoding for name, (encoding, _) in setting.members.items()}


def replaced(setting, what="", **options):
    """Yield the sums of what each option alone does to the source."""
    encodings, started = encodings_of(setting), time.monotonic()
    judge = SourceJudge(setting.supernet, setting.images, **options)
    errors = replace_one(judge)
    seconds = time.monotonic() - started
    yield f"one replaced{what}, last layers, summed", seconds, summed(errors.distances, encodings, -1)
    if errors.divergences is not None:
        yield f"one replaced{what}, divergence, summed", seconds, summed(errors.divergences, encodings, -1)
        roots = [row.clamp(min=0).sqrt() for row in errors.divergences]
        yield f"one replaced{what}, root of the divergence, summed", seconds, summed(roots, encodings, -1)


def replaced_and_refined(setting):
    """Yield the same where each block is refined by gradient."""
    yield from replaced(setting, " and refined", refine_steps=100)


def counted(setting):
    """Yield what is counted: weights of the source that remain, parameters and multiply-accumulates."""
    encodings, estimator = encodings_of(setting), Estimator.load(DEVICE, fallback="bytes")
    yield "kept weights", 0.0, summed(kept_weights(setting.space), encodings, 1)
    for name, cost in (("parameters", lambda a: estimator.memory(a).parameter_bytes), ("MACs", estimator.macs)):
        yield name, 0.0, {key: cost(setting.space.decode(encoding)) for key, encoding in encodings.items()}


def whole_members(setting):
    """Yield how far each member is from the source once it is refitted."""
    started, distances, divergences = time.monotonic(), {}, {}
    judge = SourceJudge(setting.supernet, setting.images)
    for name, encoding in encodings_of(setting).items():
        judged = judge.judge(judge.refitted(encoding))
        distances[name], divergences[name] = -judged.error, -judged.divergence
    seconds = time.monotonic() - started
    yield "whole member refitted, last layers", seconds, distances
    if not np.isnan(list(divergences.values())).any():
        yield "whole member refitted, divergence", seconds, divergences


def zero_shot(setting):
    """Yield the scores that need no training, each as its paper has it; members have the source's weights."""
    encodings, images = encodings_of(setting), setting.images[:32]
    for score in SCORES:
        if score in ("params", "macs"):
            continue
        started = time.monotonic()
        members = [derive(setting.supernet, encoding).eval() for encoding in encodings.values()]
        rows = [zero_cost(score, member, images, setting.space.feature_modules) for member in members]
        columns = list(zip(*rows, strict=True))
        values = columns[0] if len(columns) == 1 else rank_products(columns)
        yield score, time.monotonic() - started, dict(zip(encodings, values, strict=True))


def supernet(setting, seed, epochs=12):
    """Yield the losses that members inherit from a supernet, on training batches."""
    task, started = setting.task, time.monotonic()
    module = task.module(deepcopy(setting.supernet), task.lr[1], setting.teacher, setting.space.feature_modules)
    search = ArchitectureSearch(
        Estimator.load(DEVICE, fallback="bytes"),
        latency="0.5x",
        method=Decoupled(steps=1),
        selection=Selection(num_candidates=1, num_evaluations=0, num_random_subnets=0),
        serves=["0.7x", "0.95x"],
    )
    fitted(task, module, epochs, seed, [search])
    loss = search.state.evaluator(held_out=True)
    values = {name: -loss(encoding) for name, encoding in encodings_of(setting).items()}
    yield f"supernet of {epochs} epochs, seed {seed}", time.monotonic() - started, values


def summed(rows, encodings, sign):
    """Return the sum over nodes of what a score says of their options, by member."""
    return {
        name: sign * sum(float(row[option]) for row, option in zip(rows, encoding, strict=True))
        for name, encoding in encodings.items()
    }


def record(task, work):
    """Write members, truths and scores beside this file."""
    found = {
        "source": json.loads((work / "source.json").read_text()),
        "members": json.loads((work / "members.json").read_text()),
        "rows": rows_in(work),
        "scores": json.loads((work / "scores.json").read_text()),
    }
    lines = [f"{json.dumps(key)}: {_lines(value)}" for key, value in found.items()]
    (HERE / f"truth_set_{task}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def _lines(value):
    """Return JSON with a line for each row."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(json.dumps(row) for row in value) + "\n]"
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {json.dumps(row)}" for key, row in value.items()) + "\n}"


def truths(found, what):
    """Return for each member its truth by each seed, less what a seed does to all members alike."""
    by_name = {}
    for row in found["rows"]:
        by_name.setdefault(row["name"], {})[row["seed"]] = TRUTHS[what] * row["truth"][what]
    pairs = np.array([(seeds[0], seeds[1]) for seeds in by_name.values() if len(seeds) == 2])
    shifts = pairs.mean(0) - pairs.mean()
    return {name: [value - shifts[seed] for seed, value in seeds.items()] for name, seeds in by_name.items()}


def means_of(found, what, names=None):
    """Return the mean truth of each member, or of some."""
    return {key: float(np.mean(runs)) for key, runs in truths(found, what).items() if names is None or key in names}


def tau(one, other):
    """Return Kendall's tau-b."""
    return _tau(_signs(one), _signs(other))


def interval(one, other):
    """Return the 90 % interval of a tau by bootstrap over members."""
    rng, one, other = np.random.default_rng(0), _signs(one), _signs(other)
    picks = (np.sort(rng.integers(len(one), size=len(one))) for _ in range(NUM_BOOTSTRAP))
    return np.nanquantile([_tau(one[np.ix_(pick, pick)], other[np.ix_(pick, pick)]) for pick in picks], [0.05, 0.95])


def _signs(values):
    values = np.asarray(values, dtype=float)
    return np.sign(values[:, None] - values[None, :])


def _tau(one, other):
    return float((one * other).sum() / np.sqrt(np.square(one).sum() * np.square(other).sum()))


def noise(runs):
    """Return the standard deviation of one run, the tau of two seeds, and what a perfect score would reach.

    A perfect score knows the mean over all seeds; the truth here is that of one or two. Its tau with them is found by
    drawing: members spread as they do less their noise, and noise added again.

    Args:
        runs: The truths of each member by its seeds.
    """
    rng = np.random.default_rng(0)
    pairs = np.array([seeds for seeds in runs if len(seeds) == 2])
    deviation = float(np.sqrt(((pairs[:, 0] - pairs[:, 1]) ** 2).mean() / 2))
    errors = deviation / np.sqrt([len(seeds) for seeds in runs])
    variance = np.var([np.mean(seeds) for seeds in runs]) - np.mean(np.square(errors))
    drawn = rng.normal(0, max(1e-12, float(variance)) ** 0.5, (200, len(runs)))
    seen = drawn + rng.normal(0, 1, drawn.shape) * errors
    return deviation, tau(*pairs.T), float(np.mean([tau(*rows) for rows in zip(drawn, seen, strict=True)]))


def page():
    """Return the page of all tasks that are recorded."""
    lines = [
        "# What scores are worth",
        "",
        "Written by `python tests/benchmarks/truth_set.py report` from `truth_set_TASK.json`. A member's truth is what",
        "it is after refit and fine-tuning from the trained source, taught by it, on images nothing was fitted to.",
        "Kendall's tau of a score with the truth, with its 90 % interval by bootstrap over the members. *Regret*: how",
        "much worse the member is that the score thinks best in the band than the best by the truth there. What it",
        "costs is for all members together, in training steps of the source at the same batch size.",
        "",
        "* *one replaced, summed*: errors of single options in the source, see `replace_one`, added up: *last layers*",
        "  by what the last layers give, *divergence* by the classes; *refined* with 100 steps a block.",
        "* *whole member refitted*: the same of the member itself, refitted as a whole.",
        "* *supernet*: minus the loss that the member inherits after 12 epochs, on 8 batches of training images.",
        "* The others are counted, or are zero-shot scores with the weights of the source.",
    ]
    for task, found in recorded():
        lines += ["", *task_lines(task, found)]
    return "\n".join(lines) + "\n"


def recorded():
    """Return the tasks that are recorded, with their records."""
    paths = sorted(HERE.glob("truth_set_*.json"))
    return [(path.stem.removeprefix("truth_set_"), json.loads(path.read_text())) for path in paths]


def agreement(found, name):
    """Return the tau of a score with the divergence of fine-tuned members from the source, within one latency."""
    means = means_of(found, "kl", {key for key in found["members"] if key.startswith("band")})
    values = found["scores"]["scores"][name]["values"]
    return tau(list(means.values()), [values[key] for key in means])


def task_lines(task, found):
    """Return the lines of one task."""
    lines = [f"## {task}", ""]
    band = {name for name in found["members"] if name.startswith("band")}
    step, scores = found["scores"]["step_seconds"], found["scores"]["scores"]
    for what, text in (("kl", "divergence from the source"), ("ce", "cross-entropy"), ("metric", "metric")):
        means, runs = means_of(found, what), truths(found, what)
        inside = [name for name in means if name in band]
        deviation, repeated, ceiling = noise([runs[name] for name in inside])
        twice = sum(len(runs[name]) == 2 for name in inside)
        lines += [
            f"By {text}: {len(means)} members, {len(inside)} within {BAND[0]} to {BAND[1]} of the source's latency,"
            f" {twice} of these with two seeds. One run deviates by {deviation:.4f}; two seeds agree by tau"
            f" {repeated:.2f}; a perfect score would reach {ceiling:.2f} in the band.",
            "",
            "| score | all | in the band | its best there | regret | cost in steps |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        order, taus = sorted(inside, key=means.__getitem__, reverse=True), {}
        for name, score in scores.items():
            cells = []
            for names in (list(means), inside):
                truth, values = [means[n] for n in names], [score["values"][n] for n in names]
                low, high = interval(truth, values)
                cells.append(f"{tau(truth, values):.2f} ({low:.2f} to {high:.2f})")
            taus[name] = tau(truth, values)
            best = max(inside, key=score["values"].__getitem__)
            place, regret = order.index(best) + 1, means[order[0]] - means[best]
            steps = round(score["seconds"] / step)
            lines.append(f"| {name} | {' | '.join(cells)} | {place} of {len(order)} | {regret:.4f} | {steps} |")
        worse = [name for name, value in taus.items() if value < taus["parameters"]]
        lines += ["", f"Worse than the number of parameters in the band: {', '.join(worse) or 'none'}.", ""]
    return lines[:-1]

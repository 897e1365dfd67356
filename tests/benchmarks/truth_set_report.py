"""Scores of members and what they are worth: ranks against the truth of ``truth_set.py``, its noise, and the page."""

import json
import time
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau
from truth_set import BAND, Setting, Task, rows_in, say

from lightning_nas import Estimator
from lightning_nas.budget.sampling import kept_weights
from lightning_nas.supernet.option_errors import replace_one
from lightning_nas.supernet.source_judge import SourceJudge

HERE = Path(__file__).parent
PAGE = HERE / "truth_set.md"
TRUTHS = {"ce": -1.0, "metric": 1.0, "kl": -1.0}
"""What is measured of a fine-tuned member, and the sign by which more is better."""
NUM_BOOTSTRAP = 1000


def run(given):
    """Do what the command line asks for."""
    if given.action == "scores":
        ask_scores(Task(given.task, given.data, given.extra), given.work)
    elif given.action == "record":
        record(given.task, given.work)
    else:
        report()


def ask_scores(task, work):
    """Ask each score for all members, and keep what it says and the seconds that it took; higher is better."""
    setting = Setting(task, work)
    encodings = {name: encoding for name, (encoding, _) in setting.members.items()}
    found = {}

    def keep(name, seconds, values):
        found[name] = {"seconds": round(seconds, 1), "values": {key: float(value) for key, value in values.items()}}
        (work / "scores.json").write_text(json.dumps(found))
        say(f"{name}: {seconds:.1f} s")

    started = time.monotonic()
    judge = SourceJudge(setting.supernet, setting.images)
    errors = replace_one(judge)
    seconds = time.monotonic() - started
    keep("one replaced, last maps, summed", seconds, summed(errors.maps, encodings, -1))
    if errors.divergences is not None:
        keep("one replaced, divergence, summed", seconds, summed(errors.divergences, encodings, -1))
        roots = [row.clamp(min=0).sqrt() for row in errors.divergences]
        keep("one replaced, root of the divergence, summed", seconds, summed(roots, encodings, -1))
    keep("kept weights", 0.0, summed(kept_weights(setting.space), encodings, 1))
    estimator = Estimator.load("ethos_u85_1024", fallback="bytes")
    for name, cost in (("parameters", lambda a: estimator.memory(a).parameter_bytes), ("MACs", estimator.macs)):
        keep(name, 0.0, {key: cost(setting.space.decode(encoding)) for key, encoding in encodings.items()})
    started, maps, divergences = time.monotonic(), {}, {}
    for name, encoding in encodings.items():
        judged = judge.judge(judge.refitted(encoding), encoding)
        maps[name], divergences[name] = -judged.error, -judged.divergence
    seconds = time.monotonic() - started
    keep("whole member refitted, last maps", seconds, maps)
    if not np.isnan(list(divergences.values())).any():
        keep("whole member refitted, divergence", seconds, divergences)


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
        "scores": json.loads((work / "scores.json").read_text()) if (work / "scores.json").exists() else {},
    }
    (HERE / f"truth_set_{task}.json").write_text(json.dumps(found, indent=1) + "\n")


def truths(found, what):
    """Return the truth of each member, the mean of its seeds, and of those with two seeds the truth of each."""
    by_name = {}
    for row in found["rows"]:
        by_name.setdefault(row["name"], {})[row["seed"]] = TRUTHS[what] * row["truth"][what]
    means = {name: float(np.mean(list(seeds.values()))) for name, seeds in by_name.items()}
    pairs = [(seeds[0], seeds[1]) for seeds in by_name.values() if len(seeds) == 2]
    return means, np.array(pairs)


def tau(one, other):
    return float(kendalltau(one, other).statistic)


def interval(one, other):
    """Return the 90 % interval of a tau by bootstrap over members."""
    rng, one, other = np.random.default_rng(0), np.asarray(one), np.asarray(other)
    picks = (rng.integers(len(one), size=len(one)) for _ in range(NUM_BOOTSTRAP))
    return np.nanquantile([tau(one[pick], other[pick]) for pick in picks], [0.05, 0.95])


def noise(pairs):
    """Return the standard deviation of one run, the tau of two seeds, and what a perfect score would reach.

    A perfect score knows the mean over all seeds; the truth here is that of two. Its tau with them is found by drawing:
    the members' spread less the noise, and noise added again.
    """
    rng = np.random.default_rng(0)
    deviation = float(np.sqrt(((pairs[:, 0] - pairs[:, 1]) ** 2).mean() / 2))
    spread = max(1e-12, float(pairs.mean(1).var() - deviation**2 / 2)) ** 0.5
    drawn = rng.normal(0, spread, (200, len(pairs)))
    seen = drawn + rng.normal(0, deviation / 2**0.5, drawn.shape)
    return deviation, tau(*pairs.T), float(np.mean([tau(*rows) for rows in zip(drawn, seen, strict=True)]))


def report():
    """Write the page of all tasks that are recorded."""
    lines = [
        "# What scores are worth",
        "",
        "Written by `python tests/benchmarks/truth_set.py report` from `truth_set_TASK.json`. A member's truth is what",
        "it is after refit and fine-tuning from the trained source, taught by it, on images nothing was fitted to.",
        "Kendall's tau of a score with the truth, with its 90 % interval by bootstrap over the members. *Regret*: how",
        "much worse the member is that the score thinks best in the band than the best by the truth there.",
    ]
    for path in sorted(HERE.glob("truth_set_*.json")):
        lines += ["", *task_lines(path.stem.removeprefix("truth_set_"), json.loads(path.read_text()))]
    PAGE.write_text("\n".join(lines) + "\n")


def task_lines(task, found):
    """Return the lines of one task."""
    lines = [f"## {task}", ""]
    band = {name for name in found["members"] if name.startswith("band")}
    for what, text in (("kl", "divergence from the source"), ("ce", "cross-entropy"), ("metric", "metric")):
        means, pairs = truths(found, what)
        inside = [name for name in means if name in band]
        deviation, repeated, ceiling = noise(pairs)
        lines += [
            f"By {text}: {len(means)} members, {len(inside)} within {BAND[0]} to {BAND[1]} of the source's latency. One"
            f" run deviates by {deviation:.4f}; two seeds agree by tau {repeated:.2f}; a perfect score would reach"
            f" {ceiling:.2f} in the band.",
            "",
            "| score | all | in the band | regret | seconds |",
            "| --- | --- | --- | --- | --- |",
        ]
        for name, score in found["scores"].items():
            cells = []
            for names in (list(means), inside):
                truth, values = [means[n] for n in names], [score["values"][n] for n in names]
                low, high = interval(truth, values)
                cells.append(f"{tau(truth, values):.2f} ({low:.2f} to {high:.2f})")
            best = max(inside, key=score["values"].__getitem__)
            regret = max(means[n] for n in inside) - means[best]
            lines.append(f"| {name} | {cells[0]} | {cells[1]} | {regret:.4f} | {score['seconds']} |")
        lines.append("")
    return lines[:-1]

"""The page of the truth test, from its recorded files; `truth.py report` writes it."""

import json

import numpy as np
from scipy.stats import kendalltau
from truth import BASELINES, EVALUATIONS, MEMBERS, NUM_RANDOM, SEARCHES, SEEDS, TRIAL_EPOCHS, known, space


def alone():
    """Return the mean test accuracy of each member over its seeds, and the share of its variance that is no noise."""
    found = {}
    for (_, name), row in known(MEMBERS).items():
        found.setdefault(name, []).append(float(row["accuracy"]))
    rows = np.array(list(found.values()))
    reliability = 1 - rows.var(axis=1, ddof=1).mean() / rows.shape[1] / rows.mean(axis=1).var(ddof=1)
    return dict(zip(found, rows.mean(axis=1).tolist(), strict=True)), float(reliability)


def sequential(within, inherited):
    """Return what widths first and kinds second find by the same losses: the best all-IBN member, then its kinds."""
    num_widths = len(space().multipliers)
    nodes = {name: name.split() for name in within}
    plain = [name for name in within if set(nodes[name][num_widths:]) == {"0"}]
    first = min(plain or within, key=inherited.__getitem__)
    alike = [name for name in within if nodes[name][:num_widths] == nodes[first][:num_widths]]
    return min(alike, key=inherited.__getitem__)


def tau(inherited, accuracy, names):
    """Return Kendall's rank correlation of inherited loss, less being better, and accuracy alone."""
    return float(kendalltau([-inherited[name] for name in names], [accuracy[name] for name in names]).statistic)


def compare(record, accuracy, cost):
    """Return the rows of the report for a seed, one for each budget."""
    inherited, rows = record["inherited"], []
    for budget, name in record["found"].items():
        within = [n for n in accuracy if cost[n] <= float(budget)]
        drawn = np.random.default_rng(record["seed"]).permutation(within)[:NUM_RANDOM]
        rows.append(
            {
                "seed": record["seed"],
                "budget": float(budget),
                "cost": cost[name],
                "accuracy": accuracy[name],
                "rank": 1 + sum(accuracy[n] > accuracy[name] for n in within),
                "within": len(within),
                "mean": float(np.mean([accuracy[n] for n in within])),
                "best": max(accuracy[n] for n in within),
                "random": accuracy[min(drawn, key=inherited.__getitem__)],
                "num_random": len(drawn),
                "sequential": accuracy[sequential(within, inherited)],
                "seconds": record["seconds"][budget],
            }
        )
    return rows


def correlations(record, accuracy, cost):
    """Return tau over all members, and its mean over quarters of the members by latency."""
    names = sorted(accuracy, key=cost.__getitem__)
    size = len(names) // 4
    bands = [tau(record["inherited"], accuracy, names[start : start + size]) for start in range(0, 4 * size, size)]
    return tau(record["inherited"], accuracy, names), float(np.mean(bands))


def report():
    accuracy, reliability = alone()
    every = json.loads(SEARCHES.read_text())
    records = [record for record in every if not record["trials"]]
    cost = records[0]["costs_ms"]
    rows = [row for record in records for row in compare(record, accuracy, cost)]
    reached = sum(row["rank"] <= max(1, row["within"] // 10) for row in rows)
    ahead = sum(row["accuracy"] >= row["sequential"] for row in rows)
    equal = sum(row["accuracy"] >= row["random"] for row in rows)
    lines = [
        "# Truth test",
        "",
        "Written by `python tests/benchmarks/truth.py report` from `truth_members.csv`, `truth_search.json` and",
        "`truth_baselines.json`.",
        f"{len(accuracy)} members trained alone, {len(SEEDS)} seeds each; of the variance between members"
        f" {reliability:.0%} is no noise.",
        f"Among the best tenth of the members within the budget: {reached} of {len(rows)} searches.",
        f"At least as good as widths first and kinds second by the same losses: {ahead}.",
        f"At least as good as the best by inherited loss of {NUM_RANDOM} random members, or of all: {equal}.",
        "",
        "| seed | budget (ms) | found (ms) | accuracy alone | rank of members within | mean of them | best of them |"
        " best of random by inherited loss | widths, then kinds | evaluations: search / random | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['seed']} | {row['budget']:.4f} | {row['cost']:.4f} | {row['accuracy']:.4f}"
            f" | {row['rank']} of {row['within']} | {row['mean']:.4f} | {row['best']:.4f}"
            f" | {row['random']:.4f} | {row['sequential']:.4f}"
            f" | {min(EVALUATIONS, row['within'])} / {row['num_random']} | {row['seconds']:.0f} |"
        )
    lines += [
        "",
        "Kendall's tau of inherited loss and accuracy alone, over all members and within quarters by latency:",
    ]
    lines += ["", "| seed | all | within | progress of subnets | rank stability | rank by size |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for record in records:
        whole, bands = correlations(record, accuracy, cost)
        ready = record["readiness"]
        lines.append(
            f"| {record['seed']} | {whole:.2f} | {bands:.2f} | {ready['progress']:.2f} | {ready['stability']:.2f}"
            f" | {ready['size_bias']:+.2f} |"
        )
    lines += ["", *trial_lines(every, accuracy, cost), "", *baseline_lines(accuracy, cost)]
    SEARCHES.with_name("truth.md").write_text("\n".join(lines).replace("%", " %") + "\n")


def trial_lines(records, accuracy, cost):
    """Return a sentence for each number of trials: where what was found with them stands."""
    lines = []
    for trials in sorted({record["trials"] for record in records}):
        rows = [row for record in records if record["trials"] == trials for row in compare(record, accuracy, cost)]
        share = np.mean([row["rank"] / row["within"] for row in rows])
        reached = sum(row["rank"] <= max(1, row["within"] // 10) for row in rows)
        mean = np.mean([row["accuracy"] for row in rows])
        how = f"with the {trials} best trained for {TRIAL_EPOCHS} epochs each first" if trials else "without trials"
        lines.append(
            f"* Found {how}: {mean:.4f} on average, at {share:.0%} of the ranks, {reached} of {len(rows)} in the best"
            " tenth."
        )
    return lines


def baseline_lines(accuracy, cost):
    lines = [
        "The published methods behind the same interface, weights and logits in one training, seed 0. By the logits:",
        "the most probable member within the budget; chosen: after the comparison by inherited loss that all share.",
        "",
        "| strategy | steps | seconds | by the logits | chosen | rank of members within |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in json.loads(BASELINES.read_text()) if BASELINES.exists() else []:
        within = [n for n in accuracy if cost[n] <= row["budget"]]
        rank = 1 + sum(accuracy[n] > accuracy[row["found"]] for n in within)
        lines.append(
            f"| {row['strategy']} | {row['steps']} | {row['seconds']:.0f} | {accuracy[row['by_logits']]:.4f}"
            f" | {accuracy[row['found']]:.4f} | {rank} of {len(within)} |"
        )
    return lines

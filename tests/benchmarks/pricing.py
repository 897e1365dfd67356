"""How long it takes to price a whole search space, many of its members, and to solve it for budgets, without a device.

    python tests/benchmarks/pricing.py [--network torchvision/efficientnet_v2_s] [--device ethos_u85_1024] [--record]

The space is that of a network of `tests/zoo.py`: kinds, expansions and skips of its blocks, three widths a group. The
figures are seconds on two cores or fewer: its parts found and priced; the exact cost and peak of 100 000 drawn
architectures from these tables (the goal is 0.2 for the cost); and three budgets of latency, without and with a limit
on the peak (the goal is 5 for the three, at 60 width groups and 30 blocks). ``--record`` writes them to pricing.json
beside this file.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from spaces import space_of_zoo

from lightning_nas.budget.solver import Limit, lowest_maximum, reach, solve
from lightning_nas.budget.tables import cost_tables
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.graph.subgraph import Subgraph

RECORD = Path(__file__).with_suffix(".json")
NUM_ARCHITECTURES = 100_000
PARTS = (0.25, 0.5, 0.75)


def seconds(call, rounds):
    """Return the median of how long a call takes, and its last result."""
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = call()
        took.append(time.perf_counter() - start)
    return statistics.median(took), result


def solved(tables, forbidden):
    """Return the seconds that three budgets take together, and what they find."""
    table, draws = tables.latency_ms, np.random.default_rng(0)
    span = reach(table)
    scores = [np.sort(draws.normal(size=size)) for size in table.node_sizes]
    budgets = [span.minimum + part * (span.maximum - span.minimum) for part in PARTS]
    return seconds(lambda: [solve(scores, [Limit(table, budget)], forbidden) for budget in budgets], 1)


def price(network, device, rounds=5):
    """Return the figures of one network on one device."""
    estimator = Estimator.load(device, fallback="bytes")
    # The regressor, and what it imports, are ready; of the space nothing is.
    estimator.predict_ms([Subgraph("conv", 9, 9, 9, 9, 9)])
    build_s, space = seconds(lambda: space_of_zoo(network, estimator.lanes, kinds=("ibn", "fused", "skip")), 1)
    tables_s, tables = seconds(lambda: cost_tables(space, estimator), 1)
    draws, peaks = np.random.default_rng(0), tables.peak_activation_bytes
    nodes = np.stack([draws.integers(0, size, NUM_ARCHITECTURES) for size in space.node_sizes], axis=1)
    cost_s, _ = seconds(lambda: tables.latency_ms.exact_many(nodes), rounds)
    peak_s, _ = seconds(lambda: peaks.exact_many(nodes), rounds)
    lowest, source = peaks.exact(lowest_maximum(peaks.rows)), peaks.exact(space.reference_encoding)
    free_s, _ = solved(tables, [])
    limited_s, found = solved(tables, [peaks.over((lowest + source) / 2)])
    return {
        "groups": len(space.nodes_of),
        "blocks": len(space.choices),
        "prices": int(sum(factor.cost.size for factor in tables.latency_ms.factors)),
        "space_s": round(build_s, 2),
        "tables_s": round(tables_s, 2),
        "architectures": NUM_ARCHITECTURES,
        "architectures_s": round(cost_s, 3),
        "peaks_s": round(peak_s, 3),
        "three_budgets_s": round(free_s, 2),
        "three_budgets_with_peak_s": round(limited_s, 2),
        "solved_with_peak": sum(encoding is not None for encoding in found),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="torchvision/efficientnet_v2_s")
    parser.add_argument("--device", default="ethos_u85_1024")
    parser.add_argument("--record", action="store_true", help="write the figures beside this file")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    found = price(args.network, args.device)
    key = f"{args.network} on {args.device}"
    sys.stdout.write(json.dumps({key: found}, indent=1) + "\n")
    if args.record:
        known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        RECORD.write_text(json.dumps({**known, key: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

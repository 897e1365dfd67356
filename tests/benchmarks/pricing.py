"""How long it takes to price a whole search space, and many of its members, without the device.

    python tests/benchmarks/pricing.py [--device ethos_u85_1024] [--record]

The space has 8 stages, 24 blocks, 12 options a block and 5 widths a stage. Two figures, in seconds on two cores or
fewer; the goals are 1 and 1: pricing all that it holds, after the regressor is fitted but before it has seen any of it;
and the exact cost of 100 000 drawn architectures from that price list. ``--record`` writes them to pricing.json beside
this file.
"""

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import numpy as np

from lightning_nas.budget.cost_table import cost_table
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.space.spec import BlockOption, Choice, ConvSpec, DepthMultiplier, SearchSpace, Stage

RECORD = Path(__file__).with_suffix(".json")
WIDTHS = (16, 24, 40, 80, 112, 160, 192, 320)
STRIDES = (1, 2, 2, 2, 1, 2, 1, 1)
RATIOS = (0.5, 0.625, 0.75, 0.875, 1.0)
NUM_ARCHITECTURES = 100_000


def large_space():
    """8 stages, 24 blocks, 12 options a block, 5 widths a stage."""
    options = tuple(
        BlockOption(kind, expansion, kernel)
        for kind in ("ibn", "fused")
        for expansion in (3, 4, 6)
        for kernel in (3, 5)
    )
    stages = tuple(
        Stage(width, (Choice(stride, options), Choice(1, options), Choice(1, options)))
        for width, stride in zip(WIDTHS, STRIDES, strict=True)
    )
    multipliers = tuple(
        DepthMultiplier((index,), tuple((round(width * ratio),) for ratio in RATIOS))
        for index, width in enumerate(WIDTHS)
    )
    stem, head = ConvSpec(32, 3, 2), ConvSpec(1280, 1, 1)
    return SearchSpace((3, 224, 224), stem, stages, multipliers, head, 1000, (0,) * 24)


def seconds(call, rounds):
    """Return the median of how long a call takes, and its last result."""
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        result = call()
        took.append(time.perf_counter() - start)
    return statistics.median(took), result


def price(device, rounds=5):
    """Return the figures of one device."""
    loaded, space = Estimator.load(device), large_space()
    regressor = loaded.regressor
    # The regressor, and what it imports, are ready; of the space nothing is.
    loaded.predict_ms([Subgraph("conv", 9, 9, 9, 9, 9)])

    def cold(exact=True):
        estimator = Estimator(loaded.device, loaded.measurements, regressor, exact=exact)
        start = time.perf_counter()
        table = cost_table(space, estimator.predict_ms)
        return time.perf_counter() - start, table

    runs = [cold() for _ in range(rounds)]
    predicted = [cold(exact=False)[0] for _ in range(rounds)]
    table = runs[0][1]
    draws = np.random.default_rng(0)
    nodes = np.stack([draws.integers(0, size, NUM_ARCHITECTURES) for size in table.node_sizes], axis=1)
    exact_s, _ = seconds(lambda: table.exact_many(nodes), rounds)
    return {
        "prices": int(sum(factor.cost.size for factor in table.factors)),
        "space_s": round(statistics.median(run[0] for run in runs), 3),
        "space_all_predicted_s": round(statistics.median(predicted), 3),
        "architectures": NUM_ARCHITECTURES,
        "architectures_s": round(exact_s, 3),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="ethos_u85_1024")
    parser.add_argument("--record", action="store_true", help="write the figures beside this file")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
    found = price(args.device)
    sys.stdout.write(json.dumps({args.device: found}, indent=1) + "\n")
    if args.record:
        known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        RECORD.write_text(json.dumps({**known, args.device: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

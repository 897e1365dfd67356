"""Published latencies of real chips, through a table of one's own chip: how far is what is held out off?

    python tests/benchmarks/real_silicon.py ../shared/data/latency [--record]

Each set is written as a user would write a table of it, read with `Estimator.load`, fitted, and judged on the rest.
``--record`` writes the figures to real_silicon.json beside this file.
"""

import argparse
import csv
import importlib.metadata
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.measurements import COLUMNS, Figures, to_row
from lightning_nas.graph.subgraph import Subgraph

RECORD = Path(__file__).with_suffix(".json")
GPUS = ("1080ti", "2080ti", "titan_rtx", "titanx", "titanxp")
FBNET_COLUMNS = (
    *(f"{gpu}_{batch}" for gpu in GPUS for batch in (1, 32, 64)),
    *("gold_6226", "gold_6240", "silver_4114", "silver_4210r"),
)
# FBNet's stages: blocks, width, stride; its operators: expansion, kernel, groups of the 1x1 convolutions.
STAGES = ((1, 16, 1), (4, 24, 1), (4, 32, 2), (4, 64, 2), (4, 112, 1), (4, 184, 2), (1, 352, 1))
OPERATORS = ((1, 3, 1), (1, 3, 2), (3, 3, 1), (6, 3, 1), (1, 5, 1), (1, 5, 2), (3, 5, 1), (6, 5, 1))


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def note10(folder):
    """Blocks of inverted bottlenecks; one shape measured for several input sizes is one row with the median."""
    found = {}
    for row in read(folder / "ofa_note10" / "note10_blocks_ms.csv"):
        if row["mid"]:
            size, width, hidden, out, kernel, stride = (
                int(row[name]) for name in ("hin", "cin", "mid", "cout", "kernel", "stride")
            )
            part = Subgraph("ibn", size, size, width, hidden, out, kernel, stride, row["idskip"] == "1")
            found.setdefault(part, []).append(float(row["mean_ms"]))
    return {part: statistics.median(values) for part, values in found.items()}


def v100(folder):
    """Convolutions, int8, of one image."""
    found = {}
    for row in read(folder / "tinynas_v100" / "v100_conv_ms.csv"):
        if row["precision"] == "int8" and row["batch"] == "1":
            kind = "conv" if row["type"] == "conv" else "depthwise"
            height, width, inner, outer, kernel, stride = (
                int(row[name]) for name in ("h", "w", "cin", "cout", "k", "stride")
            )
            part = Subgraph(kind, height, width, inner, outer, outer, kernel, stride, row["elmtfused"] == "1")
            found[part] = float(row["ms"])
    return found


def fbnet(folder):
    """Networks and their latencies by device. Two groups are written as half the hidden channels: as many products."""
    rows = read(folder / "help_fbnet" / "fbnet_latency_ms.csv")
    networks = [fbnet_parts([int(row[f"op{index}"]) for index in range(22)]) for row in rows]
    return networks, {name: np.array([float(row[name]) for row in rows]) for name in FBNET_COLUMNS}


def fbnet_parts(operators):
    parts, size, width = [Subgraph("stem", 32, 32, 3, 16, 16, 3)], 32, 16
    places = [(out, stride if not number else 1) for count, out, stride in STAGES for number in range(count)]
    for operator, (out, stride) in zip(operators, places, strict=True):
        same = stride == 1 and width == out
        if operator < len(OPERATORS):
            expansion, kernel, groups = OPERATORS[operator]
            parts.append(Subgraph("ibn", size, size, width, width * expansion // groups, out, kernel, stride, same))
        elif not same:
            parts.append(Subgraph("conv", size, size, width, out, out, 1, stride))
        size, width = -(-size // stride), out
    return [*parts, Subgraph("head", size, size, width, 1504, 100)]


def judge_rows(measured, num_train, seed, folder, num_test=None):
    """Fit to a table of some rows, drawn at random, and predict the others."""
    parts = list(measured)
    random.Random(seed).shuffle(parts)
    table = folder / "my_chip.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS[:-1])
        writer.writerows(to_row(part, Figures(measured[part]))[:-1] for part in parts[:num_train])
    start = time.perf_counter()
    estimator = Estimator.load(table)
    held_out = parts[num_train:][:num_test]
    predicted = estimator.predict_ms(held_out)
    judged = judge(predicted, np.array([measured[part] for part in held_out]))
    return judged | {"fitted_by": estimator.regressor.choice, "seconds": round(time.perf_counter() - start, 1)}


def judge_networks(networks, true_ms, num_train, seed, folder):
    """Fit to a table of whole networks, drawn at random, and predict the others as sums."""
    order = list(range(len(networks)))
    random.Random(seed).shuffle(order)
    table = folder / "my_chip.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS[:-1], "network"])
        for index in order[:num_train]:
            figures = Figures(float(true_ms[index]))
            writer.writerows([*to_row(part, figures)[:-1], index] for part in networks[index])
    estimator = Estimator.load(table)
    held_out = order[num_train:]
    costs = dict.fromkeys(part for index in held_out for part in networks[index])
    costs = dict(zip(costs, estimator.predict_ms(list(costs)), strict=True))
    predicted = np.array([sum(costs[part] for part in networks[index]) for index in held_out])
    return judge(predicted, true_ms[held_out])


def judge(predicted, true):
    off = np.abs(predicted / true - 1)
    return {
        "held_out": len(true),
        "mape": round(float(off.mean()), 5),
        "max": round(float(off.max()), 4),
        "within_5": round(float((off <= 0.05).mean()), 4),
        "within_10": round(float((off <= 0.10).mean()), 4),
        "spearman": round(float(spearmanr(predicted, true).statistic), 5),
    }


def average(rows):
    return {name: round(float(np.mean([row[name] for row in rows])), 5) for name in rows[0] if name != "fitted_by"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the published latencies")
    parser.add_argument("--record", action="store_true", help="write the figures beside this file")
    parser.add_argument("--sets", nargs="+", default=["note10", "fbnet", "v100"], help="which sets")
    args = parser.parse_args()
    found = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = name
        for name in args.sets:
            found[name] = SETS[name](args.data, folder)
            sys.stdout.write(json.dumps({name: found[name]}, indent=1) + "\n")
    found["versions"] = {name: importlib.metadata.version(name) for name in ("scikit-learn", "numpy", "scipy")}
    if args.record:
        RECORD.write_text(json.dumps(found, indent=1) + "\n")


def judge_note10(data, folder, num_train=600, seeds=(0, 1, 2)):
    return average([judge_rows(note10(data), num_train, seed, folder) for seed in seeds]) | {"train": num_train}


def judge_v100(data, folder, num_train=10_000, seed=0, num_test=None):
    return judge_rows(v100(data), num_train, seed, folder, num_test) | {"train": num_train}


def judge_fbnet(data, folder, num_train=400, seeds=(0, 1, 2)):
    networks, latencies = fbnet(data)
    columns = {
        name: average([judge_networks(networks, true_ms, num_train, seed, folder) for seed in seeds])
        for name, true_ms in latencies.items()
    }
    return average(list(columns.values())) | {"train": num_train, "columns": columns}


SETS = {"note10": judge_note10, "fbnet": judge_fbnet, "v100": judge_v100}

if __name__ == "__main__":
    main()

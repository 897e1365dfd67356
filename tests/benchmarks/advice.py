"""Advice on stock networks: how long it takes, and whether what it says it saves is what a compiler says.

``python tests/benchmarks/advice.py run`` asks for advice on ten networks at 224 px on five devices, without data.
Where the device's compiler is installed (Vela), the network is compiled as it is, with all steps that can be applied
together, and with the best single suggestion of each kind. What is known is not run again. ``report`` writes
``advice.md`` from ``advice.json`` beside this file.
"""

import argparse
import json
import logging
import statistics
import time
from pathlib import Path

import torch

from lightning_nas import Estimator
from lightning_nas.budget.suggestion import changed
from lightning_nas.io.writing import write_text
from lightning_nas.jobs.advise import advise, advise_on
from lightning_nas.supernet import stock_network

RECORD = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).with_suffix(".md")
DEVICES = ("ethos_u85_1024", "ethos_u65_512", "ethos_u55_256", "ethos_u55_128", "edge_tpu")
NETWORKS = (
    *("mobilenet_v2", "mobilenetv3_large_100", "torchvision/efficientnet_b0", "efficientnet_lite0", "mnasnet1_0"),
    *("resnet18", "mobilenetv4_conv_small", "tf_efficientnetv2_b0", "mobilenet_edgetpu_v2_xs", "regnet_y_400mf"),
)
# Stock networks are priced alike for each network, so that they are timed once a device.
WITH_STOCK = NETWORKS[0]
EXAMPLE = torch.zeros(1, 3, 224, 224)
APPLIED = ("fuse", "unfuse", "align", "narrow", "skip")
GOAL = 0.03


def known():
    return json.loads(RECORD.read_text()) if RECORD.exists() else []


def result(device, name):
    """Return a row of the record."""
    network, estimator = stock_network(name, 1000).eval(), Estimator.load(device)
    wall, cpu = time.monotonic(), time.process_time()
    advice = (advise if name == WITH_STOCK else advise_on)(network, EXAMPLE, estimator)
    row = {
        "device": device,
        "network": name,
        "has_stock": name == WITH_STOCK,
        "seconds": round(time.monotonic() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "latency_ms": advice.cost.latency_ms,
        "together_ms": advice.steps[-1].cost.latency_ms if advice.steps else None,
        "num_suggestions": len(advice.suggestions),
        "compiled_ms": None,
        "compiled_together_ms": None,
        "alone": [],
    }
    if advice.space is None:
        return row
    row["compiled_ms"] = estimator.verify_ms(changed(advice.space, []))
    if row["compiled_ms"] is None:
        return row
    if advice.compiled_ms is not None:
        row["compiled_together_ms"] = advice.compiled_ms[1]
    for kind in (*APPLIED, "input"):
        best = max((one for one in advice.suggestions if one.kind == kind), key=lambda one: one.saved_ms, default=None)
        if best is None:
            continue
        if best.change is None:
            sides = map(int, best.text.split()[2].split("x"))
            compiled_ms = estimator.verify_ms(network, torch.zeros(1, 3, *sides))
        else:
            compiled_ms = estimator.verify_ms(changed(advice.space, [best.change]))
        row["alone"].append({"kind": kind, "saved_ms": best.saved_ms, "compiled_ms": compiled_ms})
    return row


def run(devices, seconds):
    """Run what is not known yet, for about so many seconds of processor time."""
    rows = known()
    for name in NETWORKS:
        for device in devices:
            if time.process_time() > seconds:
                return
            if any((row["device"], row["network"]) == (device, name) for row in rows):
                continue
            rows.append(result(device, name))
            write_text(RECORD, json.dumps(rows, indent=1) + "\n")
            print(line(rows[-1]), flush=True)  # noqa: T201


def error(row):
    """Return how far what is said of the network with all steps is off; None where nothing was compiled."""
    if row["together_ms"] is None or row["compiled_together_ms"] is None:
        return None
    return row["together_ms"] / row["compiled_together_ms"] - 1


def saving_error(row, saved_ms, compiled_ms):
    """Return how far a saving is off, as a part of the network's latency."""
    return (saved_ms - (row["compiled_ms"] - compiled_ms)) / row["compiled_ms"]


def saved_error(row):
    if row["together_ms"] is None or row["compiled_together_ms"] is None:
        return None
    return saving_error(row, row["latency_ms"] - row["together_ms"], row["compiled_together_ms"])


def share(before, after):
    return None if before is None or after is None else 1 - after / before


def percent(value, sign=""):
    return "-" if value is None else f"{100 * value:{sign}.1f} %"


def line(row):
    said, compiled = (share(row[a], row[b]) for a, b in PAIRS)
    return (
        f"{row['device']} {row['network']}: {row['seconds']} s, saves {percent(said)}, compiled {percent(compiled)},"
        f" off {percent(saved_error(row), '+')}"
    )


PAIRS = (("latency_ms", "together_ms"), ("compiled_ms", "compiled_together_ms"))


def table(head, rows):
    return ["", *("| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)), ""]


def cells(row):
    before = None if row["compiled_ms"] is None else row["latency_ms"] / row["compiled_ms"] - 1
    said, compiled = (share(row[a], row[b]) for a, b in PAIRS)
    return [
        f"`{row['network']}`",
        f"{row['latency_ms']:.3f}",
        percent(before, "+"),
        percent(said),
        percent(compiled),
        percent(saved_error(row), "+"),
        percent(error(row), "+"),
        f"{row['cpu_seconds']:.0f}{' (with stock)' if row['has_stock'] else ''}",
    ]


HEAD = ["network", "ms", "off", "together saves", "compiled", "saving off", "latency then off", "CPU seconds"]


def summary(errors):
    found = [abs(value) for value in errors if value is not None]
    if not found:
        return ["0", "-", "-", "-"]
    within = sum(value <= GOAL for value in found)
    return [str(len(found)), percent(statistics.median(found)), percent(max(found)), f"{within} of {len(found)}"]


def report():
    rows = known()
    by_kind = {
        kind: [
            saving_error(row, one["saved_ms"], one["compiled_ms"])
            for row in rows
            for one in row["alone"]
            if one["kind"] == kind and one["compiled_ms"] is not None
        ]
        for kind in (*APPLIED, "input")
    }
    lines = [
        "# Advice, compiled",
        "",
        "Written by `python tests/benchmarks/advice.py report` from `advice.json`.",
        "",
        "`advise` on stock networks of 1000 classes at 224 px, without data and without training. *Together* is what",
        "can be applied without data: fused blocks, and widths that lose less than a tenth. *Saving off* is how far",
        "the saving is off from what Vela says of both networks compiled whole, as a part of the network's latency;",
        f"*off* and *latency then off* are the errors of the estimates before and after. The goal: {GOAL:.0%}.",
        *table(
            ["what", "compiled", "median off", "most", "within the goal"],
            [
                ["all steps together", *summary(map(saved_error, rows))],
                *([f"{kind}, the best alone", *summary(errors)] for kind, errors in by_kind.items() if errors),
                ["latency with all steps", *summary(map(error, rows))],
            ],
        ),
    ]
    for device in dict.fromkeys(row["device"] for row in rows):
        lines += [f"## {device}", *table(HEAD, [cells(row) for row in rows if row["device"] == device])]
    write_text(PAGE, "\n".join(lines).rstrip() + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=("run", "report"))
    parser.add_argument("--devices", nargs="+", default=DEVICES)
    parser.add_argument("--seconds", type=float, default=3600.0)
    args = parser.parse_args()
    if args.command == "report":
        return report()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    return run(args.devices, args.seconds)


if __name__ == "__main__":
    main()

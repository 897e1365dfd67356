"""Peak activation memory by liveness against what TensorFlow Lite Micro plans for the same networks.

    pip install tflite-micro
    python tests/benchmarks/arena.py [--num-networks 100] [--record]

Random int8 networks as search spaces hold them, and stock networks at two sizes, are written as TFLite files and handed
to the interpreter, whose own planner says how large its arena's head is. ``--record`` writes the figures to arena.json
beside this file; the goal is an equal figure for 90 % of the networks.
"""

import argparse
import importlib.metadata
import json
import os
import random
import re
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch
import torchvision
from tflite_micro.python.tflite_micro import runtime

from lightning_nas.estimator.measure.backends.tflite import author
from lightning_nas.estimator.measure.sampling.chain_networks import sample_chain
from lightning_nas.graph.liveness import PLAIN, peak_values
from lightning_nas.graph.lower import lowered
from lightning_nas.graph.network import chain
from lightning_nas.graph.trace import trace

RECORD = Path(__file__).with_suffix(".json")
STOCK = ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5", "resnet18", "squeezenet1_0")
SIZES = (96, 160)


def head_bytes(network):
    """Return the head of the interpreter's arena: activations, as its planner places them."""
    interpreter = runtime.Interpreter.from_bytes(author(network), arena_size=1 << 26)
    with printed() as lines:
        interpreter.print_allocations()
    return int(re.search(r"head (\d+)", "".join(lines)).group(1))


@contextmanager
def printed():
    """Collect what compiled code prints, by either of its channels."""
    lines = []
    with tempfile.TemporaryFile("w+") as file:
        kept = [os.dup(number) for number in (1, 2)]
        try:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            yield lines
        finally:
            for number, before in zip((1, 2), kept, strict=True):
                os.dup2(before, number)
                os.close(before)
            file.seek(0)
            lines.extend(file)


def judge(networks):
    """Compare liveness with the interpreter on named networks."""
    off = {}
    for name, network in networks.items():
        network = lowered(network)
        off[name] = peak_values(network, PLAIN) / head_bytes(network) - 1
    differing = {name: round(value, 4) for name, value in off.items() if value}
    return {
        "networks": len(off),
        "equal": round(1 - len(differing) / len(off), 4),
        "max": max(map(abs, off.values())),
        "differing": differing,
    }


def random_networks(count, seed=2024):
    rng = random.Random(seed)
    return {f"random {number}": chain(sample_chain(rng)) for number in range(count)}


def stock_networks():
    return {
        f"{name} {size}": trace(getattr(torchvision.models, name)(), torch.zeros(1, 3, size, size))
        for name in STOCK
        for size in SIZES
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-networks", type=int, default=100, help="how many random networks")
    parser.add_argument("--record", action="store_true", help="write the figures beside this file")
    args = parser.parse_args()
    found = {"random": judge(random_networks(args.num_networks)), "stock": judge(stock_networks())}
    found["versions"] = {"tflite-micro": importlib.metadata.version("tflite-micro")}
    sys.stdout.write(json.dumps(found, indent=1) + "\n")
    if args.record:
        RECORD.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

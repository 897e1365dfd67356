"""What keeping freed memory saves: steps per second of a process that does, over those of one that does not.

    python tests/benchmarks/malloc.py measure
    python tests/benchmarks/malloc.py report

``measure`` trains torchvision's MobileNetV2 for some steps in processes of one thread, by turns with and without
`keep_freed_memory`, and records ``malloc.json`` beside this file (about three minutes); ``report`` writes ``malloc.md``
from that. A ratio is of two processes that ran one after the other; the median over the rounds is given.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
SIZES = ((96, 96), (128, 160), (192, 256))
BATCH_SIZE = 16
ROUNDS = 5
STEPS = 6


def steps_per_second(height: int, width: int) -> float:
    """Return the speed of this process, after two steps that do not count."""
    import torch
    from torchvision.models import mobilenet_v2

    torch.set_num_threads(1)
    network = mobilenet_v2(weights=None).to(memory_format=torch.channels_last).train()
    images = torch.randn(BATCH_SIZE, 3, height, width).to(memory_format=torch.channels_last)
    started = 0.0
    for step in range(2 + STEPS):
        if step == 2:
            started = time.perf_counter()
        network(images).square().mean().backward()
        network.zero_grad()
    return STEPS / (time.perf_counter() - started)


def measure() -> None:
    rounds = []
    for height, width in SIZES:
        for number in range(ROUNDS):
            # Whichever comes first would gain from a turn of the machine; they change places.
            order = ("kept", "returned") if number % 2 else ("returned", "kept")
            speeds = {name: _speed_of_process(name, height, width) for name in order}
            rounds.append({"height": height, "width": width, **speeds})
            sys.stdout.write(f"{height} x {width}: {speeds['kept'] / speeds['returned']:.2f}\n")
    import torch

    record = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "libc": " ".join(platform.libc_ver()),
        "torch": torch.__version__,
        "rounds": rounds,
    }
    (HERE / "malloc.json").write_text(json.dumps(record, indent=1))


def report() -> None:
    record = json.loads((HERE / "malloc.json").read_text())
    lines = [
        "# Freed memory is kept",
        "",
        "Written by `python tests/benchmarks/malloc.py report` from `malloc.json`.",
        "",
        f"Training steps of torchvision's `mobilenet_v2`, batch {BATCH_SIZE}, one thread, CPU ({record['machine']},"
        f" {record['libc']}, torch {record['torch']}): steps a second with `keep_freed_memory` over those without, in",
        f"processes that ran by turns, {ROUNDS} pairs each. Recipes run with it.",
        "",
        "| pixels | median ratio | least | most |",
        "| --- | --- | --- | --- |",
    ]
    for height, width in SIZES:
        pairs = [r for r in record["rounds"] if (r["height"], r["width"]) == (height, width)]
        ratios = [pair["kept"] / pair["returned"] for pair in pairs]
        lines.append(
            f"| {height} x {width} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |"
        )
    (HERE / "malloc.md").write_text("\n".join(lines) + "\n")


def _speed_of_process(name: str, height: int, width: int) -> float:
    command = [sys.executable, __file__, "child", name, str(height), str(width)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "report", "child"))
    parser.add_argument("options", nargs="*")
    arguments = parser.parse_args()
    if arguments.what == "child":
        name, height, width = arguments.options
        if name == "kept":
            from lightning_nas.jobs.malloc import keep_freed_memory

            keep_freed_memory()
        sys.stdout.write(str(steps_per_second(int(height), int(width))))
    else:
        {"measure": measure, "report": report}[arguments.what]()


if __name__ == "__main__":
    main()

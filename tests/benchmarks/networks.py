"""Networks as people have them, tried one by one: converted, derived, priced, exported, reloaded and searched.

``python tests/benchmarks/networks.py`` tries what ``recipes/results/networks.json`` has no row of, and writes the page
beside it. ``--only NAMES`` tries these, ``--again`` also what has a row. Each network has a process of its own: where
that dies or takes too long, the row says so.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "docs" / "pages")]

log = logging.getLogger(__name__)
FILE = ROOT / "recipes" / "results" / "networks.json"


def try_here(name):
    """Try a network in this process, and print its row as JSON before each step and at the end."""
    import torch
    from network_trials import Elsewhere, Uncompiled, tried

    def say(row):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()

    torch.set_num_threads(1)
    with Elsewhere() as elsewhere:
        say(tried(name, Uncompiled.load("ethos_u85_1024", fallback="bytes"), elsewhere, say))


def try_apart(name, limit_s):
    """Return the row of a network that is tried in a process of its own."""
    command = [sys.executable, __file__, "--here", name]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit_s, check=False)
        said, why = run.stdout, f"the process ended with status {run.returncode}: {last_line(run.stderr)}"
        is_whole = run.returncode == 0
    except subprocess.TimeoutExpired as error:
        said, why, is_whole = (error.stdout or b"").decode(), f"it took more than {limit_s:.0f} s", False
    return row_of(said, "" if is_whole else why)


def row_of(said, why):
    """Return the last row that a process has printed; its last error is of the step in which it ended, with the reason.

    Args:
        said: What it printed.
        why: Why it ended early; empty where it did not.
    """
    lines = [line for line in said.splitlines(keepends=True) if line.startswith("{") and line.endswith("\n")]
    row = json.loads(lines[-1]) if lines else {"errors": {"start": why}}
    if why:
        row["errors"][list(row["errors"])[-1]] = why
    return row


def last_line(text):
    return (text.strip().splitlines() or ["nothing was said"])[-1][:200]


def record(names, limit_s):
    """Try networks one after another and write the file and the page after each."""
    from networks_page import networks_page, read_rows

    from lightning_nas.io.writing import write_text

    for number, name in enumerate(names, start=1):
        start = time.perf_counter()
        row = try_apart(name, limit_s)
        failed = ", ".join(row["errors"]) or "all well"
        log.info("%d of %d: %s in %.0f s: %s", number, len(names), name, time.perf_counter() - start, failed)
        write_text(FILE, json.dumps({**recorded(), name: row}, indent=1, sort_keys=True) + "\n")
        write_text(FILE.with_suffix(".md"), networks_page(read_rows(FILE)))


def recorded():
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}


def main():
    import zoo

    parser = argparse.ArgumentParser("python tests/benchmarks/networks.py", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[*zoo.ZOO], help="try these; by default all")
    parser.add_argument("--again", action="store_true", help="try what has a row, too")
    parser.add_argument("--limit-s", type=float, default=1800.0, help="most seconds a network may take")
    parser.add_argument("--here", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        try_here(options.here)
        return
    names = [name for name in options.only or zoo.ZOO if zoo.is_available(name)]
    known = {} if options.again else recorded()
    record([name for name in names if name not in known], options.limit_s)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()

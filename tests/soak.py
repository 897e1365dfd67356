"""A recipe of each family, killed at random moments on a disk that fills up, against a run without trouble.

``python tests/soak.py FAMILY [SEED] [KILLS]`` runs the same command again and again in a directory on a small disk of
its own (a tmpfs, for which it needs to be root or to have user namespaces), with the folder of temporary files on
another one. Each time it gets kill -9 at a random moment; twice the disk is filled up before. Then the command runs to
its end, and all that it leaves behind must be, bit by bit, what an untroubled run leaves. It prints its seed, and ends
with 1 where something differs.
"""

import csv
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

SEARCH = [
    "epochs.source=2",
    "epochs.search=2",
    "epochs.finetune=2",
    "data.image_size=32",
    "trainer.limit_train_batches=6",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=2",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "trainer.log_every_n_steps=1",
    "num_calibration_batches=1",
]
SINGLE = [*SEARCH, "search.selection.num_candidates=2", "num_refitted=2"]
FAMILIES = {
    "single-shot": ["--config-name=digits", "search=joint", *SINGLE],
    "decoupled": ["--config-name=digits", "search=decoupled", "shared_dir=shared", "search.method.steps=5", *SINGLE],
    "multishot": ["--config-name=multishot", "search.trials=4", "search.rungs=[1]", "num_trial_images=4", *SEARCH],
    # A closed form, since there are a thousand operators of stock networks to compile.
    "estimator": [
        "--config-name=estimator",
        "device=soaked",
        "backend=analytic",
        "settings={rows: 4, columns: 4, clock_hz: 1e9, dram_bytes_per_s: 8e9, dataflow: tiled}",
        "lanes=8",
        "num_subgraphs=40",
        "num_networks=4",
        "num_folds=2",
        "staircase_width=65",
    ],
}
MIB = 1024**2
# What two runs of one command differ in: time.
TIMES = {"seconds", "finished", "date", "search_seconds"}


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextmanager
def small_disk(megabytes):
    """Give a directory that is a disk of its own."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


def left_behind(folder):
    """Return what a run left behind, by the names of its files, without what tells the time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".json" and not name.startswith((".hydra", "shared")) and ".lock" not in name:
            found[name] = _timeless(json.loads(path.read_text()))
        elif path.suffix == ".csv":
            found[name] = list(csv.reader(path.read_text().splitlines()))
        elif path.suffix in (".safetensors", ".svg"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".part":
            found[name] = "left behind"
    return found


def _timeless(value):
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def soak(family, seed, kills):
    from commands import run

    draws = random.Random(f"{family} {seed}")
    command = [*FAMILIES[family], "hydra.run.dir=run"]
    with small_disk(400) as disk:
        whole = disk / "whole"
        whole.mkdir()
        start = time.monotonic()
        done = run(whole, *command)
        assert done.returncode == 0, done.stderr
        seconds = time.monotonic() - start
        say(f"{family}: a run without trouble takes {seconds:.1f} s")
        expected, num_different, num_runs = left_behind(whole), 0, 0
        fills, number, place = set(draws.sample(range(kills), 2)), 0, disk / "troubled"
        while number <= kills:
            place.mkdir(exist_ok=True)
            if number in fills:
                fills.remove(number)
                _on_a_full_disk(run, disk, place, command, draws)
            after = draws.uniform(0.05, 0.4 * seconds)
            # What was killed so often is left to end, and each run that comes to its end before.
            done = run(place, *command, **({"killed_after": [after]} if number < kills else {}))
            say(f"{family} {number}: exit {done.returncode} within {after:.2f} s")
            assert done.returncode in (0, -9), done.stderr
            if done.returncode == 0:
                num_runs += 1
                num_different += _compared(family, expected, left_behind(place))
                shutil.rmtree(place)
            number += done.returncode == -9 or number == kills
    say(f"{family}: {kills} kills over {num_runs} runs; {num_different} of {len(expected)} files differ")
    return not num_different


def _compared(family, expected, found):
    different = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    for name in different:
        say("\n  ".join([f"{family}: {name} differs:", *_differences(expected.get(name), found.get(name))][:9]))
    return len(different)


def _differences(one, other, place=""):
    """Return where two values differ, and what they are there."""
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(one.get(key), other.get(key), f"{place}.{key}") for key in sorted(one.keys() | other.keys())]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(a, b, f"{place}[{number}]") for number, (a, b) in enumerate(zip(one, other, strict=True))]
    else:
        return [] if one == other else [f"{place}: {str(one)[:150]} / {str(other)[:150]}"]
    return [found for pair in pairs for found in _differences(*pair)]


def _on_a_full_disk(run, disk, place, command, draws):
    room = draws.randrange(0, MIB)
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, free - room)))
    done = run(place, *command)
    last = (done.stderr.strip().splitlines() or [""])[-1]
    say(f"full but for {room} bytes: exit {done.returncode}, {last}")
    filler.unlink()
    assert done.returncode == 0 or (done.returncode == 2 and "No space left on device" in last), done.stderr
    assert not list(place.rglob("*.part"))


def main():
    family, seed, kills = (*sys.argv[1:], *("0", "30")[len(sys.argv) - 2 :])[:3]
    if os.geteuid():
        os.execvp("unshare", ["unshare", "-Urm", sys.executable, *sys.argv])
    say(f"{family}, seed {seed}, {kills} kills")
    # Another file system than that of the runs.
    with small_disk(1) as temporary, tempfile.TemporaryDirectory() as cache:
        os.environ.update(TMPDIR=str(temporary), XDG_CACHE_HOME=cache, OMP_NUM_THREADS="1")
        tempfile.tempdir = None
        # Output of the commands is kept where there is room for it.
        with tempfile.TemporaryDirectory(dir=cache) as outputs:
            os.environ["COMMANDS_OUTPUT"] = outputs
            sys.exit(0 if soak(family, int(seed), int(kills)) else 1)


if __name__ == "__main__":
    main()

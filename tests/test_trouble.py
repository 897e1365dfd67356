"""What befalls runs on shared machines: signals, full disks, kills, and two commands for one directory."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

from commands import run

from lightning_nas.estimator.measurements import read_measurements
from lightning_nas.jobs.recipes import recipes

TINY = [
    "--config-name=digits",
    "epochs.source=1",
    "epochs.search=1",
    "epochs.finetune=1",
    "data.image_size=32",
    "data.scenes_per_digit=1",
    "search.selection.num_candidates=2",
    "search.method.steps=3",
    "num_refitted=2",
    "num_calibration_batches=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "hydra.run.dir=run",
]


def parts(folder):
    return list(folder.rglob("*.part"))


def test_a_signal_in_any_phase_and_between_them_is_said_and_the_command_goes_on(tmp_path):
    assert "digits" in recipes()
    troubles = [
        ("signal_at_line", "10 classes", signal.SIGTERM),  # reading data
        ("signal_at_checkpoint", "source.ckpt", signal.SIGTERM),
        ("signal_at_line", "2/4 Searching", signal.SIGUSR1),  # sorting channels
        ("signal_in_step", 1, 1, signal.SIGUSR1),  # of the baseline, the only training of two epochs
        ("signal_at_line", "4/4 Fine-tuning", signal.SIGINT),  # refitting
        ("signal_at_checkpoint", "finetune.ckpt", signal.SIGTERM),
    ]
    for name, *options in troubles:
        stopped = run(tmp_path, *TINY, **{name: options})
        signum = options[-1]
        assert stopped.returncode == 128 + signum, (name, options, stopped.stdout, stopped.stderr)
        said = rf"Stopped by {signum.name}\. What was done is kept.* hydra\.run\.dir=\S*run"
        assert re.search(said, stopped.stdout), (name, options)
        assert "Traceback" not in stopped.stderr, (name, options, stopped.stderr)
        assert not parts(tmp_path)
        assert not (tmp_path / "run" / "result.json").exists()
    done = run(tmp_path, *TINY)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()


def test_slurm_gets_a_job_back_that_it_asked_to_stop(tmp_path, monkeypatch):
    from lightning_nas.training.stop import Stopped, requeue

    command = tmp_path / "scontrol"
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    requeue(Stopped(signal.SIGUSR1))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    requeue(Stopped(signal.SIGTERM))
    requeue(Stopped(signal.SIGUSR1))
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    requeue(Stopped(signal.SIGUSR1))
    assert (tmp_path / "asked").read_text().splitlines() == ["requeue 17", "requeue 16_3"]


def test_a_full_disk_at_any_file_is_a_sentence_and_the_command_goes_on(tmp_path):
    """The first files of a run are written, then no more; the next command finds room for some of those that follow."""
    named = set()
    for number in (0, 3, 5, 9, 99):
        done = run(tmp_path, *TINY, full_disk_at=[number])
        assert not parts(tmp_path)
        if done.returncode == 0:
            break
        assert done.returncode == 2, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        file = re.fullmatch(
            r"lightning-nas: '(\S+)' cannot be written: No space left on device\. It takes [\d.]+ \w+, [\d.]+ \w+"
            r" are free\. HINT: make room, and repeat the command\.",
            last,
        )
        assert file, done.stderr
        named.add(file[1])
        assert "Traceback" not in done.stderr
    assert done.returncode == 0
    assert json.loads((tmp_path / "run" / "result.json").read_text())
    assert len(named) == 4


def test_two_commands_for_one_directory(tmp_path):
    first = {}
    options = ["epochs.source=400", "trainer.limit_val_batches=0"]
    thread = threading.Thread(target=lambda: first.update(done=run(tmp_path, *TINY, *options, killed_after=[60])))
    thread.start()
    holder = tmp_path / "run" / "checkpoints" / ".lock.json"
    while not holder.exists():
        time.sleep(0.1)
    command = [sys.executable, "-m", "lightning_nas", *TINY, *options]
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert second.returncode == 2, second.stderr
    pid = json.loads(holder.read_text())["process"]
    assert f"run' is in use by process {pid} on " in second.stderr
    assert "HINT: wait until that has ended, or stop it." in second.stderr
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert first["done"].returncode == -signal.SIGKILL


def test_a_torn_checkpoint_of_any_phase_is_stepped_over(tmp_path):
    done = run(tmp_path, *TINY)
    assert done.returncode == 0, done.stderr
    expected = (tmp_path / "run" / "subnet.safetensors").read_bytes()
    folder = tmp_path / "run" / "checkpoints"
    for path in folder.glob("*.ckpt"):
        # Of half of the trainings there is no state before.
        if ".previous" not in path.name or path.name.startswith(("source", "baseline")):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    again = run(tmp_path, *TINY)
    assert again.returncode == 0, again.stderr
    for name in ("source", "search", "baseline", "finetune"):
        assert re.search(rf"/{name}\.ckpt' \(.*\)( and .*)? cannot be read", again.stdout), name
    assert (tmp_path / "run" / "subnet.safetensors").read_bytes() == expected


def test_two_processes_measure_into_one_table(tmp_path):
    """The second is told of the first; what was measured is there once, and can be read."""
    table = tmp_path / "my_cpu.csv"
    command = [sys.executable, "-m", "lightning_nas", "estimator", "measure", str(table), "--backend", "torch"]
    command += ["--num-subgraphs", "2000", "--set", "window_ms=0.1", "num_windows=1", "max_spread=9"]
    first = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (table.exists() and table.read_text().count("\n") > 3):
        time.sleep(0.1)
        assert first.poll() is None
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert second.returncode == 2
    assert f"The table '{table}' is in use by process {first.pid} on " in second.stderr
    first.send_signal(signal.SIGTERM)
    said = first.communicate(timeout=120)[1]
    assert first.returncode == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM. What was measured is kept; to go on, repeat the command." in said
    assert len(read_measurements(table).subgraphs) >= 3

"""Runs that share source, baseline and supernet, and what a run is compared with."""

import json
import subprocess
import sys

import pytest

TINY = [
    "epochs.source=1",
    "epochs.search=1",
    "epochs.finetune=1",
    "data.image_size=32",
    "data.scenes_per_digit=1",
    "search.steps=3",
    "search.candidates=2",
    "num_refitted=2",
    "num_calibration_batches=2",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
]


def run(folder, *arguments):
    command = [sys.executable, "-m", "lightning_nas", "--config-name", "digits", *arguments, "search=decoupled", *TINY]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


def test_the_second_run_trains_neither_source_nor_supernet_nor_baseline(tmp_path):
    first = run(tmp_path, "latency=0.8x", "shared_dir=shared", "comparisons=[uniform,random]", "hydra.run.dir=a")
    assert first.returncode == 0, first.stderr
    (shared,) = (tmp_path / "shared").iterdir()
    checkpoints = {path.name: path.read_bytes() for path in (shared / "checkpoints").glob("*.ckpt")}
    assert {"source.ckpt", "search.ckpt", "baseline.ckpt"} <= set(checkpoints)
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert list(result["comparisons"]) == ["uniform", "random 1", "random 2", "random 3"]
    limit = result["budget"]["latency_ms"]
    assert all(cost["latency_ms"] <= limit for cost in result["comparisons"].values())

    kinds = ["latency=0.8x", "search.choices=kinds", "comparisons=[random]"]
    second = run(tmp_path, *kinds, "shared_dir=shared", "hydra.run.dir=b")
    assert second.returncode == 0, second.stderr
    assert list((tmp_path / "shared").iterdir()) == [shared]
    assert not list((tmp_path / "b" / "checkpoints").glob("s*.ckpt"))
    other = json.loads((tmp_path / "b" / "result.json").read_text())
    assert other["choices"] == "kinds"
    assert other["baseline"] == result["baseline"]
    widths = [stage["width"] for stage in json.loads((tmp_path / "b" / "architecture.json").read_text())["stages"]]
    assert widths == [16, 24, 40, 64]
    assert other["subnet"]["latency_ms"] <= 0.8 * other["baseline"]["latency_ms"]
    # Random subnets of kinds alone are others than those of the first run, and are not taken for them.
    assert len(list((shared / "checkpoints").glob("random_*.ckpt"))) == 6
    assert list(tmp_path.glob("b/checkpoints/*.json")) == [tmp_path / "b" / "checkpoints" / "fingerprint.json"]

    third = run(tmp_path, "latency=0.8x", "shared_dir=shared", "finetune_task.lr=1e-4", "hydra.run.dir=c")
    assert third.returncode == 0, third.stderr
    assert len(list((tmp_path / "shared").iterdir())) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search=joint", "shared_dir=shared"], "`shared_dir` needs search=decoupled"),
        (["comparisons=[best]"], "`comparisons` can hold uniform, random, rule; got 'best'"),
        (["search.choices=depth"], "`choices` must be one of both, widths, kinds; got 'depth'"),
    ],
)
def test_what_cannot_be_is_said_before_any_training(tmp_path, overrides, message):
    arguments = [a for a in TINY if not a.startswith("search.")]
    command = [sys.executable, "-m", "lightning_nas", "--config-name", "digits", "latency=0.8x", *arguments, *overrides]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_sweep_shares_by_itself_and_does_not_repeat_what_is_finished(tmp_path):
    arguments = ["-m", "search.choices=widths,both", "latency=0.85x", "hydra.sweep.dir=out"]
    assert run(tmp_path, *arguments).returncode == 0
    results = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/result.json")}
    assert set(results) == {"0", "1"}
    assert len(list((tmp_path / "out" / "shared").iterdir())) == 1
    again = run(tmp_path, *arguments)
    assert again.returncode == 0
    assert again.stdout.count("it is not run again") == 2
    found = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/result.json")}
    assert found == results

"""Published latencies of real chips through a table of one's own chip, against the goals for them."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tests" / "benchmarks" / "real_silicon.py"
# Beside the checkout, or beside the main one of a worktree.
FOLDERS = [up / "shared" / "data" / "latency" for up in ROOT.parents]
DATA = next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[0])

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the published latencies are not beside this checkout")


@pytest.fixture(scope="module")
def silicon():
    spec = importlib.util.spec_from_file_location("real_silicon", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@needs_data
def test_blocks_of_a_phone(silicon, tmp_path):
    judged = silicon.judge_note10(DATA, tmp_path, seeds=(3,))
    assert judged["held_out"] >= 240
    assert judged["mape"] <= 0.006


@needs_data
def test_convolutions_of_a_gpu(silicon, tmp_path):
    # The goal is for 10 000 rows, which take minutes and are recorded; with 2000 rows trees alone are off by 12 %.
    judged = silicon.judge_v100(DATA, tmp_path, num_train=2000, num_test=4000)
    assert judged["mape"] <= 0.105
    assert judged["within_10"] >= 0.65


@needs_data
@pytest.mark.parametrize(
    ("column", "spearman", "within_10"), [("titan_rtx_1", 0.995, 0.999), ("gold_6226", 0.977, 0.94)]
)
def test_networks_of_a_gpu_and_a_server_from_whole_networks(silicon, tmp_path, column, spearman, within_10):
    networks, latencies = silicon.fbnet(DATA)
    judged = silicon.judge_networks(networks, latencies[column], 400, 3, tmp_path)
    assert judged["held_out"] == 4600
    assert judged["spearman"] >= spearman
    assert judged["within_10"] >= within_10


def test_recorded_figures_meet_the_goals(silicon):
    record = json.loads(silicon.RECORD.read_text())
    assert (record["note10"]["train"], record["v100"]["train"], record["fbnet"]["train"]) == (600, 10_000, 400)
    assert record["note10"]["mape"] <= 0.006
    assert record["v100"]["mape"] <= 0.05
    assert record["v100"]["within_10"] >= 0.85
    assert len(record["fbnet"]["columns"]) == 19
    assert record["fbnet"]["spearman"] >= 0.985
    assert record["fbnet"]["within_10"] >= 0.995

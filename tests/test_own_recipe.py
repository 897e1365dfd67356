"""A user's own recipe: a YAML file beside a Python file, as docs/your-task.md shows them."""

import json
import re
from pathlib import Path

import pytest
from commands import run

PAGE = (Path(__file__).parent.parent / "docs" / "your-task.md").read_text(encoding="utf-8")
TINY = [
    "epochs.source=1",
    "epochs.search=1",
    "epochs.finetune=1",
    "space.expansions=[2,6]",
    "space.ratios=[0.5,1.0]",
    "search.selection.num_candidates=2",
    "num_refitted=2",
    "num_calibration_batches=2",
    "num_trial_images=4",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
]


def first(language):
    """Return the first block of a language on the page."""
    return re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)[1]


def shown():
    """Return the arguments of the page's command."""
    words = first("console").split()
    assert words[0] == "lightning-nas"
    return words[1:]


@pytest.fixture
def folder(tmp_path):
    """Return a folder with the two files of the page, and nothing else."""
    (tmp_path / "my_task.py").write_text(first("python"))
    (tmp_path / "mine.yaml").write_text(first("yaml"))
    return tmp_path


def test_the_files_of_the_page_run_by_its_command(folder):
    done = run(folder, *shown(), *TINY)
    assert done.returncode == 0, done.stderr
    result = json.loads(next(folder.glob("outputs/mine/*/result.json")).read_text())
    assert (result["recipe"], result["task"]) == ("mine", "mytask")
    assert result["subnet"]["latency_ms"] <= result["budget"]["latency_ms"]
    assert result["subnet"]["steps"] == 3


def test_a_search_path_of_the_user_adds_to_that_of_the_package(folder):
    groups = folder / "groups" / "trainer"
    groups.mkdir(parents=True)
    (groups / "brief.yaml").write_text("defaults: [default]\nlimit_train_batches: 3\n")
    path = f"hydra: {{searchpath: [file://{groups.parent}, pkg://lightning_nas.conf]}}\n"
    (folder / "mine.yaml").write_text(f"{first('yaml')}{path}")
    done = run(folder, *shown(), "trainer=brief", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "limit_train_batches: 3" in done.stdout
    assert "_target_: my_task.MyTask" in done.stdout


def test_a_group_of_the_user_is_found_before_that_of_the_package(folder):
    (folder / "trainer").mkdir()
    (folder / "trainer" / "default.yaml").write_text("max_steps: 5\n")
    done = run(folder, *shown(), "--cfg", "job", "--package", "trainer")
    assert done.returncode == 0, done.stderr
    assert "max_steps: 5" in done.stdout
    assert "accelerator" not in done.stdout


def test_data_alone_can_be_replaced(folder):
    (folder / "mine.yaml").write_text(
        "defaults: [detection, override data: null, _self_]\ndata: {_target_: my_task.MyData}\n"
    )
    done = run(folder, *shown(), "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "data:\n  _target_: my_task.MyData\n" in done.stdout
    assert "_target_: lightning_nas.tasks.detection.Detection" in done.stdout


def test_a_file_whose_folder_is_not_named_is_told_of(folder):
    done = run(folder, "--config-name", "mine")
    assert done.returncode == 2
    assert "There is no recipe 'mine'" in done.stderr
    assert "add `--config-dir .`" in done.stderr

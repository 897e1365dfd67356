"""Runs that share source, baseline and supernet, and what a run is compared with."""

import json

import commands
import pytest
from PIL import Image

from lightning_nas.data.batch_augment import BatchAugmentation
from lightning_nas.data.digit_detection import DigitDetectionDataModule
from lightning_nas.data.image_folder import ImageFolderDataModule
from lightning_nas.training.fingerprint import plain

TINY = [
    "epochs.source=1",
    "epochs.search=1",
    "epochs.finetune=1",
    "data.image_size=32",
    "data.scenes_per_digit=1",
    "search.method.steps=3",
    "search.selection.num_candidates=2",
    "num_refitted=1",
    "num_calibration_batches=1",
    "space.expansions=[2,6]",
    "space.ratios=[0.5,1.0]",
    "trainer.limit_train_batches=3",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
]

NOT_OF_MULTISHOT = {
    "epochs.source",
    "epochs.search",
    "epochs.finetune",
    "data.image_size",
    "data.scenes_per_digit",
    "search.method.steps",
    "search.selection.num_candidates",
    "space.expansions",
    "space.ratios",
    "num_refitted",
    "num_calibration_batches",
}


def run(folder, *arguments):
    tiny = [setting for setting in TINY if setting.split("=")[0] not in "".join(arguments)]
    return commands.run(folder, "--config-name", "digits", *arguments, "search=decoupled", *tiny)


def folders(shared):
    """Return the folders of shared trainings, that of the source last."""
    found = sorted(shared.iterdir(), key=lambda folder: (folder / "checkpoints" / "source.ckpt").exists())
    assert sum((folder / "checkpoints" / "source.ckpt").exists() for folder in found) == 1
    return found


def test_settings_tell_apart_what_is_trained_on(tmp_path):
    def folder(name, **options):
        for split in ("train", "val"):
            for label in ("cat", "dog"):
                place = tmp_path / name / split / label
                place.mkdir(parents=True, exist_ok=True)
                if not (place / "0.png").exists():
                    Image.new("RGB", (8, 8)).save(place / "0.png")
        return ImageFolderDataModule(tmp_path / name, image_size=32, **options)

    here, there = folder("a/pets"), folder("b/pets")
    assert plain(here) == plain(there)
    assert plain(here, whole_paths=True) != plain(there, whole_paths=True)
    assert plain(here) != plain(folder("a/pets", augment=BatchAugmentation(flip=False)))
    assert plain(here, whole_paths=True) == plain(folder("a/pets"), whole_paths=True)
    scenes = [plain(DigitDetectionDataModule(scenes_per_digit=count)) for count in (1, 1, 2)]
    assert scenes[0] == scenes[1] != scenes[2]
    json.dumps(scenes)


def test_the_second_run_trains_neither_source_nor_supernet_nor_baseline(tmp_path):
    compared = ["latency=0.8x", "comparisons=[uniform,random]", "taught_by=source"]
    first = run(tmp_path, *compared, "shared_dir=shared", "hydra.run.dir=a")
    assert first.returncode == 0, first.stderr
    shared, source = folders(tmp_path / "shared")
    assert {"search", "baseline"} <= {path.stem for path in shared.glob("checkpoints/*.ckpt")}
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert list(result["comparisons"]) == ["uniform", "random 1", "random 2", "random 3"]
    limit = result["budget"]["latency_ms"]
    assert all(cost["latency_ms"] <= limit for cost in result["comparisons"].values())

    kinds = ["latency=0.8x", "search.choices=kinds", "comparisons=[random]", "taught_by=baseline"]
    second = run(tmp_path, *kinds, "shared_dir=shared", "hydra.run.dir=b")
    assert second.returncode == 0, second.stderr
    assert folders(tmp_path / "shared") == [shared, source]
    assert not list((tmp_path / "b" / "checkpoints").glob("s*.ckpt"))
    other = json.loads((tmp_path / "b" / "result.json").read_text())
    assert other["choices"] == "kinds"
    taught_by = [json.loads((tmp_path / name / "run.json").read_text())["taught_by"] for name in "ab"]
    assert taught_by == ["source", "baseline"]
    assert other["baseline"] == result["baseline"]
    widths = json.loads((tmp_path / "b" / "architecture.json").read_text())["widths"]
    stages = [widths[name] for name in ("features.0.0", "features.2.conv.2", "features.4.conv.2", "features.7.conv.2")]
    assert stages == [16, 24, 40, 64]
    assert other["subnet"]["latency_ms"] <= 0.8 * other["baseline"]["latency_ms"]
    # Random subnets of kinds alone are others than those of the first run, and are not taken for them.
    found = [path for path in (shared / "checkpoints").glob("random_*.ckpt") if ".previous" not in path.name]
    assert len(found) == 6
    assert list(tmp_path.glob("b/checkpoints/*.json")) == [tmp_path / "b" / "checkpoints" / "fingerprint.json"]

    third = run(tmp_path, "latency=0.8x", "shared_dir=shared", "finetune_task.lr=1e-4", "hydra.run.dir=c")
    assert third.returncode == 0, third.stderr
    # Another supernet, of the same source.
    assert len(list((tmp_path / "shared").iterdir())) == 3
    assert folders(tmp_path / "shared")[-1] == source


def test_a_search_by_a_library_shares_the_source_and_trains_no_supernet(tmp_path):
    tiny = [setting for setting in TINY if not setting.startswith("search.method")]
    method = ["search=library", "search.method.num_images=24", "search.method.rounds=1", "comparisons=[taught]"]
    for name, latency in (("a", "0.8x"), ("b", "0.7x")):
        folders_of = ["shared_dir=shared", f"hydra.run.dir={name}", f"latency={latency}"]
        done = commands.run(tmp_path, "--config-name", "digits", *tiny, *method, *folders_of)
        assert done.returncode == 0, done.stderr
        result, origin = (json.loads((tmp_path / name / f"{file}.json").read_text()) for file in ("result", "run"))
        assert result["search"]["steps"] == 0
        assert origin["epochs"] == {"source": 1, "search": 0, "finetune": 1}
        assert result["subnet"]["latency_ms"] <= result["budget"]["latency_ms"]
        # The baseline is trained on for as long as the subnet is, and so is the source that is taught.
        assert result["baseline"]["steps"] == result["subnet"]["steps"] == 3
        assert result["comparisons"]["taught"]["latency_ms"] == result["baseline"]["latency_ms"]
        assert "taught" in done.stdout
        # After three steps it is.
        assert "The network is hardly trained" in done.stdout
        assert {text.split(":")[0] for text in result["search"]["warnings"]} == {"The network is hardly trained"}
    folders(tmp_path / "shared")  # of one source
    assert not list((tmp_path / "b" / "checkpoints").glob("source*.ckpt"))


def test_the_source_teaches_where_nothing_tells_which_is_better(tmp_path):
    done = run(tmp_path, "latency=0.8x", "trainer.limit_val_batches=0", "hydra.run.dir=a")
    assert done.returncode == 0, done.stderr
    assert "The Trainer reads no validation images" in done.stdout
    assert json.loads((tmp_path / "a" / "run.json").read_text())["taught_by"] == "source"


def test_recipes_of_both_kinds_find_the_same_source(tmp_path):
    pytest.importorskip("optuna")
    tiny = [argument for argument in TINY if argument.split("=")[0] not in NOT_OF_MULTISHOT]
    same = ["latency=0.9x", "shared_dir=shared", "data.image_size=32", "epochs.source=1", "epochs.finetune=1"]
    same += ["task.lr=1e-3", "task.weight_decay=0.02", "num_calibration_batches=1", "space.expansions=[2,6]", *tiny]
    few = ["num_refitted=2"]
    segmenter = ["network=segmenter", "task=segmentation", "data=masks", "variants=[{output_stride: 8}]"]
    settings = {
        "segmentation": ["epochs.search=1", "search.method.steps=3", "search.selection.num_candidates=2", *few],
        "multishot": [*segmenter, "image_sizes=[]", "epochs.search=1", "search.rungs=[]", "search.trials=1"],
        "deeper": [*segmenter, "image_sizes=[]", "search.rungs=[]", "search.trials=1", "network.head=deeplabv3_lite"],
    }
    found = []
    for name, own in settings.items():
        recipe = "segmentation" if name == "segmentation" else "multishot"
        done = commands.run(tmp_path, "--config-name", recipe, *same, *own, f"hydra.run.dir={name}")
        assert done.returncode == 0, done.stderr
        found.append(len(list(tmp_path.rglob("source.ckpt"))))
    # Another head is another source.
    assert found == [1, 1, 2]


def test_a_sweep_shares_by_itself_and_does_not_repeat_what_is_finished(tmp_path):
    arguments = ["-m", "search.choices=widths,both", "latency=0.85x", "hydra.sweep.dir=out"]
    assert run(tmp_path, *arguments).returncode == 0
    results = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/result.json")}
    assert set(results) == {"0", "1"}
    assert len(folders(tmp_path / "out" / "shared")) == 2
    again = run(tmp_path, *arguments)
    assert again.returncode == 0
    assert again.stdout.count("it is not run again") == 2
    found = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/result.json")}
    assert found == results

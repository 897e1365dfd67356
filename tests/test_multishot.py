"""The job from start to end: tiny trainings on tiny images."""

import json
import re
import subprocess
import sys
from functools import partial

import lightning.pytorch as pl
import numpy as np
import optuna
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from plans import plans

from lightning_nas import Architecture, Estimator, load_subnet
from lightning_nas.data.digits import DigitsDataModule
from lightning_nas.jobs import trainings as _trainings
from lightning_nas.jobs.comparisons import inherit
from lightning_nas.jobs.multishot import evolve_and_finetune
from lightning_nas.jobs.plan import Epochs, MultishotPlan
from lightning_nas.multishot.evolution import Evolution
from lightning_nas.multishot.propose import propose
from lightning_nas.multishot.space import JointSpace
from lightning_nas.supernet import stock_network
from lightning_nas.tasks.classification import Classification

SETTING = [[1, 16, 1, 1], [4, 32, 1, 2], [4, 48, 1, 2]]
TRAINER = {
    "accelerator": "cpu",
    "devices": 1,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "limit_train_batches": 2,
    "limit_val_batches": 2,
    "limit_test_batches": 2,
    "log_every_n_steps": 1,
}


@pytest.fixture(autouse=True)
def _quiet(recwarn):
    """CSVLogger says that a log that is continued is replaced."""


def settings(folder, **options):
    given = {
        "recipe": "multishot",
        "output_dir": folder,
        "seed": 0,
        "latency": "0.9x",
        "parameter_bytes": None,
        "peak_activation_bytes": None,
        "network": partial(stock_network, name="mobilenet_v2", width_mult=0.5, inverted_residual_setting=SETTING),
        "space": {"expansions": [2, 4], "ratios": [0.5, 1.0]},
        "data": partial(DigitsDataModule, image_size=32, batch_size=16, scenes_per_digit=1),
        "device": "analytic_array",
        "estimator": partial(Estimator.load, lanes=8),
        "search": Evolution(trials=3, population=2),
        "task": partial(Classification, optimizer="adamw", lr=1e-3),
        "trainer": partial(pl.Trainer, **TRAINER),
        "logger": CSVLogger,
        "epochs": Epochs(source=1, search=1, finetune=1),
        "num_calibration_batches": 2,
    }
    return {**given, **options}


def run(folder, **options):
    found = evolve_and_finetune(**plans(MultishotPlan, settings(folder, **options)))
    if isinstance(found, dict):
        return {label: record.to_dict() for label, record in found.items()}
    return found.to_dict()


def study_of(folder):
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))


def test_several_budgets_and_sizes_in_one_study(tmp_path):
    results = run(
        tmp_path,
        budgets=["0.8x", "0.6x"],
        image_sizes=[40, 32],
        variants=[{}, {"dropout": 0.1}],
        search=Evolution(trials=3, population=2, rungs=[1]),
        epochs=Epochs(source=1, search=2, finetune=1),
        finalists=2,
    )
    assert list(results) == ["0.8x", "0.6x"]
    estimator = Estimator.load("analytic_array", lanes=8)
    for label, result in results.items():
        folder = tmp_path / label
        assert json.loads((folder / "result.json").read_text()) == result
        assert result["baseline"]["latency_ms"] * float(label[:-1]) == pytest.approx(result["budget"]["latency_ms"])
        assert result["subnet"]["latency_ms"] <= result["budget"]["latency_ms"]
        assert result["subnet"]["metric"]["split"] == "test"
        assert list(result["search"]) == ["seconds", "steps", "images", "trials", "rejected", "pruned", "finetuned"]
        assert result["search"]["trials"] == 3
        # Two steps an epoch, of 16 images; a trial that was stopped took one epoch of two.
        assert result["search"]["steps"] == 3 * 4 - 2 * result["search"]["pruned"]
        assert result["search"]["images"] == 16 * result["search"]["steps"]
        architecture = Architecture.from_json((folder / "architecture.json").read_text())
        assert architecture.input_size[1] in (40, 32)
        described = json.loads((folder / "run.json").read_text())
        assert described["preprocessing"]["image_size"] == list(architecture.input_size[1:])
        assert described["classes"] == [str(digit) for digit in range(10)]
        assert estimator.latency_ms(architecture) == pytest.approx(result["subnet"]["latency_ms"])
        assert json.loads((folder / "architecture.json").read_text())["source"]["num_classes"] == 10
        assert sum(p.numel() for p in load_subnet(folder).parameters()) > 0
        assert "<svg" in (folder / "report.html").read_text()
    study = study_of(tmp_path)
    kept = {path.stem.removesuffix(".previous") for path in (tmp_path / "checkpoints").glob("trial-*.ckpt")}
    assert kept == {f"trial-{trial.number}" for trial in study.trials if trial.state.name == "COMPLETE"}
    finetuned = {path.name.split(".")[0] for path in (tmp_path / "checkpoints").glob("finetune-*.ckpt")}
    assert result["search"]["finetuned"] == len(finetuned)


def test_from_scratch_by_nsga2_with_a_study_elsewhere(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    result = run(
        tmp_path / "run",
        storage=storage,
        search=Evolution(trials=2, sampler="nsga2", population=1),
        epochs=Epochs(source=0, search=1, finetune=1),
    )
    assert result["subnet"]["metric"]["name"] == "accuracy"
    assert len(optuna.load_study(study_name=None, storage=storage).best_trials) >= 1


def test_the_source_can_teach(tmp_path):
    result = run(
        tmp_path,
        search=Evolution(trials=2, population=2),
        teaching={"distillation_weight": 0.5, "feature_weight": 1.0},
        variants=[{}, {"dropout": 0.1}],
        num_trial_images=12,
    )
    assert result["subnet"]["latency_ms"] <= result["budget"]["latency_ms"]


@pytest.mark.parametrize("epochs", [Epochs(source=1, search=1, finetune=1), Epochs(source=0, search=1, finetune=1)])
def test_the_baseline_can_teach(tmp_path, monkeypatch, epochs):
    given = []

    def watched(network, *others):
        given.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return inherit(network, *others)

    monkeypatch.setattr(_trainings, "inherit", watched)
    run(
        tmp_path,
        search=Evolution(trials=1),
        teaching={"distillation_weight": 0.5, "feature_weight": 1.0} if epochs.source else {},
        taught_by="baseline",
        epochs=epochs,
    )
    assert json.loads((tmp_path / "run.json").read_text())["taught_by"] == "baseline"
    states = {
        name: torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("source", "baseline")[not epochs.source :]
    }
    # The trial's network has the source's weights, if any, and the fine-tuned one the baseline's.
    for network, state in zip(given, states.values(), strict=True):
        torch.testing.assert_close(network, {name: state[f"network.{name}"] for name in network})


def test_the_better_one_of_both_teaches_each_variant(tmp_path, caplog):
    caplog.set_level("INFO", "lightning_nas")
    result = run(
        tmp_path,
        search=Evolution(trials=2),
        teaching={"feature_weight": 1.0},
        variants=[{"dropout": 0.1}, {}],
        taught_by="best",
    )
    assert result["subnet"]["latency_ms"] <= result["budget"]["latency_ms"]
    (line,) = (text for text in caplog.messages if "teaches the subnet" in text)
    name, before, after = re.match(
        r"The (\w+) teaches .* images the source has .* (\S+), the baseline (\S+)", line
    ).groups()
    assert name == json.loads((tmp_path / "run.json").read_text())["taught_by"]
    assert name == ("baseline" if float(after) > float(before) else "source")


def test_options_are_tried_on_images_once_before_the_first_trial(tmp_path, monkeypatch):
    grounds = []

    def watched(ground, errors):
        grounds.append(known(ground, errors))
        return grounds[-1]

    known = JointSpace.with_errors
    monkeypatch.setattr(JointSpace, "with_errors", watched)
    for _ in range(2):  # a finished study proposes nothing, so that nothing has to be tried again
        run(tmp_path, search=Evolution(trials=1), num_trial_images=12)
    (ground,) = grounds
    first = propose(ground, ground.targets[0], [], (), 0, Evolution(1), np.random.default_rng(0))
    assert study_of(tmp_path).trials[0].user_attrs["genes"] == list(first.genes)


LONG = {"search": Evolution(trials=2, population=1), "epochs": Epochs(source=1, search=2, finetune=1)}
# Importing takes longer than the trainings: it is done once, and each process is a fork of one that trained nothing.
PROCESSES = """
import os, pathlib, signal, sys
sys.path.insert(0, os.path.dirname({file!r}))
import lightning.pytorch as pl
from test_multishot import LONG, TRAINER, run

class At(pl.Callback):
    def __init__(self, epoch, act):
        self.epoch, self.act = epoch, act

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        # The second trial, from its checkpoint on.
        if self.act and trainer.logger.version == "trial-1" and trainer.current_epoch == self.epoch:
            act, self.act = self.act, None
            act()

def start(folder, act=None):
    def trainer(callbacks, **options):
        return pl.Trainer(callbacks=[*callbacks, At(1, act)], **TRAINER, **options)

    child = os.fork()
    if not child:
        try:
            run(pathlib.Path(folder), **LONG, trainer=trainer)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return child

def end(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

killed, straight = start("killed", lambda: os.kill(os.getpid(), signal.SIGKILL)), start("straight")
assert end(killed) == -signal.SIGKILL
assert os.path.exists("killed/checkpoints/trial-1.ckpt")
assert not os.path.exists("killed/result.json")
has_begun, begins = os.pipe()
first = start("killed", lambda: os.write(begins, b"!"))
os.close(begins)
assert os.read(has_begun, 1)
assert [end(child) for child in (straight, first, start("killed"))] == [0, 0, 0]
"""


def test_another_search_finds_the_source(tmp_path):
    shared = {"shared_dir": tmp_path / "shared", "search": Evolution(trials=1, population=1)}
    first = run(tmp_path / "a", **shared)
    (source,) = (tmp_path / "shared").rglob("source.ckpt")
    trained = source.read_bytes()
    second = run(tmp_path / "b", **shared, space={"expansions": [2, 4], "ratios": [1.0]}, latency="0.95x")
    assert [path.read_bytes() for path in tmp_path.rglob("source.ckpt")] == [trained]
    assert second["baseline"]["metric"] == first["baseline"]["metric"]
    run(tmp_path / "c", **shared, seed=1)
    assert len(list(tmp_path.rglob("source.ckpt"))) == 2


def test_killed_and_started_again_in_two_processes(tmp_path):
    code = PROCESSES.format(file=__file__)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "killed"
    results = {name: json.loads((tmp_path / name / "result.json").read_text()) for name in ("killed", "straight")}
    # One trial was abandoned and goes on as another; its steps up to the checkpoint are not taken again.
    states = [trial.state.name for trial in study_of(folder).trials]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "FAIL"]
    assert results["killed"]["search"]["steps"] == results["straight"]["search"]["steps"] == 2 * 2 * 2
    found = [
        {tuple(trial.user_attrs["genes"]): trial.value for trial in study_of(tmp_path / name).trials if trial.values}
        for name in results
    ]
    assert found[0] == found[1]
    assert results["killed"]["subnet"] == results["straight"]["subnet"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latency": None}, "at least one of latency"),
        ({"latency": "0.01x"}, "below what the space can reach"),
        ({"latency": "0.01x", "image_sizes": [40, 32]}, "out of reach everywhere(.|\n)*input size 40(.|\n)*size 32"),
        ({"budgets": ["0.9x", "0.9x"]}, "`budgets` must differ"),
        ({"budgets": ["0.9x", "0.95x"], "search": Evolution(trials=1)}, "at least the number of budgets, 2; got 1"),
        ({"search": Evolution(trials=2, rungs=[1])}, r"`rungs` must be before .* `epochs.search` = 1; got \[1\]"),
        ({"image_sizes": [32, 32]}, "must differ"),
        ({"variants": [{"colour": 1}]}, "does not take the variant {'colour': 1}"),
        ({"teaching": {"feature_weight": 1.0}, "epochs": Epochs(0, 1, 1)}, "`teaching` needs a trained source"),
        ({"finalists": 0}, "`finalists` must be at least 1; got 0"),
        ({"taught_by": "me"}, "`taught_by` must be one of source, baseline, best; got 'me'"),
        ({"storage": "/dev/null/study"}, "cannot be read and written"),
    ],
)
def test_bad_input_before_any_training(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path / "run", **options)
    assert not list((tmp_path / "run").rglob("*.ckpt"))


def test_a_run_of_another_search_is_not_continued(tmp_path):
    run(tmp_path, search=Evolution(trials=1))
    with pytest.raises(ValueError, match=r"is of another search: `budgets.*` was .*"):
        run(tmp_path, latency="0.95x")
    with pytest.raises(ValueError, match="holds a run of other settings: `finetune` was 1, here it is 2"):
        run(tmp_path, search=Evolution(trials=1), epochs=Epochs(1, 1, 2))

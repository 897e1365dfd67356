"""A run's trainings: resumed with averaged weights, and what they say of the data that they were judged on."""

import math
from contextlib import nullcontext
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from lightning_nas.tasks.metric import TaskMetric
from lightning_nas.tasks.segmentation import Segmentation
from lightning_nas.tasks.segmenter import segmenter
from lightning_nas.training import csv_logger
from lightning_nas.training.fingerprint import plain
from lightning_nas.training.phases import Phases, _num_images, source_phases


class Endless(IterableDataset):
    def __iter__(self):
        return iter(torch.randn(6, 32))


@pytest.mark.parametrize(
    ("dataset", "limit", "expected"),
    [(torch.randn(10, 32), 1.0, 10), (torch.randn(10, 32), 2, 8), (Endless(), 2, None)],
)
def test_the_images_of_the_test_split_are_counted_where_the_loader_tells(tmp_path, dataset, limit, expected):
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", logger=False, limit_test_batches=limit, enable_progress_bar=False
    )
    trainer.test(BoringModel(), DataLoader(dataset, batch_size=4), verbose=False)
    assert _num_images(trainer) == expected


class Judged(BoringModel):
    """It has norms, whose statistics are averaged too, and stops in an epoch where that is asked for."""

    metric = TaskMetric("loss", "y")

    def __init__(self, stop_in=None):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(32, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        self.stop_in = stop_in

    def on_train_batch_start(self, batch, batch_idx):
        if self.current_epoch == self.stop_in and batch_idx == 1:
            raise RuntimeError("stop")

    def test_step(self, batch, batch_idx):
        self.log("test_y", super().test_step(batch, batch_idx)["y"])


class Rows(pl.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.rows = torch.randn(12, 32)

    def train_dataloader(self):
        return DataLoader(self.rows, batch_size=4)

    val_dataloader = test_dataloader = train_dataloader


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:Experiment logs directory")
def test_averaged_weights_are_those_of_an_uninterrupted_training(tmp_path):
    trainer = partial(
        pl.Trainer, accelerator="cpu", limit_train_batches=3, enable_progress_bar=False, enable_model_summary=False
    )

    def train(name, averaging, stop_in=None):
        torch.manual_seed(0)
        data, module = Rows(), Judged(stop_in)
        phases = Phases(tmp_path / name, trainer, CSVLogger, data, 0, {})
        figures = phases.train("finetune", module, 4, averaging)
        saved = torch.load(tmp_path / name / "checkpoints" / "finetune.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(saved[key], value) for key, value in module.state_dict().items())
        return figures["value"], module.state_dict()

    ema = partial(EMAWeightAveraging, decay=0.9)
    plain, whole = train("plain", None), train("whole", ema)
    with pytest.raises(RuntimeError, match="stop"):
        train("parts", ema, stop_in=2)
    resumed, again = train("parts", ema), train("whole", ema)
    for value, state in (resumed, again):
        assert value == whole[0]
        assert all(torch.equal(state[key], whole[1][key]) for key in state)
    assert any(not torch.equal(plain[1][key], whole[1][key]) for key in whole[1])
    assert plain[0] != whole[0]


class Scored(BoringModel):
    metric = TaskMetric("score", "score")

    def __init__(self, score):
        super().__init__()
        self.score = score

    def validation_step(self, batch, batch_idx):
        self.log("val_score", self.score)


def test_any_network_is_validated_by_the_trainer_of_another(tmp_path):
    make = partial(pl.Trainer, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    for limit, expected in ((1.0, [0.25, 0.5]), (0, [math.nan] * 2)):
        run = Phases(tmp_path / str(limit), partial(make, limit_val_batches=limit), CSVLogger, Rows(), 0, {})
        trainer = run.fit("baseline", Scored(0.25), 1).trainer
        found = [run.validate(trainer, Scored(score)) for score in (0.25, 0.5)]
        assert found == pytest.approx(expected, nan_ok=True)


class Unjudged(BoringModel):
    metric = "score"


def test_a_module_that_is_judged_by_nothing_is_refused_in_words(tmp_path):
    make = partial(pl.Trainer, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    run = Phases(tmp_path, make, CSVLogger, Rows(), 0, {})
    trainer = pl.Trainer(default_root_dir=tmp_path, accelerator="cpu", logger=False, enable_progress_bar=False)
    with pytest.raises(TypeError, match=r"`metric` of a Unjudged must be a TaskMetric.*; got 'score'"):
        run.test(trainer, Unjudged())


def test_settings_stay_apart_however_many_and_long_lists_are_shortened():
    many = {f"setting_{number}": number for number in range(100)}
    assert plain(many) == many
    described = plain({"files": many, "rows": list(range(100)), "few": (1, 2)}, whole_paths=True)
    assert described["files"].startswith("100 entries, sha256 ")
    assert described["rows"].startswith("100 entries, sha256 ")
    assert described["few"] == [1, 2]


class Choice(pl.Callback):
    """It chooses at the end, or, where a resumed training has none, when fitting ends."""

    def __init__(self, fails=False):
        self.fails, self.chosen = fails, None

    def state_dict(self):
        return {"chosen": self.chosen}

    def load_state_dict(self, state_dict):
        self.chosen = state_dict["chosen"]

    def on_train_end(self, trainer, pl_module):
        if self.fails:
            raise RuntimeError("stop")

    def on_fit_end(self, trainer, pl_module):
        self.chosen = self.chosen or trainer.current_epoch


def test_what_is_made_up_for_after_a_stop_behind_the_last_epoch_is_kept(tmp_path):
    make = partial(pl.Trainer, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    run = Phases(tmp_path, make, CSVLogger, Rows(), 0, {})
    # Its state is that behind two epochs.
    with pytest.raises(RuntimeError, match="stop"):
        run.fit("search", Judged(stop_in=2), 3, [Choice()])
    assert run.fit("search", Judged(), 2, [Choice()]).steps == 6
    path = tmp_path / "checkpoints" / "search.ckpt"
    assert torch.load(path, weights_only=True)["callbacks"]["Choice"] == {"chosen": 2}
    # What is finished is not written again: other runs may be reading it.
    written = path.stat().st_mtime_ns
    run.fit("search", Judged(), 2, [Choice()])
    assert path.stat().st_mtime_ns == written


def test_a_training_that_was_stopped_at_its_end_repeats_its_last_epoch(tmp_path):
    make = partial(pl.Trainer, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    run = Phases(tmp_path, make, CSVLogger, Rows(), 0, {})
    seen = []

    class Counting(Choice):
        def on_train_batch_end(self, *arguments):
            seen.append(arguments)

    for fails in (True, False):
        with pytest.raises(RuntimeError, match="stop") if fails else nullcontext():
            assert run.fit("search", Judged(), 2, [Counting(fails)]).steps == 6
    assert len(seen) == 6 + 3


def test_a_source_is_shared_by_runs_of_the_same_network_task_data_and_length(tmp_path):
    run = Phases(tmp_path / "run", pl.Trainer, CSVLogger, Rows(), 0, {})
    network, task = partial(segmenter, head="lraspp"), partial(Segmentation, lr=1e-3)

    def folder(network=network, task=task, epochs=2, variant=None):
        return source_phases(tmp_path / "shared", run, network, task, epochs, variant).run_dir

    assert folder() == folder(partial(segmenter), variant={"head": "lraspp"})
    others = [
        folder(partial(segmenter, head="deeplabv3_lite")),
        folder(task=partial(Segmentation, lr=1e-4)),
        folder(epochs=3),
    ]
    assert len({folder(), *others}) == 4


def test_progress_bars_do_not_show_the_end_of_a_training_s_name(tmp_path):
    logger = csv_logger.CSVLogger(tmp_path, "logs", "source")
    shown = []

    class Bar(pl.callbacks.ProgressBar):
        def on_train_batch_end(self, trainer, module, *_):
            shown.append(self.get_metrics(trainer, module))

    trainer = pl.Trainer(logger=logger, callbacks=[Bar()], max_steps=1, accelerator="cpu", default_root_dir=tmp_path)
    trainer.fit(BoringModel(), DataLoader(torch.randn(4, 32)))
    assert shown
    assert not any("v_num" in metrics for metrics in shown)
    # Files are where they were.
    assert list((tmp_path / "logs" / "source" / "checkpoints").glob("*.ckpt"))

"""What a user's module counts, collects, freezes and is fed stays the user's while subnets of it are compared."""

from collections import deque
from dataclasses import dataclass, field

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.utilities import CombinedLoader
from plain_loop import QUIET, Plain, loader, make_supernet, searching
from torch.nn import functional
from torchmetrics import MeanMetric

from lightning_nas import supernet_from
from lightning_nas.search.untraced import untraced


@dataclass
class Meter:
    """A running mean, as training scripts have them."""

    total: float = 0.0
    seen: list = field(default_factory=list)

    def update(self, value):
        self.total += value
        self.seen.append(value)


class Counting(Plain):
    """It counts in every way that a module can."""

    def __init__(self):
        super().__init__()
        self.register_buffer("num_images", torch.zeros((), dtype=torch.long))
        self.mean, self.meter, self.steps, self.last = MeanMetric(), Meter(), [], {}
        self.recent, self.kept, self.number = deque(maxlen=3), np.zeros(2), 0

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.num_images += len(batch[0])
        self.mean.update(loss.detach())
        self.meter.update(1.0)
        self.steps.append(batch_idx)
        self.last["batch"] = batch_idx
        self.recent.append(batch_idx)
        self.kept[0] += 1
        self.number += 1
        if self.logger is not None:
            self.logger.log_metrics({"step": 1.0})
        return loss


def trainer(tmp_path, *callbacks, **options):
    options = {**QUIET, "max_epochs": 1, "enable_checkpointing": False, **options}
    return pl.Trainer(callbacks=list(callbacks), default_root_dir=tmp_path, **options)


class Memory(pl.loggers.logger.DummyLogger):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.given = []

    def log_metrics(self, metrics, step=None):
        self.given.append(metrics)


def test_what_a_step_counts_is_what_was_trained(tmp_path):
    search, module, logger = searching(every=1, candidates=2, random_subnets=1), Counting(), Memory()
    trainer(tmp_path, search, logger=logger).fit(module, loader(), loader())
    num_steps, num_images = len(loader()), 64
    assert search.history
    assert int(module.num_images) == num_images
    assert module.steps == list(range(num_steps))
    assert module.meter.total == module.number == module.kept[0] == len(module.meter.seen) == num_steps
    assert list(module.recent) == [5, 6, 7]
    assert module.last == {"batch": 7}
    assert module.mean.update_count == num_steps
    assert len([metrics for metrics in logger.given if "step" in metrics and "epoch" not in metrics]) == num_steps
    before = int(module.num_images)
    search.find(latency="0.7x")
    assert int(module.num_images) == before
    assert int(search.derive(module).num_images) == before


def test_what_a_body_changes_is_put_back_but_what_is_kept():
    module = Counting()
    module.kept_out = [torch.nn.BatchNorm1d(2)]
    with torch.inference_mode():
        module.made_in_inference = torch.zeros(2)
    random = torch.get_rng_state()
    with untraced(module, kept=[module.mean]):
        module.new, module.steps, module.number = 1, [1], 5
        module.kept_out[0].num_batches_tracked.add_(3)
        with torch.inference_mode():
            module.made_in_inference.add_(1)
        module.mean.update(1.0)
        module.log("anything", 1.0)
        torch.rand(3)
    assert not hasattr(module, "new")
    assert (module.steps, module.number) == ([], 0)
    assert int(module.kept_out[0].num_batches_tracked) == 0
    assert module.made_in_inference.tolist() == [0, 0]
    assert module.mean.update_count == 1
    assert "log" not in vars(module)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_loss_of_the_users_own_is_taken_for_comparisons(tmp_path):
    class Untouchable(Plain):
        def training_step(self, batch, batch_idx):
            assert self.trainer.training
            self.trainer.fit_loop.epoch_loop.seen = getattr(self.trainer.fit_loop.epoch_loop, "seen", 0) + 1
            return super().training_step(batch, batch_idx)

    seen = []

    def loss(module, batch):
        seen.append(1)
        return functional.cross_entropy(module.network(batch[0]), batch[1])

    search, module = searching(every=1, loss=loss), Untouchable()
    run = trainer(tmp_path, search)
    run.fit(module, loader(), loader())
    assert run.fit_loop.epoch_loop.seen == len(loader())
    assert len(seen) > len(loader())
    search.derive(module)
    assert run.fit_loop.epoch_loop.seen == len(loader())


class Frozen(BaseFinetuning):
    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.network, train_bn=False)

    def finetune_function(self, pl_module, epoch, optimizer):
        """Nothing is unfrozen."""


@pytest.mark.filterwarnings("ignore:.*requires_grad=True", "ignore:The provided params to be frozen")
def test_a_frozen_backbone_does_not_freeze_the_search(tmp_path):
    class Head(Plain):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(4, 4)

        def training_step(self, batch, batch_idx):
            return functional.cross_entropy(self.head(self.network(batch[0])), batch[1])

    search, module = searching(every=1), Head()
    before = [p.detach().clone() for p in module.network.parameters()]
    trainer(tmp_path, search, Frozen()).fit(module, loader(), loader())
    assert all(torch.equal(a, b) for a, b in zip(before, module.network.parameters(), strict=True))
    assert any(bool(row.detach().any()) for row in search.search.logits)
    assert not any("logits" in name for name in module.state_dict())


class Pair(Plain):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch["a"], batch_idx) + super().training_step(batch["b"], batch_idx)


@pytest.mark.parametrize("validation", [True, False])
def test_several_training_loaders(tmp_path, validation, caplog):
    search, module = searching(every=4), Pair()
    loaders = CombinedLoader({"a": loader(), "b": loader(2)}, "min_size")
    trainer(tmp_path, search, limit_train_batches=4).fit(module, loaders, loader() if validation else None)
    said = "does not take a validation batch" if validation else "There is no single validation DataLoader"
    assert said in caplog.text
    assert isinstance(search.derive(module), Pair)


class InAllWays(Plain):
    def test_step(self, batch, batch_idx):
        """Look at nothing."""

    def predict_step(self, batch, batch_idx):
        return batch_idx

    def training_step(self, batch):
        return super().training_step(batch, 0)


def test_testing_validating_and_predicting_between_fit_and_derive(tmp_path):
    search, module = searching(every=4), InAllWays()
    run = trainer(tmp_path, search)
    run.fit(module, loader(), [loader()])
    for follow in (run.test, run.validate, run.predict):
        follow(module, loader())
        assert isinstance(search.derive(module), InAllWays)
    assert search.find(latency="0.7x")


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_the_other_packages_trainer_without_validation(tmp_path):
    other = pytest.importorskip("pytorch_lightning")
    members = {name: value for name, value in vars(Plain).items() if name.endswith("_step") or "optimizers" in name}

    def start(self):
        other.LightningModule.__init__(self)
        self.network, self.plateau, self.lr = make_supernet(), False, 1e-2

    module = type("Other", (other.LightningModule,), {**members, "__init__": start})()
    search = searching(every=4)
    options = {**QUIET, "max_epochs": 1, "enable_checkpointing": False, "default_root_dir": tmp_path}
    other.Trainer(callbacks=[search], **options).fit(module, loader())
    assert search.derive(module) is not None


def test_a_second_fit_goes_on_counting(tmp_path):
    search, module = searching(every=4), Plain()
    trainer(tmp_path, search).fit(module, loader(), loader())
    first = search.search.num_trained[-1].sum()
    trainer(tmp_path, search).fit(module, loader(), loader())
    assert first == len(loader())
    assert search.search.num_trained[-1].sum() == 2 * first


@pytest.mark.parametrize("which", ["source", "current", "smallest"])
def test_which_network_a_validation_runs_is_a_choice_and_its_latency_is_logged(tmp_path, which):
    search = searching(every=4, validate=which)
    run = trainer(tmp_path, search)
    run.fit(Plain(), loader(), loader())
    (limit,), space = search.search.limits.costs, search.search.supernet.space
    logged = float(run.callback_metrics["nas/validated_latency_ms"])
    if which == "source":
        assert logged == pytest.approx(limit.table.exact(space.reference_encoding))
    elif which == "smallest":
        assert logged == pytest.approx(search.search.limits.reaches[0].minimum)
    else:
        assert logged <= limit.budget


def test_validation_data_that_is_loaded_late_is_compared_on_all_the_same(tmp_path, caplog):
    search = searching(every=4)
    trainer(tmp_path, search, num_sanity_val_steps=0).fit(Plain(), loader(), loader())
    assert "There is no single validation DataLoader" not in caplog.text
    assert search.state.fit.loaders.validation is not None


def test_what_takes_a_step_says_so_before_there_was_one(tmp_path):
    search, module = searching(every=4), Plain()
    search.setup(trainer(tmp_path, search), module, "fit")
    with pytest.raises(RuntimeError, match="The search has no step yet"):
        search.derive(module)


def test_the_progress_bar_shows_what_it_is_told_to(tmp_path):
    search = searching(every=4, progress_bar=("latency_ms_multiplier",))
    run = trainer(tmp_path, search)
    run.fit(Plain(), loader(), loader())
    shown = {name for name in run.progress_bar_metrics if name.startswith("nas/")}
    assert shown == {"nas/latency_ms_multiplier"}
    assert {"nas/entropy", "nas/skipped", "nas/latency_ms"} <= set(run.callback_metrics)


@pytest.mark.parametrize("shown", [True, False])
def test_the_end_of_a_fit_shows_bars_where_the_trainer_has_one(tmp_path, capfd, shown):
    run = trainer(tmp_path, searching(every=4), enable_progress_bar=shown)
    run.fit(Plain(), loader(), loader())
    assert ("Measuring readiness" in capfd.readouterr().err) == shown


@pytest.mark.parametrize(
    ("option", "value"), [("serves", "0.7x"), ("progress_bar", False), ("progress_bar", "entropy")]
)
def test_settings_that_hold_several_values_are_lists(option, value):
    with pytest.raises(ValueError, match=f"`{option}` must be a list or a tuple; got {value!r}"):
        searching(**{option: value})


@pytest.mark.parametrize(("option", "value"), [("validate", "best"), ("progress_bar", ("loss",))])
def test_unknown_choices_of_what_is_validated_and_shown_are_refused(option, value):
    with pytest.raises(ValueError, match=f"`{option}` .*got "):
        searching(**{option: value})


def test_latencies_that_were_not_served_and_a_short_frontier_are_told(tmp_path, caplog):
    search, module = searching(every=1), Plain()
    trainer(tmp_path, search).fit(module, loader(), loader())
    search.find(latency="0.62x")
    assert "were trained for" not in caplog.text
    search.find(latency="0.95x")
    assert "HINT: name it in `serves`" in caplog.text
    with caplog.at_level("DEBUG", "lightning_nas"):
        points = search.frontier(count=40)
    assert f"The frontier has {len(points)} subnets where 40 were asked for" in caplog.text


def test_a_supernet_that_is_trained_without_a_search_is_warned_of_once(tmp_path, caplog):
    module = Plain()
    trainer(tmp_path).fit(module, loader())
    assert caplog.text.count("trained without a search") == 1
    caplog.clear()
    trainer(tmp_path, searching(every=4)).fit(Plain(), loader(), loader())
    assert "trained without a search" not in caplog.text


def test_a_supernet_is_not_converted_again():
    with pytest.raises(ValueError, match="supernet already"):
        supernet_from(make_supernet(), torch.zeros(1, 3, 32, 32))

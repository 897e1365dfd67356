"""Whether a supernet is ready: what is measured, what is said, and what is done about it."""

import dataclasses
import subprocess
import sys

import lightning.pytorch as pl
import pytest
import torch
from conftest import LinearEstimator
from limits import limits_of
from searches import search_of, training_of
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.budget.budget import Budget
from lightning_nas.search.engine import Search
from lightning_nas.search.readiness import MIN_STEPS, measure_readiness, progress_of, progress_since, start_losses

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Plain(pl.LightningModule):
    def __init__(self, network, schedule=None):
        super().__init__()
        self.network, self.schedule = network, schedule

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.cross_entropy(self.network(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-2)
        if self.schedule is None:
            return optimizer
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loader():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(16, 3, 32, 32, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(0, 4, (16,), generator=generator)), batch_size=8)


def fit(module, search, tmp_path, epochs=2):
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[search], default_root_dir=tmp_path, enable_checkpointing=False, **QUIET
    )
    trainer.fit(module, loader(), loader())
    return trainer


def searching(estimator, **options):
    options = {"candidates": 1, "evaluations": 0, "random_subnets": 0, **options}
    return search_of(estimator, latency="0.6x", **options)


@pytest.fixture
def search(supernet, estimator):
    limits = limits_of(supernet.supernet.space, estimator, Budget(latency="0.6x"))
    found = Search(supernet.supernet, limits, training_of())
    for counts in found.num_trained:
        counts[:] = MIN_STEPS
    return found


def worth(nodes):
    return 0.01 * sum(nodes)


def measured(search, losses, start, estimator=None):
    """Measure a search by what `losses` gives for each subnet, of which each had the loss `start` before."""
    at_start = start_losses(search, lambda nodes: start, 9)
    progress = progress_since(search, at_start, lambda nodes: float(losses(nodes).nanmean()))
    return measure_readiness(search, estimator or LinearEstimator(), losses, progress)


def test_a_trained_supernet_is_ready(search):
    found = measured(search, lambda n: torch.full((2,), 1.0 + worth(n)), 3.0)
    assert found.reasons == []
    assert found.steps == MIN_STEPS
    assert found.stability == pytest.approx(1.0)
    assert 0.8 < found.progress <= 1


def test_one_good_subnet_among_many_bad_ones_makes_no_supernet_ready(search):
    seen = {}

    def halves(nodes):
        source = nodes == search.supernet.space.reference_encoding
        good = seen.setdefault(nodes, len(seen)) == 1
        return torch.full((2,), 1.0 if source or good else 2.9 + worth(nodes))

    found = measured(search, halves, 3.0)
    assert found.progress < 0.2
    assert any("of the way" in reason for reason in found.reasons)


@pytest.mark.parametrize("losses", ["alike", "small", "noise"])
def test_each_way_of_not_being_ready_is_told(search, losses):
    estimator, space = LinearEstimator(), search.supernet.space
    generator = torch.Generator().manual_seed(0)

    def halves(nodes):
        if losses == "noise":
            return 1.0 + 0.01 * torch.rand(2, generator=generator)
        if losses == "alike":
            return torch.full((2,), 1.0 if nodes == space.reference_encoding else 2.0 + worth(nodes))
        return torch.full((2,), 1e-5 * estimator.memory(space.decode(nodes)).parameter_bytes)

    found = measured(search, halves, 3.0, estimator)
    (reason,) = found.reasons
    said = {"noise": "two halves", "alike": "of the way", "small": "the larger of the subnets"}
    assert said[losses] in reason
    search.num_trained[1][0] = 3
    assert "an option was trained in 3 steps only, of at least 100" in measured(search, halves, 3.0).reasons[0]
    search.num_trained[1][0] = 1
    assert "an option was trained in 1 step only, of at least 100" in measured(search, halves, 3.0).reasons[0]


def test_without_a_second_batch_or_a_start_nothing_is_claimed(search):
    found = measure_readiness(search, LinearEstimator(), lambda n: torch.tensor([1.0 + worth(n), torch.nan]))
    assert found.reasons == []
    assert "nan" not in str(found)
    assert "progress of subnets not measured (no finite losses" in str(found)
    assert "rank stability not measured (it takes two batches" in str(found)
    assert "rank by size not measured" in str(dataclasses.replace(found, size_bias=float("nan")))
    assert str(dataclasses.replace(found, steps=1)).startswith("least trained option 1 step;")


@pytest.mark.parametrize(
    ("case", "before", "after", "goal", "expected"),
    [
        ("random weights that learnt", 2.3, 0.75, 0.72, 0.98),
        ("a trained source that the search made worse", 4.2, 0.86, 1.1, 1.0),
        ("subnets that came nowhere", 2.3, 2.4, 1.0, 0.0),
        ("a source that hardly learnt", 2.31, 1.8, 2.3, 0.0),
        ("half of the way", 3.0, 2.0, 1.0, 0.5),
    ],
)
def test_progress_compares_like_with_like_and_stays_between_nothing_and_all(case, before, after, goal, expected):
    assert progress_of(before, after, goal) == pytest.approx(expected, abs=0.01), case


def test_a_supernet_that_learnt_nothing_made_no_progress(search):
    found = measured(search, lambda n: torch.full((2,), 3.0 + worth(n)), 3.0)
    assert found.progress == 0.0
    assert any("came 0%" in reason for reason in found.reasons)


def test_measuring_draws_nothing_from_the_search(search):
    before = search.generator.get_state()
    measure_readiness(search, LinearEstimator(), lambda n: torch.ones(2))
    assert torch.equal(search.generator.get_state(), before)


def test_a_short_training_is_warned_of(supernet, estimator, tmp_path, caplog):
    search = searching(estimator)
    fit(Plain(supernet), search, tmp_path)
    assert search.readiness is not None
    assert "an option was trained in 0 steps only, of at least 100" in caplog.text
    assert search.architecture


@pytest.mark.parametrize("handler", ["none", "one"])
def test_warnings_are_shown_once_in_a_script_that_sets_up_no_logging(handler):
    lines = [
        "import logging",
        "from lightning_nas.search.warnings_heard import heard_warnings",
        "logging.basicConfig()" if handler == "one" else "",
        "with heard_warnings() as heard:",
        "    logging.getLogger('lightning_nas.search.readiness').warning('not ready')",
        "assert heard == ['not ready']",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True)
    assert done.stderr.count("not ready") == 1


def test_it_stops_where_that_is_asked_for(supernet, estimator, tmp_path):
    search = searching(estimator, not_ready="stop")
    with pytest.raises(RuntimeError, match="The supernet is not ready to be searched: an option was trained in 0"):
        fit(Plain(supernet), search, tmp_path)


def test_training_goes_on_up_to_as_many_epochs_again(supernet, estimator, tmp_path, caplog):
    trainer = fit(Plain(supernet), searching(estimator, not_ready="continue"), tmp_path, epochs=3)
    assert trainer.current_epoch == 6
    assert "after 6 epochs, which is all that the training is given" in caplog.text


def test_a_schedule_that_has_ended_ends_the_training(supernet, estimator, tmp_path, caplog):
    trainer = fit(Plain(supernet, "one cycle"), searching(estimator, not_ready="continue"), tmp_path)
    assert trainer.current_epoch == 2
    assert "the learning rate schedule has ended" in caplog.text


def test_other_answers_are_refused(estimator):
    with pytest.raises(ValueError, match="`not_ready` must be one of warn, continue, stop; got hope"):
        searching(estimator, not_ready="hope")

"""What more of a user's code meets: own generators, teachers that follow, schedules, other budgets and modules."""

import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from conftest import LinearEstimator
from lightning.pytorch.callbacks import ModelCheckpoint
from plain_loop import QUIET, Plain, loader, searching
from searches import search_of
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.budget.budget import Budget
from lightning_nas.search.loaders import Loaders


def fit(module, search, folder, data=None, ckpt_path=None, callbacks=(), **options):
    trainer = pl.Trainer(
        callbacks=[search, *callbacks],
        default_root_dir=folder,
        **{**QUIET, "max_epochs": 1, "enable_checkpointing": False, **options},
    )
    trainer.fit(module, loader() if data is None else data, loader(), ckpt_path=ckpt_path)
    return trainer


class Drawing(Plain):
    """It draws from generators of its own."""

    def __init__(self):
        super().__init__()
        self.draws = np.random.default_rng(0), random.Random(0), torch.Generator().manual_seed(0)
        self.seen = []

    def training_step(self, batch, batch_idx):
        numbers, choices, generator = self.draws
        self.seen.append((numbers.random(), choices.random(), float(torch.rand((), generator=generator))))
        return super().training_step(batch, batch_idx)


class Following(Plain):
    """A teacher follows its weights, as a mean of them."""

    def __init__(self):
        super().__init__()
        self.teacher = torch.nn.Linear(1, 1).requires_grad_(False)
        torch.nn.init.zeros_(self.teacher.weight)

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.teacher.weight.add_(1.0)
        return super().training_step(batch, batch_idx)


class Manual(Plain):
    """It optimizes by itself, with one schedule or two."""

    def __init__(self, num_schedules):
        super().__init__()
        self.automatic_optimization, self.num_schedules = False, num_schedules

    def training_step(self, batch, batch_idx):
        optimizer, found = self.optimizers(), self.lr_schedulers()
        loss = super().training_step(batch, batch_idx)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        for schedule in [found] if self.num_schedules == 1 else found:
            schedule.step()
            assert schedule.get_last_lr()
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 100) for _ in range(self.num_schedules)]


def test_generators_of_a_module_go_on_as_without_a_search(tmp_path):
    module = Drawing()
    fit(module, searching(every=4), tmp_path)
    numbers, choices, generator = np.random.default_rng(0), random.Random(0), torch.Generator().manual_seed(0)
    assert module.seen == [
        (numbers.random(), choices.random(), float(torch.rand((), generator=generator))) for _ in module.seen
    ]
    assert len(module.seen) == len(loader())


def test_a_teacher_that_follows_the_weights_takes_as_many_steps_as_they_do(tmp_path):
    module = Following()
    fit(module, searching(every=4), tmp_path)
    assert module.teacher.weight.item() == len(loader())


@pytest.mark.parametrize("num_schedules", [1, 2])
def test_a_step_that_optimizes_by_itself_meets_its_schedules(tmp_path, num_schedules):
    module = Manual(num_schedules)
    trainer = fit(module, searching(every=4), tmp_path)
    assert [config.scheduler.last_epoch for config in trainer.lr_scheduler_configs] == [len(loader())] * num_schedules


@pytest.mark.parametrize("own", [True, False], ids=["own generator", "global generator"])
def test_a_validation_loader_that_shuffles_gives_the_same_batches_at_start_and_end(own):
    generator = torch.Generator().manual_seed(5) if own else None
    shuffled = DataLoader(loader().dataset, batch_size=8, shuffle=True, generator=generator)
    loaders = Loaders(None, "max_size_cycle", shuffled, 4)
    state = generator.get_state() if own else torch.get_rng_state()
    first = loaders.held_out_batches(())
    assert torch.equal(state, generator.get_state() if own else torch.get_rng_state())
    torch.rand(3)
    list(shuffled)
    again = loaders.held_out_batches(())
    assert all(torch.equal(one[0], other[0]) for one, other in zip(first, again, strict=True))


def test_a_shared_generator_shuffles_the_training_as_without_a_search(tmp_path):
    class Listing(Plain):
        def on_train_batch_start(self, batch, batch_idx):
            order.append(batch[0].sum().item())

    orders = []
    for search in (None, searching(every=4)):
        order = []
        generator = torch.Generator().manual_seed(3)
        data = DataLoader(loader().dataset, batch_size=8, shuffle=True, generator=generator)
        held_out = DataLoader(loader().dataset, batch_size=8, shuffle=True, generator=generator)
        options = {**QUIET, "max_epochs": 2, "enable_checkpointing": False}
        trainer = pl.Trainer(callbacks=[] if search is None else [search], default_root_dir=tmp_path, **options)
        trainer.fit(Listing(), data, held_out)
        orders.append(order)
    assert orders[0] == orders[1]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("latency", ["0.8x", "0.45x"])
def test_a_finished_search_that_goes_on_for_another_budget_chooses_anew(tmp_path, latency):
    module = Plain()
    saved = ModelCheckpoint(tmp_path, filename="end", save_last=False)
    first = searching(every=4)
    fit(module, first, tmp_path, callbacks=[saved], enable_checkpointing=True)
    options = {"every": 4, "candidates": 1, "evaluations": 0, "random_subnets": 0}
    again, module = search_of(LinearEstimator(), latency=latency, **options), Plain()
    fit(module, again, tmp_path, ckpt_path=saved.best_model_path)
    (limit,) = again.search.limits.costs
    cost = again.estimator.latency_ms(again.architecture)
    assert 0.9 * limit.budget <= cost <= limit.budget
    assert again.derive(module)


def test_budgets_that_are_not_given_anew_stay(tmp_path):
    search, module = searching(every=4, budget=Budget(latency="0.6x", parameters="0.7x")), Plain()
    fit(module, search, tmp_path)
    allowed = {limit.name: limit.budget for limit in search.search.limits.costs}["parameter_bytes"]
    found = search.find(latency="0.95x")
    assert found
    assert all(search.estimator.memory(architecture).parameter_bytes <= allowed for architecture in found)
    with pytest.raises(ValueError, match="Give either `architecture` or a budget; got both"):
        search.derive(module, architecture=found[0], latency="0.95x")


def test_a_search_of_a_second_module_begins_anew(tmp_path):
    search, second = searching(every=4), Plain()
    fit(Plain(), search, tmp_path)
    values, start = search.state.progress.num_values, list(search.state.progress.start)
    torch.nn.init.normal_(second.network.classifier[1].weight)
    fit(second, search, tmp_path)
    assert search.state.progress.num_values == values
    assert search.state.progress.start != start


@pytest.mark.parametrize(("size", "is_told"), [(32, False), (64, True)])
def test_data_of_another_size_than_the_costs_are_of_is_told(tmp_path, caplog, size, is_told):
    data = TensorDataset(torch.rand(16, 3, size, size), torch.randint(0, 4, (16,)))
    trainer = pl.Trainer(
        callbacks=[searching(every=4)], default_root_dir=tmp_path, max_epochs=1, enable_checkpointing=False, **QUIET
    )
    trainer.fit(Plain(), DataLoader(data, batch_size=8), DataLoader(data, batch_size=8))
    told = f"runs on images of {size} x {size} pixels, and its costs are of 32 x 32"
    assert (told in caplog.text) == is_told

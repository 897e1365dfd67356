"""A training that diverges: said when it happens, never derived, and no reason to end a study of many trials."""

import copy
import logging
import math
from contextlib import nullcontext

import lightning.pytorch as pl
import pytest
import torch
from plain_loop import QUIET, Plain, loader, make_supernet, searching

from lightning_nas import derive
from lightning_nas.graph.finite import not_finite
from lightning_nas.training.divergence import DivergedError, Divergence


class Leaping(Plain):
    """Its learning rate is one at which nothing is learnt."""

    def __init__(self, supernet, lr):
        super().__init__(supernet)
        self.lr = lr

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def fit(folder, module, *callbacks, epochs=2):
    pl.Trainer(default_root_dir=folder, max_epochs=epochs, callbacks=[*callbacks], **QUIET).fit(module, loader())


@pytest.mark.parametrize("lr", [1e30, math.inf])
def test_a_search_that_diverges_ends_in_its_first_epoch(tmp_path, lr):
    search, module = searching(), Leaping(make_supernet(kernels=(3,)), lr)
    with pytest.raises(DivergedError, match=r"The supernet's training has diverged in epoch 0: '.*' and \d+ more"):
        fit(tmp_path, module, search, epochs=5)
    assert not search.has_chosen
    with pytest.raises(DivergedError, match="in epoch 0"):
        search.derive(module)


@pytest.mark.parametrize("has_validation", [True, False])
def test_weights_that_are_finite_and_of_no_use_are_not_derived(tmp_path, has_validation, caplog):
    search, module = searching(), Leaping(make_supernet(kernels=(3,)), 1e6)
    data = [loader(), *([loader(2)] if has_validation else [])]
    trainer = pl.Trainer(default_root_dir=tmp_path, max_epochs=4 if has_validation else 1, callbacks=[search], **QUIET)
    with pytest.raises(DivergedError) if has_validation else nullcontext():
        trainer.fit(module, *data)
    if not has_validation:
        assert "The supernet's training has diverged in epoch 0: its loss was" in caplog.text
    # Without validation data, infinite statistics tell.
    with pytest.raises(DivergedError if has_validation else ValueError, match="diverged"):
        search.derive(module)


def test_a_subnet_is_refused_only_for_what_it_inherits():
    supernet = make_supernet(kernels=(3,))
    space = supernet.supernet.space
    narrow = space.decode([0] * len(space.multipliers) + list(space.reference_encoding)[len(space.multipliers) :])
    assert derive(supernet, narrow)
    # The last channels, which the narrow one does not have.
    supernet.features[-1][1]._buffers["running_var"][-1] = math.inf
    assert derive(supernet, narrow)
    with pytest.raises(ValueError, match=r"running_var'.* not finite, since the training has diverged"):
        derive(supernet, space.reference_encoding)


class Told(pl.LightningModule):
    """Its losses are those that it is told."""

    def __init__(self, losses):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        self.register_buffer("best", torch.zeros(1))
        self.losses = losses

    def training_step(self, batch, batch_idx):
        self.best[...] = -math.inf  # what is no statistic may become what it likes
        loss = self.losses[self.trainer.global_step]
        return None if loss is None else loss + 0 * self.weight.sum()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.1**epoch)]


def train(folder, losses, divergence, epochs=5):
    """Train for 8 steps an epoch; a short list of losses is repeated at its end."""
    losses = [*losses, *losses[-1:] * (8 * epochs)]
    data = torch.utils.data.DataLoader(torch.zeros(8, 1))
    options = {"max_epochs": epochs, "callbacks": [divergence], "enable_checkpointing": False}
    pl.Trainer(default_root_dir=folder, **options, **QUIET).fit(Told(losses), data)


def test_a_loss_far_above_its_start_is_warned_of_once(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        train(tmp_path, [2.0] * 8 + [500.0], Divergence("baseline"))
    found = [record.getMessage() for record in caplog.records if "diverged" in record.getMessage()]
    assert len(found) == 1
    assert "The baseline has diverged in epoch 1: its loss was 2 at the start and is 251" in found[0]
    assert "The learning rate is up to 0.1." in found[0]


@pytest.mark.parametrize("losses", [[2.0] * 8 + [500.0], [2.3, 1e6], [0.0, 3.0, 400.0], [1e-4, 100.0]])
def test_where_it_is_to_end_so_the_last_epoch_is_an_error(tmp_path, losses):
    with pytest.raises(DivergedError, match=r"in epoch 4: its loss was .* at the start and is "):
        train(tmp_path, losses, Divergence("baseline", ends_worse=True))


HEALTHY = {
    "a first batch without objects": [0.0, 1.2],
    "sums over objects": [0.0, 20.0, 25.0],
    "from a trained network": [0.01, 0.5, 1.5],
    "a first loss that is no number": [math.nan, 1.0],
    "single ones that are none": [1.0, math.inf, 1.0, math.nan, 1.0],
    "batches that are left out": [1.0, None] * 40,
    "below zero": [-1.0, -3.0],
    "chance of many classes": [7.0, 8.0],
}


@pytest.mark.parametrize("losses", HEALTHY.values(), ids=HEALTHY)
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_healthy_trainings_are_let_alone(tmp_path, losses, caplog):
    with caplog.at_level(logging.WARNING):
        train(tmp_path, losses, Divergence("baseline", ends_worse=True), epochs=2)
    assert "diverged" not in caplog.text


def test_losses_that_are_no_numbers_end_it(tmp_path):
    with pytest.raises(DivergedError, match="in epoch 1: its last losses are nan, nan, nan, nan"):
        train(tmp_path, [2.0] * 9 + [math.nan], Divergence("baseline"))


def test_what_is_not_finite_is_named():
    good = {"a": torch.ones(2), "count": torch.tensor(3), "none": torch.zeros(0), "text": "x"}
    assert not_finite(good) == []
    assert not_finite({**good, "b": torch.tensor([1.0, math.nan]), "c": torch.tensor(-math.inf)}) == ["b", "c"]
    assert copy.deepcopy(good).keys() == good.keys()

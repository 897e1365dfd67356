"""The search beside everything that a Lightning user does, and equal to a loop in plain PyTorch."""

import copy
import functools
import sys
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from plain_loop import (
    EPOCHS,
    Plain,
    Stateful,
    fit,
    largest_difference,
    loader,
    make_supernet,
    plain_loop,
    plugin,
    searching,
    within,
)
from torch.nn import functional

from lightning_nas.search.callback import ArchitectureSearch
from lightning_nas.search.trainers import refuse_strategy
from lightning_nas.supernet.derive import derive, recalibrate


class Manual(Plain):
    """It clips and steps by itself, and counts how often."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.num_steps = 0

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        with optimizer.toggle_model():
            loss = functional.cross_entropy(self.network(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            optimizer.step()
        self.num_steps += 1


class ManualWithLoss(Manual):
    def training_step(self, batch, batch_idx):
        super().training_step(batch, batch_idx)
        return functional.cross_entropy(self.network(batch[0]), batch[1])


EMA = getattr(pl.callbacks, "EMAWeightAveraging", None)
with_averages = pytest.mark.skipif(EMA is None, reason="this version of lightning has no EMAWeightAveraging")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Return for a precision and an accumulation the loop's network and logits, the search's, and a checkpoint.

    It lies in the middle of the second epoch, between two optimizer steps.
    """

    @functools.cache
    def found(precision, accumulate):
        folder = tmp_path_factory.mktemp("searched")
        options, context, scaler = plugin(precision)
        module = Plain()
        expected = plain_loop(copy.deepcopy(module.network), context, scaler, accumulate, [list(loader())])
        saved = ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=12 // accumulate, filename="{step}")
        options["accumulate_grad_batches"] = accumulate
        search = searching(warmup=0.25)
        fit(module, search, folder, [saved], data=Stateful(), **options)
        return expected, (module.network, search.search.logits), folder / f"step={12 // accumulate}.ckpt"

    return found


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:You're resuming from a checkpoint")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("resumed", [False, True], ids=["straight", "resumed"])
def test_it_equals_a_plain_loop(tmp_path, searched, precision, accumulate, resumed):
    (expected, logits), (network, learnt), checkpoint = searched(precision, accumulate)
    if resumed:
        module, options = Plain(), {**plugin(precision)[0], "accumulate_grad_batches": accumulate}
        search = searching(warmup=0.25)
        fit(module, search, tmp_path, ckpt_path=checkpoint, data=Stateful(), **options)
        network, learnt = module.network, search.search.logits
    assert largest_difference(network, expected) <= 1e-6
    assert max(float((a - b).detach().abs().max()) for a, b in zip(learnt, logits, strict=True)) <= 1e-6
    assert max(float(row.detach().abs().max()) for row in logits) > 0


@pytest.mark.parametrize(
    ("callbacks", "options"),
    [
        ([EarlyStopping("val_loss", patience=0)], {"max_epochs": 4}),
        ([ModelCheckpoint(monitor="val_loss")], {}),
        ([StochasticWeightAveraging(1e-3, swa_epoch_start=1)], {"max_epochs": 3}),
        pytest.param([EMA and EMA(decay=0.9)], {}, marks=with_averages),
        ([LearningRateFinder(num_training_steps=6)], {}),
        ([], {"gradient_clip_val": 0.1}),
        ([], {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}),
        ([], {"max_epochs": -1, "max_steps": 9}),
        ([], {"val_check_interval": 0.5}),
        ([], {"precision": "bf16-true"}),
    ],
    ids=["early", "checkpoint", "swa", "ema", "lr-finder", "norm", "value", "max-steps", "interval", "bf16-true"],
)
def test_what_users_put_beside_it(tmp_path, callbacks, options):
    search, module = searching(), Plain()
    trainer = fit(module, search, tmp_path, callbacks, **options)
    assert trainer.global_step > 0
    assert search.history
    assert within(search)
    subnet = search.derive(module)
    assert all(torch.isfinite(p).all() for p in subnet.parameters())


class Recompute(pl.Callback):
    """What a validation gives with the weights that are in place, and running statistics made anew for the leader."""

    def __init__(self, search):
        self.search, self.expected, self.given = search, [], []

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if trainer.sanity_checking or batch_idx:
            return
        network = copy.deepcopy(pl_module.network)
        network.supernet.activate(self.search.search.best())
        recalibrate(network, network, [images for images, _ in loader()])
        losses = [functional.cross_entropy(network.eval()(images), targets) for images, targets in loader()]
        self.expected.append(float(torch.stack(losses).mean()))

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.given.append(float(trainer.callback_metrics["val_loss"]))


@with_averages
@pytest.mark.parametrize("averages_first", [False, True], ids=["after", "before"])
def test_averaged_weights_are_validated_and_derived(tmp_path, averages_first):
    module, search, average = Plain(), searching(), EMA(decay=0.99)
    alone, other = searching(), Plain()
    fit(other, alone, tmp_path)
    recompute = Recompute(search)
    first, second = (average, search) if averages_first else (search, average)
    fit(module, first, tmp_path, [second, recompute])
    assert recompute.given == pytest.approx(recompute.expected, rel=1e-5)
    averaged = average._average_model.module
    subnet, expected = search.derive(module), derive(averaged, search.architecture)
    assert largest_difference(subnet, expected) == 0
    # The logits are the search's own: averaged ones would have hardly left the start.
    assert search.architecture == alone.architecture
    assert search.find(latency="0.5x") == alone.find(latency="0.5x")
    logits = zip(search.search.logits, alone.search.logits, strict=True)
    assert all(torch.equal(row, learnt) for row, learnt in logits)


def test_plateau_schedules(tmp_path):
    search = searching()
    fit(Plain(plateau=True), search, tmp_path)
    assert within(search)


def test_manual_optimization_steps_once_a_batch(tmp_path):
    search, module = searching(), ManualWithLoss()
    fit(module, search, tmp_path)
    assert module.num_steps == EPOCHS * len(loader())
    assert search.history
    assert within(search)
    search.derive(module)
    with pytest.raises(TypeError, match=r"must return a loss.*HINT: `Selection\(loss=...\)`"):
        fit(Manual(), searching(), tmp_path)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_module(tmp_path):
    search, module = searching(), torch.compile(Plain(), backend="eager")
    fit(module, search, tmp_path)
    assert search.history
    assert within(search)
    assert search.derive(module).network(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def test_the_trainer_of_the_other_package(tmp_path):
    other = pytest.importorskip("pytorch_lightning")
    members = {name: value for name, value in vars(Plain).items() if name.endswith("_step") or "optimizers" in name}

    def start(self):
        other.LightningModule.__init__(self)
        self.network, self.plateau, self.lr = make_supernet(), False, 1e-2

    module = type("Other", (other.LightningModule,), {**members, "__init__": start})()
    search = searching()
    fit(module, search, tmp_path, trainer=other.Trainer)
    assert search.history
    assert within(search)


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return loader()


@pytest.mark.filterwarnings("ignore")
def test_the_command_line_of_lightning(tmp_path, monkeypatch):
    pytest.importorskip("jsonargparse", reason="needs jsonargparse[signatures]")
    callback = "--trainer.callbacks"
    arguments = ["fit", "--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    arguments += ["--trainer.enable_checkpointing=false", f"--trainer.default_root_dir={tmp_path}"]
    arguments += [f"{callback}+=lightning_nas.ArchitectureSearch", f"{callback}.latency=0.85x"]
    arguments += [
        f"{callback}.estimator=ethos_u85_1024",
        f"{callback}.selection.num_candidates=1",
        f"{callback}.choices=widths",
    ]
    monkeypatch.setattr(sys, "argv", ["cli", *arguments])
    cli = LightningCLI(Plain, Data, save_config_callback=None, seed_everything_default=0)
    (search,) = (found for found in cli.trainer.callbacks if isinstance(found, ArchitectureSearch))
    assert search.architecture
    assert search.search.limits.costs[0].name == "latency_ms"


def test_strategies_that_shard_are_refused():
    for strategy in (FSDPStrategy(), SimpleNamespace(handles_gradient_accumulation=True)):
        with pytest.raises(MisconfigurationException, match="ddp_find_unused_parameters_true"):
            refuse_strategy(SimpleNamespace(strategy=strategy))

"""The search beside everything that a Lightning user does, and equal to a loop in plain PyTorch."""

import copy
import json
import subprocess
import sys
import textwrap
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from conftest import LinearEstimator, read_by, small_network
from lightning.pytorch.callbacks import (
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.search.callback import ArchitectureSearch
from lightning_nas.search.engine import Search
from lightning_nas.search.settings import SearchSettings
from lightning_nas.search.tables import space_budgets
from lightning_nas.search.trainers import refuse_strategy
from lightning_nas.supernet import space_of, supernet_from

QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}
EPOCHS = 2


def loader():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(64, 3, 32, 32, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(0, 4, (64,), generator=generator)), batch_size=8)


class Stateful:
    """A loader that goes on where it was, without which Lightning begins an interrupted epoch's data anew."""

    def __init__(self):
        self.batches, self.position = list(loader()), 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for number in range(self.position, len(self.batches)):
            self.position = (number + 1) % len(self.batches)
            yield self.batches[number]

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def make_supernet():
    torch.manual_seed(0)
    network, image = small_network(), torch.zeros(1, 3, 32, 32)
    return supernet_from(network, image, space_of(network, image, kernels=(3, 5)))


class Plain(pl.LightningModule):
    def __init__(self, network: torch.nn.Module | None = None, plateau: bool = False):
        super().__init__()
        self.network = make_supernet() if network is None else network
        self.plateau, self.lr = plateau, 1e-2

    def training_step(self, batch, batch_idx):
        loss = functional.cross_entropy(self.network(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.cross_entropy(self.network(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-3)
        if not self.plateau:
            return optimizer
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


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


def searching(**options):
    options = {"every": 2, "candidates": 1, "evaluations": 0, "random_subnets": 0, **options}
    return ArchitectureSearch(LinearEstimator(), latency="0.6x", **options)


def fit(module, search, tmp_path, callbacks=(), trainer=pl.Trainer, ckpt_path=None, data=None, **options):
    options = {"max_epochs": EPOCHS, "enable_checkpointing": bool(callbacks), **options}
    trainer = trainer(callbacks=[search, *callbacks], default_root_dir=tmp_path, **QUIET, **options)
    trainer.fit(module, data or loader(), loader(), ckpt_path=ckpt_path)
    return trainer


def plugin(precision):
    """Return options of the Trainer and the context and scaler of plain PyTorch; fp16 is scaled on the CPU as well."""
    if precision == "fp32":
        return {}, nullcontext, None
    if precision == "bf16":
        return {"precision": "bf16-mixed"}, lambda: torch.autocast("cpu", torch.bfloat16), None
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10) for _ in range(2)]
    plugins = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scalers[0])]}
    return plugins, lambda: torch.autocast("cpu", torch.float16), scalers[1]


def block_of(entries):
    """Return the smallest block of a parameter that holds all entries: paths of one optimizer step share it."""
    block = torch.ones_like(entries)
    for axis in range(entries.ndim):
        others = [other for other in range(entries.ndim) if other != axis]
        block &= entries.any(dim=others, keepdim=True) if others else entries
    return block


@contextmanager
def kept(network, optimizer, read):
    """Put back what a step of the optimizer has changed in entries that no path has read, in its state as well."""
    parameters = dict(network.named_parameters())
    weights = {name: p.detach().clone() for name, p in parameters.items()}
    momenta = {p: state["momentum_buffer"].clone() for p, state in optimizer.state.items()}
    yield
    for name, p in parameters.items():
        outside = ~block_of(torch.stack([rows[name] for rows in read]).any(0))
        p.data[outside] = weights[name][outside]
        if p in optimizer.state:
            buffer = optimizer.state[p]["momentum_buffer"]
            buffer[outside] = momenta[p][outside] if p in momenta else 0.0


def plain_loop(network, context, scaler, accumulate):
    """The same search without Lightning and without the callback."""
    supernet = network.supernet
    budgets = space_budgets(supernet.space, LinearEstimator(), {"latency_ms": "0.6x"})
    search = Search(supernet, budgets, SearchSettings(every=2))
    supernet.use_batch_statistics(True)
    own = {id(row) for row in supernet.logits}
    weights = torch.optim.SGD(
        [p for p in network.parameters() if id(p) not in own], lr=1e-2, momentum=0.9, weight_decay=1e-3
    )
    logits = torch.optim.Adam(supernet.logits, 0.05, betas=(0.5, 0.999))
    batches = list(loader())
    total, step, scored, pending, read = EPOCHS * len(batches) // accumulate, 0, None, None, []
    for _ in range(EPOCHS):
        for number, (images, targets) in enumerate(batches):
            if search.is_due(step, total) and step != scored:
                scored, samples = step, [search.draw() for _ in range(2)]
                losses = []
                network.eval()
                for nodes in samples:
                    supernet.activate(nodes)
                    with torch.no_grad(), context():
                        losses.append(functional.cross_entropy(network(images), targets).float())
                network.train()
                pending = samples, torch.stack(losses)
            supernet.activate(search.path(step, total))
            read.append(read_by(network, supernet.nodes))
            with context():
                loss = functional.cross_entropy(network(images), targets) / accumulate
            (loss if scaler is None else scaler.scale(loss)).backward()
            if (number + 1) % accumulate:
                continue
            if scaler is not None:
                scaler.unscale_(weights)
            if pending is not None:
                gradients = torch.autograd.grad(search.objective(*pending), supernet.logits)
                for row, gradient in zip(supernet.logits, gradients, strict=True):
                    row.grad = gradient
                logits.step()
                logits.zero_grad()
                search.update_multipliers()
                pending = None
            with kept(network, weights, read):
                if scaler is None:
                    weights.step()
                else:
                    scaler.step(weights)
                    scaler.update()
            read = []
            weights.zero_grad()
            step += 1
    return network


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:You're resuming from a checkpoint")
@pytest.mark.parametrize("resumed", [False, True], ids=["straight", "resumed"])
@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_it_equals_a_plain_loop(tmp_path, precision, accumulate, resumed):
    options, context, scaler = plugin(precision)
    module = Plain()
    expected = plain_loop(copy.deepcopy(module.network), context, scaler, accumulate)
    options["accumulate_grad_batches"] = accumulate
    if resumed:
        # In the middle of the second epoch, between two optimizer steps.
        saved = ModelCheckpoint(tmp_path, save_top_k=-1, every_n_train_steps=12 // accumulate, filename="{step}")
        fit(copy.deepcopy(module), searching(warmup=0.25), tmp_path, [saved], data=Stateful(), **options)
        options = {**plugin(precision)[0], "accumulate_grad_batches": accumulate}
        path = tmp_path / f"step={12 // accumulate}.ckpt"
        fit(module, searching(warmup=0.25), tmp_path, ckpt_path=path, data=Stateful(), **options)
    else:
        fit(module, searching(warmup=0.25), tmp_path, **options)
    pairs = zip(module.network.parameters(), expected.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) <= 1e-6
    assert max(float(row.detach().abs().max()) for row in expected.supernet.logits) > 0


def within(search):
    space = search.search.supernet.space
    full = LinearEstimator().latency_ms(space.decode(space.reference_nodes))
    return LinearEstimator().latency_ms(search.architecture) <= 0.6 * full * (1 + 1e-9)


@pytest.mark.parametrize(
    ("callbacks", "options"),
    [
        ([EarlyStopping("val_loss", patience=0)], {"max_epochs": 4}),
        ([ModelCheckpoint(monitor="val_loss")], {}),
        ([StochasticWeightAveraging(1e-3, swa_epoch_start=1)], {"max_epochs": 3}),
        ([LearningRateFinder(num_training_steps=6)], {}),
        ([], {"gradient_clip_val": 0.1}),
        ([], {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}),
        ([], {"max_epochs": -1, "max_steps": 9}),
        ([], {"val_check_interval": 0.5}),
        ([], {"precision": "bf16-true"}),
    ],
    ids=["early", "checkpoint", "swa", "lr-finder", "norm", "value", "max-steps", "interval", "bf16-true"],
)
def test_what_users_put_beside_it(tmp_path, callbacks, options):
    search, module = searching(), Plain()
    trainer = fit(module, search, tmp_path, callbacks, **options)
    assert trainer.global_step > 0
    assert search.history
    assert within(search)
    subnet = search.derive(module)
    assert all(torch.isfinite(p).all() for p in subnet.parameters())


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
    with pytest.raises(TypeError, match="must return a loss"):
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
    arguments += [f"{callback}.estimator=ethos_u85_1024", f"{callback}.candidates=1", f"{callback}.phases=joint"]
    monkeypatch.setattr(sys, "argv", ["cli", *arguments])
    cli = LightningCLI(Plain, Data, save_config_callback=None, seed_everything_default=0)
    (search,) = (found for found in cli.trainer.callbacks if isinstance(found, ArchitectureSearch))
    assert search.architecture
    assert search.search.budgets.limits[0].name == "latency_ms"


def test_strategies_that_shard_are_refused():
    for strategy in (FSDPStrategy(), SimpleNamespace(handles_gradient_accumulation=True)):
        with pytest.raises(MisconfigurationException, match="ddp_find_unused_parameters_true"):
            refuse_strategy(SimpleNamespace(strategy=strategy))


SCRIPT = """
import json, sys
sys.path.insert(0, {tests!r})
from test_lightning import *

if __name__ == "__main__":
    search, module = searching(candidates=2), Plain()
    trainer = fit(module, search, {folder!r}, strategy=sys.argv[1], devices=2, use_distributed_sampler=False)
    totals = [round(float(sum(p.detach().double().abs().sum() for p in rows)), 6)
              for rows in (search.search.supernet.logits, module.parameters())]
    print("RANK", json.dumps([totals, search._ranked, len(search.history), within(search)]), flush=True)
"""


def run_on_two_processes(tmp_path, strategy):
    path = tmp_path / "two.py"
    path.write_text(textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    return subprocess.run(
        [sys.executable, str(path), strategy], capture_output=True, text=True, timeout=300, check=False
    )


def test_two_processes_decide_alike(tmp_path):
    done = run_on_two_processes(tmp_path, "ddp_find_unused_parameters_true")
    lines = [line.removeprefix("RANK ") for line in done.stdout.splitlines() if line.startswith("RANK")]
    assert done.returncode == 0, done.stderr
    assert len(lines) == 2
    assert lines[0] == lines[1]
    totals, ranked, num_steps, is_within = json.loads(lines[0])
    assert is_within
    # Both see the same batches, so what they find is what one process finds.
    search, module = searching(candidates=2), Plain()
    fit(module, search, tmp_path)
    assert totals[1] == pytest.approx(
        float(sum(p.detach().double().abs().sum() for p in module.parameters())), rel=1e-5
    )
    assert ranked == [list(nodes) for nodes in search._ranked]
    assert num_steps == len(search.history)


def test_processes_that_expect_every_gradient_are_refused(tmp_path):
    done = run_on_two_processes(tmp_path, "ddp")
    assert done.returncode != 0
    assert "A step of ArchitectureSearch trains one path" in done.stderr
    assert "ddp_find_unused_parameters_true" in done.stderr

"""Private names of Lightning and PyTorch: they are there, mean what they did, and stand in one module."""

import ast
from pathlib import Path

import lightning
import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.compile import from_compiled
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_nas
from lightning_nas.search.lightning_internals import (
    buffers_of,
    combining_mode,
    extend_fit,
    is_compiled,
    syncs_batch_norm,
    uncompiled,
)

SEEN_IN = "lightning 2.6.6 and torch 2.14.1"
PACKAGE = Path(lightning_nas.__file__).parent
NAMES = {"_layer_sync", "_compiler_ctx", "_orig_mod", "_combined_loader", "_mode", "_buffers"}
# Attributes that were used once; there is a public way.
REPLACED = {"_sync_buffers", "_trainer", "_modules"}
# No public way: to replace a submodule under each name that it has; to read a buffer of an elastic class, whose
# attribute is a slice of it; to tell the tensors that a module can have and has not, such as a bias.
ELSEWHERE = {
    ("supernet/elastic_class.py", "_buffers"),
    ("supernet/elastic_leaves.py", "_modules"),
    ("supernet/rebuild.py", "_modules"),
    ("supernet/rebuilding.py", "_buffers"),
}
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def loader():
    return DataLoader(TensorDataset(torch.zeros(4, 2)), batch_size=2)


def gone(owner, name):
    versions = f"lightning {lightning.__version__} and torch {torch.__version__}"
    return f"{owner} has no {name!r} in {versions}; it was seen in {SEEN_IN}. See search/lightning_internals.py."


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (DDPStrategy, "_layer_sync"),
        (Module, "_compiler_ctx"),
        (lambda: torch.compile(nn.Linear(2, 1)), "_orig_mod"),
        (lambda: pl.Trainer(accelerator="cpu", **QUIET).fit_loop, "_combined_loader"),
        (lambda: pl.Trainer(accelerator="cpu", **QUIET).fit_loop, "max_epochs"),
        (lambda: CombinedLoader([loader()]), "_mode"),
        (nn.Module, "_buffers"),
    ],
)
def test_the_names_are_there(make, name):
    owner = make()
    assert hasattr(owner, name), gone(type(owner).__name__, name)


@pytest.mark.parametrize(("sync", "devices"), [(True, 2), (False, 2)])
def test_a_trainer_says_whether_it_synchronizes_batch_norm(sync, devices):
    options = {"accelerator": "cpu", "strategy": "ddp", "devices": devices, **QUIET}
    assert syncs_batch_norm(pl.Trainer(sync_batchnorm=sync, **options).strategy) == sync
    assert not syncs_batch_norm(SingleDeviceStrategy())


def test_compiled_modules_are_told_and_unwrapped():
    plain = Module()
    assert not is_compiled(plain)
    assert uncompiled(plain) is plain
    wrapped = torch.compile(plain)
    assert uncompiled(wrapped) is plain
    assert is_compiled(from_compiled(wrapped))


def test_the_buffers_are_the_module_s_own():
    norm = nn.BatchNorm1d(2)
    buffers_of(norm)["running_mean"] = torch.ones(2)
    assert norm.running_mean.sum() == 2
    assert set(buffers_of(norm)) == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("mode", ["min_size", "max_size_cycle"])
def test_a_fit_says_how_it_combines_loaders_and_can_be_extended(tmp_path, mode):
    class Extend(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            self.mode = combining_mode(trainer)
            extend_fit(trainer, 3)

    class Combined(Module):
        def training_step(self, batch, batch_idx):
            return self.layer(batch["a"][0]).mean()

    extend = Extend()
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[extend], default_root_dir=tmp_path, **QUIET)
    assert combining_mode(trainer) == "max_size_cycle"
    trainer.fit(Combined(), CombinedLoader({"a": loader(), "b": loader()}, mode))
    assert extend.mode == mode
    assert trainer.current_epoch == trainer.max_epochs == 3


def test_no_other_module_uses_private_names_of_lightning():
    found = []
    for path in PACKAGE.rglob("*.py"):
        file = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                is_own = isinstance(node.value, ast.Name) and node.value.id == "self"
                name = "" if is_own else node.attr
            else:  # as in getattr(strategy, "_layer_sync")
                name = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            found += [(file, name)] if name in NAMES | REPLACED else []
    others = {one for one in found if one[0] != "search/lightning_internals.py"}
    assert others <= ELSEWHERE
    assert {name for file, name in found if file == "search/lightning_internals.py"} == NAMES


@pytest.mark.parametrize("room", ["budget", "search", "training", "multishot"])
def test_no_other_module_of_a_room_reads_private_attributes_of_others(room):
    found = []
    for path in (PACKAGE / room).glob("*.py"):
        if path.name == "lightning_internals.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_private = isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__")
            if is_private and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                found.append(f"{path.name}:{node.lineno} {node.attr}")
    assert not found

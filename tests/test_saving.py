"""Subnets of a module of one's own: saved, loaded in another process, and found there for another budget."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import timm
import torch
import torch.nn.functional as F
from conftest import LinearEstimator, small_network
from lightning.pytorch.callbacks import ModelCheckpoint
from searches import search_of
from torch import nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas import load_subnet, supernet_from
from lightning_nas.supernet import derive
from lightning_nas.supernet.subnet import architecture_of

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
IMAGES = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class MyModule(pl.LightningModule):
    """A user's module: a network with activations of his own, a frozen stem, a head that has two names."""

    def __init__(self, num_classes=4):
        super().__init__()
        self.model = nn.ModuleDict({"network": small_network(num_classes)})
        network = self.model["network"]
        for module in list(network.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.ReLU6):
                    setattr(module, name, nn.LeakyReLU(0.2))
        network.features[0].requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))
        self.factor = self.scale

    def forward(self, images):
        return self.factor * self.model["network"](images)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def loader():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(32, 3, 32, 32, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(0, 4, (32,), generator=generator)), batch_size=8)


def start():
    """Return a module whose network is a supernet, and a search for it, as in each process."""
    torch.manual_seed(0)
    module = MyModule()
    module.model["network"] = supernet_from(module.model["network"], IMAGES[:1])
    return module, search_of(LinearEstimator(), latency="0.6x", every=2, candidates=4, evaluations=0)


def in_another_process(folder):
    """Load the saved subnet, and derive one for another budget from the checkpoint."""
    subnet = load_subnet(folder / "saved", model=MyModule())
    torch.save({"loaded": subnet(IMAGES), "training": subnet.training}, folder / "loaded.pt")
    module, search = start()
    trainer = pl.Trainer(max_epochs=2, callbacks=[search], default_root_dir=folder, enable_checkpointing=False, **QUIET)
    trainer.fit(module, loader(), ckpt_path=folder / "last.ckpt")
    other = search.derive(module, latency="0.8x")
    search.save(folder / "other", other)
    torch.save({"steps": trainer.global_step, "outputs": other.eval()(IMAGES)}, folder / "other.pt")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    module, search = start()
    keep = ModelCheckpoint(folder, filename="last", save_on_train_epoch_end=True)
    trainer = pl.Trainer(max_epochs=2, callbacks=[search, keep], default_root_dir=folder, **QUIET)
    trainer.fit(module, loader())
    subnet = search.derive(module)
    with torch.no_grad():
        subnet.scale.fill_(1.5)  # as fine-tuning would
    search.save(folder / "saved", subnet)
    return SimpleNamespace(folder=folder, module=module, search=search, subnet=subnet.eval(), steps=trainer.global_step)


@pytest.fixture(scope="module")
def elsewhere(searched):
    code = f"import sys, pathlib; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_saving; "
    code += f"test_saving.in_another_process(pathlib.Path({str(searched.folder)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    names = ("loaded", "other")
    return SimpleNamespace(**{n: torch.load(searched.folder / f"{n}.pt", weights_only=True) for n in names})


def test_a_subnet_of_ones_own_module_is_loaded_in_another_process(searched, elsewhere):
    assert torch.equal(elsewhere.loaded["loaded"], searched.subnet(IMAGES))
    assert not elsewhere.loaded["training"]


def test_another_budget_is_served_in_another_process_from_the_checkpoint(searched, elsewhere):
    assert elsewhere.other["steps"] == searched.steps
    other = searched.search.derive(searched.module, latency="0.8x")
    saved = json.loads((searched.folder / "other" / "architecture.json").read_text())
    expected = architecture_of(other.model["network"], searched.search.search.supernet)
    assert {name: saved[name] for name in ("widths", "blocks")} == {
        name: json.loads(expected.to_json())[name] for name in ("widths", "blocks")
    }
    assert LinearEstimator().latency_ms(expected) > LinearEstimator().latency_ms(searched.search.architecture)
    assert torch.equal(elsewhere.other["outputs"], other.eval()(IMAGES))


def test_a_saved_subnet_is_the_module_with_its_weights_and_its_frozen_stem(searched):
    source = MyModule()
    keys = list(source.state_dict())
    again = load_subnet(searched.folder / "saved", model=source)
    assert type(again) is MyModule
    assert list(source.state_dict()) == keys  # what is given is not converted
    assert not any(type(m).__module__.startswith("lightning_nas") for m in again.modules())
    state = searched.subnet.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())
    assert {n: p.requires_grad for n, p in again.named_parameters()} == {
        n: p.requires_grad for n, p in searched.subnet.named_parameters()
    }


def test_without_a_subnet_the_found_one_is_saved_and_a_part_can_be_saved_alone(searched, tmp_path):
    searched.search.save(tmp_path / "whole")
    network = searched.search.derive(searched.module.model["network"]).eval()
    searched.search.save(tmp_path / "part", network)
    whole = load_subnet(tmp_path / "whole", model=MyModule())
    part = load_subnet(tmp_path / "part", model=MyModule().model["network"])
    assert torch.equal(whole.model["network"](IMAGES), part(IMAGES))
    assert torch.equal(part(IMAGES), network(IMAGES))
    assert not list(tmp_path.rglob("*.part"))


def test_what_no_subnet_is_of_is_refused(searched, tmp_path):
    saved = searched.folder / "saved"
    with pytest.raises(ValueError, match=r"load_subnet\('.*saved', model=MyModule\(\.\.\.\)\)"):
        load_subnet(saved)
    with pytest.raises(ValueError, match="is not one of this MyModule"):
        load_subnet(saved, model=MyModule(num_classes=7))
    with pytest.raises(ValueError, match="is not one of this MobileNetV2"):
        load_subnet(saved, model=small_network())
    with pytest.raises(FileNotFoundError, match="of a finished run or of a saved subnet"):
        load_subnet(tmp_path, model=MyModule())
    with pytest.raises(ValueError, match="`subnet` must be what this search's `derive` gave, fine-tuned or not"):
        searched.search.save(tmp_path, searched.module)
    with pytest.raises(ValueError, match=r"fine-tuned or not: It has latency_ms=.*, over its budget"):
        searched.search.save(tmp_path, MyModule())  # which was never searched
    with pytest.raises(ValueError, match=r"must be what `derive` gave: a MyModule, or its part 'model\.network'"):
        searched.search.save(tmp_path, nn.Linear(3, 3))
    with pytest.raises(RuntimeError, match="has not run"):
        search_of(LinearEstimator(), latency="0.6x").save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_of_a_saved_subnet_is_refused_and_runs_nothing(searched, tmp_path):
    for name in ("architecture.json", "subnet.safetensors"):
        (tmp_path / name).write_bytes((searched.folder / "saved" / name).read_bytes())
    (tmp_path / "subnet.safetensors").write_bytes(b"\x80\x04\x95junk.")
    with pytest.raises(ValueError, match=r"subnet\.safetensors.* cannot be read, it is damaged"):
        load_subnet(tmp_path, model=MyModule())
    described = json.loads((tmp_path / "architecture.json").read_text())
    (tmp_path / "architecture.json").write_text(json.dumps({**described, "path": "model.elsewhere"}))
    with pytest.raises(ValueError, match="elsewhere"):
        load_subnet(tmp_path, model=MyModule())


@pytest.mark.parametrize("make", [small_network, lambda: timm.create_model("mobilenetv2_035")], ids=["tv", "timm"])
def test_a_plain_network_tells_its_architecture(make):
    supernet = supernet_from(make(), IMAGES[:1])
    space = supernet.supernet.space
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        nodes = [int(torch.randint(size, (), generator=generator)) for size in space.node_sizes]
        assert architecture_of(derive(supernet, nodes), supernet.supernet).network == space.decode(nodes).network


def test_a_subnet_that_was_changed_is_not_saved(searched, tmp_path):
    def other_activation(subnet):
        subnet.model["network"].features[2].conv[0][2] = nn.SiLU()

    def pruned(subnet):
        prune.l1_unstructured(subnet.model["network"].classifier[-1], "weight", 0.5)

    def other_classifier(subnet):
        subnet.model["network"].classifier[-1] = nn.Linear(subnet.model["network"].last_channel, 7)

    for change in (other_activation, pruned, other_classifier):
        subnet = copy.deepcopy(searched.subnet)
        change(subnet)
        with pytest.raises(ValueError, match="`subnet` must"):
            searched.search.save(tmp_path, subnet)
    assert not list(tmp_path.iterdir())


def test_a_model_of_other_settings_is_not_filled(searched):
    other = MyModule()
    for norm in other.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 0.1
    with pytest.raises(ValueError, match="gives other outputs than when it was saved"):
        load_subnet(searched.folder / "saved", model=other)

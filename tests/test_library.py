"""Search by a library: nothing is trained, the budget is kept, and what is found is near to the source."""

import lightning.pytorch as pl
import pytest
import torch
from test_replace_one import smooth
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.models import mobilenet_v2

from lightning_nas import ArchitectureSearch, load_subnet
from lightning_nas.search import Library, Selection
from lightning_nas.search.is_trained import warn_untrained
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import derive, find_supernet, recalibrate, space_of, supernet_from
from lightning_nas.supernet.source_judge import SourceJudge

SHALLOW = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 1]]
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


class Module(pl.LightningModule):
    """A user's module; its batches are dictionaries."""

    def __init__(self, network):
        super().__init__()
        self.network, self.num_steps = network, 0

    def training_step(self, batch, batch_idx):
        self.num_steps += 1
        return functional.cross_entropy(self.network(2 * batch["pixels"]), batch["label"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Pairs(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"pixels": self.images[index], "label": index % 4}


def network_of():
    torch.manual_seed(0)
    images = smooth(48)
    network = mobilenet_v2(num_classes=4, inverted_residual_setting=SHALLOW)
    recalibrate(network.eval(), network, [2 * images])
    return network, images


@pytest.fixture
def module():
    network, images = network_of()
    options = SpaceOptions(ratios=(0.5, 0.75, 1.0), kernels=(3,), expansions=(2, 3, 6))
    supernet_from(network, images[:1], space_of(network, images[:1], options=options))
    return Module(network), images


def searched(module, images, estimator, folder, method=None, **settings):
    search = ArchitectureSearch(estimator, latency="0.7x", method=method or Library(num_images=48), **settings)
    trainer = pl.Trainer(max_epochs=3, callbacks=[search], default_root_dir=folder, enable_checkpointing=False, **QUIET)
    trainer.fit(module, DataLoader(Pairs(images), batch_size=16))
    return search, trainer


def test_a_trained_module_is_searched_without_a_step(module, estimator, tmp_path):
    module, images = module
    with torch.no_grad():
        goal = module.eval().network(2 * images)
    search, trainer = searched(module, images, estimator, tmp_path, selection=Selection(num_candidates=4))
    space = find_supernet(module).space
    assert trainer.global_step == 0
    assert trainer.max_epochs == 3
    assert module.num_steps == 0
    assert search.limits_in(space).allows(space.encode(search.architecture))
    find_supernet(module).activate(space.reference_encoding)
    with torch.no_grad():
        torch.testing.assert_close(module.eval().network(2 * images), goal, rtol=1e-3, atol=1e-4)
    # It is nearer to the source than random members of the same cost are.
    judge = SourceJudge(module, 2 * images)
    chosen = space.encode(search.architecture)
    found = judge.judge(judge.refitted(chosen)).error
    table, generator = search.limits_in(space).costs[0], torch.Generator().manual_seed(0)
    others = []
    while len(others) < 6:
        encoding = tuple(int(torch.randint(size, (1,), generator=generator)) for size in space.node_sizes)
        if 0.9 < table.table.exact(encoding) / table.budget <= 1:
            others.append(judge.judge(judge.refitted(encoding)).error)
    assert found < min(others)


def test_what_is_found_is_derived_refitted_saved_and_found_for_other_budgets(module, estimator, tmp_path):
    module, images = module
    search, _ = searched(module, images, estimator, tmp_path, selection=Selection(num_candidates=2))
    subnet = search.derive(module)
    assert isinstance(subnet, Module)
    judge, encoding = SourceJudge(module, 2 * images), find_supernet(module).space.encode(search.architecture)
    raw = judge.judge(derive(module.network, encoding)).error
    assert judge.judge(subnet.network).error < 0.9 * raw
    search.save(tmp_path / "saved", subnet)
    loaded = load_subnet(tmp_path / "saved", model=Module(network_of()[0]))
    with torch.no_grad():
        assert torch.equal(loaded.eval().network(images), subnet.eval().network(images))
    (tighter, *_) = search.find(latency="0.5x")
    assert estimator.latency_ms(tighter) < 0.75 * estimator.latency_ms(search.architecture)
    assert search.derive(module, latency="0.5x") is not None
    with pytest.raises(ValueError, match="A frontier compares losses of a trained supernet, and Library trains none"):
        search.frontier()


def test_what_is_derived_is_refined_where_options_were(module, estimator, tmp_path):
    module, images = module
    method, few = Library(num_images=48, rounds=1, refine_steps=10, num_workers=2), Selection(num_candidates=1)
    search, _ = searched(module, images, estimator, tmp_path, method, selection=few)
    judge, encoding = SourceJudge(module, 2 * images), find_supernet(module).space.encode(search.architecture)
    closed = judge.judge(judge.refitted(encoding)).error
    assert judge.judge(search.derive(module).network).error < closed


def test_a_search_that_was_made_is_not_made_again(module, estimator, tmp_path):
    module, images = module
    search, trainer = searched(module, images, estimator, tmp_path, selection=Selection(num_candidates=2))
    trainer.save_checkpoint(tmp_path / "search.ckpt")
    again = ArchitectureSearch(estimator, latency="0.7x", method="library")
    other = pl.Trainer(max_epochs=3, callbacks=[again], default_root_dir=tmp_path, enable_checkpointing=False, **QUIET)
    images = torch.full_like(images, torch.nan)  # none are read
    other.fit(module, DataLoader(Pairs(images), batch_size=16), ckpt_path=tmp_path / "search.ckpt", weights_only=False)
    assert again.candidates == search.candidates
    assert not again.has_chosen


def test_a_network_that_is_not_trained_is_said_to_be_so(module, estimator, tmp_path, caplog):
    module, images = module
    searched(module, images, estimator, tmp_path, selection=Selection(num_candidates=1))
    assert "The network is hardly trained: its loss is" in caplog.text


def test_a_network_that_is_trained_is_not(caplog):
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 4, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(4 * torch.eye(4, 8))
    batch = {"pixels": torch.eye(4, 8).view(4, 1, 2, 4), "label": torch.arange(4)}
    warn_untrained(Module(network), network, [batch, batch])
    assert "hardly trained" not in caplog.text
    with torch.no_grad():
        network[1].weight.zero_()
    warn_untrained(Module(network), network, [batch])
    assert "hardly trained" in caplog.text


class Listed(Module):
    """Its network takes a list."""

    def training_step(self, batch, batch_idx):
        return self.network([batch["pixels"]]).sum()


def test_a_network_that_gets_no_images_is_refused(module, estimator, tmp_path):
    module, images = module
    listed = Listed(module.network)
    search = ArchitectureSearch(estimator, latency="0.7x", method=Library(num_images=48))
    trainer = pl.Trainer(
        max_epochs=3, callbacks=[search], default_root_dir=tmp_path, enable_checkpointing=False, **QUIET
    )
    with pytest.raises(ValueError, match="first argument that the network is called with is list"):
        trainer.fit(listed, DataLoader(Pairs(images), batch_size=16))
    assert trainer.max_epochs == 3


OUT_OF_RANGE = [
    {"num_images": 1},
    {"rounds": 0},
    {"refine_steps": -1},
    {"num_workers": -1},
    {"budget_use": 1.0},
    {"seed": -1},
]


@pytest.mark.parametrize("settings", OUT_OF_RANGE)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Library(**settings)

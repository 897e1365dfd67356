"""Searches of networks that are no MobileNetV2, and what is said where one cannot be searched."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from limits import limits_of
from searches import STRATEGIES, search_of, training_of
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3
from torchvision.models.resnet import BasicBlock

from lightning_nas.budget.budget import Budget
from lightning_nas.search.engine import Search
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import space_of, supernet_from

pytestmark = pytest.mark.usefixtures("few_anchors")
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
OPTIONS = SpaceOptions(kinds=("ibn", "fused", "skip"), expansions=(2,), ratios=(0.5, 1.0))


class Residual(nn.Module):
    """ResNet's basic blocks between a stem and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        down = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32))
        self.blocks = nn.Sequential(BasicBlock(16, 16), BasicBlock(16, 32, 2, down), BasicBlock(32, 32))
        self.fc = nn.Linear(32, 4)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


class Chain(nn.Module):
    """A block whose convolutions stand in the network itself, and a concatenation behind it."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16)
        self.expand, self.expand_norm = nn.Conv2d(16, 64, 1), nn.BatchNorm2d(64)
        self.depthwise, self.norm = nn.Conv2d(64, 64, 3, 1, 1, groups=64), nn.BatchNorm2d(64)
        self.project = nn.Conv2d(64, 16, 1)
        self.act, self.act2 = nn.ReLU6(), nn.ReLU6()
        self.joined = nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, 4)

    def forward(self, x):
        x = self.stem_norm(self.stem(x)).relu()
        y = self.act(self.expand_norm(self.expand(x)))
        y = self.project(self.act2(self.norm(self.depthwise(y))))
        return self.fc(self.joined(torch.cat([x, y], 1)).relu().mean((2, 3)))


def squeezed():
    config = partial(InvertedResidualConfig, dilation=1, width_mult=1.0)
    rows = [(16, 3, 16, 16, True, "RE", 2), (16, 3, 32, 16, True, "HS", 2), (16, 3, 32, 16, True, "HS", 1)]
    return MobileNetV3([config(*row) for row in rows], 32, num_classes=4, dropout=0.0)


NETWORKS = {"residual": Residual, "squeezed": squeezed, "chain": Chain}


def converted(name, options=OPTIONS):
    torch.manual_seed(0)
    network, image = NETWORKS[name](), torch.zeros(1, 3, 32, 32)
    return supernet_from(network, image, space_of(network, image, options=options))


class Plain(pl.LightningModule):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.cross_entropy(self.network(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Late(Plain):
    """Its network becomes a supernet when the Trainer builds it."""

    def __init__(self):
        super().__init__(NETWORKS["residual"]())

    def configure_model(self):
        if not hasattr(self.network, "supernet"):
            image = torch.zeros(1, 3, 32, 32)
            supernet_from(self.network, image, space_of(self.network, image, options=OPTIONS))


def loader():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(16, 3, 32, 32, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(0, 4, (16,), generator=generator)), batch_size=8)


def searching(estimator, **settings):
    settings = {"every": 1, "candidates": 1, "evaluations": 0, "random_subnets": 0, **settings}
    return search_of(estimator, latency="0.8x", **settings)


def fit(module, search, tmp_path, **options):
    ckpt_path = options.pop("ckpt_path", None)
    trainer = pl.Trainer(
        max_epochs=2, callbacks=[search], default_root_dir=tmp_path, enable_checkpointing=False, **QUIET, **options
    )
    trainer.fit(module, loader(), loader(), ckpt_path=ckpt_path)
    return trainer


def is_searched(search, module, estimator):
    """Return whether what a search found is within the budget; its derived network runs on classes of others."""
    space = search.search.supernet.space
    full = estimator.latency_ms(space.decode(space.reference_encoding))
    subnet = search.derive(module)
    assert all(not type(child).__module__.startswith("lightning_nas") for child in subnet.network.modules())
    assert subnet.network(torch.zeros(2, 3, 32, 32)).shape == (2, 4)
    return estimator.latency_ms(search.architecture) <= 0.8 * full * (1 + 1e-9)


@pytest.mark.parametrize("name", ["residual", "squeezed"])
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_searches_any_network(estimator, tmp_path, strategy, name):
    search, module = searching(estimator, strategy=strategy), Plain(converted(name))
    fit(module, search, tmp_path)
    assert is_searched(search, module, estimator)
    # What cannot be told apart by the losses learns nothing; a uniform path never learns.
    assert any(bool(row.detach().any()) for row in search.search.logits) == (strategy != "spos")


def test_a_network_of_single_convolutions_is_searched_by_paths(estimator, tmp_path):
    search, module = searching(estimator), Plain(converted("chain"))
    fit(module, search, tmp_path)
    assert is_searched(search, module, estimator)


@pytest.mark.parametrize("strategy", ["darts", "fbnetv2", "gdas"])
def test_blocks_that_cannot_be_mixed_are_refused_before_the_training(estimator, tmp_path, strategy):
    module = Plain(converted("chain"))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    with pytest.raises(ValueError, match=r"The block at 'expand' is no module of its own.*HINT: .* Rloo"):
        fit(module, searching(estimator, strategy=strategy), tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())


def test_the_drawn_path_alone_teaches_the_logits_of_its_options(estimator):
    """With one option of each node the gradient of its gate is what the output times its gradient sums to."""
    network = converted("residual")
    space = network.supernet.space
    limits = limits_of(space, estimator, Budget(latency="0.8x"))
    search = Search(network.supernet, limits, training_of(strategy="gdas"))
    network.supernet.use_batch_statistics(True)
    search.mix(search.gates(0.5))
    loss = network(torch.rand(4, 3, 32, 32)).square().sum()
    gradients = torch.autograd.grad(loss, search.logits)
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)


def test_statistics_of_channels_behind_a_concatenation_are_recalibrated(estimator):
    """The norm of a concatenation runs on channels that are no leading ones."""
    network, images = converted("chain"), torch.rand(8, 3, 32, 32)
    handle = network.supernet
    handle.activate([0] * len(handle.space.node_sizes))
    network.train()(images)
    kept = network.joined.running_mean != 0
    assert 0 < int(kept.sum()) < 32
    assert not kept[: int(kept.sum())].all()


def test_a_network_that_is_converted_by_configure_model_is_searched(estimator, tmp_path):
    torch.manual_seed(0)
    search, module = searching(estimator), Late()
    trainer = fit(module, search, tmp_path)
    assert is_searched(search, module, estimator)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again, resumed = searching(estimator), Late()
    fit(resumed, again, tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert again.architecture == search.architecture


def test_a_checkpoint_of_another_space_is_refused(estimator, tmp_path):
    trainer = fit(Plain(converted("residual")), searching(estimator), tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    for options in (SpaceOptions(ratios=(0.75, 1.0)), SpaceOptions(kernels=(5,), ratios=(0.5, 1.0))):
        other = Plain(converted("residual", options))
        with pytest.raises(ValueError, match="The checkpoint is of another search space than the model's"):
            fit(other, searching(estimator), tmp_path, ckpt_path=tmp_path / "last.ckpt")


def test_images_of_another_size_are_warned_of(estimator, tmp_path, caplog):
    class Larger(Plain):
        def training_step(self, batch, batch_idx):
            return functional.cross_entropy(self.network(functional.interpolate(batch[0], scale_factor=1.5)), batch[1])

    fit(Larger(converted("residual")), searching(estimator), tmp_path)
    assert "runs on images of 48 x 48 pixels, and its costs are of 32 x 32" in caplog.text

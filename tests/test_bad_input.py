"""What goes wrong in practice: too little data or choice, losses that are not finite, checkpoints of something else."""

import dataclasses
import math

import pytest
import torch
from conftest import LinearEstimator, small_network
from lightning.pytorch.callbacks import ModelCheckpoint
from plain_loop import Plain, Stateful, fit, largest_difference, loader, make_supernet, plugin, searching, within
from searches import search_of
from torch.utils.data import DataLoader, Subset

from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import space_of, supernet_from


def test_fewer_images_than_a_batch_are_a_step_an_epoch(tmp_path):
    few = DataLoader(Subset(loader().dataset, range(3)), batch_size=8)
    search, module = searching(), Plain()
    trainer = fit(module, search, tmp_path, data=few, val=few)
    assert trainer.global_step == 2
    assert len(search.history) == 1
    assert within(search)
    assert search.derive(module).network(torch.zeros(2, 3, 32, 32)).isfinite().all()


def converted(blocks):
    """Return a supernet in which some blocks, or all, have their own option only; then also the widths are fixed."""
    torch.manual_seed(0)
    network, image = small_network(), torch.zeros(1, 3, 32, 32)
    space = space_of(network, image, options=SpaceOptions(ratios=(1.0,) if blocks is None else (0.5, 0.75, 1.0)))
    choices = [
        dataclasses.replace(choice, options=(choice.own,)) if blocks is None or number in blocks else choice
        for number, choice in enumerate(space.choices)
    ]
    space = dataclasses.replace(space, choices=tuple(choices))
    return supernet_from(network, image, space)


def test_a_block_of_one_option_keeps_it(tmp_path):
    module, search = Plain(converted(blocks=(2,))), searching()
    own = module.network.supernet.space.choices[2].options
    assert len(own) == 1
    fit(module, search, tmp_path)
    assert search.architecture.blocks[2][1] == own[0]
    assert search.history
    assert within(search)


def test_a_space_of_one_member_is_that_member_or_too_slow(tmp_path):
    module = Plain(converted(blocks=None))
    space = module.network.supernet.space
    assert space.num_architectures == 1
    search = search_of(LinearEstimator(), latency="1x", every=2, evaluations=0)
    fit(module, search, tmp_path)
    assert search.candidates == [space.decode(space.reference_encoding)]
    assert search.history[-1]["nas/entropy"] == 0
    assert search.derive(module).network(torch.zeros(2, 3, 32, 32)).isfinite().all()
    with pytest.raises(ValueError, match=r"latency_ms=.* is below what the space can reach"):
        fit(Plain(converted(blocks=None)), searching(), tmp_path)


class NotFinite(Plain):
    """Its loss is not a number in the first batches of the training."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * math.nan if self.trainer.training and self.trainer.global_step < self.batches else loss


def test_losses_that_are_not_finite_at_first_are_skipped_and_counted(tmp_path):
    # The scaler of fp16 skips the steps of the weights, as it does where fp16 overflows.
    search, module = searching(), NotFinite(batches=7)
    trainer = fit(module, search, tmp_path, **plugin("fp16")[0])
    assert search.search.rewards.num_skipped == 2, "of steps 4 and 6"
    assert [record["step"] for record in search.history] == [8, 10, 12, 14]
    assert trainer.callback_metrics["nas/skipped"] == 2
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    assert within(search)


@pytest.mark.parametrize("batches", [7, 1000])
def test_losses_that_are_never_finite_end_the_search(tmp_path, batches):
    search = searching(candidates=3)
    with pytest.raises(RuntimeError, match=r"The supernet's training has diverged in epoch 0: '.* not finite.*HINT"):
        fit(NotFinite(batches=batches), search, tmp_path, max_epochs=4)
    assert not search.state.progress.ranked


class NotFiniteInEvaluation(Plain):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if self.training else loss * float("nan")


def test_subnets_without_a_finite_loss_are_not_compared(tmp_path):
    search = searching(candidates=3)
    with pytest.raises(RuntimeError, match=r"None of 3 compared subnets has a finite loss.*HINT"):
        fit(NotFiniteInEvaluation(), search, tmp_path)
    assert not search.state.progress.ranked


class Skipping(Plain):
    """It leaves out batches by returning None, as Lightning lets modules do."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx in (4, 5) else super().training_step(batch, batch_idx)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_batches_that_the_module_leaves_out_are_left_out(tmp_path):
    search, module = searching(candidates=2), Skipping()
    fit(module, search, tmp_path)
    assert search.search.rewards.num_skipped > 0
    assert search.history
    assert within(search)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A search interrupted in its second epoch."""
    folder = tmp_path_factory.mktemp("interrupted")
    saved = ModelCheckpoint(folder, save_top_k=-1, every_n_train_steps=12, filename="{step}")
    fit(Plain(), searching(), folder, [saved], data=Stateful())
    return folder / "step=12.ckpt"


def test_a_budget_out_of_reach_on_resume_stops_before_anything_is_done(tmp_path, checkpoint):
    module, before = Plain(), checkpoint.read_bytes()
    search = search_of(LinearEstimator(), latency="0.01x", every=2)
    message = r"latency_ms=0\.0683298 is below what the space can reach: 1\.74934 \(minimum\) to 14\.213 \(maximum\)"
    with pytest.raises(ValueError, match=message):
        fit(module, search, tmp_path, [ModelCheckpoint(tmp_path)], ckpt_path=checkpoint, data=Stateful())
    assert largest_difference(module.network, make_supernet()) == 0
    assert not list(tmp_path.iterdir())
    assert checkpoint.read_bytes() == before
    with pytest.raises(RuntimeError, match="The search has not run"):
        search.derive(module)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize(
    ("options", "place"),
    [
        (
            {"kernels": (3,)},
            r": `network\.features\.1\.conv\.0\.0\.weight` is \(32, 1, 5, 5\) there and \(32, 1, 3, 3\) here",
        ),
        ({"kernels": (3, 7)}, r": `network\.features\.1\.conv\.0\.0\.weight` is \(32, 1, 5, 5\) there"),
        (
            {"kernels": (3, 5), "kinds": ("ibn",)},
            r": `network\.features\.2\.conv\.0\.0\.fused\.weight` is .* there and not here",
        ),
        ({"kernels": (3, 5), "ratios": (1.0,)}, r"\. "),
        ({"kernels": (3, 5), "ratios": (0.25, 0.75, 1.0)}, r"\. "),
    ],
    ids=["fewer-kernels", "other-kernels", "one-kind", "no-widths", "other-widths"],
)
def test_a_checkpoint_of_another_space_is_refused_in_a_sentence(tmp_path, checkpoint, options, place):
    torch.manual_seed(0)
    network, image = small_network(), torch.zeros(1, 3, 32, 32)
    module = Plain(supernet_from(network, image, space_of(network, image, options=SpaceOptions(**options))))
    search = search_of(LinearEstimator(), latency="0.7x", every=2)
    with pytest.raises(
        ValueError, match=f"^The checkpoint is of another search space than the model's{place}"
    ) as error:
        fit(module, search, tmp_path, ckpt_path=checkpoint, data=Stateful())
    assert "HINT: convert the same network with the same options" in str(error.value)
    assert len(str(error.value)) < 350
    assert not search.history
    assert not list(tmp_path.iterdir())


def test_weights_of_a_plain_network_are_refused_and_told_when_they_are_loaded():
    message = r"`features\.1\.conv\.0\.0\.weight` is \(32, 1, 3, 3\) there and \(32, 1, 5, 5\) here.* not converted"
    with pytest.raises(ValueError, match=message):
        make_supernet().load_state_dict(small_network().state_dict())


def test_weights_of_none_of_its_modules_are_told_apart_by_pytorch():
    with pytest.raises(RuntimeError, match="Missing key"):
        make_supernet().load_state_dict({"head.weight": torch.zeros(1)})

import copy
from unittest import mock

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from limits import limits_of
from searches import search_of, training_of
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.budget.budget import Budget
from lightning_nas.search.engine import Search
from lightning_nas.search.module import SearchModule
from lightning_nas.space.architecture import subgraphs
from lightning_nas.space.nodes import described

pytestmark = pytest.mark.usefixtures("few_anchors")
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Plain(pl.LightningModule):
    """A user's module that knows nothing of the search."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        images, targets = batch
        loss = F.cross_entropy(self.network(images), targets)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", F.cross_entropy(self.network(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def loader():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(32, 3, 32, 32, generator=generator)
    targets = torch.randint(0, 4, (32,), generator=generator)
    return DataLoader(TensorDataset(images, targets), batch_size=8)


def trainer(tmp_path, callbacks=(), epochs=4, **options):
    options = {"enable_checkpointing": False, **options}
    return pl.Trainer(max_epochs=epochs, default_root_dir=tmp_path, callbacks=list(callbacks), **QUIET, **options)


def searching(estimator, **options):
    """Return a search that is soon at its end, since what it compares there has tests of its own."""
    few = {"every": 2, "candidates": 2, "evaluations": 0, "random_subnets": 0}
    return search_of(estimator, **{"latency": "0.5x", **few, **options})


def difference(a, b):
    return max((p - q).abs().max().item() for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_callback_equals_the_loss_written_out(supernet, estimator, tmp_path, precision):
    explicit = SearchModule(
        copy.deepcopy(supernet),
        F.cross_entropy,
        estimator,
        "0.5x",
        training_of(every=2),
        lambda groups: torch.optim.AdamW(groups, lr=1e-2),
    )
    implicit = Plain(copy.deepcopy(supernet))
    start = copy.deepcopy(supernet)
    trainer(tmp_path, precision=precision).fit(explicit, loader())
    search = searching(estimator)
    trainer(tmp_path, [search], precision=precision).fit(implicit, loader())
    assert difference(explicit.network, implicit.network) == 0
    assert difference(start, implicit.network) > 1e-2
    pairs = list(zip(explicit.search.logits, search.search.logits, strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert max(row.detach().abs().max() for row, _ in pairs) > 1e-2


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_resumed_equals_uninterrupted(supernet, estimator, tmp_path):
    whole = Plain(copy.deepcopy(supernet))
    resumed = Plain(copy.deepcopy(supernet))
    trainer(tmp_path, [searching(estimator)]).fit(whole, loader())

    class StopAfterTwo(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 1

    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_last=True)
    first = searching(estimator)
    trainer(tmp_path, [first, keep, StopAfterTwo()], enable_checkpointing=True).fit(resumed, loader())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 1
    second = searching(estimator)
    continued = Plain(copy.deepcopy(supernet))
    keep = ModelCheckpoint(tmp_path, save_top_k=-1)
    trainer(tmp_path, [second, keep], enable_checkpointing=True).fit(
        continued, loader(), ckpt_path=tmp_path / "last.ckpt"
    )
    assert difference(whole, continued) == 0
    assert difference(whole, resumed) > 0


@pytest.mark.filterwarnings("ignore:Checkpoint directory", "ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("phases", ["joint", "decoupled"])
def test_stopped_between_the_last_epoch_and_the_choice_it_chooses_the_same(supernet, estimator, tmp_path, phases):
    options = {"candidates": 4, "phases": phases, "steps": 5}
    whole, stopped, resumed = (searching(estimator, **options) for _ in range(3))
    trainer(tmp_path, [whole]).fit(Plain(copy.deepcopy(supernet)), loader(), loader())
    # It is saved before the search ends, which is then stopped.
    keep = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)
    with mock.patch.object(stopped.state, "rank", side_effect=KeyboardInterrupt), pytest.raises(SystemExit):
        trainer(tmp_path, [stopped, keep], enable_checkpointing=True).fit(
            Plain(copy.deepcopy(supernet)), loader(), loader()
        )
    trainer(tmp_path, [resumed]).fit(
        Plain(copy.deepcopy(supernet)), loader(), loader(), ckpt_path=tmp_path / "last.ckpt"
    )
    assert resumed.candidates == whole.candidates
    assert len(resumed.candidates) > 1


def test_resuming_for_another_budget_says_so(supernet, estimator, caplog):
    space = supernet.supernet.space
    searches = [
        Search(supernet.supernet, limits_of(space, estimator, Budget(latency=budget)), training_of())
        for budget in ("0.5x", "0.6x")
    ]
    searches[0].multipliers.values = [0.7]
    searches[1].load_state_dict(searches[0].state_dict())
    assert searches[1].multipliers.values == [0.0]
    assert "the multipliers start at zero again" in caplog.text
    searches[1].limits = searches[0].limits
    searches[1].load_state_dict(searches[0].state_dict())
    assert searches[1].multipliers.values == [0.7]


@pytest.mark.parametrize("budget", ["0.45x", "0.6x"])
def test_derived_is_plain_and_within_the_budget(supernet, estimator, tmp_path, budget):
    module = Plain(supernet)
    reference = estimator.latency_ms(supernet.supernet.space.decode(supernet.supernet.space.reference_encoding))
    search = searching(estimator, latency=budget, candidates=4, evaluations=6, random_subnets=2)
    trainer(tmp_path, [search], epochs=2).fit(module, loader(), loader())
    derived = search.derive(module)
    assert type(derived) is Plain
    assert not [m for m in derived.network.modules() if type(m).__module__.startswith("lightning_nas")]
    assert estimator.predict_ms(subgraphs(search.architecture)).sum() <= float(budget[:-1]) * reference
    network = search.derive(module.network)
    assert difference(network, derived.network) == 0
    trainer(tmp_path, epochs=1).fit(derived, loader())


def test_weights_only_during_warm_up(supernet, estimator, tmp_path):
    module = Plain(supernet)
    search = searching(estimator, warmup=0.99)
    trainer(tmp_path, [search], epochs=1).fit(module, loader())
    assert all((logits == 0).all() for logits in search.search.logits)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0, "positive number"),
        (-1.0, "positive number"),
        ("nan", "positive number"),
        ("fast", "positive number"),
        ("half", "positive number"),
    ],
)
def test_bad_budgets_are_refused_by_the_constructor(estimator, budget, message):
    with pytest.raises(ValueError, match=message):
        search_of(estimator, latency=budget)


def test_a_budget_out_of_reach_stops_before_training(supernet, estimator, tmp_path):
    before = copy.deepcopy(supernet)
    search = search_of(estimator, latency="0.01x")
    with pytest.raises(ValueError, match="minimum"):
        trainer(tmp_path, [search]).fit(Plain(supernet), loader())
    assert difference(before, supernet) == 0


@pytest.mark.parametrize(
    ("budgets", "message"), [({}, "at least one of latency"), ({"latency": "0.5x", "serves": [0]}, "0")]
)
def test_no_budget_and_a_bad_one_among_those_served_are_refused_at_once(estimator, budgets, message):
    with pytest.raises(ValueError, match=message):
        search_of(estimator, **budgets)


def test_module_without_supernet_is_refused(network, estimator, tmp_path):
    with pytest.raises(ValueError, match="supernet_from"):
        trainer(tmp_path, [search_of(estimator, latency="0.5x")]).fit(Plain(network), loader())


def test_progress_is_told_in_a_line_and_logged_by_choice(supernet, estimator, tmp_path, caplog):
    search, module = (
        searching(estimator, latency="0.6x", candidates=1),
        Plain(supernet),
    )
    run = trainer(tmp_path, [search])
    with caplog.at_level("INFO"):
        run.fit(module, loader(), loader())
    lines = [line for line in caplog.messages if "leading: " in line]
    assert len(lines) == 3  # of four epochs the first is all warm-up
    assert "expected latency_ms " in lines[-1]
    assert "multiplier" in lines[-1]
    assert described(search.search.supernet.space, search.search.best()) in lines[-1]
    choices = [name for name in run.callback_metrics if name.startswith("nas/entropy/")]
    sizes = search.search.supernet.space.node_sizes
    assert len(choices) == sum(size > 1 for size in sizes)
    assert not any("entropy/" in name for record in search.history for name in record)


def test_the_users_random_numbers_are_not_drawn_from_while_it_trains(supernet, estimator, tmp_path):
    """Reading a loader draws its workers' seed: scoring must not, or dropout and orders of the user would change."""

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.states.append(torch.get_rng_state())

        def __init__(self):
            self.states = []

    first, last = Watch(), Watch()
    search = searching(estimator, latency="0.6x", every=1, candidates=1)
    trainer(tmp_path, [first, search, last]).fit(Plain(supernet), loader(), loader())
    assert search.history
    assert all(torch.equal(a, b) for a, b in zip(first.states, last.states, strict=True))

"""From logits to a choice: utilities, the frontier, evolution, random subnets, and the search with resting weights."""

import copy
import itertools

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from limits import limits_of
from searches import search_of, selection_of, training_of
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.budget.budget import Budget
from lightning_nas.budget.cost_table import CostTable, Factor
from lightning_nas.budget.evolution import evolve
from lightning_nas.budget.solver import Limit
from lightning_nas.search import selection
from lightning_nas.search.decoupled import learn_logits
from lightning_nas.search.describe import metrics
from lightning_nas.search.engine import Search
from lightning_nas.search.frontier import frontier
from lightning_nas.search.gradient_estimate import sampled_score
from lightning_nas.search.option_scores import utilities
from lightning_nas.search.rewards import MAX_UNUSABLE
from lightning_nas.search.selection import select
from lightning_nas.supernet.subnet import architecture_of

pytestmark = pytest.mark.usefixtures("few_anchors")
SIZES = (3, 4, 2, 3)
RNG = np.random.default_rng(0)
WORTH = [RNG.normal(size=size) for size in SIZES]
TABLE = CostTable(tuple(Factor((n,), RNG.uniform(0.2, 1.0, size)) for n, size in enumerate(SIZES)), SIZES)
MEMBERS = list(itertools.product(*map(range, SIZES)))


def loss(nodes):
    return -sum(row[node] for row, node in zip(WORTH, nodes, strict=True))


def test_utilities_order_options_as_noisy_losses_do():
    drawn = [MEMBERS[int(n)] for n in RNG.integers(0, len(MEMBERS), 300)]
    found = utilities(drawn, [loss(nodes) + RNG.normal(scale=0.2) for nodes in drawn], SIZES)
    for row, worth in zip(found, WORTH, strict=True):
        assert row == pytest.approx(worth - worth.mean(), abs=0.15)


def test_every_point_of_the_frontier_is_the_best_at_its_cost():
    points = frontier(WORTH, Limit(TABLE, 10.0), count=12)
    costs, scores = [p.cost for p in points], [p.score for p in points]
    assert costs == sorted(costs)
    assert scores == sorted(scores)
    assert len({p.encoding for p in points}) == len(points) > 3
    for point in points:
        assert point.score == pytest.approx(max(-loss(m) for m in MEMBERS if TABLE.exact(m) <= point.cost + 1e-9))


def test_evolution_finds_the_best_within_the_budget():
    budget = float(np.median([TABLE.exact(nodes) for nodes in MEMBERS]))
    within = [nodes for nodes in MEMBERS if TABLE.exact(nodes) <= budget]
    count = itertools.count()

    def counted(nodes):
        next(count)
        return loss(nodes)

    possible = [np.ones(size, dtype=bool) for size in SIZES]
    seed = max(within, key=loss)
    found = evolve([seed], counted, lambda n: TABLE.exact(n) <= budget, possible, torch.Generator(), 24)
    assert next(count) == 24 == len(found)
    assert set(found) <= set(within)
    assert list(found.values()) == sorted(found.values())
    assert sum(loss(nodes) < min(found.values()) for nodes in within) <= 1
    again = evolve([seed], loss, lambda n: TABLE.exact(n) <= budget, possible, torch.Generator(), 24)
    assert list(again) == list(found)


def test_evolution_ends_where_there_is_nothing_more():
    possible = [
        np.array([True, False, False]),
        np.ones(4, dtype=bool),
        np.ones(2, dtype=bool),
        np.array([1, 0, 0], bool),
    ]
    found = evolve([(0, 0, 0, 0)], loss, lambda n: True, possible, torch.Generator(), 500)
    assert len(found) == 8
    assert all(nodes[0] == nodes[3] == 0 for nodes in found)


@pytest.fixture
def search(supernet, estimator):
    limits = limits_of(supernet.supernet.space, estimator, Budget(latency="0.7x"))
    return Search(supernet.supernet, limits, training_of(samples=4, phases="decoupled"))


def planted(search):
    """Losses that are lowest for one architecture within the budget: each other option costs something."""
    target = search.best()

    def one(nodes):
        return sum(a != b for a, b in zip(nodes, target, strict=True)) / len(target)

    return target, one


def test_logits_learn_while_weights_rest_and_the_best_is_selected(search, estimator):
    generator = torch.Generator().manual_seed(3)
    random = {nodes for nodes in (search.draw() for _ in range(200)) if search.is_within(nodes, search.floor)}
    target, one = planted(search)
    before = copy.deepcopy(search.supernet.state_dict())
    noise = lambda: torch.randn((), generator=generator)  # noqa: E731

    def losses(nodes):
        return torch.tensor([one(m) for m in nodes]) + noise()

    observed = learn_logits(search, lambda s, *_: sampled_score(s, losses), 150, show=False)
    after = search.supernet.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in after)
    assert len(observed) == 600
    assert all(abs(sum(advantage for _, advantage in observed[n : n + 4])) < 1e-4 for n in range(0, 600, 4))
    found = select(search, estimator, one, selection_of(4, 40, 6), observed, show=False)
    assert one(found.ranked[0]) <= min(one(nodes) for nodes in random)
    assert one(found.ranked[0]) < 0.3
    assert all(search.is_within(nodes) for nodes in found.losses)
    assert len(found.random) > 0
    assert target


def test_a_search_that_random_subnets_beat_says_so(search, estimator, caplog, monkeypatch):
    chosen = search.candidates(3)
    monkeypatch.setattr(selection, "verified_candidates", lambda *_: chosen)
    found = select(search, estimator, lambda nodes: float(nodes in chosen), selection_of(3, 0, 6), show=False)
    assert not found.beats_random
    assert "A random subnet within the budgets has a lower inherited loss" in caplog.text


def test_what_is_nearest_is_selected_where_the_backend_finds_all_over_the_budget(search, estimator):
    over = type(estimator)(compiled_factor=3.0)
    (nearest,) = selection.verified_candidates(search, over, 4)
    search.generator.manual_seed(search.training.seed)
    found = select(search, over, lambda nodes: -sum(nodes), selection_of(4, 12, 4), show=False)
    assert len(found.ranked) == 1
    space = search.supernet.space
    assert over.verify_ms(space.decode(found.ranked[0])) <= over.verify_ms(space.decode(nearest)) * (1 + 1e-9)


def test_as_many_are_left_to_choose_from_as_were_asked_for(search, estimator):
    compiled = type(estimator)(compiled_factor=0.9)
    given = search, compiled, lambda nodes: float(sum(nodes)), selection_of(4, 12, 0), (), False
    assert len(select(*given, lambda nodes: float(-sum(nodes)), num_finalists=2).ranked) == 4


def test_losses_that_are_not_finite_are_skipped_counted_and_at_last_an_error(search):
    good, bad = torch.tensor([1.0, 2.0]), torch.tensor([1.0, float("nan")])
    logits = [row.detach().clone() for row in search.logits]

    def broken(search, *_):
        return sampled_score(search, lambda _: bad)

    learn_logits(search, broken, 3, show=False)
    assert all(torch.equal(a, b) for a, b in zip(logits, search.logits, strict=True))
    assert metrics(search)["nas/skipped"] == 3
    assert search.rewards.is_usable(good)
    with pytest.raises(RuntimeError, match=f"not finite in {MAX_UNUSABLE} architecture steps"):
        learn_logits(search, broken, MAX_UNUSABLE, show=False)


def test_many_parameters_count_beside_a_low_loss(search, estimator):
    space = search.supernet.space

    def size(nodes):
        return estimator.memory(space.decode(nodes)).parameter_bytes

    settings = selection_of(4, 40, 0, size_weight=2.0)
    plain = select(search, estimator, lambda nodes: 1.0, settings, show=False).ranked
    search.size_scale = 0.1
    found = select(search, estimator, lambda nodes: 1.0, settings, show=False)
    assert len(plain) == 40
    assert size(found.ranked[0]) == max(map(size, found.ranked))
    assert found.losses[found.ranked[0]] == pytest.approx(1.0 - 0.2 * np.log(size(found.ranked[0])))
    none = selection_of(4, 40, 0, size_weight=0.0)
    assert set(select(search, estimator, lambda nodes: 1.0, none, show=False).losses.values()) == {1.0}


def test_losses_that_are_not_finite_are_never_the_lowest(search, estimator):
    """A NaN is neither less nor more than another loss, so that sorting by it gives any order."""
    losses = itertools.cycle([float("nan"), 2.0, float("inf"), 1.0])
    found = select(search, estimator, lambda nodes: next(losses), selection_of(4, 12, 0), show=False)
    assert list(found.losses.values()) == [1.0] * 3 + [2.0] * 3 + [float("inf")] * 6


class Plain(pl.LightningModule):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        return functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", functional.cross_entropy(self.network(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def loader(count=24, **options):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 32, 32, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(0, 4, (count,), generator=generator)), 8, **options)


def fit(module, search, tmp_path, *data, epochs=2):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = pl.Trainer(
        max_epochs=epochs, callbacks=[search], default_root_dir=tmp_path, enable_model_summary=False, **quiet
    )
    trainer.fit(module, *(data or (loader(), loader())))
    return trainer


def test_one_training_serves_other_budgets(supernet, estimator, tmp_path):
    search = search_of(estimator, latency="0.6x", phases="decoupled", steps=20, candidates=2, evaluations=4, samples=4)
    module = Plain(supernet)
    steps = fit(module, search, tmp_path).global_step
    assert len(search.history) == 20
    assert all(record["step"] >= steps for record in search.history), "no logits learn while weights do"
    full = estimator.latency_ms(supernet.supernet.space.decode(supernet.supernet.space.reference_encoding))
    assert estimator.latency_ms(search.architecture) <= 0.6 * full
    weights = {name: p.detach().clone() for name, p in module.named_parameters()}
    for share in (0.45, 0.9):
        found = search.find(latency=f"{share}x")
        # Sums of the same figures in another order.
        most = share * full * (1 + 1e-9)
        assert all(estimator.latency_ms(architecture) <= most for architecture in found)
        subnet = search.derive(module, architecture=found[0])
        assert estimator.latency_ms(found[0]) >= 0.8 * share * full
        assert subnet.network(torch.rand(2, 3, 32, 32)).shape == (2, 4)
    assert all(torch.equal(p, weights[name]) for name, p in module.named_parameters())
    with pytest.raises(ValueError, match="below what the space can reach"):
        search.find(latency="0.01x")


def test_derive_takes_any_budget_and_the_frontier_any_latency(supernet, estimator, tmp_path):
    search = search_of(
        estimator,
        budget=Budget(latency="0.6x", parameters="0.95x"),
        serves=("0.5x", "0.9x"),
        phases="decoupled",
        steps=40,
        candidates=2,
        evaluations=0,
        samples=4,
    )
    module, space = Plain(supernet), supernet.supernet.space
    fit(module, search, tmp_path)
    full = space.decode(space.reference_encoding)
    cost, memory = estimator.latency_ms, estimator.memory
    subnet = search.derive(module, latency="0.9x")
    assert subnet.network(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    points = search.frontier(count=6)
    assert len(points) >= 2
    assert [p.latency_ms for p in points] == sorted(p.latency_ms for p in points)
    losses = [p.inherited_loss for p in points]
    assert losses == sorted(losses, reverse=True)
    for point in points:
        assert cost(point.architecture) == pytest.approx(point.latency_ms)
        assert memory(point.architecture).parameter_bytes <= 0.95 * memory(full).parameter_bytes
        search.derive(module, architecture=point.architecture)
    with pytest.raises(ValueError, match="`count` must be at least 2; got 1"):
        search.frontier(count=1)


def test_the_searchs_own_budget_has_the_subnet_that_was_found(supernet, estimator, tmp_path):
    search = search_of(estimator, latency="0.6x", candidates=2, evaluations=0, random_subnets=0)
    module = Plain(supernet)
    fit(module, search, tmp_path)
    subnets = search.derive(module), search.derive(module, latency="0.6x")
    found = [architecture_of(subnet.network, supernet.supernet) for subnet in subnets]
    assert found == [search.architecture] * 2


def test_points_of_the_frontier_are_derived_though_the_backend_prices_them_higher(supernet, estimator, tmp_path):
    slower = type(estimator)(compiled_factor=1.1)
    search = search_of(slower, latency="0.6x", candidates=2, evaluations=0, random_subnets=0)
    module = Plain(supernet)
    fit(module, search, tmp_path)
    points = search.frontier(count=4)
    assert points
    for point in points:
        assert point.verified_latency_ms == slower.verify_ms(point.architecture) > point.latency_ms
        search.derive(module, architecture=point.architecture)


def test_paths_near_all_served_latencies_are_trained(supernet, estimator):
    space = supernet.supernet.space
    limits = limits_of(space, estimator, Budget(latency="0.45x"), ("1.2x",))
    table = limits.costs[0].table
    full = table.exact(space.reference_encoding)
    search = Search(supernet.supernet, limits, training_of(phases="decoupled", band=(0.9, 1.1)))
    costs = np.array([table.exact(search.path(step, 400)) / full for step in range(1, 401, 2)])
    # Few members cost that little, and each option is dealt as often as the others: some paths are between the two.
    assert (costs < 0.7).sum() > 40
    assert (costs > 1.0).sum() > 60
    with pytest.raises(ValueError, match=r"latency_ms=.* is below what the space can reach"):
        limits_of(space, estimator, Budget(latency="0.6x"), ("0.01x",))
    with pytest.raises(ValueError, match="there is no latency budget"):
        limits_of(space, estimator, Budget(parameters="0.9x"), ("0.5x",))


def test_what_was_sampled_is_in_the_checkpoint(supernet, estimator, tmp_path):
    search = search_of(estimator, latency="0.6x", phases="decoupled", steps=5, candidates=2, evaluations=0)
    fit(Plain(supernet), search, tmp_path)
    state = search.state_dict()
    assert len(state["observed"]) == 10
    again = search_of(estimator, latency="0.6x", phases="decoupled", steps=5, candidates=2, evaluations=0)
    again.load_state_dict(state)
    module = Plain(copy.deepcopy(supernet))
    again.setup(pl.Trainer(logger=False, accelerator="cpu"), module, "fit")
    again._optimizer = torch.optim.Adam(again.search.logits)
    again._restore()
    assert again.state.progress.observed == search.state.progress.observed


def test_without_validation_data_it_is_said(supernet, estimator, tmp_path, caplog):
    fit(Plain(supernet), search_of(estimator, latency="0.6x", candidates=2, evaluations=0), tmp_path, loader())
    assert "no single validation DataLoader" in caplog.text


class Data(pl.LightningDataModule):
    """Data whose validation loader says when it is read."""

    def __init__(self):
        super().__init__()
        self.reads = 0

    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        self.reads += 1
        return loader()


def test_validation_data_that_was_never_validated_on_is_compared_on(supernet, estimator, tmp_path, caplog):
    search = search_of(estimator, latency="0.6x", phases="decoupled", steps=2, candidates=2, evaluations=0)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    options = {"num_sanity_val_steps": 0, "check_val_every_n_epoch": 9, "default_root_dir": tmp_path, **quiet}
    module, data = Plain(supernet), Data()
    trainer = pl.Trainer(max_epochs=2, callbacks=[search], **options)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert data.reads
    # A training that is at its end already reads no loader at all; other budgets are searched all the same.
    again = search_of(estimator, latency="0.7x", phases="decoupled", steps=2, candidates=2, evaluations=0)
    resumed, unread = pl.Trainer(max_epochs=2, callbacks=[again], **options), Data()
    resumed.fit(Plain(module.network), datamodule=unread, ckpt_path=tmp_path / "end.ckpt", weights_only=True)
    assert again.find(latency="0.65x")
    assert unread.reads
    assert "no single validation DataLoader" not in caplog.text


@pytest.mark.filterwarnings("ignore:Total length of")
def test_a_training_without_steps_is_refused(supernet, estimator, tmp_path):
    with pytest.raises(MisconfigurationException, match="The training has no steps"):
        fit(Plain(supernet), search_of(estimator, latency="0.6x"), tmp_path, loader(4, drop_last=True))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"phases": "decoupled", "steps": 0}, "`steps` must be at least 1; got 0"),
        ({"evaluations": -1}, "`num_evaluations` must be at least 0; got -1"),
        ({"random_subnets": -1}, "`num_random_subnets` must be at least 0"),
    ],
)
def test_settings_that_cannot_be(estimator, setting, message):
    with pytest.raises(ValueError, match=message):
        search_of(estimator, latency="0.6x", **setting)

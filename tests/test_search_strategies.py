"""The published methods behind the same interface, and what their mixtures compute."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from limits import limits_of
from searches import STRATEGIES, search_of, training_of
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas import ArchitectureSearch
from lightning_nas.budget.budget import Budget
from lightning_nas.budget.sampling import ends_of, narrowest
from lightning_nas.search import Joint
from lightning_nas.search.engine import Search
from lightning_nas.search.fair_sampling import Decks
from lightning_nas.search.gates import gates_of
from lightning_nas.search.module import SearchModule
from lightning_nas.search.trainers import refuse_unaware

pytestmark = pytest.mark.usefixtures("few_anchors")
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


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


def loader():
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(32, 3, 32, 32, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(0, 4, (32,), generator=generator)), batch_size=8)


def fit(module, search, tmp_path, **options):
    trainer = pl.Trainer(
        max_epochs=2, callbacks=[search], default_root_dir=tmp_path, enable_checkpointing=False, **QUIET, **options
    )
    trainer.fit(module, loader(), loader())


@pytest.mark.parametrize("phases", ["joint", "decoupled"])
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_searches_and_keeps_the_budget(supernet, estimator, tmp_path, strategy, phases):
    options = {"every": 2, "candidates": 2, "evaluations": 4, "random_subnets": 1, "steps": 6}
    search = search_of(estimator, latency="0.6x", strategy=strategy, phases=phases, **options)
    module, first = Plain(supernet), supernet.supernet.first
    fit(module, search, tmp_path)
    full = estimator.latency_ms(supernet.supernet.space.decode(supernet.supernet.space.reference_encoding))
    assert estimator.latency_ms(search.architecture) <= 0.6 * full * (1 + 1e-9)
    logits = search.search.logits
    assert any(bool(row.detach().any()) for row in logits) == (strategy != "spos")
    assert all(torch.isfinite(row).all() for row in logits)
    assert not any(module._forward_pre_hooks for module in supernet.features.modules() if module is not first)
    assert search.derive(module).network(torch.zeros(2, 3, 32, 32)).shape == (2, 4)


def one_hot(nodes, space):
    return [torch.nn.functional.one_hot(torch.tensor(n), size).float() for n, size in zip(nodes, space.node_sizes)]  # noqa: B905


@pytest.mark.parametrize("shared", [False, True], ids=["each", "shared"])
def test_a_mixture_of_one_option_is_that_option(supernet, images, shared):
    handle = supernet.supernet
    handle.use_batch_statistics(True)
    supernet.eval()
    for nodes in (handle.space.reference_encoding, narrowest(handle.space), (0, 1, 0, 1, 1, 3, 5, 7, 9)):
        handle.activate(nodes)
        expected = supernet(images)
        handle.mix(one_hot(nodes, handle.space), shared=shared)
        torch.testing.assert_close(supernet(images), expected, rtol=1e-4, atol=1e-5)
        handle.activate(nodes)
        torch.testing.assert_close(supernet(images), expected)


def test_a_mixture_is_the_weighted_sum_of_what_its_options_give(supernet, images):
    handle = supernet.supernet
    handle.use_batch_statistics(True)
    space = handle.space
    block, x = supernet.features[3], torch.rand(4, 16, 8, 8)
    source = space.reference_encoding
    gates = one_hot(source, space)
    number = len(space.multipliers) + 2
    gates[number] = torch.linspace(0, 1, space.node_sizes[number]).softmax(0)
    handle.mix(gates)
    mixed = block(x)
    outputs = []
    for option in range(space.node_sizes[number]):
        handle.activate([*source[:number], option, *source[number + 1 :]])
        outputs.append(block(x))
    expected = sum(gate * output for gate, output in zip(gates[number], outputs, strict=True))
    torch.testing.assert_close(mixed, expected)
    assert float((outputs[0] - outputs[-1]).detach().abs().max()) > 1e-3


def test_gates_have_the_gradients_that_their_names_promise():
    logits = torch.tensor([0.5, -0.2, 0.1], requires_grad=True)
    probabilities = logits.masked_fill(torch.tensor([False, False, True]), -torch.inf).softmax(0)
    for gradient in ("softmax", "gumbel_soft", "gumbel_st"):
        (gates,) = gates_of(gradient, [probabilities], 0.5, torch.Generator().manual_seed(0))
        assert float(gates.detach().sum()) == pytest.approx(1)
        assert float(gates[2].detach()) == 0.0
        (found,) = torch.autograd.grad(gates[0], logits, retain_graph=True)
        assert torch.isfinite(found).all()
        assert float(found[0]) > 0
        assert (gradient == "gumbel_st") == (sorted(gates.tolist()) == [0.0, 0.0, 1.0])


def test_gumbel_noise_draws_by_the_probabilities():
    probabilities = torch.tensor([0.7, 0.2, 0.1])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([gates_of("gumbel_st", [probabilities], 0.5, generator)[0] for _ in range(4000)])
    torch.testing.assert_close(drawn.mean(0), probabilities, atol=0.03, rtol=0)


def engine_of(supernet, estimator, **settings):
    limits = limits_of(supernet.supernet.space, estimator, Budget(latency="0.6x"))
    return Search(supernet.supernet, limits, training_of(**settings))


def test_the_absolute_reward_pulls_towards_the_budget(supernet, estimator):
    """Where all losses are equal, REINFORCE moves the logits only by the distance of the drawn from the budget."""
    search = engine_of(supernet, estimator, strategy="tunas", samples=8)
    limit = search.limits.costs[0]
    optimizer = torch.optim.Adam(search.logits, 0.05)
    deviation = lambda: sum(abs(limit.table.exact(search.draw()) / limit.budget - 1) for _ in range(200)) / 200  # noqa: E731
    before = deviation()
    for _ in range(200):
        samples = [search.draw() for _ in range(8)]
        search.update(optimizer, search.surrogate(samples, torch.ones(8)))
    assert deviation() < 0.5 * before


def test_paths_are_what_the_strategies_say(supernet, estimator):
    space = supernet.supernet.space
    uniform = engine_of(supernet, estimator, strategy="spos")
    assert len({uniform.path(step, 100) for step in range(60)}) > 40
    sandwich = engine_of(supernet, estimator, strategy="sandwich")
    paths = sandwich.paths(0, 100)
    assert len(paths) == 4
    count = len(space.multipliers)
    assert paths[0][:count] == tuple(int(np.flatnonzero(row)[-1]) for row in sandwich.possible[:count])
    assert paths[1][:count] == narrowest(space, sandwich.possible)[:count]
    assert sandwich.least_trained == 0
    for step in range(400):
        sandwich.paths(step, 400)
    assert sandwich.least_trained > 10


def test_the_ends_are_the_widest_and_the_narrowest_of_each_kind(supernet):
    space = supernet.supernet.space
    count, all_of_them = len(space.multipliers), [np.ones(size, dtype=bool) for size in space.node_sizes]
    for widest in (True, False):
        rows = ends_of(space, widest, all_of_them)
        assert [np.flatnonzero(row).tolist() for row in rows[:count]] == [
            [n - 1 if widest else 0] for n in space.node_sizes[:count]
        ]
        options = [space.choices[1].options[place] for place in np.flatnonzero(rows[count + 1])]
        assert {option.kind for option in options} == {"ibn", "fused"}
        assert {(option.expansion, option.kernel) for option in options} == ({(4, 5)} if widest else {(2, 3)})
    assert all(row[node] for row, node in zip(rows, narrowest(space), strict=True))


def test_every_option_is_dealt_as_often_as_the_others(supernet, estimator):
    search = engine_of(supernet, estimator, strategy="sandwich")
    limit, sizes = search.limits.costs[0], supernet.supernet.space.node_sizes
    possible = [np.arange(size) != 1 if size > 2 else np.ones(size, dtype=bool) for size in sizes]
    decks = Decks(possible, torch.Generator().manual_seed(0))
    counts = [np.zeros(size, dtype=int) for size in sizes]
    near = 0
    for _ in range(22):
        nodes = decks.deal(limit, (0.8, 1.2))
        near += 0.8 <= limit.table.exact(nodes) / limit.budget <= 1.2
        for row, node in zip(counts, nodes, strict=True):
            row[node] += 1
    for row, here in zip(counts, possible, strict=True):
        assert set(row[here]) == {22 // here.sum()}
        assert not row[~here].any()
    blind = Decks(possible, torch.Generator().manual_seed(0))
    costs = np.array([limit.table.exact(blind.deal()) / limit.budget for _ in range(22)])
    assert near > ((costs >= 0.8) & (costs <= 1.2)).sum()


def test_the_sandwich_adds_the_gradients_of_its_paths(supernet, estimator, tmp_path):
    """One step of plain SGD moves the weights by the sum of the gradients of the four paths."""
    search = search_of(estimator, latency="0.6x", strategy="sandwich", candidates=1, evaluations=0)

    class One(Plain):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1.0)

    module = One(supernet)
    batch = next(iter(loader()))
    supernet.supernet.use_batch_statistics(True)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    drawn = engine_of(supernet, estimator, strategy="sandwich").paths(0, 1)
    for nodes in drawn:
        supernet.supernet.activate(nodes)
        functional.cross_entropy(supernet(batch[0]), batch[1]).backward()
    expected = {n: before[n] - p.grad for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    trainer = pl.Trainer(max_steps=1, callbacks=[search], enable_checkpointing=False, **QUIET)
    trainer.fit(module, loader())
    for name, p in module.named_parameters():
        if name in expected:
            torch.testing.assert_close(p.detach(), expected[name], rtol=1e-4, atol=1e-6)


def test_what_a_strategy_cannot_do_is_refused(supernet, estimator):
    with pytest.raises(ValueError, match=r"`strategy` must be a Strategy, such as Rloo\(\); got 'random'"):
        Joint(strategy="random")
    with pytest.raises(ValueError, match=r"`method` must be settings such as Joint\(\) .* got 3"):
        ArchitectureSearch(estimator, latency="0.6x", method=3)
    with pytest.raises(ValueError, match=r"must be one of joint, decoupled, library, zeroshot, or .* got 'jiont'"):
        ArchitectureSearch(estimator, latency="0.6x", method="jiont")
    with pytest.raises(ValueError, match="SearchModule trains one path a step; got Darts"):
        SearchModule(supernet, functional.cross_entropy, estimator, "0.6x", training_of(strategy="darts"))
    parallel = object.__new__(DistributedDataParallel)
    parallel.__dict__["find_unused_parameters"] = True
    trainer = type("T", (), {"strategy": type("S", (), {"model": parallel})})
    refuse_unaware(trainer, training_of())
    with pytest.raises(MisconfigurationException, match="several backward passes"):
        refuse_unaware(trainer, training_of(strategy="sandwich"))

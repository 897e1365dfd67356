"""Options that no architecture within the budgets has are out before anything is trained, and no others."""

import itertools

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from limits import limits_of
from searches import search_of, training_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nas.budget.budget import Budget
from lightning_nas.budget.cost_table import CostTable, Factor
from lightning_nas.budget.forbidden import Forbidden
from lightning_nas.budget.removal import describe_removed, possible_options
from lightning_nas.budget.solver import Limit
from lightning_nas.search.engine import Search
from lightning_nas.space.nodes import node_names

SIZES = (2, 3, 4)


def random_table(seed, sizes=SIZES):
    rng = np.random.default_rng(seed)
    pairs = [(0, 1), (1, 2)]
    factors = tuple(Factor(pair, rng.uniform(0.1, 2, [sizes[node] for node in pair])) for pair in pairs)
    return CostTable((Factor((), np.array(0.5)), *factors), sizes)


@pytest.mark.parametrize("seed", range(8))
def test_it_is_what_counting_finds(seed):
    first, second = random_table(seed), random_table(seed + 100)
    costs = np.sort(first.sample_costs(200, seed))
    limits = [
        Limit(first, costs[20]),
        Limit(second, float(np.median(second.sample_costs(200, seed))), "parameter_bytes"),
    ]
    expected = [np.zeros(size, dtype=bool) for size in SIZES]
    for nodes in itertools.product(*map(range, SIZES)):
        if all(limit.table.exact(nodes) <= limit.budget for limit in limits):
            for row, node in zip(expected, nodes, strict=True):
                row[node] = True
    found = possible_options(SIZES, limits)
    assert [row.tolist() for row in found] == [row.tolist() for row in expected]


def test_what_does_not_fit_the_memory_is_out():
    forbidden = Forbidden((((0, 1), np.array([[True, True, False], [True, False, False]])),))
    found = possible_options(SIZES, [], [forbidden])
    assert [row.tolist() for row in found] == [[True, True], [False, True, True], [True] * 4]


def tight(supernet, estimator, **settings):
    space = supernet.supernet.space
    free = limits_of(space, estimator, Budget(latency="1.0x"))
    latency = 1.1 * free.reaches[0].minimum
    limits = limits_of(space, estimator, Budget(latency=latency))
    return Search(supernet.supernet, limits, training_of(**settings)), latency


def test_no_draw_has_an_option_that_is_out(supernet, estimator):
    search, _ = tight(supernet, estimator)
    assert describe_removed(search.supernet.space, search.trained)
    out = [np.flatnonzero(~row).tolist() for row in search.possible]
    assert any(out)
    space = search.supernet.space
    assert not any(p[node] for p, nodes in zip(search.probabilities(), out, strict=True) for node in nodes)
    total = 400
    paths = {search.path(step, total) for step in range(total)} - {space.reference_encoding}
    drawn = [search.draw() for _ in range(50)]
    for nodes in (*paths, *drawn):
        assert not any(node in removed for node, removed in zip(nodes, out, strict=True))
    assert all(space.decode(nodes) for nodes in paths)
    assert torch.isfinite(search.multipliers.penalty(search.probabilities()))


def test_a_budget_with_room_removes_nothing(supernet, estimator):
    limits = limits_of(supernet.supernet.space, estimator, Budget(latency=14.2))
    search = Search(supernet.supernet, limits, training_of())
    assert not describe_removed(search.supernet.space, search.trained)


class Plain(pl.LightningModule):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.usefixtures("few_anchors")
def test_the_log_says_which(supernet, estimator, images, tmp_path, caplog):
    _, latency = tight(supernet, estimator)
    search = search_of(estimator, latency=latency, candidates=2, evaluations=0, random_subnets=1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=1, callbacks=[search], default_root_dir=tmp_path, **quiet)
    with caplog.at_level("INFO"):
        trainer.fit(Plain(supernet), DataLoader(TensorDataset(images, torch.zeros(8, dtype=torch.long)), batch_size=4))
    assert "No architecture within that has these options" in caplog.text
    assert any(f"{name}: " in caplog.text for name in node_names(supernet.supernet.space))
    assert estimator.latency_ms(search.architecture) <= latency

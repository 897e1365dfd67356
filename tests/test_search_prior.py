import numpy as np
import pytest
import torch
from limits import limits_of
from searches import training_of

from lightning_nas.budget import perturb_and_map as proposal
from lightning_nas.budget.budget import Budget
from lightning_nas.budget.cost_table import CostTable, Factor
from lightning_nas.budget.solver import Limit
from lightning_nas.search.engine import Search


@pytest.fixture
def limits(supernet, estimator):
    return limits_of(supernet.supernet.space, estimator, Budget(latency="0.6x"))


def test_prior_sets_the_logits_and_fills_a_pool_within_the_budget(supernet, limits):
    handle = supernet.supernet
    search = Search(handle, limits, training_of(prior=1.0, pool=8))
    assert max(float(logits.detach().abs().max()) for logits in search.logits) > 0.5
    limit = limits.costs[0]
    paths = {search.path(step, 1000) for step in range(1, 200, 2)}
    near = [limit.table.exact(nodes) / limit.budget for nodes in paths]
    assert sum(0.7 <= ratio <= 1.3 for ratio in near) >= 0.6 * len(near)
    assert len(paths) > 8  # the pool, and uniform draws beside it
    again = Search(handle, limits, training_of(prior=1.0, pool=8))
    assert again.pool == search.pool


def test_the_logits_of_an_earlier_search_are_gone_on_with(supernet, limits):
    first = Search(supernet.supernet, limits, training_of())
    first.logits[0].data.fill_(0.7)
    again = Search(supernet.supernet, limits, training_of(prior=1.0), logits=first.logits)
    assert (again.logits[0] == 0.7).all()
    again.logits[0].data.fill_(0.2)
    assert (first.logits[0] == 0.7).all()


def test_candidates_are_distinct_within_the_budget_and_use_it(supernet, limits):
    search = Search(supernet.supernet, limits, training_of())
    found = search.candidates(6)
    assert len(set(found)) == len(found) > 1
    assert found[0] == search.best()
    limit = limits.costs[0]
    for nodes in found:
        assert 0.98 * limit.budget - 1e-9 <= limit.table.exact(nodes) <= limit.budget


def test_what_the_prior_prefers_is_proposed_a_percent_below_the_budget_too(supernet, limits):
    search = Search(supernet.supernet, limits, training_of(prior=1.0, use=0.9))
    search.logits[0].data.add_(3 * torch.randn(len(search.logits[0]), generator=torch.Generator().manual_seed(1)))
    found, limit = search.candidates(6), limits.costs[0]
    assert all(search.is_within(nodes) for nodes in found)
    assert any(limit.table.exact(nodes) <= 0.99 * limit.budget for nodes in found[:3])


def test_further_proposals_are_what_noise_added_to_the_scores_prefers(monkeypatch):
    monkeypatch.setattr(proposal, "_gumbel", lambda count, generator: np.array([0.0, 0.0, 9.0]))
    table = CostTable((Factor((0,), np.ones(3)),), (3,))
    given = [np.array([2.0, 1.0, 0.0])], [], [Limit(table, 1.0)], (), 0.0, torch.Generator()
    assert proposal.propose(2, *given) == [(0,), (2,)]


@pytest.mark.parametrize(
    "setting",
    [{"warmup": 1.0}, {"every": 0}, {"num_samples": 1}, {"lr": 0}, {"budget_use": 1.0}, {"band": (1, 1)}],
)
def test_settings_out_of_range_are_refused(setting):
    name, value = next(iter(setting.items()))
    with pytest.raises(ValueError, match=rf"`{name}` must be"):
        training_of(**{name: value})

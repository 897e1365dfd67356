import logging

import pytest
from limits import limits_of
from searches import training_of

from lightning_nas.budget.budget import Budget
from lightning_nas.search.engine import Search
from lightning_nas.search.verify import verified_candidates


def search_of(supernet, estimator, **budget):
    space = supernet.supernet.space
    return Search(supernet.supernet, limits_of(space, estimator, Budget(**budget)), training_of())


@pytest.mark.parametrize("factor", [0.995, 1.0, 1.08])
def test_what_the_compiler_prices_over_the_budget_is_no_candidate(supernet, estimator, factor):
    estimator = type(estimator)(compiled_factor=factor)
    search = search_of(supernet, estimator, latency="0.6x")
    budget = search.limits.costs[0].budget
    found = verified_candidates(search, estimator, 8)
    space = supernet.supernet.space
    assert found
    assert len(found) <= 8
    assert all(estimator.verify_ms(space.decode(nodes)) <= budget for nodes in found)
    # Asking for less must not give the budget away.
    assert max(estimator.verify_ms(space.decode(nodes)) for nodes in found) > 0.9 * budget


def test_without_a_compiler_the_estimate_counts(supernet, estimator):
    first, second = (search_of(supernet, estimator, latency="0.6x") for _ in range(2))
    assert verified_candidates(first, estimator, 8) == second.candidates(8)


def test_without_a_latency_budget_nothing_is_compiled(supernet, estimator):
    estimator = type(estimator)(compiled_factor=100.0)
    search = search_of(supernet, estimator, parameters="0.8x")
    assert len(verified_candidates(search, estimator, 4)) == 4


def test_out_of_the_compilers_reach(supernet, estimator, caplog):
    estimator = type(estimator)(compiled_factor=3.0)
    search = search_of(supernet, estimator, latency="0.6x")
    with caplog.at_level(logging.WARNING):
        (nodes,) = verified_candidates(search, estimator, 4)
    assert "No subnet was found that the backend of linear prices within" in caplog.text
    assert search.limits.costs[0].table.exact(nodes) <= search.limits.costs[0].budget


@pytest.mark.parametrize("factor", [1.01, 1.015])
def test_where_the_compiler_leaves_few_it_is_asked_for_less(supernet, estimator, factor):
    estimator = type(estimator)(compiled_factor=factor)
    search = search_of(supernet, estimator, latency="0.6x")
    within = [
        nodes
        for nodes in search.candidates(24)
        if estimator.verify_ms(supernet.supernet.space.decode(nodes)) <= search.limits.costs[0].budget
    ]
    assert len(within) < 12
    assert len(verified_candidates(search, estimator, 12)) == 12

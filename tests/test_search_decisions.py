"""What a search decides at its turning points, against values that are worked out here."""

import itertools
import re
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import LinearEstimator
from limits import limits_of
from searches import training_of

from lightning_nas.budget.binding import check_binding
from lightning_nas.budget.budget import Budget
from lightning_nas.budget.cost_table import CostTable, Factor
from lightning_nas.budget.evolution import evolve
from lightning_nas.budget.solver import Limit, _Program, solve, usable_part
from lightning_nas.io.units import bytes_text
from lightning_nas.jobs import search as jobs
from lightning_nas.search import Library
from lightning_nas.search.describe import announcement, brief, metrics
from lightning_nas.search.engine import Search
from lightning_nas.search.frontier import frontier_subnets
from lightning_nas.search.needed import needed_steps
from lightning_nas.search.penalty import log_probability
from lightning_nas.search.readiness import MIN_STEPS


def searching(supernet, budget=None, **settings):
    handle = supernet.supernet
    limits = limits_of(handle.space, LinearEstimator(), budget or Budget(latency="0.7x"))
    return Search(handle, limits, training_of(**settings))


def test_what_exceeds_the_peak_is_not_within(supernet):
    search = searching(supernet, Budget(peak_activations="0.8x"))
    assert not search.is_within(search.supernet.space.reference_encoding)
    assert search.is_within(search.best())
    # What is as large as the budget is within it.
    search = searching(supernet, Budget(peak_activations="1x"))
    assert search.is_within(search.supernet.space.reference_encoding)


def test_what_a_larger_budget_alone_can_have_is_trained_where_that_is_served(supernet):
    space, served = supernet.supernet.space, ["0.3x", "1x"]
    tight, loose, both = (
        Search(
            supernet.supernet,
            limits_of(space, LinearEstimator(), Budget(latency=latency), serves),
            training_of(phases="decoupled"),
        )
        for latency, serves in (("0.3x", ()), ("1x", ()), ("0.3x", served))
    )
    assert sum(map(np.sum, tight.trained)) < sum(map(np.sum, loose.trained))
    assert all(np.array_equal(a, b) for a, b in zip(both.trained, loose.trained, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(both.possible, tight.possible, strict=True))


def test_all_candidates_reach_the_floor_that_others_are_held_to(supernet):
    search = searching(supernet)
    found = search.candidates(8)
    assert len(found) == 8
    assert all(search.is_within(nodes, search.floor) for nodes in found)
    (limit,) = search.limits.costs
    assert search.floor <= search.use * limit.budget


def test_the_logits_learn_from_the_end_of_the_warm_up_on_at_equal_distances(supernet):
    search = searching(supernet, warmup=0.25, every=8)
    assert [step for step in range(40) if search.is_due(step, 40)] == [10, 18, 26, 34]


def test_the_absolute_reward_is_compared_with_the_batches_before(supernet):
    search = searching(supernet, strategy="tunas")
    (limit,) = search.limits.costs
    samples = [search.draw() for _ in range(4)]
    costs = torch.tensor([limit.table.exact(nodes) for nodes in samples])
    reward = 0.1 * (costs / limit.budget - 1).abs()
    early, late = torch.tensor([2.0, 3.0, 4.0, 5.0]), torch.tensor([1.0, 1.5, 0.5, 0.25])
    search.surrogate(samples, early)
    found = search.surrogate(samples, late).detach()
    scores = torch.stack([log_probability(search.probabilities(), nodes) for nodes in samples]).detach()
    assert found.item() == pytest.approx(float(((late + reward - (early + reward).mean()) * scores).mean()), rel=1e-5)


def test_a_population_forgets_its_oldest(supernet):
    possible, seen = [np.ones(2, dtype=bool)] * 12, []

    def loss(nodes):
        seen.append(nodes)
        return float(sum(nodes))

    evolve([(0,) * 12], loss, lambda nodes: True, possible, torch.Generator().manual_seed(0), 60, population=1)
    # Each is a child of the one before it, and not of the best, which died long ago.
    steps = [sum(a != b for a, b in zip(*pair, strict=True)) for pair in itertools.pairwise(seen)]
    assert max(steps) <= 2
    assert max(map(sum, seen)) > 4


def test_a_slower_subnet_that_is_no_better_is_not_of_the_frontier(supernet):
    search = searching(supernet)
    (only,) = frontier_subnets(search, [], lambda nodes: 1.0, 6, LinearEstimator().verify_ms)
    assert only.latency_ms == pytest.approx(search.limits.reaches[0].minimum, rel=1e-5)
    costs = search.limits.costs[0].table
    found = frontier_subnets(search, [], lambda nodes: -costs.exact(nodes), 6, LinearEstimator().verify_ms)
    assert len(found) > 1
    assert [point.inherited_loss for point in found] == sorted((p.inherited_loss for p in found), reverse=True)


def test_the_candidate_that_is_best_once_it_is_refitted_is_taken(supernet, images, monkeypatch):
    space = supernet.supernet.space
    candidates = [space.decode(nodes) for nodes in searching(supernet).candidates(3)]
    losses, fitted = iter([2.0, 1.0, 3.0]), []
    monkeypatch.setattr(jobs, "_validation_loss", lambda module, data: next(losses))
    monkeypatch.setattr(jobs, "fit_member", lambda *arguments: fitted.append(arguments[-2:]))
    job = SimpleNamespace(
        space=space,
        callback=SimpleNamespace(method=Library(refine_steps=7)),
        candidates=candidates,
        untrained=supernet,
        teacher=None,
        images=images,
        estimator=LinearEstimator(),
        model=SimpleNamespace(data=None),
        _watch=nullcontext(),
        _taught=lambda network, feature_modules: network,
    )
    jobs.SearchJob._choose(job)
    assert job.chosen == candidates[1]
    assert job.subnet.features[-1][0].in_channels == dict(candidates[1].widths)["features.4.conv.2"]
    assert fitted == [(space.encode(candidate), 7) for candidate in candidates]


@pytest.mark.parametrize("prior", [0.0, 1.0])
def test_so_many_steps_as_are_said_train_each_option_often_enough(supernet, prior):
    search = searching(supernet, phases="decoupled", prior=prior)
    needed = needed_steps(search)
    for step in range(needed // 2):
        search.paths(step, needed)
    assert search.least_trained < MIN_STEPS
    for step in range(needed // 2, needed):
        search.paths(step, needed)
    # With a prior paths are drawn, not dealt.
    assert search.least_trained >= (0.7 if prior else 1) * MIN_STEPS


def test_what_rounding_lets_pass_is_solved_again_with_less(monkeypatch):
    table = CostTable((Factor((0,), np.array([1.0, 2.0, 3.0])),), (3,))
    found = {0.0: (2,), 1e-6: (1,)}
    monkeypatch.setattr(_Program, "_run", lambda program, objective, slack: found[slack])
    assert solve([np.arange(3.0)], [Limit(table, 2.5)]) == (1,)


def test_a_budget_that_binds_nothing_beside_one_that_does_is_told(supernet, caplog):
    space = supernet.supernet.space
    check_binding([limits_of(space, LinearEstimator(), Budget(latency="0.5x", parameters="9x"))])
    assert "parameter_bytes" in caplog.text
    assert "The others bind." in caplog.text
    with pytest.raises(ValueError, match="binds nothing"):
        check_binding([limits_of(space, LinearEstimator(), Budget(latency="9x", parameters="9x"))])


@pytest.mark.parametrize(("latency", "is_told"), [("0.5x", False), ("1.5x", True)])
def test_a_budget_that_the_source_keeps_is_told(supernet, caplog, latency, is_told):
    check_binding([limits_of(supernet.supernet.space, LinearEstimator(), Budget(latency=latency))])
    assert ("The source network keeps the budget itself" in caplog.text) == is_told


def test_where_another_budget_keeps_the_first_from_being_used_less_of_it_is_asked_for():
    sizes = (4,) * 6
    rng = np.random.default_rng(0)
    costs = [np.sort(rng.uniform(0.5, 1.5, size)) for size in sizes]
    first = CostTable(tuple(Factor((node,), row) for node, row in enumerate(costs)), sizes)
    # The other cost is the same: half of the first can be spent at most.
    limits = [Limit(first, 8.0), Limit(first, 5.0, "parameter_bytes")]
    part = usable_part(limits, 0.98)
    assert 0 < part <= 0.98 * 5.0 / 8.0


def test_what_a_training_needs_is_said_and_what_falls_short_is_warned_of(supernet, estimator, tmp_path, caplog):
    from test_search_readiness import Plain, fit
    from test_search_readiness import searching as callback

    search = callback(estimator, phases="decoupled", steps=1)
    fit(Plain(supernet), search, tmp_path)
    needed = needed_steps(search.search)
    said = f"this space needs {needed:,} steps, {-(-needed // 2)} epochs of this loader. This training has 4"
    (record,) = [record for record in caplog.records if said in record.getMessage()]
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith(": too few to be sure of what it finds.")


def test_what_is_searched_is_told_with_units(supernet):
    estimator, budget = LinearEstimator(), Budget(latency="0.7x", parameters="0.9x")
    limits = limits_of(supernet.supernet.space, estimator, budget, serves=("0.6x",))
    search = Search(supernet.supernet, limits, training_of())
    told = announcement(search)
    assert f"The same training serves latencies of {limits.serves[0]:.5g} ms." in told
    (row,) = (line for line in told.splitlines() if line.startswith("parameter_bytes"))
    assert re.fullmatch(r"parameter_bytes( +[\d.]+ [KM]iB){5}", row)
    least = f"parameter_bytes {bytes_text(metrics(search)['nas/parameter_bytes'])} of"
    assert f"{least} {bytes_text(limits.figures['parameter_bytes'])} (multiplier" in brief(search)

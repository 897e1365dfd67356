"""Pure parts of a study of trials: evolution, fronts, rungs, budgets at several input sizes."""

import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import LinearEstimator, small_network

from lightning_nas.budget.budget import Budget
from lightning_nas.budget.tables import cost_tables
from lightning_nas.multishot.best_trial import best_trials
from lightning_nas.multishot.domination import non_dominated_rank, survivors
from lightning_nas.multishot.evolution import Evolution, Result, is_promoted, parents
from lightning_nas.multishot.process import Owner
from lightning_nas.multishot.propose import propose
from lightning_nas.multishot.space import JointSpace, Setting, targets_of
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import space_of


def request(latency, parameters=None, peak=None):
    return Budget(latency, parameters, peak)


def places(sizes=(32, 24), variants=({},), **options):
    found = []
    for size, variant in itertools.product(sizes, variants):
        space = space_of(small_network(), torch.zeros(1, 3, size, size), options=SpaceOptions(**options))
        found.append(Setting(str(size), variant, space, cost_tables(space, LinearEstimator())))
    return tuple(found)


@pytest.fixture(scope="module")
def two_sizes():
    return places()


def ground_of(places, *latencies, floor=0.8, **others):
    requests = {str(latency): request(latency, **others) for latency in latencies}
    return JointSpace(places, 1, targets_of(places, requests, floor))


def limit_ms(target):
    """Return the latency budget, which is the same at all sizes."""
    (limit,) = {limits.costs[0].budget for limits in target.limits if limits}
    return limit


def result(number, value, cost=1.0, epochs=3, is_complete=True):
    return Result(number, (0, 0, number), epochs, value, cost, is_complete)


def test_fronts_are_those_of_a_plain_loop():
    points = np.random.default_rng(0).integers(0, 6, (40, 2)).astype(float)

    def dominates(a, b):
        return all(a <= b) and any(a < b)

    left, front = set(range(40)), 0
    expected = {}
    while left:
        best = {i for i in left if not any(dominates(points[j], points[i]) for j in left)}
        expected.update(dict.fromkeys(best, front))
        left, front = left - best, front + 1
    assert non_dominated_rank(points).tolist() == [expected[i] for i in range(40)]


def test_survivors_take_whole_fronts_first():
    points = np.random.default_rng(1).random((30, 2))
    ranks = non_dominated_rank(points)
    kept = survivors(points, 12)
    assert len(set(kept)) == 12
    assert max(ranks[kept]) <= min(ranks[[i for i in range(30) if i not in kept]])


def test_the_oldest_die():
    results = [result(0, 0.99), *(result(n, 0.1) for n in range(1, 6))]
    drawn = {g for seed in range(50) for g in parents(results, Evolution(9, population=5), np.random.default_rng(seed))}
    assert (0, 0, 0) not in drawn
    assert len(drawn) > 1


def test_a_longer_trial_is_fitter_than_a_stopped_one():
    results = [result(0, 0.9, epochs=1, is_complete=False), result(1, 0.5)]
    settings = Evolution(9, population=2, tournament=50)
    assert parents(results, settings, np.random.default_rng(0)) == ((0, 0, 1), (0, 0, 1))


def test_parents_of_nsga2_are_of_the_front():
    results = [result(0, 0.9, 2.0), result(1, 0.5, 1.0), result(2, 0.4, 3.0)]
    settings = Evolution(9, sampler="nsga2", population=2)
    drawn = {g for seed in range(20) for g in parents(results, settings, np.random.default_rng(seed))}
    assert drawn == {(0, 0, 0), (0, 0, 1)}


def test_a_rung_lets_the_best_part_go_on():
    values = np.random.default_rng(0).permutation(99) / 99
    promoted = [v for i, v in enumerate(values) if is_promoted(v, [*values[:i], *values[i + 1 :]], eta=3)]
    assert sorted(promoted) == sorted(values)[-33:]
    assert is_promoted(0.1, [], eta=3)


def trials_of(ground, *values, target=0):
    """Return complete trials of proposals for a target, the costs falling."""
    found = [
        propose(ground, ground.targets[target], [], [], 1, Evolution(40, population=99), np.random.default_rng(n)).genes
        for n in range(len(values))
    ]
    found.sort(key=ground.cost, reverse=True)
    return [Result(n, g, 1, v, ground.cost(g), True) for n, (g, v) in enumerate(zip(found, values, strict=True))]


def best(results, ground, target, count=1):
    return [result.number for result in best_trials(results, ground, target, count)]


def test_the_best_trial_is_complete_within_the_budget_and_uses_it(two_sizes):
    ground = ground_of(two_sizes, "0.8x", "0.4x")
    large, small = ground.targets
    results = trials_of(ground, 0.5, 0.6, 0.55)
    tiny = replace(trials_of(ground, 0.9, target=1)[0], number=3)
    stopped = replace(results[2], number=4, value=0.99, is_complete=False)
    # The small one has the highest value after a brief training, and is for those who ask for as little.
    assert best([*results, tiny, stopped], ground, large) == [1]
    assert best([*results, tiny, stopped], ground, small) == [3]
    assert best([tiny], ground, large) == [3]
    assert best([*results, stopped], ground, small) == []


def test_further_ones_are_of_other_places(two_sizes):
    ground = ground_of(two_sizes, "0.8x")
    large, (target,) = trials_of(ground, 0.5, 0.6, 0.55, 0.58), ground.targets
    small = [replace(result, genes=(1, *result.genes[1:]), number=result.number + 4) for result in large[:3]]
    results = [*large[1:], *small]
    assert best(results, ground, target) == [1]
    # Images of the small size do not use the budget, and the best of them is the other finalist all the same.
    assert best(results, ground, target, 2) == best(results, ground, target, 3) == [1, 5]


def test_what_the_backend_prices_over_the_budget_is_no_best_trial_where_another_is(two_sizes):
    ground = ground_of(two_sizes, "0.8x")
    results = trials_of(ground, 0.5, 0.6, 0.55)
    over = ground.decode(results[1].genes)
    measured = replace(ground, verify_ms=lambda architecture: 1e9 if architecture == over else 0.0)
    assert best(results, measured, ground.targets[0]) == [2]
    hopeless = replace(ground, verify_ms=lambda architecture: 1e9)
    assert best(results, hopeless, ground.targets[0], 2) == [1]


@pytest.mark.parametrize("num_started", [0, 1, 9])
def test_proposals_are_within_the_budget_by_the_backend(two_sizes, num_started):
    estimator = LinearEstimator(compiled_factor=1.01)
    ground = replace(ground_of(two_sizes, "0.8x"), verify_ms=estimator.verify_ms)
    target = ground.targets[0]
    results, settings = trials_of(ground, 0.5, 0.6, 0.55), Evolution(40, population=4)
    for seed in range(8):
        found = propose(ground, target, results, [], num_started, settings, np.random.default_rng(seed))
        assert found.is_verified
        assert estimator.verify_ms(ground.decode(found.genes)) <= limit_ms(target)
    # Where the backend is far from the estimate, the estimate counts.
    hopeless = replace(ground, verify_ms=lambda architecture: 1e9)
    found = propose(hopeless, target, results, [], num_started, settings, np.random.default_rng(0))
    assert ground.is_within(found.genes, target)
    assert not found.is_verified


@pytest.mark.parametrize("sampler", ["evolution", "nsga2"])
def test_proposals_are_new_and_within_their_budget(two_sizes, sampler):
    ground = ground_of(two_sizes, "0.8x", "0.5x")
    settings = Evolution(40, sampler=sampler, population=6)
    results, seen, rejected = [], [], 0
    for number in range(40):
        target = ground.targets[number % 2]
        found = propose(ground, target, results, seen, number // 2, settings, np.random.default_rng(number))
        place, index = ground.setting(found.genes), ground.index(found.genes)
        cost = LinearEstimator().latency_ms(ground.decode(found.genes))
        assert cost == pytest.approx(ground.cost(found.genes))
        assert target.floors[index] - 1e-9 <= cost <= limit_ms(target)
        assert place.space.input_size[1] == (32, 24)[found.genes[0]]
        results.append(Result(number, found.genes, 1, -cost, cost, True))
        seen.append(found.genes)
        rejected += found.rejected
    assert len(set(seen)) == 40
    assert rejected > 0
    assert {genes[0] for genes in seen} == {0, 1}


def test_relative_budgets_refer_to_the_source_at_the_first_size(two_sizes):
    target = ground_of(two_sizes, "0.5x").targets[0]
    source = two_sizes[0].space
    expected = 0.5 * LinearEstimator().latency_ms(source.decode(source.reference_encoding))
    assert [limits.costs[0].budget for limits in target.limits] == pytest.approx([expected] * 2)
    assert target.limits[1].references == target.limits[0].references


def test_a_size_that_cannot_meet_the_budget_is_not_proposed():
    both = places(sizes=(64, 24))
    least = targets_of(both[1:], {"": request(4.0)}, 0)[0].limits[0].reaches[0].minimum
    ground = ground_of(both, 1.5 * least)
    assert ground.targets[0].limits[0] is None
    found = [propose(ground, ground.targets[0], [], (), n, Evolution(9), np.random.default_rng(n)) for n in range(9)]
    assert {proposal.genes[0] for proposal in found} == {1}


def test_peak_and_parameters_bound_proposals_too(two_sizes):
    ground = ground_of(two_sizes, "0.9x", parameters="0.7x", peak="0.9x")
    target = ground.targets[0]
    limits = next(limits for limits in target.limits if limits is not None)
    most = limits.costs[1].budget
    for number in range(8):
        genes = propose(ground, target, [], (), number, Evolution(9), np.random.default_rng(number)).genes
        memory = LinearEstimator().memory(ground.decode(genes))
        assert memory.peak_activation_bytes <= limits.peak.budget
        assert memory.parameter_bytes <= most


def test_an_exhausted_space_says_so():
    only = places(sizes=(32,), kinds=("ibn",), expansions=(4,), ratios=(1.0,))
    ground = ground_of(only, "1x")
    assert only[0].space.num_architectures == 1
    first = propose(ground, ground.targets[0], [], (), 0, Evolution(9), np.random.default_rng(0))
    assert propose(ground, ground.targets[0], [], {first.genes}, 1, Evolution(9), np.random.default_rng(0)) is None


def test_a_budget_that_no_size_can_meet_is_refused(two_sizes):
    message = "out of reach everywhere(.|\n)*At input size 32: .*below what(.|\n)*At input size 24"
    with pytest.raises(ValueError, match=message):
        targets_of(two_sizes, {"": request("0.001x")}, 0.8)


def test_the_first_population_is_near_the_source_where_that_is_known(two_sizes):
    plain = ground_of(two_sizes, "0.8x")
    rng = np.random.default_rng(0)
    # Blocks far from the source cost as much as others, so what keeps most weights does not tell them apart.
    errors = [torch.from_numpy(rng.random(size)) for size in plain.gene_sizes[2:]]
    near = plain.with_errors([errors])

    def distances(ground):
        proposals = [
            propose(
                ground, ground.targets[0], [], (), number, Evolution(40, population=99), np.random.default_rng(number)
            )
            for number in range(8)
        ]
        genes = [proposal.genes for proposal in proposals]
        assert all(ground.is_within(g, ground.targets[0]) for g in genes)
        return genes, [float(sum(e[node] for e, node in zip(errors, g[2:], strict=True))) for g in genes]

    genes, found = distances(near)
    # They are nearer than what is drawn without knowing, none is nearer than the first at its size, and they differ.
    assert max(found) < np.mean(distances(plain)[1])
    assert len(set(genes)) >= 4
    assert found[0] == min(distance for g, distance in zip(genes, found, strict=True) if g[0] == genes[0][0])


def test_stages_may_be_of_other_resolutions():
    settings = places(sizes=(64, 48), scope="stage")
    names = [str(multiplier) for multiplier in settings[0].space.multipliers]
    assert names[0] == "stage 32x32" != str(settings[1].space.multipliers[0])
    assert JointSpace(settings, 1, ()).gene_sizes == (2, 1, *settings[1].space.node_sizes)


def test_places_must_offer_the_same():
    other = (*places(sizes=(32,)), *places(sizes=(24,), expansions=(2, 4)))
    with pytest.raises(ValueError, match="same options everywhere; they differ at input size 24"):
        ground_of(other, "0.8x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "`trials` must be at least 1; got 0"),
        ({"sampler": "tpe"}, "`sampler` must be one of evolution, nsga2; got 'tpe'"),
        ({"population": 0}, "`population` must be at least 1"),
        ({"crossover": 1.5}, "`crossover` must be between 0 and 1"),
        ({"rungs": [3, 1]}, "`rungs` must be ascending"),
        ({"rungs": [0]}, r"`rungs\[0\]` must be at least 1"),
        ({"eta": 1.0}, "`eta` must be above 1"),
        ({"stale_seconds": 0}, "`stale_seconds` must be above 0"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        Evolution(**{"trials": 4, **options})


def test_a_process_that_is_gone_is_known_to_be():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    here = Owner.here()
    assert here.knows_dead(Owner(here.host, child.pid, "x"))
    assert not here.knows_dead(Owner("elsewhere", child.pid, "x"))
    assert not here.knows_dead(Owner(here.host, 1, "x"))

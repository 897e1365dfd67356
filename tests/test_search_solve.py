import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from spaces import space_around
from torchvision.models import MobileNetV2

from lightning_nas.budget.budget import Budget, resolve_budget
from lightning_nas.budget.cost_table import CostTable, Factor, cost_table
from lightning_nas.budget.forbidden import Forbidden
from lightning_nas.budget.peak_table import peak_table
from lightning_nas.budget.resolve import resolve
from lightning_nas.budget.solver import Limit, cheapest, lowest_maximum, reach, solve, usable_part
from lightning_nas.budget.tables import CostTables
from lightning_nas.space.architecture import subgraphs
from lightning_nas.space.options import SpaceOptions

SETTING = [[1, 8, 1, 1], [4, 16, 2, 2], [4, 24, 2, 2]]


class ClosedForm:
    """Prices a subgraph by its operations, fused blocks at a third."""

    lanes = 8

    def predict_ms(self, parts):
        return np.array([1e-5 * part.macs * (0.3 if part.kind == "fused" else 1.0) + 0.001 for part in parts])

    def latency_ms(self, member):
        return float(self.predict_ms(subgraphs(member)).sum())


def parameter_bytes(parts):
    return np.array([float(part.parameter_bytes) for part in parts])


@pytest.fixture(scope="module")
def estimator():
    return ClosedForm()


@pytest.fixture(scope="module", params=["group", "stage", "model"])
def space(request):
    network = MobileNetV2(num_classes=4, inverted_residual_setting=SETTING, dropout=0.0).eval()
    options = SpaceOptions(ratios=(0.5, 1.0), scope=request.param, kinds=("ibn", "fused", "skip"))
    return space_around(network, torch.zeros(1, 3, 32, 32), options=options)


@pytest.fixture(scope="module")
def table(space, estimator):
    return cost_table(space, estimator.predict_ms)


def enumerate_nodes(sizes):
    return np.array(list(itertools.product(*map(range, sizes))))


def small(space):
    """Return `space` with two options a block, small enough to enumerate."""
    choices = (replace(c, options=(c.options[0], c.own) if c.options[0] != c.own else c.options) for c in space.choices)
    return replace(space, choices=tuple(choices))


def test_table_is_exact(space, table, estimator):
    generator = np.random.default_rng(0)
    nodes = np.stack([generator.integers(0, n, 50) for n in space.node_sizes], axis=1)
    exact = [estimator.latency_ms(space.decode(row)) for row in nodes]
    assert np.allclose(table.exact_many(nodes), exact, rtol=1e-12)
    assert sum(table.parts(nodes[0])) == pytest.approx(exact[0])


def test_table_prices_by_one_call(space):
    calls = []
    cost_table(space, lambda parts: calls.append(len(parts)) or np.ones(len(parts)))
    assert len(calls) == 1


def test_expectation_is_exact_and_differentiable(space, estimator):
    space = small(space)
    table = cost_table(space, estimator.predict_ms)
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(n, generator=generator, dtype=torch.float64) for n in space.node_sizes]
    probabilities = [row.softmax(0).requires_grad_() for row in logits]
    nodes = enumerate_nodes(space.node_sizes)
    columns = [p.detach().numpy()[nodes[:, i]] for i, p in enumerate(probabilities)]
    brute = (np.prod(columns, axis=0) * table.exact_many(nodes)).sum()
    expected = table.expected(probabilities)
    assert expected.item() == pytest.approx(brute, rel=1e-12)
    assert torch.autograd.gradcheck(lambda *p: table.expected(p), probabilities)


@pytest.mark.parametrize("part", [0.35, 0.5, 0.7, 0.95])
def test_solver_finds_what_enumeration_finds(space, estimator, part):
    space = small(space)
    table = cost_table(space, estimator.predict_ms)
    parameters = cost_table(space, parameter_bytes)
    nodes = enumerate_nodes(space.node_sizes)
    costs, weights = table.exact_many(nodes), parameters.exact_many(nodes)
    budget = costs.min() + part * (costs.max() - costs.min())
    weight_budget = weights.min() + 0.8 * (weights.max() - weights.min())
    generator = np.random.default_rng(1)
    for _ in range(5):
        scores = [generator.normal(size=n) for n in space.node_sizes]
        totals = sum(score[nodes[:, i]] for i, score in enumerate(scores))
        fits = (costs <= budget) & (weights <= weight_budget)
        found = solve(scores, [Limit(table, budget), Limit(parameters, weight_budget, "parameter_bytes")])
        assert table.exact(found) <= budget
        assert sum(score[i] for score, i in zip(scores, found, strict=True)) == pytest.approx(totals[fits].max())


def test_reach_is_exact(space, estimator):
    space = small(space)
    table = cost_table(space, estimator.predict_ms)
    costs = table.exact_many(enumerate_nodes(space.node_sizes))
    span = reach(table)
    assert (span.minimum, span.maximum) == pytest.approx((costs.min(), costs.max()))
    assert table.exact(cheapest(table)) == pytest.approx(costs.min())
    assert solve([np.zeros(n) for n in table.node_sizes], [Limit(table, 0.9 * costs.min())]) is None


def test_a_peak_is_the_largest_of_sums(space, table):
    peaks = peak_table(space)
    tables = CostTables(table, cost_table(space, parameter_bytes), peaks)
    source = peaks.exact(space.reference_encoding)
    limits = resolve(Budget(parameters="2x", peak_activations="0.8x"), space, tables)
    generator = np.random.default_rng(0)
    for _ in range(5):
        scores = [generator.normal(size=n) for n in space.node_sizes]
        found = solve(scores, limits.costs, limits.forbidden)
        assert peaks.exact(found) <= 0.8 * source
        assert limits.allows(found)
    assert not limits.allows(space.reference_encoding)
    with pytest.raises(ValueError, match=r"peak_activation_bytes=.* is below what the space can reach"):
        resolve(Budget(peak_activations=10), space, tables)


def test_peaks_are_solved_as_enumeration_finds(space, estimator):
    space = small(space)
    table, peaks = cost_table(space, estimator.predict_ms), peak_table(space)
    nodes = enumerate_nodes(space.node_sizes)
    costs, found = table.exact_many(nodes), peaks.exact_many(nodes)
    assert peaks.exact(lowest_maximum(peaks.rows)) == found.min()
    assert peaks.maximum([range(n) for n in space.node_sizes]) == found.max()
    generator = np.random.default_rng(2)
    for bound in np.quantile(found, [0.1, 0.5, 0.8]):
        scores = [generator.normal(size=n) for n in space.node_sizes]
        totals = sum(score[nodes[:, i]] for i, score in enumerate(scores))
        fits = (costs <= np.median(costs)) & (found <= bound)
        best = solve(scores, [Limit(table, float(np.median(costs)))], [peaks.over(float(bound))])
        if not fits.any():
            assert best is None
            continue
        assert sum(score[i] for score, i in zip(scores, best, strict=True)) == pytest.approx(totals[fits].max())


def test_what_is_forbidden_whatever_is_chosen_leaves_nothing(table):
    scores = [np.zeros(n) for n in table.node_sizes]
    assert solve(scores, [], [Forbidden((((), np.array(True)),))]) is None
    assert solve(scores, [], [Forbidden((((), np.array(False)),))]) is not None


@pytest.mark.parametrize(
    "value", [0, -3, float("nan"), float("inf"), "0x", "-1x", "nan", "fast", "3 hours", "", "1.2.3x"]
)
def test_invalid_budgets_name_the_value(value):
    with pytest.raises(ValueError, match="is not valid") as caught:
        resolve_budget(value, 4.0, "latency_ms")
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [
        (8.0, "latency_ms", 8.0),
        ("0.5x", "latency_ms", 2.0),
        ("3ms", "latency_ms", 3.0),
        ("256KiB", "parameter_bytes", 262144.0),
        ("1MB", "parameter_bytes", 1e6),
        (1000, "peak_activation_bytes", 1000.0),
    ],
)
def test_budgets_in_their_forms(value, name, expected):
    assert resolve_budget(value, 4.0, name) == expected


def test_contradictory_budgets_are_refused(space, table):
    parameters = cost_table(space, lambda parts: np.array([-float(p.parameter_bytes) + 1e7 for p in parts]))
    tables = CostTables(table, parameters, peak_table(space))
    tight = Budget(reach(table).minimum * 1.001, reach(parameters).minimum * 1.00001)
    with pytest.raises(ValueError, match="all budgets at once"):
        resolve(tight, space, tables)
    with pytest.raises(ValueError, match=r"at least one of .*peak_activations, such as latency='0\.5x'"):
        Budget()


@pytest.mark.parametrize("field", ["latency", "parameters", "peak_activations"])
def test_a_budget_out_of_reach_names_one_that_can_be_met(space, table, field):
    parameters = cost_table(space, parameter_bytes)
    tables = CostTables(table, parameters, peak_table(space))
    for given in ("0.0001x", 1e-6):
        with pytest.raises(ValueError, match=r"below what the space can reach: .* \(minimum\)") as refused:
            resolve(Budget(**{field: given}), space, tables)
        message = str(refused.value)
        assert ("It was asked for as 0.0001x of the source." in message) == (given == "0.0001x")
        named = re.search(r"HINT: ask for ([\d.]+)(x| ms| bytes) or more, or widen the space\.$", message)
        least = named[1] + "x" if named[2] == "x" else float(named[1])
        resolve(Budget(**{field: least}), space, tables)


def test_a_budget_is_used_up_where_there_is_enough_to_choose_from():
    generator = np.random.default_rng(0)
    sizes = {"large": (8,) * 12, "small": (3, 3, 2, 2)}
    tables = {
        name: CostTable(tuple(Factor((n,), generator.uniform(1, 3, size)) for n, size in enumerate(row)), row)
        for name, row in sizes.items()
    }
    middle = {name: float(np.median(table.sample_costs(500))) for name, table in tables.items()}
    assert usable_part([Limit(tables["large"], middle["large"])], 0.98) == 0.98
    assert usable_part([Limit(tables["small"], middle["small"])], 0.98) == 0.0
    part = usable_part([Limit(tables["large"], middle["large"])], 0.98, wanted=8**12 // 10)
    costs = tables["large"].sample_costs(4000, seed=1) / middle["large"]
    assert ((costs <= 1) & (costs >= part)).mean() == pytest.approx(0.1, abs=0.02)


def test_what_another_budget_leaves_of_the_first_is_used_up():
    generator = np.random.default_rng(0)
    sizes = (8,) * 8
    first = CostTable(tuple(Factor((n,), generator.uniform(1, 3, size)) for n, size in enumerate(sizes)), sizes)
    half = CostTable(tuple(Factor(factor.nodes, factor.cost / 2) for factor in first.factors), sizes)
    limits = [Limit(first, 16.0), Limit(half, 7.0, "parameter_bytes")]
    part = usable_part(limits, 0.98)
    assert 0.85 * 0.98 < part <= 14.0 / 16.0 * 0.98
    assert solve([np.zeros(8)] * 8, [replace(limits[0], floor=part * 16.0), limits[1]]) is not None

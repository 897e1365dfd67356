"""Searching widths alone, kinds alone, or both, in the same supernet."""

import itertools

import pytest
from limits import limits_of
from searches import search_of, training_of
from test_search_callback import Plain, loader, trainer

from lightning_nas.budget.ablation import searched_options
from lightning_nas.budget.budget import Budget
from lightning_nas.budget.tables import cost_tables
from lightning_nas.search.engine import Search

pytestmark = pytest.mark.usefixtures("few_anchors")


def parts(space, nodes):
    count = len(space.multipliers)
    return nodes[:count], nodes[count:]


@pytest.mark.parametrize("choices", ["widths", "kinds", "both"])
@pytest.mark.parametrize("phases", ["joint", "decoupled"])
def test_only_what_is_searched_changes(supernet, estimator, tmp_path, choices, phases):
    space = supernet.supernet.space
    search = search_of(
        estimator,
        latency="0.8x",
        choices=choices,
        phases=phases,
        steps=3,
        candidates=3,
        evaluations=6,
        random_subnets=1,
    )
    trainer(tmp_path, [search], epochs=2).fit(Plain(supernet), loader(), loader())
    widths, blocks = parts(space, space.reference_encoding)
    for architecture in search.candidates:
        assert estimator.latency_ms(architecture) <= 0.8 * estimator.latency_ms(space.decode(space.reference_encoding))
        found_widths, found_blocks = parts(space, space.encode(architecture))
        assert choices != "widths" or found_blocks == blocks
        assert choices != "kinds" or found_widths == widths
    assert any(space.encode(a) != space.reference_encoding for a in search.candidates)


def test_weights_that_are_trained_first_serve_every_choice(supernet, estimator):
    space = supernet.supernet.space
    trained = {}
    for choices in ("widths", "both"):
        limits = limits_of(space, estimator, Budget(latency="0.8x"), choices=choices)
        search = Search(supernet.supernet, limits, training_of(phases="decoupled", prior=1.0))
        trained[choices] = [row.tolist() for row in search.trained], search.pool
    assert trained["widths"] == trained["both"]


def test_what_cannot_be_met_by_a_part_of_the_choices_is_said(supernet, estimator):
    space = supernet.supernet.space
    table = limits_of(space, estimator, Budget(latency="0.9x")).reaches[0]
    with pytest.raises(ValueError, match="below what the space can reach by its widths alone"):
        limits_of(space, estimator, Budget(latency=table.minimum * 1.01), choices="widths")
    with pytest.raises(ValueError, match="`choices` must be one of both, widths, kinds; got 'depths'"):
        limits_of(space, estimator, Budget(latency="0.9x"), choices="depths")


@pytest.mark.parametrize("choices", ["widths", "kinds"])
def test_reach_is_of_what_is_searched(supernet, estimator, choices):
    space = supernet.supernet.space
    reach, whole = (
        limits_of(space, estimator, Budget(latency="0.95x"), choices=c).reaches[0] for c in (choices, "both")
    )
    table = cost_tables(space, estimator).latency_ms
    members = [table.exact(nodes) for nodes in itertools.product(*searched_options(space, choices))]
    assert reach.minimum == pytest.approx(min(members))
    assert reach.maximum == pytest.approx(max(members))
    assert whole.minimum < reach.minimum
    assert reach.minimum <= reach.median <= reach.maximum

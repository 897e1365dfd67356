"""The last check of the budgets: on the derived architecture itself, to the last percent, and on every cost."""

from dataclasses import replace

import pytest
from conftest import LinearEstimator, small_network
from limits import limits_of

from lightning_nas.budget.budget import Budget
from lightning_nas.budget.confirm import confirm
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import space_of

COSTS = ["latency_ms", "parameter_bytes", "peak_activation_bytes"]
NAMES = dict(zip(COSTS, ("latency", "parameters", "peak_activations"), strict=True))


@pytest.fixture
def reference(images):
    space = space_of(small_network(), images[:1], options=SpaceOptions(kernels=(3, 5)))
    return space, space.decode(space.reference_encoding)


def limits_at(space, cost, part):
    """Return limits on one cost, that part of the source network's."""
    found = limits_of(space, LinearEstimator(), Budget(**{NAMES[cost]: "1x"}))
    if cost == "peak_activation_bytes":
        return replace(found, peak=replace(found.peak, budget=part * found.peak.budget))
    return replace(found, costs=tuple(replace(limit, budget=part * limit.budget) for limit in found.costs))


@pytest.mark.parametrize("cost", COSTS)
def test_a_network_just_over_its_budget_is_refused(reference, cost):
    space, architecture = reference
    with pytest.raises(RuntimeError, match=f"{cost}=.*, over its budget"):
        confirm(limits_at(space, cost, 0.999), LinearEstimator(), architecture)


@pytest.mark.parametrize("cost", COSTS)
def test_a_network_that_costs_its_budget_is_within_it(reference, cost):
    space, architecture = reference
    confirm(limits_at(space, cost, 1.0), LinearEstimator(), architecture)


class Compiled(LinearEstimator):
    """An estimator whose backend prices every network alike."""

    def __init__(self, measured_ms):
        super().__init__()
        object.__setattr__(self, "measured_ms", measured_ms)

    def verify_ms(self, architecture):
        return self.measured_ms


def test_what_the_backend_prices_just_over_the_budget_is_refused(reference):
    space, architecture = reference
    limits = limits_at(space, "latency_ms", 1.0)
    (limit,) = limits.costs
    confirm(limits, Compiled(limit.budget), architecture)
    with pytest.raises(RuntimeError, match="by the backend of linear, over its budget"):
        confirm(limits, Compiled(1.001 * limit.budget), architecture)

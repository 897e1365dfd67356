"""Limits of a space in one call, as a search resolves them."""

from lightning_nas.budget.resolve import resolve_search
from lightning_nas.budget.tables import cost_tables


def limits_of(space, estimator, budget, serves=(), choices="both"):
    return resolve_search(budget, space, cost_tables(space, estimator), serves, choices)

"""Exact budgets: the best architecture by additive scores whose cost is within every budget, or the proof of none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array

from lightning_nas.budget.cost_table import CostTable, Factor
from lightning_nas.budget.forbidden import Forbidden
from lightning_nas.space.spec import Encoding

__all__ = ["Limit", "Reach", "cheapest", "dearest", "lowest_maximum", "reach", "solve", "usable_part"]


@dataclass(frozen=True)
class Limit:
    """A budget on an additive cost.

    Attributes:
        table: The cost.
        budget: Its greatest allowed value, in the table's unit.
        name: What it is, for messages.
        floor: Its least value; 0 for none. A budget is there to be used: a band just below it keeps the solver from
            networks that are needlessly small where the scores hardly differ.
    """

    table: CostTable
    budget: float
    name: str = "latency_ms"
    floor: float = 0.0


@dataclass(frozen=True)
class Reach:
    """What a space can reach: minimum, median (of random members) and maximum cost."""

    minimum: float
    median: float
    maximum: float


def solve(
    scores: Sequence[NDArray[np.floating]], limits: Sequence[Limit], forbidden: Sequence[Forbidden] = ()
) -> Encoding | None:
    """Return the architecture with the highest sum of scores within all budgets, or None.

    A mixed-integer linear program (scipy's HiGHS): a binary for each option of each node, and for each factor that
    depends on several nodes the indicator of each combination, tied to the binaries by its marginals. The result is
    checked against the tables: it is never over.

    Args:
        scores: For each node the score of each option.
        limits: The budgets.
        forbidden: What may not be chosen.
    """
    program = _Program([len(score) for score in scores], forbidden, limits)
    return program.solve(np.concatenate([np.asarray(score, dtype=np.float64) for score in scores]))


def usable_part(
    limits: Sequence[Limit],
    most: float,
    forbidden: Sequence[Forbidden] = (),
    wanted: int = 500,
    samples: int = 2000,
) -> float:
    """Return which part of the first budget to use at least, so that there is something to choose from.

    Where a space has millions of members, thousands of them are within a percent of the budget, and nothing is lost by
    using it up. Where it has a hundred, the best one may be anywhere below. And where another budget keeps the first
    from being used up, what can be used of it counts.

    Args:
        limits: The budgets, at least one.
        most: What is used at least in a large space.
        forbidden: What may not be chosen.
        wanted: So many members there have to be, about, between that part of the budget and all of it.
        samples: Random members that tell how many there are.
    """
    first, *others = limits
    costs = first.table.sample_costs(samples)
    below = np.sort(costs[costs <= first.budget])
    members = math.prod(first.table.node_sizes)
    # As many of the random members as stand for `wanted` ones of the space.
    needed = math.ceil(wanted / members * samples)
    if needed >= len(below) and members <= wanted * samples:
        return 0.0
    part = min(most, float(below[-needed]) / first.budget) if needed > 1 else most
    free = [np.zeros(size) for size in first.table.node_sizes]
    if solve(free, [replace(first, floor=part * first.budget), *others], forbidden) is not None:
        return part
    most_used = _extreme(first.table, -1.0, forbidden, limits)
    return 0.0 if most_used is None else part * first.table.exact(most_used) / first.budget


def cheapest(table: CostTable, forbidden: Sequence[Forbidden] = (), limits: Sequence[Limit] = ()) -> Encoding | None:
    """Return the cheapest architecture within limits, or None where there is none."""
    return _extreme(table, 1.0, forbidden, limits)


def dearest(table: CostTable) -> Encoding:
    """Return the architecture that costs most."""
    found = _extreme(table, -1.0)
    assert found is not None, "the dearest architecture always exists"
    return found


def lowest_maximum(tables: Sequence[CostTable], forbidden: Sequence[Forbidden] = ()) -> Encoding | None:
    """Return the architecture whose largest cost is lowest, such as the one with the lowest peak.

    Args:
        tables: The costs, of one unit; at least one.
        forbidden: What may not be chosen.
    """
    program = _Program(tables[0].node_sizes, forbidden)
    return program.solve_maximum(tables)


def reach(table: CostTable, samples: int = 2000) -> Reach:
    """Return the exact minimum and maximum of a cost over its space, and the median of random members."""
    lowest = cheapest(table)
    assert lowest is not None, "the cheapest architecture always exists"
    return Reach(table.exact(lowest), float(np.median(table.sample_costs(samples))), table.exact(dearest(table)))


def _extreme(
    table: CostTable, sign: float, forbidden: Sequence[Forbidden] = (), limits: Sequence[Limit] = ()
) -> Encoding | None:
    # The extreme of a cost must not be kept away by a floor.
    program = _Program(table.node_sizes, forbidden, [replace(limit, floor=0.0) for limit in limits])
    return program.solve(np.zeros(sum(table.node_sizes)), costs=table, sign=sign)


class _Program:
    """The variables and rows of the program: x, one for each option, then y, one for each combination."""

    def __init__(
        self, node_sizes: Sequence[int], forbidden: Sequence[Forbidden] = (), limits: Sequence[Limit] = ()
    ) -> None:
        self.node_sizes = tuple(node_sizes)
        self.forbidden, self.limits = tuple(forbidden), tuple(limits)
        self.starts = np.concatenate([[0], np.cumsum(self.node_sizes)])
        self.num_variables = int(self.starts[-1])
        self.cells: dict[tuple[int, ...], int] = {}
        self.rows: list[tuple[NDArray[np.intp], NDArray[np.float64], float, float]] = []
        self.upper: dict[int, float] = {}
        self.is_impossible = False
        for start, size in zip(self.starts, self.node_sizes, strict=False):
            # Exactly one option of each node.
            self._add_row(np.arange(start, start + size), np.ones(size), 1.0, 1.0)
        for limit in limits:
            self._limit(limit.table, limit.budget, limit.floor)
        for one in forbidden:
            self._forbid(one)

    def solve(self, scores: NDArray[np.float64], costs: CostTable | None = None, sign: float = 1.0) -> Encoding | None:
        """Maximise the scores minus `sign` times `costs`; tighten and repeat should rounding pass a budget."""
        columns, values = (np.empty(0, dtype=np.intp), np.empty(0)) if costs is None else self._linear(costs)
        objective = np.zeros(self.num_variables)
        objective[: len(scores)] = -scores
        np.add.at(objective, columns, sign * values)
        return self._solve(objective)

    def solve_maximum(self, tables: Sequence[CostTable]) -> Encoding | None:
        """Minimise the largest of some costs."""
        # The solver's tolerances are absolute.
        unit = max(table.bound for table in tables)
        rows = [(*self._linear(table), self._constant(table)) for table in tables]
        column = self.num_variables
        self.num_variables += 1
        for columns, values, constant in rows:
            self._add_row(np.append(columns, column), np.append(values / unit, -1.0), -np.inf, -constant / unit)
        objective = np.zeros(self.num_variables)
        objective[column] = 1.0
        return self._solve(objective)

    def _limit(self, table: CostTable, budget: float, floor: float = 0.0) -> None:
        """Bound a cost; a factor's combinations become variables when they are first met."""
        columns, values = self._linear(table)
        # Scaled to the budget, since the solver's tolerances are absolute.
        rest = budget - self._constant(table)
        self._add_row(columns, values / budget, -np.inf, rest / budget)
        # The floor, less the constant part and scaled as the cost is.
        if floor > 0:
            self._add_row(columns, values / budget, rest / budget - 1 + floor / budget, np.inf)

    def _forbid(self, forbidden: Forbidden) -> None:
        """Exclude combinations of options, and sums over their bounds."""
        for nodes, cells in forbidden.cells:
            if not nodes:
                self.is_impossible |= bool(cells)
                continue
            first, spread = self._cells_of(Factor(nodes, cells.astype(np.float64)))
            for cell in np.flatnonzero(spread):
                self.upper[first + int(cell)] = 0.0
        for table, bound in forbidden.sums:
            self._limit(table, bound)

    def _solve(self, objective: NDArray[np.float64]) -> Encoding | None:
        # HiGHS takes a row as kept within a tolerance; where the table says that it is not, the budget is asked for
        # smaller.
        for slack in (0.0, 1e-6, 1e-5, 1e-4):
            encoding = None if self.is_impossible else self._run(objective, slack)
            if encoding is None or self._is_within(encoding):
                return encoding
        return None

    def _is_within(self, encoding: Encoding) -> bool:
        kept = all(limit.table.exact(encoding) <= limit.budget for limit in self.limits)
        return kept and not any(one.contains(encoding) for one in self.forbidden)

    def _run(self, objective: NDArray[np.float64], slack: float) -> Encoding | None:
        upper = np.ones(self.num_variables)
        for column, bound in self.upper.items():
            upper[column] = bound
        integrality = np.zeros(self.num_variables)
        # The indicators of combinations are whole where the options are, by their marginals, and cost no branching.
        integrality[: self.starts[-1]] = 1
        result = milp(
            objective,
            integrality=integrality,
            bounds=Bounds(np.zeros(self.num_variables), upper),
            constraints=self._constraints(slack),
            # By default HiGHS stops at 1e-4, which need not be the best.
            options={"mip_rel_gap": 1e-6},
        )
        if result.x is None:
            return None
        spans = zip(self.starts[:-1], self.node_sizes, strict=True)
        # Whole variables are whole only within a tolerance.
        return tuple(int(np.argmax(result.x[start : start + size])) for start, size in spans)

    def _constraints(self, slack: float) -> LinearConstraint:
        lengths = [len(columns) for columns, *_ in self.rows]
        rows = np.repeat(np.arange(len(self.rows)), lengths)
        columns = np.concatenate([row[0] for row in self.rows])
        values = np.concatenate([row[1] for row in self.rows])
        # SciPy's solver takes indices of 32 bits; before 1.15 it does not convert others.
        places = rows.astype(np.int32), columns.astype(np.int32)
        matrix = csr_array(coo_array((values, places), shape=(len(self.rows), self.num_variables)))
        lower = np.array([row[2] for row in self.rows])
        upper = np.array([row[3] - (slack if np.isneginf(row[2]) else 0.0) for row in self.rows])
        return LinearConstraint(matrix, lower, upper)

    def _add_row(self, columns: NDArray[np.intp], values: NDArray[np.float64], lower: float, upper: float) -> None:
        self.rows.append((columns, values, lower, upper))

    def _cells_of(self, factor: Factor) -> tuple[int, NDArray[np.float64]]:
        """Return the first variable of the combinations of a factor's nodes, and its value at each of them.

        One node's are its own options. What depends on a part of the nodes of others is read from theirs.
        """
        nodes = factor.nodes
        if len(nodes) == 1:
            return int(self.starts[nodes[0]]), factor.cost.ravel()
        home = next((known for known in self.cells if set(nodes) <= set(known)), nodes)
        shape = tuple(self.node_sizes[node] for node in home)
        if home not in self.cells:
            first = self.cells[home] = self.num_variables
            self.num_variables += int(np.prod(shape))
            grid = first + np.arange(np.prod(shape)).reshape(shape)
            for axis, node in enumerate(home):
                for option, cells in enumerate(np.moveaxis(grid, axis, 0).reshape(shape[axis], -1)):
                    columns = np.append(cells, self.starts[node] + option)
                    self._add_row(columns, np.append(np.ones(len(cells)), -1.0), 0.0, 0.0)
        return self.cells[home], np.broadcast_to(factor.over(home), shape).ravel()

    def _linear(self, table: CostTable) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        columns, values = [np.empty(0, dtype=np.intp)], [np.empty(0)]
        for factor in table.factors:
            if factor.nodes:
                first, cost = self._cells_of(factor)
                columns.append(first + np.arange(cost.size))
                values.append(cost)
        return np.concatenate(columns), np.concatenate(values)

    def _constant(self, table: CostTable) -> float:
        return float(sum(factor.cost.item() for factor in table.factors if not factor.nodes))

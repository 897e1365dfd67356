"""The search itself, without Lightning: which path trains, when the logits learn, from what, and what is chosen."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..space.spec import SearchSpace
from ..supernet.supernet import Supernet
from .budget import Budgets
from .penalty import augmented_lagrangian, entropy, policy_loss, relative_excess
from .removal import describe_removed, possible_options
from .sampling import draw, draw_any, draw_near, kept_weights, narrowest
from .solve import Limit, solve

__all__ = ["Search", "SearchSettings"]

log = logging.getLogger(__name__)

MAX_UNUSABLE = 10
"""Architecture steps without finite losses, one after the other, that end a search."""


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        warmup: Part of the steps that train weights only.
        every: Optimizer steps from one architecture step to the next.
        samples: Architectures that an architecture step compares on one batch.
        lr: Learning rate of Adam on the logits.
        beta1: First moment of that Adam.
        rho: Weight of the squared relative excess over the budget.
        eta: Step of the budget's multiplier.
        uniform: Part of the random training paths that ignore the logits, so that no option starves.
        band: Costs, relative to the budget, of the random paths that are trained.
        use: Least part of the first budget that a derived architecture uses, where the space allows it.
        prior: How strongly the logits prefer, at the start, options near to the source; 1 for pretrained weights, 0 for
            none.
        phases: ``joint``: the logits learn beside the weights, after a warm-up; ``decoupled``: all steps train weights,
            and the logits learn afterwards.
        pool: With a prior, how many architectures within the budget the warm-up trains.
        seed: Seed of every draw.

    Raises:
        ValueError: A setting out of range.
    """

    warmup: float = 0.25
    every: int = 8
    samples: int = 2
    lr: float = 0.05
    beta1: float = 0.5
    rho: float = 5.0
    eta: float = 0.05
    uniform: float = 0.2
    band: tuple[float, float] = (0.7, 1.3)
    use: float = 0.96
    prior: float = 0.0
    pool: int = 48
    phases: str = "joint"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid, rule in (
            ("warmup", 0 <= self.warmup < 1, "at least 0 and below 1"),
            ("every", self.every >= 1, "at least 1"),
            ("samples", self.samples >= 2, "at least 2, since each is compared with the others"),
            ("lr", self.lr > 0, "above 0"),
            ("beta1", 0 <= self.beta1 < 1, "at least 0 and below 1"),
            ("rho", self.rho >= 0, "at least 0"),
            ("eta", self.eta >= 0, "at least 0"),
            ("uniform", 0 <= self.uniform <= 1, "between 0 and 1"),
            ("prior", self.prior >= 0, "at least 0"),
            ("pool", self.pool >= 1, "at least 1"),
            ("use", 0 <= self.use < 1, "at least 0 and below 1"),
            ("phases", self.phases in ("joint", "decoupled"), "joint or decoupled"),
            ("band", 0 <= self.band[0] < self.band[1], "two rising numbers"),
        ):
            if not valid:
                raise ValueError(f"`{name}` must be {rule}; got {getattr(self, name)}.")


class Search:
    """The state of a search: the supernet's logits, the budgets' multipliers and the generator of every draw.

    Both spellings run on it: `ArchitectureSearch`, the callback, and `SearchModule`, which writes the loss out.

    Args:
        supernet: What is searched.
        budgets: What it has to cost.
        settings: How.
        errors: For each node how far each option is from the source, in any unit, for the prior; see
            `lightning_nas.supernet.option_errors`. By default the prior scores the weights that an option keeps.
        keep_logits: Whether the supernet's logits stay as they are, because an earlier search has trained them.
    """

    def __init__(
        self,
        supernet: Supernet,
        budgets: Budgets,
        settings: SearchSettings,
        errors: Sequence[Tensor] | None = None,
        keep_logits: bool = False,
    ) -> None:
        self.supernet = supernet
        self.budgets = budgets
        self.settings = settings
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.multipliers = [0.0] * len(budgets.limits)
        self.possible = possible_options(supernet.space.node_sizes, budgets.limits, budgets.forbidden)
        self.num_skipped = self._num_unusable = 0
        self._pool: list[tuple[int, ...]] = []
        self._prior: list[NDArray[np.float64]] = []
        if settings.prior:
            prior = kept_weights(supernet.space) if errors is None else _scores_of(supernet.space, errors)
            rows = [settings.prior * score for score in prior]
            if not keep_logits:
                with torch.no_grad():
                    for logits, row in zip(supernet.logits, rows, strict=True):
                        logits.copy_(row)
            self._prior = _logs(self._softmax(rows))
            # Of the prior, so that a resumed search has the same pool.
            self._pool = self._candidates(settings.pool, self._prior, _seeded(settings.seed))

    def probabilities(self) -> list[Tensor]:
        """Return the option probabilities of each node; 0 for options that no architecture within the budgets has."""
        return self._softmax(self.supernet.logits)

    def _softmax(self, logits: Sequence[Tensor]) -> list[Tensor]:
        kept = (torch.from_numpy(row) for row in self.possible)
        pairs = zip(logits, kept, strict=True)
        return [row.float().masked_fill(~here.to(row.device), -torch.inf).softmax(0) for row, here in pairs]

    @property
    def removed(self) -> list[str]:
        """What no architecture within the budgets has, in words."""
        return describe_removed(self.supernet.space, self.possible)

    def is_due(self, step: int, total_steps: int) -> bool:
        """Return whether optimizer step `step` of `total_steps` is an architecture step."""
        first = math.ceil(self.settings.warmup * total_steps)
        if self.settings.phases == "decoupled":
            return False
        return step >= first and (step - first) % self.settings.every == 0

    def path(self, step: int, total_steps: int) -> tuple[int, ...]:
        """Return the nodes of the path to train at `step`: source network, random, narrowest, random.

        The rotation keeps the widest and the narrowest slices trained (the sandwich rule of BigNAS, arXiv
        2003.11142, one path at a time); with a prior the narrowest is left out, which keeps least. Random paths follow
        the logits once these learn.
        """
        space, turn = self.supernet.space, step % 4
        learnt = self.settings.phases == "joint" and step >= self.settings.warmup * total_steps
        if turn == 0:
            return space.reference_nodes
        if turn == 2 and not self._pool and not learnt:
            return narrowest(space, self.possible)
        if learnt and float(torch.rand((), generator=self.generator)) >= self.settings.uniform:
            return self.draw()
        if not self.budgets.limits:
            return draw_any(self.possible, self.generator)
        if self._pool and float(torch.rand((), generator=self.generator)) >= self.settings.uniform:
            return self._pool[int(torch.randint(len(self._pool), (), generator=self.generator))]
        limit = self.budgets.limits[0]
        return draw_near(limit.table, limit.budget, self.settings.band, self.generator, self.possible)

    def draw(self) -> tuple[int, ...]:
        """Draw an architecture by the logits."""
        return draw(self.probabilities(), self.generator)

    def objective(self, samples: Sequence[Sequence[int]], losses: Tensor) -> Tensor:
        """Return the loss of the logits: the surrogate of the task's expected loss, plus the penalty.

        Args:
            samples: Architectures drawn by `draw`.
            losses: Their losses on one batch, shape (num_samples,), without gradient.
        """
        with torch.autocast(losses.device.type, enabled=False):
            probabilities = self.probabilities()
            return policy_loss(probabilities, samples, losses.detach().float()) + self.penalty()

    def is_usable(self, losses: Tensor) -> bool:
        """Return whether the logits can learn from losses; those that are not finite are counted.

        Raises:
            RuntimeError: Too many one after the other.
        """
        if bool(torch.isfinite(losses).all()):
            self._num_unusable = 0
            return True
        self.num_skipped += 1
        self._num_unusable += 1
        if self._num_unusable >= MAX_UNUSABLE:
            raise RuntimeError(
                f"The losses of sampled subnets were not finite in {MAX_UNUSABLE} architecture steps one after another;"
                f" the last were {losses.tolist()}. HINT: a smaller learning rate of the weights, or clipped gradients."
            )
        return False

    def penalty(self) -> Tensor:
        """Return the penalty of every budget on the exact expected costs; a function of the logits only."""
        probabilities = self.probabilities()
        terms = []
        for limit, multiplier in zip(self.budgets.limits, self.multipliers, strict=True):
            excess = relative_excess(limit.table.expected(probabilities), limit.budget)
            terms.append(augmented_lagrangian(excess, multiplier, self.settings.rho))
        return torch.stack(terms).sum().float() if terms else probabilities[0].new_zeros(())

    @torch.no_grad()
    def update_multipliers(self) -> None:
        """Move each budget's multiplier by its relative excess; once after each architecture step."""
        probabilities = self.probabilities()
        self.multipliers = [
            multiplier + self.settings.eta * float(relative_excess(limit.table.expected(probabilities), limit.budget))
            for limit, multiplier in zip(self.budgets.limits, self.multipliers, strict=True)
        ]

    def best(self) -> tuple[int, ...]:
        """Return the nodes of the most probable architecture within all budgets: exact, never over.

        The first budget is used up to a few percent (`SearchSettings.use`), where the space allows it.

        Raises:
            ValueError: No architecture meets the budgets.
        """
        return self._solve(self._scores(), self.budgets.limits)

    def solved(self, scores: list[NDArray[np.float64]]) -> list[tuple[int, ...]]:
        """Return the architecture of the highest sum of other scores than the logits' within the budgets, if any."""
        nodes = self._find(scores, self.budgets.limits)
        return [] if nodes is None else [nodes]

    def is_within(self, nodes: tuple[int, ...], floor: float = 0.0) -> bool:
        """Return whether an architecture meets all budgets, and costs at least `floor` of the first."""
        costs = [limit.table.exact(nodes) for limit in self.budgets.limits]
        if any(cost > limit.budget for cost, limit in zip(costs, self.budgets.limits, strict=True)):
            return False
        if any(max(table.parts(nodes)) > 0 for table in self.budgets.forbidden):
            return False
        return not costs or costs[0] >= floor

    @property
    def floor(self) -> float:
        """What a derived architecture uses of the first budget at least, where the space allows that."""
        if not self.budgets.limits:
            return 0.0
        limit = self.budgets.limits[0]
        return min(self.settings.use * limit.budget, limit.table.exact(self.best()))

    def candidates(self, count: int, limits: Sequence[Limit] | None = None) -> list[tuple[int, ...]]:
        """Return up to `count` distinct architectures within all budgets, the most probable one first.

        With a prior, those that it alone prefers, at the budget and a percent below, come next: a search has to beat
        them. The others are the most probable under scores with Gumbel noise, which draws near the distribution that
        the logits give over the architectures within the budgets (perturb-and-MAP, Papandreou and Yuille 2011).

        Args:
            count: How many at most.
            limits: What to stay within instead of the budgets' own limits.

        Raises:
            ValueError: No architecture meets the limits.
        """
        return self._candidates(count, self._scores(), self.generator, limits)

    def _candidates(
        self,
        count: int,
        scores: list[NDArray[np.float64]],
        generator: torch.Generator,
        limits: Sequence[Limit] | None = None,
    ) -> list[tuple[int, ...]]:
        limits = self.budgets.limits if limits is None else limits
        found = {self._solve(known, limits): None for known in (scores, self._prior) if known}
        # Should the compiler find the prior's best to be over, one near it stands by.
        if self._prior and (near := self._find(self._prior, _less(limits))):
            found[near] = None
        for _ in range(2 * count):
            if len(found) >= count:
                break
            found[self._solve([s + _gumbel(len(s), generator) for s in scores], limits)] = None
        return list(found)[:count]

    def _scores(self) -> list[NDArray[np.float64]]:
        with torch.no_grad():
            return _logs(self.probabilities())

    def _solve(self, scores: list[NDArray[np.float64]], limits: Sequence[Limit]) -> tuple[int, ...]:
        nodes = self._find(scores, limits)
        if nodes is None:
            raise ValueError("No architecture of the space meets the budgets.")
        return nodes

    def _find(self, scores: list[NDArray[np.float64]], limits: Sequence[Limit]) -> tuple[int, ...] | None:
        banded = [replace(limit, floor=self.settings.use * limit.budget) for limit in limits[:1]]
        nodes = solve(scores, [*banded, *limits[1:]], self.budgets.forbidden)
        if nodes is None:  # a budget above what the space can spend, or one that another budget caps
            nodes = solve(scores, limits, self.budgets.forbidden)
        return nodes

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Return what to log: expected costs, multipliers, and the normalised entropy of the choices, mean and each."""
        probabilities = self.probabilities()
        values = {"nas/entropy": float(entropy(probabilities)), "nas/skipped": float(self.num_skipped)}
        num_widths = len(self.supernet.space.multipliers)
        for node, row in enumerate(probabilities):
            if len(row) > 1:
                name = f"width_{node}" if node < num_widths else f"block_{node - num_widths}"
                values[f"nas/entropy/{name}"] = float(entropy([row]))
        for limit, multiplier in zip(self.budgets.limits, self.multipliers, strict=True):
            values[f"nas/{limit.name}"] = float(limit.table.expected(probabilities))
            values[f"nas/{limit.name}_multiplier"] = multiplier
        return values

    def progress(self) -> str:
        """Return where the search stands in a line: expected costs and budgets, entropy, the leading architecture."""
        values, best = self.metrics(), self.supernet.space.decode(self.best())
        costs = [
            f"{limit.name} {values[f'nas/{limit.name}']:.4g} of {limit.budget:.4g} (multiplier {multiplier:+.2g})"
            for limit, multiplier in zip(self.budgets.limits, self.multipliers, strict=True)
        ]
        return f"Expected {', '.join(costs) or 'without budget'}; entropy {values['nas/entropy']:.2f}; leading: {best}"

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and builtins that `load_state_dict` continues from."""
        return {
            "generator": self.generator.get_state(),
            "multipliers": list(self.multipliers),
            "space": self.supernet.space.to_json(),
            "budgets": {limit.name: limit.budget for limit in self.budgets.limits},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`'s result.

        Raises:
            ValueError: It is of another space.
        """
        if state["space"] != self.supernet.space.to_json():
            raise ValueError(
                "The checkpoint is of another search space than the model's. HINT: convert the same network with the "
                "same options before resuming."
            )
        self.generator.set_state(state["generator"])
        budgets = {limit.name: limit.budget for limit in self.budgets.limits}
        if budgets == state["budgets"]:
            self.multipliers = list(state["multipliers"])
        else:
            # A multiplier says how hard one budget has to be pressed; for another it would press wrongly for long.
            log.warning(
                "The checkpoint was searched for %s and goes on for %s: the multipliers start at zero again.",
                _described(state["budgets"]),
                _described(budgets),
            )


def _described(budgets: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:.6g}" for name, value in budgets.items()) or "no budget"


def _scores_of(space: SearchSpace, errors: Sequence[Tensor]) -> list[Tensor]:
    """Return scores for logits: negative errors, in a unit by which the options of a block differ on average."""
    blocks = errors[len(space.multipliers) :]
    spread = torch.stack([error.max() - error.min() for error in blocks]).mean().clamp(min=1e-12)
    return [(error.min() - error).float() / float(spread) for error in errors]


def _logs(probabilities: Sequence[Tensor]) -> list[NDArray[np.float64]]:
    return [p.clamp(min=1e-12).log().cpu().double().numpy() for p in probabilities]


def _less(limits: Sequence[Limit]) -> list[Limit]:
    """Return the limits with one percent less to spend of the first, where the space allows that."""
    return [replace(limit, budget=0.99 * limit.budget) if index == 0 else limit for index, limit in enumerate(limits)]


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _gumbel(count: int, generator: torch.Generator) -> NDArray[np.float64]:
    uniform = torch.rand(count, generator=generator, dtype=torch.float64).clamp(min=1e-12)
    return (-(-uniform.log()).log()).numpy()

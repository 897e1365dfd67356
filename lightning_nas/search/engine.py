"""The search itself, without Lightning: which path trains, when the logits learn, from what, and what is chosen."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_nas.budget.limits import Limits, format_reach
from lightning_nas.budget.perturb_and_map import propose, solve_in_band
from lightning_nas.budget.removal import describe_removed, possible_options
from lightning_nas.budget.sampling import draw, kept_weights, nearness
from lightning_nas.budget.solver import Limit, usable_part
from lightning_nas.search.gates import gates_of
from lightning_nas.search.paths import TrainingPaths
from lightning_nas.search.penalty import augmented_lagrangian, entropy, log_probability, policy_loss, relative_excess
from lightning_nas.search.settings import Decoupled, Joint, SupernetTraining
from lightning_nas.supernet.loading import OTHER_SPACE
from lightning_nas.supernet.supernet import Supernet

__all__ = ["Search"]

log = logging.getLogger(__name__)

Nodes = tuple[int, ...]

MAX_UNUSABLE = 10
"""Architecture steps without finite losses, one after the other, that end a search."""

# TuNAS (arXiv 2008.06120): what a relative deviation from the budget costs, and how slowly the mean reward follows.
_ABSOLUTE_WEIGHT = 0.1
_BASELINE_MEMORY = 0.95


class Search:
    """The state of a search: the logits of every option, the budgets' multipliers and the generator of every draw.

    The logits are no parameters of the supernet: freezing, averaging and optimizing its weights do not touch them. They
    stay on the CPU, where budgets are solved. Both spellings run on it: `ArchitectureSearch`, the callback, and
    `SearchModule`, which writes the loss out.

    Args:
        supernet: What is searched.
        limits: What it may cost.
        training: How its weights and its logits learn.
        errors: For each node how far each option is from the source, in any unit, for the prior; see
            `lightning_nas.supernet.option_errors`. By default the prior scores the weights that an option keeps.
        logits: Of an earlier search, to go on with; by default they are 0, or what the prior says.

    Attributes:
        logits: For each node the scores of its options, float32.
        multipliers: One for each budget, see `augmented_lagrangian`.
        possible: For each node which options some architecture within the budgets has.
        use: Which part of the first budget a derived architecture uses at least, see `usable_part`.
        trained: The same for all budgets that the training serves.
        pool: With a prior, the architectures that the warm-up trains.
        size_scale: What a factor of e in parameters is in losses, see `Readiness`; 0 where it was not measured.
        num_skipped: Architecture steps whose losses were not finite.
        num_trained: For each node in how many steps each option was trained.
    """

    def __init__(
        self,
        supernet: Supernet,
        limits: Limits,
        training: SupernetTraining,
        errors: Sequence[Tensor] | None = None,
        logits: Sequence[Tensor] | None = None,
    ) -> None:
        self.supernet = supernet
        self.limits = limits
        self.training = training
        self.generator = torch.Generator().manual_seed(training.seed)
        self.multipliers = [0.0] * len(limits.costs)
        sizes = supernet.space.node_sizes
        given = [torch.zeros(size) for size in sizes] if logits is None else logits
        self.logits = [nn.Parameter(row.detach().clone()) for row in given]
        self.possible = possible_options(sizes, limits.costs, limits.forbidden)
        self.use = usable_part(limits.costs, training.budget_use, limits.forbidden) if limits.costs else 0.0
        # Weights that are trained first serve every choice.
        unfit = limits.unfit if isinstance(training, Decoupled) else limits.forbidden
        self.trained = self.possible
        if limits.serves or len(unfit) < len(limits.forbidden):
            self.trained = possible_options(sizes, limits.loosest, unfit)
        self.num_skipped = self._num_unusable = 0
        self.num_trained = [np.zeros(size, dtype=np.int64) for size in sizes]
        self._baseline: float | None = None
        self.size_scale = 0.0
        self._prior: list[NDArray[np.float64]] = []
        self.pool: list[Nodes] = []
        if training.prior:
            prior = kept_weights(supernet.space) if errors is None else nearness(supernet.space, errors)
            rows = [training.prior * score for score in prior]
            if logits is None:
                for own, row in zip(self.logits, rows, strict=True):
                    own.data.copy_(row)
            self._prior = _logs(self._softmax(rows, self.trained))
            use = usable_part(limits.costs, training.budget_use, unfit) if limits.costs else 0.0
            # Of the prior, so that a resumed search has the same pool.
            generator = torch.Generator().manual_seed(training.seed)
            self.pool = propose(training.sampling.pool, self._prior, self._prior, limits.costs, unfit, use, generator)
        self._paths = TrainingPaths(supernet.space, training, limits.trained, self.trained, self.pool, self.generator)

    def probabilities(self) -> list[Tensor]:
        """Return the option probabilities of each node; 0 for options that no architecture within the budgets has."""
        return self._softmax(self.logits, self.possible)

    def _softmax(self, logits: Sequence[Tensor], possible: Sequence[NDArray[np.bool_]]) -> list[Tensor]:
        pairs = zip(logits, map(torch.from_numpy, possible), strict=True)
        return [row.float().masked_fill(~here, -torch.inf).softmax(0) for row, here in pairs]

    @property
    def removed(self) -> list[str]:
        """What no architecture within any of the budgets has, in words."""
        return describe_removed(self.supernet.space, self.trained)

    def announcement(self) -> str:
        """Return what is searched within which budgets, and what no architecture within them has."""
        lines = [f"Searching {self.supernet.space.num_architectures:.3g} architectures within:"]
        lines.append(format_reach(self.limits))
        if self.limits.serves:
            lines.append(f"The same training serves latencies of {', '.join(f'{t:.5g}' for t in self.limits.serves)}.")
        if removed := self.removed:
            lines += ["No architecture within that has these options; they are left out:"]
            lines += [f"  {line}" for line in removed]
        return "\n".join(lines)

    def is_due(self, step: int, total_steps: int) -> bool:
        """Return whether optimizer step `step` of `total_steps` is an architecture step."""
        training = self.training
        if not isinstance(training, Joint) or training.strategy.gradient == "none":
            return False
        first = math.ceil(training.warmup * total_steps)
        return step >= first and (step - first) % training.every == 0

    def paths(self, step: int, total_steps: int) -> list[Nodes]:
        """Return the nodes of the paths to train at `step`, one or those of the sandwich rule, and count them."""
        chosen = self._paths.at(step, total_steps, self.draw)
        for nodes in chosen:
            for counts, node in zip(self.num_trained, nodes, strict=True):
                counts[node] += 1
        return chosen

    def begin_step(self, step: int, total_steps: int) -> list[Nodes]:
        """Let the supernet run what is to train at `step`; return further paths to train in it, if any."""
        first, *others = self.paths(step, total_steps)
        self.supernet.activate(first)
        if self.training.paths == "mixture":
            self.mix([gate.detach() for gate in self.gates(step / total_steps)])
        return others

    def mix(self, gates: Sequence[Tensor]) -> None:
        """Let the supernet run the mixture of all options by their gates."""
        self.supernet.mix(gates, shared=self.training.strategy.is_shared)

    def shares(self) -> list[NDArray[np.float64]]:
        """Return for each node in which part of the steps each option is trained, see `TrainingPaths.shares`."""
        with torch.no_grad():
            return self._paths.shares([row.cpu().double().numpy() for row in self.probabilities()])

    @property
    def least_trained(self) -> int:
        """In how many steps the least trained of the options within the budgets was trained."""
        pairs = zip(self.num_trained, self.trained, strict=True)
        return min(int(counts[here].min()) for counts, here in pairs)

    def path(self, step: int, total_steps: int) -> Nodes:
        """Return the nodes of the path, or of the first of the paths, to train at `step`."""
        return self.paths(step, total_steps)[0]

    def draw(self) -> Nodes:
        """Draw an architecture by the logits."""
        return draw(self.probabilities(), self.generator)

    def gates(self, progress: float) -> list[Tensor]:
        """Return the weights of each node's options in a mixture, a function of the logits.

        Args:
            progress: Part of the architecture steps that is done, from 0 to 1.
        """
        return gates_of(self.training.strategy.gradient, self.probabilities(), progress, self.generator)

    def surrogate(self, samples: Sequence[Sequence[int]], losses: Tensor) -> Tensor:
        """Return the scalar whose gradient is the estimate of the expected loss's; a function of the logits.

        Args:
            samples: Architectures drawn by `draw`.
            losses: Their losses on one batch, shape (num_samples,), without gradient.
        """
        with torch.autocast("cpu", enabled=False):
            losses, probabilities = losses.detach().float().cpu(), self.probabilities()
            if self.training.strategy.gradient != "reinforce":
                return policy_loss(probabilities, samples, losses)
            return self._absolute_reward(probabilities, samples, losses)

    def _absolute_reward(
        self, probabilities: Sequence[Tensor], samples: Sequence[Sequence[int]], losses: Tensor
    ) -> Tensor:
        """Return REINFORCE's surrogate with the cost in the reward, against a running mean (TuNAS)."""
        deviations = [
            sum(abs(limit.table.exact(tuple(nodes)) / limit.budget - 1.0) for limit in self.limits.costs)
            for nodes in samples
        ]
        values = losses + _ABSOLUTE_WEIGHT * losses.new_tensor(deviations)
        mean = float(values.mean())
        before = mean if self._baseline is None else self._baseline
        self._baseline = _BASELINE_MEMORY * before + (1 - _BASELINE_MEMORY) * mean
        scores = torch.stack([log_probability(probabilities, nodes) for nodes in samples])
        return ((values - before) * scores).mean()

    def objective(self, samples: Sequence[Sequence[int]], losses: Tensor) -> Tensor:
        """Return the loss of the logits: the surrogate of the task's expected loss, plus the penalty."""
        return self.surrogate(samples, losses) + self.penalty()

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
        if self.training.strategy.gradient == "reinforce":
            return probabilities[0].new_zeros(())
        terms = []
        for limit, multiplier in zip(self.limits.costs, self.multipliers, strict=True):
            excess = relative_excess(limit.table.expected(probabilities), limit.budget)
            terms.append(augmented_lagrangian(excess, multiplier, self.training.strategy.rho))
        return torch.stack(terms).sum().float() if terms else probabilities[0].new_zeros(())

    def update(self, optimizer: torch.optim.Optimizer, surrogate: Tensor) -> None:
        """Make an architecture step: move the logits by surrogate and penalty, then the multipliers."""
        gradients = torch.autograd.grad(surrogate + self.penalty(), self.logits, allow_unused=True)
        for row, gradient in zip(self.logits, gradients, strict=True):
            row.grad = torch.zeros_like(row) if gradient is None else gradient
        optimizer.step()
        optimizer.zero_grad()
        self.update_multipliers()

    @torch.no_grad()
    def update_multipliers(self) -> None:
        """Move each budget's multiplier by its relative excess; once after each architecture step."""
        probabilities = self.probabilities()
        eta = self.training.strategy.eta
        self.multipliers = [
            multiplier + eta * float(relative_excess(limit.table.expected(probabilities), limit.budget))
            for limit, multiplier in zip(self.limits.costs, self.multipliers, strict=True)
        ]

    def best(self) -> Nodes:
        """Return the nodes of the most probable architecture within all budgets: exact, never over.

        The first budget is used up to a few percent (`use`), where the space allows it.

        Raises:
            ValueError: No architecture meets the budgets.
        """
        nodes = self._solved(self._scores())
        if nodes is None:
            raise ValueError("No architecture of the space meets the budgets.")
        return nodes

    def solved(self, scores: list[NDArray[np.float64]]) -> list[Nodes]:
        """Return the architecture of the highest sum of other scores than the logits' within the budgets, if any."""
        nodes = self._solved(scores)
        return [] if nodes is None else [nodes]

    def is_within(self, nodes: Nodes, floor: float = 0.0) -> bool:
        """Return whether an architecture meets all budgets, and costs at least `floor` of the first."""
        return self.limits.allows(nodes, floor)

    @property
    def floor(self) -> float:
        """What a derived architecture uses of the first budget at least, where the space allows that."""
        if not self.limits.costs:
            return 0.0
        limit = self.limits.costs[0]
        return min(self.use * limit.budget, limit.table.exact(self.best()))

    def candidates(self, count: int, limits: Sequence[Limit] | None = None) -> list[Nodes]:
        """Return up to `count` distinct architectures within all budgets, the most probable one first; see `propose`.

        Args:
            count: How many at most.
            limits: What to stay within instead of the budgets' own limits.

        Raises:
            ValueError: No architecture meets the limits.
        """
        within = self.limits.costs if limits is None else limits
        return propose(count, self._scores(), self._prior, within, self.limits.forbidden, self.use, self.generator)

    def _scores(self) -> list[NDArray[np.float64]]:
        with torch.no_grad():
            return _logs(self.probabilities())

    def _solved(self, scores: list[NDArray[np.float64]]) -> Nodes | None:
        return solve_in_band(scores, self.limits.costs, self.limits.forbidden, self.use)

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
        for limit, multiplier in zip(self.limits.costs, self.multipliers, strict=True):
            values[f"nas/{limit.name}"] = float(limit.table.expected(probabilities))
            values[f"nas/{limit.name}_multiplier"] = multiplier
        return values

    def brief(self) -> str:
        """Return where the search stands, in few words: expected costs beside budgets, multipliers and entropy."""
        values = self.metrics()
        costs = [
            f"{limit.name} {values[f'nas/{limit.name}']:.4g} of {limit.budget:.4g} (multiplier {multiplier:+.2g})"
            for limit, multiplier in zip(self.limits.costs, self.multipliers, strict=True)
        ]
        return f"expected {', '.join(costs) or 'without budget'}; entropy {values['nas/entropy']:.2f}"

    def progress(self) -> str:
        """Return where the search stands in a line, with the leading architecture."""
        return f"{self.brief()}; leading: {self.supernet.space.decode(self.best())}"

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and builtins that `load_state_dict` continues from."""
        return {
            "generator": self.generator.get_state(),
            "logits": [row.detach().clone() for row in self.logits],
            "multipliers": list(self.multipliers),
            "baseline": self._baseline,
            "decks": self._paths.state_dict(),
            "num_trained": [counts.tolist() for counts in self.num_trained],
            "space": self.supernet.space.to_json(),
            "budgets": self.limits.figures,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`'s result.

        Raises:
            ValueError: It is of another space.
        """
        if state["space"] != self.supernet.space.to_json():
            raise ValueError(OTHER_SPACE.format(where=""))
        self.generator.set_state(state["generator"])
        for own, row in zip(self.logits, state["logits"], strict=True):
            own.data.copy_(row)
        self._baseline = state["baseline"]
        self._paths.load_state_dict(state["decks"])
        self.num_trained = [np.array(counts, dtype=np.int64) for counts in state["num_trained"]]
        budgets = self.limits.figures
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


def _logs(probabilities: Sequence[Tensor]) -> list[NDArray[np.float64]]:
    return [p.clamp(min=1e-12).log().double().numpy() for p in probabilities]

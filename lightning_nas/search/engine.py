"""The search itself, without Lightning: paths that train, steps of the logits, and architectures within the budgets."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_nas.budget.limits import Limits
from lightning_nas.budget.perturb_and_map import propose, solve_in_band
from lightning_nas.budget.removal import possible_options
from lightning_nas.budget.sampling import draw, kept_weights, nearness
from lightning_nas.budget.solver import Limit, usable_part
from lightning_nas.search.gates import gates_of
from lightning_nas.search.multipliers import Multipliers
from lightning_nas.search.paths import TrainingPaths
from lightning_nas.search.rewards import Rewards
from lightning_nas.search.settings import Decoupled, Joint, SupernetTraining
from lightning_nas.space.spec import Encoding
from lightning_nas.supernet.loading import OTHER_SPACE
from lightning_nas.supernet.supernet import Supernet

__all__ = ["Search", "SearchRecord"]

log = logging.getLogger(__name__)


class SearchRecord(TypedDict):
    """State of a `Search` in tensors and builtins, as a checkpoint keeps it.

    Attributes:
        generator: State of the generator of every draw.
        logits: The logits of each node.
        multipliers: The multiplier of each budget.
        baseline: Running mean of the rewards, where the strategy has one.
        decks: What is left in the decks of fair sampling.
        num_trained: For each node in how many steps each option was trained.
        space: The search space, in JSON.
        budgets: The budgets, in milliseconds and bytes, by name.
    """

    generator: Tensor
    logits: list[Tensor]
    multipliers: list[float]
    baseline: float | None
    decks: dict[str, list[list[int]]]
    num_trained: list[list[int]]
    space: str
    budgets: dict[str, float]


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
        multipliers: One for each budget; they make the penalty on the expected costs.
        rewards: What the logits learn from the losses of sampled architectures.
        possible: For each node which options some architecture within the budgets has.
        use: Which part of the first budget a derived architecture uses at least, see `usable_part`.
        trained: The same for all budgets that the training serves.
        pool: With a prior, the architectures that the warm-up trains.
        size_scale: What a factor of e in parameters is in losses, see `Readiness`; 0 where it was not measured.
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
        self.multipliers = Multipliers(limits.costs, training.strategy)
        self.rewards = Rewards(limits.costs, training.strategy)
        sizes = supernet.space.node_sizes
        given = [torch.zeros(size) for size in sizes] if logits is None else logits
        # Copies, since `find` begins from the logits of another search.
        self.logits = [nn.Parameter(row.detach().clone()) for row in given]
        self.possible = possible_options(sizes, limits.costs, limits.forbidden)
        self.use = usable_part(limits.costs, training.budget_use, limits.forbidden) if limits.costs else 0.0
        # Weights that are trained first serve every choice.
        unfit = limits.unfit if isinstance(training, Decoupled) else limits.forbidden
        self.trained = self.possible
        if limits.serves or len(unfit) < len(limits.forbidden):
            self.trained = possible_options(sizes, limits.loosest, unfit)
        self.num_trained = [np.zeros(size, dtype=np.int64) for size in sizes]
        self.size_scale = 0.0
        self._prior: list[NDArray[np.float64]] = []
        self.pool: list[Encoding] = []
        if training.prior:
            prior = kept_weights(supernet.space) if errors is None else nearness(supernet.space, errors)
            rows = [training.prior * score for score in prior]
            if logits is None:
                for own, row in zip(self.logits, rows, strict=True):
                    own.data.copy_(row)
            self._prior = _logs(_softmax(rows, self.trained))
            use = usable_part(limits.costs, training.budget_use, unfit) if limits.costs else 0.0
            # Of the prior, so that a resumed search has the same pool.
            generator = torch.Generator().manual_seed(training.seed)
            self.pool = propose(training.sampling.pool, self._prior, self._prior, limits.costs, unfit, use, generator)
        self._paths = TrainingPaths(supernet.space, training, limits.trained, self.trained, self.pool, self.generator)

    def probabilities(self) -> list[Tensor]:
        """Return the option probabilities of each node; 0 for options that no architecture within the budgets has."""
        return _softmax(self.logits, self.possible)

    def is_due(self, step: int, total_steps: int) -> bool:
        """Return whether optimizer step `step` of `total_steps` is an architecture step."""
        training = self.training
        if not isinstance(training, Joint) or training.strategy.gradient == "none":
            return False
        first = math.ceil(training.warmup * total_steps)
        return step >= first and (step - first) % training.every == 0

    def paths(self, step: int, total_steps: int) -> list[Encoding]:
        """Return the paths to train at `step`, several by the sandwich rule, and count them in `num_trained`."""
        chosen = self._paths.at(step, total_steps, self.draw)
        for encoding in chosen:
            for counts, node in zip(self.num_trained, encoding, strict=True):
                counts[node] += 1
        return chosen

    def begin_step(self, step: int, total_steps: int) -> list[Encoding]:
        """Activate the path to train at `step` in the supernet, and return further paths to train in that step."""
        first, *others = self.paths(step, total_steps)
        self.supernet.activate(first)
        if self.training.paths == "mixture":
            # The weights learn in this step; the logits have steps of their own.
            self.mix([gate.detach() for gate in self.gates(step / total_steps)])
        return others

    def mix(self, gates: Sequence[Tensor]) -> None:
        """Activate the mixture of all options in the supernet, each weighted by its gate."""
        self.supernet.mix(gates, shared=self.training.strategy.is_shared)

    def shares(self) -> list[NDArray[np.float64]]:
        """Return for each node in which part of the steps each option is trained, see `TrainingPaths.shares`."""
        with torch.no_grad():
            return self._paths.shares([row.cpu().double().numpy() for row in self.probabilities()])

    @property
    def least_trained(self) -> int:
        """Number of steps in which the least trained of the options within the budgets was trained."""
        pairs = zip(self.num_trained, self.trained, strict=True)
        return min(int(counts[here].min()) for counts, here in pairs)

    def path(self, step: int, total_steps: int) -> Encoding:
        """Return the path, or the first of the paths, to train at `step`."""
        return self.paths(step, total_steps)[0]

    def draw(self) -> Encoding:
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
        # `SearchModule` asks for it within the Trainer's autocast, and the logits learn in float32.
        with torch.autocast("cpu", enabled=False):
            return self.rewards.surrogate(self.probabilities(), samples, losses.detach().float().cpu())

    def update(self, optimizer: torch.optim.Optimizer, surrogate: Tensor) -> None:
        """Make an architecture step: move the logits by surrogate and penalty, then the multipliers."""
        loss = surrogate + self.multipliers.penalty(self.probabilities())
        gradients = torch.autograd.grad(loss, self.logits, allow_unused=True)
        for row, gradient in zip(self.logits, gradients, strict=True):
            row.grad = torch.zeros_like(row) if gradient is None else gradient
        optimizer.step()
        optimizer.zero_grad()
        self.multipliers.update(self.probabilities())

    def best(self) -> Encoding:
        """Return the most probable architecture within all budgets: exact, never over.

        The first budget is used up to a few percent (`use`), where the space allows it.

        Raises:
            ValueError: No architecture meets the budgets.
        """
        encoding = self.solved(_logs(self.probabilities()))
        if encoding is None:
            raise ValueError("No architecture of the space meets the budgets.")
        return encoding

    def solved(self, scores: list[NDArray[np.float64]]) -> Encoding | None:
        """Return the architecture of the highest sum of scores within the budgets; None where none is within.

        Args:
            scores: For each node the score of each option.
        """
        return solve_in_band(scores, self.limits.costs, self.limits.forbidden, self.use)

    def is_within(self, encoding: Encoding, floor: float = 0.0) -> bool:
        """Return whether an architecture meets all budgets, and costs at least `floor` of the first."""
        return self.limits.allows(encoding, floor)

    @property
    def floor(self) -> float:
        """Least cost of a derived architecture by the first budget, where the space allows it."""
        if not self.limits.costs:
            return 0.0
        limit = self.limits.costs[0]
        return min(self.use * limit.budget, limit.table.exact(self.best()))

    def candidates(self, count: int, limits: Sequence[Limit] | None = None) -> list[Encoding]:
        """Return up to `count` distinct architectures within all budgets, the most probable one first; see `propose`.

        Args:
            count: How many at most.
            limits: What to stay within instead of the budgets' own limits.

        Raises:
            ValueError: No architecture meets the limits.
        """
        within = self.limits.costs if limits is None else limits
        scores = _logs(self.probabilities())
        return propose(count, scores, self._prior, within, self.limits.forbidden, self.use, self.generator)

    def state_dict(self) -> SearchRecord:
        """Return tensors and builtins that `load_state_dict` continues from."""
        return {
            "generator": self.generator.get_state(),
            "logits": [row.detach().clone() for row in self.logits],
            "multipliers": list(self.multipliers.values),
            "baseline": self.rewards.running_mean,
            "decks": self._paths.state_dict(),
            "num_trained": [counts.tolist() for counts in self.num_trained],
            "space": self.supernet.space.to_json(),
            "budgets": self.limits.figures,
        }

    def load_state_dict(self, state: SearchRecord) -> None:
        """Continue from `state_dict`'s result.

        Raises:
            ValueError: It is of another space.
        """
        if state["space"] != self.supernet.space.to_json():
            raise ValueError(OTHER_SPACE.format(where=""))
        self.generator.set_state(state["generator"])
        for own, row in zip(self.logits, state["logits"], strict=True):
            own.data.copy_(row)
        self.rewards.running_mean = state["baseline"]
        self._paths.load_state_dict(state["decks"])
        self.num_trained = [np.array(counts, dtype=np.int64) for counts in state["num_trained"]]
        budgets = self.limits.figures
        if budgets == state["budgets"]:
            self.multipliers.values = list(state["multipliers"])
        else:
            # A multiplier says how hard one budget has to be pressed; for another it would press wrongly for long.
            log.warning(
                "The checkpoint was searched for %s and goes on for %s: the multipliers start at zero again.",
                _described(state["budgets"]),
                _described(budgets),
            )


def _described(budgets: dict[str, float]) -> str:
    return ", ".join(f"{name}={value:.6g}" for name, value in budgets.items()) or "no budget"


def _softmax(logits: Sequence[Tensor], possible: Sequence[NDArray[np.bool_]]) -> list[Tensor]:
    pairs = zip(logits, map(torch.from_numpy, possible), strict=True)
    return [row.float().masked_fill(~here, -torch.inf).softmax(0) for row, here in pairs]


def _logs(probabilities: Sequence[Tensor]) -> list[NDArray[np.float64]]:
    # Options that no architecture within the budgets has are at 0, and the solver needs finite scores.
    return [p.detach().clamp(min=1e-12).log().double().numpy() for p in probabilities]

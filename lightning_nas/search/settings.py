"""How to search: every setting in one frozen place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightning_nas.io.numbers import check_number, check_numbers, check_seed
from lightning_nas.search.strategy import STRATEGIES, Strategy

__all__ = ["SearchSettings", "SelectionSettings", "check_list"]


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
        use: Least part of the first budget that a derived architecture uses, where the space has enough near to it.
        prior: How strongly the logits prefer, at the start, options near to the source; 1 for pretrained weights, 0 for
            none.
        phases: ``joint``: the logits learn beside the weights, after a warm-up; ``decoupled``: all steps train weights,
            and the logits learn afterwards.
        strategy: What trains weights and logits: ``rloo``, or a published baseline, see `STRATEGIES`.
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
    use: float = 0.98
    prior: float = 0.0
    pool: int = 48
    phases: str = "joint"
    strategy: str = "rloo"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("warmup", "beta1", "use"):
            check_number(name, getattr(self, name), least=0, below=1)
        for name in ("rho", "eta", "prior"):
            check_number(name, getattr(self, name), least=0)
        # Each of the samples is compared with the others.
        for name, least in (("every", 1), ("samples", 2), ("pool", 1)):
            check_number(name, getattr(self, name), whole=True, least=least)
        check_number("lr", self.lr, above=0)
        check_number("uniform", self.uniform, least=0, most=1)
        check_numbers("band", self.band, least=0)
        check_seed(self.seed)
        for name, valid, rule in (
            ("phases", self.phases in ("joint", "decoupled"), "joint or decoupled"),
            ("strategy", self.strategy in STRATEGIES, f"one of {', '.join(STRATEGIES)}"),
            ("band", len(self.band) == 2 and self.band[0] < self.band[1], "two rising numbers"),
        ):
            if not valid:
                raise ValueError(f"`{name}` must be {rule}; got {getattr(self, name)}.")

    @property
    def method(self) -> Strategy:
        """What `strategy` stands for; weights that rest while the logits learn are trained by single paths."""
        chosen = STRATEGIES[self.strategy]
        if self.phases == "decoupled" and chosen.paths in ("policy", "mixture"):
            return Strategy(chosen.gradient, "fair")
        return chosen


@dataclass(frozen=True)
class SelectionSettings:
    """How to choose once the weights are trained.

    Attributes:
        candidates: Architectures that the solver proposes.
        evaluations: Architectures that are compared in all, if more; an evolution proposes the others.
        random_subnets: Random architectures within the budget that are compared too.
        steps: Architecture steps with the weights at rest, in two phases.
        size_weight: What many parameters count beside a low inherited loss, both in standard deviations of random
            subnets within the budget. Small subnets converge first, so inherited losses flatter them: of equally fast
            subnets those with more parameters were the better ones when trained alone, in the study of this method and
            in `tests/benchmarks/truth.md`.
        not_ready: What to do with a supernet that is not ready: ``warn``, ``continue`` its training, or ``stop``.
        trials: How many of the best are trained briefly before one is chosen; 0 for none.
        trial_epochs: Epochs of each of these trainings.
        effort: Forward passes of readiness and the comparison together, at most, as a part of the training's, where a
            backward pass counts as two; None for no limit.

    Raises:
        ValueError: A setting out of range.
    """

    candidates: int = 16
    evaluations: int = 50
    random_subnets: int = 4
    steps: int = 200
    size_weight: float = 0.5
    not_ready: str = "warn"
    trials: int = 0
    trial_epochs: int = 1
    effort: float | None = 0.5

    def __post_init__(self) -> None:
        if self.effort is not None:
            check_number("effort", self.effort, above=0)
        check_number("size_weight", self.size_weight, least=0)
        for name, least in (
            ("candidates", 1),
            ("evaluations", 0),
            ("random_subnets", 0),
            ("steps", 1),
            ("trials", 0),
            ("trial_epochs", 1),
        ):
            check_number(name, getattr(self, name), whole=True, least=least)
        if self.not_ready not in ("warn", "continue", "stop"):
            raise ValueError(f"`not_ready` must be one of warn, continue, stop; got {self.not_ready}.")


def check_list(name: str, value: Any) -> None:
    """Raise a ValueError where a setting that holds several values is none, such as a single name."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"`{name}` must be a list or a tuple; got {value!r}.")

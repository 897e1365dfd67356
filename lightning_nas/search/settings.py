"""Settings of a search: how the supernet is trained, and how one of its subnets is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from lightning_nas.io.numbers import check_number, check_numbers, check_seed
from lightning_nas.search.quiet_loss import LossFunction
from lightning_nas.search.strategy import Paths, Rloo, Strategy
from lightning_nas.supernet.zero_cost import SCORES

__all__ = [
    "Decoupled",
    "Fitting",
    "Joint",
    "Library",
    "Method",
    "Monitor",
    "PathSampling",
    "Selection",
    "SupernetTraining",
    "Untrained",
    "ZeroShot",
    "check_kind",
    "check_list",
    "method_named",
]

VALIDATED = ("current", "source", "smallest")
"""Which network validations can run."""


@dataclass(frozen=True)
class PathSampling:
    """Which random paths of the supernet are trained.

    Attributes:
        uniform: Part of the random paths that ignore the logits, so that no option starves.
        band: Costs of random paths, least and greatest, relative to the budget.
        pool: With a prior, how many architectures within the budget are trained before the logits learn.

    Raises:
        ValueError: A setting out of range.
    """

    uniform: float = 0.2
    band: tuple[float, float] = (0.7, 1.3)
    pool: int = 48

    def __post_init__(self) -> None:
        check_number("uniform", self.uniform, least=0, most=1)
        check_numbers("band", self.band, least=0)
        check_number("pool", self.pool, whole=True, least=1)
        if len(self.band) != 2 or self.band[0] >= self.band[1]:
            raise ValueError(f"`band` must be two rising numbers; got {self.band}.")


@dataclass(frozen=True)
class SupernetTraining:
    """How a supernet is trained and its logits learn; take `Joint` or `Decoupled`.

    Attributes:
        strategy: What a step trains, and how the logits learn.
        sampling: Which random paths are trained.
        prior: How strongly the logits prefer, at the start, options near to the source; 1 suits pretrained weights, 0
            is none. Near are those that keep more weights, or those of a small error, see
            `ArchitectureSearch.errors`.
        budget_use: Least part of the first budget that a derived architecture uses, where the space has enough near it.
        seed: Seed of every draw.

    Raises:
        ValueError: A setting out of range.
    """

    strategy: Strategy = field(default_factory=Rloo)
    sampling: PathSampling = field(default_factory=PathSampling)
    prior: float = 0.0
    budget_use: float = 0.98
    seed: int = 0

    def __post_init__(self) -> None:
        check_kind("strategy", self.strategy, Strategy, "Rloo()")
        check_kind("sampling", self.sampling, PathSampling, "PathSampling()")
        check_number("prior", self.prior, least=0)
        check_number("budget_use", self.budget_use, least=0, below=1)
        check_seed(self.seed)

    @property
    def paths(self) -> Paths:
        """What a step trains."""
        return self.strategy.paths


@dataclass(frozen=True)
class Joint(SupernetTraining):
    """Weights and logits learn in one training, after a warm-up of weights only.

    Attributes:
        warmup: Part of the steps that train weights only.
        every: Optimizer steps from one architecture step to the next.
    """

    # As TuNAS (arXiv 2008.06120) does.
    warmup: float = 0.25
    # Then a step costs 0.5 to 0.8 of one of the largest network, see `tests/benchmarks/search_step.md`.
    every: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("warmup", self.warmup, least=0, below=1)
        check_number("every", self.every, whole=True, least=1)


@dataclass(frozen=True)
class Decoupled(SupernetTraining):
    """The whole training is of weights; at its end, with these at rest, the logits learn from held-out batches.

    The same weights then serve any budget, see `ArchitectureSearch.derive`.

    Attributes:
        steps: Architecture steps with the weights at rest.
    """

    steps: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("steps", self.steps, whole=True, least=1)

    @property
    def paths(self) -> Paths:
        """What a step trains: single fair paths, too, where a strategy would train what its logits prefer."""
        return "fair" if self.strategy.paths in ("policy", "mixture") else self.strategy.paths


@dataclass(frozen=True)
class Library:
    """No supernet is trained: each option is put alone into the trained network and scored, and a program is solved.

    See `lightning_nas.supernet.replace_one`. The module must be trained; its weights are not changed.

    Attributes:
        num_images: Training images by which options are fitted and judged.
        rounds: How often options are tried: first in the source, then in what was found, until that stands still.
        refine_steps: Optimizer steps by which each block is refined, alone, once it is fitted in closed form; some
            hundred, or 0 for none. Of the options that are tried and of the subnet; see
            `lightning_nas.supernet.refine`.
        num_workers: Processes that try options, as those of a `DataLoader`, where the network is on the CPU; 0 for none
            beside this one.
        budget_use: Least part of the first budget that the subnet uses, where the space has enough near it.
        seed: Seed of every draw.

    Raises:
        ValueError: A setting out of range.
    """

    num_images: int = 384
    rounds: int = 2
    refine_steps: int = 0
    num_workers: int = 0
    budget_use: float = 0.98
    seed: int = 0

    def __post_init__(self) -> None:
        check_number("num_images", self.num_images, whole=True, least=2)
        check_number("rounds", self.rounds, whole=True, least=1)
        check_number("refine_steps", self.refine_steps, whole=True, least=0)
        check_number("num_workers", self.num_workers, whole=True, least=0)
        check_number("budget_use", self.budget_use, least=0, below=1)
        check_seed(self.seed)

    @property
    def scoring(self) -> SupernetTraining:
        """How a search goes by scores alone: `prior` is so large that candidates stay near the best."""
        # No path is trained, so that none is proposed for a pool.
        return SupernetTraining(sampling=PathSampling(pool=1), prior=16.0, budget_use=self.budget_use, seed=self.seed)


@dataclass(frozen=True)
class ZeroShot:
    """No supernet is trained: members within the budgets are drawn, and ranked by scores that need no training.

    See `lightning_nas.supernet.zero_cost`. Members have the weights of the module, which should be trained; they are
    not changed. Of several scores the ranks are multiplied, as in AZ-NAS (Lee and Ham 2024, arXiv 2403.19232).

    Within a narrow band of latency these scores tell less than they do over all sizes of networks, and some the wrong
    way round, so that a minus before a score turns its sign. `lightning_nas.supernet.zero_cost.AGREEMENT` has what was
    measured: of 60 members of half the latency of a trained MobileNetV2, NASWOT agreed with the fine-tuned ones by
    Kendall's tau 0.51, more parameters by -0.16; the errors of a `Library` by 0.70. A score that tells less than the
    parameters is warned of.

    Attributes:
        scores: Names of scores, such as ``naswot``, or with a minus, such as ``-params``, where less is to be better.
        num_members: Members that are drawn and scored; each uses `budget_use` of the first budget or more.
        num_images: Training images by which they are scored.
        num_fitted_images: Training images by which a derived member is fitted to the trained network, see
            `lightning_nas.supernet.refit`; 0 for new statistics of batch norm alone.
        budget_use: Least part of the first budget that members use, where the space has enough near it.
        seed: Seed of every draw.

    Raises:
        ValueError: A setting out of range, or no such score.
    """

    scores: Sequence[str] = ("naswot",)
    num_members: int = 64
    num_images: int = 32
    num_fitted_images: int = 384
    budget_use: float = 0.98
    seed: int = 0

    def __post_init__(self) -> None:
        check_list("scores", self.scores)
        names = [str(score).removeprefix("-") for score in self.scores]
        if not names or set(names) - set(SCORES) or len(set(names)) < len(names):
            raise ValueError(
                f"`scores` must be different ones of {', '.join(SCORES)}, each with or without a minus before it; got"
                f" {list(self.scores)}."
            )
        check_number("num_members", self.num_members, whole=True, least=1)
        # ZiCo compares two batches.
        check_number("num_images", self.num_images, whole=True, least=4)
        check_number("num_fitted_images", self.num_fitted_images, whole=True, least=0)
        check_number("budget_use", self.budget_use, least=0, below=1)
        check_seed(self.seed)

    @property
    def scoring(self) -> SupernetTraining:
        """How members are drawn: all options alike."""
        return SupernetTraining(budget_use=self.budget_use, seed=self.seed)


Untrained: TypeAlias = Library | ZeroShot
"""How a search is made that trains nothing: the module is trained already."""

Method: TypeAlias = SupernetTraining | Untrained
"""How a search is made: by training a supernet, by a library of options, or by scores that need no training."""

_NAMED = {"joint": Joint, "decoupled": Decoupled, "library": Library, "zeroshot": ZeroShot}


def method_named(method: Method | str) -> Method:
    """Return a method, also one that is given by its name.

    Raises:
        ValueError: There is no such method.
    """
    if isinstance(method, str):
        if method not in _NAMED:
            raise ValueError(
                f"`method` must be one of {', '.join(_NAMED)}, or settings such as Joint(); got {method!r}."
            )
        return _NAMED[method]()
    if not isinstance(method, Method):
        raise ValueError(f"`method` must be settings such as Joint() or Library(), or a name; got {method!r}.")
    return method


@dataclass(frozen=True)
class Fitting:
    """How what is derived is fitted to the trained network.

    Attributes:
        num_images: Training images for `lightning_nas.supernet.refit`; 0 for new statistics of batch norm alone.
        refine_steps: Optimizer steps of each block behind that, see `lightning_nas.supernet.refine`.
    """

    num_images: int = 0
    refine_steps: int = 0

    @classmethod
    def of(cls, method: Method) -> Fitting:
        """Return how members are fitted that a method finds."""
        if isinstance(method, Library):
            return cls(method.num_images, method.refine_steps)
        return cls(method.num_fitted_images) if isinstance(method, ZeroShot) else cls()


@dataclass(frozen=True)
class Selection:
    """How a subnet is chosen once the weights are trained.

    Attributes:
        num_candidates: Architectures within the budget, by the device's own compiler where that is installed, that are
            compared by inherited loss at the end, on the validation data (one DataLoader) or recent training batches.
        num_evaluations: Architectures to compare in all, if more: a short evolution goes on from the candidates.
        num_random_subnets: Random architectures compared too; a search that does not beat them says so.
        size_weight: What many parameters count beside a low inherited loss, both in standard deviations of random
            subnets within the budget; 0 for nothing. Small subnets converge first, so inherited losses flatter them: of
            equally fast subnets those with more parameters were the better ones when trained alone, in the study of
            this method and in `tests/benchmarks/truth.md`.
        not_ready: What to do where the supernet turns out to be trained too little to tell subnets apart, see
            `Readiness`: ``warn``; ``continue`` its training, for up to as many epochs again; or ``stop``.
        num_brief_trainings: How many of the best are trained briefly before one is chosen; 0 for none.
        brief_epochs: Epochs of each of these trainings.
        effort: Forward passes of readiness and of the comparison of candidates together, at most, as a part of those of
            the training, where a backward pass counts as two. In a short training fewer are compared, on fewer batches;
            None for no limit.
        loss: Gives the loss of module and batch where subnets are compared, for a module whose `training_step` is not
            to be run for that; the weights are trained by `training_step` either way.

    Raises:
        ValueError: A setting out of range.
    """

    num_candidates: int = 16
    num_evaluations: int = 50
    num_random_subnets: int = 4
    size_weight: float = 0.5
    not_ready: str = "warn"
    num_brief_trainings: int = 0
    brief_epochs: int = 1
    effort: float | None = 0.5
    loss: LossFunction | None = None

    def __post_init__(self) -> None:
        if self.effort is not None:
            check_number("effort", self.effort, above=0)
        check_number("size_weight", self.size_weight, least=0)
        for name, least in (
            ("num_candidates", 1),
            ("num_evaluations", 0),
            ("num_random_subnets", 0),
            ("num_brief_trainings", 0),
            ("brief_epochs", 1),
        ):
            check_number(name, getattr(self, name), whole=True, least=least)
        if self.not_ready not in ("warn", "continue", "stop"):
            raise ValueError(f"`not_ready` must be one of warn, continue, stop; got {self.not_ready}.")


@dataclass(frozen=True)
class Monitor:
    """Network that validations run, and figures in the progress bar, while a search runs.

    Attributes:
        validate: Which network validations run: the ``current`` best one, another as the search goes on; or the same
            all the time: the ``source`` or the ``smallest`` within the budgets.
        progress_bar: What the progress bar shows: the expected cost of each budget by its name (``latency_ms``), its
            ``latency_ms_multiplier`` (how hard the search is pressed towards it), ``entropy`` (how undecided the
            choices are, from 1 to 0), ``skipped`` (steps without finite losses). All are logged.

    Raises:
        ValueError: There is no such network or figure.
    """

    validate: str = "current"
    progress_bar: Sequence[str] = ("latency_ms", "entropy")

    def __post_init__(self) -> None:
        check_list("progress_bar", self.progress_bar)
        if self.validate not in VALIDATED:
            raise ValueError(f"`validate` must be one of {', '.join(VALIDATED)}; got {self.validate!r}.")
        costs = ("latency_ms", "parameter_bytes")
        known = ("entropy", "skipped", *costs, *(f"{cost}_multiplier" for cost in costs))
        if unknown := set(self.progress_bar) - set(known):
            raise ValueError(f"`progress_bar` can hold {', '.join(known)}; got {', '.join(sorted(unknown))}.")


def check_kind(name: str, value: object, kind: type, example: str) -> None:
    """Raise a ValueError if a group of settings is not an object of its class."""
    if not isinstance(value, kind):
        raise ValueError(f"`{name}` must be a {kind.__name__}, such as {example}; got {value!r}.")


def check_list(name: str, value: object) -> None:
    """Raise a ValueError if a setting that holds several values is no list or tuple."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"`{name}` must be a list or a tuple; got {value!r}.")

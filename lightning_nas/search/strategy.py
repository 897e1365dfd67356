"""Strategies: what a step of a search trains, and how the logits learn from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from lightning_nas.io.numbers import check_number

__all__ = ["FBNetV2", "Darts", "Gdas", "Rloo", "Rotation", "Sandwich", "Spos", "Strategy", "Tunas"]

Gradient = Literal["rloo", "reinforce", "softmax", "gumbel_soft", "gumbel_st", "none"]
Paths = Literal["fair", "rotation", "policy", "uniform", "sandwich", "mixture"]


@dataclass(frozen=True)
class Strategy:
    """A way to search; take one of its subclasses. `Rloo` is ours, the others are published ones to compare with.

    Attributes:
        num_samples: Architectures that an architecture step compares on one batch, at least 2; for strategies that
            draw architectures.
        lr: Learning rate of Adam on the logits.
        beta1: First moment of Adam on the logits.
        rho: Weight of the squared relative excess over the budget, see `augmented_lagrangian`.
        eta: Step of the budget's multiplier.
        gradient: How the logits learn. ``rloo``: score-function gradient of some architectures on one batch, each
            compared with the others, and the exact gradient of the expected cost. ``reinforce``: the same gradient
            against a running mean over batches, with the cost of the drawn architectures in the reward. ``softmax``,
            ``gumbel_soft``: the gradient through the mixture of all options. ``gumbel_st``: through the gates of one
            drawn path. ``none``: not at all.
        paths: What a step trains. ``fair``: a random path, each option as often as the others. ``rotation``: widest,
            random, narrowest, random, one a step. ``policy``: a draw by the logits. ``uniform``: any path.
            ``sandwich``: widest, narrowest and two random paths, all in every step. ``mixture``: all options, weighted
            by the logits.

    Raises:
        ValueError: A setting out of range.
    """

    num_samples: int = 2
    # In 300 to 600 architecture steps it lets logits move by 15 to 30 units.
    lr: float = 0.05
    # As in TF-NAS (arXiv 2008.05314).
    beta1: float = 0.5
    # Both are free of scale, since the excess is relative. In the study of this method they held expected latencies
    # within 3 % of three budgets; a logarithm or a barrier in their place ran off to the smallest network.
    rho: float = 5.0
    eta: float = 0.05
    gradient: ClassVar[Gradient] = "none"
    paths: ClassVar[Paths] = "uniform"

    def __post_init__(self) -> None:
        # Each of the samples is compared with the others.
        check_number("num_samples", self.num_samples, whole=True, least=2)
        check_number("lr", self.lr, above=0)
        check_number("beta1", self.beta1, least=0, below=1)
        for name in ("rho", "eta"):
            check_number(name, getattr(self, name), least=0)

    @property
    def is_mixed(self) -> bool:
        """Whether the logits learn through gates in the forward pass."""
        return self.gradient in ("softmax", "gumbel_soft", "gumbel_st")

    @property
    def is_shared(self) -> bool:
        """Whether the options of a kind share one run of their super-kernel in a mixture."""
        return self.gradient == "gumbel_soft"


@dataclass(frozen=True)
class Rloo(Strategy):
    """Fair paths; logits by REINFORCE, leave one out (Kool et al. 2019), and the exact gradient of the cost."""

    gradient: ClassVar[Gradient] = "rloo"
    paths: ClassVar[Paths] = "fair"


@dataclass(frozen=True)
class Rotation(Strategy):
    """As `Rloo`, with the paths of the sandwich rule one at a time."""

    gradient: ClassVar[Gradient] = "rloo"
    paths: ClassVar[Paths] = "rotation"


@dataclass(frozen=True)
class Sandwich(Strategy):
    """As `Rloo`, with the sandwich rule (Yu et al. 2020, arXiv 2003.11142), without distillation."""

    gradient: ClassVar[Gradient] = "rloo"
    paths: ClassVar[Paths] = "sandwich"


@dataclass(frozen=True)
class Darts(Strategy):
    """DARTS (Liu et al. 2019, arXiv 1806.09055), first order."""

    gradient: ClassVar[Gradient] = "softmax"
    paths: ClassVar[Paths] = "mixture"


@dataclass(frozen=True)
class FBNetV2(Strategy):
    """FBNetV2 (Wan et al. 2020, arXiv 2004.05565): options of a kind share one run of their super-kernel."""

    gradient: ClassVar[Gradient] = "gumbel_soft"
    paths: ClassVar[Paths] = "mixture"


@dataclass(frozen=True)
class Gdas(Strategy):
    """GDAS (Dong and Yang 2019, arXiv 1910.04465)."""

    gradient: ClassVar[Gradient] = "gumbel_st"
    paths: ClassVar[Paths] = "policy"


@dataclass(frozen=True)
class Tunas(Strategy):
    """TuNAS (Bender et al. 2020, arXiv 2008.06120): the absolute reward."""

    gradient: ClassVar[Gradient] = "reinforce"
    paths: ClassVar[Paths] = "policy"


@dataclass(frozen=True)
class Spos(Strategy):
    """Single path one-shot (Guo et al. 2020, arXiv 1904.00420): uniform paths, then evolution."""

    gradient: ClassVar[Gradient] = "none"
    paths: ClassVar[Paths] = "uniform"

"""The published ways to search, each as what trains the weights and what trains the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["STRATEGIES", "Strategy"]

Gradient = Literal["rloo", "reinforce", "softmax", "gumbel_soft", "gumbel_st", "none"]
Paths = Literal["fair", "rotation", "policy", "uniform", "sandwich", "mixture"]


@dataclass(frozen=True)
class Strategy:
    """A way to search.

    Attributes:
        gradient: How the logits learn. ``rloo``: score-function gradient of some architectures on one batch, each
            compared with the others, and the exact gradient of the expected cost. ``reinforce``: the same gradient
            against a running mean over batches, with the cost of the drawn architectures in the reward. ``softmax``,
            ``gumbel_soft``: the gradient through the mixture of all options. ``gumbel_st``: through the gates of one
            drawn path. ``none``: not at all.
        paths: What a step trains. ``fair``: a random path, each option as often as the others. ``rotation``: widest,
            random, narrowest, random, one a step. ``policy``: a draw by the logits. ``uniform``: any path.
            ``sandwich``: widest, narrowest and two random paths, all in every step. ``mixture``: all options, weighted
            by the logits.
    """

    gradient: Gradient
    paths: Paths

    @property
    def is_mixed(self) -> bool:
        """Whether the logits learn through gates in the forward pass."""
        return self.gradient in ("softmax", "gumbel_soft", "gumbel_st")

    @property
    def is_shared(self) -> bool:
        """Whether the options of a kind share one run of their super-kernel in a mixture."""
        return self.gradient == "gumbel_soft"


STRATEGIES: dict[str, Strategy] = {
    # Ours. The others are baselines: what they cost and find beside it stands in `tests/benchmarks/`.
    "rloo": Strategy("rloo", "fair"),
    # The sandwich rule, one path at a time.
    "rotation": Strategy("rloo", "rotation"),
    # Liu et al. 2019, arXiv 1806.09055; first order.
    "darts": Strategy("softmax", "mixture"),
    # Wan et al. 2020, arXiv 2004.05565; options of a kind share one run of their super-kernel.
    "fbnetv2": Strategy("gumbel_soft", "mixture"),
    # Dong and Yang 2019, arXiv 1910.04465.
    "gdas": Strategy("gumbel_st", "policy"),
    # Bender et al. 2020, arXiv 2008.06120: the absolute reward.
    "tunas": Strategy("reinforce", "policy"),
    # Guo et al. 2020, arXiv 1904.00420: uniform paths, then evolution.
    "spos": Strategy("none", "uniform"),
    # Yu et al. 2020, arXiv 2003.11142, without distillation.
    "sandwich": Strategy("rloo", "sandwich"),
}

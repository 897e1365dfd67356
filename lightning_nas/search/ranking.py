"""What follows the training of the weights: the logits learn if they have not, and the best subnets are found."""

from __future__ import annotations

from collections.abc import Callable

from ..estimator.estimator import Estimator
from .decoupled import learn_logits
from .engine import Search
from .inherited import InheritedLoss
from .loaders import UserFit
from .selection import select
from .settings import SelectionSettings
from .trials import train_briefly
from .verify import verified_candidates

__all__ = ["rank"]

Nodes = tuple[int, ...]
Observed = list[tuple[Nodes, float]]


def rank(
    search: Search,
    estimator: Estimator,
    loss: InheritedLoss,
    settings: SelectionSettings,
    observed: Observed,
    fit: UserFit,
    record: Callable[[int], dict[str, float]],
) -> tuple[list[Nodes], Observed]:
    """Return subnets within the budgets of a search, the best first, and all that was observed.

    Args:
        search: The search.
        estimator: What subnets cost.
        loss: Evaluates them; with no batch to do so, the most probable come first.
        settings: How many are compared.
        observed: What an earlier phase two has observed: it serves every budget, and there is no other then.
        fit: What was searched; the loggers of its Trainer take the figures of each step.
        record: Gives these figures, from the number of the step.
    """
    trainer, show = fit.trainer, fit.trainer.is_global_zero

    def watch(step: int) -> None:
        # The training is over: its module logs no more, the loggers themselves do.
        metrics = record(trainer.global_step + step)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step + step)

    if not loss.num_batches:
        return verified_candidates(search, estimator, settings.candidates), observed
    if search.settings.phases == "decoupled" and not observed:
        observed = learn_logits(search, loss.on_held_out, settings.steps, watch, show)
    ranked = select(search, estimator, loss, settings, observed, show).ranked
    return (train_briefly(fit, ranked, settings, loss.held_out) if settings.trials else ranked), observed

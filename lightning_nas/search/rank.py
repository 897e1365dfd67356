"""Ranking of subnets after the training of the weights; the logits learn first where they have not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from lightning.pytorch.utilities import rank_zero_info

from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.search.brief_training import train_briefly
from lightning_nas.search.decoupled import learn_logits
from lightning_nas.search.effort import Comparison, Effort, comparison
from lightning_nas.search.engine import Search
from lightning_nas.search.inherited import InheritedLoss
from lightning_nas.search.loaders import UserFit
from lightning_nas.search.selection import select
from lightning_nas.search.settings import Decoupled, Selection
from lightning_nas.search.verify import verified_candidates
from lightning_nas.space.spec import Encoding

__all__ = ["rank"]

Observed = list[tuple[Encoding, float]]


def rank(
    search: Search,
    estimator: CostModel,
    loss: InheritedLoss,
    selection: Selection,
    observed: Observed,
    fit: UserFit,
    record: Callable[[int], dict[str, float]],
    cost: float | None = None,
) -> tuple[list[Encoding], Observed]:
    """Return subnets within the budgets of a search, the best first, and all that was observed.

    Args:
        search: The search.
        estimator: What subnets cost.
        loss: Evaluates them; with no batch to do so, the most probable come first.
        selection: How many are compared.
        observed: What an earlier phase two has observed: it serves every budget, and there is no other then.
        fit: What was searched; the loggers of its Trainer take the figures of each step.
        record: Gives these figures, from the number of the step.
        cost: What the comparison may cost at most, see `effort.affordable`; None for no limit.
    """
    trainer, show = fit.trainer, fit.shows_progress

    def watch(step: int) -> None:
        # The training is over: its module logs no more, the loggers themselves do.
        metrics = record(trainer.global_step + step)
        for logger in trainer.loggers:
            logger.log_metrics(metrics, trainer.global_step + step)

    if not loss.num_batches:
        return verified_candidates(search, estimator, selection.num_candidates), observed
    if isinstance(search.training, Decoupled) and not observed:
        observed = learn_logits(search, loss.on_held_out, search.training.steps, watch, show)
    plan, fewer = _compared(loss, selection, cost)
    given = search, estimator, loss, fewer, observed, show
    ranked = select(*given, lambda encoding: loss(encoding, plan.first), plan.num_finalists).ranked
    return (train_briefly(fit, ranked, selection, loss.held_out) if selection.num_brief_trainings else ranked), observed


def _compared(loss: InheritedLoss, selection: Selection, cost: float | None) -> tuple[Comparison, Selection]:
    """Return on how much candidates are compared, and how many: as many as wanted, or else as the cost allows."""
    count = max(selection.num_evaluations, selection.num_candidates) + selection.num_random_subnets
    wanted = Effort(count, loss.num_calibration, loss.num_batches)
    plan = comparison(cost, wanted, *loss.sizes)
    number = plan.first.num_subnets
    rank_zero_info(
        f"Comparing {number} subnets within the budget by the loss that they inherit, on {plan.first.num_held_out} of"
        f" {loss.num_batches} held-out batches"
        + (f", the best {plan.num_finalists} on all" if plan.num_finalists else "")
        + (
            f"; {count} were wanted, and all batches, which takes a longer training or `effort`."
            if number < count
            else "."
        )
    )
    if number == count:
        return plan, selection
    num_random = min(selection.num_random_subnets, number // 4)
    candidates, evaluations = min(selection.num_candidates, max(1, number // 2)), number - num_random
    return plan, replace(
        selection,
        num_candidates=candidates,
        num_evaluations=min(selection.num_evaluations, evaluations),
        num_random_subnets=num_random,
    )

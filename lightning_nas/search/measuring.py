"""Measurements of a supernet before its training and at its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.search.effort import Effort, num_values, training_cost
from lightning_nas.search.engine import Search
from lightning_nas.search.inherited import InheritedLoss
from lightning_nas.search.loaders import UserFit
from lightning_nas.search.progress import Progress
from lightning_nas.search.readiness import Readiness, measure_readiness, progress_since, readiness_efforts, start_losses
from lightning_nas.search.settings import Selection

__all__ = ["affordable_cost", "measure_end", "measure_start"]

log = logging.getLogger(__name__)


def affordable_cost(selection: Selection, num_trained: float) -> float | None:
    """Return what readiness may cost, which is what the comparison of candidates may cost too; None for no limit.

    Args:
        selection: Its effort says which part of the training both may cost.
        num_trained: Numbers in all batches that are trained on.
    """
    return None if selection.effort is None or not num_trained else 0.5 * selection.effort * training_cost(num_trained)


def measure_start(
    search: Search, fit: UserFit, selection: Selection, progress: Progress, batch: object, num_batches: int
) -> None:
    """Evaluate the source and some subnets before the training, on the batches that are used again at its end.

    Args:
        search: The search.
        fit: What trains.
        selection: What measuring may cost.
        progress: Keeps the losses.
        batch: A training batch, for batch norm.
        num_batches: How many of them the training has.
    """
    held_out = fit.loaders.held_out_batches(())
    loss = InheritedLoss(fit.trainer, fit.module, search.supernet, [batch], held_out, fit.loss)
    if loss.num_batches:
        effort = readiness_efforts(affordable_cost(selection, num_batches * num_values(batch)), loss)[0]
        with _checked_size(search):
            found = start_losses(search, lambda encoding: loss(encoding, effort), effort.num_subnets)
        progress.start, progress.start_batches = list(found.items()), effort.num_held_out


def measure_end(
    search: Search,
    estimator: CostModel,
    loss: InheritedLoss,
    selection: Selection,
    progress: Progress,
    show: bool,
) -> Readiness:
    """Return how ready a trained supernet is.

    Args:
        search: The search.
        estimator: Counts the parameters of subnets.
        loss: Evaluates subnets.
        selection: What measuring may cost.
        progress: What `measure_start` kept, and how much was trained.
        show: Whether to show progress.
    """
    effort = readiness_efforts(affordable_cost(selection, progress.num_values), loss)[1]
    same = Effort(len(progress.start), 1, progress.start_batches)
    made = progress_since(search, dict(progress.start), lambda encoding: loss(encoding, same))
    return measure_readiness(
        search, estimator, lambda encoding: loss.halves(encoding, effort), made, effort.num_subnets, show
    )


@contextmanager
def _checked_size(search: Search) -> Iterator[None]:
    """Warn where the network runs on images of another size than its costs are of."""
    space, seen = search.supernet.space, list[tuple[int, int]]()

    def note(network: nn.Module, inputs: tuple[object, ...], named: dict[str, object]) -> None:
        # A network may be given more than its images.
        seen.extend(
            _sides(value) for value in (*inputs, *named.values()) if isinstance(value, Tensor) and value.ndim == 4
        )

    handle = search.supernet.leaves.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
    expected = space.input_size[1:]
    if seen and expected not in seen:
        log.warning(
            "The network runs on images of %d x %d pixels, and its costs are of %d x %d: the budget is kept at that"
            " size alone. HINT: give `space_of` and `supernet_from` an `example_input` of that size.",
            *seen[0],
            *expected,
        )


def _sides(images: Tensor) -> tuple[int, int]:
    height, width = images.shape[-2:]
    return height, width

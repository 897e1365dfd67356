"""Search of a trained module without training a supernet, at the start of a fit that takes no step."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.search.engine import Search
from lightning_nas.search.is_trained import warn_untrained
from lightning_nas.search.network_images import network_images
from lightning_nas.search.option_library import search_by_library
from lightning_nas.search.settings import Library, Untrained
from lightning_nas.search.state import SearchState
from lightning_nas.search.warnings_heard import heard_warnings
from lightning_nas.search.zero_shot import search_zero_shot
from lightning_nas.space.nodes import described
from lightning_nas.supernet.importance import sort_channels
from lightning_nas.supernet.supernet import owner_of

__all__ = ["search_untrained"]


def search_untrained(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    state: SearchState,
    estimator: CostModel,
    method: Untrained,
    num_candidates: int,
) -> Sequence[Tensor] | None:
    """Search a trained module, unless the state says what was found, and leave the state as at the end of a search.

    Args:
        trainer: The Trainer, its data loaded.
        module: The user's module; channels of its supernet are sorted, and it computes what it did.
        state: Of the search; it has begun.
        estimator: What members cost.
        method: How it is searched.
        num_candidates: How many members are ranked.

    Returns:
        For each node the error of each option, where the method measures them.
    """
    state.follow(trainer, module)
    search, supernet = state.started(), state.started().supernet
    if not state.progress.ranked:
        sort_channels(module)
        fit, network = state.fitted(), owner_of(supernet, module)[1]
        images = network_images(fit, supernet, method.num_images)
        rows: list[list[float]] = []
        with heard_warnings() as state.progress.warnings:
            warn_untrained(module, network, fit.training_batches(8), trainer, fit.loss)
            if isinstance(method, Library):
                found = search_by_library(module, images, search.limits, estimator, method, num_candidates)
                ranked, rows = list(found.ranked), [row.tolist() for row in found.errors]
            else:
                ranked = search_zero_shot(module, images, search, estimator, method, num_candidates)
        # Each process has seen images of its own; all go on with what the first one found.
        state.progress.ranked, state.progress.errors = trainer.strategy.broadcast((ranked, rows))
    errors = [torch.tensor(row) for row in state.progress.errors] or None
    state.search = Search(supernet, search.limits, method.scoring, errors)
    supernet.activate(state.chosen())
    rank_zero_info(f"Selected architecture: {described(supernet.space, state.chosen())}")
    return errors

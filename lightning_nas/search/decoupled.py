"""Phase two of a search: the weights are frozen, and the logits learn from held-out batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from tqdm import tqdm

from lightning_nas.search.describe import brief
from lightning_nas.search.engine import Search
from lightning_nas.search.gradient_estimate import Score
from lightning_nas.space.spec import Encoding

__all__ = ["learn_logits"]


def learn_logits(
    search: Search,
    score: Callable[[Search, int, int], Score | None],
    steps: int,
    watch: Callable[[int], None] = lambda step: None,
    show: bool = True,
) -> list[tuple[Encoding, float]]:
    """Train the logits of a search on held-out batches while the weights are frozen.

    Args:
        search: The search; its logits and multipliers change.
        score: Says what the logits learn in a step, from (search, step, steps); None where that is nothing.
        steps: How many.
        watch: Called with the number of each step that the logits have made.
        show: Whether to show progress.

    Returns:
        Every architecture that was drawn, with its loss less the mean on its batch, for `utilities`.
    """
    strategy = search.training.strategy
    if strategy.gradient == "none":
        return []
    optimizer = torch.optim.Adam(search.logits, strategy.lr, betas=(strategy.beta1, 0.999))
    observed: list[tuple[Encoding, float]] = []
    with tqdm(range(steps), desc="Searching", unit="step", leave=False, disable=not show) as bar:
        for step in bar:
            found = score(search, step, steps)
            if found is None:
                continue
            search.update(optimizer, found.surrogate)
            observed += found.observed
            watch(step)
            if step % 10 == 0:
                bar.set_postfix_str(brief(search), refresh=False)
    return observed

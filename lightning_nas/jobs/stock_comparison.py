"""The best stock network within the budgets of a search: chosen before anything trains, trained as the baseline is."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, nn

from lightning_nas.budget.budget import LATENCY
from lightning_nas.budget.limits import Limits
from lightning_nas.estimator import Estimator
from lightning_nas.jobs import rivals
from lightning_nas.jobs.networks import stock_name, stock_variant
from lightning_nas.jobs.plan import Model, Run
from lightning_nas.jobs.record import cost_of
from lightning_nas.jobs.search_data import SearchData
from lightning_nas.report.network_record import CostRecord

__all__ = ["StockComparison", "stock_comparison"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StockComparison:
    """The stock network that a search has to beat.

    Attributes:
        name: Its name.
        network: The network of the recipe on it, not trained yet.
        cost: What that costs.
        weights: ``imagenet``, or None where it begins from scratch.
    """

    name: str
    network: nn.Module
    cost: CostRecord
    weights: str | None = None

    @property
    def label(self) -> str:
        """Name of its trainings; runs of other budgets that compare with the same network find them."""
        return "-".join(["stock", self.name.replace("/", "_"), *([self.weights] if self.weights else [])])


def stock_comparison(
    run: Run, model: Model[SearchData], example_input: Tensor, estimator: Estimator, limits: Limits, is_classifier: bool
) -> StockComparison | None:
    """Return the best stock network within the limits of a search, or None, with a warning, where there is none.

    It is made as the network of the recipe is, from the same seed: with weights of ImageNet where that begins with
    these, and from scratch otherwise.

    Args:
        run: The run, with its seed.
        model: What is searched.
        example_input: One image, shape (1, 3, H, W).
        estimator: The estimator of the device.
        limits: What it may cost.
        is_classifier: Whether the source network is a classifier.

    Raises:
        ValueError: The source is made by a callable of the user's own and is no classifier.
    """
    own, num_classes = stock_name(model.network), model.data.num_classes
    if own is None and not is_classifier:
        raise ValueError(
            "`comparisons=[stock]` needs a classifier, or a detector or segmenter of this package, whose head goes on"
            " another backbone; got a network of a callable. HINT: leave stock out of `comparisons`."
        )
    if LATENCY not in limits.figures:
        log.warning("Stock networks are compared at a latency; the budget has none: no stock network.")
        return None
    make = partial(_made, model.network, num_classes)
    # The source's own name is no other network.
    names = [name for name in rivals.RIVALS if own is None or not rivals.is_same_stock(name, own)]
    found = rivals.stock_rivals(names, make, example_input, estimator, limits.figures)
    wants_weights = model.network.keywords.get("weights") == "imagenet"
    if wants_weights:
        # From scratch the others would lose to a source that is not.
        found = sorted(found, key=lambda rival: not rival.has_weights)
    if found:
        log.info("Stock networks within the budget, the best first:\n%s", _table(found))
    best = rivals.best_rival(found, make, example_input, estimator, limits.figures[LATENCY])
    if best is None:
        log.warning("No stock network keeps the budgets: there is none to compare with.")
        return None
    with isolate_rng():
        run.begin_random()
        network, weights = _begun(make, best, model.network.keywords.get("weights"))
    return StockComparison(best.name, network, cost_of(estimator, network, example_input), weights)


def _made(make: Callable[..., nn.Module], num_classes: int, name: str, weights: str | None = None) -> nn.Module:
    return stock_variant(make, name, num_classes, weights)


def _begun(make: Callable[..., nn.Module], rival: rivals.Rival, source_weights: object) -> tuple[nn.Module, str | None]:
    """Return a network as it begins, and its weights: those of ImageNet where the source has them and it has them."""
    log.info("Compared with the stock network %s, %.4g ms", rival.name, rival.latency_ms)
    reason = "a file of weights is of one network alone"
    if source_weights == "imagenet":
        try:
            return make(rival.name, weights="imagenet"), "imagenet"
        except (ValueError, RuntimeError, OSError) as error:  # there are none, or they cannot be downloaded
            reason = " ".join(str(error).split())
    if source_weights is None:
        log.info("%s is trained from scratch, as the source is", rival.name)
    else:
        log.warning(
            "%s is trained from scratch, though the source is not (%s): the comparison flatters the search.",
            rival.name,
            reason,
        )
    return make(rival.name), None


def _table(found: list[rivals.Rival]) -> str:
    width = max(len(rival.name) for rival in found)
    return "\n".join(f"{rival.name:<{width}}{rival.latency_ms:>10.4g} ms" for rival in found)

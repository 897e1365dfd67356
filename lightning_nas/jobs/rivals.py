"""Stock networks within a budget: what a search has to beat is the best of them, not only its own source."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchvision import models
from tqdm import tqdm

from lightning_nas.graph.decompose import decompose
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.io.numbers import check_number
from lightning_nas.supernet.stock import check_stock_name, library_of, stock_network, without_memory

__all__ = ["RIVALS", "Rival", "stock_rivals"]

log = logging.getLogger(__name__)

RIVALS = (
    *("mobilenetv2_035", "mobilenetv2_050", "mobilenetv2_075", "mobilenet_v2", "mobilenetv2_110d", "mobilenetv2_140"),
    *("mobilenet_v3_small", "mobilenet_v3_large", "mobilenetv3_small_050", "mobilenetv3_small_075", "lcnet_050"),
    *("mobilenetv4_conv_small_035", "mobilenetv4_conv_small_050", "mobilenetv4_conv_small", "mobilenetv4_conv_medium"),
    *("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "torchvision/efficientnet_b0", "tinynet_e"),
    *("tinynet_d", "tinynet_c", "mobilenet_edgetpu_v2_xs", "mobilenet_edgetpu_v2_s", "efficientnet_es", "lcnet_100"),
    *("mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet_small", "fbnetc_100", "spnasnet_100", "hardcorenas_a"),
    *("resnet10t", "torchvision/resnet18", "torchvision/resnet34", "resnet14t", "regnetx_002", "regnet_x_400mf"),
    *("regnet_y_400mf", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0", "ghostnet_050", "ghostnet_100", "repvgg_a0"),
)
"""Small networks of torchvision and timm: what people put on phones and on accelerators at the edge."""


class Pricer(Protocol):
    """Prices the parts of networks, as `lightning_nas.estimator.Estimator` does."""

    def predict_ms(self, subgraphs: list[Subgraph], /) -> NDArray[np.float64]:
        """Return the latency of each subgraph in milliseconds."""
        ...


@dataclass(frozen=True)
class Rival:
    """A stock network within a budget.

    Attributes:
        name: Its name, as `stock_network` takes it.
        latency_ms: What the estimator says of it.
        options: What `stock_network` makes it of, its name and number of classes.
        imagenet_accuracy: Top-1 accuracy on ImageNet in percent, where its library says it; timm does not.
    """

    name: str
    latency_ms: float
    options: Mapping[str, object] = field(default_factory=dict)
    imagenet_accuracy: float | None = None


def stock_rivals(
    names: Iterable[str], num_classes: int, example_input: Tensor, estimator: Pricer, budget_ms: float
) -> list[Rival]:
    """Return the stock networks within a latency, the dearest first: more time mostly buys accuracy.

    Where accuracies on ImageNet are known, the more accurate of these take the earlier of their places. Networks are
    traced without weights. Those that cannot be priced, or do not run on images of this size, are left out and logged.

    Args:
        names: What is priced, such as `RIVALS`.
        num_classes: Outputs of the classifiers.
        example_input: One image, shape (1, 3, H, W).
        estimator: Prices their parts.
        budget_ms: Most milliseconds.

    Raises:
        ValueError: There is no such network, or the budget is no number above 0.

    Example::

        >>> import torch
        >>> from lightning_nas.estimator import Estimator
        >>> images, estimator = torch.zeros(1, 3, 96, 96), Estimator.load("ethos_u85_1024")
        >>> [rival.name for rival in stock_rivals(["mobilenetv2_035", "mobilenetv2_050"], 2, images, estimator, 0.4)]
        ['mobilenetv2_050', 'mobilenetv2_035']
    """
    check_number("num_classes", num_classes, whole=True, least=1)
    check_number("budget_ms", budget_ms, above=0)
    wanted = list(names)
    for name in wanted:
        check_stock_name(name)
    rivals, refused = [], []
    for name in tqdm(wanted, desc="Pricing stock networks", unit="network", leave=False):
        try:
            latency_ms = _latency_ms(name, num_classes, example_input, estimator)
        except (ValueError, RuntimeError, TypeError) as error:
            refused.append(f"{name} ({' '.join(str(error).split())})")
            continue
        options = {"name": name, "num_classes": num_classes}
        rivals.append(Rival(name, latency_ms, options, _imagenet_accuracy(name)))
    if refused:
        log.info("Stock networks that cannot be priced at this size: %s", "; ".join(refused))
    within = [rival for rival in rivals if rival.latency_ms <= budget_ms]
    log.info("%d of %d stock networks are within %.4g ms", len(within), len(rivals), budget_ms)
    return _ranked(within)


def _latency_ms(name: str, num_classes: int, example_input: Tensor, estimator: Pricer) -> float:
    network = without_memory(lambda: stock_network(name, num_classes))
    # Nothing of a price depends on a value.
    parts = decompose(network, example_input[:1].to("meta"), getattr(estimator, "fallback", None))
    return float(estimator.predict_ms(parts).sum())


def _imagenet_accuracy(name: str) -> float | None:
    if library_of(name) != "torchvision":
        return None
    weights = models.get_model_weights(name.removeprefix("torchvision/"))
    found = [entry.meta["_metrics"]["ImageNet-1K"]["acc@1"] for entry in weights if "_metrics" in entry.meta]
    return max(map(float, found), default=None)


def _ranked(rivals: list[Rival]) -> list[Rival]:
    """Sort from the dearest to the cheapest, and those of known accuracy among their places by that."""
    ranked = sorted(rivals, key=lambda rival: -rival.latency_ms)
    places = [place for place, rival in enumerate(ranked) if rival.imagenet_accuracy is not None]
    known = sorted((ranked[place] for place in places), key=lambda rival: -(rival.imagenet_accuracy or 0.0))
    for place, rival in zip(places, known, strict=True):
        ranked[place] = rival
    return ranked

"""Stock networks within a budget: what a search has to beat is the best of them, not only its own source."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import timm
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision import models
from tqdm import tqdm

from lightning_nas.budget.budget import LATENCY, PARAMETERS, PEAK_ACTIVATIONS
from lightning_nas.graph.decompose import split
from lightning_nas.graph.memory import network_memory
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.graph.trace import trace
from lightning_nas.io.numbers import check_number
from lightning_nas.supernet.stock import check_stock_name, library_of, without_memory

__all__ = ["RIVALS", "Rival", "best_rival", "is_same_stock", "stock_rivals"]

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

# What libraries and heads raise where a network does not fit.
_UNFIT = (ValueError, RuntimeError, TypeError, LookupError, ArithmeticError, AssertionError)
_COSTS = (LATENCY, PARAMETERS, PEAK_ACTIVATIONS)
# A backend takes about a second for a network.
_MAX_MEASURED = 16


class Pricer(Protocol):
    """Prices the parts of networks, as `lightning_nas.estimator.Estimator` does."""

    def predict_ms(self, subgraphs: list[Subgraph], /) -> NDArray[np.float64]:
        """Return the latency of each subgraph in milliseconds."""
        ...


class Verifier(Protocol):
    """Measures whole networks, as `lightning_nas.estimator.Estimator` does."""

    def verify_ms(self, network: nn.Module, example_input: Tensor, /) -> float | None:
        """Return the latency of a network in milliseconds; None where no backend is here."""
        ...


@dataclass(frozen=True)
class Rival:
    """A stock network within the bounds of a search.

    Attributes:
        name: Its name, as `stock_network` takes it.
        latency_ms: What the estimator says of it.
        imagenet_accuracy: Top-1 accuracy on ImageNet in percent, where its library says it; timm does not.
        has_weights: Whether its library has weights of ImageNet for it.
        parameter_bytes: Weights and biases, as int8.
        peak_bytes: Peak of its activations, as int8.
    """

    name: str
    latency_ms: float
    imagenet_accuracy: float | None = None
    has_weights: bool = False
    parameter_bytes: int = 0
    peak_bytes: int = 0


def stock_rivals(
    names: Iterable[str],
    make: Callable[[str], nn.Module],
    example_input: Tensor,
    estimator: Pricer,
    bounds: Mapping[str, float],
) -> list[Rival]:
    """Return the stock networks within a latency, the dearest first: more time mostly buys accuracy.

    Where accuracies on ImageNet are known, the more accurate of these take the earlier of their places. Networks are
    traced without weights. Those that cannot be made or priced, or do not run on images of this size, are left out and
    logged.

    Args:
        names: What is priced, such as `RIVALS`.
        make: Makes the network of a name: a classifier, or what reads it as its backbone.
        example_input: One image, shape (1, 3, H, W).
        estimator: Prices them.
        bounds: The most that each may cost, by the name of the cost as in `lightning_nas.budget.budget`: a latency in
            milliseconds, and where there are such limits bytes of parameters and of peak activations.

    Raises:
        ValueError: There is no such network or cost, no latency, or a bound is no number above 0.

    Example::

        >>> import torch
        >>> from lightning_nas.estimator import Estimator
        >>> from lightning_nas.supernet import stock_network
        >>> images, estimator = torch.zeros(1, 3, 96, 96), Estimator.load("ethos_u85_1024")
        >>> names = ["mobilenetv2_035", "mobilenetv2_050"]
        >>> found = stock_rivals(names, lambda name: stock_network(name, 2), images, estimator, {"latency_ms": 0.4})
        >>> [rival.name for rival in found]
        ['mobilenetv2_050', 'mobilenetv2_035']
    """
    _check_bounds(bounds)
    wanted = list(names)
    for name in wanted:
        check_stock_name(name)
    rivals, refused, num_priced = [], [], 0
    for name in tqdm(wanted, desc="Pricing stock networks", unit="network", leave=False):
        try:
            costs = _costs(partial(make, name), example_input, estimator)
        except _UNFIT as error:
            reason, *_ = " ".join(str(error).split()).split(" HINT:")  # which is said to users of one network
            refused.append(f"{name} ({reason})")
            continue
        num_priced += 1
        if all(costs[cost] <= bound for cost, bound in bounds.items()):
            sizes = int(costs[PARAMETERS]), int(costs[PEAK_ACTIVATIONS])
            rivals.append(Rival(name, costs[LATENCY], _imagenet_accuracy(name), _has_weights(name), *sizes))
    if refused:
        log.info("Stock networks that cannot be priced at this size: %s", "; ".join(refused))
    limits = ", ".join(f"{cost}={bound:.4g}" for cost, bound in bounds.items())
    log.info("%d of %d stock networks are within %s", len(rivals), num_priced, limits)
    return _ranked(rivals)


def best_rival(
    rivals: Sequence[Rival],
    make: Callable[[str], nn.Module],
    example_input: Tensor,
    estimator: Verifier,
    budget_ms: float,
) -> Rival | None:
    """Return the first of some rivals that the device's backend, where it is installed, keeps within a latency, too.

    Args:
        rivals: The rivals, the best first.
        make: Makes the network of a name.
        example_input: One image, shape (1, 3, H, W).
        estimator: Measures whole networks by its backend.
        budget_ms: Most milliseconds.
    """
    check_number("budget_ms", budget_ms, above=0)
    for rival in rivals[:_MAX_MEASURED]:
        network = without_memory(partial(make, rival.name))
        measured_ms = estimator.verify_ms(network, example_input[:1].to("meta"))
        if measured_ms is None or measured_ms <= budget_ms:
            return rival
        log.info("%s takes %.4g ms by the backend, over the budget", rival.name, measured_ms)
    return None


def is_same_stock(name: str, other: str) -> bool:
    """Return whether two names are those of one stock network, whichever library makes it.

    Example::

        >>> is_same_stock("resnet18", "torchvision/resnet18"), is_same_stock("resnet18", "resnet34")
        (True, False)
    """
    return _plain(name) == _plain(other)


def _check_bounds(bounds: Mapping[str, float]) -> None:
    if LATENCY not in bounds:
        raise ValueError(f"`bounds` must hold {LATENCY}; got {', '.join(bounds) or 'none'}.")
    for cost, bound in bounds.items():
        if cost not in _COSTS:
            raise ValueError(f"`bounds` can hold {', '.join(_COSTS)}; got {cost!r}.")
        check_number(cost, bound, above=0)


def _costs(make: Callable[[], nn.Module], example_input: Tensor, estimator: Pricer) -> dict[str, float]:
    """Return what a network costs, by the name of the cost."""
    # Nothing of a price depends on a value.
    network = trace(without_memory(make), example_input[:1].to("meta"), getattr(estimator, "fallback", None))
    memory = network_memory(network)
    return {
        LATENCY: float(estimator.predict_ms(split(network)).sum()),
        PARAMETERS: float(memory.parameter_bytes),
        PEAK_ACTIVATIONS: float(memory.peak_activation_bytes),
    }


def _plain(name: str) -> str:
    """Return the name of a network without that of its library."""
    return name.removeprefix("torchvision/").removeprefix("timm/")


def _has_weights(name: str) -> bool:
    if library_of(name) == "torchvision":
        return bool(len(models.get_model_weights(_plain(name))))
    settings = timm.get_pretrained_cfg(_plain(name))
    return settings is not None and bool(settings.has_weights)


def _imagenet_accuracy(name: str) -> float | None:
    if library_of(name) != "torchvision":
        return None
    weights = models.get_model_weights(_plain(name))
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

"""Whole networks to judge and to correct an estimator by: subnets of search spaces, and stock networks."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
import torchvision
from torch import nn

from lightning_nas.graph.network import Network
from lightning_nas.graph.trace import trace
from lightning_nas.space.network import network_of
from lightning_nas.space.spec import SearchSpace

__all__ = ["CORRECTING", "JUDGING", "stock_networks", "subnets"]

JUDGING, CORRECTING = 20_000, 30_000
"""Seeds of the networks that an estimator is judged by and is corrected by: no table is of one of them."""

# Spaces that `space_of` makes around stock networks, with widths in steps of one channel, and what they are made from:
# estimators know spaces, not supernets.
_SPACES = Path(__file__).with_name("spaces.json")

# Sizes differ from those at which the operators of stock networks are measured for tables.
_STOCK = {
    JUDGING: (
        ("torchvision.mobilenet_v2", 1.0, 224),
        ("torchvision.mobilenet_v2", 0.5, 192),
        ("torchvision.mobilenet_v2", 0.35, 144),
        ("torchvision.mobilenet_v2", 1.4, 160),
        ("torchvision.mobilenet_v2", 0.75, 96),
        ("tf_efficientnet_lite0", 1.0, 224),
        ("tf_efficientnet_lite0", 1.0, 136),
        ("tf_efficientnet_lite1", 1.0, 240),
        ("efficientnet_es", 1.0, 208),
        ("mobilenet_edgetpu_100", 1.0, 176),
        ("torchvision.mnasnet0_5", 1.0, 224),
        ("torchvision.mnasnet1_0", 1.0, 176),
        ("torchvision.mnasnet1_3", 1.0, 160),
        ("fbnetc_100", 1.0, 208),
        ("spnasnet_100", 1.0, 144),
        ("torchvision.mobilenet_v3_small", 1.0, 208),
        ("torchvision.mobilenet_v3_small", 0.75, 176),
        ("torchvision.mobilenet_v3_large", 1.0, 240),
        ("torchvision.mobilenet_v3_large", 0.5, 144),
        ("torchvision.resnet18", 1.0, 208),
        ("torchvision.resnet18", 1.0, 112),
        ("torchvision.resnet34", 1.0, 176),
        ("torchvision.resnet50", 1.0, 144),
        ("resnet26", 1.0, 208),
        ("mobilenetv4_conv_small", 1.0, 224),
        ("mobilenetv4_conv_small_050", 1.0, 176),
        ("torchvision.efficientnet_b0", 1.0, 208),
        ("torchvision.squeezenet1_1", 1.0, 208),
    ),
    CORRECTING: (
        ("torchvision.mobilenet_v2", 0.9, 208),
        ("torchvision.mobilenet_v2", 0.6, 112),
        ("mobilenetv2_120d", 1.0, 144),
        ("tf_efficientnet_lite2", 1.0, 176),
        ("mnasnet_075", 1.0, 208),
        ("mnasnet_small", 1.0, 144),
        ("mobilenetv3_small_075", 1.0, 144),
        ("mobilenetv3_large_075", 1.0, 176),
        ("hardcorenas_a", 1.0, 208),
        ("resnet10t", 1.0, 176),
        ("resnet14t", 1.0, 144),
        ("mobilenetv4_conv_small_035", 1.0, 208),
        ("lcnet_100", 1.0, 176),
        ("mobilenetv1_100", 1.0, 144),
    ),
}


def subnets(lanes: int, seed: int, num_networks: int) -> Iterator[tuple[str, Network]]:
    """Yield named random subnets of spaces around stock networks, equally many of each.

    Args:
        lanes: Of the device; widths are multiples of it.
        seed: Of what is drawn.
        num_networks: How many.

    Example::

        >>> [name for name, _ in subnets(8, seed=0, num_networks=2)]
        ['subnet 0 of mobilenetv2_100@224', 'subnet 1 of mobilenetv2_075@192']
    """
    rng = random.Random(seed)
    sources = json.loads(_SPACES.read_text())
    spaces = [SearchSpace.from_json(json.dumps(source["space"])).curate(lanes) for source in sources]
    for number in range(num_networks):
        index = number % len(spaces)
        encoding = [rng.randrange(count) for count in spaces[index].node_sizes]
        source = sources[index]
        name = f"subnet {number} of {source['source']}@{source['size']}"
        yield name, network_of(spaces[index].decode(encoding))


def stock_networks(seed: int) -> Iterator[tuple[str, Network]]:
    """Yield named stock networks at several sizes and widths; others for `JUDGING` than for `CORRECTING`."""
    for name, width, size in _STOCK[seed]:
        network = trace(_model(name, width), torch.zeros(1, 3, size, size))
        yield f"{name.split('.')[-1]}{f' x{width:g}' if width != 1 else ''}@{size}", network


def _model(name: str, width: float) -> nn.Module:
    library, _, short = name.rpartition(".")
    if not library:
        return timm.create_model(name)
    options = {"width_mult": width} if width != 1 else {}
    model: nn.Module = getattr(torchvision.models, short)(weights=None, **options)
    return model

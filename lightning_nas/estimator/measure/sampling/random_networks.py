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

from lightning_nas.estimator.measure.sampling.chain_networks import Block, chain_parts
from lightning_nas.graph.network import Network, chain
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.graph.trace import trace
from lightning_nas.io.reading import JsonObject
from lightning_nas.space.lanes import round_to_lanes

__all__ = ["CORRECTING", "JUDGING", "stock_networks", "subnets"]

JUDGING, CORRECTING = 20_000, 30_000
"""Seeds of the networks that an estimator is judged by and is corrected by: no table is of one of them."""

# Chains around stock networks: for each stage the widths, in steps of one channel, that it can have, and for each block
# its options. What judges stays the same, whatever spaces a search offers.
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
    spaces = [source["space"] for source in sources]
    widths = [_stage_widths(space, lanes) for space in spaces]
    for number in range(num_networks):
        index = number % len(sources)
        source = sources[index]
        name = f"subnet {number} of {source['source']}@{source['size']}"
        yield name, chain(_sample_subnet(rng, spaces[index], widths[index]))


def stock_networks(seed: int) -> Iterator[tuple[str, Network]]:
    """Yield named stock networks at several sizes and widths; others for `JUDGING` than for `CORRECTING`."""
    for name, width, size in _STOCK[seed]:
        network = trace(_model(name, width), torch.zeros(1, 3, size, size))
        yield f"{name.split('.')[-1]}{f' x{width:g}' if width != 1 else ''}@{size}", network


def _stage_widths(space: JsonObject, lanes: int) -> list[list[int]]:
    """Return for each stage the widths that it can have on a device, ascending; the full one is always among them."""
    columns = [[width for (width,) in multiplier["widths"]] for multiplier in space["multipliers"]]
    # Rounding up must not pass the full width, the last.
    return [sorted({*(min(c[-1], round_to_lanes(width, lanes)) for width in c), c[-1]}) for c in columns]


def _sample_subnet(rng: random.Random, space: JsonObject, stage_widths: list[list[int]]) -> list[Subgraph]:
    # All widths are drawn before all blocks: another order of draws would give other networks.
    widths = [column[rng.randrange(len(column))] for column in stage_widths]
    stages = []
    for width, stage in zip(widths, space["stages"], strict=True):
        options = [block["options"][rng.randrange(len(block["options"]))] for block in stage["blocks"]]
        strides = [block["stride"] for block in stage["blocks"]]
        pairs = zip(options, strides, strict=True)
        stages.append([Block(**option, stride=stride, out_channels=width) for option, stride in pairs])
    stem = space["stem"]["width"], space["stem"]["stride"]
    return chain_parts(space["input_size"], stem, stages, space["head"]["width"], space["num_classes"])


def _model(name: str, width: float) -> nn.Module:
    library, _, short = name.rpartition(".")
    if not library:
        return timm.create_model(name)
    options = {"width_mult": width} if width != 1 else {}
    model: nn.Module = getattr(torchvision.models, short)(weights=None, **options)
    return model

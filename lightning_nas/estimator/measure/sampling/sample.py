"""Draw networks, and with them subgraphs, as search spaces hold them: regressors do not extrapolate beyond those."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from lightning_nas.estimator.fit.staircase import short_curve
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.io.numbers import check_number, check_seed
from lightning_nas.space.network import subgraphs
from lightning_nas.space.spec import Architecture, BlockOption, ConvSpec, FixedBlock, StageArchitecture, hidden_width

__all__ = ["plan_subgraphs", "sample_architecture", "sample_subgraphs"]

# (width, blocks, stride) of each stage.
_FAMILIES = (
    ((16, 1, 1), (24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)),  # MobileNetV2
    ((16, 1, 1), (24, 2, 2), (40, 2, 2), (80, 3, 2), (112, 3, 1), (192, 4, 2), (320, 1, 1)),  # EfficientNet-Lite0
)
# Values that stand here several times are drawn so much more often.
_MULTIPLIERS = (0.35, 0.5, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.1, 1.4)
_RATIOS = (0.25, 0.375, 0.5, 0.625, 0.75, 0.75, 0.875, 1.0, 1.0, 1.0)
_SIZES = (32, 32, 48, 64, 64, 96, 96, 128, 128, 160, 160, 192, 224, 224, 224, 256, 320)
_EXPANSIONS = (1, 2, 2, 3, 3, 4, 4, 4, 5, 6, 6, 6, 6)
_BLOCKS = ("ibn", "fused")
_KERNELS = (3, 3, 3, 3, 5, 5, 7)
# Fewer subgraphs are needed to learn from, all of them.
_MIN_FOR_CURVE = 200


def sample_architecture(rng: random.Random) -> Architecture:
    """Draw a network of MobileNetV2's or EfficientNet-Lite's shape with random block kinds, sizes and widths.

    Example::

        >>> sample_architecture(random.Random(0)) == sample_architecture(random.Random(0))
        True
    """
    # Round numbers are what people use; the others keep the regressor from seeing only those.
    multiplier = rng.choice(_MULTIPLIERS) if rng.random() < 0.65 else rng.uniform(0.3, 1.4)
    size = rng.choice(_SIZES) if rng.random() < 0.8 else rng.randrange(32, 321, 16)
    # Half of the networks are searched over, with ratios of widths; the other half are what the space starts from.
    ratios = _RATIOS if rng.random() < 0.6 else (1.0,)
    kernels = rng.choice((_KERNELS, (3,)))
    stages = []
    for index, (width, count, stride) in enumerate(rng.choice(_FAMILIES)):
        options = [BlockOption("ds", 1, kernels[0]) if index == 0 else _option(rng, kernels) for _ in range(count)]
        blocks = tuple(FixedBlock(option, 1 if number else stride) for number, option in enumerate(options))
        stages.append(StageArchitecture(hidden_width(hidden_width(width, multiplier), rng.choice(ratios)), blocks))
    # Small images are often not halved by the stem, some cameras are not square, and some see no colours.
    stem = ConvSpec(max(8, hidden_width(32, multiplier)), 3, 1 if size <= 64 and rng.random() < 0.3 else 2)
    width = size if rng.random() < 0.8 else size * 4 // 3 // 8 * 8
    head = None if rng.random() < 0.1 else ConvSpec(hidden_width(1280, max(1.0, multiplier)), 1, 1)
    num_classes = rng.choice((0, 2, 10, 10, 20, 100, 1000, 1000, rng.randint(2, 1000)))
    image = (1 if rng.random() < 0.1 else 3, size, width)
    return Architecture(image, stem, tuple(stages), head, num_classes)


def sample_subgraphs(seed: int, num_subgraphs: int) -> list[Subgraph]:
    """Draw the different subgraphs of random networks, in an order that starts with the same ones for any number."""
    found: dict[Subgraph, None] = {}
    for subgraph in _stream(random.Random(seed)):
        if len(found) == num_subgraphs:
            break
        found[subgraph] = None
    return list(found)


def plan_subgraphs(seed: int, num_subgraphs: int) -> list[Subgraph]:
    """Draw few subgraphs to measure by hand: most are blocks, but a twelfth of them is of each other kind.

    Networks have a single stem and a single head, too few of which would be drawn to learn their latency from. Where
    there is room, one convolution comes with its channels one by one: it shows the lanes.
    """
    check_seed(seed)
    check_number("num_subgraphs", num_subgraphs, whole=True, least=1)
    curve = short_curve() if num_subgraphs >= _MIN_FOR_CURVE else []
    drawn: dict[str, list[Subgraph]] = {}
    for subgraph in sample_subgraphs(seed, 20 * num_subgraphs):
        drawn.setdefault(subgraph.kind, []).append(subgraph)
    rare = [part for kind, parts in drawn.items() if kind not in _BLOCKS for part in parts[: num_subgraphs // 12]]
    blocks = itertools.chain.from_iterable(zip(*(drawn[kind] for kind in _BLOCKS), strict=False))
    return [*curve, *rare, *itertools.islice(blocks, num_subgraphs - len(curve) - len(rare))]


def _stream(rng: random.Random) -> Iterator[Subgraph]:
    while True:
        yield from subgraphs(sample_architecture(rng))


def _option(rng: random.Random, kernels: tuple[int, ...]) -> BlockOption:
    return BlockOption(rng.choice(("ibn", "fused")), rng.choice(_EXPANSIONS), rng.choice(kernels))

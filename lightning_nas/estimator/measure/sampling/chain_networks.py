"""Draw networks that are chains of blocks, of MobileNetV2's or EfficientNet-Lite's shape, as lists of subgraphs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_nas.graph.sizes import hidden_width
from lightning_nas.graph.subgraph import Subgraph, SubgraphKind

__all__ = ["Block", "chain_parts", "sample_chain"]

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
_KINDS: tuple[SubgraphKind, ...] = ("ibn", "fused")
_KERNELS = (3, 3, 3, 3, 5, 5, 7)


@dataclass(frozen=True)
class Block:
    """One block of a chain; what it reads is given by the block before it.

    Attributes:
        kind: ``ibn``, ``fused`` or ``ds``.
        expansion: Hidden channels over input channels, before rounding; 1 for ``ds``.
        kernel: Size of its spatial convolution.
        stride: Stride of its spatial convolution.
        out_channels: Output channels.
    """

    kind: SubgraphKind
    expansion: float
    kernel: int
    stride: int
    out_channels: int

    def part(self, in_shape: tuple[int, int, int], path: str = "") -> Subgraph:
        """Return the block on an input of this height, width and channels.

        Example::

            >>> print(Block("ibn", 6, 3, 1, 24).part((56, 56, 24)))
            ibn 56x56 24->144->24 k3 s1
        """
        channels = in_shape[2]
        hidden = channels if self.kind == "ds" else hidden_width(channels, self.expansion)
        sizes = (*in_shape, hidden, self.out_channels, self.kernel, self.stride)
        return Subgraph(self.kind, *sizes, residual=self.stride == 1 and channels == self.out_channels, path=path)


def chain_parts(
    image: tuple[int, int, int],
    stem: tuple[int, int],
    stages: Sequence[Sequence[Block]],
    head_width: int | None,
    num_classes: int,
) -> list[Subgraph]:
    """Return the subgraphs of a chain of blocks, in order of execution.

    Args:
        image: Channels, height and width of one image (CHW).
        stem: Width and stride of the first convolution, of 3x3.
        stages: Blocks, in groups that their paths name.
        head_width: Output channels of a 1x1 convolution behind the blocks; None for none.
        num_classes: Outputs of the classifier; 0 for a network without pooling and classifier.

    Example::

        >>> for part in chain_parts((3, 64, 64), (16, 2), [[Block("fused", 6, 3, 2, 24)]], None, 10):
        ...     print(part)
        stem 64x64 3->16->16 k3 s2
        fused 32x32 16->96->24 k3 s2
        classifier 16x16 24->24->10 k1 s1
    """
    channels, height, width = image
    parts = [Subgraph("stem", height, width, channels, stem[0], stem[0], 3, stem[1], path="stem")]
    for index, blocks in enumerate(stages):
        for number, block in enumerate(blocks):
            parts.append(block.part(parts[-1].out_shape, f"stages.{index}.{number}"))
    shape = parts[-1].out_shape
    if head_width is None:
        return [*parts, Subgraph("classifier", *shape, shape[2], num_classes, path="head")] if num_classes else parts
    if num_classes:
        return [*parts, Subgraph("head", *shape, head_width, num_classes, path="head")]
    return [*parts, Subgraph("conv", *shape, head_width, head_width, path="head")]


def sample_chain(rng: random.Random) -> list[Subgraph]:
    """Draw a network with random block kinds, sizes and widths, and return its subgraphs in order of execution.

    Measured tables and caches hold what was drawn: another order of draws makes them worthless.

    Example::

        >>> sample_chain(random.Random(0)) == sample_chain(random.Random(0))
        True
    """
    # Round numbers are what people use; the others keep the regressor from seeing only those.
    multiplier = rng.choice(_MULTIPLIERS) if rng.random() < 0.65 else rng.uniform(0.3, 1.4)
    size = rng.choice(_SIZES) if rng.random() < 0.8 else rng.randrange(32, 321, 16)
    stages = _sample_stages(rng, multiplier)
    # Small images are often not halved by the stem, some cameras are not square, and some see no colours.
    stem = max(8, hidden_width(32, multiplier)), 1 if size <= 64 and rng.random() < 0.3 else 2
    width = size if rng.random() < 0.8 else size * 4 // 3 // 8 * 8
    head_width = None if rng.random() < 0.1 else hidden_width(1280, max(1.0, multiplier))
    num_classes = rng.choice((0, 2, 10, 10, 20, 100, 1000, 1000, rng.randint(2, 1000)))
    image = (1 if rng.random() < 0.1 else 3, size, width)
    return chain_parts(image, stem, stages, head_width, num_classes)


def _sample_stages(rng: random.Random, multiplier: float) -> list[list[Block]]:
    # Half of the networks are searched over, with ratios of widths; the other half are what the space starts from.
    ratios = _RATIOS if rng.random() < 0.6 else (1.0,)
    kernels = rng.choice((_KERNELS, (3,)))
    stages = []
    for index, (width, count, stride) in enumerate(rng.choice(_FAMILIES)):
        drawn = [_sample_kind(rng, kernels) if index else ("ds", 1, kernels[0]) for _ in range(count)]
        out_channels = hidden_width(hidden_width(width, multiplier), rng.choice(ratios))
        stages.append([Block(*kind, 1 if number else stride, out_channels) for number, kind in enumerate(drawn)])
    return stages


def _sample_kind(rng: random.Random, kernels: Sequence[int]) -> tuple[SubgraphKind, int, int]:
    return rng.choice(_KINDS), rng.choice(_EXPANSIONS), rng.choice(kernels)

"""Draw blocks one by one, of any size: what stock networks hold and what networks of two families seldom do."""

from __future__ import annotations

import random

from lightning_nas.graph.sizes import hidden_width, out_size
from lightning_nas.graph.subgraph import Subgraph, SubgraphKind

__all__ = ["sample_varied_subgraphs"]

# Half of the images are of a size that is a multiple of 16 and that few networks are trained for.
_IMAGES = (96, 128, 160, 192, 224, 256)
_KINDS: tuple[SubgraphKind, ...] = ("ibn", "fused", "ds", "conv", "head", "classifier", "stem", "linear")
_SHARES = (32, 16, 10, 26, 2, 5, 4, 5)
# Narrowest and widest tensors between blocks after so many halvings of the image.
_WIDTHS = ((8, 64), (8, 64), (8, 128), (16, 256), (24, 512), (48, 1024))
# Plain convolutions of residual networks are so much wider than blocks.
_CONV_WIDTH = 2
# Beyond, a single block takes longer to compile than a network of those that accelerators of this size are for.
_MOST_MACS, _MOST_BYTES = 400e6, 3e6


def sample_varied_subgraphs(seed: int, num_subgraphs: int) -> list[Subgraph]:
    """Draw different subgraphs: blocks, plain convolutions with and without residual, gates, stems, classifiers.

    Where networks of the usual sizes are drawn, maps of 13 or 26 pixels, gates of one pixel and convolutions of 3x3
    with a residual are rare or absent, and the regressor is off there; so it is on the wide convolutions of residual
    networks.

    Example::

        >>> sample_varied_subgraphs(0, 5) == sample_varied_subgraphs(0, 9)[:5]
        True
    """
    rng = random.Random(seed)
    found: dict[Subgraph, None] = {}
    while len(found) < num_subgraphs:
        part = _draw(rng)
        if part.macs < _MOST_MACS and part.parameter_bytes < _MOST_BYTES:
            found[part] = None
    return list(found)


def _draw(rng: random.Random) -> Subgraph:
    kind = rng.choices(_KINDS, _SHARES)[0]
    image = rng.choice(_IMAGES) if rng.random() < 0.5 else rng.randrange(48, 321, 16)
    level = 5 if kind in ("head", "classifier") else rng.randint(1, 5)
    size = image if kind == "stem" else _halved(image, level)
    if kind == "linear":
        # Gates of squeeze and excitation run as convolutions on one pixel, second classifiers as linear layers.
        return _gate(rng) if rng.random() < 0.7 else _linear(rng)
    wider = _CONV_WIDTH if kind == "conv" else 1
    width = 3 if kind == "stem" else _width(rng, level, wider)
    stride = 2 if kind == "stem" or (kind not in ("head", "classifier") and rng.random() < 0.3) else 1
    same = stride == 1 and kind in ("ibn", "fused", "conv") and rng.random() < 0.5
    out = width if same else _width(rng, 0 if kind == "stem" else min(level + stride - 1, 5), wider)
    hidden = hidden_width(width, rng.choice((1, 1.5, 2, 2.5, 3, 4, 4.5, 6)))
    kernel = rng.choice((3, 3, 5)) if kind != "stem" else rng.choice((3, 3, 7))
    if kind == "classifier":
        return Subgraph(kind, size, size, width, width, rng.choice((10, 100, 1000)))
    if kind == "head":
        return Subgraph(kind, size, size, width, hidden, rng.choice((10, 100, 1000)))
    if kind == "conv":
        # A 1x1 of stride 2 is what residual networks shorten their shortcuts by.
        return Subgraph(kind, size, size, width, out, out, rng.choice((1, 1, 3, 3, 5)), stride, residual=same)
    if kind == "stem":
        return Subgraph(kind, size, size, width, out, out, kernel, stride)
    return Subgraph(kind, size, size, width, width if kind == "ds" else hidden, out, kernel, stride, residual=same)


def _halved(image: int, level: int) -> int:
    for _ in range(level):
        image = out_size(image, 2)
    return image


def _width(rng: random.Random, level: int, wider: int = 1) -> int:
    low, high = _WIDTHS[level]
    return hidden_width(1, low * (wider * high / low) ** rng.random())


def _gate(rng: random.Random) -> Subgraph:
    wide = _width(rng, rng.randint(2, 5))
    narrow = hidden_width(wide, rng.choice((1 / 4, 1 / 8, 1 / 16)))
    widths = (wide, narrow) if rng.random() < 0.5 else (narrow, wide)
    return Subgraph("conv", 1, 1, widths[0], widths[1], widths[1])


def _linear(rng: random.Random) -> Subgraph:
    out = rng.choice((10, 100, 1000, 1024, 1280))
    return Subgraph("linear", 1, 1, _width(rng, 5), out, out)

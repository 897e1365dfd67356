"""Features of a subgraph for regression: how well its sizes fill the hardware, how much it computes and moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from lightning_nas.graph.subgraph import Subgraph, SubgraphKind

__all__ = ["amounts", "features", "shape_features", "work"]

_KINDS: tuple[str, ...] = get_args(SubgraphKind)
_LANES = (8, 16, 32, 64)
_TILES = ((2, 2), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16), (16, 32))


def work(subgraphs: Sequence[Subgraph]) -> np.ndarray:
    """Return the work of each subgraph: multiply-accumulates, or values where there are none."""
    _, height, width, channels, *_ = _columns(subgraphs).T
    return np.maximum(_macs(subgraphs).sum(axis=1), height * width * channels)


def features(subgraphs: Sequence[Subgraph]) -> np.ndarray:
    """Return one row of features a subgraph.

    Latency against channels is a staircase, so channels are given as they are, rounded up to 8, 16, 32 and 64, and as
    remainders; pixels likewise as tiles. Amounts are logarithms, because what is learnt is one.

    Example::

        >>> features([Subgraph("conv", 28, 28, 64, 64, 64, kernel=3)]).shape
        (1, 92)
    """
    columns = _columns(subgraphs)
    kind, height, width, inner, hidden, outer, kernel, stride, _ = columns.T
    out_height, out_width = np.ceil(height / stride), np.ceil(width / stride)
    pixels, out_pixels = height * width, out_height * out_width
    macs = _macs(subgraphs)
    total, weights = np.maximum(macs.sum(axis=1), pixels * inner), _weights(subgraphs)
    groups = [
        columns,
        kind[:, None] == np.arange(len(_KINDS)),
        _stack(out_height, out_width, pixels, out_pixels),
        _log(macs),
        _log(_stack(total, weights, pixels * inner, pixels * hidden, out_pixels * hidden, out_pixels * outer)),
        _log(_stack(total / weights, total / (pixels * inner + out_pixels * outer))),
    ]
    for lanes in _LANES:
        padded = [np.ceil(channels / lanes) for channels in (inner, hidden, outer)]
        groups.append(_stack(*(lanes * p / c for p, c in zip(padded, (inner, hidden, outer), strict=True))))
        groups.append(_log(_stack(pixels * padded[0] * padded[1], out_pixels * padded[1] * padded[2])))
        groups.append(_log(_stack(out_pixels * padded[1] * kernel**2, *padded)))
    groups.extend(_stack(inner % lanes, hidden % lanes, outer % lanes) for lanes in (16, 32))
    groups.extend(_log(_stack(_tiles(out_height, out_width, *tile))) for tile in _TILES)
    groups.extend(_stack(_tiles(out_height, out_width, *tile) * tile[0] * tile[1] / out_pixels) for tile in _TILES)
    return np.concatenate(groups, axis=1).astype(np.float64)


def amounts(subgraphs: Sequence[Subgraph]) -> np.ndarray:
    """Return the additive amounts of each subgraph: operators, multiply-accumulates, values moved, weights.

    Example::

        >>> amounts([Subgraph("ds", 8, 8, 16, 16, 24, kernel=3)]).tolist()
        [[1.0, 2.0, 0.0, 9216.0, 24576.0, 4608.0, 529.0, 3.0]]
    """
    columns = _columns(subgraphs)
    _, height, width, inner, hidden, outer, kernel, stride, residual = columns.T
    macs, out_pixels = _macs(subgraphs), np.ceil(height / stride) * np.ceil(width / stride)
    dense = macs[:, 0] + macs[:, 1] + macs[:, 3] + macs[:, 4]
    moved = height * width * (inner + hidden) + out_pixels * (hidden + outer)
    return _stack(
        np.ones(len(columns)), (macs > 0).sum(axis=1), residual, macs[:, 2], dense, moved, _weights(subgraphs), kernel
    )


def shape_features(subgraphs: Sequence[Subgraph]) -> np.ndarray:
    """Return the bare shape of each subgraph, its sizes as logarithms, for distances between subgraphs.

    Example::

        >>> shape_features([Subgraph("conv", 28, 28, 64, 64, 64, kernel=3)]).shape
        (1, 18)
    """
    columns = _columns(subgraphs)
    kinds = columns[:, :1] == np.arange(len(_KINDS))
    return np.concatenate([np.log(columns[:, 1:8]), columns[:, 8:], kinds], axis=1)


def _columns(subgraphs: Sequence[Subgraph]) -> np.ndarray:
    rows = [
        (
            _KINDS.index(part.kind),
            part.height,
            part.width,
            part.in_channels,
            part.hidden_channels,
            part.out_channels,
            part.kernel,
            part.stride,
            part.residual,
        )
        for part in subgraphs
    ]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 9)


def _macs(subgraphs: Sequence[Subgraph]) -> np.ndarray:
    """Multiply-accumulates by operator: dense convolutions into and out of the hidden channels, depthwise, linear."""
    kind, height, width, inner, hidden, outer, kernel, stride, _ = _columns(subgraphs).T
    pixels, out_pixels = height * width, np.ceil(height / stride) * np.ceil(width / stride)
    return _stack(
        _where(kind, "ibn", pixels * inner * hidden),
        _where(kind, "stem conv fused head", out_pixels * inner * hidden * kernel**2),
        _where(kind, "ibn ds depthwise", out_pixels * hidden * kernel**2),
        _where(kind, "ibn ds fused", out_pixels * hidden * outer),
        _where(kind, "head classifier linear", np.where(kind == _KINDS.index("linear"), inner, hidden) * outer),
    )


def _weights(subgraphs: Sequence[Subgraph]) -> np.ndarray:
    kind, _, _, inner, hidden, outer, kernel, _, _ = _columns(subgraphs).T
    dense = _where(kind, "ibn", inner * hidden) + _where(kind, "stem conv fused head", inner * hidden * kernel**2)
    last = _where(kind, "ibn ds fused head classifier", hidden * outer) + _where(kind, "linear", inner * outer)
    # The 1 keeps ratios by weights finite for pools.
    return 1 + dense + last + _where(kind, "ibn ds depthwise", hidden * kernel**2)


def _where(kind: np.ndarray, kinds: str, values: np.ndarray) -> np.ndarray:
    return np.where(np.isin(kind, [_KINDS.index(name) for name in kinds.split()]), values, 0.0)


def _tiles(height: np.ndarray, width: np.ndarray, rows: int, columns: int) -> np.ndarray:
    counts: np.ndarray = np.ceil(height / rows) * np.ceil(width / columns)
    return counts


def _stack(*values: np.ndarray) -> np.ndarray:
    return np.stack(values, axis=1)


def _log(values: np.ndarray) -> np.ndarray:
    # Amounts may be 0.
    logarithms: np.ndarray = np.log(values + 1)
    return logarithms

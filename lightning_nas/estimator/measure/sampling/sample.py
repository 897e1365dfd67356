"""Draw the subgraphs of networks as search spaces hold them: regressors do not extrapolate beyond those."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from lightning_nas.estimator.fit.staircase import short_curve
from lightning_nas.estimator.measure.sampling.chain_networks import sample_chain
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.io.numbers import check_number, check_seed

__all__ = ["plan_subgraphs", "sample_subgraphs"]

_BLOCKS = ("ibn", "fused")
# Fewer subgraphs are needed to learn from, all of them.
_MIN_FOR_CURVE = 200


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
        yield from sample_chain(rng)

"""Depth multipliers that are tied two by two where too many of them meet, such as at long concatenations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lightning_nas.graph.elastic_network import ElasticNetwork
from lightning_nas.graph.elastic_parts import elastic_parts
from lightning_nas.io.numbers import check_number
from lightning_nas.space.multiplier import DepthMultiplier
from lightning_nas.space.nodes import nodes_behind
from lightning_nas.space.spec import SearchSpace

__all__ = ["tied"]

# What reads two tensors depends on few widths; only concatenations join many.
_FEW = 2


def tied(space: SearchSpace, most: int = 5) -> SearchSpace:
    """Return the space with multipliers tied until no part of its network depends on too many choices.

    A part's cost is a table over all choices that it depends on, and so grows by a power of their number.

    Args:
        space: What can be chosen.
        most: The number of choices that a part may depend on, where multipliers can be tied.

    Raises:
        ValueError: `most` is not a positive whole number.
    """
    check_number("most", most, whole=True, least=1)
    if not _has_long_concatenations(space.network):
        return space
    parts = elastic_parts(space.structures)
    while True:
        met = (nodes_behind(space, part.groups, part.dependence.choices) for part in parts)
        places = [tuple(n for n in nodes if n < len(space.multipliers)) for nodes in met if len(nodes) > most]
        longest = max(places, key=len, default=())
        if len(longest) < 2:
            return space
        space = replace(space, multipliers=_paired(space.multipliers, longest, most))


def _has_long_concatenations(network: ElasticNetwork) -> bool:
    return any(len(count.gains) > _FEW for counts in network.counts for count in counts)


def _paired(multipliers: Sequence[DepthMultiplier], places: Sequence[int], most: int) -> tuple[DepthMultiplier, ...]:
    """Tie neighbours among the multipliers at `places`, as many pairs as it takes and at least one."""
    num_pairs = min(len(places) // 2, max(1, len(places) - most))
    pairs = {places[2 * n]: places[2 * n + 1] for n in range(num_pairs)}
    gone = set(pairs.values())
    return tuple(
        _joined(multiplier, multipliers[pairs[n]]) if n in pairs else multiplier
        for n, multiplier in enumerate(multipliers)
        if n not in gone
    )


def _joined(first: DepthMultiplier, second: DepthMultiplier) -> DepthMultiplier:
    """Return a multiplier of the groups of two: each option of the one that has more, with the other's next to it."""
    wide, other = sorted((first, second), key=lambda one: len(one.widths), reverse=True)
    rows = []
    for row in wide.widths:
        near = min(other.widths, key=lambda found: abs(_ratio(found, other) - _ratio(row, wide)))
        # The groups stand in the order of execution.
        rows.append(row + near if wide is first else near + row)
    rows.append(first.widths[-1] + second.widths[-1])
    name = f"{first.name.partition(' and ')[0]} and {len(first.groups) + len(second.groups) - 1} more"
    return DepthMultiplier(name, first.groups + second.groups, tuple(sorted(set(rows))))


def _ratio(row: Sequence[int], multiplier: DepthMultiplier) -> float:
    return sum(row) / sum(multiplier.widths[-1])

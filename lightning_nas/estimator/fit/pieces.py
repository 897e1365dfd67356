"""Split subgraphs into the pieces that a table prices: the subgraph itself, or its operators."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from lightning_nas.graph.subgraph import Subgraph

__all__ = ["OPERATOR_KINDS", "pieces"]

OPERATOR_KINDS = frozenset({"stem", "conv", "depthwise", "pool", "linear"})
"""Kinds of subgraphs that are one operator. A table of these alone is one of operators, which add up to subgraphs."""


def pieces(part: Subgraph, kinds: Collection[str]) -> tuple[Subgraph, ...]:
    """Return `part` itself where its kind is measured, else its operators where theirs are.

    A first convolution is priced as any other where a table makes no difference between them.

    Args:
        part: A subgraph.
        kinds: The kinds of which there are measurements.

    Raises:
        ValueError: Neither is measured: there is nothing to estimate it from.

    Example::

        >>> for piece in pieces(Subgraph("ds", 56, 56, 32, 32, 16, kernel=3), {"conv", "depthwise"}):
        ...     print(piece)
        depthwise 56x56 32->32->32 k3 s1
        conv 56x56 32->16->16 k1 s1
    """
    if part.kind in kinds:
        return (part,)
    operators = tuple(
        replace(operator, kind="conv") if operator.kind == "stem" and "stem" not in kinds else operator
        for operator in part.operators
    )
    missing = sorted({operator.kind for operator in operators} - set(kinds))
    if missing:
        place = f" at {part.path!r}" if part.path else ""
        raise ValueError(
            f"There is no measurement to estimate {part}{place} from: the table has {', '.join(sorted(kinds))}; it"
            f" needs {part.kind}, or {' and '.join(missing)}. HINT: add some, or leave this kind out of the search."
        )
    return operators

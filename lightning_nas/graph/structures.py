"""`Structures`: a network whose blocks have alternatives, and what of it each alternative changes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from lightning_nas.graph.edits import Edit, edited
from lightning_nas.graph.elastic_network import ElasticNetwork

__all__ = ["Dependence", "Structures", "dependences"]

KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT", bound=Hashable)


@dataclass(frozen=True)
class Structures:
    """A network, and the edits that can be chosen.

    Attributes:
        network: The source network.
        edits: For each choice the edits of its alternatives. The first changes nothing: it is the network as it is.
    """

    network: ElasticNetwork
    edits: tuple[tuple[Edit, ...], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of alternatives of each choice."""
        return tuple(map(len, self.edits))

    def at(self, chosen: Mapping[int, int]) -> ElasticNetwork:
        """Return the network with alternatives of some choices; the others are as in the source.

        Args:
            chosen: By the number of a choice, the number of its alternative.
        """
        return edited(self.network, [self.edits[choice][number] for choice, number in chosen.items()])

    def touched(self, choice: int) -> frozenset[int]:
        """Return the numbers of the operations that any alternative of a choice replaces or leaves out."""
        edits = self.edits[choice]
        return frozenset(n for edit in edits for n in (*edit.chains, *edit.bypassed, *edit.removed))


@dataclass(frozen=True)
class Dependence(Generic[ValueT]):
    """A property of a network that depends on few choices.

    Attributes:
        choices: Numbers of the choices.
        values: For each combination of their alternatives the value, None for none.
    """

    choices: tuple[int, ...]
    values: Mapping[tuple[int, ...], ValueT | None]


def dependences(
    structures: Structures,
    observe: Callable[[ElasticNetwork], Mapping[KeyT, ValueT]],
    owners: Callable[[KeyT], Iterable[int]],
    most: int = 3,
) -> dict[KeyT, Dependence[ValueT]]:
    """Return on which choices each property of a network depends, and how.

    Each alternative is tried alone. What it changes depends on its choice, and so does what stands on operations that
    it touches; what depends on several choices is observed at all combinations of these.

    Args:
        structures: The network and its alternatives.
        observe: Returns the properties of a network by key.
        owners: Returns the numbers of operations that a property stands on.
        most: A property is taken to depend on at most so many choices.
    """
    seen: dict[tuple[tuple[int, int], ...], Mapping[KeyT, ValueT]] = {}

    def at(chosen: tuple[tuple[int, int], ...]) -> Mapping[KeyT, ValueT]:
        chosen = tuple(pair for pair in chosen if pair[1])
        if chosen not in seen:
            seen[chosen] = observe(structures.at(dict(chosen)))
        return seen[chosen]

    base = at(())
    changed: dict[KeyT, set[int]] = {key: set() for key in base}
    touching: dict[int, set[int]] = {}
    for choice, size in enumerate(structures.sizes):
        for number in structures.touched(choice):
            touching.setdefault(number, set()).add(choice)
        for alternative in range(1, size):
            found = at(((choice, alternative),))
            for key in {**base, **found}:
                if base.get(key) != found.get(key):
                    changed.setdefault(key, set()).add(choice)
    results: dict[KeyT, Dependence[ValueT]] = {}
    pending = dict(changed)
    while pending:
        key, choices = pending.popitem()
        choices |= {choice for number in owners(key) for choice in touching.get(number, ())} if choices else set()
        kept = tuple(sorted(choices)[:most])
        values = {}
        for combination in itertools.product(*(range(structures.sizes[choice]) for choice in kept)):
            found = at(tuple(zip(kept, combination, strict=True)))
            values[combination] = found.get(key)
            for other in found:
                if other not in changed:
                    changed[other] = pending[other] = set(kept)
        results[key] = Dependence(kept, values)
    return results

"""`Structures`: a network whose blocks have alternatives, and what of it each alternative changes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from lightning_nas.graph.edits import Edit, edited
from lightning_nas.graph.elastic_network import ElasticNetwork

__all__ = ["Dependence", "Structures", "dependences"]

# Alternatives of a choice whose combinations with those of two others are quickly observed.
_FEW = 3

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
    it touches; what depends on several choices is observed at all combinations of these. In the end networks are
    observed in which neighbouring choices have all combinations: what they show otherwise depends on more.

    Args:
        structures: The network and its alternatives.
        observe: Returns the properties of a network by key.
        owners: Returns the numbers of operations that a property stands on.
        most: A property is first taken to depend on at most so many choices.
    """
    return _Dependences(structures, observe).found(owners, most)


class _Dependences(Generic[KeyT, ValueT]):
    def __init__(self, structures: Structures, observe: Callable[[ElasticNetwork], Mapping[KeyT, ValueT]]) -> None:
        self._structures, self._observe = structures, observe
        self._seen: dict[tuple[int, ...], Mapping[KeyT, ValueT]] = {}
        self._results: dict[KeyT, Dependence[ValueT]] = {}

    def found(self, owners: Callable[[KeyT], Iterable[int]], most: int) -> dict[KeyT, Dependence[ValueT]]:
        """Return the dependence of each property."""
        for key, choices in self._changed_alone().items():
            touching = {c for number in owners(key) for c in self._touching.get(number, ())} if choices else set()
            self._settle(key, sorted(choices | touching)[:most])
        # What only combinations of alternatives have was seen there first.
        for chosen in list(self._seen):
            self._widen(chosen, [key for key in self._at(chosen) if key not in self._results])
        for chosen in _covering(self._structures.sizes):
            self._widen(chosen, list(dict.fromkeys([*self._results, *self._at(chosen)])))
        return {key: _pruned(dependence) for key, dependence in self._results.items()}

    @cached_property
    def _touching(self) -> Mapping[int, set[int]]:
        """By the number of an operation, the choices that touch it."""
        found: dict[int, set[int]] = {}
        for choice in range(len(self._structures.sizes)):
            for number in self._structures.touched(choice):
                found.setdefault(number, set()).add(choice)
        return found

    def _changed_alone(self) -> dict[KeyT, set[int]]:
        none = (0,) * len(self._structures.sizes)
        base = self._at(none)
        changed: dict[KeyT, set[int]] = {key: set() for key in base}
        for choice, size in enumerate(self._structures.sizes):
            for alternative in range(1, size):
                found = self._at((*none[:choice], alternative, *none[choice + 1 :]))
                for key in {**base, **found}:
                    if base.get(key) != found.get(key):
                        changed.setdefault(key, set()).add(choice)
        return changed

    def _settle(self, key: KeyT, choices: Sequence[int]) -> None:
        """Observe a property at all combinations of some choices."""
        values = {}
        for combination in itertools.product(*(range(self._structures.sizes[choice]) for choice in choices)):
            chosen = [0] * len(self._structures.sizes)
            for choice, alternative in zip(choices, combination, strict=True):
                chosen[choice] = alternative
            values[combination] = self._at(tuple(chosen)).get(key)
        self._results[key] = Dependence(tuple(choices), values)

    def _widen(self, chosen: tuple[int, ...], keys: Iterable[KeyT]) -> None:
        """Let properties depend on what else they take, as a combination shows."""
        for key in keys:
            while causes := self._causes(key, chosen):
                self._settle(key, sorted({*self._results[key].choices, *causes}))

    def _causes(self, key: KeyT, chosen: tuple[int, ...]) -> list[int]:
        """Return further choices that a property depends on, as a combination shows; none if it is as expected."""
        known = self._results.get(key)
        expected = None if known is None else known.values[tuple(chosen[choice] for choice in known.choices)]
        if self._at(chosen).get(key) == expected:
            return []
        if known is None:
            self._results[key] = Dependence((), {(): None})
        own = set() if known is None else set(known.choices)
        # Of the others that differ from the source, those that it takes.
        for choice in range(len(chosen)):
            plain = (*chosen[:choice], 0, *chosen[choice + 1 :])
            if chosen[choice] and choice not in own and self._at(plain).get(key) != expected:
                chosen = plain
        return [choice for choice, alternative in enumerate(chosen) if alternative and choice not in own]

    def _at(self, chosen: tuple[int, ...]) -> Mapping[KeyT, ValueT]:
        if chosen not in self._seen:
            self._seen[chosen] = self._observe(self._structures.at({c: n for c, n in enumerate(chosen) if n}))
        return self._seen[chosen]


def _covering(sizes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield combinations in which all those of three neighbouring choices are; of two where they have many options."""
    most = max(sizes, default=1)
    period = 3 if most <= _FEW else 2
    for row in itertools.product(range(most), repeat=period):
        yield tuple(row[number % period] % size for number, size in enumerate(sizes))


def _pruned(dependence: Dependence[ValueT]) -> Dependence[ValueT]:
    """Return a dependence without the choices whose alternatives are all alike."""
    choices, values = dependence.choices, dependence.values
    for place in reversed(range(len(choices))):
        if all(value == values[(*at[:place], 0, *at[place + 1 :])] for at, value in values.items()):
            values = {(*at[:place], *at[place + 1 :]): value for at, value in values.items() if not at[place]}
            choices = (*choices[:place], *choices[place + 1 :])
    return Dependence(choices, values)

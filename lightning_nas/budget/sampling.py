"""Seeded draws of architectures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_nas.budget.cost_table import CostTable
from lightning_nas.graph.elastic_parts import ElasticPart, elastic_parts
from lightning_nas.graph.sizes import hidden_width
from lightning_nas.space.spec import BlockOption, Choice, Encoding, SearchSpace

__all__ = ["draw", "draw_any", "draw_near", "ends_of", "kept_weights", "nearness", "narrowest"]


def draw(probabilities: Sequence[Tensor], generator: torch.Generator) -> Encoding:
    """Draw an architecture; the same from the same generator state on every device."""
    return tuple(int(torch.multinomial(p.detach().cpu(), 1, generator=generator)) for p in probabilities)


def draw_any(possible: Sequence[NDArray[np.bool_]], generator: torch.Generator) -> Encoding:
    """Draw an architecture uniformly from the possible options of each node."""
    return tuple(int(node) for node in _uniform(possible, generator, 1)[0])


def draw_near(
    table: CostTable,
    budget: float,
    band: tuple[float, float],
    generator: torch.Generator,
    possible: Sequence[NDArray[np.bool_]] | None = None,
    attempts: int = 32,
) -> Encoding:
    """Draw an architecture uniformly from those whose cost is within `band` times the budget.

    Paths far from the budget cannot win, and training them takes steps from those that can. Where no attempt falls into
    the band, the one nearest to the budget is taken.

    Args:
        table: The cost.
        budget: Its greatest allowed value.
        band: Least and greatest cost, relative to the budget.
        generator: Of the draws.
        possible: For each node which options are drawn; by default all.
        attempts: How many are drawn to find one.
    """
    encodings = _uniform(possible or [np.ones(size, dtype=bool) for size in table.node_sizes], generator, attempts)
    ratios = table.exact_many(encodings) / budget
    inside = np.flatnonzero((ratios >= band[0]) & (ratios <= band[1]))
    row = inside[0] if len(inside) else np.abs(np.log(ratios)).argmin()
    return tuple(int(node) for node in encodings[row])


def _uniform(possible: Sequence[NDArray[np.bool_]], generator: torch.Generator, count: int) -> NDArray[np.intp]:
    options = [np.flatnonzero(row) for row in possible]
    uniform = torch.rand(count, len(options), generator=generator)
    places = (uniform * torch.tensor([len(row) for row in options])).long().numpy()
    return np.stack([row[place] for row, place in zip(options, places.T, strict=True)], axis=1)


def kept_weights(space: SearchSpace) -> list[Tensor]:
    """Return for each option the log of the part of the source's weights that it keeps, summed over blocks and layers.

    A block's weights scale with its input, its hidden and its output width, so the logs add up over the nodes; kinds
    and kernels count alike. A block that is left out counts with the part that its weights are of the network's, which
    unlike nothing has a log. Among networks of equal latency the number of weights told the trained accuracy best of
    all scores that need no training (tau 0.33 in the band alone, 0.60 together with the inherited loss, in the study of
    this method).
    """
    units, base = _units(space), list(space.reference_encoding)
    sizes = space.network.sizes
    source = [_weights(unit, sizes) for unit in units]
    scores = []
    for node, multiplier in enumerate(space.multipliers):
        scores.append(torch.zeros(len(multiplier.widths), dtype=torch.float64))
        reading = [n for n, unit in enumerate(units) if any(node in space.nodes_of.get(g, ()) for g in _groups(unit))]
        for option in range(len(multiplier.widths)):
            widths = space.widths([*base[:node], option, *base[node + 1 :]])
            scores[node][option] = sum(math.log(_weights(units[n], widths) / source[n]) for n in reading)
    for choice in space.choices:
        inside = (part for unit in units for part in unit if f"{part.path}.".startswith(f"{choice.residual}."))
        skipped = max(1, _weights(list(inside), sizes)) / sum(source) if choice.residual else 1.0
        ratios = [skipped if o.kind == "skip" else o.expansion / choice.own.expansion for o in choice.options]
        scores.append(torch.tensor(ratios, dtype=torch.float64).log())
    return [score.float() for score in scores]


def _units(space: SearchSpace) -> list[list[ElasticPart]]:
    """Return the parts of the source network that have weights, those of a block together."""
    hidden = {choice.block.group for choice in space.choices if choice.block is not None and choice.size}
    units: dict[object, list[ElasticPart]] = {}
    for number, part in enumerate(elastic_parts(space.structures)):
        is_own = part.dependence.values[(0,) * len(part.dependence.choices)] is not None
        if is_own and part.at(space.network.sizes).parameter_bytes:
            block = next((group for group in part.groups if group in hidden), None)
            units.setdefault(("layer", number) if block is None else ("block", block), []).append(part)
    return list(units.values())


def _groups(unit: Sequence[ElasticPart]) -> set[int]:
    return {group for part in unit for group in part.groups}


def _weights(unit: Sequence[ElasticPart], widths: Sequence[int]) -> int:
    return sum(part.at(widths).parameter_bytes for part in unit)


def narrowest(space: SearchSpace, possible: Sequence[NDArray[np.bool_]] | None = None) -> Encoding:
    """Return the smallest network: least widths, and for each block the option with fewest weights, or none of it.

    Args:
        space: What can be chosen.
        possible: For each node which options may be chosen; by default all.
    """
    kept = possible or [np.ones(size, dtype=bool) for size in space.node_sizes]
    widths = [int(np.flatnonzero(row)[0]) for row in kept[: len(space.multipliers)]]
    rows = zip(space.choices, kept[len(space.multipliers) :], strict=True)
    return (*widths, *(min(_places(here), key=_counter(choice)) for choice, here in rows))


def ends_of(space: SearchSpace, widest: bool, possible: Sequence[NDArray[np.bool_]]) -> list[NDArray[np.bool_]]:
    """Return for each node the widest or the narrowest option, for blocks one of each kind.

    Args:
        space: What can be chosen.
        widest: Greatest widths, expansions and kernels, or least.
        possible: For each node which options may be chosen.
    """
    count, extreme = len(space.multipliers), max if widest else min
    chosen = [[_places(here)[-1 if widest else 0]] for here in possible[:count]]
    for choice, here in zip(space.choices, possible[count:], strict=True):
        alike: dict[str, list[int]] = {}
        for place in _places(here):
            alike.setdefault(choice.options[place].kind, []).append(place)
        chosen.append([extreme(places, key=_counter(choice)) for places in alike.values()])
    rows = [np.zeros(len(here), dtype=bool) for here in possible]
    for row, places in zip(rows, chosen, strict=True):
        row[places] = True
    return rows


def _places(here: NDArray[np.bool_]) -> list[int]:
    return [int(place) for place in np.flatnonzero(here)]


def _counter(choice: Choice) -> Callable[[int], float]:
    return lambda place: _weight_count(choice.options[place])


def _weight_count(option: BlockOption, width: int = 64) -> float:
    """Return the weights of an option at one width, which is enough to order the options of a block."""
    if option.kind in ("own", "skip"):
        return math.inf if option.kind == "own" else 0
    hidden = hidden_width(width, option.expansion)
    spatial = hidden * option.kernel**2 * (width if option.kind in ("fused", "basic") else 1)
    pointwise = hidden * width * (2 if option.kind == "ibn" else 1)
    return spatial + pointwise * (option.kernel**2 if option.kind == "basic" else 1)


def nearness(space: SearchSpace, errors: Sequence[Tensor]) -> list[Tensor]:
    """Return scores for logits: negative errors, in a unit by which the options of a block differ on average."""
    # Where there are no blocks, widths differ on average by that unit.
    blocks = errors[len(space.multipliers) :] or errors
    if not blocks:
        return []
    spread = torch.stack([error.max() - error.min() for error in blocks]).mean().clamp(min=1e-12)
    return [(error.min() - error).float() / float(spread) for error in errors]

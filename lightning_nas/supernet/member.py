"""Members of a space as the leaves of a network run them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from lightning_nas.graph.blocks import BlockForm
from lightning_nas.space.block_option import BlockOption
from lightning_nas.space.choice import Choice
from lightning_nas.space.spec import SearchSpace

__all__ = ["Member", "form_of", "forms_of", "member_at", "member_of"]

Member: TypeAlias = tuple[dict[int, int], list[BlockForm], list[str]]
"""How the leaves of a network run: widths by number of the group, forms of blocks, residual modules left out."""


def member_at(space: SearchSpace, encoding: Sequence[int]) -> Member:
    """Return how the leaves of a network run an architecture, given by its encoding."""
    return member_of(space, space.widths(encoding), space.options(encoding))


def member_of(space: SearchSpace, widths: Sequence[int], options: Sequence[BlockOption]) -> Member:
    """Return how the leaves of a network run at some widths with some options.

    Args:
        space: The space.
        widths: The width of each group, by its number.
        options: The option of each block.
    """
    pairs = list(zip(space.choices, options, strict=True))
    kept = {number: widths[number] for number in space.network.open if widths[number] < space.network.sizes[number]}
    # A block that is left out runs as nothing, whatever its form.
    forms = [form_of(choice.own if o.kind == "skip" else o) for choice, o in pairs if choice.block is not None]
    return kept, forms, [choice.residual for choice, option in pairs if option.kind == "skip"]


def form_of(option: BlockOption) -> BlockForm:
    """Return the form of a block that runs as an option."""
    kind = option.kind
    assert kind != "skip"
    return BlockForm(kind, option.kernel)


def forms_of(choice: Choice) -> list[BlockForm]:
    """Return the forms that a block can have."""
    return list(dict.fromkeys(form_of(option) for option in choice.options if option.kind != "skip"))

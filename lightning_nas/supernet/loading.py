"""Check of loaded weights: those of another search space are refused in one sentence."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

__all__ = ["OTHER_SPACE", "check_shapes"]

OTHER_SPACE = (
    "The checkpoint is of another search space than the model's{where}. HINT: convert the same network with the same"
    " options before resuming."
)
# A leaf cannot tell them from those of a smaller space, whose names and shapes may be the same.
_OF_NO_SUPERNET = "Weights of a network that is not converted are loaded before it is."


def check_shapes(module: nn.Module, state_dict: Mapping[str, Tensor], prefix: str) -> None:
    """Refuse weights of another search space than that of a supernet.

    Args:
        module: The supernet, or a part of it.
        state_dict: The weights.
        prefix: What their names begin with.

    Raises:
        ValueError: They have other shapes, lack some, or have some that the supernet does not have.
    """
    mine = dict(module.named_parameters())
    # Buffers are of the same modules, and tell nothing more.
    buffers = {name for name, _ in module.named_buffers()}
    theirs = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
    # Without any of its own they are of no supernet, and PyTorch tells best what is missing.
    if mine.keys() & theirs.keys():
        for name in [*mine, *(other for other in theirs if other not in buffers)]:
            here, there = _shape(mine.get(name)), _shape(theirs.get(name))
            if here != there:
                where = f": `{prefix}{name}` is {there} there and {here} here"
                raise ValueError(f"{OTHER_SPACE.format(where=where)} {_OF_NO_SUPERNET}")


def _shape(value: Tensor | None) -> str:
    return "not" if value is None else str(tuple(value.shape))

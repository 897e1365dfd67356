"""Check of loaded weights: those of another search space are refused in one sentence."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from typing_extensions import override

__all__ = ["OTHER_SPACE", "OfOneSpace"]

OTHER_SPACE = (
    "The checkpoint is of another search space than the model's{where}. HINT: convert the same network with the same"
    " options before resuming."
)


class OfOneSpace(nn.Module):
    """Base class of modules whose parameters have the shapes of one search space."""

    @override
    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: object) -> None:
        mine = dict(self.named_parameters())
        # Buffers are of the same modules, and tell nothing more.
        modules = {name.rpartition(".")[0] for name in mine}
        theirs = {key.removeprefix(prefix): value for key, value in state_dict.items() if key.startswith(prefix)}
        # Without any of its own they are of no supernet, and PyTorch tells best what is missing.
        if mine.keys() & theirs.keys():
            for name in [*mine, *(other for other in theirs if other.rpartition(".")[0] not in modules)]:
                here, there = _shape(mine.get(name)), _shape(theirs.get(name))
                if here != there:
                    raise ValueError(OTHER_SPACE.format(where=f": `{prefix}{name}` is {there} there and {here} here"))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _shape(value: Tensor | None) -> str:
    return "not" if value is None else str(tuple(value.shape))

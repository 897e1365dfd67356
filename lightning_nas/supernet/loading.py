"""Weights of another search space: refused in a sentence, where PyTorch would list every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

__all__ = ["OTHER_SPACE", "OfOneSpace"]

OTHER_SPACE = (
    "The checkpoint is of another search space than the model's{where}. HINT: convert the same network with the same"
    " options before resuming."
)


class OfOneSpace(nn.Module):
    """A choice: its parameters have the shapes that the space's options need."""

    @override
    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:
        # Without logits they are of no supernet, and PyTorch tells best what is missing.
        for name, parameter in self.named_parameters() if f"{prefix}logits" in state_dict else ():
            given = state_dict.get(prefix + name)
            if given is not None and given.shape != parameter.shape:
                shapes = f"{tuple(given.shape)} there and {tuple(parameter.shape)} here"
                raise ValueError(OTHER_SPACE.format(where=f": `{prefix}{name}` is {shapes}"))
        super()._load_from_state_dict(state_dict, prefix, *rest)

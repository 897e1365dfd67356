"""`OperationLog`: the operations that run on what depends on the image, in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor

from lightning_nas.graph.channels_last import Spatial, image_like, spatial_after, with_images
from lightning_nas.graph.layer import Layer
from lightning_nas.graph.network import IMAGE, Operation
from lightning_nas.graph.operators import ALIASES, layer_of, other_layer
from lightning_nas.graph.tensors import tensors_in

__all__ = ["Fallback", "OperationLog", "UnknownOperatorError"]

Fallback = Literal["bytes"]
"""What to do about operators without a model: price them by the bytes that they move."""


class UnknownOperatorError(ValueError):
    """A network runs an operator that has no model."""


class OperationLog:
    """Operations, and which of them each tensor comes from.

    What happens to weights alone is not the network's work, and is not recorded.

    Args:
        image: The network's input.
        fallback: ``bytes`` keeps operators without a model as ``other``; by default they are refused.
    """

    def __init__(self, image: Tensor, fallback: Fallback | None = None) -> None:
        self.operations: list[Operation] = []
        self._fallback = fallback
        # Tensors are held, or a later one could get the identity of one that is gone.
        self._sources: dict[int, tuple[Tensor, int, Spatial]] = {id(image): (image, IMAGE, None)}

    def tracked(self, values: object) -> list[Tensor]:
        """Return the tensors within arguments that depend on the image."""
        return [tensor for tensor in tensors_in(values) if id(tensor) in self._sources]

    def number(self, tensor: Tensor) -> int:
        """Return the number of the operation that a tensor comes from."""
        return self._sources[id(tensor)][1] if id(tensor) in self._sources else IMAGE

    def spatial(self, tensor: Tensor) -> Spatial:
        """Return rows and columns of a tensor whose channels are last; None where they lie as usual."""
        return self._sources[id(tensor)][2] if id(tensor) in self._sources else None

    def outputs(self, result: object) -> tuple[int, ...]:
        """Return the numbers of the operations that the tensors of a network's result come from."""
        return tuple(dict.fromkeys(self.number(tensor) for tensor in tensors_in(result)))

    def record(
        self,
        name: str,
        path: str,
        args: tuple[object, ...],
        tracked: Sequence[Tensor],
        inputs: Sequence[int],
        result: object,
    ) -> bool:
        """Note what an operator gives, and the operator itself unless it only shows its input differently.

        Args:
            name: Name of the operator.
            path: The module that runs it.
            args: Its arguments.
            tracked: Those of its arguments that depend on the image.
            inputs: Numbers of the operations that these came from before it ran, since it may have worked in place.
            result: Its result.

        Returns:
            Whether the operator is an operation of its own.

        Raises:
            UnknownOperatorError: The operator has no model.
        """
        outputs = tensors_in(result)
        if not outputs:  # a value that is read is no work of the network
            return False
        number, before = inputs[0], [self.spatial(tensor) for tensor in tracked]
        after = [spatial_after(name, args, tracked, before, output) for output in outputs]
        if name not in ALIASES:
            spatials = zip((*tracked, *outputs), (*before, *after), strict=True)
            images = {id(tensor): image_like(tensor, spatial) for tensor, spatial in spatials}
            layer = self._layer(name, path, *(with_images(values, images) for values in (args, tuple(tracked), result)))
            self.operations.append(Operation(layer, tuple(inputs), path))
            number = len(self.operations) - 1
        for output, spatial in zip(outputs, after, strict=True):
            self._sources[id(output)] = (output, number, spatial)
        return name not in ALIASES

    def _layer(self, name: str, path: str, args: Any, inputs: Any, result: object) -> Layer:
        layer = layer_of(name, args, inputs, result)
        if layer is None and self._fallback is None:
            raise UnknownOperatorError(
                f"Module {path!r} runs the operator {name!r}, or a form of it, that has no cost model."
                f" HINT: `fallback='bytes'` prices such operators by the bytes that they move."
            )
        return layer or other_layer(name, args, inputs, result)

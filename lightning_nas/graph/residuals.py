"""Residual modules: those that add a branch to their input, and can be left out of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lightning_nas.graph.layer import BOUNDS
from lightning_nas.graph.module_calls import ModuleCall, module_calls
from lightning_nas.graph.network import IMAGE, Operation

__all__ = ["Residual", "residuals"]


@dataclass(frozen=True)
class Residual:
    """A module whose output is its input plus a branch.

    Attributes:
        path: The module. An `nn.Identity` in its place leaves the branch out.
        operations: Numbers of the operations that are gone then, as `trace` counts them without folding.
    """

    path: str
    operations: range


def residuals(model: nn.Module, example_input: Tensor) -> tuple[Residual, ...]:
    """Return the modules of a network that could be left out, in order of execution; of nested ones the innermost.

    Such a module takes one tensor and returns one: the sum of its input and of a branch with a convolution, which may
    pass an activation that its input has passed already. Nothing else is read or given by what it runs.

    Args:
        model: The network.
        example_input: One batch that it can run, shape (N, C, H, W); one image of it runs.

    Example::

        >>> import torch
        >>> from torchvision.models import mobilenet_v2
        >>> [found.path for found in residuals(mobilenet_v2(), torch.zeros(1, 3, 64, 64))][:2]
        ['features.3', 'features.5']
    """
    ran = module_calls(model, example_input)
    found = [call for call in ran.calls if _is_residual(call, ran.operations, ran.outputs)]
    counts = {call.path: sum(other.path == call.path for other in ran.calls) for call in found}
    innermost = [
        call
        for call in found
        # A module that runs twice would be left out twice.
        if counts[call.path] == 1 and not any(other.path.startswith(f"{call.path}.") for other in found)
    ]
    return tuple(Residual(call.path, call.body) for call in sorted(innermost, key=lambda call: call.body.start))


def _is_residual(call: ModuleCall, operations: Sequence[Operation], outputs: Sequence[int]) -> bool:
    if len(call.inputs) != 1 or len(call.outputs) != 1 or call.inputs[0] == IMAGE:
        return False
    (source,), (result,), body = call.inputs, call.outputs, call.body
    last, variant = result, ""
    if last in body and operations[last].layer.operator == "activation":
        form = operations[last].layer.form
        variant = form.variant if form else ""
        last = operations[last].inputs[0]
    if last not in body or operations[last].layer.operator != "add" or operations[last].layer.form is not None:
        return False
    if source not in operations[last].inputs or not any(operations[number].layer.macs for number in body):
        return False
    if variant and not (variant in BOUNDS and _last_activation(operations, source) == variant):
        return False
    reads_more = any(n not in body and n != source for number in body for n in operations[number].inputs)
    readers = (number for number in range(len(operations)) if number not in body)
    is_read = any(n in body and n != result for number in readers for n in operations[number].inputs)
    return not (reads_more or is_read or any(n in body and n != result for n in outputs))


def _last_activation(operations: Sequence[Operation], number: int) -> str:
    """Return the activation that a tensor has passed; a maximum over several values has passed theirs."""
    while number != IMAGE and operations[number].layer.operator == "max_pool":
        number = operations[number].inputs[0]
    layer = operations[number].layer
    return layer.form.variant if number != IMAGE and layer.operator == "activation" and layer.form else ""

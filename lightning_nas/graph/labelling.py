"""Labelling: a network runs once, and every element of every tensor knows the channel that it belongs to.

Data movement (views, concatenations, splits, padding, shuffles) is run on the labels by the same operator, so offsets
and repetitions come out as they are. Elementwise operators merge labels. Convolutions and matrix products end the
labels of what they read and begin new ones. What is unknown freezes what it touches, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_nas.graph.channels import NO_CHANNEL, Channels
from lightning_nas.graph.operation_log import OperationLog
from lightning_nas.graph.tensors import tensors_in

__all__ = ["MOVES", "Call", "Labeller", "Labelling", "ParameterView", "Slot"]

MOVES = frozenset(
    (
        *(
            "_reshape_alias",
            "_to_copy",
            "_unsafe_view",
            "alias",
            "cat",
            "channel_shuffle",
            "chunk",
            "clone",
            "contiguous",
        ),
        *(
            "detach",
            "diagonal",
            "dropout",
            "expand",
            "flatten",
            "flip",
            "im2col",
            "index",
            "index_select",
            "lift_fresh",
        ),
        *("movedim", "narrow", "native_channel_shuffle", "native_dropout", "permute", "pixel_shuffle"),
        *("pixel_unshuffle", "repeat", "reshape", "roll", "select", "slice", "split", "split_with_sizes", "squeeze"),
        *("stack", "swapaxes", "t", "transpose", "unbind", "unfold", "unsafe_split", "unsqueeze", "view"),
    )
)
"""Operators that move elements, and compute nothing."""

_PERMUTING = ("_to_copy", "alias", "clone", "contiguous", "detach", "lift_fresh", "permute", "t", "transpose")
_SIZES = (2, 3, 5, 7, 11, 13)
# Larger weights are followed through permutations alone: an index of all elements would take too much memory.
_MAX_INDEXED = 2**22

Rule = Callable[["Labelling", "Call"], list[Tensor]]
"""What an operator makes of labels: those of its outputs, in order."""

Slot = tuple[str, int]
"""A dimension of a parameter or buffer: its name in the network, and the number of the dimension."""


@dataclass(frozen=True)
class ParameterView:
    """A tensor that shows a parameter or a buffer.

    Attributes:
        name: Name of the parameter in the network.
        shape: Shape of the parameter.
        dims: For each dimension of the view the parameter's own, where the view only permutes them.
        index: For each element of the view its place in the flat parameter, where the view does more than that.
    """

    name: str
    shape: torch.Size
    dims: tuple[int, ...] | None = None
    index: Tensor | None = None

    def places(self) -> Tensor:
        """Return for each element of the view its place in the flat parameter."""
        if self.index is not None or self.dims is None:
            assert self.index is not None
            return self.index
        return torch.arange(math.prod(self.shape)).view(self.shape).permute(self.dims)


@dataclass
class Labelling:
    """What a run on labels has found so far.

    Attributes:
        channels: The channels of the network.
        parameters: Views of parameters, by the identity of the tensor.
        slots: For each slot the label of each of its indices.
    """

    channels: Channels = field(default_factory=Channels)
    parameters: dict[int, tuple[Tensor, ParameterView]] = field(default_factory=dict)
    slots: dict[Slot, Tensor] = field(default_factory=dict)

    def add_slot(self, tensor: Tensor, dim: int, labels: Tensor) -> bool:
        """Give a dimension of a parameter the labels of its indices; return whether the tensor is a parameter."""
        view = self.view_of(tensor)
        if view is None or view.dims is None:
            return False
        slot = (view.name, view.dims[dim])
        if slot in self.slots:
            self.channels.merge(self.slots[slot], labels)
        else:
            self.slots[slot] = self.channels.find(labels)
        return True

    def view_of(self, tensor: Tensor) -> ParameterView | None:
        """Return the parameter that a tensor shows, or None."""
        known = self.parameters.get(id(tensor))
        return known[1] if known else None


@dataclass(frozen=True)
class Call:
    """An operator as it ran.

    Attributes:
        func: The operator.
        name: Its name, without the mark of one that works in place.
        args: Its arguments.
        kwargs: Its named arguments.
        labels: Labels of those arguments that depend on the image, by the identity of the tensor.
        tensors: All tensors among the arguments, in order.
        outputs: All tensors of the result, in order.
        path: The module that runs it.
    """

    func: OpOverload
    name: str
    args: tuple[object, ...]
    kwargs: Mapping[str, object]
    labels: Mapping[int, Tensor]
    tensors: Sequence[Tensor]
    outputs: Sequence[Tensor]
    path: str

    @property
    def tracked(self) -> list[Tensor]:
        """The arguments that depend on the image."""
        return [tensor for tensor in self.tensors if id(tensor) in self.labels]

    @property
    def constants(self) -> list[Tensor]:
        """The other arguments that are tensors: parameters, buffers, and what was made of them."""
        return [tensor for tensor in self.tensors if id(tensor) not in self.labels]


class Labeller(TorchDispatchMode):
    """Runs every operator on labels, too.

    Args:
        model: The network that runs.
        image: Its input, whose elements belong to no channel.
        paths: A stack whose last entry is the path of the module that runs.
        rule: What an operator makes of labels.

    Attributes:
        found: The labels of parameters, and which channels are one.
        log: The operations that ran.
        rows: For each operation the labels of the channels of its first input and of its first output.
    """

    def __init__(self, model: nn.Module, image: Tensor, paths: Sequence[str], rule: Rule) -> None:
        super().__init__()
        self.found = Labelling()
        self.log = OperationLog(image, "bytes")
        self.rows: list[tuple[Tensor, Tensor]] = []
        self._paths, self._rule, self._shared = paths, rule, _shared_names(model)
        # Tensors are held, or a later one could get the identity of one that is gone.
        self._labels = {id(image): (image, torch.full((), NO_CHANNEL).expand(image.shape))}
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            view = ParameterView(name, tensor.shape, tuple(range(tensor.ndim)))
            self.found.parameters.setdefault(id(tensor), (tensor, view))

    def labels_of(self, tensor: Tensor) -> Tensor | None:
        """Return the labels of a tensor that depends on the image, or None for another."""
        known = self._labels.get(id(tensor))
        return self.found.channels.find(known[1]) if known else None

    def freeze_outputs(self, result: object) -> None:
        """Freeze the channels of what the network returns."""
        for tensor in tensors_in(result):
            if (labels := self.labels_of(tensor)) is not None:
                self.found.channels.freeze(labels, "it is an output of the network")

    def freeze_shared(self) -> None:
        """Freeze the channels of parameters that several modules share: to narrow one is to narrow the others."""
        for (name, _), labels in self.found.slots.items():
            if name in self._shared:
                self.found.channels.freeze(labels, f"{' and '.join(self._shared[name])} are one parameter")

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        tensors = tensors_in((*args, *kwargs.values()))
        known = {id(tensor): labels for tensor in tensors if (labels := self.labels_of(tensor)) is not None}
        tracked = self.log.tracked(args)
        inputs = [self.log.number(tensor) for tensor in tracked]
        was_last = bool(tracked) and self._is_last(tracked[0])
        result = func(*args, **kwargs)
        outputs = tensors_in(result)
        if not known:
            self._follow_parameter(func, args, kwargs, tensors, outputs)
            return result
        name = func.overloadpacket.__name__
        path = self._paths[-1] if self._paths else ""
        call = Call(func, name.removesuffix("_"), args, kwargs, known, tensors, outputs, path)
        for output, labels in zip(outputs, self._rule(self.found, call), strict=True):
            self._labels[id(output)] = (output, labels)
        if tracked and self.log.record(name, path, args, tracked, inputs, result):
            is_linear = self.log.operations[-1].layer.operator == "linear"
            first, result_labels = known[id(tracked[0])], self._labels[id(outputs[0])][1]
            is_last = self._is_last(outputs[0]) or is_linear
            self.rows.append((_channel_row(first, was_last or is_linear), _channel_row(result_labels, is_last)))
        return result

    def _is_last(self, tensor: Tensor) -> bool:
        return self.log.spatial(tensor) is not None

    def _follow_parameter(
        self,
        func: OpOverload,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        tensors: Sequence[Tensor],
        outputs: Sequence[Tensor],
    ) -> None:
        """Note what shows a parameter after an operator that only moves its elements."""
        view = self.found.view_of(tensors[0]) if len(tensors) == len(outputs) == 1 else None
        name = func.overloadpacket.__name__
        if view is None or name not in MOVES:
            return
        if view.dims is not None and name in _PERMUTING:
            # Sizes that differ show where each dimension goes.
            probe = torch.empty(_SIZES[: tensors[0].ndim])
            moved = func(*_with(args, tensors[0], probe), **kwargs)
            shown = replace(view, dims=tuple(view.dims[_SIZES.index(size)] for size in moved.shape))
        elif tensors[0].numel() <= _MAX_INDEXED:
            moved = func(*_with(args, tensors[0], view.places()), **kwargs)
            shown = replace(view, dims=None, index=moved)
        else:
            return
        self.found.parameters[id(outputs[0])] = (outputs[0], shown)


def _shared_names(model: nn.Module) -> dict[str, list[str]]:
    """Return the names of each parameter that several modules hold, by the first of them."""
    places: dict[int, dict[tuple[int, str], str]] = {}
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            places.setdefault(id(parameter), {})[id(module), name] = f"{path}.{name}".lstrip(".")
    return {names[0]: names for held in places.values() if len(names := [*held.values()]) > 1}


def _channel_row(labels: Tensor, is_last: bool) -> Tensor:
    """Return the labels of the channels of a tensor, as an accelerator sees them: see `operators`."""
    if is_last:
        return labels.flatten(0, -2).amax(dim=0)
    if not labels.numel():  # such as the crops of a detector that has found nothing
        return torch.full((labels.shape[1] if labels.ndim > 1 else 0,), NO_CHANNEL)
    if labels.ndim == 4:
        return labels.movedim(1, 0).flatten(1).amax(dim=1)
    return labels.amax(dim=1).reshape(-1) if labels.ndim == 3 else labels.reshape(-1)


def _with(args: Sequence[object], tensor: Tensor, other: Tensor) -> list[object]:
    return [other if arg is tensor else arg for arg in args]

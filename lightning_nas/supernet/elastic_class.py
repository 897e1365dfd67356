"""Elastic classes: each is derived from a module's own class, and reads parameters and runs as what is chosen."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["IDENTITY", "Chosen", "Extent", "Region", "chosen_of", "elastic_modules", "make_elastic", "make_plain"]

Region = tuple[slice, ...]
"""A part of a tensor, a slice for each of its dimensions."""

IDENTITY = "identity"
"""What a module runs as that gives back its input."""

_CHOSEN = "_chosen"
_STATISTICS = ("num_batches_tracked", "running_mean", "running_var")

# On the CPU, oneDNN compiles a kernel for each shape of convolution and keeps the last 1024 by default. The paths of a
# supernet have more shapes than that: kernels would be compiled again and again, at a quarter of the step's time.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")


@dataclass(eq=False)
class Extent:
    """How much of a dimension is read; all parameters that share its channels share it, and so follow it.

    Attributes:
        size: The whole dimension.
        count: How many of its indices are read.
        index: Which these are; None for those from `start` on.
        is_centred: Whether they lie around the middle, as the taps of a smaller kernel do.
    """

    size: int
    count: int
    index: Tensor | None = None
    is_centred: bool = False

    @property
    def region(self) -> slice:
        """The indices that are read, where no index says them."""
        start = (self.size - self.count) // 2 if self.is_centred else 0
        return slice(start, start + self.count)

    def index_on(self, device: torch.device) -> Tensor:
        """Return the index on a device; it is kept there."""
        assert self.index is not None
        if self.index.device != device:
            self.index = self.index.to(device)
        return self.index


@dataclass(eq=False)
class Chosen:
    """What an elastic module runs as.

    Attributes:
        extents: For each elastic parameter or buffer the dimensions of which a part can be read.
        kernel: How much of a convolution's kernel is read; None where no other size can be chosen.
        attributes: What the module says of its sizes when it is whole.
        runs: The name of the submodule that runs in its place, or `IDENTITY`; empty for the module itself.
        batch_statistics: Whether a norm normalises each batch by its own statistics.
        held: While a norm runs, its statistics of channels that are picked by an index, which are copies; None before
            and after.
        reached: For each parameter that was read with gradients the smallest region that holds all that was read; None
            where it was picked by an index. `SlicedStep` sets it back.
    """

    extents: dict[str, tuple[tuple[int, Extent], ...]] = field(default_factory=dict)
    kernel: Extent | None = None
    attributes: dict[str, object] = field(default_factory=dict)
    runs: str = ""
    batch_statistics: bool = False
    held: dict[str, Tensor] | None = None
    reached: dict[str, Region | None] = field(default_factory=dict)

    def reach(self, name: str, region: Region | None) -> None:
        """Note that a part of a parameter was read."""
        if name not in self.reached or region is None:
            self.reached[name] = region
        elif (known := self.reached[name]) is not None and known != region:
            pairs = zip(known, region, strict=True)
            self.reached[name] = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in pairs)


def make_elastic(module: nn.Module, names: Sequence[str] = ()) -> Chosen:
    """Give a module an elastic class, in place; it runs as it did until something is chosen.

    Args:
        module: Any module that is not elastic yet.
        names: Its parameters and buffers that are read as their chosen part.
    """
    statistics = _STATISTICS if isinstance(module, _BatchNorm) else ()
    module.__class__ = _elastic_class(type(module), tuple(sorted({*names, *statistics})))
    chosen = Chosen()
    vars(module)[_CHOSEN] = chosen
    return chosen


def make_plain(module: nn.Module) -> None:
    """Give an elastic module its own class and what it said of its sizes back, in place."""
    vars(module).update(vars(module).pop(_CHOSEN).attributes)
    module.__class__ = type(module).__bases__[0]


def elastic_modules(network: nn.Module) -> list[nn.Module]:
    """Return the modules of a network that are elastic."""
    return [module for module in network.modules() if _CHOSEN in vars(module)]


def chosen_of(module: nn.Module) -> Chosen:
    """Return what an elastic module runs as."""
    return cast(Chosen, vars(module)[_CHOSEN])


_classes: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}


def _elastic_class(plain: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """Return the class derived from one of modules in which some parameters are read as their chosen part."""
    if (plain, names) not in _classes:
        _classes[plain, names] = _made_class(plain, names)
    return _classes[plain, names]


def _made_class(plain: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    is_norm = issubclass(plain, _BatchNorm)

    # Each path would be another graph to compile, for tens of seconds; what stands around the leaves is compiled.
    @torch.compiler.disable
    @functools.wraps(plain.forward, updated=())
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        runs = chosen_of(self).runs
        if not runs:
            if is_norm:
                return _normalised(self, plain, *args, **kwargs)
            return plain.forward(self, *args, **kwargs)
        return args[0] if runs == IDENTITY else self.get_submodule(runs)(*args, **kwargs)

    def reduce(self: nn.Module, protocol: int) -> tuple[object, ...]:
        # A class that was made on the fly has no name by which it could be found again.
        make, arguments, *state = cast(tuple[object, ...], plain.__reduce_ex__(self, protocol))
        if getattr(make, "__name__", "") != "__newobj__":
            return make, arguments, *state
        return _blank, (plain, names), *state

    members: dict[str, object] = {"forward": forward, "__reduce_ex__": reduce}
    for name in names:
        is_statistic = name in _STATISTICS and is_norm
        members[name] = property(_read_statistic(name) if is_statistic else _read(name))
    return type(f"Elastic{plain.__name__}", (plain,), members)


def _blank(plain: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    made = _elastic_class(plain, names)
    return cast(nn.Module, made.__new__(made))


def _normalised(module: nn.Module, plain: type[nn.Module], *args: Any, **kwargs: Any) -> Any:
    """Run a norm on its chosen part, and keep what it tracks of channels that are picked by an index."""
    chosen = chosen_of(module)
    chosen.held = {}
    try:
        output = plain.forward(module, *args, **kwargs)
        for name, part in chosen.held.items() if module.training else ():
            whole, ((_, extent),) = cast(Tensor, module._buffers[name]), chosen.extents[name]
            whole.index_copy_(0, extent.index_on(whole.device), part)
        return output
    finally:
        chosen.held = None


def _read_statistic(name: str) -> Callable[[nn.Module], Tensor | None]:
    def of_batches(module: nn.Module) -> Tensor | None:
        chosen, whole = chosen_of(module), module._buffers.get(name)
        # Others, such as who resets statistics, see all of them.
        if chosen.held is None or whole is None:
            return whole
        # Without running statistics a norm takes those of the batch, in evaluation too, and tracks nothing.
        if chosen.batch_statistics:
            return None
        for _, extent in chosen.extents.get(name, ()):
            if extent.count < extent.size and extent.index is not None:
                if name not in chosen.held:
                    chosen.held[name] = whole.index_select(0, extent.index_on(whole.device))
                return chosen.held[name]
            # A view, so that the norm tracks the statistics of the channels that run.
            return whole[extent.region]
        return whole

    return of_batches


def _read(name: str) -> Callable[[nn.Module], Tensor | None]:
    # It runs several times for each leaf and step, and so is written to be quick.
    def read(module: nn.Module) -> Tensor | None:
        whole = module._parameters.get(name)
        is_learned = whole is not None and torch.is_grad_enabled()
        part = whole if whole is not None else module._buffers.get(name)
        chosen = chosen_of(module)
        cuts = [cut for cut in chosen.extents.get(name, ()) if cut[1].count < cut[1].size]
        if part is None or not (cuts or is_learned):
            return part
        region = _region(part.shape, cuts)
        if is_learned:
            chosen.reach(name, region)
        if cuts and region is not None:
            return part[region] if part.ndim == 1 else cast(Tensor, _Leading.apply(part, region))
        return _picked(part, cuts)

    return read


def _region(shape: torch.Size, cuts: Sequence[tuple[int, Extent]]) -> Region | None:
    """Return the part of a tensor that is read, or None where indices pick it."""
    region = [slice(0, size) for size in shape]
    for dim, extent in cuts:
        if extent.index is not None:
            return None
        region[dim] = extent.region
    return tuple(region)


def _picked(whole: Tensor, cuts: Sequence[tuple[int, Extent]]) -> Tensor:
    """Return the part of a tensor of which indices pick some dimensions."""
    leading = [(dim, extent) for dim, extent in cuts if extent.index is None]
    region = _region(whole.shape, leading)
    part = cast(Tensor, _Leading.apply(whole, region)) if leading else whole
    for dim, extent in cuts:
        if extent.index is not None:
            part = part.index_select(dim, extent.index_on(part.device))
    return part


class _Leading(torch.autograd.Function):
    """A region of a weight, as one operation.

    It is a copy: products of matrices are rounded by their layout, and so the network computes what the plain one does,
    bit by bit. A slice a dimension would fill a tensor for each in the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, whole: Tensor, region: Region) -> Tensor:
        ctx.region, ctx.shape, ctx.strides = region, whole.shape, whole.stride()
        is_last = whole.ndim == 4 and not whole.is_contiguous()
        return whole[region].contiguous(memory_format=torch.channels_last if is_last else torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        # In the layout of the weight: PyTorch would copy a gradient of another one.
        whole = gradients[0].new_empty_strided(ctx.shape, ctx.strides).zero_()
        whole[ctx.region] = gradients[0]
        return whole, None

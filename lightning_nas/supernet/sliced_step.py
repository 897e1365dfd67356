"""An optimizer's step on the slices that were trained: nothing outside decays or moves."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_nas.supernet.elastic_class import Region, chosen_of, elastic_modules

__all__ = ["SlicedStep"]


class SlicedStep:
    """Lets an optimizer see, for one step, only the slices of a supernet's weights that got a gradient.

    A path trains slices, and what lies outside has a gradient of zero: weight decay would shrink it and old momentum
    would move it, all the more the rarer it is sampled, while Adam would forget how large its gradients are. So
    weights, gradients and the optimizer's own state are replaced by views of the slices before a step and put back
    after it. The step also costs what it would for the sampled subnet alone.

    Where several paths train in one step, as with accumulated gradients, it is the smallest block that holds the slices
    of all of them. This suits every optimizer that works entry by entry, as PyTorch's do; others are left as they are,
    see `suits`.

    Args:
        module: Holds the supernet.
    """

    def __init__(self, module: nn.Module) -> None:
        self._leaves = elastic_modules(module)
        self._narrowed: list[_Narrowed] = []
        self._handles: list[RemovableHandle] = []

    def attach(self, optimizers: Iterable[torch.optim.Optimizer]) -> None:
        """Narrow and widen around every step of optimizers that this suits, until `detach`.

        Where a step is given a closure that makes the gradients, as Lightning gives it, call `narrow` at its end.
        """
        self.detach()
        for optimizer in filter(self.suits, optimizers):
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))
            self._handles.append(optimizer.register_step_post_hook(lambda *_: self.widen()))

    def detach(self) -> None:
        """Leave the optimizers alone again."""
        self.widen()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before_step(
        self, optimizer: torch.optim.Optimizer, arguments: tuple[object, ...], options: dict[str, object]
    ) -> None:
        # The first argument is the optimizer itself.
        if len(arguments) < 2 and options.get("closure") is None:
            self.narrow(optimizer)

    @staticmethod
    def suits(optimizer: torch.optim.Optimizer) -> bool:
        """Return whether an optimizer's step on a view is its step on that part of the weight.

        Fused kernels do not take views; optimizers that evaluate the loss again within a step would meet them.
        """
        plain = type(optimizer).__module__.startswith("torch.optim.")
        again = isinstance(optimizer, torch.optim.LBFGS)
        return plain and not again and not any(group.get("fused") for group in optimizer.param_groups)

    def narrow(self, optimizer: torch.optim.Optimizer) -> None:
        """Replace weights, gradients and state by views of the slices that got a gradient since the last `widen`."""
        if self._narrowed or not self.suits(optimizer):
            return
        owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for parameter, region in (pair for leaf in self._leaves for pair in _reached(leaf)):
            if parameter.grad is not None and id(parameter) in owned:
                self._narrowed.append(_Narrowed(optimizer, parameter, region))

    def widen(self) -> None:
        """Put everything back; nothing happens where nothing was narrowed."""
        for narrowed in self._narrowed:
            narrowed.restore()
        self._narrowed = []
        for leaf in self._leaves:
            chosen_of(leaf).reached.clear()


class _Narrowed:
    """A parameter that is a view of itself for a while."""

    def __init__(self, optimizer: torch.optim.Optimizer, parameter: nn.Parameter, region: Region) -> None:
        self._optimizer, self._parameter, self._region = optimizer, parameter, region
        self._data, self._grad = parameter.data, parameter.grad
        state: dict[str, Tensor] = optimizer.state.get(parameter, {})
        self._state = {name: value for name, value in state.items() if _is_like(value, parameter)}
        assert self._grad is not None
        parameter.grad = None
        parameter.data = self._data[region]
        parameter.grad = self._grad[region]
        for name, value in self._state.items():
            state[name] = value[region]

    def restore(self) -> None:
        """Put weight, gradient and state back; state that the step made is zero outside the slice."""
        parameter, view = self._parameter, self._parameter.data
        parameter.grad = None
        parameter.data = self._data
        parameter.grad = self._grad
        state = self._optimizer.state.get(parameter, {})
        for name, value in state.items():
            if name in self._state:
                # An optimizer may have put a new tensor in its place.
                if value.data_ptr() != self._state[name][self._region].data_ptr():
                    self._state[name][self._region] = value
                state[name] = self._state[name]
            elif _is_like(value, view):
                state[name] = torch.zeros_like(self._data, dtype=value.dtype)
                state[name][self._region] = value


def _is_like(value: object, parameter: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and value.shape == parameter.shape


def _reached(leaf: nn.Module) -> list[tuple[nn.Parameter, Region]]:
    """Return the parameters of an elastic leaf with the part of each that was read, where that is one and not all."""
    found = []
    for name, region in chosen_of(leaf).reached.items():
        parameter = leaf._parameters[name]
        if parameter is not None and region is not None:
            pairs = zip(region, parameter.shape, strict=True)
            if any(part.stop - part.start < size for part, size in pairs):
                found.append((parameter, region))
    return found

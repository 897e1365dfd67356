"""`CachedRun`: what the modules of a network gave for some images, from which a changed copy of it goes on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field

from torch import Tensor, nn

from lightning_nas.graph.detector import without_detection
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.module_paths import watching

__all__ = ["CachedRun"]

_WITH_WEIGHTS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass
class _Calls:
    """The calls of one module: when they began and ended, and what they gave."""

    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    outputs: list[object] = field(default_factory=list)

    @property
    def is_kept(self) -> bool:
        """Whether the module ran once, and what it gave is kept."""
        return len(self.ends) == len(self.outputs) == 1


class CachedRun:
    """Outputs of a network's modules, kept so that of a changed copy only what stands behind the change has to run.

    The copy runs its own forward pass; modules that end before the first changed one begins give what they gave here.

    Args:
        network: The network; it runs once on each batch, in evaluation mode and without gradients.
        batches: Images, shape (N, 3, H, W), in the memory format in which the copies are to run.
        whole: Paths of modules within which no changed copy goes on: what these run is not kept, which saves memory.

    Attributes:
        batches: The images.
    """

    def __init__(self, network: nn.Module, batches: Sequence[Tensor], whole: Collection[str] = ()) -> None:
        self.batches = batches
        self._calls = [_noted(network, batch, _kept(network, whole)) for batch in batches]

    def output(self, path: str, batch: int) -> object:
        """Return what a module gave for a batch; None where it is not kept, or ran more than once."""
        calls = self._calls[batch].get(path)
        return calls.outputs[0] if calls is not None and calls.is_kept else None

    def skipped(self, changed: Collection[str]) -> list[str]:
        """Return the modules that need not run in a copy of which some modules are changed, the outermost ones.

        Args:
            changed: Paths of the modules that differ.
        """
        calls = self._calls[0]
        first = min((min(self._starts(path, calls)) for path in changed), default=0)
        ended = {path for path, found in calls.items() if found.is_kept and found.ends[0] < first}
        return [path for path in ended if not any(path.startswith(f"{other}.") for other in ended)]

    @contextmanager
    def resumed(self, network: nn.Module, changed: Collection[str], batch: int) -> Iterator[None]:
        """Let a changed copy of the network run only what stands behind the change, on a batch of these images.

        Args:
            network: The copy.
            changed: Paths of the modules in which it differs.
            batch: Number of the batch that it is to run.
        """
        modules = [(network.get_submodule(path), self.output(path, batch)) for path in self.skipped(changed)]
        for module, output in modules:
            module.forward = _giving(output)
        try:
            yield
        finally:
            for module, _ in modules:
                del module.forward

    def _starts(self, path: str, calls: dict[str, _Calls]) -> list[int]:
        """Return when a module began, or the smallest one around it that was called."""
        while path and not (path in calls and calls[path].starts):
            path = path.rpartition(".")[0]
        return calls[path].starts if path else [0]


def _noted(network: nn.Module, images: Tensor, kept: Collection[str]) -> dict[str, _Calls]:
    names = {module: name for name, module in network.named_modules() if name}
    calls: dict[str, _Calls] = {}
    clock = iter(range(10**9))

    def enter(module: nn.Module, _: object) -> None:
        if module in names:
            calls.setdefault(names[module], _Calls()).starts.append(next(clock))

    def leave(module: nn.Module, _: object, output: object) -> None:
        if module in names:
            found = calls[names[module]]
            found.ends.append(next(clock))
            if names[module] in kept and len(found.ends) == 1:
                # What works in place behind it would change what is kept.
                found.outputs.append(_copied(output))

    with evaluating(network), watching(enter, leave):
        without_detection(network)(images)
    return calls


def _kept(network: nn.Module, whole: Collection[str]) -> set[str]:
    """Return the modules whose outputs are kept: those with weights, but none within a module that is `whole`.

    What norms and activations give is cheap to make again.
    """
    return {
        name
        for name, module in network.named_modules()
        if name
        and not any(name.startswith(f"{path}.") for path in whole)
        and any(isinstance(child, _WITH_WEIGHTS) for child in module.modules())
    }


def _giving(output: object) -> Callable[..., object]:
    return lambda *_, **__: _copied(output)


def _copied(value: object) -> object:
    """Return a result whose tensors have memory of their own."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, MutableMapping):
        # Of the class that it has, since networks read attributes of theirs.
        found = copy(value)
        found.update({key: _copied(one) for key, one in value.items()})
        return found
    if isinstance(value, list):
        return [_copied(one) for one in value]
    if type(value) is tuple:
        return tuple(_copied(one) for one in value)
    return value

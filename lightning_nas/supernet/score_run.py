"""Runs of a network for a score: a failure is named by its module, and batch norm takes the batch's statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_nas.graph.eval_mode import undisturbed
from lightning_nas.graph.module_paths import watching
from lightning_nas.graph.tensors import tensors_in

__all__ = ["check_images", "differentiable", "score_run"]


def check_images(score: str, images: Tensor, least: int) -> None:
    """Raise a ValueError unless images have the shape (N, C, H, W) and are as many as a score compares."""
    if images.ndim != 4 or len(images) < least:
        raise ValueError(
            f"`{score}` takes images of shape (N, C, H, W), {least} or more; got the shape {tuple(images.shape)}."
        )


@contextmanager
def score_run(score: str, network: nn.Module) -> Iterator[set[str]]:
    """Yield the paths of the modules that ran, and let an error of an operator name the module and the score.

    Args:
        score: Its name.
        network: What it runs, forwards or backwards.

    Raises:
        ValueError: An operator of the network fails in it.
    """
    run = _Run({module: path for path, module in network.named_modules()})
    try:
        with watching(run.enter, run.leave):
            yield run.ran
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        failed = network.get_submodule(run.place)
        place = f"module {run.place!r} ({type(failed).__name__})" if run.place else type(failed).__name__
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"`{score}` cannot run {place}: {reason}.") from error


class _Run:
    """The modules that run forwards, and those whose gradients have come back."""

    def __init__(self, names: dict[nn.Module, str]) -> None:
        self.names = names
        self.running: list[str] = []
        self.ran: set[str] = set()
        self.reached = ""
        self._nodes: set[object] = set()

    @property
    def place(self) -> str:
        """Path of the module that runs; the hooks of one that fails do not run, so it is still the last."""
        return self.running[-1] if self.running else self.reached

    def enter(self, module: nn.Module, _: object) -> None:
        """Note that a module begins."""
        self.running.append(self.names.get(module, self.running[-1] if self.running else ""))

    def leave(self, _: nn.Module, __: object, output: object) -> None:
        """Note that a module has ended, and let its gradients say that they come."""
        path = self.running.pop()
        self.ran.add(path)
        for tensor in tensors_in(output) if torch.is_grad_enabled() else ():
            # What a module hands on from one inside it is that one's.
            if tensor.requires_grad and tensor.grad_fn not in self._nodes:
                self._nodes.add(tensor.grad_fn)
                tensor.register_hook(self._notes(path))

    def _notes(self, path: str) -> Callable[[Tensor], None]:
        def note(_: Tensor) -> None:
            self.reached = path

        return note


@contextmanager
def differentiable(network: nn.Module) -> Iterator[None]:
    """Run the body with gradients for all parameters and with batch norm on the statistics of its batch.

    What scores are made of is taken so in their papers. The running statistics of a member of a supernet are those of
    other members. Afterwards the network is as before.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    with undisturbed(network):
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.train()
        for parameter, _ in flags:
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)

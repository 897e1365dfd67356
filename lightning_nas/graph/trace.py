"""Tracing: a network runs once, and its operators, their shapes and their inputs are recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_nas.graph.detector import without_detection
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.fold import folded
from lightning_nas.graph.module_paths import module_paths
from lightning_nas.graph.network import Network
from lightning_nas.graph.operation_log import Fallback, OperationLog, UnknownOperatorError

__all__ = ["Fallback", "Recorder", "UnknownOperatorError", "trace"]


def trace(model: nn.Module, example_input: Tensor, fallback: Fallback | None = None, fold: bool = True) -> Network:
    """Run the network once, on the first image of `example_input` (NCHW), and return what ran.

    Of torchvision's detectors the backbone and the heads run: what picks the boxes is no work of the accelerator.

    Args:
        model: A module that takes images.
        example_input: Images (NCHW).
        fallback: ``bytes`` keeps operators without a model as ``other``; by default they are refused.
        fold: Whether norms, simple activations and padding are folded into the operators that run them.

    Raises:
        UnknownOperatorError: An operator has no model; the message names it and its module.
        ValueError: The network does not run on such images, or it runs no convolution and no linear layer.
    """
    if example_input.ndim != 4:
        raise ValueError(f"`example_input` must have the shape NCHW; got {tuple(example_input.shape)}.")
    image = example_input[:1]
    _, channels, height, width = image.shape
    log = OperationLog(image, fallback)
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        paths = stack.enter_context(module_paths(model))
        # Neither torch.fx nor torch.export: of 54 networks that were tried they took 48 and 53, a dispatch mode all.
        stack.enter_context(Recorder(log, paths))
        result = _forward(without_detection(model), image, paths)
    network = Network((height, width, channels), tuple(log.operations), log.outputs(result))
    network = folded(network) if fold else network
    if not any(operation.layer.macs for operation in network.operations):
        raise ValueError(f"{type(model).__name__} runs no convolution and no linear layer: there is nothing to price.")
    return network


def _forward(model: nn.Module, image: Tensor, paths: list[str]) -> object:
    try:
        return model(image)
    except UnknownOperatorError:
        raise
    except Exception as error:
        # The hooks of a module that fails do not run, so its path is still the last.
        place = f" in module {paths[-1]!r}" if paths else ""
        raise ValueError(f"The network does not run on images of shape {tuple(image.shape)}{place}: {error}") from error


class Recorder(TorchDispatchMode):
    """Hands every operator that runs to a log."""

    def __init__(self, log: OperationLog, paths: Sequence[str]) -> None:
        super().__init__()
        self._log, self._paths = log, paths

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        tracked = self._log.tracked(args)
        inputs = [self._log.number(tensor) for tensor in tracked]
        result = func(*args, **(kwargs or {}))
        if tracked:
            path = self._paths[-1] if self._paths else ""
            self._log.record(func.overloadpacket.__name__, path, args, tracked, inputs, result)
        return result

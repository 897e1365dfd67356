"""The operators that a network calls on what depends on its images, compared for images of other values."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_nas.graph.eval_mode import undisturbed
from lightning_nas.graph.module_paths import module_paths
from lightning_nas.graph.tensors import tensors_in

__all__ = ["check_same_calls"]

# Which boxes there are depends on values in every detector, and is no work of the accelerator.
_BOXES = ("torchvision.models.detection.", "torchvision.ops.")


def check_same_calls(model: nn.Module, example_input: Tensor, name: str) -> None:
    """Raise an error unless a network runs, calls a convolution, and calls the same operators whatever it is shown.

    It runs twice in evaluation mode, on images that differ in sign and scale. What picks the boxes of torchvision's
    detectors may depend on them.

    Args:
        model: The network; what it changes while it runs is put back.
        example_input: One batch that it can run, for size, precision and device; one image of it runs.
        name: Of the network, for messages.

    Raises:
        ValueError: It does not; the message names the module.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(example_input[:1].shape, generator=generator)
    first, second = (
        _calls(model, (scale * drawn).to(example_input), name)
        # Means, largest values and signs of all that depends on the images are others.
        for scale in (1.0, -8.0)
    )
    if not any(operator == "convolution" for _, operator in first):
        raise ValueError(
            f"{name} runs no convolution, and has no width to choose. HINT: convert the part of it that has some."
        )
    for one, other in itertools.zip_longest(first, second, fillvalue=("", "nothing")):
        if one != other:
            path = one[0] or other[0]
            raise ValueError(
                f"{f'Module {path!r}' if path else name} runs other operators for other images ({one[1]!r} for one,"
                f" {other[1]!r} for another), so that what it costs is not known. HINT: choose by `torch.where`, or"
                " convert a part of the network that does the same for all images."
            )


def _calls(model: nn.Module, image: Tensor, name: str) -> list[tuple[str, str]]:
    """Return what a network calls: for each operator the path of the module, and its name."""
    with undisturbed(model), _same_chance(), module_paths(model) as paths:
        recorder = _Recorder(image, paths, {path for path, module in model.named_modules() if _picks_boxes(module)})
        try:
            with recorder:
                result = model(image)
        except Exception as error:
            raise ValueError(_failure(model, image, name, paths, error)) from error
    if not tensors_in(result):
        raise ValueError(
            f"{name} returns a {type(result).__name__} in which no tensor is found. HINT: let it return tensors, or"
            " tuples, lists and dictionaries of them."
        )
    return recorder.calls


class _Recorder(TorchDispatchMode):
    """Notes the operators that run on what depends on an image."""

    def __init__(self, image: Tensor, paths: Sequence[str], ignored: set[str]) -> None:
        super().__init__()
        self.calls: list[tuple[str, str]] = []
        self._paths, self._ignored = paths, ignored
        # Tensors are held, or a later one could get the identity of one that is gone.
        self._tracked = {id(image): image}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if any(id(tensor) in self._tracked for tensor in tensors_in((*args, *kwargs.values()))):
            path = self._paths[-1] if self._paths else ""
            if path not in self._ignored:
                self.calls.append((path, func.overloadpacket.__name__))
            self._tracked.update((id(tensor), tensor) for tensor in tensors_in(result))
        return result


@contextmanager
def _same_chance() -> Iterator[None]:
    """Let all that is random be the same in each run, and put back the states of Python's and NumPy's generators."""
    states = random.getstate(), np.random.get_state()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)  # within a fork of PyTorch's, see `undisturbed`
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def _picks_boxes(module: nn.Module) -> bool:
    return type(module).__module__.startswith(_BOXES)


def _failure(model: nn.Module, image: Tensor, name: str, paths: Sequence[str], error: Exception) -> str:
    # The hooks of a module that fails do not run, so its path is still the last.
    place = f" in module {paths[-1]!r}" if paths and paths[-1] else ""
    first_line = (str(error).splitlines() or [""])[0][:200]
    hint = "it is run on one tensor of images, of the shape and type of `example_input`."
    weight = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), image)
    if weight.dtype != image.dtype:
        hint = f"its weights are {weight.dtype}, and `example_input` is {image.dtype}."
    shape = tuple(image.shape)
    return f"{name} cannot run images of shape {shape}{place}: {type(error).__name__}: {first_line} HINT: {hint}"

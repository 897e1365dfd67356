"""Loading the subnet that a run or a search left behind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .space.spec import Architecture
from .supernet import derive, stock_network
from .supernet.agreement import outputs_of
from .supernet.stock import read_weights
from .supernet.subnet import supernet_with
from .tasks.detector import detector
from .tasks.segmenter import segmenter

__all__ = ["load_subnet"]

# Saved and built networks may be of unlike precision, and run on unlike kernels.
_NORM_TOLERANCE = 1e-2
# What the networks of a task are made by; a run records their options.
_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "classification": stock_network,
    "detection": detector,
    "segmentation": segmenter,
}


def load_subnet(run_dir: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Return the subnet of a run directory, or of one that `ArchitectureSearch.save` wrote, in evaluation mode.

    It is rebuilt from ``architecture.json`` and filled from ``subnet.safetensors``; neither can run code.

    Args:
        run_dir: Directory of a finished run, or of a saved subnet.
        model: For a subnet of your own module: that module as it was before `supernet_from`, made with the same
            arguments; it is not changed. Its weights do not matter.

    Raises:
        FileNotFoundError: The directory holds no finished run and no saved subnet.
        ValueError: A file of it is malformed, or of another module than `model`.

    Example::

        subnet = load_subnet("subnet", model=MyModule(num_classes=10))
        trainer.fit(subnet.train(), datamodule)
    """
    folder = Path(run_dir)
    files = folder / "architecture.json", folder / "subnet.safetensors"
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{str(folder)!r} is no directory of a finished run or of a saved subnet: it has no {file.name}."
            )
    data = json.loads(files[0].read_text(encoding="utf-8"))
    architecture = Architecture.from_dict(data)
    whole, path = _built(folder, data, architecture) if model is None else (deepcopy(model), str(data.get("path", "")))
    try:
        supernet_with(whole.get_submodule(path), architecture)
        subnet = derive(whole, architecture)
        subnet.load_state_dict(read_weights(files[1]))
    except (AttributeError, RuntimeError, ValueError) as error:
        named = "the network that its run names" if model is None else f"this {type(model).__name__}"
        raise ValueError(f"The subnet in {str(folder)!r} is not one of {named}: {error}") from error
    _check_outputs(folder, subnet.get_submodule(path), architecture, data.get("output_norms", []))
    return subnet.eval()


def _check_outputs(folder: Path, network: nn.Module, architecture: Architecture, norms: list[float]) -> None:
    """Refuse a network that computes something else than what was saved, as that of a module with other activations."""
    if not norms:
        return
    example = torch.zeros(1, *architecture.input_size).to(next(network.parameters()))
    given = [float(output.norm()) for output in outputs_of(network, example)]
    is_near = len(given) == len(norms) and all(
        math.isclose(one, other, rel_tol=_NORM_TOLERANCE) for one, other in zip(given, norms, strict=True)
    )
    if not is_near:
        raise ValueError(
            f"The subnet in {str(folder)!r} gives other outputs than when it was saved: `model` is made with other"
            " settings, such as activations or the `eps` of norms. HINT: make it as it was made for the search."
        )


def _built(folder: Path, data: dict[str, Any], architecture: Architecture) -> tuple[nn.Module, str]:
    """Return the source network of a run, and the path in it of what is searched."""
    if "network" not in data:
        name = data.get("module", "MyModule")
        raise ValueError(
            f"{str(folder)!r} holds a subnet of a module of one's own. HINT: say how it is made, as in"
            f" `load_subnet({str(folder)!r}, model={name}(...))`."
        )
    task = data.get("task", "classification")
    if task not in _BUILDERS:
        raise ValueError(f"`task` in {str(folder)!r} must be one of {', '.join(_BUILDERS)}; got {task!r}.")
    return _BUILDERS[task](**{"num_classes": architecture.num_classes, **data["network"]}), ""

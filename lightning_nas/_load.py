"""Loading the subnet that a run left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from torch import nn

from .space.spec import Architecture
from .supernet import derive, stock_network
from .supernet.subnet import supernet_with
from .tasks.detector import detector
from .tasks.segmenter import segmenter

__all__ = ["load_subnet"]

# What the networks of a task are made by; a run records their options.
_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "classification": stock_network,
    "detection": detector,
    "segmentation": segmenter,
}


def load_subnet(run_dir: str | Path) -> nn.Module:
    """Return the fine-tuned subnet of a run directory, a plain network in evaluation mode.

    It is rebuilt from ``architecture.json`` and filled from ``subnet.safetensors``; neither can run code.

    Args:
        run_dir: Directory of a finished run.

    Raises:
        FileNotFoundError: The directory holds no finished run.
        ValueError: A file of it is malformed.
    """
    folder = Path(run_dir)
    files = folder / "architecture.json", folder / "subnet.safetensors"
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{str(folder)!r} is no directory of a finished run: it has no {file.name}.")
    data = json.loads(files[0].read_text(encoding="utf-8"))
    architecture = Architecture.from_dict(data)
    options = {"num_classes": architecture.num_classes, **data["network"]}
    network = _BUILDERS[data.get("task", "classification")](**options)
    subnet = derive(supernet_with(network, architecture), architecture)
    subnet.load_state_dict(load_file(files[1]))
    return subnet.eval()

"""Files of a derived network: its architecture, its weights, and the script that makes it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lightning_nas.io.writing import write_text, write_weights
from lightning_nas.space.architecture import Architecture
from lightning_nas.supernet.rebuilding import Rebuilding, rebuild_script

__all__ = ["ARCHITECTURE_FILE", "REBUILD_FILE", "WEIGHTS_FILE", "write_subnet"]

ARCHITECTURE_FILE, WEIGHTS_FILE, REBUILD_FILE = "architecture.json", "subnet.safetensors", "rebuild.py"


def write_subnet(
    folder: Path,
    architecture: Architecture,
    rebuilding: Rebuilding,
    state: Mapping[str, Tensor],
    described: Mapping[str, object],
) -> None:
    """Write ``architecture.json``, ``subnet.safetensors`` and ``rebuild.py``, each atomically.

    Args:
        folder: Where to; it is made if needed.
        architecture: The architecture of the network.
        rebuilding: How the network is made of its source.
        state: The weights of the module that is saved, by name; the network is all of it, or a part.
        described: What else ``architecture.json`` says: ``path``, where the network is in its module, or ``source``,
            the options that its source is made by.

    Raises:
        ValueError: What is to be written is not all tensors.
    """
    write_weights(folder / WEIGHTS_FILE, state)
    content = {**architecture.to_dict(), **described, "rebuild": rebuilding.to_dict()}
    write_text(folder / ARCHITECTURE_FILE, json.dumps(content, indent=1))
    write_text(folder / REBUILD_FILE, rebuild_script())

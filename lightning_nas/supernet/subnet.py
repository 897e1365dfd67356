"""Loading the subnet that a run left behind."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from ..space.spec import Architecture
from .convert import space_of, supernet_from
from .derive import derive
from .stock import stock_network

__all__ = ["load_subnet", "supernet_with"]


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
    network = stock_network(num_classes=architecture.num_classes, **data["network"])
    subnet = derive(supernet_with(network, architecture), architecture)
    subnet.load_state_dict(load_file(files[1]))
    return subnet.eval()


def supernet_with(network: nn.Module, architecture: Architecture) -> nn.Module:
    """Turn a network into the smallest supernet that holds an architecture of any widths, in place, and return it.

    Raises:
        ValueError: The architecture is not of this network.
    """
    options = [block.option for block in architecture.blocks]
    example = torch.zeros(1, *architecture.input_size)
    space = space_of(
        network,
        example,
        lanes=1,
        expansions=[option.expansion for option in options],
        kernels=[option.kernel for option in options],
        widths=[[stage.width] for stage in architecture.stages],
    )
    return supernet_from(network, example, space)

"""Rebuild the network that is saved in this folder: PyTorch is all that it takes, besides the model's own library.

    from rebuild import rebuild
    network = rebuild(MyModule())    # your model, made as for the search; its weights do not matter
    network = rebuild()              # where the run names a network of torchvision or timm

It reads ``architecture.json`` and ``subnet.safetensors`` beside this file, or in another folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["change", "read_tensors", "rebuild"]

_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool", "U8": "uint8"}
_DTYPES |= {"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8"}


def rebuild(model: nn.Module | None = None, folder: str | Path | None = None) -> nn.Module:
    """Turn a source model into the saved network, in place, and return it in evaluation mode.

    Args:
        model: The model as it was before the search; by default the network that the run names.
        folder: The folder of the files; by default that of this one.

    Raises:
        ValueError: No model is given, and the files name none of torchvision or timm.
        RuntimeError: The weights are of another model.
    """
    folder = Path(__file__).parent if folder is None else Path(folder)
    saved = json.loads((folder / "architecture.json").read_text(encoding="utf-8"))
    model = _named(saved) if model is None else model
    change(model.get_submodule(saved.get("path", "")), saved["rebuild"])
    model.load_state_dict(read_tensors(folder / "subnet.safetensors"))
    return model.eval()


def change(network: nn.Module, changes: Mapping[str, Any]) -> None:
    """Give a source network the modules and sizes of the saved one, in place; weights are to be loaded then.

    Args:
        network: The network.
        changes: ``identities``: paths that become an ``nn.Identity``. ``replaced``: for a path those of the modules
            whose copies take its place, one or a sequence. ``attributes``: by path what a module says of its sizes.
            ``tensors``: by name their shapes. ``requires_grad``: by name whether a parameter learns.
    """
    placed: dict[nn.Module, nn.Module] = {network.get_submodule(path): nn.Identity() for path in changes["identities"]}
    for path, likes in changes["replaced"].items():
        made = [nn.Conv2d(1, 1, 1) if p == "torch.nn.Conv2d" else deepcopy(network.get_submodule(p)) for p in likes]
        placed[network.get_submodule(path)] = made[0] if len(made) == 1 else nn.Sequential(*made)
    for owner in list(network.modules()):
        for name, child in owner._modules.items():
            if child in placed:
                owner._modules[name] = placed[child].train(child.training)
    for path, values in changes["attributes"].items():
        sizes = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        vars(network.get_submodule(path)).update(sizes)
    resized: dict[Tensor, Tensor] = {}  # what two modules share, they go on sharing
    for name, shape in changes["tensors"].items():
        path, _, attribute = name.rpartition(".")
        module = network.get_submodule(path)
        old = getattr(module, attribute)
        like = next(module.parameters(recurse=False)) if old is None else old
        new = None if shape is None else torch.zeros(shape, dtype=like.dtype, device=like.device)
        if new is not None and attribute in module._parameters:
            new = nn.Parameter(new, like.requires_grad)
        setattr(module, attribute, new if new is None or old is None else resized.setdefault(old, new))
    for name, learns in changes["requires_grad"].items():
        network.get_parameter(name).requires_grad_(learns)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name: eight bytes of length, a table in JSON, and the values."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            part = bytearray(data[start + first : start + last])
            values = torch.frombuffer(part, dtype=torch.uint8) if part else torch.zeros(0, dtype=torch.uint8)
            found[name] = values.view(getattr(torch, _DTYPES[entry["dtype"]])).reshape(entry["shape"])
    return found


def _named(saved: Mapping[str, Any]) -> nn.Module:
    """Return the source network that a run names; timm's where both libraries have one of the name."""
    options = dict(saved.get("source", {}))
    library, _, name = str(options.pop("name", "")).rpartition("/")
    options.pop("weights", None)
    if not name or saved.get("task", "classification") != "classification":
        raise ValueError("The source network cannot be made by its name. HINT: give it, as in `rebuild(MyModule())`.")
    import timm
    import torchvision

    if library != "torchvision" and timm.is_model(name):
        return timm.create_model(name, **options)
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": True}
    return torchvision.models.get_model(name, weights=None, **options)

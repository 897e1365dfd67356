"""`load_subnet`: the network that a run or a search saved, built anew and filled with its weights."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_nas.io.reading import JsonObject, listed, number, read_json, shown
from lightning_nas.jobs.network_options import checked_options
from lightning_nas.jobs.networks import BUILDERS
from lightning_nas.space.spec import Architecture
from lightning_nas.supernet.agreement import outputs_of
from lightning_nas.supernet.described_sizes import follow_sizes
from lightning_nas.supernet.rebuilding import Rebuilding
from lightning_nas.supernet.stock import without_memory
from lightning_nas.supernet.subnet_files import ARCHITECTURE_FILE, WEIGHTS_FILE
from lightning_nas.supernet.weights import read_weights

__all__ = ["load_subnet"]

# Saved and built networks may be of unlike precision, and run on unlike kernels.
_NORM_TOLERANCE = 1e-2
# Of what a file says is loaded: a hundred times what the devices of this package run, 1 GiB of weights or activations.
_MAX_PARAMETERS, _MAX_VALUES, _MAX_MACS = 2**28, 2**28, 2**40
_MAX_OUTPUTS, _MAX_SHOWN = 1000, 200


def load_subnet(run_dir: str | Path, model: nn.Module | None = None) -> nn.Module:
    """Return the subnet of a run directory, or of one that `ArchitectureSearch.save` wrote, in evaluation mode.

    It is rebuilt from ``architecture.json`` and filled from ``subnet.safetensors``; neither can run code, or have
    another file or an address read: of the options of a network those are known that say what it is made of. What is
    in ``rebuild.py``, which does the same with PyTorch alone, is not read.

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
    files = folder / ARCHITECTURE_FILE, folder / WEIGHTS_FILE
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"{str(folder)!r} is not the directory of a finished run or of a saved subnet: it has no {file.name}."
            )
    data = read_json(files[0])
    with _naming(files[0]):
        architecture = Architecture.from_dict(data)
        path, norms = _saved_path(data), _saved_norms(data)
        rebuilding = Rebuilding.from_dict(data.get("rebuild"))
    if model is None:
        whole, path = _built(files[0], data, architecture), ""
    else:
        whole = deepcopy(model)
    with _of_module(folder, model):
        network = whole.get_submodule(path)
    state = read_weights(files[1])
    with _of_module(folder, model):
        rebuilding.apply(network)
        whole.load_state_dict(state)
    follow_sizes(network)
    _check_outputs(folder, whole, path, architecture, norms)
    return whole.eval()


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Put the name of a file before the message of an error in its content."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"'{file}': {error}") from error


@contextmanager
def _of_module(folder: Path, model: nn.Module | None) -> Iterator[None]:
    """Turn errors of loading into one that names the folder of the subnet and the module."""
    try:
        yield
    except (AttributeError, RuntimeError, ValueError) as error:
        named = "the network that its run names" if model is None else f"this {type(model).__name__}"
        reason = " ".join(str(error).split())
        raise ValueError(f"The subnet in {str(folder)!r} is not one of {named}: {reason}") from error


def _saved_path(data: JsonObject) -> str:
    path = data.get("path", "")
    if not isinstance(path, str):
        raise ValueError(f"`path` must be text, where the network is in its module; got {shown(path)}.")
    return path


def _saved_norms(data: JsonObject) -> list[float]:
    norms = listed(data.get("output_norms", []), "output_norms", _MAX_OUTPUTS)
    return [number(norm, "output_norms", sys.float_info.max) for norm in norms]


def _check_outputs(folder: Path, whole: nn.Module, path: str, architecture: Architecture, norms: list[float]) -> None:
    """Refuse a network that computes something else than what was saved, as that of a module with other activations."""
    network, size = whole.get_submodule(path), architecture.input_size
    try:
        if math.prod(size) > _MAX_VALUES or (excess := _excess_without_weights(network, size)):
            raise ValueError(excess or f"images of {size} are too large.")
        example = torch.zeros(1, *size).to(next(network.parameters()))
        given = [float(output.norm()) for output in outputs_of(network, example)]
    except Exception as error:  # whatever the code of a network raises for sizes that do not go together
        reason = " ".join(str(error).split())
        raise ValueError(f"The subnet in {str(folder)!r} does not run as a {type(whole).__name__}: {reason}") from error
    is_near = len(given) == len(norms) and all(
        math.isclose(one, other, rel_tol=_NORM_TOLERANCE) for one, other in zip(given, norms, strict=True)
    )
    if norms and not is_near:
        raise ValueError(
            f"The subnet in {str(folder)!r} gives other outputs than when it was saved: `model` is made with other"
            " settings, such as activations or the `eps` of norms. HINT: make it as it was made for the search."
        )


def _excess_without_weights(network: nn.Module, size: tuple[int, int, int]) -> str:
    """Return what of a network is too large to be run, found without running it; empty where it cannot be found."""
    try:
        return _excess(deepcopy(network).to("meta"), size)
    except Exception:  # code that reads values
        return ""


def _built(file: Path, data: JsonObject, architecture: Architecture) -> nn.Module:
    """Return the source network of a run."""
    if "source" not in data:
        folder, name = str(file.parent), shown(data.get("module", "MyModule")).strip("'")
        raise ValueError(
            f"{folder!r} holds a subnet of a module of one's own. HINT: say how it is made, as in"
            f" `load_subnet({folder!r}, model={name}(...))`."
        )
    _refuse_callable(file, data["source"])
    with _naming(file):
        task = data.get("task", "classification")
        if not isinstance(task, str) or task not in BUILDERS:
            raise ValueError(
                f"`task` must be one of {', '.join(BUILDERS)}; got {shown(task)}. HINT: for a task of your own say how"
                f" its network is made, as in `load_subnet({str(file.parent)!r}, model=my_network())`."
            )
        options = checked_options(data["source"], task)
        try:
            # Which takes no memory, whatever is asked for.
            _check_size(without_memory(lambda: BUILDERS[task](**options)), architecture.input_size)
            return BUILDERS[task](**options)
        except Exception as error:  # libraries raise what they like for options that do not go together
            raise ValueError(f"`source` describes no network that can be built: {error}") from error


def _refuse_callable(file: Path, options: object) -> None:
    """Ask for the model where the network of a run was made by a callable of the user's, which is not called here."""
    if not (isinstance(options, dict) and "_target_" in options):
        return
    name = shown(options["_target_"]).strip("'")
    arguments = ", ".join(f"{key}={shown(value)}" for key, value in options.items() if key != "_target_")
    raise ValueError(
        f"{str(file.parent)!r} holds a subnet of the network that {name} makes, a callable of one's own. HINT: make it,"
        f" as in `load_subnet({str(file.parent)!r}, model={name.rpartition('.')[2]}({arguments[:_MAX_SHOWN]}))`."
    )


def _check_size(network: nn.Module, input_size: tuple[int, int, int]) -> None:
    """Refuse a network that would fill the memory, or run for minutes, from one that has no weights."""
    if excess := _excess(network, input_size):
        raise ValueError(excess)


def _excess(network: nn.Module, input_size: tuple[int, int, int]) -> str:
    """Return what of a network is more than what is loaded; empty where nothing is."""
    count = sum(parameter.numel() for parameter in network.parameters())
    macs, largest = 0, 0

    def add(module: nn.Module, _: object, output: object) -> None:
        nonlocal macs, largest
        if isinstance(module, nn.Conv2d) and isinstance(output, Tensor):
            macs += module.weight.numel() * output.shape[2] * output.shape[3]
            largest = max(largest, output.numel())

    for module in network.modules():
        module.register_forward_hook(add)
    with torch.no_grad():
        network.eval()(torch.zeros(1, *input_size, device="meta"))
    figures = (("parameters", count), ("values in a tensor", largest), ("multiply-accumulates", macs))
    for (what, figure), most in zip(figures, (_MAX_PARAMETERS, _MAX_VALUES, _MAX_MACS), strict=True):
        if figure > most:
            return f"it has {figure} {what}; at most {most} are loaded."
    return ""

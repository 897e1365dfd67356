"""Saving of a subnet as data, from which `load_subnet` builds it again."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lightning_nas.budget.confirm import estimated_excess
from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.search.lightning_internals import uncompiled
from lightning_nas.search.state import SearchState
from lightning_nas.space.spec import Architecture
from lightning_nas.supernet.agreement import check_same, outputs_of
from lightning_nas.supernet.derive import derive
from lightning_nas.supernet.rebuilding import Rebuilding
from lightning_nas.supernet.subnet import architecture_of
from lightning_nas.supernet.subnet_files import write_subnet
from lightning_nas.supernet.supernet import Supernet, find_supernet, owner_of

__all__ = ["save_subnet"]

_NOT_DERIVED = "`subnet` must be what this search's `derive` gave, fine-tuned or not:"


def save_subnet(
    folder: str | Path, subnet: nn.Module, searched: nn.Module, state: SearchState, estimator: CostModel
) -> None:
    """Write ``architecture.json``, ``subnet.safetensors`` and ``rebuild.py``, each atomically.

    Args:
        folder: Where to; it is made if needed.
        subnet: What was derived of `searched`: all of it, or a part that holds the network.
        searched: The module that was searched.
        state: State of the search: its supernet, and the budgets that were asked for.
        estimator: What prices the subnet.

    Raises:
        ValueError: `subnet` is no subnet of the search, costs more than what was asked for, or holds what is no tensor.
    """
    subnet, supernet = uncompiled(subnet), state.started().supernet
    path = _network_path(subnet, searched, supernet)
    network = subnet.get_submodule(path)
    try:
        architecture = architecture_of(network, supernet)
    except ValueError as error:
        raise ValueError(f"{_NOT_DERIVED} {error}") from error
    # Weights may be any, those of a fine-tuning say; what tells a module that was never searched is its cost.
    if over := estimated_excess(state.asked(supernet.space.encode(architecture)), estimator, architecture):
        raise ValueError(
            f"{_NOT_DERIVED} It has {over}. HINT: where it was found for another budget, ask `find` for that one first."
        )
    rebuilding, outputs = _rebuilding(network, architecture, owner_of(supernet, searched)[1])
    described = {
        "module": type(subnet).__name__,
        "path": path,
        "device": estimator.device.name,
        "latency_ms": estimator.latency_ms(architecture),
        # By which a network that is built of another module than the saved one is told.
        "output_norms": [float(output.norm()) for output in outputs],
    }
    write_subnet(Path(folder), architecture, rebuilding, subnet.state_dict(), described)


def _rebuilding(network: nn.Module, architecture: Architecture, owner: nn.Module) -> tuple[Rebuilding, list[Tensor]]:
    """Return how a subnet is made of the source that a supernet was, and its outputs, once that has been tried."""
    source = derive(owner, find_supernet(owner).space.reference_encoding)
    rebuilding = Rebuilding.of(source, derive(owner, architecture))
    example = torch.zeros(1, *architecture.input_size).to(next(network.parameters()))
    outputs = outputs_of(network, example)
    rebuilding.apply(source)
    try:
        source.load_state_dict(network.state_dict())
        check_same(outputs, source, example)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            "`subnet` must compute what an unchanged one of its weights does, which is what `load_subnet` builds:"
            f" {error}"
            " HINT: save it before it is changed, by other activations, pruning or another classifier."
        ) from error
    return rebuilding, outputs


def _network_path(subnet: nn.Module, searched: nn.Module, supernet: Supernet) -> str:
    """Return where in a derived module the network is that was a supernet."""
    owner, _ = owner_of(supernet, searched)
    names = owner.split(".") if owner else []
    for number in range(len(names) + 1):
        if type(searched.get_submodule(".".join(names[:number]))) is type(subnet):
            return ".".join(names[number:])
    raise ValueError(
        f"`subnet` must be what `derive` gave: a {type(searched).__name__}, or its part {owner!r}; got a"
        f" {type(subnet).__name__}."
    )

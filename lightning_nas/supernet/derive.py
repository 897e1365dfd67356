"""The derived subnet: the user's own class with plain modules, weights inherited, batch norm recalibrated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.finite import refuse_not_finite
from lightning_nas.space.spec import Architecture, BlockOption, SearchSpace
from lightning_nas.supernet.described_sizes import follow_sizes
from lightning_nas.supernet.member import Member, member_at, member_of
from lightning_nas.supernet.supernet import find_supernet, forget_warning, owner_of

__all__ = ["derive", "recalibrate"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)
BatchT = TypeVar("BatchT")


def derive(module: ModuleT, architecture: Architecture | Sequence[int]) -> ModuleT:
    """Return a copy of `module` in which the supernet is the plain network of `architecture`.

    The copy has the classes that the network had before its conversion, with fewer channels; what a fused block does
    not run is an `nn.Identity`. It needs no lightning_nas to run, train or export. It inherits the slices of the
    weights and of the running statistics; those of batch norm belong to other subnets and have to be made anew:
    `recalibrate`.

    Args:
        module: A supernet, or a module that holds one (a LightningModule); it is not changed.
        architecture: A network of the supernet's space, or the encoding of a member. Its widths need not be among those
            that are offered.

    Raises:
        ValueError: `module` holds no supernet, the architecture is of another network, or the weights or statistics
            that it inherits are not finite.
    """
    supernet = find_supernet(module)
    member = _member(supernet.space, architecture)
    name, _ = owner_of(supernet, module)
    # deepcopy takes what the memo holds as the copy of a module: the handle is not copied.
    plain = deepcopy(module, {id(supernet): nn.Identity()})
    network = plain.get_submodule(name)
    del network.supernet
    forget_warning(network)
    supernet.leaves.strip(network, *member)
    follow_sizes(network)
    refuse_not_finite(network)
    return plain


def _member(space: SearchSpace, architecture: Architecture | Sequence[int]) -> Member:
    if not isinstance(architecture, Architecture):
        space.decode(architecture)
        return member_at(space, architecture)
    options = _options_of(space, architecture)
    widths = space.widths_of(architecture)
    if space.member(widths, options).network != architecture.network:
        raise ValueError("The architecture is of another network than the supernet's.")
    return member_of(space, widths, options)


def _options_of(space: SearchSpace, architecture: Architecture) -> list[BlockOption]:
    """Return the option of each block of an architecture; the source's own where it names none."""
    named = dict(architecture.blocks)
    options = [named.get(choice.path, choice.own) for choice in space.choices]
    for choice, option in zip(space.choices, options, strict=True):
        if (option.kind, option.kernel) not in choice.structures:
            offered = ", ".join(map(str, choice.options))
            raise ValueError(f"Block {choice.path!r} offers {offered}; got {option}.")
    return options


def recalibrate(
    module: nn.Module,
    run: Callable[[BatchT], object],
    batches: Iterable[BatchT],
    within: nn.Module | None = None,
) -> None:
    """Replace the running statistics of batch norm by those of `batches` (Once-for-All, arXiv 1908.09791).

    Each statistic becomes the plain average over the batches. Everything else stays in evaluation mode.

    Args:
        module: The module whose batch norms are recalibrated.
        run: Forward pass of one batch through `module`.
        batches: At least one batch of training data; some hundred images suffice.
        within: Only batch norms of this part of the module; by default all.

    Raises:
        ValueError: `batches` is empty.
    """
    norms = [m for m in (within or module).modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    num_batches = 0
    with evaluating(module):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        try:
            for batch in batches:
                run(batch)
                num_batches += 1
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if num_batches == 0:
        raise ValueError("`batches` holds no batch; at least one is needed to recalibrate batch norm.")

"""`Supernet`: the handle by which the choices of a network are set."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_nas.space.spec import Architecture, Encoding, SearchSpace
from lightning_nas.supernet.elastic_class import elastic_modules
from lightning_nas.supernet.elastic_leaves import ElasticLeaves
from lightning_nas.supernet.member import member_at
from lightning_nas.supernet.mixture import Mixing

__all__ = ["Supernet", "find_supernet", "forget_warning", "has_supernet", "owner_of"]

log = logging.getLogger(__name__)


class Supernet(nn.Module):
    """Handle of a supernet, the submodule `network.supernet`: the space, and which architecture runs.

    The network keeps its class and its forward pass; this handle says which of its subnets runs. An architecture is
    named by its encoding: one option index for each depth multiplier, then for each block (`SearchSpace.decode`).
    The handle has no parameters: who searches scores the options elsewhere, out of reach of what freezes or averages
    the network's.

    Attributes:
        space: What can be chosen.
        leaves: The elastic modules of the network.
        encoding: The architecture that runs now.
    """

    def __init__(self, space: SearchSpace, leaves: ElasticLeaves) -> None:
        super().__init__()
        self.space = space
        self.leaves = leaves
        self.encoding: Encoding = ()
        self._mixing: Mixing | None = None
        self._warning = _NoSearch()
        self.first.register_forward_pre_hook(self._warning)
        self.activate(space.reference_encoding)

    def forward(self, x: Tensor) -> Tensor:
        """Return what comes in: a network that is an `nn.Sequential` runs its handle, too."""
        return x

    @property
    def first(self) -> nn.Module:
        """The module that runs first of those that are elastic."""
        paths = [operation.path for operation in self.space.network.network.operations]
        return self.leaves.model.get_submodule(next(path for path in paths if path in self.leaves.named))

    @property
    def searched(self) -> list[nn.Module]:
        """All modules of which paths run slices, with what is in them, and this one."""
        return [self, *(child for module in elastic_modules(self.leaves.model) for child in module.modules())]

    def activate(self, architecture: Sequence[int] | Architecture) -> None:
        """Let the network run `architecture`, given as such or as its encoding.

        Raises:
            ValueError: It is not in the space.
        """
        encoding = self.space.encode(architecture) if isinstance(architecture, Architecture) else tuple(architecture)
        self._unmix()
        self.leaves.run(*member_at(self.space, encoding))
        self.encoding = encoding

    def mix(self, gates: Sequence[Tensor], shared: bool = False) -> None:
        """Let the network run the mixture of all options, until `activate` lets it run one architecture again.

        Args:
            gates: For each node the weight of each option; what has a weight of zero is not run.
            shared: Whether the expansions of a kind share one run of their super-kernel (FBNetV2), or run each by
                itself (DARTS).

        Raises:
            ValueError: A block has no module of its own, whose outputs could be mixed.
        """
        self._unmix()
        device = next(self.leaves.model.parameters()).device
        self._mixing = Mixing(self.space, self.leaves, [gate.to(device) for gate in gates], shared)

    def use_batch_statistics(self, enabled: bool) -> None:
        """Set whether batch norm uses the statistics of the batch, as during a search, or running ones."""
        self._warning.is_due = False  # who searches begins with this
        self.leaves.use_batch_statistics(enabled)

    def extra_repr(self) -> str:
        """Show the size of the space."""
        return str(self.space)

    def _unmix(self) -> None:
        if self._mixing is not None:
            self._mixing.end()
            self._mixing = None


class _NoSearch:
    """A hook that warns, once, of a supernet that is trained without a search."""

    def __init__(self) -> None:
        self.is_due = True

    def __call__(self, module: nn.Module, inputs: object) -> None:
        if self.is_due and module.training and torch.is_grad_enabled():
            self.is_due = False  # once is enough
            log.warning(
                "This supernet is trained without a search: only the one path that is active learns. HINT:"
                " `Trainer(callbacks=[ArchitectureSearch(...)])`."
            )


def forget_warning(network: nn.Module) -> None:
    """Take the warning of a training without a search from the modules of a copy that is no supernet any more."""
    for module in network.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, _NoSearch):
                del module._forward_pre_hooks[key]


def owner_of(supernet: Supernet, module: nn.Module) -> tuple[str, nn.Module]:
    """Return the network in `module` that a supernet is part of, and its name there."""
    return next((n, child) for n, child in module.named_modules() if any(c is supernet for c in child.children()))


def has_supernet(module: nn.Module) -> bool:
    """Return whether a module holds a supernet."""
    return any(isinstance(child, Supernet) for child in module.modules())


def find_supernet(module: nn.Module) -> Supernet:
    """Return the one supernet in `module`.

    Raises:
        ValueError: There is none, or more than one.
    """
    found = [child for child in module.modules() if isinstance(child, Supernet)]
    if len(found) != 1:
        raise ValueError(
            f"{type(module).__name__} must hold exactly one supernet; it holds {len(found)}. "
            "HINT: convert its network first: `model.backbone = supernet_from(model.backbone, example_input)`."
        )
    return found[0]

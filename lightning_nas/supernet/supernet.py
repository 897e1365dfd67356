"""`Supernet`: the handle by which the choices of a network are set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lightning_nas.space.spec import Architecture, Encoding, SearchSpace
from lightning_nas.supernet.choice import ChoiceBlock
from lightning_nas.supernet.elastic import ElasticBatchNorm2d
from lightning_nas.supernet.ends import ElasticEnd
from lightning_nas.supernet.mixture import channel_weights, mixtures
from lightning_nas.supernet.tail import ElasticTail

__all__ = ["Supernet", "find_supernet", "owner_of"]


class Supernet(nn.Module):
    """Handle of a supernet, the submodule `network.supernet`: the space, and which architecture runs.

    The network keeps its class and its forward pass; this handle says which of its subnets runs. An architecture is
    named by its encoding: one option index for each depth multiplier, then for each block (`SearchSpace.decode`).
    The handle has no parameters: who searches scores the options elsewhere, out of reach of what freezes or averages
    the network's.

    Attributes:
        space: What can be chosen.
        encoding: The architecture that runs now.
    """

    def __init__(
        self, space: SearchSpace, blocks: Sequence[ChoiceBlock], tail: ElasticTail, ends: Mapping[int, ElasticEnd]
    ) -> None:
        super().__init__()
        self.space = space
        # In tuples, not as submodules: they are the network's own, and would stand twice in its state_dict.
        self._blocks = tuple(blocks)
        self._tail = tail
        self._ends = dict(ends)
        self.encoding: Encoding = ()
        self._blocks[0].is_searched = False
        self.activate(space.reference_encoding)

    @property
    def blocks(self) -> tuple[ChoiceBlock, ...]:
        """The choice blocks in order."""
        return self._blocks

    @property
    def tail(self) -> ElasticTail:
        """The modules behind the blocks that read any width: of a classifier the 1x1 convolution, and its norm."""
        return self._tail

    @property
    def ends(self) -> Mapping[int, ElasticEnd]:
        """The modules of stem and head, by `STEM` and `HEAD`, as far as their widths are searched."""
        return self._ends

    @property
    def searched(self) -> list[nn.Module]:
        """All modules of which paths run slices, with what is in them, and this one."""
        ends = (part for end in self._ends.values() for part in vars(end).values() if part is not None)
        parts = (self, *self._blocks, *self._tail.modules.values(), *ends)
        return [child for part in parts for child in part.modules()]

    def activate(self, architecture: Sequence[int] | Architecture) -> None:
        """Let the network run `architecture`, given as such or as its encoding.

        Raises:
            ValueError: It is not in the space.
        """
        encoding = self.space.encode(architecture) if isinstance(architecture, Architecture) else tuple(architecture)
        chosen = self.space.decode(encoding)
        widths = [stage.width for stage in chosen.stages for _ in stage.blocks]
        for block, fixed, width in zip(self._blocks, chosen.blocks, widths, strict=True):
            block.active, block.out_width, block.mixture = fixed.option, width, None
        for place, end in self._ends.items():
            node, offered = self.space.stage_node(place)
            end.run(offered[encoding[node]])
        self.encoding = encoding

    def mix(self, gates: Sequence[Tensor], shared: bool = False) -> None:
        """Let the network run the mixture of all options, until `activate` lets it run one architecture again.

        Args:
            gates: For each node the weight of each option; what has a weight of zero is not run.
            shared: Whether the expansions of a kind share one run of their super-kernel (FBNetV2), or run each by
                itself (DARTS).
        """
        device = next(self._blocks[0].parameters()).device
        gates = [gate.to(device) for gate in gates]
        for block, mixture in zip(self._blocks, mixtures(self.space, gates, shared), strict=True):
            block.mixture = mixture
        for place, end in self._ends.items():
            channels = channel_weights(self.space, gates, place)
            end.run(len(channels), channels)

    def use_batch_statistics(self, enabled: bool) -> None:
        """Set whether batch norm uses the statistics of the batch, as during a search, or running ones."""
        self._blocks[0].is_searched = True  # who searches begins with this
        ends = (end.norm for end in self._ends.values())
        for module in (*ends, *self._blocks, *self._tail.modules.values()):
            for norm in module.modules():
                if isinstance(norm, ElasticBatchNorm2d):
                    norm.batch_statistics = enabled

    def extra_repr(self) -> str:
        """Show the size of the space."""
        return f"{len(self._blocks)} blocks, {self.space.num_architectures:.2g} architectures"


def owner_of(supernet: Supernet, module: nn.Module) -> tuple[str, nn.Module]:
    """Return the network in `module` that a supernet is part of, and its name there."""
    return next((n, child) for n, child in module.named_modules() if any(c is supernet for c in child.children()))


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

"""`Choice`: the options of one block of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lightning_nas.graph.block_edits import block_edit, residual_edit
from lightning_nas.graph.blocks import Block
from lightning_nas.graph.edits import Edit
from lightning_nas.graph.elastic_network import ChannelCount, ElasticNetwork
from lightning_nas.graph.sizes import hidden_width
from lightning_nas.space.block_option import BlockOption

__all__ = ["Choice"]

Structure = tuple[str, int]
"""Kind and kernel of an option: what of a network it changes beside widths."""


@dataclass(frozen=True)
class Choice:
    """The options of one block.

    Attributes:
        path: The block: the module that is or holds it.
        options: What can run; the source's own is among them, see `SearchSpace.reference`.
        own: The source's own option.
        block: Its convolutions; None for a residual module that is no block of a known kind.
        size: Its hidden channels at full width; 0 for none.
        inputs: Its input channels as a function of widths, where the expansion multiplies these.
        residual: The residual module that is left out by ``skip``; empty for none.

    Raises:
        ValueError: There is no option, two are equal, or the own one is not among them.
    """

    path: str
    options: tuple[BlockOption, ...]
    own: BlockOption
    block: Block | None = None
    size: int = 0
    inputs: ChannelCount = field(default_factory=lambda: ChannelCount(0))
    residual: str = ""

    def __post_init__(self) -> None:
        if len(set(self.options)) != len(self.options):
            raise ValueError(f"The options of a block must differ; got {', '.join(map(str, self.options))}.")
        if self.own not in self.options:
            raise ValueError(f"The source's own option {self.own} must be among those of {self.path!r}.")

    @property
    def module(self) -> str:
        """Path of the module that runs the block and no other one, from its input to its output; empty for none."""
        block = self.block
        return "" if block is not None and self.path in (block.expand, block.depthwise) else self.path

    @property
    def output(self) -> str:
        """Path of the module that gives what the block gives."""
        return self.module or (self.block and (self.block.project_norm or self.block.project)) or self.path

    @property
    def reference(self) -> int:
        """Number of the source's own option."""
        return self.options.index(self.own)

    @property
    def structures(self) -> tuple[Structure, ...]:
        """The different kinds and kernels among the options; the source's own is the first."""
        own = (self.own.kind, self.own.kernel)
        return tuple(dict.fromkeys([own, *((option.kind, option.kernel) for option in self.options)]))

    def structure_of(self, option: BlockOption) -> int:
        """Return the number of an option's kind and kernel among `structures`."""
        return self.structures.index((option.kind, option.kernel))

    def hidden(self, option: BlockOption, widths: Sequence[int], sizes: Sequence[int]) -> int:
        """Return the hidden channels of an option.

        Args:
            option: The option.
            widths: The width of each group, that of the block's input among them.
            sizes: The full width of each group.
        """
        if not option.has_hidden:
            return self.size
        num_in = self.inputs.at(widths)
        if option.expansion == self.own.expansion and num_in == self.inputs.at(sizes):
            return self.size
        return min(self.size, hidden_width(num_in, option.expansion))

    def edits(self, network: ElasticNetwork) -> tuple[Edit, ...]:
        """Return what each of `structures` changes in the source network."""
        return tuple(self._edit(network, kind, kernel) for kind, kernel in self.structures)

    def _edit(self, network: ElasticNetwork, kind: str, kernel: int) -> Edit:
        if kind == "skip":
            return residual_edit(network, self.residual)
        return Edit() if self.block is None else block_edit(network, self.block, kind, kernel)

    def __str__(self) -> str:
        return self.path

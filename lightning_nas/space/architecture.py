"""`Architecture`: one member of a search space, complete."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

from lightning_nas.graph.decompose import split
from lightning_nas.graph.fold import folded
from lightning_nas.graph.network import Network
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.io.reading import FORMAT, JsonObject, listed, only, parse_json, reading, text, whole
from lightning_nas.space._limits import MAX_NODES, MAX_PATH, MAX_WIDTH, option_fields
from lightning_nas.space.block_option import BlockOption
from lightning_nas.space.network_files import network_from_dict, network_to_dict

__all__ = ["Architecture", "subgraphs"]


@dataclass(frozen=True)
class Architecture:
    """One network of a space, complete: it can be priced and rebuilt from this data alone.

    Attributes:
        widths: The width groups of the network that can be chosen, each with its width.
        blocks: The blocks that can be chosen, each by its path with its option.
        network: What runs: operations in order, norms and activations on their own.
    """

    widths: tuple[tuple[str, int], ...]
    blocks: tuple[tuple[str, BlockOption], ...]
    network: Network

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of one image (CHW)."""
        height, width, channels = self.network.image_shape
        return channels, height, width

    @cached_property
    def subgraphs(self) -> tuple[Subgraph, ...]:
        """The parts that it is priced by, in order of execution."""
        return tuple(split(folded(self.network)))

    def to_dict(self) -> dict[str, object]:
        """Return builtins that `from_dict` reads back."""
        blocks = [
            {"path": path, "kind": option.kind, "expansion": option.expansion, "kernel": option.kernel}
            for path, option in self.blocks
        ]
        network = network_to_dict(self.network)
        return {"format": FORMAT, "widths": dict(self.widths), "blocks": blocks, "network": network}

    @classmethod
    def from_dict(cls, data: JsonObject) -> Architecture:
        """Return the architecture that `to_dict` wrote.

        Raises:
            ValueError: A field is missing or of the wrong form.
        """
        with reading("architecture", data):
            found = data["widths"]
            listed(list(found), "widths", MAX_NODES)
            widths = ((text(name, "widths", MAX_PATH), whole(width, name, MAX_WIDTH)) for name, width in found.items())
            blocks = tuple(_block(row) for row in listed(data["blocks"], "blocks", MAX_NODES))
            return cls(tuple(widths), blocks, network_from_dict(data["network"]))

    def to_json(self) -> str:
        """Return the JSON text of the architecture."""
        return json.dumps(self.to_dict(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Architecture:
        """Read the JSON text of `to_json`."""
        return cls.from_dict(parse_json(text, "An architecture"))

    def __str__(self) -> str:
        widths = ", ".join(f"{name} {width}" for name, width in self.widths)
        blocks = ", ".join(f"{path} {option}" for path, option in self.blocks)
        return " | ".join(part for part in (widths, blocks) if part)


def subgraphs(architecture: Architecture) -> list[Subgraph]:
    """Return the parts that an architecture is priced by, in order of execution."""
    return list(architecture.subgraphs)


def _block(data: object) -> tuple[str, BlockOption]:
    found = only(data, ("path", "kind", "expansion", "kernel"), "A block")
    option = option_fields({name: value for name, value in found.items() if name != "path"})
    return text(found["path"], "path", MAX_PATH), BlockOption(**option)

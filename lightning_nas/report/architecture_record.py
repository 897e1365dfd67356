"""`ArchitectureRecord`: what pages of results tell of a run's ``architecture.json``."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_nas.report.fields import Fields

__all__ = ["ArchitectureRecord"]

_GRAPH = 2
"""Format of files since 2026-11-30, whose networks are graphs; before, networks were rows of stages."""


@dataclass(frozen=True)
class ArchitectureRecord:
    """The architecture of a subnet.

    Attributes:
        input_size: Channels, height and width of the images; empty where a file does not tell.
        widths: Channels outside of blocks, in order: of each width group, or of the stem and of each stage; None where
            a file does not tell.
        stages: The kinds of the blocks, such as ``ibn``, by stage; in one row where there are no stages.
        source: The network that was searched, or its backbone; empty where a file does not tell.
    """

    input_size: tuple[int, ...] = ()
    widths: tuple[int | None, ...] = ()
    stages: tuple[tuple[str, ...], ...] = ()
    source: str = ""

    @classmethod
    def from_fields(cls, fields: Fields) -> ArchitectureRecord:
        """Return the architecture that a file holds.

        Raises:
            ValueError: A field is not in its form, such as a block without its kind.
        """
        if fields.whole_or_none("format") == _GRAPH:
            return _of_graph(fields)
        size = _wholes(fields, "input_size") if fields.has("input_size") else ()
        stem = fields.nested_or_none("stem")
        stages = fields.listed("stages", "a list of stages") if fields.has("stages") else None
        rows = [] if stages is None else [stages.nested(place) for place in stages]
        widths = (None if stem is None else stem.whole_or_none("width"), *(row.whole_or_none("width") for row in rows))
        return cls(size, widths, tuple(_kinds(row) for row in rows), _source(fields.nested_or_none("network")))


def _of_graph(fields: Fields) -> ArchitectureRecord:
    height, width, channels = _image_shape(fields.required_nested("network"))
    rows = fields.listed("blocks", "a list of blocks")
    blocks = [rows.nested(place) for place in rows]
    paths = [block.text("path") for block in blocks]
    groups = fields.required_nested("widths")
    # Widths within blocks follow from these.
    outside = [name for name in groups if not any(name == path or name.startswith(f"{path}.") for path in paths)]
    kinds = tuple(block.text("kind") for block in blocks)
    size, widths = (channels, height, width), tuple(map(groups.whole, outside))
    return ArchitectureRecord(size, widths, (kinds,) if kinds else (), _source(fields.nested_or_none("source")))


def _source(settings: Fields | None) -> str:
    """Return the name of a network by its settings: of a stock one its own, of a callable its package's and its own."""
    if settings is None:
        return ""
    name = settings.text_or_none("name") or settings.text_or_none("backbone")
    target = settings.text_or_none("_target_")
    if name or not target:
        return name or ""
    first, *_, last = f"{target}.".removesuffix(".").split(".")
    return last if first == last else f"{first}.{last}"


def _image_shape(network: Fields) -> tuple[int, ...]:
    shape = _wholes(network, "image_shape")
    if len(shape) != 3:
        raise ValueError(f"'{network.file}' must give height, width and channels as 'image_shape'; got {list(shape)}.")
    return shape


def _wholes(fields: Fields, name: str) -> tuple[int, ...]:
    values = fields.listed(name, "a list of whole numbers")
    return tuple(values.whole(place) for place in values)


def _kinds(stage: Fields) -> tuple[str, ...]:
    blocks = stage.listed("blocks", "a list of blocks")
    return tuple(blocks.nested(place).nested("option").text("kind") for place in blocks)

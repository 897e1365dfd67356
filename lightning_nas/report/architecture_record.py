"""`ArchitectureRecord`: what pages of results tell of a run's ``architecture.json``."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_nas.report.fields import Fields

__all__ = ["ArchitectureRecord", "StageRecord"]


@dataclass(frozen=True)
class StageRecord:
    """A stage of a network.

    Attributes:
        width: Its channels, or None where a file does not tell.
        kinds: The kind of each block: ``ibn``, ``fused`` or ``ds``.
    """

    width: int | None
    kinds: tuple[str, ...]

    @classmethod
    def from_fields(cls, fields: Fields) -> StageRecord:
        """Return the stage that a file holds."""
        blocks = fields.listed("blocks", "a list of blocks")
        kinds = (blocks.nested(place).nested("option").text("kind") for place in blocks)
        return cls(fields.whole_or_none("width"), tuple(kinds))


@dataclass(frozen=True)
class ArchitectureRecord:
    """The architecture of a subnet.

    Attributes:
        input_size: Channels, height and width of the images; empty where a file does not tell.
        stem_width: Channels of the stem, or None where a file does not tell.
        stages: The stages of blocks; none in a file of another format.
    """

    input_size: tuple[int, ...] = ()
    stem_width: int | None = None
    stages: tuple[StageRecord, ...] = ()

    @classmethod
    def from_fields(cls, fields: Fields) -> ArchitectureRecord:
        """Return the architecture that a file holds.

        Raises:
            ValueError: A field is not in its form, such as a block without its kind.
        """
        stem = fields.nested_or_none("stem")
        size = fields.listed("input_size", "a list of whole numbers") if fields.has("input_size") else None
        stages = fields.listed("stages", "a list of stages") if fields.has("stages") else None
        return cls(
            input_size=() if size is None else tuple(size.whole(place) for place in size),
            stem_width=None if stem is None else stem.whole_or_none("width"),
            stages=() if stages is None else tuple(StageRecord.from_fields(stages.nested(place)) for place in stages),
        )

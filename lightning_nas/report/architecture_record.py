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
        kinds = (block.nested("option").text("kind") for block in fields.nested_list("blocks"))
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
        return cls(
            input_size=fields.whole_numbers("input_size") if fields.has("input_size") else (),
            stem_width=None if stem is None else stem.whole_or_none("width"),
            stages=tuple(map(StageRecord.from_fields, fields.nested_list("stages"))) if fields.has("stages") else (),
        )

"""Devices: the chips that an estimator estimates, as data beside their tables of measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lightning_nas.io.reading import JsonObject, shown
from lightning_nas.io.writing import write_text

__all__ = ["ANALYTIC", "FORMAT", "TABLE_ONLY", "Device", "check_name"]

FORMAT = 1
"""Of the JSON files of devices."""

# More than there are channels; and what leaves room for the endings of files.
_MAX_LANES, _MAX_NAME = 2**16, 200

TABLE_ONLY = "csv"
"""Backend of a device of which there is a table and nothing that could measure more."""

ANALYTIC = "analytic"
"""Backend of a device that is a closed form, which is as fast as a table and needs none."""


@dataclass(frozen=True)
class Device:
    """A device and the backend that measures it.

    Attributes:
        name: Name of the device, of its table and of other files of it, see `check_name`.
        backend: Name of the backend, a module of `lightning_nas.estimator.measure.backends`; or `TABLE_ONLY`.
        lanes: Channels that the device processes together; latency against channels steps at its multiples.
        is_split: Whether the table holds operators, whose costs add up to those of subgraphs, or whole subgraphs.
        settings: What the backend must know, in its own terms.
        correction: What the sum over the parts of a network is multiplied by to be the latency of the whole.
        spread: Half width of the interval around such a sum, as a share of it, beside what its predicted parts may be
            off: parts differ a little from one network to the next.
        errors: What a predicted part may be off, by kind, as
            `lightning_nas.estimator.fit.interval.Errors` holds it; empty where it is not known yet.
        record: What was measured, by which versions, in which units, and with what error. Not used to estimate.
        folder: Where its file is; paths in the settings are relative to it.

    Example::

        >>> Device("npu", "vela", 16).lanes
        16
    """

    name: str
    backend: str
    lanes: int
    is_split: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)
    correction: float = 1.0
    spread: float = 0.02
    errors: Mapping[str, Sequence[float]] = field(default_factory=dict)
    record: JsonObject = field(default_factory=dict, compare=False)
    folder: Path = field(default=Path(), compare=False)

    def __post_init__(self) -> None:
        # Files come from anybody: what is of another type would fail later, and say nothing about why.
        check_name(self.name)
        types = (("backend", str), ("is_split", bool), ("settings", Mapping), ("errors", Mapping), ("record", Mapping))
        for attribute, kind in types:
            if not isinstance(getattr(self, attribute), kind):
                words = {str: "text", bool: "true or false"}.get(kind, "an object of names and values")
                raise ValueError(f"`{attribute}` of a device must be {words}; got {shown(getattr(self, attribute))}.")
        if not isinstance(self.lanes, int) or isinstance(self.lanes, bool) or self.lanes < 1:
            raise ValueError(f"`lanes` of device {self.name!r} must be a positive integer; got {shown(self.lanes)}.")
        if self.lanes > _MAX_LANES:
            raise ValueError(f"`lanes` of device {self.name!r} must be {_MAX_LANES} at most; got {shown(self.lanes)}.")
        if not _is_number(self.correction) or not 0.5 <= self.correction <= 2:
            raise ValueError(
                f"`correction` of device {self.name!r} must be from 0.5 to 2; got {shown(self.correction)}."
            )
        if not _is_number(self.spread) or not 0 <= self.spread < 1:
            raise ValueError(f"`spread` of device {self.name!r} must be from 0 to below 1; got {shown(self.spread)}.")

    @property
    def measured_by(self) -> Mapping[str, object]:
        """Versions and machine that the table was measured by; empty where its record does not say."""
        found = self.record.get("measured_by")
        return found if isinstance(found, Mapping) else {}

    def save(self, path: Path) -> None:
        """Write the device to a JSON file, whole or not at all."""
        data = {"format": FORMAT, **asdict(self)}
        del data["folder"]
        write_text(path, json.dumps(data, indent=1) + "\n")


def check_name(name: object) -> None:
    r"""Refuse what cannot name a device: its files are called so, and must lie where they are put.

    Names are those of files, such as ``my chip (2)``: up to 200 bytes of what can be printed, without ``/``, ``\`` and
    ``:``, which part folders and drives, and not hidden by a point in front.

    Raises:
        ValueError: The name is another.

    Example::

        >>> check_name("../chip")
        Traceback (most recent call last):
        ValueError: A device is named as a file is, without / \ : and a point in front; got '../chip'.
    """
    if not isinstance(name, str):
        raise ValueError(f"`name` of a device must be text; got {shown(name)}.")
    is_plain = bool(name) and name.isprintable() and name[0] != "." and not set(name) & set("/\\:")
    if not is_plain or len(name.encode()) > _MAX_NAME:
        raise ValueError(f"A device is named as a file is, without / \\ : and a point in front; got {shown(name)}.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""The page of networks that were converted, searched and taken elsewhere, one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["NUM_MEMBERS", "NetworkRow", "networks_page", "read_rows"]

NUM_MEMBERS = 6
"""Random members of a space that are tried."""

_INTRO = (
    "Written by `python docs/pages/write.py` from [networks.json](networks.json), which `python"
    " tests/benchmarks/networks.py` records: one process a network, on one core. The networks are those of"
    " `tests/zoo.py`, with random weights, as people have them; no class of theirs is known to the package. Spaces are"
    " those of `SpaceOptions(kinds=('ibn', 'fused', 'skip'))` for 16 lanes, checked; prices are those of"
    " `ethos_u85_1024`, where operators without a row are priced by their bytes."
)

_COLUMNS = f"""* *Space* and *converted*: seconds of `space_of` and of `supernet_from`.
* *Equal*: the supernet's outputs are the source's, bit by bit.
* *Groups*: width groups that can be narrowed, of those that are no output. *Convolutions*: those of which a width can
  be chosen. *Blocks*: by their kind; *skips*: blocks that can be left out. *Members*: networks of the space.
* *Narrower*: of {NUM_MEMBERS} networks of random widths, odd ones too, those that have exactly the priced parts that
  the space says.
* *Derived*: of {NUM_MEMBERS} random members, those whose plain network equals the supernet's path bit by bit.
  *Priced*: those that the table prices as the estimator prices the plain network, to 1e-9, with the same peak memory.
* *Exported*: `torch.export` of a derived network, with the outputs of that network. *Reloaded*: `torch.save`, then
  `torch.load` in a process without this package, outputs equal bit by bit.
* *Search*: latency of the subnet of a search at 0.8x, over the source's, after 6 steps of an untouched `Trainer`.
"""

_MODELOPT = (
    "NVIDIA's ModelOpt 0.47 (`autonas`) converts 51 of these 54 networks, with 39 % of their convolutions elastic: 0 of"
    " 52 in timm's `mobilenetv2_100`, 2 of 37 in the YOLO. It chooses widths and depth, and no fused blocks. Its own"
    " nine are resnet18 and efficientnet_b0 of torchvision and of timm, mobilenet_v3_small of both, torchvision's"
    " mobilenet_v2, LR-ASPP and SSDLite, each in 0.3 to 4.3 s. timm's mobilenet_v3_small is not of this list. Here:"
)

_NINE = (
    *("torchvision/resnet18", "timm/resnet18", "torchvision/mobilenet_v2", "torchvision/efficientnet_b0"),
    *("timm/efficientnet_b0", "torchvision/mobilenet_v3_small", "segmentation/lraspp_mobilenet_v3_large"),
    "detection/ssdlite320_mobilenet_v3_large",
)

_MAX_REASONS = 4


@dataclass(frozen=True)
class NetworkRow:
    """The results of one network.

    Attributes:
        accepted: Whether it became a supernet.
        space_s: Seconds of reading its space, with the check of narrower networks.
        convert_s: Seconds of its conversion.
        equal: Whether the supernet computes what the network did, bit by bit.
        groups: Width groups that can be narrowed.
        of_groups: All of them but outputs.
        convolutions: Convolutions of which a width can be chosen.
        of_convolutions: All convolutions.
        blocks: Number of blocks of each kind.
        skips: Blocks that can be left out.
        members: Networks of its space, as text.
        narrower: Narrower networks with exactly the parts that the space says.
        derived: Random members that equal their path bit by bit.
        priced: Random members that the table prices as the estimator prices the plain network.
        source_exports: Whether `torch.export` takes the source network.
        exports: Whether it takes a derived one.
        reloads: Whether a derived one computes the same in a process without this package.
        search_ratio: Latency of the subnet of a search over that of the source; 0 where there is none.
        search_s: Seconds of the search.
        errors: By the step that failed, the message.
        reasons: Number of places that are not searched, by reason.
    """

    accepted: bool = False
    space_s: float = 0.0
    convert_s: float = 0.0
    equal: bool = False
    groups: int = 0
    of_groups: int = 0
    convolutions: int = 0
    of_convolutions: int = 0
    blocks: Mapping[str, int] = field(default_factory=dict)
    skips: int = 0
    members: str = ""
    narrower: int = 0
    derived: int = 0
    priced: int = 0
    source_exports: bool = False
    exports: bool = False
    reloads: bool = False
    search_ratio: float = 0.0
    search_s: float = 0.0
    errors: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_exact(self) -> bool:
        """Whether all members tried are computed and priced exactly."""
        return self.accepted and self.equal and (self.narrower, self.derived, self.priced) == (NUM_MEMBERS,) * 3

    @property
    def is_whole(self) -> bool:
        """Whether a width of every convolution can be chosen."""
        return self.accepted and self.convolutions == self.of_convolutions


def read_rows(path: Path) -> dict[str, NetworkRow]:
    """Read the rows of a recorded file, by the names of the networks.

    Args:
        path: The file; without it there are no rows.
    """
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: NetworkRow(**row) for name, row in sorted(found.items())}


def networks_page(rows: Mapping[str, NetworkRow]) -> str:
    """Return the page as markdown, a pure function of the rows.

    Args:
        rows: The networks by their names.
    """
    nine = {name: rows[name] for name in _NINE if name in rows}
    parts = [
        "# Networks as people have them",
        _INTRO,
        _sums([*rows.values()]),
        _table(_HEADS, [(name, *_cells(row)) for name, row in sorted(rows.items())]),
        _COLUMNS.rstrip(),
        "## What is not searched, and what failed",
        _table(("network", "why"), [(name, _why(row)) for name, row in sorted(rows.items()) if _why(row)]),
        "## Beside ModelOpt",
        _MODELOPT,
        _table(
            ("network", "seconds", "convolutions", "blocks", "members"), [(n, *_short(row)) for n, row in nine.items()]
        ),
    ]
    return "\n\n".join(parts) + "\n"


_HEADS = (
    *("network", "space, s", "converted, s", "equal", "groups", "convolutions", "blocks", "skips", "members"),
    *("narrower", "derived", "priced", "exported", "reloaded", "search", "search, s"),
)


def _sums(rows: Sequence[NetworkRow]) -> str:
    count = len(rows)
    convolutions = sum(row.convolutions for row in rows), sum(row.of_convolutions for row in rows)
    share = f" ({100 * convolutions[0] / convolutions[1]:.0f} %)" if convolutions[1] else ""
    figures = (
        f"**Accepted: {sum(row.accepted for row in rows)} of {count}**, {sum(row.equal for row in rows)} equal to the"
        " source bit by bit.",
        f"**Every width exact: {sum(row.is_exact for row in rows)} of {count}**: all members that were tried are equal"
        " to their paths, and priced exactly.",
        f"A width of every convolution can be chosen in {sum(row.is_whole for row in rows)} networks; of all"
        f" convolutions in {convolutions[0]} of {convolutions[1]}{share}.",
        f"{sum(row.exports for row in rows)} derived networks are exported, of"
        f" {sum(row.source_exports for row in rows)} whose source is; {sum(row.reloads for row in rows)} are reloaded;"
        f" {sum(row.search_ratio > 0 for row in rows)} searches end within their budget.",
    )
    return "\n".join(f"* {figure}" for figure in figures)


def _cells(row: NetworkRow) -> tuple[str, ...]:
    if not row.accepted:
        return ("not accepted",) + ("",) * (len(_HEADS) - 2)
    exported = "yes" if row.exports else ("no" if row.source_exports else "no, nor its source")
    return (
        *(f"{row.space_s:.1f}", f"{row.convert_s:.1f}", _yes(row.equal), f"{row.groups} of {row.of_groups}"),
        *(f"{row.convolutions} of {row.of_convolutions}", _blocks(row), str(row.skips), row.members),
        *(f"{number} of {NUM_MEMBERS}" for number in (row.narrower, row.derived, row.priced)),
        *(exported, _yes(row.reloads), f"{row.search_ratio:.2f}x" if row.search_ratio else "no"),
        f"{row.search_s:.1f}" if row.search_ratio else "",
    )


def _short(row: NetworkRow) -> tuple[str, ...]:
    if not row.accepted:
        return ("not accepted", "", "", "")
    seconds = f"{row.space_s + row.convert_s:.1f}"
    return seconds, f"{row.convolutions} of {row.of_convolutions}", _blocks(row), row.members


def _blocks(row: NetworkRow) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(row.blocks.items())) or "-"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _why(row: NetworkRow) -> str:
    """Return what failed, then the commonest reasons why parts are not searched."""
    failed = [f"**{step}**: {message}" for step, message in row.errors.items()]
    commonest = sorted(row.reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = [f"{count}x {reason[:140]}" for reason, count in commonest[:_MAX_REASONS]]
    rest = sum(count for _, count in commonest[_MAX_REASONS:])
    return "; ".join([*failed, *shown, *([f"{rest} for other reasons"] if rest else [])])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)

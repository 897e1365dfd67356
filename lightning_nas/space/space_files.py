"""Search spaces as builtins, for files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import get_args

from lightning_nas.graph.blocks import Block, BlockKind
from lightning_nas.graph.elastic_network import ChannelCount, ElasticNetwork, ElasticWidth
from lightning_nas.io.reading import FORMAT, JsonObject, listed, only, reading, shown, text, whole
from lightning_nas.space._limits import MAX_NODES, MAX_OPTIONS, MAX_PATH, MAX_WIDTH, option_fields
from lightning_nas.space.block_option import BlockOption
from lightning_nas.space.choice import Choice
from lightning_nas.space.multiplier import DepthMultiplier
from lightning_nas.space.network_files import network_from_dict, network_to_dict

__all__ = ["space_fields", "space_to_dict"]

_MAX_CHANNELS = 2**24


def space_to_dict(
    network: ElasticNetwork, multipliers: Sequence[DepthMultiplier], choices: Sequence[Choice]
) -> dict[str, object]:
    """Return builtins that `space_fields` reads back."""
    return {
        "format": FORMAT,
        "network": network_to_dict(network.network),
        "groups": [[width.name, width.size, width.frozen] for width in network.widths],
        "counts": [[_count_row(count) for count in counts] for counts in network.counts],
        "multipliers": [asdict(multiplier) for multiplier in multipliers],
        "choices": [{**asdict(choice), "inputs": _count_row(choice.inputs)} for choice in choices],
    }


def space_fields(
    data: JsonObject,
) -> tuple[ElasticNetwork, tuple[DepthMultiplier, ...], tuple[Choice, ...], list[list[str]]]:
    """Return what a space is made of, as `space_to_dict` wrote it: network, multipliers, choices and what is left out.

    Raises:
        ValueError: A field is missing or of the wrong form.
    """
    with reading("search space", data):
        network = network_from_dict(data["network"])
        groups = tuple(_group(row) for row in listed(data["groups"], "groups", MAX_NODES))
        rows = listed(data["counts"], "counts", len(network.operations))
        counts = tuple((_count(source, len(groups)), _count(result, len(groups))) for source, result in rows)
        if len(counts) != len(network.operations):
            raise ValueError(f"`counts` must hold {len(network.operations)} pairs; got {len(counts)}.")
        keys = tuple((number, 0) for number in range(len(network.operations)))
        elastic = ElasticNetwork(network, groups, counts, keys)
        multipliers = tuple(
            _multiplier(row, len(groups)) for row in listed(data["multipliers"], "multipliers", MAX_NODES)
        )
        choices = tuple(_choice(row, len(groups)) for row in listed(data["choices"], "choices", MAX_NODES))
        left_out = [
            [text(value, "left_out", MAX_PATH) for value in listed(row, "left_out", 3)]
            for row in listed(data["left_out"], "left_out", 4 * MAX_NODES)
        ]
    return elastic, multipliers, choices, left_out


def _count_row(count: ChannelCount) -> list[object]:
    return [count.constant, *(list(gain) for gain in count.gains)]


def _count(row: object, num_groups: int) -> ChannelCount:
    constant, *gains = listed(row, "counts", MAX_NODES)
    pairs = (listed(pair, "counts", 2) for pair in gains)
    found = tuple(
        (whole(group, "counts", num_groups - 1, least=0), whole(gain, "counts", _MAX_CHANNELS)) for group, gain in pairs
    )
    return ChannelCount(whole(constant, "counts", _MAX_CHANNELS, least=0), found)


def _group(row: object) -> ElasticWidth:
    name, size, frozen = listed(row, "groups", 3)
    return ElasticWidth(
        text(name, "groups", MAX_PATH), whole(size, "groups", _MAX_CHANNELS), text(frozen, "groups", MAX_PATH)
    )


def _multiplier(data: object, num_groups: int) -> DepthMultiplier:
    found = only(data, ("name", "groups", "widths"), "A depth multiplier")
    groups = listed(found["groups"], "groups", MAX_NODES)
    rows = (listed(row, "widths", MAX_NODES) for row in listed(found["widths"], "widths", MAX_OPTIONS))
    return DepthMultiplier(
        text(found["name"], "name", MAX_PATH),
        tuple(whole(group, "groups", num_groups - 1, least=0) for group in groups),
        tuple(tuple(whole(width, "widths", MAX_WIDTH) for width in row) for row in rows),
    )


def _choice(data: object, num_groups: int) -> Choice:
    found = only(data, [field.name for field in fields(Choice)], "A block")
    block = found["block"]
    return Choice(
        text(found["path"], "path", MAX_PATH),
        tuple(BlockOption(**option_fields(row)) for row in listed(found["options"], "options", MAX_OPTIONS)),
        BlockOption(**option_fields(found["own"])),
        None if block is None else _block(block, num_groups),
        whole(found["size"], "size", MAX_WIDTH, least=0),
        _count(found["inputs"], num_groups),
        text(found["residual"], "residual", MAX_PATH),
    )


def _block(data: object, num_groups: int) -> Block:
    found = dict(only(data, [field.name for field in fields(Block)], "The convolutions of a block"))
    group = whole(found.pop("group"), "group", num_groups - 1, least=0)
    height, width = (whole(size, "kernel", MAX_PATH) for size in listed(found.pop("kernel"), "kernel", 2))
    kind = found.pop("kind")
    kinds: dict[object, BlockKind] = {name: name for name in get_args(BlockKind)}
    if kind not in kinds:
        raise ValueError(f"`kind` must be one of {', '.join(get_args(BlockKind))}; got {shown(kind)}.")
    texts = {name: text(value, name, MAX_PATH) for name, value in found.items()}
    return Block(kinds[kind], group=group, kernel=(height, width), **texts)

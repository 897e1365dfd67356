"""`Suggestion`: one change of a network that makes it cost less, and what it saves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lightning_nas.estimator.cost_model import CostModel
from lightning_nas.graph.decompose import split
from lightning_nas.graph.fold import folded
from lightning_nas.graph.memory import network_memory
from lightning_nas.graph.network import Network
from lightning_nas.space.architecture import Architecture
from lightning_nas.space.block_option import BlockOption
from lightning_nas.space.spec import SearchSpace

__all__ = ["Change", "NetworkCost", "Suggestion", "SuggestionKind", "changed", "network_cost", "suggestion"]

SuggestionKind = Literal[
    "fuse", "unfuse", "align", "narrow", "widen", "skip", "depthwise", "input", "activation", "excitation", "stock"
]
"""``fuse``: one convolution in place of the expanding and the depthwise one of an inverted bottleneck; ``unfuse``: the
other way; ``align``: channels down to a multiple of the lanes; ``narrow``: fewer channels where they cost far more than
elsewhere; ``widen``: channels that fill lanes which are paid for already; ``skip``: leave a residual block out;
``depthwise``: a standard convolution in place of a depthwise one; ``input``: smaller images; ``activation``: ReLU in
place of a dearer one; ``excitation``: no squeeze-and-excitation; ``stock``: another network."""


@dataclass(frozen=True)
class NetworkCost:
    """What a network costs.

    Attributes:
        latency_ms: Latency for one image.
        parameter_bytes: Weights and biases, as int8.
        peak_bytes: Peak of the activations, as int8.
    """

    latency_ms: float
    parameter_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Change:
    """How a space applies a suggestion: the option of one node.

    Attributes:
        node: Number of the node: multipliers first, then blocks.
        block: The option of a block.
        widths: The widths of a multiplier's groups; empty for a block.
    """

    node: int
    block: BlockOption | None = None
    widths: tuple[int, ...] = ()


@dataclass(frozen=True)
class Suggestion:
    """One change of a network, and what it saves alone.

    Attributes:
        kind: See `SuggestionKind`.
        path: Module that is changed; empty for the whole network.
        text: What to do, in words.
        saved_ms: Milliseconds of latency saved.
        saved_parameter_bytes: Bytes of parameters saved; negative where there are more of them.
        saved_peak_bytes: Bytes of peak activations saved.
        change: How the space around the network applies it; None where that is to be done by hand.
        harm: What it does to the trained network once that is refitted: the squared distance of what its last layers
            give, relative to its variance. None where it was not measured.
    """

    kind: SuggestionKind
    path: str
    text: str
    saved_ms: float
    saved_parameter_bytes: int
    saved_peak_bytes: int
    change: Change | None = None
    harm: float | None = None


def suggestion(
    kind: SuggestionKind,
    where: tuple[str, str],
    before: NetworkCost,
    after: NetworkCost,
    change: Change | None = None,
) -> Suggestion:
    """Return a suggestion with what it saves.

    Args:
        kind: Its kind.
        where: The module that is changed, and what to do.
        before: Cost of the network.
        after: Cost of the changed one.
        change: How the space applies it.
    """
    return Suggestion(
        kind,
        *where,
        before.latency_ms - after.latency_ms,
        before.parameter_bytes - after.parameter_bytes,
        before.peak_bytes - after.peak_bytes,
        change,
    )


def network_cost(estimator: CostModel, network: Network) -> NetworkCost:
    """Return what a network costs, which need be no member of a space.

    Args:
        estimator: The estimator of the device.
        network: The network, folded or as it was traced.
    """
    whole = folded(network)
    memory = network_memory(whole)
    latency_ms = float(estimator.predict_ms(split(whole)).sum())
    return NetworkCost(latency_ms, memory.parameter_bytes, memory.peak_activation_bytes)


def changed(space: SearchSpace, changes: Sequence[Change]) -> Architecture:
    """Return the source network with changes, none two of one node.

    Args:
        space: The space around the network.
        changes: The changes; their options need not be among those that the space offers.
    """
    widths, options = list(space.network.sizes), [choice.own for choice in space.choices]
    first = len(space.multipliers)
    for change in changes:
        if change.block is not None:
            options[change.node - first] = change.block
        else:
            for group, width in zip(space.multipliers[change.node].groups, change.widths, strict=True):
                widths[group] = width
    return space.member(space.with_hidden(widths, options), options)

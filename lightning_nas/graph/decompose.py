"""Decomposition of a plain network into subgraphs, by its operators and not by the classes of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from torch import Tensor, nn

from lightning_nas.graph.network import IMAGE, Network, Operation
from lightning_nas.graph.subgraph import Subgraph, SubgraphKind
from lightning_nas.graph.trace import Fallback, trace

__all__ = ["Run", "decompose", "runs_of", "split", "subgraph_of"]

Run: TypeAlias = tuple[SubgraphKind | None, tuple[int, ...]]
"""What some operations make, None for a single one that belongs to no block; and their numbers."""


def decompose(model: nn.Module, example_input: Tensor, fallback: Fallback | None = None) -> list[Subgraph]:
    """Split a network into subgraphs, in order of execution, each with the path of its module.

    It is run once in evaluation mode, on the first image. Blocks are recognised by their operators, so any module that
    runs a 1x1 convolution, a depthwise one and a 1x1 projection is an inverted bottleneck. What belongs to no block is
    a subgraph of one operator. Of torchvision's detectors the backbone and the heads are split; what picks the boxes
    afterwards is not priced.

    Args:
        model: A module that takes images.
        example_input: Images (NCHW).
        fallback: ``bytes`` keeps operators without a model, to be priced by the bytes that they move; by default they
            are refused.

    Raises:
        ValueError: An operator has no model; the message names it and its module. Or the network does not run on such
            images, or it runs no convolution and no linear layer.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 16, 1))
        >>> for part in decompose(net, torch.zeros(1, 3, 32, 32)):
        ...     print(part)
        stem 32x32 3->8->8 k3 s2
        ds 16x16 8->8->16 k3 s1
    """
    return split(trace(model, example_input, fallback))


def split(network: Network) -> list[Subgraph]:
    """Split a traced network into subgraphs, in order of execution."""
    found = runs_of(network)
    return [subgraph_of(kind, [network.operations[number] for number in numbers]) for kind, numbers in found]


def runs_of(network: Network) -> list[Run]:
    """Return the operations of each subgraph of a traced network, in order of execution."""
    return _Matcher(network).run()


def subgraph_of(kind: SubgraphKind | None, operations: Sequence[Operation]) -> Subgraph:
    """Return the subgraph of a run of operations.

    Args:
        kind: What they make, or None for a single operation that belongs to no block.
        operations: The run.
    """
    return _subgraph(kind, operations) if kind else _single(operations[0])


class _Matcher:
    """Groups operations into subgraphs, from the image on; the longest pattern wins."""

    def __init__(self, network: Network) -> None:
        self.operations = network.operations
        self.consumers: dict[int, list[int]] = {}
        for number, operation in enumerate(network.operations):
            for source in operation.inputs:
                self.consumers.setdefault(source, []).append(number)
        for number in network.outputs:
            # Who else reads a result is unknown, so nothing can be chained to it.
            self.consumers.setdefault(number, []).append(len(network.operations))
        self.taken: set[int] = set()

    def run(self) -> list[Run]:
        runs: list[Run] = []
        for number in range(len(self.operations)):
            if number not in self.taken:
                kind, chain = self._match(number)
                self.taken.update(chain)
                runs.append((kind, tuple(chain)))
        return runs

    def _match(self, start: int) -> tuple[SubgraphKind | None, list[int]]:
        chain = self._follow(start)
        names = "".join(_letter(self.operations[number]) for number in chain)
        if self.operations[start].inputs == (IMAGE,):
            names = names[:1].upper()
        kind, length = next(((kind, len(p)) for p, kind in _PATTERNS if names.startswith(p)), (None, 1))
        if kind == "fused" and not self._is_fused(*chain[:2]):
            kind, length = "conv", 1
        chain = chain[:length]
        return kind, self._with_residual(chain) if kind in ("conv", "ds", "ibn", "fused") else chain

    def _is_fused(self, start: int, projection: int) -> bool:
        """Whether a convolution and a 1x1 are one block: if the 1x1 is its linear projection.

        Two on a single pixel are a squeeze and an excitation.
        """
        first, second = self.operations[start], self.operations[projection]
        return first.is_bounded and not second.is_bounded and max(first.layer.kernel, *first.layer.in_shape[:2]) > 1

    def _follow(self, start: int) -> list[int]:
        """Return up to three operations of which each is the only user of the one before."""
        chain = [start]
        while len(chain) < 3:
            users = self.consumers.get(chain[-1], [])
            if len(users) != 1 or users[0] == len(self.operations) or len(self.operations[users[0]].inputs) != 1:
                break
            chain.append(users[0])
        return chain

    def _with_residual(self, chain: list[int]) -> list[int]:
        """Append the addition that follows, if its other operand is there by then: it is chained to what runs last."""
        users = self.consumers.get(chain[-1], [])
        if len(users) == 1 and users[0] < len(self.operations) and not self.operations[chain[-1]].is_bounded:
            user = self.operations[users[0]]
            if user.layer.operator == "add" and user.layer.form is None and max(user.inputs) == chain[-1]:
                return [*chain, users[0]]
        return chain


def _subgraph(kind: SubgraphKind, run: Sequence[Operation]) -> Subgraph:
    first, last = run[0].layer, run[-1].layer
    spatial = max((operation.layer for operation in run), key=lambda layer: (layer.kernel, layer.stride))
    hidden = first.in_channels if kind in ("classifier", "ds") else first.out_channels
    sizes = (*first.in_shape, hidden, last.out_channels, spatial.kernel, spatial.stride)
    path = _common_path([operation.path for operation in run])
    return Subgraph(kind, *sizes, residual=last.operator == "add", path=path)


def _single(operation: Operation) -> Subgraph:
    """Return an operator that belongs to no block."""
    layer = operation.layer
    is_general = layer.operator in ("conv", "depthwise") and layer.form is not None
    sizes = (*layer.in_shape, layer.out_channels, layer.out_channels, layer.kernel, layer.stride)
    return Subgraph("general_conv" if is_general else layer.operator, *sizes, path=operation.path, form=layer.form)


# p: 1x1 convolution, k: any other, d: depthwise, o: pool, l: linear, a: add; x: another;
# upper case: the first of the network.
_PATTERNS: tuple[tuple[str, SubgraphKind], ...] = (
    ("pdp", "ibn"),
    ("pol", "head"),
    ("kol", "head"),
    ("kp", "fused"),
    ("pp", "fused"),
    ("dp", "ds"),
    ("ol", "classifier"),
    ("k", "conv"),
    ("p", "conv"),
    ("K", "stem"),
    ("P", "stem"),
)


def _letter(operation: Operation) -> str:
    layer = operation.layer
    if layer.form is not None:
        return "x"
    if layer.operator == "conv":
        return "p" if layer.kernel == 1 and layer.stride == 1 else "k"
    return {"depthwise": "d", "pool": "o", "linear": "l"}.get(layer.operator, "x")


def _common_path(paths: Sequence[str]) -> str:
    """Return the module that holds all of them, or the first where that is the whole network."""
    parts = [path.split(".") for path in paths]
    common = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common) or paths[0]

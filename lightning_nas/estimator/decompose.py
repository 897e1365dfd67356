"""Split a plain network into subgraphs by what it runs, not by the classes of its blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_nas.estimator.subgraph import Subgraph, SubgraphKind
from lightning_nas.estimator.trace import IMAGE, Operation, trace

__all__ = ["decompose"]


def decompose(model: nn.Module, example_input: Tensor) -> list[Subgraph]:
    """Split a network into subgraphs, in order of execution, each with the path of its module.

    It is run once in evaluation mode, on the first image. Blocks are recognised by their operators, so any module that
    runs a 1x1 convolution, a depthwise one and a 1x1 projection is an inverted bottleneck.

    Args:
        model: A network out of convolutions, residual additions, one global pool and a linear layer.
        example_input: Images (NCHW).

    Raises:
        ValueError: An operator or a pattern of them has no cost model; the message names it and its module.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Conv2d(8, 16, 1))
        >>> for part in decompose(net, torch.zeros(1, 3, 32, 32)):
        ...     print(part)
        stem 32x32 3->8->8 k3 s2
        ds 16x16 8->8->16 k3 s1
    """
    return _Matcher(trace(model, example_input)).run()


class _Matcher:
    """Groups operations into subgraphs, from the image on; the longest pattern wins."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        self.consumers: dict[int, list[int]] = {}
        for number, operation in enumerate(operations):
            for source in operation.inputs:
                self.consumers.setdefault(source, []).append(number)
        self.taken: set[int] = set()

    def run(self) -> list[Subgraph]:
        parts = []
        for number in range(len(self.operations)):
            if number not in self.taken:
                chain = self._match(number)
                self.taken.update(chain)
                parts.append(self._subgraph(chain))
        return parts

    def _match(self, start: int) -> list[int]:
        chain = self._follow(start)
        names = "".join(_letter(self.operations[number]) for number in chain)
        if self.operations[start].inputs == (IMAGE,):
            names = names[:1].upper()
        kind, length = next(((kind, len(p)) for p, kind in _PATTERNS if names.startswith(p)), (None, 0))
        # A spatial convolution and a 1x1 are one block only if the 1x1 is its linear projection, else two.
        if kind == "fused" and (self.operations[chain[1]].is_bounded or not self.operations[start].is_bounded):
            kind, length = "conv", 1
        if kind is None:
            operation = self.operations[start]
            raise ValueError(
                f"Module {operation.path!r} runs {operation.name!r} where no subgraph with a cost model has one:"
                f" patterns are stem, 1x1-depthwise-1x1, KxK-1x1, depthwise-1x1 (each with an optional residual), a"
                f" single convolution, and pool-linear."
            )
        self.kind: SubgraphKind = kind
        return self._with_residual(chain[:length])

    def _follow(self, start: int) -> list[int]:
        """Return up to three operations of which each is the only user of the one before."""
        chain = [start]
        while len(chain) < 3:
            users = self.consumers.get(chain[-1], [])
            if len(users) != 1 or len(self.operations[users[0]].inputs) != 1:
                break
            chain.append(users[0])
        return chain

    def _with_residual(self, chain: list[int]) -> list[int]:
        if self.kind not in ("ds", "ibn", "fused"):
            return chain
        source, users = self.operations[chain[0]].inputs[0], self.consumers.get(chain[-1], [])
        if len(users) == 1 and sorted(self.operations[users[0]].inputs) == sorted((source, chain[-1])):
            return [*chain, users[0]]
        return chain

    def _subgraph(self, chain: list[int]) -> Subgraph:
        run = [self.operations[number] for number in chain]
        first, spatial = run[0], max(run, key=lambda operation: (operation.kernel, operation.stride))
        residual = run[-1].name == "add"
        out_channels = run[-1].out_shape[1]
        hidden = {"classifier": first.in_shape[1], "ds": first.in_shape[1]}.get(self.kind, first.out_shape[1])
        _, channels, height, width = first.in_shape
        path = _common_path([operation.path for operation in run])
        return Subgraph(
            self.kind,
            height,
            width,
            channels,
            hidden,
            out_channels,
            spatial.kernel,
            spatial.stride,
            residual,
            path,
        )


# p: 1x1 convolution, k: any other, d: depthwise, o: pool, l: linear, a: add; upper case: the first of the network.
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
    if operation.name == "conv":
        return "p" if operation.kernel == 1 and operation.stride == 1 else "k"
    return {"depthwise": "d", "pool": "o", "linear": "l", "add": "a"}[operation.name]


def _common_path(paths: Sequence[str]) -> str:
    """Return the module that holds all of them, or the first where that is the whole network."""
    parts = [path.split(".") for path in paths]
    common = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    return ".".join(common) or paths[0]

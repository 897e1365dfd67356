"""`ElasticTail`: the modules that read the blocks, elastic since the blocks' widths are searched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from lightning_nas.graph.eval_mode import undisturbed
from lightning_nas.graph.layer import Layer
from lightning_nas.graph.network import Operation
from lightning_nas.graph.trace import trace
from lightning_nas.space.network import tail_of
from lightning_nas.space.tail import Tail, from_block
from lightning_nas.supernet.elastic import ElasticBatchNorm2d, ElasticConv2d, elastic_conv, elastic_norm
from lightning_nas.supernet.replacing import check_replaceable

__all__ = ["ElasticTail", "elastic_tail", "head_tail", "read_tail"]

Elastic = ElasticConv2d | ElasticBatchNorm2d

_PASSES = ("pool", "avg_pool", "max_pool", "resize", "activation", "norm", "depthwise")


class ElasticTail:
    """The operations behind the blocks of a supernet, and the elastic modules among them.

    Attributes:
        tail: Its operations, norms and activations each on their own, at full width.
        modules: The elastic modules by their paths in the network.
    """

    def __init__(self, tail: Tail, modules: dict[str, Elastic]) -> None:
        self.tail = tail
        self.modules = modules

    def reading(self, blocks: Sequence[int]) -> list[tuple[Elastic, Operation]]:
        """Return the elastic modules whose input channels are those of any of `blocks`, with what they run."""
        wanted = set(blocks)
        return [
            (self.modules[operation.path], operation)
            for operation, read in zip(self.tail.operations, self.tail.sources(), strict=True)
            if operation.path in self.modules and read & wanted
        ]

    def at_widths(self, block_widths: Sequence[int]) -> list[tuple[Elastic, int, int]]:
        """Return each elastic module with its input and output channels behind blocks of such widths."""
        return [
            (self.modules[operation.path], operation.layer.in_channels, operation.layer.out_channels)
            for operation in self.tail.resized(block_widths).operations
            if operation.path in self.modules
        ]


def head_tail(conv: ElasticConv2d, norm: ElasticBatchNorm2d, num_blocks: int) -> ElasticTail:
    """Return the tail of a classifier: the 1x1 convolution behind the last block, and its norm."""
    widths = conv.in_channels, conv.out_channels
    operations = (
        Operation(Layer("conv", 1, 1, *widths), (from_block(num_blocks - 1),), "head"),
        Operation(Layer("norm", 1, 1, widths[1], widths[1]), (0,), "head_norm"),
    )
    return ElasticTail(Tail(operations), {"head": conv, "head_norm": norm})


def read_tail(model: nn.Module, example_input: Tensor, block_paths: Sequence[str], fold: bool = True) -> Tail:
    """Return the operations behind a model's blocks, after checking that they can follow the blocks' widths.

    Args:
        model: The whole model.
        example_input: One batch that it can run, shape (N, C, H, W).
        block_paths: Paths of its blocks, in order of execution.
        fold: Whether norms and activations are folded into what they follow.

    Raises:
        ValueError: An operator reads blocks in a way that cannot follow their widths; the message names its module.
    """
    with undisturbed(model):
        tail = tail_of(trace(model, example_input, fold=fold), block_paths)
    for operation, read in zip(tail.operations, tail.sources(), strict=True):
        if read and not _can_follow(model, operation):
            raise ValueError(
                f"Module {operation.path!r} runs {operation.layer.operator!r} on channels whose number is searched, and"
                " cannot follow it. HINT: read the blocks by ordinary or depthwise Conv2d modules, such as a 1x1"
                " convolution, before joining or adding them to anything else."
            )
    return tail


def elastic_tail(model: nn.Module, example_input: Tensor, block_paths: Sequence[str]) -> ElasticTail:
    """Return elastic forms of the modules of a model that read its blocks, and of all batch norms behind them.

    Args:
        model: The whole model; it is not changed.
        example_input: One batch that it can run, shape (N, C, H, W).
        block_paths: Paths of its blocks, in order of execution.

    Raises:
        ValueError: As in `read_tail`, or something would be lost with such a module: see `check_replaceable`.
    """
    tail = read_tail(model, example_input, block_paths, fold=False)
    norms: dict[str, nn.BatchNorm2d] = {}
    convs: dict[str, nn.Conv2d] = {}
    for operation, read in zip(tail.operations, tail.sources(), strict=True):
        module = model.get_submodule(operation.path)
        if type(module) is nn.BatchNorm2d:
            norms[operation.path] = module
        elif read and operation.layer.operator in ("conv", "depthwise"):
            convs[operation.path] = cast(nn.Conv2d, module)
    check_replaceable(model, [*norms, *convs])
    for path, norm in norms.items():
        if norm.weight is None or norm.running_mean is None:
            raise ValueError(f"Module {path!r} is a norm without weights or without running statistics; it needs both.")
    modules: dict[str, Elastic] = {path: elastic_norm(norm) for path, norm in norms.items()}
    modules |= {path: elastic_conv(conv) for path, conv in convs.items()}
    return ElasticTail(tail, modules)


def _can_follow(model: nn.Module, operation: Operation) -> bool:
    layer = operation.layer
    if layer.operator in ("conv", "depthwise"):
        module = model.get_submodule(operation.path)
        if type(module) is not nn.Conv2d:
            return False
        depthwise = module.groups == module.in_channels == module.out_channels
        kernel, dilation = module.kernel_size[0], module.dilation[0]
        pairs = (module.kernel_size, module.stride, module.dilation)
        is_square = all(len({*pair}) == 1 for pair in pairs) and module.padding_mode == "zeros"
        same = module.padding == (dilation * (kernel // 2),) * 2
        return is_square and same and (depthwise or module.groups == 1)
    if layer.operator == "norm":
        return type(model.get_submodule(operation.path)) is nn.BatchNorm2d
    # A weight for each channel, as of PReLU, would be too many behind a narrower block.
    has_weights = layer.operator == "activation" and layer.form is not None and layer.form.num_values > 1
    return layer.operator in _PASSES and len(operation.inputs) == 1 and not has_weights

"""The choice block: one position of a network that runs as IBN or fused-IBN, at any expansion, kernel and width."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from typing import cast

import torch
from torch import Tensor, nn

from lightning_nas.space.spec import BlockOption, Choice, Kind, hidden_width
from lightning_nas.supernet.elastic import ElasticBatchNorm2d, ElasticConv2d
from lightning_nas.supernet.loading import OfOneSpace

__all__ = ["ChoiceBlock", "ElasticDS", "ElasticFusedIBN", "ElasticIBN"]

log = logging.getLogger(__name__)


class ElasticIBN(nn.Module):
    """Inverted bottleneck of elastic expansion, kernel and output width (MobileNetV2, arXiv 1801.04381)."""

    def __init__(self, in_width: int, hidden: int, out_width: int, kernel: int, stride: int, act: nn.Module) -> None:
        super().__init__()
        self.expand = ElasticConv2d(in_width, hidden, 1, bias=False)
        self.expand_norm = ElasticBatchNorm2d(hidden)
        self.depthwise = ElasticConv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False)
        self.depthwise_norm = ElasticBatchNorm2d(hidden)
        self.project = ElasticConv2d(hidden, out_width, 1, bias=False)
        self.project_norm = ElasticBatchNorm2d(out_width)
        self.act = act

    def forward(self, x: Tensor, option: BlockOption, out_width: int) -> Tensor:
        """Run `option` on x, shape (N, C, H, W); return (N, out_width, H / stride, W / stride)."""
        return self.project_norm(self.project(self.features(x, option), out_width))

    def features(self, x: Tensor, option: BlockOption) -> Tensor:
        """Return what is projected, shape (N, hidden, H / stride, W / stride)."""
        hidden = hidden_width(x.shape[1], option.expansion)
        x = self.act(self.expand_norm(self.expand(x, hidden)))
        return self.act(self.depthwise_norm(self.depthwise(x, kernel=option.kernel)))

    def parts(self) -> list[tuple[ElasticConv2d, ElasticBatchNorm2d]]:
        """Return convolutions and norms in order of execution."""
        norms = (self.expand_norm, self.depthwise_norm, self.project_norm)
        return list(zip((self.expand, self.depthwise, self.project), norms, strict=True))


class ElasticFusedIBN(nn.Module):
    """Fused inverted bottleneck: one KxK convolution expands (MobileDets, arXiv 2004.14525)."""

    def __init__(self, in_width: int, hidden: int, out_width: int, kernel: int, stride: int, act: nn.Module) -> None:
        super().__init__()
        self.expand = ElasticConv2d(in_width, hidden, kernel, stride, kernel // 2, bias=False)
        self.expand_norm = ElasticBatchNorm2d(hidden)
        self.project = ElasticConv2d(hidden, out_width, 1, bias=False)
        self.project_norm = ElasticBatchNorm2d(out_width)
        self.act = act

    def forward(self, x: Tensor, option: BlockOption, out_width: int) -> Tensor:
        """Run `option` on x, shape (N, C, H, W); return (N, out_width, H / stride, W / stride)."""
        return self.project_norm(self.project(self.features(x, option), out_width))

    def features(self, x: Tensor, option: BlockOption) -> Tensor:
        """Return what is projected, shape (N, hidden, H / stride, W / stride)."""
        hidden = hidden_width(x.shape[1], option.expansion)
        return self.act(self.expand_norm(self.expand(x, hidden, option.kernel)))

    def parts(self) -> list[tuple[ElasticConv2d, ElasticBatchNorm2d]]:
        """Return convolutions and norms in order of execution."""
        return [(self.expand, self.expand_norm), (self.project, self.project_norm)]


class ElasticDS(nn.Module):
    """Depthwise-separable block of elastic kernel and output width: an IBN without expansion."""

    def __init__(self, in_width: int, hidden: int, out_width: int, kernel: int, stride: int, act: nn.Module) -> None:
        super().__init__()
        self.depthwise = ElasticConv2d(in_width, in_width, kernel, stride, kernel // 2, groups=in_width, bias=False)
        self.depthwise_norm = ElasticBatchNorm2d(in_width)
        self.project = ElasticConv2d(in_width, out_width, 1, bias=False)
        self.project_norm = ElasticBatchNorm2d(out_width)
        self.act = act

    def forward(self, x: Tensor, option: BlockOption, out_width: int) -> Tensor:
        """Run `option` on x, shape (N, C, H, W); return (N, out_width, H / stride, W / stride)."""
        return self.project_norm(self.project(self.features(x, option), out_width))

    def features(self, x: Tensor, option: BlockOption) -> Tensor:
        """Return what is projected, shape (N, C, H / stride, W / stride)."""
        return self.act(self.depthwise_norm(self.depthwise(x, kernel=option.kernel)))

    def parts(self) -> list[tuple[ElasticConv2d, ElasticBatchNorm2d]]:
        """Return convolutions and norms in order of execution."""
        return [(self.depthwise, self.depthwise_norm), (self.project, self.project_norm)]


ElasticBlock = ElasticIBN | ElasticFusedIBN | ElasticDS
BLOCKS: dict[Kind, type[ElasticBlock]] = {"ibn": ElasticIBN, "fused": ElasticFusedIBN, "ds": ElasticDS}


class ChoiceBlock(OfOneSpace):
    """One block position: a maximal weight for each kind, of which the active option runs a slice.

    Only the active option is computed, so a step costs what the sampled subnet costs.

    Attributes:
        options: What can run.
        candidates: One elastic block a kind.
        active: The option that runs now.
        out_width: The output channels that it gives now.
        is_searched: False until somebody searches the supernet; said by its first block alone.
        mixture: Runs in place of the active option, where a baseline mixes them all; None otherwise.

    Args:
        choice: Options and stride.
        in_width: Widest input.
        out_width: Widest output.
        act: Activation; copied.
        drop_path: Module on the residual branch, from the source network.

    Example::

        >>> options = (BlockOption("ibn", 6, 3), BlockOption("fused", 3, 3))
        >>> block = ChoiceBlock(Choice(1, options), 16, 16, nn.ReLU6())
        >>> block.active, block.out_width = options[1], 8
        >>> block(torch.rand(1, 16, 4, 4)).shape
        torch.Size([1, 8, 4, 4])
    """

    def __init__(
        self, choice: Choice, in_width: int, out_width: int, act: nn.Module, drop_path: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.options = choice.options
        self.stride = choice.stride
        self.active = choice.options[0]
        self.out_width = out_width
        self.mixture: Callable[[ChoiceBlock, Tensor], Tensor] | None = None
        self.is_searched = True
        self.drop_path = drop_path or nn.Identity()
        self.candidates = nn.ModuleDict()
        for kind in dict.fromkeys(option.kind for option in choice.options):
            mine = [option for option in choice.options if option.kind == kind]
            hidden = max(hidden_width(in_width, option.expansion) for option in mine)
            kernel = max(option.kernel for option in mine)
            self.candidates[kind] = BLOCKS[kind](in_width, hidden, out_width, kernel, choice.stride, deepcopy(act))

    # Each path would be another graph to compile, for tens of seconds; what stands around the blocks is compiled.
    @torch.compiler.disable
    def forward(self, x: Tensor) -> Tensor:
        """Run the active option; add x where stride and widths allow (the rule of timm and torchvision)."""
        if not self.is_searched and self.training and torch.is_grad_enabled():
            self._warn_of_no_search()
        y = self._run_active(x) if self.mixture is None else self.mixture(self, x)
        return x + self.drop_path(y) if self.stride == 1 and x.shape[1] == y.shape[1] else y

    def _warn_of_no_search(self) -> None:
        self.is_searched = True  # once is enough
        log.warning(
            "This supernet is trained without a search: only the one path that is active learns. HINT:"
            " `Trainer(callbacks=[ArchitectureSearch(...)])`."
        )

    def _run_active(self, x: Tensor) -> Tensor:
        y: Tensor = self.candidate(self.active.kind)(x, self.active, self.out_width)
        return y

    def candidate(self, kind: Kind) -> ElasticBlock:
        """Return the elastic block that runs the options of `kind`."""
        return cast(ElasticBlock, self.candidates[kind])

    def elastic_blocks(self) -> list[tuple[Kind, ElasticBlock]]:
        """Return the kinds with their elastic blocks."""
        return [(cast(Kind, kind), cast(ElasticBlock, block)) for kind, block in self.candidates.items()]

    def extra_repr(self) -> str:
        """Show the options."""
        return ", ".join(map(str, self.options))

"""The first convolution and its norm: they give as many channels as the search wants."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .elastic import ElasticBatchNorm2d, ElasticConv2d

__all__ = ["ElasticStem"]


@dataclass(frozen=True)
class ElasticStem:
    """What stands in front of the blocks of a supernet whose stem is searched.

    Attributes:
        conv: The first convolution.
        norm: The norm behind it.
    """

    conv: ElasticConv2d
    norm: ElasticBatchNorm2d

    def run(self, width: int, channel_weights: Tensor | None = None) -> None:
        """Give `width` channels from now on.

        Args:
            width: Output channels.
            channel_weights: Weight of each, shape (width,), where widths are mixed. It acts in front of the activation,
                which for rectifiers is the same up to their upper end.
        """
        self.conv.width, self.norm.channel_weights = width, channel_weights

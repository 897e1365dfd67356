"""`ElasticEnd`: the stem or the head of a supernet, with an elastic number of output channels."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lightning_nas.supernet.elastic import ElasticBatchNorm2d, ElasticConv2d, ElasticLinear

__all__ = ["ElasticEnd"]


@dataclass(frozen=True)
class ElasticEnd:
    """The stem or the head of a supernet that searches its width.

    Attributes:
        conv: The convolution.
        norm: The norm behind it.
        classifier: What reads the head's pooled channels; None for the stem, which the first block reads.
    """

    conv: ElasticConv2d
    norm: ElasticBatchNorm2d
    classifier: ElasticLinear | None = None

    def run(self, width: int, channel_weights: Tensor | None = None) -> None:
        """Set the number of output channels.

        Args:
            width: Output channels.
            channel_weights: Weight of each, shape (width,), where widths are mixed. It acts in front of the activation,
                which for rectifiers is the same up to their upper end.
        """
        self.conv.width, self.norm.channel_weights = width, channel_weights

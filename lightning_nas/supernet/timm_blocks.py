"""timm's classes of blocks.

timm offers them from a private module alone. No other module of the package imports that one, so that a timm that moves
them is mended here; the test beside it says in which version they were seen.
"""

from timm.models._efficientnet_blocks import DepthwiseSeparableConv as DepthwiseSeparableConv
from timm.models._efficientnet_blocks import EdgeResidual as EdgeResidual
from timm.models._efficientnet_blocks import InvertedResidual as InvertedResidual

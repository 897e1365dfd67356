"""Search spaces and architectures as frozen data, without tensors."""

from lightning_nas.space.architecture import Architecture as Architecture
from lightning_nas.space.architecture import subgraphs as subgraphs
from lightning_nas.space.block_option import SKIP as SKIP
from lightning_nas.space.block_option import BlockOption as BlockOption
from lightning_nas.space.build import build_space as build_space
from lightning_nas.space.choice import Choice as Choice
from lightning_nas.space.curate import curated_widths as curated_widths
from lightning_nas.space.lanes import round_to_lanes as round_to_lanes
from lightning_nas.space.left_out import LeftOut as LeftOut
from lightning_nas.space.multiplier import DepthMultiplier as DepthMultiplier
from lightning_nas.space.options import SpaceOptions as SpaceOptions
from lightning_nas.space.spec import Encoding as Encoding
from lightning_nas.space.spec import SearchSpace as SearchSpace

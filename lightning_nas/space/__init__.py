"""Search spaces and architectures as frozen data, without tensors."""

from lightning_nas.space.curate import curate as curate
from lightning_nas.space.curate import curated_widths as curated_widths
from lightning_nas.space.lanes import round_to_lanes as round_to_lanes
from lightning_nas.space.options import SpaceOptions as SpaceOptions
from lightning_nas.space.spec import Architecture as Architecture
from lightning_nas.space.spec import BlockOption as BlockOption
from lightning_nas.space.spec import Choice as Choice
from lightning_nas.space.spec import ConvSpec as ConvSpec
from lightning_nas.space.spec import DepthMultiplier as DepthMultiplier
from lightning_nas.space.spec import SearchSpace as SearchSpace
from lightning_nas.space.spec import Stage as Stage
from lightning_nas.space.timm_strings import from_timm as from_timm
from lightning_nas.space.timm_strings import to_timm as to_timm

"""What can be chosen: frozen data, no tensors."""

from .curate import curate as curate
from .curate import curated_widths as curated_widths
from .curate import round_to_lanes as round_to_lanes
from .spec import Architecture as Architecture
from .spec import BlockOption as BlockOption
from .spec import Choice as Choice
from .spec import ConvSpec as ConvSpec
from .spec import DepthMultiplier as DepthMultiplier
from .spec import SearchSpace as SearchSpace
from .spec import Stage as Stage
from .timm_strings import from_timm as from_timm
from .timm_strings import to_timm as to_timm

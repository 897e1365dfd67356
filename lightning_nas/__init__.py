"""Neural architecture search for your chip, as a PyTorch Lightning callback."""

from importlib.metadata import version

from ._load import load_subnet as load_subnet
from .estimator import Estimator as Estimator
from .estimator import decompose as decompose
from .search import ArchitectureSearch as ArchitectureSearch
from .search import SearchModule as SearchModule
from .space import Architecture as Architecture
from .space import SearchSpace as SearchSpace
from .supernet import derive as derive
from .supernet import refit as refit
from .supernet import space_of as space_of
from .supernet import supernet_from as supernet_from

__version__ = version("lightning-nas")

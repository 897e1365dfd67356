"""Neural architecture search for your chip, as a PyTorch Lightning callback."""

from importlib.metadata import version

from lightning_nas.estimator import Estimator as Estimator
from lightning_nas.graph import decompose as decompose
from lightning_nas.jobs.load import load_subnet as load_subnet
from lightning_nas.search import ArchitectureSearch as ArchitectureSearch
from lightning_nas.search import SearchModule as SearchModule
from lightning_nas.space import Architecture as Architecture
from lightning_nas.space import SearchSpace as SearchSpace
from lightning_nas.supernet import derive as derive
from lightning_nas.supernet import refit as refit
from lightning_nas.supernet import space_of as space_of
from lightning_nas.supernet import supernet_from as supernet_from

__version__ = version("lightning-nas")

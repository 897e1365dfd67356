"""Neural architecture search for your chip, as a PyTorch Lightning callback."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_nas.budget.budget import Budget as Budget
    from lightning_nas.estimator import Estimator as Estimator
    from lightning_nas.graph.decompose import decompose as decompose
    from lightning_nas.jobs.advise import advise as advise
    from lightning_nas.jobs.apply_advice import apply_advice as apply_advice
    from lightning_nas.jobs.load import load_subnet as load_subnet
    from lightning_nas.search import ArchitectureSearch as ArchitectureSearch
    from lightning_nas.search import SearchModule as SearchModule
    from lightning_nas.space import Architecture as Architecture
    from lightning_nas.space import SearchSpace as SearchSpace
    from lightning_nas.space import SpaceOptions as SpaceOptions
    from lightning_nas.supernet import derive as derive
    from lightning_nas.supernet import refit as refit
    from lightning_nas.supernet import space_of as space_of
    from lightning_nas.supernet import supernet_from as supernet_from

__version__ = version("lightning-nas")

_PLACES = {
    "ArchitectureSearch": "search",
    "Architecture": "space",
    "Budget": "budget.budget",
    "Estimator": "estimator",
    "SearchModule": "search",
    "SearchSpace": "space",
    "SpaceOptions": "space",
    "advise": "jobs.advise",
    "apply_advice": "jobs.apply_advice",
    "decompose": "graph.decompose",
    "derive": "supernet",
    "load_subnet": "jobs.load",
    "refit": "supernet",
    "space_of": "supernet",
    "supernet_from": "supernet",
}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> object:
    # Imported when it is asked for: the command line is to answer before PyTorch is there.
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])

"""Who decides: the search, its budgets and the exact solver."""

from .callback import ArchitectureSearch as ArchitectureSearch
from .module import SearchModule as SearchModule
from .settings import SearchSettings as SearchSettings
from .solve import solve as solve

"""Who decides: the search, its budgets and the exact solver."""

from .callback import ArchitectureSearch as ArchitectureSearch
from .engine import SearchSettings as SearchSettings
from .module import SearchModule as SearchModule
from .solve import solve as solve

"""Who decides: the search, its budgets and the exact solver."""

from lightning_nas.budget.solve import solve as solve
from lightning_nas.search.callback import ArchitectureSearch as ArchitectureSearch
from lightning_nas.search.module import SearchModule as SearchModule
from lightning_nas.search.settings import SearchSettings as SearchSettings

"""Single-shot search in a supernet."""

from lightning_nas.budget.solver import solve as solve
from lightning_nas.search.callback import ArchitectureSearch as ArchitectureSearch
from lightning_nas.search.module import SearchModule as SearchModule
from lightning_nas.search.settings import Decoupled as Decoupled
from lightning_nas.search.settings import Joint as Joint
from lightning_nas.search.settings import Library as Library
from lightning_nas.search.settings import Monitor as Monitor
from lightning_nas.search.settings import PathSampling as PathSampling
from lightning_nas.search.settings import Selection as Selection
from lightning_nas.search.settings import SupernetTraining as SupernetTraining
from lightning_nas.search.settings import ZeroShot as ZeroShot
from lightning_nas.search.strategy import Darts as Darts
from lightning_nas.search.strategy import FBNetV2 as FBNetV2
from lightning_nas.search.strategy import Gdas as Gdas
from lightning_nas.search.strategy import Rloo as Rloo
from lightning_nas.search.strategy import Rotation as Rotation
from lightning_nas.search.strategy import Sandwich as Sandwich
from lightning_nas.search.strategy import Spos as Spos
from lightning_nas.search.strategy import Strategy as Strategy
from lightning_nas.search.strategy import Tunas as Tunas

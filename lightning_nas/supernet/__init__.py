"""Supernets: elastic leaves, conversion, derivation and refit, in plain PyTorch."""

from lightning_nas.supernet.convert import space_of as space_of
from lightning_nas.supernet.convert import supernet_from as supernet_from
from lightning_nas.supernet.derive import derive as derive
from lightning_nas.supernet.derive import recalibrate as recalibrate
from lightning_nas.supernet.importance import sort_channels as sort_channels
from lightning_nas.supernet.option_errors import option_errors as option_errors
from lightning_nas.supernet.refit import refit as refit
from lightning_nas.supernet.stock import stock_network as stock_network
from lightning_nas.supernet.subnet import supernet_with as supernet_with
from lightning_nas.supernet.supernet import Supernet as Supernet
from lightning_nas.supernet.supernet import find_supernet as find_supernet

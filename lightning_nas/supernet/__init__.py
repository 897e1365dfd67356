"""How a choice runs and trains: plain PyTorch."""

from .choice import ChoiceBlock as ChoiceBlock
from .convert import space_of as space_of
from .convert import supernet_from as supernet_from
from .derive import derive as derive
from .derive import recalibrate as recalibrate
from .importance import sort_channels as sort_channels
from .option_errors import option_errors as option_errors
from .refit import refit as refit
from .stock import stock_network as stock_network
from .subnet import supernet_with as supernet_with
from .supernet import Supernet as Supernet
from .supernet import find_supernet as find_supernet

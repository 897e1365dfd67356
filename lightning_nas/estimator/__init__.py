"""What a network costs on a device."""

from .decompose import decompose as decompose
from .device import Device as Device
from .error import format_error as format_error
from .estimator import Estimator as Estimator
from .files import available_devices as available_devices
from .judge import judge as judge
from .measure.campaign import measure as measure
from .memory import Memory as Memory
from .subgraph import Subgraph as Subgraph
from .subgraph import subgraphs as subgraphs

"""Cost of a network on a device."""

from lightning_nas.estimator.cost_model import CostModel as CostModel
from lightning_nas.estimator.device import Device as Device
from lightning_nas.estimator.estimator import Estimator as Estimator
from lightning_nas.estimator.files import available_devices as available_devices
from lightning_nas.estimator.judge.error import format_error as format_error
from lightning_nas.estimator.judge.judge import judge as judge
from lightning_nas.estimator.measure.campaign import measure as measure
from lightning_nas.graph.decompose import decompose as decompose
from lightning_nas.graph.memory import Memory as Memory
from lightning_nas.graph.subgraph import Subgraph as Subgraph
from lightning_nas.space.architecture import subgraphs as subgraphs

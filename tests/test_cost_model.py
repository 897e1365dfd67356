"""The protocol of cost models: what searches ask, and who fulfils it."""

import inspect

import numpy as np
import pytest
import torch
from conftest import LinearEstimator, small_network

from lightning_nas.estimator import CostModel, Estimator
from lightning_nas.estimator.analytic import AnalyticArray
from lightning_nas.graph.decompose import decompose
from lightning_nas.space.read import space_of

METHODS = ("predict_ms", "latency_ms", "memory", "verify_ms")


@pytest.fixture(params=["analytic", "linear"])
def model(request):
    return Estimator(AnalyticArray().device()) if request.param == "analytic" else LinearEstimator()


def test_the_protocol_is_fulfilled(model):
    assert isinstance(model, CostModel)
    network, image = small_network(), torch.zeros(1, 3, 32, 32)
    parts, space = decompose(network, image), space_of(network, image, lanes=model.lanes)
    architecture = space.decode(space.reference_encoding)
    latencies_ms = model.predict_ms(parts)
    assert (latencies_ms.dtype, latencies_ms.shape) == (np.float64, (len(parts),))
    assert model.latency_ms(architecture) == latencies_ms.sum()
    memory = model.memory(architecture)
    assert memory.parameter_bytes > 0
    assert memory.peak_activation_bytes > 0
    assert model.verify_ms(architecture) is None
    assert isinstance(model.device.name, str)


def test_what_lacks_a_method_does_not_fulfil_it():
    class NoMemory:
        device, lanes = LinearEstimator().device, 8
        predict_ms = latency_ms = verify_ms = LinearEstimator.latency_ms

    assert not isinstance(NoMemory(), CostModel)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", [Estimator, LinearEstimator])
def test_methods_take_one_argument_as_the_protocol_says(kind, name):
    asked = inspect.signature(getattr(CostModel, name))
    assert len(asked.parameters) == 2
    inspect.signature(getattr(kind, name)).bind(*asked.parameters)

import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from chains import block, mobilenet
from torch import nn

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.files import TARGETS, read_device
from lightning_nas.estimator.measure.backend import open_backend
from lightning_nas.estimator.measure.sampling.chain_networks import sample_chain
from lightning_nas.estimator.measure.sampling.sample import sample_subgraphs
from lightning_nas.graph.subgraph import Subgraph

pytest.importorskip("ethosu", reason="needs the extra: pip install 'lightning-nas[vela]'")
pytest.importorskip("flatbuffers", reason="needs the extra: pip install 'lightning-nas[vela]'")

from lightning_nas.estimator.measure.backends.tflite import author

# MobileNetV2 for images of 224, by shipped device: at 500 MHz but for Ethos-U85, which runs at 1 GHz.
MOBILENET_MS = {"ethos_u55_128": 15.0447, "ethos_u55_256": 11.2417, "ethos_u65_512": 8.8453, "ethos_u85_1024": 2.0752}
WHOLE = {"size": 224, "num_classes": 1000}


@pytest.fixture(scope="module")
def estimator():
    return Estimator.load("ethos_u85_1024")


@pytest.fixture(scope="module")
def backend(estimator):
    return open_backend(estimator.device)


def best_fusion(estimator):
    plain, fused = mobilenet(**WHOLE), mobilenet(fused=range(1, 17), **WHOLE)
    gain = estimator.predict_ms(fused) < estimator.predict_ms(plain)
    return [number - 1 for number in np.flatnonzero(gain)]


def test_fusion_in_the_right_places_is_worth_a_third(estimator, backend):
    networks = [mobilenet(fused=fused, **WHOLE) for fused in ((), best_fusion(estimator), range(1, 17))]
    plain_ms, best_ms, every_ms = (backend.measure_network(network).latency_ms for network in networks)
    assert plain_ms == pytest.approx(2.08, rel=0.01)
    assert best_ms / plain_ms == pytest.approx(0.70, abs=0.02)
    assert every_ms / plain_ms == pytest.approx(0.96, abs=0.03)
    predicted_ms = [estimator.predict_ms(network).sum() for network in networks]
    assert predicted_ms == pytest.approx([plain_ms, best_ms, every_ms], rel=0.02)


def test_the_compiler_agrees_about_early_and_late_blocks(backend):
    def ratio(*shape):
        parts = [block(kind, *shape) for kind in ("fused", "ibn")]
        fused, ibn = (sum(row.latency_ms for row in backend.measure_subgraph(part).values()) for part in parts)
        return fused / ibn

    assert ratio(112, 16, 24, 2) == pytest.approx(0.25, rel=0.02)
    assert ratio(7, 160, 160, 1) == pytest.approx(2.38, rel=0.02)


def test_the_table_is_what_the_compiler_says(estimator, backend):
    checked = 0
    for part in random.Random(0).sample(sample_subgraphs(0, 3000), 40):
        for operator, figures in backend.measure_subgraph(part).items():
            if operator in estimator.measurements:
                # An operator was met elsewhere first; nearly all cost the same everywhere.
                assert figures.latency_ms == pytest.approx(estimator.measurements[operator].latency_ms, rel=0.1)
                checked += 1
    assert checked > 50


def test_unseen_networks(estimator, backend):
    rng = random.Random(77)
    networks = [sample_chain(rng) for _ in range(8)]
    true_ms = np.array([backend.measure_network(network).latency_ms for network in networks])
    predicted_ms = np.array([estimator.predict_ms(network).sum() for network in networks])
    assert np.abs(predicted_ms / true_ms - 1).mean() < 0.03


def test_operators_of_a_subgraph_are_all_measured(backend):
    for part in sample_subgraphs(3, 30):
        assert tuple(backend.measure_subgraph(part)) == part.operators


@pytest.mark.parametrize("name", MOBILENET_MS)
def test_lanes_are_where_latency_steps(name):
    device = read_device(TARGETS / f"{name}.json")
    backend = open_backend(device)

    def latency_ms(width):
        (figures,) = backend.measure_subgraph(Subgraph("conv", 28, 28, 64, width, width, 3)).values()
        return figures.latency_ms

    widths = np.arange(31, 82)
    steps = np.diff([latency_ms(int(width)) for width in widths])
    highest = widths[1:][np.argsort(steps)[-3:]]
    assert set((highest - 1) % device.lanes) == {0}


def test_author_is_deterministic_and_refuses_what_is_no_chain():
    parts = sample_chain(random.Random(0))
    assert author(parts) == author(parts)
    with pytest.raises(ValueError, match=re.escape("cannot follow")):
        author([parts[0], parts[0]])
    with pytest.raises(ValueError, match="at least one"):
        author([])


@pytest.mark.parametrize("name", MOBILENET_MS)
def test_modes_whose_subgraphs_do_not_add_up_are_refused(name):
    device = read_device(TARGETS / f"{name}.json")
    assert device.settings["memory_mode"] == "Shared_Sram"
    for mode in ("Dedicated_Sram", "Dedicated_Sram_256KB"):
        with pytest.raises(ValueError, match=f"must be Shared_Sram or Sram_Only; got {mode}"):
            open_backend(Device("own", "vela", 16, True, {**device.settings, "memory_mode": mode}))


@pytest.mark.parametrize(("name", "latency_ms"), MOBILENET_MS.items())
def test_mobilenet_on_every_shipped_device(name, latency_ms):
    backend = open_backend(read_device(TARGETS / f"{name}.json"))
    assert backend.measure_network(mobilenet(**WHOLE)).latency_ms == pytest.approx(latency_ms, rel=1e-3)


def test_a_subgraph_measured_whole_is_the_sum_of_its_operators(backend, estimator):
    whole = open_backend(replace(estimator.device, is_split=False))
    for part in sample_subgraphs(3, 10):
        ((measured, figures),) = whole.measure_subgraph(part).items()
        operators = backend.measure_subgraph(part).values()
        assert measured == part
        # An operator that is chained away counts one cycle by itself.
        assert figures.latency_ms == pytest.approx(sum(row.latency_ms for row in operators), abs=1e-5)


def test_missing_extra_says_how_to_get_it(monkeypatch, estimator):
    monkeypatch.setitem(__import__("sys").modules, "ethosu", None)
    with pytest.raises(ImportError, match=re.escape("pip install 'ethos-u-vela==5.2.*' 'flatbuffers>=24'")):
        open_backend(estimator.device)
    assert estimator.verify_ms(nn.Conv2d(3, 8, 1), torch.zeros(1, 3, 8, 8)) is None

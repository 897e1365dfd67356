"""Correction from sums over parts to whole networks: used where it helps networks that it was not fitted to."""

import dataclasses
import re

import numpy as np
import pytest

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.files import read_device
from lightning_nas.estimator.judge.correction import fit_factor, fit_spread
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.subgraph import Subgraph


def test_a_bias_is_corrected():
    rng = np.random.default_rng(0)
    sums = rng.uniform(1, 5, 50)
    factor, record = fit_factor(sums, 1.03 * sums * rng.normal(1, 0.005, 50))
    assert factor == pytest.approx(1.03, abs=0.003)
    assert record["with"] < 0.2 * record["without"]


def test_noise_is_not():
    rng = np.random.default_rng(0)
    sums = rng.uniform(1, 5, 50)
    factor, record = fit_factor(sums, sums * rng.normal(1, 0.02, 50))
    assert factor == 1
    assert record["with"] > 0.9 * record["without"]


def test_spread_holds_nine_of_ten_networks():
    rng = np.random.default_rng(0)
    predicted, half = rng.uniform(1, 5, 200), np.full(200, 0.01)
    true = predicted * rng.normal(1, 0.02, 200)
    spread = fit_spread(predicted, half, true)
    inside = np.abs(true - predicted) <= np.hypot(half, spread * predicted)
    assert 0.9 <= inside.mean() < 0.93
    assert fit_spread(predicted, np.full(200, 1.0), true) == 0


def test_a_corrected_device_prices_all_of_a_network_so():
    rows = {Subgraph("conv", 8, 8, w, w, w, kernel=3): Figures(w * w * 1e-6) for w in range(8, 264, 8)}
    plain = Estimator(Device("own", "vela", 8), rows)
    by_two = plain.with_device(dataclasses.replace(plain.device, correction=1.5))
    parts = [Subgraph("conv", 8, 8, w, w, w, kernel=3) for w in (64, 60)]
    assert by_two.predict_ms(parts) == pytest.approx(1.5 * plain.predict_ms(parts))
    assert by_two.with_device(plain.device).predict_ms(parts) == pytest.approx(plain.predict_ms(parts))
    assert by_two.measured_share(parts[:1]) == 1


def test_absurd_corrections_are_refused(tmp_path):
    for name, value in (("correction", 0.0), ("correction", float("nan")), ("spread", -0.1), ("spread", 2.0)):
        with pytest.raises(ValueError, match=re.escape(f"`{name}` of device 'own'")):
            Device("own", "vela", 8, **{name: value})
    path = tmp_path / "own.json"
    Device("own", "csv", 8, correction=1.02, spread=0.01).save(path)
    assert (read_device(path).correction, read_device(path).spread) == (1.02, 0.01)

"""Intervals: what was held out lies in them as often as they say, and errors of different parts mostly cancel."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import small_network

from lightning_nas.estimator import available_devices
from lightning_nas.estimator.analytic import AnalyticArray
from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.fit import regressor, trees
from lightning_nas.estimator.fit.interval import LEVELS, Errors
from lightning_nas.estimator.fit.regressor import Regressor, fitted_rows
from lightning_nas.estimator.fit.trees import Trees
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.subgraph import Subgraph

WIDTHS = range(8, 264, 8)


def conv(width, size=8):
    return Subgraph("conv", size, size, width, width, width, kernel=3)


def noisy_rows(sizes=(4, 8, 12, 16), deviation=0.1):
    rng = np.random.default_rng(0)
    parts = [conv(width, size) for size in sizes for width in WIDTHS]
    return {part: Figures(part.macs * 1e-6 * float(np.exp(rng.normal(0, deviation)))) for part in parts}


@pytest.fixture(scope="module")
def estimator():
    return Estimator(Device("own", "vela", 8, spread=0.01), noisy_rows())


def test_quantiles_hold_the_share_that_they_name():
    rng = np.random.default_rng(0)
    seen, new = rng.normal(0, [[0.02], [0.2]], (2, 4000)), rng.normal(0, [[0.02], [0.2]], (2, 4000))
    parts = [Subgraph("conv", 8, 8, 8, 8, 8)] * 4000, [Subgraph("depthwise", 8, 8, 8, 8, 8)] * 4000
    errors = Errors.of([*parts[0], *parts[1]], seen.ravel())
    for level in LEVELS:
        for kind in (0, 1):
            inside = np.abs(new[kind]) <= errors.widths_of(parts[kind], level)
            assert inside.mean() == pytest.approx(level, abs=0.03)


def test_kinds_of_few_rows_get_the_width_of_all():
    parts = [*[Subgraph("conv", 8, 8, 8, 8, 8)] * 200, Subgraph("stem", 8, 8, 3, 8, 8)]
    errors = Errors.of(parts, np.array([*[0.01] * 200, 9.0]))
    assert errors.widths_of([parts[-1], Subgraph("add", 8, 8, 8, 8, 8)], 0.9).tolist() == [0.01, 0.01]


def test_stored_errors_are_checked():
    errors = Errors.of([conv(8)] * 60, np.linspace(0, 1, 60))
    assert np.array_equal(Errors.from_arrays(errors.arrays).widths, errors.widths)
    for damaged in (errors.widths[:-1], -errors.widths - 1, errors.widths * np.nan):
        with pytest.raises(ValueError, match="malformed"):
            Errors.from_arrays({"widths": damaged})
    with pytest.raises(ValueError, match=r"one of 0.5, 0.8, 0.9, 0.95, 0.98; got 0.99"):
        errors.widths_of([conv(8)], 0.99)


def test_what_judging_recorded_goes_before_what_the_fit_held_out(estimator):
    known = Errors.of([conv(8)] * 60, np.full(60, np.log(2)))
    ((low, high),) = estimator.with_device(replace(estimator.device, errors=known.to_dict())).interval_ms([conv(60)])
    assert (high - low) / (high + low) == pytest.approx(1, abs=0.01)
    with pytest.raises(ValueError, match="errors lack all"):
        Errors.from_dict({kind: widths for kind, widths in known.to_dict().items() if kind != "all"})


def test_what_was_measured_is_as_uncertain_as_a_part_of_a_network(estimator):
    part = conv(64)
    ((low, high),) = estimator.interval_ms([part])
    (latency_ms,) = estimator.predict_ms([part])
    assert (low, high) == pytest.approx((0.99 * latency_ms, 1.01 * latency_ms))


def test_what_is_predicted_is_as_uncertain_as_held_out_rows(estimator):
    part = conv(60)
    (latency_ms,) = estimator.predict_ms([part])
    halves = [(high - low) / 2 / latency_ms for ((low, high),) in (estimator.interval_ms([part], n) for n in LEVELS)]
    assert halves == sorted(halves)
    # Two deviations of noise, one of the row and one of what is learnt from its neighbours, are 14 %.
    assert 0.1 < halves[LEVELS.index(0.9)] < 0.4


def test_errors_of_different_parts_cancel_and_those_of_equal_parts_do_not(estimator):
    different, equal = [conv(width) for width in range(36, 196, 8)], [conv(60)] * 20

    def share(parts):
        low, high = estimator.total_interval_ms(parts)
        return (high - low) / (high + low)

    assert share(equal) == pytest.approx(share(equal[:1]))
    assert share(different) < share(equal) / 2


def test_intervals_outlive_the_cache(tmp_path):
    rows = noisy_rows()
    fitted = Regressor.fit(list(rows), np.array([row.latency_ms for row in rows.values()]))
    fitted.save(tmp_path / "fit.npz")
    again = Regressor.load(tmp_path / "fit.npz")
    assert np.array_equal(again.errors.widths, fitted.errors.widths)


def test_a_table_of_stock_operators_alone_says_that_its_errors_are_not_known():
    rows = {Subgraph("add", size, size, 8, 8, 8): Figures(size * 1e-3) for size in range(1, 41)}
    estimator = Estimator(Device("own", "csv", 8), rows)
    unseen = [Subgraph("add", 50, 50, 8, 8, 8)]
    assert estimator.predict_ms(unseen)[0] > 0
    with pytest.raises(ValueError, match=r"is not known.*HINT.*estimator error.*rows of stem, conv"):
        estimator.total_interval_ms(unseen)


def test_a_table_that_trees_alone_are_fitted_to_has_intervals(monkeypatch):
    monkeypatch.setattr(regressor, "_MAX_SMOOTH", 0)
    estimator = Estimator(Device("own", "csv", 8), noisy_rows())
    assert (estimator.regressor.choice, estimator.regressor.errors) == ("trees", None)
    (latency_ms,) = estimator.predict_ms([conv(60)])
    ((low, high),) = estimator.interval_ms([conv(60)])
    assert 0.05 < (high - low) / 2 / latency_ms < 0.6


def test_every_shipped_device_and_every_closed_form_has_intervals(monkeypatch):
    monkeypatch.setitem(trees._LARGER_STEPS, "max_iter", 20)
    model, image = small_network().eval(), torch.zeros(1, 3, 64, 64)
    for name in available_devices():
        loaded = Estimator.load(name)
        rows = dict(list(fitted_rows(loaded.measurements).items())[::40])
        # Fitted to a few rows by a few trees: how far those are off is recorded.
        few = Regressor("trees", Trees.fit(list(rows), np.array(list(rows.values()))), None, {}) if rows else None
        estimator = Estimator(loaded.device, loaded.measurements, few)
        low, high = estimator.latency_interval_ms(model, image)
        assert 0 < low < estimator.latency_ms(model, image) < high < 2 * low, name
    own = Estimator(AnalyticArray(lanes=16, rows=8, columns=8).device("my_chip"))
    low, high = own.latency_interval_ms(model, image)
    assert 0 < low < own.latency_ms(model, image) < high < 2 * low
    narrow = own.latency_interval_ms(model, image, level=0.5)
    assert low < narrow[0] < narrow[1] < high

"""The yardstick of scores: its ranks and its noise, and what the package says by it."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from lightning_nas.supernet.zero_cost import AGREEMENT

BENCHMARKS = Path(__file__).parent / "benchmarks"
NAMES = {"params": "parameters", "macs": "MACs"}


@pytest.fixture
def report(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("truth_set_report")


def test_tau_is_that_of_kendall(report):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=40).round(1), rng.normal(size=40)
    assert report.tau(one, other) == pytest.approx(kendalltau(one, other).statistic)
    low, high = report.interval(one, one + 0.3 * other)
    assert low < report.tau(one, one + 0.3 * other) < high
    assert high - low < 0.4


def test_noise_is_found_again(report):
    rng = np.random.default_rng(0)
    true = rng.normal(0, 3, 4000)
    deviation, repeated, ceiling = report.noise(true[:800, None] + rng.normal(0, 1, (800, 2)))
    # Members without a second seed are noisier, and of the same spread.
    alone = report.noise([*(true[:400, None] + rng.normal(0, 1, (400, 2))), *(true[400:800, None])])
    assert alone[0] == pytest.approx(deviation, rel=0.1)
    assert ceiling - 0.05 < alone[2] < ceiling
    assert deviation == pytest.approx(1, rel=0.1)
    # Of two normal variables Kendall's tau is 2/pi times the arcsine of their correlation.
    assert repeated == pytest.approx(2 / np.pi * np.arcsin(9 / 10), abs=0.03)
    assert ceiling == pytest.approx(2 / np.pi * np.arcsin(np.sqrt(9 / 9.5)), abs=0.03)


def test_what_a_seed_does_to_all_members_is_no_noise(report):
    truth = {"a": (0.3, 0.1), "b": (0.4, 0.2), "c": (0.5, 0.3), "d": (0.6,)}
    rows = [
        {"name": name, "seed": seed, "truth": {"metric": value}}
        for name, values in truth.items()
        for seed, value in enumerate(values)
    ]
    found = report.truths({"rows": rows}, "metric")
    assert {name: np.round(values, 6).tolist() for name, values in found.items()} == {
        "a": [0.2, 0.2],
        "b": [0.3, 0.3],
        "c": [0.4, 0.4],
        "d": [0.5],
    }


def test_scores_are_warned_of_by_what_is_recorded(report):
    for score, value in AGREEMENT.items():
        found = [report.agreement(record, NAMES.get(score, score)) for _, record in report.recorded()]
        assert round(float(np.mean(found)), 2) == value, score


def test_the_page_is_what_the_records_say(report):
    assert report.PAGE.read_text() == report.page()

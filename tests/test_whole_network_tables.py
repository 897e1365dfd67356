"""Tables of whole networks alone: sums are right whatever their parts share, and say how far off they may be."""

import csv
import importlib
import random
from functools import partial

import numpy as np
import pytest
from plans import built

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.fit.additive import Additive
from lightning_nas.estimator.fit.interval import LEVELS
from lightning_nas.estimator.fit.regressor import Regressor
from lightning_nas.estimator.judge.held_out import HeldOutNetworks
from lightning_nas.estimator.judge.judge import judge
from lightning_nas.estimator.judge.parity import PredictionPairs
from lightning_nas.estimator.measurements import COLUMNS, Figures, MeasuredNetwork, to_row
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.jobs.block_costs import _shares

STEM, HEAD = Subgraph("stem", 32, 32, 3, 16, 16, 3), Subgraph("classifier", 8, 8, 64, 64, 10)
BETWEEN = (Subgraph("conv", 32, 32, 16, 32, 32, 3, 2), Subgraph("conv", 16, 16, 32, 64, 64, 3, 2))
# Of a cell, at three sizes; an edge may be nothing.
EDGES = (("conv", 1), ("conv", 3), ("pool", 3), None, None)


def cell_network(rng):
    """Return a network of cells as those of NAS-Bench-201: all have stem, head and two convolutions in common."""
    cell = [*rng.choices(EDGES[:2], k=2), *rng.choices(EDGES, k=4)]
    stages = [
        [Subgraph(edge[0], size, size, width, width, width, edge[1]) for edge in cell if edge] * 5
        for size, width in ((32, 16), (16, 32), (8, 64))
    ]
    return (STEM, *stages[0], BETWEEN[0], *stages[1], BETWEEN[1], *stages[2], HEAD)


def part_ms(part):
    per_operation = {"conv": 2e-6 if part.kernel == 3 else 3e-6, "pool": 4e-5}.get(part.kind, 2e-6)
    return per_operation * max(part.macs, part.height * part.width * part.in_channels) + 0.01


def table_of_cells(count, seed, saved=0.9, power=1.0):
    """Return networks and what they took: `saved` of what the least takes is no part's, and 2 % is noise."""
    rng = random.Random(seed)
    networks = [cell_network(rng) for _ in range(count)]
    sums_ms = np.array([sum(map(part_ms, parts)) for parts in networks])
    rest_ms = sums_ms - saved * sum(map(part_ms, (STEM, *BETWEEN, HEAD)))
    rest_ms = rest_ms.mean() * (rest_ms / rest_ms.mean()) ** power
    return networks, rest_ms * np.exp(np.random.default_rng(seed).normal(0, 0.02, count))


def estimator_of(networks, latency_ms):
    measured = {
        f"net{number}": MeasuredNetwork(parts, Figures(float(value)))
        for number, (parts, value) in enumerate(zip(networks, latency_ms, strict=True))
    }
    return Estimator(Device("own", "csv", 8, spread=0.0), networks=measured)


# What stem, head and the convolutions between take is 1.65 ms, of 4 to 250 ms.
OVERLAPPED = partial(table_of_cells, saved=3.0)


@pytest.fixture(scope="module")
def estimator():
    return estimator_of(*OVERLAPPED(400, 0))


def test_a_negative_share_of_what_all_networks_have_in_common_is_no_bias(estimator):
    networks, true_ms = OVERLAPPED(200, 1)
    ratio = np.array([estimator.predict_ms(parts).sum() for parts in networks]) / true_ms
    assert estimator.predict_ms([STEM])[0] < 0
    assert abs(ratio.mean() - 1) < 0.02
    assert np.abs(ratio - 1).mean() < 0.03


def test_a_part_that_no_network_had_is_not_for_free(estimator):
    unseen = Subgraph("pool", 1, 1, 1, 1, 1, 1)
    assert estimator.predict_ms([unseen])[0] > 0


def test_intervals_hold_as_many_unseen_networks_as_they_say(estimator):
    networks, true_ms = OVERLAPPED(200, 2)
    shares = []
    for level in LEVELS:
        bounds_ms = np.array([estimator.total_interval_ms(parts, level) for parts in networks])
        shares.append(np.mean((bounds_ms[:, 0] <= true_ms) & (true_ms <= bounds_ms[:, 1])))
    assert shares == sorted(shares)
    assert shares == pytest.approx(LEVELS, abs=0.1)
    with pytest.raises(ValueError, match=r"`level` must be one of 0.5"):
        estimator.total_interval_ms(networks[0], 0.99)


def test_what_networks_do_not_tell_apart_is_uncertain_alone_and_known_together(estimator):
    regressor = estimator.regressor
    (parts,) = OVERLAPPED(1, 3)[0]
    part, whole_ms = parts[1], estimator.predict_ms(parts).sum()
    assert regressor.half_width_ms(parts, 0.9) < 0.1 * whole_ms
    without = [other for other in parts if other not in (STEM, *BETWEEN, HEAD)]
    assert regressor.half_width_ms([*parts, *parts, *without], 0.9) > regressor.half_width_ms(parts, 0.9)
    low, high = estimator.total_interval_ms([part])
    assert 0 <= low <= estimator.predict_ms([part])[0] <= high
    low, high = estimator.total_interval_ms([STEM])
    assert low == 0 <= high


def test_the_fit_to_networks_outlives_the_cache(estimator, tmp_path):
    regressor, (parts,) = estimator.regressor, OVERLAPPED(1, 4)[0]
    regressor.save(tmp_path / "fit.npz")
    again = Regressor.load(tmp_path / "fit.npz")
    assert again.predict_ms(parts).tolist() == regressor.predict_ms(parts).tolist()
    assert again.half_width_ms(parts, 0.9) == regressor.half_width_ms(parts, 0.9)
    for name in ("precision", "widths"):
        with pytest.raises(ValueError, match=f"its {name} are malformed"):
            Additive.from_arrays({**regressor.additive.arrays, name: np.zeros((2, 3))})


def test_a_report_on_whole_networks_tells_their_intervals():
    verdict = judge(estimator_of(*OVERLAPPED(100, 0)), num_folds=3)
    assert verdict.refusal is None
    assert abs(verdict.error["networks"]["bias"] - 1) < 0.02
    assert verdict.error["interval"]["coverage"] > 0.75
    assert 0 <= verdict.estimator.device.spread < 0.1


def test_a_bias_that_the_report_finds_is_corrected(monkeypatch):
    networks, true_ms = OVERLAPPED(40, 0)
    estimator = estimator_of(networks, true_ms)
    plain_ms = estimator.predict_ms(networks[0]).sum()
    tenth_too_much = PredictionPairs(tuple(estimator.networks), 1.1 * true_ms, true_ms)
    judging = importlib.import_module("lightning_nas.estimator.judge.judge")
    monkeypatch.setattr(judging, "held_out_networks", lambda *_: HeldOutNetworks(tenth_too_much, 0.01 * true_ms))
    verdict = judge(estimator)
    assert verdict.correction["factor"] == pytest.approx(1 / 1.1)
    assert verdict.estimator.predict_ms(networks[0]).sum() == pytest.approx(plain_ms / 1.1)
    assert verdict.error["networks_uncorrected"]["bias"] == pytest.approx(1.1)
    assert verdict.error["networks"]["bias"] == pytest.approx(1)
    assert verdict.refusal is None


def test_a_bias_that_no_factor_mends_is_refused_with_a_report(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # Latency grows with the square of the sum: small networks are far off, and to one side.
    networks, latency_ms = table_of_cells(60, 0, saved=1.0, power=2.0)
    with (tmp_path / "my_chip.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS[:-1], "network"])
        for number, (parts, value) in enumerate(zip(networks, latency_ms, strict=True)):
            writer.writerows([*to_row(part, Figures(float(value)))[:-1], f"net{number}"] for part in parts)
    run = tmp_path / "run"
    options = {"recipe": "estimator", "output_dir": run, "seed": 0, "num_folds": 3}
    with pytest.raises(ValueError, match=r"'my_chip' is refused.*60 whole networks are \d+ % (below|above).*report"):
        built(device=str(tmp_path / "my_chip.csv"), **options)
    assert "is refused" in (run / "report.html").read_text()
    assert not list(run.glob("*.zip"))
    assert not (run / "result.json").exists()


def test_what_is_drawn_of_a_network_is_never_negative_and_adds_up_to_it():
    latency_ms = np.array([-0.5, 2.0, 3.0])
    shares = _shares(latency_ms)
    assert shares.min() == 0
    assert shares.sum() == pytest.approx(4.5)
    assert _shares(np.array([1.0, 2.0])).tolist() == [1.0, 2.0]

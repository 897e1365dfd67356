"""Lanes are found where latency steps: on made-up staircases, in tables, and with the compiler."""

import math
import random
from pathlib import Path

import pytest

from lightning_nas.estimator.files import TARGETS, read_device
from lightning_nas.estimator.fit.staircase import Curve, curve_subgraphs, curves_in, find_lanes
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.subgraph import Subgraph

WIDTHS = tuple(range(33, 130))


def curve(lanes, noise=0.0, seed=0, part=1.0, last=130):
    """Latency of which a part is a staircase, and the rest the same for all widths."""
    rng = random.Random(seed)
    widths = tuple(range(33, last))
    treads = [part * math.ceil(width / lanes) * lanes / 33 + 1 - part for width in widths]
    return Curve("conv", widths, tuple(tread * math.exp(rng.gauss(0, noise)) for tread in treads))


@pytest.mark.parametrize("lanes", [4, 8, 12, 16, 32])
@pytest.mark.parametrize("part", [1.0, 0.3])
def test_the_distance_of_the_steps_is_found(lanes, part):
    assert find_lanes([curve(lanes, part=part)]).lanes == lanes


@pytest.mark.parametrize("lanes", [8, 16, 32])
@pytest.mark.parametrize("seed", range(5))
def test_noise_does_not_matter(lanes, seed):
    assert find_lanes([curve(lanes, 0.02, 10 * seed + number) for number in range(3)]).lanes == lanes


@pytest.mark.parametrize("seed", range(5))
def test_noise_alone_has_no_steps(seed):
    found = find_lanes([curve(1, 0.03, seed)])
    assert found.lanes is None
    assert "hidden by the spread" in found.reason


def test_even_growth_has_no_steps():
    assert find_lanes([curve(1)]).lanes == 1


def test_constant_latency_says_nothing():
    found = find_lanes([curve(8, part=0.0)])
    assert (found.lanes, found.reason) == (None, "Latency does not grow with the channels, so it has no steps.")


def test_rocks_do_not_hide_the_steps():
    # Every third step is three times as high, and latency falls in between: another schedule.
    rises = {width: (3.0 if width % 48 == 0 else 1.0) for width in range(48, 130, 16)}
    latency, values = 3.0, []
    for width in WIDTHS:
        latency += rises.get(width - 1, 0.0) - (2.0 if width in (60, 107) else 0.0)
        values.append(latency)
    assert find_lanes([Curve("rocky", WIDTHS, tuple(values)), curve(16), curve(16, 0.01)]).lanes == 16


def test_most_steps_win():
    assert find_lanes([curve(8), curve(8), curve(32)]).lanes == 8


def test_a_single_step_is_no_staircase():
    values = tuple(1.0 if width <= 64 else 2.0 for width in WIDTHS)
    assert find_lanes([Curve("memory", WIDTHS, values)]).lanes is None


def test_a_run_that_is_too_short_cannot_tell_twice_the_lanes():
    # From 33 to 66 there is one multiple of 64 only, so 64 lanes look like no staircase and not like 32.
    assert find_lanes([curve(16, last=67)]).lanes == 16
    assert find_lanes([curve(64, last=67)]).lanes is None


def test_curves_are_found_in_tables():
    rows = {Subgraph("conv", 28, 28, 64, width, width, 3): Figures(math.ceil(width / 8)) for width in WIDTHS}
    gap = Subgraph("conv", 28, 28, 64, 80, 80, 3)
    alone = {Subgraph("ibn", 28, 28, 24, 144, width, 3, 1, width == 24): Figures(1.0) for width in range(8, 136, 8)}
    (found,) = curves_in({**rows, **alone})
    assert (found.channels, found.name) == (WIDTHS, "conv 3x3, 28x28, 64 to c")
    assert find_lanes([found]).lanes == 8
    parts = {part: figures for part, figures in rows.items() if part != gap}
    assert [one.channels for one in curves_in(parts)] == [WIDTHS[:47], WIDTHS[48:]]
    assert find_lanes(curves_in(alone)).lanes is None
    assert "cannot be told" in find_lanes(curves_in(alone)).reason


def test_blocks_are_sums_of_their_operators():
    parts = [part for part in curve_subgraphs() if part.kind == "fused"]
    figures = {operator: Figures(operator.macs * 1e-6) for part in parts for operator in part.operators}
    names = [found.name for found in curves_in(figures, parts)]
    assert names == ["conv 1x1, 56x56, 96 to c", "fused 3x3, 56x56, 16 to 96 to c"]
    assert find_lanes(curves_in(figures, parts)).lanes == 1


def test_a_staircase_that_is_too_narrow_is_refused():
    with pytest.raises(ValueError, match="at least 64; got 40"):
        curve_subgraphs(40)


@pytest.mark.parametrize("path", sorted(TARGETS.glob("*.json")), ids=lambda path: path.stem)
def test_the_compiler_steps_at_the_documented_lanes(path: Path):
    pytest.importorskip("ethosu", reason="needs the extra: pip install 'lightning-nas[vela]'")
    from lightning_nas.estimator.measure.backend import open_backend

    device = read_device(path)
    if device.backend != "vela":
        pytest.skip("only Vela is quick")
    backend = open_backend(device)
    parts = curve_subgraphs(97)
    rows = {operator: figures for part in parts for operator, figures in backend.measure_subgraph(part).items()}
    assert find_lanes(curves_in(rows, parts)).lanes == device.lanes


def _steps(name, period, shift=0):
    widths = tuple(range(33, 130))
    return Curve(name, widths, tuple(float(-(-(width + shift) // period)) for width in widths))


def test_where_curves_differ_half_of_them_must_agree():
    clear, shifted = [_steps(str(n), 8) for n in range(3)], [_steps(str(n), 8, n) for n in (1, 3, 5)]
    found = find_lanes([*clear, *shifted])
    assert found.lanes == 8
    assert "3 of 6 curves step after multiples of 8" in found.reason
    assert find_lanes([*clear[:2], *shifted]).lanes is None
    assert find_lanes([*clear[:1], *shifted[:1]]).lanes is None

import json
import math

import pytest
import torch
from torchvision.models import mobilenet_v3_small

from lightning_nas.budget.cost_table import cost_table
from lightning_nas.estimator import Estimator
from lightning_nas.estimator.analytic import AnalyticArray, systolic_cycles
from lightning_nas.estimator.files import TARGETS, available_devices
from lightning_nas.graph.layer import Form, Layer
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.read import space_of


def block(kind, size, in_width, out_width, stride):
    return Subgraph(kind, size, size, in_width, 6 * in_width, out_width, kernel=3, stride=stride)


def folded(num_pixels, num_taps, num_outputs, rows, columns, dataflow):
    """Walk over the folds of an array as SCALE-Sim does: fill it, stream, drain it."""
    over_rows, over_columns, streamed = {
        "output_stationary": (num_pixels, num_outputs, num_taps),
        "weight_stationary": (num_taps, num_outputs, num_pixels),
        "input_stationary": (num_taps, num_pixels, num_outputs),
    }[dataflow]
    filled = 0 if dataflow == "output_stationary" else rows
    cycles = 0
    for _ in range(0, over_rows, rows):
        for _ in range(0, over_columns, columns):
            cycles += filled + streamed + (rows - 1) + (columns - 1)
    return cycles - 1


@pytest.mark.parametrize("dataflow", ["output_stationary", "weight_stationary", "input_stationary"])
@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (16, 24), (32, 32), (128, 128)])
def test_systolic_cycles_are_those_of_the_folds(dataflow, rows, columns):
    for sizes in [(784, 576, 64), (3136, 27, 16), (49, 1, 1), (1, 1280, 1000), (12544, 9, 1), (17, 33, 65)]:
        assert systolic_cycles(*sizes, rows, columns, dataflow) == folded(*sizes, rows, columns, dataflow)


# Fused over unfused blocks, from cycles that equalled those of SCALE-Sim.
@pytest.mark.parametrize(
    ("shape", "ratios"),
    [
        ((112, 16, 24, 2), (0.50, 0.16, 0.10, 0.03)),
        ((112, 16, 16, 1), (0.56, 0.18, 0.11, 0.03)),
        ((56, 24, 24, 1), (0.80, 0.26, 0.15, 0.03)),
        ((28, 40, 40, 1), (1.18, 0.41, 0.22, 0.03)),
        ((14, 112, 112, 1), (2.34, 0.90, 0.47, 0.05)),
        ((7, 160, 160, 1), (2.79, 1.20, 0.63, 0.06)),
        ((7, 192, 192, 1), (3.01, 1.37, 0.73, 0.07)),
    ],
)
def test_fusion_on_systolic_arrays(shape, ratios):
    dataflows = ("weight_stationary", "weight_stationary", "output_stationary", "output_stationary")
    for dataflow, size, expected in zip(dataflows, (16, 32, 32, 128), ratios, strict=True):
        array = AnalyticArray(8, size, size, 1e9, 1e18, dataflow)
        fused, ibn = Estimator(array.device()).predict_ms([block(kind, *shape) for kind in ("fused", "ibn")])
        assert round(fused / ibn, 2) == expected


def test_the_slower_of_array_and_memory_counts():
    dense, pointwise = Layer("conv", 28, 28, 64, 128, 3), Layer("conv", 112, 112, 16, 96)
    array = AnalyticArray()
    assert array.latency_ms(dense) == pytest.approx(8 * 16 * 9 * 49 * 1e-6)
    moved = 112 * 112 * (16 + 96) + 16 * 96
    assert array.latency_ms(pointwise) == pytest.approx(moved / 8 * 1e-6)
    # Depthwise convolutions leave all but one lane idle.
    assert array.latency_ms(Layer("depthwise", 56, 56, 96, 96, 3)) == pytest.approx(96 * 9 * 196 * 1e-6)
    assert array.latency_ms(Layer("add", 28, 28, 40, 40)) == pytest.approx(3 * 28 * 28 * 40 / 8 * 1e-6)
    grouped = Layer("conv", 28, 28, 64, 64, form=Form((28, 28), (3, 3), groups=4))
    assert AnalyticArray(dram_bytes_per_s=1e12).latency_ms(grouped) == pytest.approx(4 * 2 * 2 * 9 * 49 * 1e-6)


def test_latency_steps_at_the_lanes():
    for lanes in (8, 12, 32):
        estimator = Estimator.load("analytic_array", lanes=lanes, settings={"dram_bytes_per_s": 1e12})
        assert estimator.lanes == lanes
        widths = range(1, 4 * lanes + 2)
        latency_ms = estimator.predict_ms([Subgraph("conv", 28, 28, 256, width, width, 3) for width in widths])
        steps = [width for width, a, b in zip(widths[1:], latency_ms, latency_ms[1:], strict=False) if b > a]
        assert steps == [lanes + 1, 2 * lanes + 1, 3 * lanes + 1, 4 * lanes + 1]


def test_a_device_file_of_your_own(tmp_path):
    device = AnalyticArray(16, 8, 8, 5e8, 4e9).device("my_chip")
    device.save(tmp_path / "my_chip.json")
    estimator = Estimator.load(tmp_path / "my_chip.json")
    assert (estimator.device, estimator.name, estimator.lanes) == (device, "my_chip", 16)
    parts = [block("ibn", 28, 40, 40, 1), Subgraph("head", 7, 7, 320, 1280, 1000)]
    assert estimator.predict_ms(parts).tolist() == Estimator(device).predict_ms(parts).tolist()
    faster = Estimator.load(tmp_path / "my_chip.json", settings={"clock_hz": 1e9, "dram_bytes_per_s": 8e9})
    assert faster.predict_ms(parts) == pytest.approx(estimator.predict_ms(parts) / 2)


def test_any_network_is_priced_and_none_is_verified():
    estimator = Estimator.load("analytic_array")
    image = torch.zeros(1, 3, 64, 64)
    model = mobilenet_v3_small(weights=None)
    assert estimator.latency_ms(model, image) > 0
    assert estimator.verify_ms(model, image) is None
    assert estimator.memory(model, image).parameter_bytes > 0


def test_a_space_is_priced(network, images):
    space = space_of(network, images[:1], options=SpaceOptions(kernels=(3, 5)))
    estimator = Estimator.load("analytic_array")
    table = cost_table(space, estimator.predict_ms)
    latency_ms = estimator.latency_ms(space.decode(space.reference_encoding))
    assert table.exact(space.reference_encoding) == pytest.approx(latency_ms)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lanes": 0}, "`lanes` must be at least 1; got 0"),
        ({"rows": 2.5}, "`rows` must be a whole number at least 1; got 2.5"),
        ({"columns": True}, "`columns` must be a whole number"),
        ({"dram_bytes_per_s": -1e9}, "`dram_bytes_per_s` must be above 0; got -1000000000.0"),
        ({"clock_hz": math.nan}, "`clock_hz` must be a finite number above 0; got nan"),
        ({"clock_hz": "fast"}, "`clock_hz` must be a finite number above 0; got 'fast'"),
        ({"dataflow": "row_stationary"}, "`dataflow` must be one of tiled, output_stationary.*got 'row_stationary'"),
    ],
)
def test_arguments_that_no_array_can_have(arguments, message):
    with pytest.raises(ValueError, match=message):
        AnalyticArray(**arguments)
    if "lanes" not in arguments:
        with pytest.raises(ValueError, match=f"'analytic_array': {message}"):
            Estimator.load("analytic_array", settings=arguments)


def test_what_is_no_closed_form(tmp_path):
    with pytest.raises(ValueError, match="of rows, columns, clock_hz, dram_bytes_per_s, dataflow; got bandwidth"):
        Estimator.load("analytic_array", settings={"bandwidth": 1})
    with pytest.raises(ValueError, match="`lanes` must be at least 1; got 0"):
        Estimator.load("analytic_array", lanes=0)
    with pytest.raises(ValueError, match="was measured with its settings"):
        Estimator.load("ethos_u85_1024", settings={"macs": 512})
    with pytest.raises(ValueError, match=r"There is no device .*nothing\.json"):
        Estimator.load(tmp_path / "nothing.json")
    (tmp_path / "npu.json").write_text((TARGETS / "ethos_u85_1024.json").read_text())
    with pytest.raises(ValueError, match=r"there is no .*npu\.csv"):
        Estimator.load(tmp_path / "npu.json")


def test_the_shipped_record_says_how_far_off_it_is():
    assert "analytic_array" in available_devices()
    error = json.loads((TARGETS / "analytic_array.json").read_text())["record"]["error"]
    assert error["against"] == "edge_tpu"
    assert error["spearman"] >= 0.98
    assert 0.05 < error["mape"] < 0.3

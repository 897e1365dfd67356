import importlib
import importlib.util
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from lightning_nas.estimator import Estimator
from lightning_nas.estimator.analytic import AnalyticArray
from lightning_nas.estimator.device import Device
from lightning_nas.estimator.files import TARGETS, read_device
from lightning_nas.estimator.measure.backend import ParallelBackend, UnsupportedError, open_backend
from lightning_nas.estimator.measure.backends import zigzag
from lightning_nas.estimator.measure.campaign import measure
from lightning_nas.estimator.measurements import Figures, read_measurements
from lightning_nas.graph.layer import Form
from lightning_nas.graph.subgraph import Subgraph

HARDWARE = TARGETS / "edge_tpu_hardware.yaml"
SMALL = [Subgraph("ibn", 8, 8, 8, 16, 8, 3, residual=True), Subgraph("ds", 8, 8, 16, 16, 8, 3)]

needs_zigzag = pytest.mark.skipif(
    importlib.util.find_spec("zigzag") is None, reason="needs the extra: pip install 'lightning-nas[zigzag]'"
)


@pytest.fixture(scope="module")
def estimator():
    return Estimator.load("edge_tpu")


@pytest.fixture
def backend(estimator):
    return open_backend(estimator.device)


def block(kind, size, in_width, out_width, stride):
    residual = stride == 1 and in_width == out_width
    return Subgraph(kind, size, size, in_width, 6 * in_width, out_width, kernel=3, stride=stride, residual=residual)


def own_device(folder, change=lambda text: text):
    """Return a device whose hardware is the shipped one, changed."""
    (folder / "own.yaml").write_text(change(HARDWARE.read_text()))
    Device("own", "zigzag", 8, True, {"hardware": "own.yaml", "clock_hz": 1e9}).save(folder / "own.json")
    return read_device(folder / "own.json")


def test_early_blocks_are_faster_fused_and_late_ones_slower(estimator):
    def ratio(*shape):
        fused, ibn = estimator.predict_ms([block(kind, *shape) for kind in ("fused", "ibn")])
        return fused / ibn

    assert ratio(112, 16, 24, 2) == pytest.approx(0.21, abs=0.02)
    assert ratio(7, 160, 160, 1) == pytest.approx(2.25, rel=0.05)
    assert ratio(112, 16, 16, 1) < ratio(56, 24, 24, 1) < ratio(28, 40, 40, 1) < 1 < ratio(14, 112, 112, 1)


def test_the_closed_form_is_near_enough_to_rank(estimator):
    rows = {part: figures.latency_ms for part, figures in estimator.measurements.items() if not part.form}
    array = AnalyticArray()
    closed_ms = np.array([sum(array.latency_ms(layer) for layer in part.layers) for part in rows])
    true_ms = np.array(list(rows.values()))
    assert spearmanr(closed_ms, true_ms).statistic > 0.98
    assert np.abs(closed_ms / true_ms - 1).mean() < 0.25


def test_a_missing_package_is_named(estimator, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_nas.estimator.measure.backends.zigzag_hardware", None)
    with pytest.raises(ImportError, match=r"pip install 'zigzag-dse==3\.9\.\*'"):
        open_backend(estimator.device)
    assert estimator.verify_ms(Subgraph) is None


@needs_zigzag
def test_the_table_is_what_zigzag_says(estimator, backend):
    rows = list(estimator.measurements.items())
    for part, figures in rows[:: len(rows) // 8]:
        assert backend.measure_subgraph(part)[part].latency_ms == pytest.approx(figures.latency_ms, rel=1e-6)


@needs_zigzag
def test_cycles_by_hand(backend):
    def cycles(part):
        return round(sum(figures.latency_ms for figures in backend.measure_subgraph(part).values()) * 1e6)

    # Bound by the bandwidth of 8 bytes a cycle: input and output once, and the first word.
    assert cycles(Subgraph("conv", 112, 112, 16, 96, 96)) == 112 * 112 * (16 + 96) // 8 + 1
    assert cycles(Subgraph("add", 28, 28, 40, 40, 40)) == 3 * 28 * 28 * 40 // 8
    broadcast = Subgraph("mul", 28, 28, 40, 40, 40, form=Form((28, 28), variant="broadcast"))
    assert cycles(broadcast) == pytest.approx(2 * 28 * 28 * 40 // 8, abs=10)
    # Bound by the array: 12 x 8 channels of 9 taps on 49 tiles; the rest fills and drains it.
    assert 1 < cycles(Subgraph("conv", 28, 28, 64, 96, 96, 3)) / (12 * 8 * 9 * 49) < 1.2


@needs_zigzag
def test_latency_steps_at_the_lanes(backend):
    def latency_ms(width):
        (figures,) = backend.measure_subgraph(Subgraph("conv", 14, 14, 64, width, width, 3)).values()
        return figures.latency_ms

    growth = [latency_ms(width + 1) - latency_ms(width) for width in range(14, 18)]
    assert int(np.argmax(growth)) == 2
    assert growth[:2] == [0, 0]


@needs_zigzag
def test_sums_are_exact_and_equal_layers_are_priced_once(backend, monkeypatch):
    parts = [block("ibn", 14, 16, 16, 1), block("ibn", 14, 16, 16, 1)]
    rows = [figures.latency_ms for part in parts for figures in backend.measure_subgraph(part).values()]

    def again(*_):
        raise AssertionError("A layer is priced twice.")

    mapping = importlib.import_module("lightning_nas.estimator.measure.backends.zigzag_mapping")
    monkeypatch.setattr(mapping, "fastest_cycles", again)
    assert backend.measure_network(parts).latency_ms == pytest.approx(sum(rows))


@needs_zigzag
def test_what_has_no_equation_is_named_and_left_out(backend, caplog):
    unknown = Subgraph("transposed_conv", 7, 7, 8, 8, 8, form=Form((14, 14), (2, 2), (2, 2)))
    with pytest.raises(UnsupportedError, match="no equation for the operator 'transposed_conv'; it has conv, depth"):
        backend.measure_subgraph(unknown)
    known = Subgraph("conv", 7, 7, 8, 8, 8)
    assert [list(rows) for rows in backend.measure_many([unknown, known])] == [[], [known]]
    assert "transposed_conv 7x7" in caplog.text


@needs_zigzag
def test_a_resized_tensor_goes_through_the_array_once(backend):
    small, large = (
        sum(row.latency_ms for row in backend.measure_subgraph(part).values())
        for part in (
            Subgraph("resize", 7, 7, 8, 8, 8, form=Form((14, 14), variant="bilinear")),
            Subgraph("resize", 7, 7, 8, 8, 8, form=Form((28, 28), variant="bilinear")),
        )
    )
    assert 2 < large / small < 5


@needs_zigzag
def test_nothing_is_printed_or_left_behind(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    own = open_backend(own_device(tmp_path / "files"))
    own.measure_subgraph(SMALL[0])
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert os.listdir(tmp_path) == ["files"]


@needs_zigzag
def test_another_chip_is_a_file_away(tmp_path):
    def halved(text):
        return text.replace("sizes: [8, 8, 4, 4]", "sizes: [4, 8, 4, 4]").replace("K, 8", "K, 4")

    part = Subgraph("conv", 28, 28, 64, 96, 96, 3)
    (plain,) = open_backend(own_device(tmp_path)).measure_subgraph(part).values()
    (half,) = open_backend(own_device(tmp_path, halved)).measure_subgraph(part).values()
    assert half.latency_ms == pytest.approx(2 * plain.latency_ms, rel=0.15)


@needs_zigzag
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sizes: [8, 8, 4, 4]", "sizes: [8, 8, 4]", "dimensions and sizes do not match"),
        ("sizes: [8, 8, 4, 4]", "sizes: [0, 8, 4, 4]", "`sizes` of D1 must be 1 or more; got 0"),
        ("sizes: [8, 8, 4, 4]", "sizes: [16, 8, 4, 4]", "`dataflows` of D1 fill 8 of the 16 units"),
        ("size: 262144", "size: -1", "`size` of memory sram_32KB must be 1 or more; got -1"),
        ("size: 262144", "size: large", "must be of integer type"),
        ("bandwidth_min: 64\n", "bandwidth_min: -64\n", "`bandwidth_min` of dram, rw_port_1, must be 1 or more"),
        ("bandwidth_max: 64\n", "bandwidth_max: 8\n", "Minimum bandwidth is greater"),
        ("memories:", "memory:", "memor"),
        ("name: edge_tpu_like", "name: [", "cannot be read"),
        ("I2, tl", "I2, up", "does not match regex"),
    ],
)
def test_broken_hardware_is_refused(tmp_path, old, new, message):
    assert old in HARDWARE.read_text()
    with pytest.raises(ValueError, match=rf"own\.yaml.*{message}"):
        open_backend(own_device(tmp_path, lambda text: text.replace(old, new)))


@needs_zigzag
def test_hardware_that_is_not_there(tmp_path):
    device = own_device(tmp_path)
    (tmp_path / "own.yaml").unlink()
    with pytest.raises(FileNotFoundError, match=r"no hardware description .*own\.yaml"):
        open_backend(device)
    with pytest.raises(ValueError, match="Device 'own' lacks the setting 'hardware', which zigzag needs"):
        open_backend(replace(device, settings={"clock_hz": 1e9}))
    with pytest.raises(ValueError, match=r"`clock_hz` of device 'own' must be above 0 and at most .*; got 0"):
        open_backend(replace(device, settings={"hardware": "own.yaml", "clock_hz": 0}))


@needs_zigzag
def test_a_layer_that_fits_no_memory_is_named(tmp_path):
    def tiny(text):
        return text.replace("size: 262144", "size: 8").replace("size: 16777216", "size: 8")

    with pytest.raises(ValueError, match=r"cannot run a layer of loops .*K 16"):
        open_backend(own_device(tmp_path, tiny)).measure_subgraph(Subgraph("conv", 8, 8, 16, 16, 16, 3))


@needs_zigzag
def test_all_processes_agree_with_one(tmp_path, monkeypatch):
    monkeypatch.setattr(zigzag, "_MIN_LAYERS_A_PROCESS", 2)
    device = own_device(tmp_path)
    (many, alone) = (open_backend(device) for _ in range(2))
    assert isinstance(many, ParallelBackend)
    assert list(many.measure_many(SMALL)) == [alone.measure_subgraph(part) for part in SMALL]


def test_a_campaign_of_several_at_once_continues_where_it_stopped(tmp_path):
    class Counting:
        """Prices several at once, until it is stopped."""

        def __init__(self, limit):
            self.asked, self.limit = [], limit

        def measure_subgraph(self, subgraph):
            return {operator: Figures(1.0 + operator.macs) for operator in subgraph.operators}

        def measure_network(self, network):
            raise NotImplementedError

        def versions(self):
            return {}

        def measure_many(self, subgraphs):
            self.asked += subgraphs
            for part in subgraphs[: self.limit]:
                yield self.measure_subgraph(part)
            if self.limit < len(subgraphs):
                raise KeyboardInterrupt

    device, path = Device("own", "zigzag", 8, True), tmp_path / "own.csv"
    first, second = Counting(2), Counting(99)
    with pytest.raises(KeyboardInterrupt):
        measure(device, SMALL, path, first)
    operators = list(dict.fromkeys(operator for part in SMALL for operator in part.operators))
    assert first.asked == operators
    assert len(path.read_text().splitlines()) == 1 + 2
    table = measure(device, SMALL, path, second)
    assert second.asked == operators[2:]
    assert list(table) == operators == list(read_measurements(path).subgraphs)

"""Backends that time this machine: what they run, what they record, what they refuse. No figure is asserted."""

import builtins
import csv
import dataclasses
import json
import logging
import sys

import pytest
import torch
import torchvision
from conftest import VELA
from torch import nn

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.files import MIN_ROWS, read_device
from lightning_nas.estimator.measure import device_table
from lightning_nas.estimator.measure.backend import open_backend, why_unavailable
from lightning_nas.estimator.measure.backends import timing
from lightning_nas.estimator.measure.backends.runnable import lone
from lightning_nas.estimator.measure.backends.timing import Timing, timed
from lightning_nas.estimator.measure.backends.torch import _queued_ms
from lightning_nas.estimator.measure.backends.torch_module import NetworkModule
from lightning_nas.estimator.measure.campaign import measure
from lightning_nas.estimator.measurements import COLUMNS, Figures, read_measurements, to_row
from lightning_nas.graph.layer import Form
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.graph.trace import trace
from lightning_nas.jobs.estimator_command_line import main

QUICK = {"window_ms": 0.1, "num_windows": 3, "max_spread": 1e9}
PARTS = [
    Subgraph("stem", 16, 16, 3, 8, 8, 3, 2),
    Subgraph("ibn", 8, 8, 8, 16, 8, 3, 1, True),
    Subgraph("fused", 8, 8, 8, 16, 16, 5, 2),
    Subgraph("ds", 8, 8, 8, 8, 16, 3, residual=True),
    Subgraph("head", 4, 4, 8, 16, 10),
    Subgraph("classifier", 4, 4, 8, 8, 10),
    Subgraph("linear", 1, 1, 8, 10, 10),
]
OPERATORS = [
    Subgraph("add", 8, 8, 8, 8, 8),
    Subgraph("mul", 8, 8, 8, 8, 8, form=Form((8, 8))),
    Subgraph("mul", 8, 8, 8, 8, 8, form=Form((8, 8), variant="broadcast")),
    Subgraph("concat", 8, 8, 16, 16, 16, form=Form((8, 8))),
    Subgraph("concat", 64, 1, 8, 8, 8, form=Form((64, 1))),
    Subgraph("general_conv", 14, 14, 8, 16, 16, form=Form((7, 14), (1, 7), (2, 1), 1, 4)),
    Subgraph("general_conv", 14, 14, 8, 16, 16, form=Form((14, 14), (3, 3), dilation=2)),
    Subgraph("transposed_conv", 7, 7, 8, 8, 8, form=Form((14, 14), (3, 3), (2, 2))),
    Subgraph("avg_pool", 8, 8, 8, 8, 8, form=Form((4, 4), (2, 2), (2, 2))),
    Subgraph("max_pool", 9, 9, 8, 8, 8, form=Form((5, 5), (3, 3), (2, 2))),
    Subgraph("resize", 8, 8, 8, 8, 8, form=Form((16, 16), variant="bilinear")),
    *(
        Subgraph("activation", 8, 8, 8, 8, 8, form=Form((8, 8), variant=variant))
        for variant in ("relu", "clamp", "silu", "hardswish", "hardsigmoid", "sigmoid", "scale", "prelu")
    ),
]
BACKENDS = {
    "torch": ("torch", {}),
    "torch bf16 channels last": ("torch", {"precision": "bf16", "channels_last": True, "batch": 2, "clock": "cpu"}),
    "onnxruntime fp32": ("onnxruntime", {"clock": "cpu", "batch": 2}),
    "onnxruntime int8": ("onnxruntime", {"precision": "int8"}),
}


@pytest.fixture(params=BACKENDS)
def device(request):
    name, settings = BACKENDS[request.param]
    if name == "onnxruntime":
        for package in ("onnx", "onnxruntime"):
            pytest.importorskip(package, reason="needs the extra: pip install 'lightning-nas[onnxruntime]'")
    return Device("own", name, 8, settings=QUICK | settings)


def test_every_subgraph_runs_and_has_a_spread(device):
    backend = open_backend(device)
    for part in (*PARTS, *OPERATORS):
        ((measured, figures),) = backend.measure_subgraph(part).items()
        assert measured == part
        assert figures.latency_ms > 0
        assert figures.spread >= 0
    assert backend.measure_network(PARTS[1:3]).latency_ms > 0
    assert {device.backend, "processor"} <= backend.versions().keys()


def test_measuring_is_continued_and_read(device, tmp_path):
    table = tmp_path / "own.csv"
    measure(device, PARTS[:2], table)
    first = table.read_text()
    rows = measure(device, PARTS, table)
    assert table.read_text().startswith(first)
    assert list(rows) == PARTS
    assert rows == read_measurements(table).subgraphs
    assert all(figures.spread is not None for figures in rows.values())
    again = table.read_text()
    measure(device, PARTS, table, backend=None)
    assert table.read_text() == again


def test_what_runs_is_what_the_layers_say():
    for part in (*PARTS, *OPERATORS):
        network = lone(part)
        height, width, channels = network.image_shape
        (result,) = NetworkModule(network).eval()(torch.rand(2, channels, height, width))
        rows, columns, outer = part.out_shape
        assert tuple(result.shape) == (2, outer, rows, columns)


def test_a_traced_network_runs_whole(device):
    model = nn.Sequential(torchvision.models.mobilenet_v3_small().features[:4], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = trace(nn.Sequential(model, nn.Linear(24, 5)), torch.zeros(1, 3, 32, 32))
    assert open_backend(device).measure_network(network).latency_ms > 0


def test_operator_that_cannot_run_is_named():
    part = Subgraph("other", 8, 8, 8, 8, 8, path="head.sort", form=Form((8, 8), variant="sort"))
    with pytest.raises(ValueError, match=r"Module 'head\.sort' runs 'sort', which cannot be measured"):
        NetworkModule(lone(part))


def test_median_and_spread_of_windows():
    took = iter([1.0, 1.0, *([1.0] * 100)])
    assert timed(lambda count: count * next(took), Timing(1.0, 5)) == Figures(1.0, 0, 0.0)
    jitter = iter([1.0, 2.0, 3.0, 4.0] * 30)
    figures = timed(lambda count: count * next(jitter), Timing(1e-9, 4))
    assert figures.latency_ms == pytest.approx(2.5)
    assert figures.spread == pytest.approx(0.6)


def test_windows_are_taken_again_until_they_are_calm(monkeypatch):
    monkeypatch.setattr(timing, "_NUM_TRIES", 3)
    calls = []

    def run(count):
        calls.append(count)
        # Three calls before the windows, then two rounds that are disturbed.
        return count * (5.0 if len(calls) in (5, 6, 10, 11) else 1.0)

    assert timed(run, Timing(1e-9, 4)).spread == 0
    assert len(calls) == 3 + 3 * 4


class Jittery:
    """A backend one of whose subgraphs is disturbed."""

    def __init__(self, disturbed):
        self.disturbed = disturbed

    def measure_subgraph(self, subgraph):
        return {subgraph: Figures(1.0, spread=0.9 if subgraph == self.disturbed else 0.01)}


def test_what_jitters_is_left_out_said_and_measured_again(tmp_path, caplog):
    device, table = Device("own", "torch", 8), tmp_path / "own.csv"
    with caplog.at_level(logging.WARNING):
        rows = measure(device, PARTS, table, Jittery(PARTS[2]))
    assert set(rows) == set(PARTS) - {PARTS[2]}
    assert f"1 of {len(PARTS)} measurements of own are left out: their spread is above 0.25" in caplog.text
    assert set(measure(device, PARTS, table, Jittery(None))) == set(PARTS)
    lenient = dataclasses.replace(device, settings={"max_spread": 1.0})
    assert set(measure(lenient, PARTS, tmp_path / "other.csv", Jittery(PARTS[2]))) == set(PARTS)


def test_tables_without_a_spread_stay_as_they_are(tmp_path):
    table = tmp_path / "own.csv"
    table.write_text(",".join(COLUMNS) + "\n" + ",".join(map(str, to_row(PARTS[0], Figures(0.5)))) + "\n")
    rows = measure(Device("own", "torch", 8), PARTS[:2], table, Jittery(None))
    assert rows == {PARTS[0]: Figures(0.5), PARTS[1]: Figures(1.0)}
    with table.open() as file:
        assert next(csv.reader(file)) == list(COLUMNS)


@pytest.mark.parametrize("value", ["-0.1", "nan", "inf", "wide"])
def test_bad_spread_is_refused(tmp_path, value):
    table = tmp_path / "own.csv"
    row = [*map(str, to_row(PARTS[0], Figures(0.5))), value]
    table.write_text(",".join((*COLUMNS, "spread")) + "\n" + ",".join(row) + "\n")
    with pytest.raises(ValueError, match=rf"own\.csv, line 2: `spread` must be .*0 or more.*{value}"):
        read_measurements(table)
    with pytest.raises(ValueError, match="spread"):
        Figures(1.0, spread=-1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp64"}, "`precision` of device 'own' must be one of fp32, fp16, bf16; got 'fp64'"),
        ({"precision": "fp16"}, "fp16.*of `device` cuda"),
        ({"colour": 1}, "must be of window_ms, .*; got 'colour'"),
        ({"threads": 0}, "`threads` of device 'own' must be between 1 and .*; got 0"),
        ({"threads": True}, "whole number"),
        ({"batch": "8"}, "`batch`.*whole number.*'8'"),
        ({"window_ms": -1.0}, "`window_ms` of device 'own' must be above 0"),
        ({"window_ms": float("nan")}, "`window_ms` of device 'own' must be a finite number above 0"),
        ({"channels_last": 1}, "`channels_last`.*one of False, True; got 1"),
        ({"clock": "cpu", "threads": 2}, "`clock` cpu"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        open_backend(Device("own", "torch", 8, settings=settings))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_is_said():
    with pytest.raises(ValueError, match=r"'own' is cuda, but PyTorch .* finds no CUDA GPU here: set it to cpu"):
        open_backend(Device("own", "torch", 8, settings={"device": "cuda"}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gpu_is_timed_by_events(precision):
    backend = open_backend(Device("own", "torch", 8, settings=QUICK | {"device": "cuda", "precision": precision}))
    assert backend.measure_network(PARTS[1:3]).latency_ms > 0
    assert "cuda" in backend.versions()


def test_events_are_around_all_calls(monkeypatch):
    """Stands in for a GPU: the order of what is queued, and that the queue is waited for before it is read."""
    queue = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            queue.append(self)

        def synchronize(self):
            assert queue[-1] is self
            queue.append("waited")

        def elapsed_time(self, end):
            assert queue[-2:] == [end, "waited"]
            return float(queue.index(end) - queue.index(self) - 1)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert _queued_ms(lambda: queue.append("run"), 3) == 3.0


@pytest.mark.parametrize(("name", "package"), [("onnxruntime", "onnx>="), ("ethosu", "ethos-u-vela==")])
def test_missing_package_says_what_to_install(monkeypatch, name, package):
    real = builtins.__import__

    def without(wanted, globals=None, locals=None, fromlist=(), level=0):
        if wanted.split(".")[0] in (name, "onnx") and not level:
            raise ImportError(f"No module named {wanted!r}")
        return real(wanted, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=f"pip install '{package}"):
        open_backend(Device("own", "vela" if name == "ethosu" else name, 8))


def command(monkeypatch, *arguments):
    main([*map(str, arguments)])


def test_a_table_of_this_machine_in_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(device_table, "plan_subgraphs", lambda seed, count: PARTS[:count])
    table = tmp_path / "my_cpu.csv"
    settings = [f"{name}={value}" for name, value in QUICK.items()]
    with pytest.raises(SystemExit):
        command(monkeypatch, "measure", table)
    assert "say what measures, with `--backend`, one of vela, " in capsys.readouterr().err
    arguments = ("measure", table, "--num-subgraphs", 3, "--backend", "torch", "--set", *settings, "precision=fp32")
    command(monkeypatch, *arguments)
    device = json.loads(table.with_suffix(".json").read_text())
    assert (device["backend"], device["lanes"], device["settings"]) == ("torch", 8, QUICK | {"precision": "fp32"})
    assert device["record"]["measured_by"]["torch"] == torch.__version__
    assert device["record"]["rows"] == 3
    command(monkeypatch, "measure", table, "--num-subgraphs", 5)
    assert list(read_measurements(table).subgraphs) == PARTS[:5]
    for wrong in (("--backend", "onnxruntime"), ("--set", "precision=bf16"), ("--set", "precision")):
        with pytest.raises(SystemExit):
            command(monkeypatch, "measure", table, *wrong)
        assert "another name" in (error := capsys.readouterr().err) or "name=value" in error


def test_another_machine_verifies_nothing(caplog):
    rows = [Subgraph("conv", 8, 8, width, width, width) for width in range(8, 8 * (MIN_ROWS + 1), 8)]
    record = {"measured_by": {"processor": "another"}}
    device = Device("own", "torch", 8, settings=QUICK, record=record)
    estimator = Estimator(device, {part: Figures(part.macs * 1e-6) for part in rows})
    model = nn.Conv2d(8, 8, 1)
    with caplog.at_level(logging.INFO):
        assert estimator.verify_ms(model, torch.zeros(1, 8, 8, 8)) is None
    # Whoever asks for the reason is told; each figure that is missing is no news.
    assert not caplog.records
    assert why_unavailable(device).startswith("own cannot be measured here: it is another")
    here = Estimator(dataclasses.replace(device, record={}), estimator.measurements)
    assert here.verify_ms(model, torch.zeros(1, 8, 8, 8)) > 0


def test_a_device_is_not_judged_by_less_without_being_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = tmp_path / "own.csv"
    rows = [Subgraph("conv", 8, 8, width, width, width) for width in range(8, 8 * (MIN_ROWS + 1), 8)]
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(to_row(part, Figures(part.macs * 1e-6)) for part in rows)
    record = {"measured_by": {"processor": "another"}, "error": {"networks": {"count": 3}}}
    device = Device("own", "torch", 8, settings=QUICK, record=record)
    device.save(table.with_suffix(".json"))
    with pytest.raises(SystemExit):
        command(monkeypatch, "error", table)
    assert "own was timed on another machine" in capsys.readouterr().err
    missing = dataclasses.replace(device, backend="vela", settings=VELA, record={**record, "measured_by": {}})
    missing.save(table.with_suffix(".json"))
    monkeypatch.setitem(sys.modules, "ethosu", None)
    with pytest.raises(SystemExit):
        command(monkeypatch, "error", table)
    assert "pip install 'ethos-u-vela==5.2.*' 'flatbuffers>=24'" in capsys.readouterr().err
    assert read_device(table.with_suffix(".json")).record["error"] == record["error"]

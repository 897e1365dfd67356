"""The recipe `estimator`: measured, fitted, judged, drawn and handed on, or refused before any work."""

import json
import math
import re
import sys

import pytest
import torch
from commands import run
from conftest import VELA
from plans import built
from torch import nn

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.files import TARGETS, read_device
from lightning_nas.estimator.fit.staircase import short_curve
from lightning_nas.estimator.judge import granularity, whole_networks
from lightning_nas.estimator.measure import backend as backends
from lightning_nas.estimator.measure import device_table
from lightning_nas.estimator.measurements import Figures, read_measurements
from lightning_nas.estimator.share import unpacked
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.graph.trace import trace
from lightning_nas.jobs import estimator as estimator_job
from lightning_nas.jobs.estimator_command_line import main

pytestmark = pytest.mark.usefixtures("few_trees")
HEADER = "kind,height,width,in_channels,hidden_channels,out_channels,kernel,stride,residual,latency_ms"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def chip_ms(part):
    """Latency on an array of 16 lanes."""
    return sum(
        (layer.macs / layer.out_channels * math.ceil(layer.out_channels / 16) + 9) * 1e-6 for layer in part.layers
    )


class Chip:
    """A backend by a formula, that counts and can stop; whole networks take 2 % more than their parts."""

    def __init__(self, limit=10**9):
        self.count, self.limit = 0, limit

    def measure_subgraph(self, subgraph):
        if self.count == self.limit:
            raise KeyboardInterrupt
        self.count += subgraph != estimator_job.PROBE
        return {part: Figures(chip_ms(part)) for part in subgraph.operators}

    def measure_network(self, network):
        layers = [operation.layer for operation in network.operations]
        parts = type("Parts", (), {"layers": layers})
        return Figures(1.02 * chip_ms(parts))

    def versions(self):
        return {"formula": "1"}


class Whole:
    """The same chip, of which only whole subgraphs are measured, that pay for standing alone."""

    def __init__(self, chip):
        self.measure_network, self.versions, self._chip = chip.measure_network, chip.versions, chip

    def measure_subgraph(self, subgraph):
        return {subgraph: Figures(1.5 * sum(row.latency_ms for row in self._chip.measure_subgraph(subgraph).values()))}


@pytest.fixture
def backend(monkeypatch):
    chip = Chip()
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1))
    small = [("small@64", trace(model, torch.zeros(1, 3, 64, 64)))]
    for place in (estimator_job, backends, granularity):
        monkeypatch.setattr(place, "open_backend", lambda device: chip if device.is_split else Whole(chip))
    monkeypatch.setattr(whole_networks, "stock_networks", lambda seed: small)
    monkeypatch.setattr(device_table, "stock_operators", lambda: [])
    return chip


def options(folder, **given):
    small = {"num_subgraphs": 25, "num_networks": 3, "num_folds": 2, "staircase_width": 72}
    return {"recipe": "estimator", "output_dir": folder / "run", "seed": 0, **small, **given}


def table_of(folder, parts, name="my_chip"):
    path = folder / f"{name}.csv"
    rows = [
        f"{p.kind},{p.height},{p.width},{p.in_channels},{p.hidden_channels},{p.out_channels},{p.kernel},{p.stride},"
        f"{int(p.residual)},{chip_ms(p):.9g}"
        for p in parts
    ]
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return path


CONVS = [Subgraph("conv", 8, 8, width, width, width, 3) for width in range(8, 200, 8)]


def test_a_table_becomes_an_estimator_its_report_and_one_file(tmp_path):
    table = table_of(tmp_path, [*CONVS, *short_curve()])
    result = built(**options(tmp_path, device=str(table)))
    run = tmp_path / "run"
    assert {path.name for path in run.iterdir() if path.name[0] != "."} == {
        "fingerprint.json",
        "my_chip.csv",
        "my_chip.json",
        "my_chip.estimator.zip",
        "report.html",
        "result.json",
    }
    assert json.loads((run / "result.json").read_text()) == result
    assert (result["lanes"]["used"], result["lanes"]["found"], result["lanes"]["documented"]) == (16, 16, None)
    assert result["rows"] == len(CONVS) + len(short_curve())
    assert result["error"]["rows"]["mape"] < 0.2
    assert "networks" not in result["error"]
    shared = Estimator.load(run / "my_chip.estimator.zip")
    assert (shared.lanes, shared.name) == (16, "my_chip")
    assert dict(shared.measurements) == dict(Estimator.load(table).measurements)
    assert shared.device.record["error"]["rows"]["count"] == result["rows"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["my_chip.csv"]
    page = (run / "report.html").read_text()
    assert not re.search(r"<script|<link|<img|url\(|src=|@import", page)
    assert page.count("<svg") == 2
    assert "No network was measured whole" in page


def test_a_new_device_is_measured_and_its_lanes_are_found(tmp_path, backend):
    result = built(**options(tmp_path, device="new_chip", backend="vela", settings=VELA))
    run = tmp_path / "run"
    assert (result["lanes"]["used"], result["lanes"]["found"]) == (16, 16)
    assert result["error"]["sums"]["bias"] == pytest.approx(1 / 1.02, rel=1e-3)
    assert (result["error"]["networks"]["count"], result["error"]["stock"]["count"]) == (4, 1)
    assert result["granularity"]["operators"] < 0.2 < result["granularity"]["subgraphs"]
    device = read_device(run / "new_chip.json")
    assert (device.backend, device.lanes, device.is_split, dict(device.settings)) == ("vela", 16, True, VELA)
    assert device.record["measured_by"] == {"formula": "1"}
    page = (run / "report.html").read_text()
    # Three parity plots and the curves, whose grid is at 48 and 64 channels.
    assert page.count("<svg") > 3
    assert "Additivity" in page
    with unpacked(run / "new_chip.estimator.zip") as table:
        assert read_measurements(table).subgraphs == read_measurements(run / "new_chip.csv").subgraphs


def test_without_curves_the_table_itself_shows_the_lanes(tmp_path, backend, monkeypatch):
    parts = [*CONVS, *short_curve()]
    monkeypatch.setattr(device_table, "sample_subgraphs", lambda seed, count: parts)
    given = {"staircase_width": None, "num_networks": 0, "settings": VELA}
    result = built(**options(tmp_path, device="new_chip", backend="vela", **given))
    assert (result["lanes"]["used"], result["lanes"]["found"]) == (16, 16)
    assert read_device(tmp_path / "run" / "new_chip.json").lanes == 16


def test_a_run_that_was_stopped_goes_on_and_measures_nothing_twice(tmp_path, backend, monkeypatch):
    given = {"device": "new_chip", "backend": "vela", "settings": VELA}
    whole = built(**options(tmp_path / "whole", **given))
    needed, backend.limit = backend.count, backend.count // 2
    backend.count = 0
    with pytest.raises(KeyboardInterrupt):
        built(**options(tmp_path, **given))
    assert not (tmp_path / "run" / "result.json").exists()
    backend.limit = 10**9
    assert built(**options(tmp_path, **given)) == whole
    assert backend.count == needed
    assert built(**options(tmp_path, **given)) == whole
    assert backend.count == needed
    with pytest.raises(ValueError, match="holds measurements of another 'new_chip'"):
        built(**options(tmp_path, **{**given, "settings": {**VELA, "macs": 32}}))


def test_a_table_with_its_device_is_continued_in_the_run(tmp_path, backend):
    table = table_of(tmp_path, CONVS)
    before = table.read_text()
    Device("my_chip", "vela", 16, settings=VELA).save(table.with_suffix(".json"))
    result = built(**options(tmp_path, device=str(table), backend="vela", num_networks=0))
    assert result["rows"] > len(CONVS)
    assert table.read_text() == before
    continued = read_measurements(tmp_path / "run" / "my_chip.csv").subgraphs
    assert {part: continued[part] for part in CONVS} == dict(read_measurements(table).subgraphs)
    assert result["lanes"]["documented"] == 16
    again = options(tmp_path / "again", device=str(tmp_path / "run" / "my_chip.estimator.zip"), num_networks=0)
    assert built(**again)["rows"] == result["rows"]


def test_files_that_settings_name_come_along(tmp_path, backend):
    (tmp_path / "array.yaml").write_text("lanes: 16")
    Device("drawn", "zigzag", 4, settings={"hardware": "array.yaml", "clock_hz": 1e9}).save(tmp_path / "drawn.json")
    with pytest.raises(ValueError, match="no table beside it; to measure one, say backend=zigzag"):
        built(**options(tmp_path, device=str(tmp_path / "drawn.json")))
    given = options(tmp_path, device=str(tmp_path / "drawn.json"), backend="zigzag", num_networks=0)
    result = built(**given)
    assert (result["lanes"]["used"], result["lanes"]["found"], result["lanes"]["documented"]) == (4, 16, 4)
    assert (tmp_path / "run" / "array.yaml").read_text() == "lanes: 16"


def test_lanes_that_differ_from_what_was_found_are_said(tmp_path):
    table = table_of(tmp_path, [*CONVS, *short_curve()])
    result = built(**options(tmp_path, device=str(table), lanes=8))
    assert (result["lanes"]["used"], result["lanes"]["found"]) == (8, 16)
    assert "but 16 were found" in (tmp_path / "run" / "report.html").read_text()
    assert Estimator.load(tmp_path / "run" / "my_chip.estimator.zip").lanes == 8


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "abacus"}, "no device 'abacus': .*ethos_u85_1024.*needs a backend of .*vela"),
        ({"device": "abacus", "backend": "sundial"}, "`backend` .* must be one of vela.*'sundial'"),
        ({"device": "a/b", "backend": "vela"}, "named as a file is"),
        ({"device": "gone.csv"}, "there is no gone.csv"),
        ({"device": "gone.json"}, "no device at gone.json"),
        ({"device": "gone.estimator.zip"}, "no estimator at gone"),
        ({"device": "BAD"}, "my_chip.csv, line 3: `latency_ms`"),
        ({"device": "ethos_u85_1024", "backend": "sundial"}, "is measured by backend=vela; got backend=sundial"),
        ({"device": "ethos_u85_1024", "settings": {"macs": 1}}, "has settings of its own"),
        ({"device": "ethos_u85_1024", "num_subgraphs": 3}, "`num_subgraphs` must be at least 20; got 3"),
        ({"device": "ethos_u85_1024", "num_networks": -1}, "`num_networks` must be at least 0; got -1"),
        ({"device": "ethos_u85_1024", "staircase_width": 40}, "`staircase_width` must be at least 64; got 40"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tmp_path, given, message):
    if given["device"] == "BAD":
        path = table_of(tmp_path, CONVS)
        lines = path.read_text().splitlines()
        path.write_text("\n".join([*lines[:2], lines[2].rsplit(",", 1)[0] + ",fast", *lines[3:]]) + "\n")
        given = {"device": str(path)}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        built(**options(tmp_path, **given))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"macs": 64}, "'my_u55' lacks the setting '\\w+', which vela needs"),
        ({"memory_mode": "Dedicated_Sram"}, "lacks the setting|must be Shared_Sram"),
        ({"system_config": "None_Such"}, "'my_u55' cannot be measured"),
    ],
)
def test_settings_that_the_backend_refuses_are_said_before_any_work(tmp_path, settings, message):
    pytest.importorskip("ethosu", reason="needs the extra: pip install 'lightning-nas[vela]'")
    if "system_config" in settings:
        shipped = read_device(TARGETS / "ethos_u85_1024.json").settings
        settings = {**shipped, **settings}
    with pytest.raises(ValueError, match=message):
        built(**options(tmp_path, device="my_u55", backend="vela", settings=settings))
    assert not (tmp_path / "run").exists()


def test_a_backend_that_is_missing_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ethosu", None)
    settings = {"accelerator": "EthosU55"}
    with pytest.raises(ImportError, match=re.escape("pip install 'ethos-u-vela==5.2.*' 'flatbuffers>=24'")):
        built(**options(tmp_path, device="my_u55", backend="vela", settings=settings))
    assert not (tmp_path / "run").exists()


def test_from_the_command_line(tmp_path):
    table_of(tmp_path, [*CONVS, *short_curve()])
    arguments = ["--config-name", "estimator", "num_folds=2", "hydra.run.dir=run"]
    done = run(tmp_path, *arguments, "device=my_chip.csv")
    assert done.returncode == 0, done.stderr
    assert "16 lanes" in done.stdout
    assert (tmp_path / "run" / "my_chip.estimator.zip").exists()
    refused = run(tmp_path, *arguments[:-1], "device=abacus")
    assert refused.returncode == 2
    assert "no device 'abacus'" in refused.stderr
    assert not (tmp_path / "outputs" / "estimator").exists() or not list((tmp_path / "outputs" / "estimator").iterdir())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--num-subgraphs=0", "`--num-subgraphs` must be at least 1; got 0"),
        ("--num-networks=-1", "`--num-networks` must be at least 1; got -1"),
        ("--lanes=0", "`--lanes` must be at least 1; got 0"),
        ("--seed=-1", "`seed` must be between 0 and"),
    ],
)
def test_numbers_of_a_command_are_checked_before_it_begins(tmp_path, option, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["memory", str(tmp_path / "own.csv"), option])
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

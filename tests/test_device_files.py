"""Devices of others: what names their files, what their backends must know, and what is followed of it."""

import json
import os
import sys

import pytest
from conftest import VELA
from plans import built

from lightning_nas.estimator.device import Device, check_name
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.files import MIN_ROWS, read_device
from lightning_nas.estimator.measure.backend import BACKENDS
from lightning_nas.estimator.measure.settings import SETTINGS, checked_settings, most_spread
from lightning_nas.estimator.share import pack
from lightning_nas.jobs import estimator_command_line as command

HEADER = "kind,height,width,in_channels,hidden_channels,out_channels,kernel,stride,residual,latency_ms"
ROWS = [f"conv,8,8,{width},,{width},3,1,0,{width * width * 1e-4}" for width in range(8, 16 + 8 * MIN_ROWS, 8)]
OUTSIDE = ("../../x", "/absolute", "..", ".", "", ".hidden", "a/b", "a\\b", "C:x", "a\nb", "a\0b", "x" * 201, "\u202ea")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def table_of(folder, stem="my_chip", **device):
    """Write a table, and a device beside it whose file says what is given."""
    folder.mkdir(exist_ok=True)
    table = folder / f"{stem}.csv"
    table.write_text("\n".join([HEADER, *ROWS]) + "\n")
    if device:
        said = {"format": 1, "name": "my_chip", "backend": "csv", "lanes": 8, **device}
        table.with_suffix(".json").write_text(json.dumps(said))
    return table


def written(folder):
    return sorted(path for path in folder.rglob("*") if "cache" not in path.parts)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_elsewhere_is_refused_wherever_it_comes_from(tmp_path, name, monkeypatch):
    with pytest.raises(ValueError, match="A device is named as a file is"):
        Device(name, "csv", 8)
    table = table_of(tmp_path / "in", name=name)
    before = written(tmp_path)
    with pytest.raises(ValueError, match=r"my_chip\.json is not a valid device: A device is named as a file is"):
        Estimator.load(table)
    with pytest.raises(ValueError, match="A device is named as a file is"):
        built(recipe="estimator", output_dir=tmp_path / "a" / "b" / "run", seed=0, device=str(table))
    with pytest.raises(ValueError, match="A device is named as a file is"):
        built(recipe="estimator", output_dir=tmp_path / "a" / "b" / "run", seed=0, device=name, backend="torch")
    archive = pack(table, tmp_path / "in" / "x.estimator.zip")
    with pytest.raises(ValueError, match="A device is named as a file is"):
        Estimator.load(archive)
    archive.unlink()
    with pytest.raises(SystemExit) as stopped:
        command.main(["lanes", str(table)])
    assert stopped.value.code == 2
    assert written(tmp_path) == before


@pytest.mark.parametrize("name", ["my chip (2)", "m\u00fcller.v2", "-x", "chip#1 & [b]", "x" * 200])
def test_names_of_files_are_names(tmp_path, name):
    check_name(name)
    assert Estimator.load(table_of(tmp_path / "in", name)).name == name


def test_a_table_with_a_blank_in_its_name_can_be_handed_on(tmp_path):
    table = table_of(tmp_path / "in", "my chip (2)", name="my chip (2)")
    assert Estimator.load(pack(table, tmp_path / "a.estimator.zip")).name == "my chip (2)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "abacus"}, "`backend` of device 'my_chip' must be one of vela.*csv; got 'abacus'"),
        ({"backend": "os"}, "`backend`"),
        *(({"settings": {k: v for k, v in VELA.items() if k != name}}, f"lacks the setting '{name}'") for name in VELA),
        *(({"settings": {**VELA, name: [1]}}, f"`{name}` of device 'my_chip' must be") for name in VELA),
        ({"settings": {**VELA, "macs": -1}}, "`macs` .* between 1 and"),
        ({"settings": {**VELA, "macs": 1.5}}, "`macs` .* whole number"),
        ({"settings": {**VELA, "clock_hz": True}}, "`clock_hz` .* finite number"),
        ({"settings": {**VELA, "clock_hz": 10**400}}, "`clock_hz` .* at most"),
        ({"settings": {**VELA, "memory_mode": "a\n[x]"}}, "`memory_mode` .* text of one line"),
        ({"settings": {**VELA, "accelerator": "../x"}}, "`accelerator` .* one of EthosU55"),
        ({"settings": {**VELA, "threads": 1}}, "must be of accelerator, .*got 'threads'"),
        ({"backend": "zigzag", "settings": {"clock_hz": 1e9}}, "lacks the setting 'hardware'"),
        *(
            ({"backend": "zigzag", "settings": {"hardware": path, "clock_hz": 1e9}}, "a file beside its own")
            for path in ("../a.yaml", "/etc/passwd", "a/b.yaml", "..", "", "C:\\a", "a\\b", 3, None)
        ),
        ({"backend": "torch", "settings": {"threads": "2"}}, "`threads`"),
        ({"backend": "onnxruntime", "settings": {"precision": "fp16"}}, "`precision`"),
        ({"backend": "analytic", "settings": {"rows": 0}}, "`rows`"),
        ({"settings": []}, "`settings`"),
        ({"lanes": 10**9}, "`lanes`"),
        ({"correction": "1"}, "`correction`"),
        ({"errors": {"all": [0.1]}}, "errors lack"),
        ({"errors": []}, "`errors`"),
        ({"record": {"measured_by": [1]}}, "`measured_by`"),
        ({"format": 2}, "format is not 1"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_device_that_cannot_be_measured_is_refused_when_it_is_loaded(tmp_path, change, message, monkeypatch):
    for package in ("ethosu", "zigzag", "onnxruntime", "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
    table = table_of(tmp_path / "in", **{"backend": "vela", "settings": VELA, **change})
    for read in (Estimator.load, lambda path: read_device(path.with_suffix(".json"))):
        with pytest.raises(ValueError, match=rf"my_chip\.json is not a valid device: .*{message}"):
            read(table)


def test_every_backend_says_what_it_needs():
    assert set(SETTINGS) == set(BACKENDS) - {"analytic"}


def test_a_link_out_of_the_folder_of_a_device_is_not_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_nas.jobs.estimator._open", lambda *_: None)
    folder = tmp_path / "in"
    table = table_of(folder, backend="zigzag", settings={"hardware": "array.yaml", "clock_hz": 1e9})
    (tmp_path / "secret").write_text("secret")
    os.symlink(tmp_path / "secret", folder / "array.yaml")
    with pytest.raises(ValueError, match=r"array\.yaml leads out of the folder of its device"):
        built(recipe="estimator", output_dir=tmp_path / "run", seed=0, device=str(table))
    assert not (tmp_path / "run" / "array.yaml").exists()


def test_settings_are_read_as_what_they_were_checked_for():
    settings = checked_settings(
        Device("cpu", "torch", 8, settings={"threads": 2, "window_ms": 5, "channels_last": True}), SETTINGS["torch"]
    )
    read = (
        settings.text("clock"),
        settings.count("threads"),
        settings.number("window_ms"),
        settings.is_on("channels_last"),
    )
    assert read == ("wall", 2, 5.0, True)
    assert most_spread(Device("cpu", "torch", 8)) == 0.25
    assert most_spread(Device("cpu", "torch", 8, settings={"max_spread": 1})) == 1.0


@pytest.mark.parametrize("record", [{}, {"measured_by": None}])
def test_a_record_may_say_nothing_of_what_measured(record):
    assert Device("npu", "csv", 8, record=record).measured_by == {}

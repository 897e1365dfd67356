"""Small files of others that are broken in ways that once came out as something else than a ValueError."""

import json

import pytest
from recorded_runs import make_result

from lightning_nas.data._labels import label_settings
from lightning_nas.data.voc import _read_annotation
from lightning_nas.estimator.measurements import read_measurements
from lightning_nas.graph.layer import Form
from lightning_nas.multishot.process import Owner
from lightning_nas.report.recorded import read_run
from lightning_nas.space.spec import SearchSpace

DEEP = "[" * 100_000
HEADER = "kind,height,width,in_channels,hidden_channels,out_channels,kernel,stride,residual,latency_ms,sram_bytes"


@pytest.mark.parametrize(
    "text", [DEEP, "{", "[]", '{"classes": [{"id": 1e999, "name": "a"}]}', '{"classes": [{"id": NaN, "name": "a"}]}']
)
def test_labels(tmp_path, text):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(ValueError, match=r"labels\.json' must be of the form"):
        label_settings(tmp_path / "labels.json")


@pytest.mark.parametrize(
    "objects",
    [
        "<object><name><b>1</b></name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></object>",
        "<object><name>a</name><bndbox><xmin>nan</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></object>",
        "<object><name>a</name><bndbox><xmin>inf</xmin><ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></object>",
        "<object>text</object>",
        "<object>" + "<part>" * 50_000 + "</part>" * 50_000 + "</object>",
    ],
)
def test_annotations_of_voc(tmp_path, objects):
    (tmp_path / "a.xml").write_text(f"<annotation>{objects}</annotation>")
    with pytest.raises(ValueError, match=r"a\.xml' must be a VOC annotation"):
        _read_annotation(tmp_path / "a.xml", drop_difficult=False)


def test_an_encoding_that_there_is_not(tmp_path):
    (tmp_path / "a.xml").write_text("<?xml version='1.0' encoding='rot26'?><annotation/>")
    with pytest.raises(ValueError, match=r"a\.xml' must be a VOC annotation"):
        _read_annotation(tmp_path / "a.xml", drop_difficult=False)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("conv,8,8,1e300,,8,1,1,0,0.5,", "`in_channels` must be 1073741824 at most"),
        ("conv,8,8,8,,8,1,1,0,1e300,", "`latency_ms` must be 1e-12 to 1e"),
        ("conv,8,8,8,,8,1,1,0,0.5,1e300", "`sram_bytes`"),
        ("general_conv 8x8 k3x3 s0x1 d1 g1 n0,8,8,8,8,8,1,1,0,0.5,", "numbers of a form"),
        ("general_conv 8x8 k3x3 s1x1 d1 g0 n0,8,8,8,8,8,1,1,0,0.5,", "numbers of a form"),
    ],
)
def test_tables(tmp_path, row, message):
    (tmp_path / "chip.csv").write_text(f"{HEADER}\n{row}\n")
    with pytest.raises(ValueError, match=rf"chip\.csv, line 2: .*{message}"):
        read_measurements(tmp_path / "chip.csv")


def test_forms_without_numbers_are_whole():
    assert Form.parse("8x8 k3x3 s1x1 d1 g1 n0").num_values == 0


@pytest.mark.parametrize("text", [DEEP, "{", '{"format": 1, "stages": NaN}', '{"format": 1e999}'])
def test_spaces(text):
    with pytest.raises(ValueError, match=r"search space"):
        SearchSpace.from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": [1]}, "an object as its search"),
        ({"search": {"steps": "x", "seconds": 1}}, "a number as 'steps' of 'search'"),
        ({"versions": "2.9"}, "an object as its versions"),
        ({"command": 3}, "text as its command"),
        ({"fusing": {"all": 1}}, "a number as 'latency_ms' of 'all'"),
        ({"budget": {"latency_ms": "fast"}}, "a number or null as 'latency_ms' of 'budget'"),
        ({"seed": 10**400}, "whole number as its seed"),
        ({"subnet": {**make_result()["subnet"], "macs": [1]}}, "a number or null as 'macs' of 'subnet'"),
        ({"subnet": {**make_result()["subnet"], "latency_ms": 10**400}}, "a number as 'latency_ms' of 'subnet'"),
    ],
)
def test_results(tmp_path, change, message):
    (tmp_path / "result.json").write_text(json.dumps({**make_result(), **change}))
    with pytest.raises(ValueError, match=rf"result\.json' must .*{message}"):
        read_run(tmp_path / "result.json")


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"host": 1, "pid": 1, "token": ""},
        {"host": "a", "pid": -1, "token": ""},
        {"host": "a", "pid": 10**30, "token": ""},
        {"host": "a", "pid": 1, "token": "", "more": 1},
    ],
)
def test_owners_of_trials(data):
    here = Owner.here()
    assert Owner.from_dict(here.to_dict()) == here
    with pytest.raises(ValueError, match=r"owner of a trial|`pid`"):
        Owner.from_dict(data)

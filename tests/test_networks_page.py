"""The page of networks that were tried, and the record that it is written from."""

import importlib.util
import json
from pathlib import Path

import pytest
import zoo
from networks_page import NetworkRow, networks_page, read_rows
from recorded_runs import rows_of

RESULTS = Path(__file__).parents[1] / "recipes" / "results"
GOOD = NetworkRow(
    accepted=True,
    space_s=1.23,
    convert_s=0.5,
    equal=True,
    groups=3,
    of_groups=4,
    convolutions=8,
    of_convolutions=8,
    blocks={"ibn": 2, "fused": 1},
    skips=1,
    members="1.0e+03",
    narrower=6,
    derived=6,
    priced=6,
    source_exports=True,
    exports=True,
    reloads=True,
    search_ratio=0.791,
    search_s=2.0,
    reasons={"width: a|b": 2},
)
COSTLY = NetworkRow(**{**vars(GOOD), "priced": 5, "convolutions": 1, "exports": False, "errors": {"export": "No: it."}})


@pytest.fixture(scope="module")
def command():
    spec = importlib.util.spec_from_file_location("networks", Path(__file__).parent / "benchmarks" / "networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_record_of_all_networks_says():
    rows = read_rows(RESULTS / "networks.json")
    assert rows.keys() == zoo.ZOO.keys()
    assert networks_page(rows) == (RESULTS / "networks.md").read_text(encoding="utf-8")


def test_sums_and_cells_of_a_page():
    refused = NetworkRow(errors={"space": "It has no convolution."})
    page = networks_page({"timm/resnet18": GOOD, "own/b": COSTLY, "own/c": refused})
    assert "**Accepted: 2 of 3**, 2 equal" in page
    assert "**Every width exact: 1 of 3**" in page
    assert "every convolution can be chosen in 1 networks; of all convolutions in 9 of 16 (56 %)" in page
    assert "1 derived networks are exported, of 2 whose source is; 2 are reloaded; 2 searches end" in page
    rows = {row[0]: row[1:] for row in rows_of(page) if len(row) == 16}
    assert rows["timm/resnet18"] == [
        *("1.2", "0.5", "yes", "3 of 4", "8 of 8", "1 fused, 2 ibn", "1", "1.0e+03"),
        *("6 of 6", "6 of 6", "6 of 6", "yes", "yes", "0.79x", "2.0"),
    ]
    assert rows["own/b"][10:12] == ["5 of 6", "no"]
    assert rows["own/c"] == ["not accepted", *[""] * 14]
    assert "| own/b | **export**: No: it.; 2x width: a/b |" in page
    assert "| own/c | **space**: It has no convolution. |" in page


def test_a_page_stands_beside_the_networks_of_a_peer():
    page = networks_page({"timm/resnet18": GOOD, "own/b": COSTLY})
    beside = rows_of(page.partition("## Beside ModelOpt")[2])
    assert [row for row in beside if "/" in row[0]] == [
        ["timm/resnet18", "1.7", "8 of 8", "1 fused, 2 ibn", "1.0e+03"],
    ]


def test_more_reasons_than_fit_are_counted():
    reasons = {f"reason {number}": number for number in range(1, 7)}
    page = networks_page({"own/a": NetworkRow(accepted=True, reasons=reasons)})
    assert "6x reason 6; 5x reason 5; 4x reason 4; 3x reason 3; 3 for other reasons |" in page


def test_a_process_that_ends_early_has_said_how_far_it_came(command):
    lines = [{"errors": {"source": "stopped"}}, {"accepted": True, "errors": {"space": "x", "export": "stopped"}}]
    said = "a warning\n" + "".join(json.dumps(line) + "\n" for line in lines)
    assert command.row_of(said + '{"errors": {"cut', "it took more than 9 s") == {
        "accepted": True,
        "errors": {"space": "x", "export": "it took more than 9 s"},
    }
    assert command.row_of(said, "") == lines[-1]
    assert command.row_of("", "gone") == {"errors": {"start": "gone"}}


def test_a_network_that_takes_too_long_is_a_row(command):
    assert command.try_apart("own/vgg", 0.1) == {"errors": {"start": "it took more than 0.1 s"}}


def test_rows_that_are_there_are_kept(command, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "FILE", tmp_path / "networks.json")
    monkeypatch.setattr(command, "try_apart", lambda name, limit_s: {"accepted": True, "errors": {}, "members": name})
    for arguments in (["--only", "own/vgg"], ["--only", "own/vgg", "own/yolo"]):
        monkeypatch.setattr("sys.argv", ["networks.py", *arguments])
        command.main()
        monkeypatch.setattr(command, "try_apart", lambda name, limit_s: {"errors": {"start": "gone"}})
    rows = read_rows(tmp_path / "networks.json")
    assert {name: row.accepted for name, row in rows.items()} == {"own/vgg": True, "own/yolo": False}
    assert (tmp_path / "networks.md").read_text() == networks_page(rows)
    monkeypatch.setattr("sys.argv", ["networks.py", "--only", "own/vgg", "--again"])
    command.main()
    assert not read_rows(tmp_path / "networks.json")["own/vgg"].accepted

"""Reports: self-contained, complete, and a results page that is a pure function of its files."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import pytest
import write
from results_page import results_page

from lightning_nas.budget.solver import Reach
from lightning_nas.report.architecture_svg import BlockKind, architecture_svg
from lightning_nas.report.fields import Fields
from lightning_nas.report.run import BlockCost, Point, write_architecture_svg, write_report
from lightning_nas.report.run_record import RunRecord

BASELINE = [
    BlockCost("features.0", "other", 3, 16, 1, 3, 2, (24, 24), 0.5),
    BlockCost("features.1", "ds", 16, 16, 1, 3, 1, (24, 24), 1.0),
    BlockCost("features.2", "ibn", 16, 24, 6, 5, 2, (12, 12), 2.0),
    BlockCost("features.3", "other", 24, 128, 1, 1, 1, (12, 12), 0.5),
]
SUBNET = [
    BASELINE[0],
    BlockCost("features.1", "ds", 16, 16, 1, 3, 1, (24, 24), 0.7),
    BlockCost("features.2", "fused", 16, 16, 4, 3, 2, (12, 12), 0.5),
    BlockCost("features.3", "other", 16, 128, 1, 1, 1, (12, 12), 0.3),
]


def make_cost(latency_ms: float, accuracy: float, verified_ms: float | None = None) -> dict:
    return {
        "latency_ms": latency_ms,
        "verified_latency_ms": verified_ms,
        "parameter_bytes": 300_000,
        "peak_activation_bytes": 90_000,
        "macs": 12_000_000,
        "metric": {"name": "accuracy", "value": accuracy, "split": "test"},
    }


def make_result(seed: int = 0, latency_ms: float = 2.0, accuracy: float = 0.91, budget_ms: float = 2.0) -> dict:
    return {
        "recipe": "digits",
        "task": "classification",
        "device": "npu <1>",
        "seed": seed,
        "budget": {"latency_ms": budget_ms, "peak_activation_bytes": None, "parameter_bytes": None},
        "baseline": make_cost(4.0, 0.93, 4.4),
        "subnet": make_cost(latency_ms, accuracy, 2.2),
        "search": {"seconds": 12.0, "steps": 300},
        "versions": {"torch": "2.9", "lightning": "2.6"},
    }


def make_record(result: dict) -> RunRecord:
    return RunRecord.from_fields(Fields("result.json", result))


def record(folder: Path, *results: dict) -> Path:
    for number, result in enumerate(results):
        (folder / f"run{number}").mkdir(parents=True)
        (folder / f"run{number}" / "result.json").write_text(json.dumps(result))
    return folder


def rows_of(page: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]


def test_report_needs_nothing_from_outside(tmp_path: Path) -> None:
    history = [
        {"step": step, "expected_latency_ms": 4 - step / 10, "entropy": 3.0, "val_loss": 1.0} for step in range(9)
    ]
    path = write_report(
        tmp_path,
        make_record(make_result()),
        SUBNET,
        history,
        [Point(4, 0.93, "baseline", "baseline"), Point(2, 0.91, "subnet", "subnet")],
        baseline_blocks=BASELINE,
        feasibility={"latency_ms": Reach(1.0, 2.5, 6.0)},
    )
    page = path.read_text()
    assert path == tmp_path / "report.html"
    assert not re.search(r"<script|<link|<img|url\(|src=|@import", page)
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}
    assert "npu &lt;1&gt;" in page
    assert "npu <1>" not in page
    for said in (
        "4 → 2 ms",
        "\u221250%",
        "budget: kept",
        "Expected latency",
        "Entropy",
        "Losses",
        "Trade-off",
        "2.5 ms",
    ):
        assert said in page


def test_report_of_the_least_has_no_empty_sections(tmp_path: Path) -> None:
    result = make_result(latency_ms=2.5)
    del result["search"], result["versions"]
    page = write_report(tmp_path, make_record(result), SUBNET).read_text()
    assert "budget: exceeded" in page
    assert "The search" not in page
    assert "Trade-off" not in page


def test_picture_is_xml_with_a_bar_for_each_block(tmp_path: Path) -> None:
    path = tmp_path / "architecture.svg"
    write_architecture_svg(path, SUBNET, BASELINE, "a < b & c")
    root = ElementTree.parse(path).getroot()
    tips = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(tips) == len(SUBNET) + len(BASELINE)
    assert tips[-2] == "features.2: fused, 16 to 16 channels, e4 k3 s2, output 12\u00d712 px, 0.5 ms (25.0%)"
    assert "a < b & c" in [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_block_that_is_left_out_leaves_its_place(tmp_path: Path) -> None:
    root = ElementTree.fromstring(architecture_svg([SUBNET[0], *SUBNET[2:]], BASELINE))
    bars = list(root.iter("{http://www.w3.org/2000/svg}rect"))
    places = [
        [float(bar.get("x", "0")) for bar in bars if len(bar) and name in (bar[0].text or "")]
        for name in ("features.0", "features.1", "features.2", "features.3")
    ]
    assert [len(place) for place in places] == [2, 1, 2, 2]
    assert all(place[0] == place[-1] for place in places)
    assert sum(bar.get("class") == "ghost" for bar in bars) == len(BASELINE) + 1


def test_expansions_are_short(tmp_path: Path) -> None:
    labels = [replace(BASELINE[2], expansion=expansion, kernel=3, stride=1).label for expansion in (6.0, 16 / 3, 200.0)]
    assert labels == ["e6 k3", "e5.3 k3", "e200 k3"]
    # Expansions of decoders are narrow ones of wide inputs: beside each other they would run into each other.
    narrow = [replace(BASELINE[2], expansion=expansion, kernel=3, stride=1) for expansion in (0.093, 0.5)]
    texts = [item.text for item in ElementTree.fromstring(architecture_svg(narrow)).iter() if item.text]
    assert "e0.5 k3" in texts
    assert "e0.093" in texts
    assert not any("e0.093 k3" in text for text in texts if "to 24" not in text)


def test_a_picture_of_its_own_has_literal_colours_of_the_light_theme(tmp_path: Path) -> None:
    path = tmp_path / "architecture.svg"
    write_architecture_svg(path, SUBNET, BASELINE)
    image = path.read_text()
    assert "var(" not in image
    assert "@media" not in image
    assert "svg.nas .page { fill:#ffffff; }" in image
    page = write_report(tmp_path, make_record(make_result()), SUBNET, baseline_blocks=BASELINE).read_text()
    # Within the page: viewers other than browsers know no variables, and browsers have both themes.
    chart = page[page.index("<svg") : page.index("</svg>")]
    assert "var(" not in chart
    assert chart.index("svg.nas .page { fill:#ffffff; }") < chart.index("@media") < chart.index("{ fill:#141a22; }")


def test_the_legend_of_all_kinds_ends_within_the_margin(tmp_path: Path) -> None:
    kinds = [replace(SUBNET[0], kind=kind) for kind in get_args(BlockKind)]
    root = ElementTree.fromstring(architecture_svg(kinds, kinds))
    ends = {
        # As wide as the widest of the fonts, DejaVu Sans.
        float(element.get("x", "0")) + 7.2 * len(element.text or "")
        for element in root.iter("{http://www.w3.org/2000/svg}text")
        if element.get("y") == "51"
    }
    assert max(ends) <= float(root.get("width", "0")) - 16


def test_bars_of_both_networks_have_one_scale(tmp_path: Path) -> None:
    path = tmp_path / "architecture.svg"
    write_architecture_svg(path, SUBNET, BASELINE)
    bars = [
        float(element.get("height", "0"))
        for element in ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}rect")
        if len(element)
    ]
    latencies = [block.latency_ms for block in (*BASELINE, *SUBNET)]
    assert bars == pytest.approx([height / 2.0 * max(bars) for height in latencies], abs=0.06)


def test_networks_of_different_depth_and_no_latency_are_drawn(tmp_path: Path) -> None:
    free = BlockCost("features.0", "other", 3, 16, 1, 3, 2, (24, 24), 0.0)
    write_architecture_svg(tmp_path / "a.svg", [free], BASELINE)
    write_architecture_svg(tmp_path / "b.svg", [free])
    ElementTree.parse(tmp_path / "a.svg")
    ElementTree.parse(tmp_path / "b.svg")


def test_network_without_blocks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one block; got none"):
        write_architecture_svg(tmp_path / "a.svg", [])


@pytest.mark.parametrize(
    ("kind", "latency_ms", "message"),
    [("conv", 1.0, "must be one of ibn, fused, ds, basic, other; got 'conv'"), ("ibn", float("nan"), "got nan")],
)
def test_impossible_block_is_refused(kind: str, latency_ms: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BlockCost("x", kind, 8, 8, 1, 3, 1, (8, 8), latency_ms)


def test_page_has_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    folder = record(tmp_path / "classification", *(make_result(seed, accuracy=0.90 + 0.01 * seed) for seed in range(3)))
    page = results_page(folder)
    row = rows_of(page)[2]
    assert row[:5] == ["digits", "npu <1>", "2 ms", "both (V3)", "3"]
    assert row[6:] == ["0.930 ± 0.000", "0.910 ± 0.010", "\u22120.020 ± 0.010", "\u221250%", "yes"]
    assert "seeds 0, 1, 2" in page


def test_page_has_a_row_for_each_budget_and_says_who_exceeds_it(tmp_path: Path) -> None:
    results = [make_result(budget_ms=3.0), make_result(latency_ms=2.0), make_result(seed=1, latency_ms=2.1)]
    rows = rows_of(results_page(record(tmp_path / "classification", *results)))
    assert [row[2] for row in rows[2:4]] == ["3 ms", "2 ms"]
    assert [row[-1] for row in rows[2:4]] == ["yes", "no (1 of 2)"]


def test_page_does_not_depend_on_the_names_of_runs(tmp_path: Path) -> None:
    results = [make_result(seed) for seed in range(3)]
    one = results_page(record(tmp_path / "a" / "task", *results))
    assert one == results_page(record(tmp_path / "b" / "task", *reversed(results)))


def test_page_shows_other_networks_and_skips_other_files(tmp_path: Path) -> None:
    result = {**make_result(), "comparisons": {"width multiplier": make_cost(1.9, 0.88)}, "machine": {"cpu": "2 cores"}}
    folder = record(tmp_path / "task", result)
    (folder / "run0" / "architecture.json").write_text("{}")
    page = results_page(folder)
    assert "| digits | npu <1> | 2 ms | both (V3) | width multiplier | 0.880 | +0.030 | 1.9 | 1 |" in page
    assert "machine: cpu 2 cores" in page


def test_check_finds_a_stale_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record(tmp_path / "task", make_result())
    monkeypatch.setattr(write, "RESULTS", tmp_path)
    assert write.main(["--check"]) == 1
    assert "task.md is out of date; run: python docs/pages/write.py" in capsys.readouterr().err
    assert write.main([]) == 0
    assert write.main(["--check"]) == 0
    (folder / "run0" / "result.json").write_text(json.dumps(make_result(accuracy=0.5)))
    assert write.main(["--check"]) == 1


def test_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold a result\.json"):
        results_page(tmp_path)


def test_incomplete_result_is_named(tmp_path: Path) -> None:
    result = make_result()
    del result["device"]
    with pytest.raises(ValueError, match=r"run0/result.json' must be a result with the field 'device'"):
        results_page(record(tmp_path / "task", result))

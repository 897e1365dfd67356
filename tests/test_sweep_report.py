"""The report of a sweep: a row a run, means over seeds, a front for each device, and what is not there."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from recorded_runs import make_comparisons, make_cost, make_result, rows_of, write_run

from lightning_nas.__main__ import main
from lightning_nas.report.pareto_svg import Mark, pareto_chart, pareto_front
from lightning_nas.report.sweep import write_sweep_report


def write_sweep(folder: Path) -> Path:
    """Write two choices with two seeds each, and two runs that did not finish."""
    job = 0
    for choices in ("widths", "both"):
        for seed in range(2):
            result = make_result(seed, 0.90 + 0.01 * seed + 0.02 * (choices == "both"), choices=choices)
            if choices == "both":
                result["comparisons"] = make_comparisons(0.90, (0.8, 0.81, 0.82), 0.93)
            overrides = ["trainer.max=3", f"+search.choices={choices}", f"seed={seed}"]
            write_run(folder / str(job), result, overrides=overrides)
            job += 1
    write_run(folder / "10", None, overrides=["seed=3"])
    (folder / "4").mkdir()
    (folder / "multirun.yaml").write_text("{}")
    return folder


def test_one_row_a_run_with_the_overrides_that_differ(tmp_path: Path) -> None:
    write_sweep_report(write_sweep(tmp_path / "sweep"))
    rows = [row for row in rows_of((tmp_path / "sweep" / "report.md").read_text()) if len(row) == 16]
    assert [row[:2] for row in rows[2:]] == [
        ["0", "search.choices=widths"],
        ["1", "search.choices=widths"],
        ["2", "search.choices=both"],
        ["3", "search.choices=both"],
    ]
    assert rows[3][2:9] == ["widths (V1)", "npu", "2 ms (0.5x)", "1", "0.930", "0.910", "\u22120.020"]
    assert rows[3][9:] == ["4 → 2", "\u221250%", "4.4 → 2.2", "\u221250%", "293 KiB", "87.9 KiB", "yes"]


def test_seeds_are_averaged(tmp_path: Path) -> None:
    write_sweep_report(write_sweep(tmp_path / "sweep"))
    rows = [row for row in rows_of((tmp_path / "sweep" / "report.md").read_text()) if len(row) == 11]
    assert [row[4:8] for row in rows[2:]] == [
        ["0, 1", "0.930 ± 0.000", "0.905 ± 0.007", "\u22120.025 ± 0.007"],
        ["0, 1", "0.930 ± 0.000", "0.925 ± 0.007", "\u22120.005 ± 0.007"],
    ]


def test_settings_that_differ_are_not_averaged(tmp_path: Path) -> None:
    for job, epochs in enumerate((1, 2)):
        write_run(tmp_path / str(job), make_result(job), overrides=[f"epochs={epochs}", f"seed={job}"])
    assert "Means" not in write_sweep_report(tmp_path)


def test_unfinished_runs_are_listed_in_order(tmp_path: Path) -> None:
    text = write_sweep_report(write_sweep(tmp_path / "2026" / "sweep"))
    assert "Unfinished: 4, 10\n" in text
    assert "## Unfinished\n\n* `4`\n* `10`" in (tmp_path / "2026" / "sweep" / "report.md").read_text()
    assert "4 finished, 2 unfinished" in (tmp_path / "2026" / "sweep" / "report.html").read_text()
    # From further above, too.
    assert "Unfinished: sweep/4, sweep/10\n" in write_sweep_report(tmp_path / "2026")


def test_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    write_run(tmp_path / "0", make_result(device="npu <1>"), overrides=["device=<script>"])
    write_run(tmp_path / "1", make_result(device="npu 2"), overrides=["device=b"])
    write_sweep_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"<script|<link|<img|url\(|src=|@import", page)
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}
    assert "npu &lt;1&gt;" in page


def test_each_device_has_a_plot_and_each_task_a_table(tmp_path: Path) -> None:
    for job, (device, task) in enumerate([("a", "classification"), ("b", "classification"), ("a", "detection")]):
        write_run(tmp_path / str(job), make_result(device=device, task=task))
    text = write_sweep_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 3
    assert page.count("<h2>Runs</h2>") == 2
    assert "Classification, accuracy (test)\n" in text
    assert "Detection, accuracy (test)\n" in text


def test_other_networks_are_points_and_a_table(tmp_path: Path) -> None:
    write_sweep_report(write_sweep(tmp_path / "sweep"))
    page = (tmp_path / "sweep" / "report.html").read_text()
    assert "random subnets (mean of 3), 0.5x: 1.9 ms, 0.810 ± 0.000" in page
    assert "expert&#x27;s rule, 0.5x: 1.7 ms, 0.930 ± 0.000" in page
    assert "behind expert&#x27;s rule" in page
    front = next(line for line in (tmp_path / "sweep" / "report.md").read_text().splitlines() if "fastest" in line)
    assert front == "* **npu**, the fastest first: expert's rule, 0.5x: 1.7 ms, 0.930 ± 0.000."


def test_baseline_that_runs_share_is_drawn_once(tmp_path: Path) -> None:
    for job in range(3):
        write_run(tmp_path / str(job), make_result(0, 0.9, subnet=make_cost(2.0 - 0.1 * job, 0.9)))
    write_sweep_report(tmp_path)
    assert (tmp_path / "report.html").read_text().count("<title>baseline") == 1


def test_command_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["report", str(write_sweep(tmp_path / "sweep"))])
    out = capsys.readouterr().out
    assert re.search(r"^3 +search.choices=both +both \(V3\) +npu", out, re.MULTILINE)
    assert "report.html" in out


def test_sweep_without_a_result_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "0", None, overrides=[])
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(tmp_path)])
    assert "has none; unfinished: 0" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(ValueError, match="is no folder"):
        write_sweep_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("result.json", "{", r"0/result\.json' must be JSON"),
        ("result.json", "[]", r"0/result\.json' must hold an object; got list"),
        ("result.json", '{"recipe": "digits"}', r"0/result\.json' must be a result with the field 'device'"),
        ("run.json", "[]", r"0/run\.json' must hold an object; got list"),
        (".hydra/overrides.yaml", "a: [", r"0/\.hydra/overrides\.yaml' must be a list of overrides"),
        (".hydra/overrides.yaml", "a: 1", r"overrides\.yaml' must be a list of overrides; got DictConfig"),
    ],
)
def test_malformed_file_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    run = write_run(tmp_path / "0", make_result(), overrides=[])
    (run / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        write_sweep_report(tmp_path)


def test_front_leaves_out_single_seeds_and_what_is_no_number() -> None:
    marks = [Mark(1, 0.5, "a"), Mark(0.5, 0.9, "b", is_single=True), Mark(0.4, float("nan"), "c"), Mark(1, 0.4, "d")]
    assert [mark.series for mark in pareto_front(marks)] == ["a"]
    chart = ElementTree.fromstring(pareto_chart("t", marks, x_label="x", y_label="y"))
    assert sum(1 for _ in chart.iter("{http://www.w3.org/2000/svg}title")) == 3


def test_labels_of_a_crowd_neither_overlap_nor_leave_the_chart() -> None:
    marks = [Mark(1 + 0.01 * n, 0.9 + 0.001 * (n % 7 % 3), "both (V3)", f"label {n}") for n in range(150)]
    chart = ElementTree.fromstring(pareto_chart("t", marks, x_label="x", y_label="y"))
    labels = [e for e in chart.iter("{http://www.w3.org/2000/svg}text") if (e.text or "").startswith("label")]
    boxes = [(float(e.get("x", "")), float(e.get("y", "")), 5.6 * len(e.text or "")) for e in labels]
    assert 1 < len(boxes) < 150
    assert all(x >= 58 and x + width <= 1036 for x, _, width in boxes)
    for number, (x, y, width) in enumerate(boxes):
        assert not any(abs(y - b) < 12 and x < a + w and a < x + width for a, b, w in boxes[:number])


def test_legend_of_many_names_has_further_rows() -> None:
    marks = [Mark(n, n, f"network number {n} of many") for n in range(12)]
    chart = ElementTree.fromstring(pareto_chart("t", marks, x_label="x", y_label="y"))
    names = [e for e in chart.iter("{http://www.w3.org/2000/svg}text") if "of many" in (e.text or "")]
    assert len({e.get("y") for e in names}) == 2
    assert all(float(e.get("x", "")) + 5.6 * len(e.text or "") < 1036 for e in names)

"""The page of results: what was searched, other networks, fused blocks and pictures."""

from pathlib import Path

import pytest
from recorded_runs import make_architecture, make_comparisons, make_cost, make_result, rows_of, write_run
from results_page import results_page


def test_choices_are_groups_of_their_own(tmp_path: Path) -> None:
    for number, changes in enumerate([{}, {"choices": "kinds"}, {"choices": "widths"}, {"choices": "both"}]):
        write_run(tmp_path / "task" / str(number), make_result(number, **changes))
    rows = rows_of(results_page(tmp_path / "task"))
    assert [row[3:5] for row in rows[2:5]] == [["widths (V1)", "1"], ["kinds (V2)", "1"], ["both (V3)", "2"]]


def test_runs_that_were_finetuned_longer_are_a_group_of_their_own(tmp_path: Path) -> None:
    for number, length in enumerate((12, 60, 60, None)):
        given = {} if length is None else {"epochs": {"source": 24, "search": 8, "finetune": length}}
        write_run(tmp_path / "task" / str(number), make_result(number, **given))
    rows = [row for row in rows_of(results_page(tmp_path / "task")) if len(row) == 11][1:]
    named = [(row[0].rpartition(", ")[2], row[4]) for row in rows if row[4].isdigit()]
    assert [row for row in named if row[0].endswith("epochs")] == [("12 epochs", "1"), ("60 epochs", "2")]
    assert [count for name, count in named if not name.endswith("epochs")] == ["1"]


def test_runs_of_another_teacher_are_a_group_of_their_own(tmp_path: Path) -> None:
    for number, given in enumerate(({}, {"taught_by": "source"}, {"taught_by": "baseline"})):
        write_run(tmp_path / "task" / str(number), make_result(number, **given))
    rows = [row for row in rows_of(results_page(tmp_path / "task")) if len(row) == 11][1:]
    named = [("taught by the baseline" in row[0], row[4]) for row in rows if row[4].isdigit()]
    assert sorted(set(named)) == [(False, "2"), (True, "1")]


def test_both_together_stand_beside_one_after_the_other(tmp_path: Path) -> None:
    # Of several budgets of one kind of search the smallest counts.
    left = {"widths": (0.9, 0.8), "kinds": (0.75,), "both": (0.5,)}
    for choices, shares in left.items():
        for share in shares:
            given = {"latency_ms": 4 * share, "peak_activation_bytes": None, "parameter_bytes": None}
            result = make_result(choices=choices, budget=given, subnet=make_cost(4 * share, 0.9))
            write_run(tmp_path / "task" / f"{choices}-{share}", result)
    page = results_page(tmp_path / "task")
    assert "one after the other that would be 40% (0.80 x 0.75 = 0.60). Both together save 50%" in page
    assert "(accuracy \u22120.030), 10 points beyond that." in page


def test_what_was_not_finetuned_equally_long_is_not_put_together(tmp_path: Path) -> None:
    for choices, length in (("widths", 24), ("kinds", 24), ("both", 60)):
        result = make_result(choices=choices, epochs={"source": 24, "search": 8, "finetune": length})
        write_run(tmp_path / "task" / choices, result)
    assert "one after the other" not in results_page(tmp_path / "task")
    write_run(tmp_path / "task" / "again", make_result(epochs={"source": 24, "search": 8, "finetune": 24}))
    assert ", 24 epochs**: widths alone save" in results_page(tmp_path / "task")


def test_a_seed_that_ran_again_counts_in_the_mean_and_is_said(tmp_path: Path) -> None:
    for number, (seed, accuracy) in enumerate(((0, 0.9), (0, 0.8), (1, 0.7))):
        write_run(tmp_path / "task" / str(number), make_result(seed, accuracy))
    page = results_page(tmp_path / "task")
    row = rows_of(page)[2]
    assert row[4:8] == ["2 (3 runs)", "accuracy (test)", "0.930 ± 0.000", "0.800 ± 0.100"]
    assert "seeds 0, 1;" in page


def test_random_subnets_are_one_row_and_leads_are_by_seed(tmp_path: Path) -> None:
    for seed, subnet in enumerate((0.90, 0.94)):
        compared = make_comparisons(plain=0.90, randoms=(0.80, 0.82, 0.84), rule=0.95)
        write_run(tmp_path / "task" / str(seed), make_result(seed, subnet, comparisons=compared))
    page = results_page(tmp_path / "task")
    table = {row[4]: row[5:] for row in rows_of(page) if len(row) == 9}
    assert table["plain multiplier"] == ["0.900 ± 0.000", "+0.020 ± 0.028", "1.8", "2"]
    assert table["random subnets (mean of 3)"] == ["0.820 ± 0.000", "+0.100 ± 0.028", "1.9", "2"]
    assert table["expert's rule"] == ["0.950 ± 0.000", "\u22120.030 ± 0.028", "1.7", "2"]
    assert (
        "the subnet is ahead of plain multiplier (+0.020 ± 0.028, in 1 of 2 runs), random subnets (mean of 3) "
        "(+0.100 ± 0.028, in 2 of 2 runs); behind expert's rule (\u22120.030 ± 0.028, in 0 of 2 runs)." in page
    )


def test_seeds_without_a_comparison_do_not_count_in_it(tmp_path: Path) -> None:
    write_run(tmp_path / "task" / "0", make_result(0, 0.5))
    write_run(tmp_path / "task" / "1", make_result(1, 0.9, comparisons={"uniform": make_cost(2.0, 0.9)}))
    page = results_page(tmp_path / "task")
    assert "level with plain multiplier (+0.000, in 0 of 1 run)." in page


def test_comparison_without_a_metric_has_a_cost_only(tmp_path: Path) -> None:
    compared = {"uniform": {**make_cost(2.0, 0.9), "metric": None}}
    write_run(tmp_path / "task" / "0", make_result(comparisons=compared))
    page = results_page(tmp_path / "task")
    assert "| plain multiplier | n/a | n/a | 2 | 1 |" in page
    assert "**: the subnet is" not in page


def test_fused_blocks_are_counted_over_seeds(tmp_path: Path) -> None:
    last = ("fused ibn ibn", "ibn ibn ibn", "fused ibn ibn")
    for seed, stage in enumerate(last):
        architecture = make_architecture("ds", "fused fused", stage, stem=16 if seed else 32)
        write_run(tmp_path / "task" / str(seed), make_result(seed), architecture)
    row = next(row for row in rows_of(results_page(tmp_path / "task")) if "of 6" in row[5])
    assert row[4:] == [
        "3",
        "2-3 of 6; in some seeds 4",
        "32/16, 16, 16, 16",
        "ds",
        "2 \u00d7 fused",
        "fused 2/3, 2 \u00d7 ibn",
    ]


def test_cost_of_fusing_is_said_once_for_a_device(tmp_path: Path) -> None:
    told = {"all": {"latency_ms": 6.0}, "where_faster": {"latency_ms": 3.0}, "blocks": [2, 3]}
    for number, changes in enumerate([{}, {"choices": "kinds"}, {"device": "other", "fusing": {**told, "blocks": []}}]):
        result = make_result(**{"fusing": told, "data": "rooms", **changes})
        write_run(tmp_path / "task" / str(number), result, make_architecture("ds", "ibn ibn"))
    page = results_page(tmp_path / "task")
    assert page.count("**rooms, npu**: 4 ms as it is, 6 ms (+50%) with all blocks fused, 3 ms (\u221225%)") == 1
    assert "where the estimator says that it pays: blocks 2-3." in page
    assert "where the estimator says that it pays: none." in page


def test_blocks_of_a_graph_are_one_cell_and_named_by_their_paths(tmp_path: Path) -> None:
    kinds = ("basic", "fused", "skip")
    blocks = [{"path": f"layer.{n}", "kind": kind, "expansion": 1, "kernel": 3} for n, kind in enumerate(kinds)]
    network = {"image_shape": [96, 128, 3], "operations": [], "outputs": []}
    graph = {"format": 2, "widths": {"stem": 24, "layer.0": 8}, "blocks": blocks, "network": network}
    told = {"all": {"latency_ms": 6.0}, "where_faster": {"latency_ms": 3.0}, "blocks": ["layer.1", "layer.2"]}
    write_run(tmp_path / "task" / "0", make_result(fusing=told), graph)
    page = results_page(tmp_path / "task")
    rows = rows_of(page)
    assert [row[5:] for row in rows if row[-1] == "Blocks"] == [["Fused blocks", "Widths", "Blocks"]]
    assert [row[5:] for row in rows if " of 3" in row[5]] == [["2 of 3", "24", "basic, fused, skip"]]
    assert "where the estimator says that it pays: blocks `layer.1`, `layer.2`." in page


def test_networks_are_groups_of_their_own_and_named(tmp_path: Path) -> None:
    network = {"image_shape": [96, 128, 3], "operations": [], "outputs": []}
    graph = {"format": 2, "widths": {}, "blocks": [], "network": network}
    sources = (
        {"name": "resnet18"},
        {"name": "mobilenet_v2"},
        {"backbone": "mobilenet_v2", "head": "lraspp"},
        {"_target_": "mine.models.unet.Net"},
    )
    for number, source in enumerate(sources):
        write_run(tmp_path / "task" / str(number), make_result(number), {**graph, "source": source})
    page = results_page(tmp_path / "task")
    counts = {row[0]: row[4] for row in rows_of(page) if len(row) == 11 and row[4].isdigit()}
    # That of the recipes, as such or as a backbone, has no name.
    assert sorted(counts) == sorted(
        ["digits, 96\u00d7128", "digits, mine.Net, 96\u00d7128", "digits, resnet18, 96\u00d7128"]
    )
    assert counts["digits, 96\u00d7128"] == "2"


def test_a_stock_network_is_named(tmp_path: Path) -> None:
    compared = {"stock": {**make_cost(2.0, 0.9), "network": "resnet18"}}
    write_run(tmp_path / "task" / "0", make_result(comparisons=compared))
    assert "| stock network resnet18 | 0.900 |" in results_page(tmp_path / "task")


def test_group_of_fewer_stages_and_of_no_fused_block(tmp_path: Path) -> None:
    write_run(tmp_path / "task" / "0", make_result(), make_architecture("ds", "fused", "ibn"))
    write_run(tmp_path / "task" / "1", make_result(choices="widths"), make_architecture("ds", "ibn"))
    rows = [row for row in rows_of(results_page(tmp_path / "task")) if " of " in row[5]]
    assert [row[5:] for row in rows] == [
        ["none of 2", "32, 16, 16", "ds", "ibn", ""],
        ["2 of 3", "32, 16, 16, 16", "ds", "fused", "ibn"],
    ]


@pytest.mark.parametrize("content", ["{", '{"stages": [{"blocks": [{}]}]}'])
def test_malformed_architecture_is_named(tmp_path: Path, content: str) -> None:
    run = write_run(tmp_path / "task" / "0", make_result())
    (run / "architecture.json").write_text(content)
    with pytest.raises(ValueError, match=r"task/0/architecture\.json' must"):
        results_page(tmp_path / "task")


def test_pictures_of_the_first_seed_that_has_some_are_linked_once(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "task" / f"run{seed}", make_result(seed)) for seed in range(3)]
    for run in runs[1:]:
        (run / "picture_test_images.jpg").write_bytes(b"")
    (runs[1] / "picture.svg").write_text("")
    (runs[1] / "picture.txt").write_text("")
    page = results_page(tmp_path / "task")
    assert page.count("![") == 2
    assert "## Pictures\n\n**digits, npu, 2 ms (0.5x), both (V3)**\n\n![picture](task/run1/picture.svg)" in page
    assert "![picture test images](task/run1/picture_test_images.jpg)" in page


def test_picture_that_may_not_be_shown_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "task" / "0", make_result())
    (run / "private_detections.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"private_detections\.jpg' is of images that may not be shown"):
        results_page(tmp_path / "task")


def test_page_without_any_of_them_has_no_empty_sections(tmp_path: Path) -> None:
    write_run(tmp_path / "task" / "0", make_result())
    page = results_page(tmp_path / "task")
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Cost",
        "## What the search took",
        "## How they were made",
    ]


def test_what_was_noted_stands_above_the_costs(tmp_path: Path) -> None:
    write_run(tmp_path / "task" / "0", make_result())
    (tmp_path / "task" / "notes.md").write_text("* On few images.\n")
    assert "\n\n## Notes\n\n* On few images.\n\n## Cost\n\n" in results_page(tmp_path / "task")


def test_data_is_named_and_seeds_share_a_command(tmp_path: Path) -> None:
    for seed, data in enumerate(("streets", "rooms", "rooms")):
        told = {"data": data, "command": f"lightning-nas --config-name digits seed={seed} latency=2"}
        architecture = {**make_architecture("ds"), "input_size": [3, 96, 128]}
        write_run(tmp_path / "task" / str(seed), make_result(seed, **told), architecture)
    page = results_page(tmp_path / "task")
    assert [row[0] for row in rows_of(page)[2:4]] == ["digits, rooms 96\u00d7128", "digits, streets 96\u00d7128"]
    assert page.count("command `lightning-nas --config-name digits seed=SEED latency=2`") == 2


def test_cost_of_searches_side_by_side(tmp_path: Path) -> None:
    multishot = {"seconds": 600.0, "steps": 900, "trials": 20, "finetuned": 3}
    for number, budget in enumerate((1.0, 2.0)):
        limit = {"latency_ms": budget}
        write_run(tmp_path / "task" / f"single{number}", make_result(budget=limit))
        write_run(tmp_path / "task" / f"multi{number}", make_result(budget=limit, recipe="multi", search=multishot))
    page = results_page(tmp_path / "task")
    assert (
        "| digits | npu | both (V3) | 2 | - | 300 | 0 |\n| multi | npu | both (V3) | 2 | 20, 3 fine-tuned | 900 | 10 |"
        in page
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": "0"}, "a whole number as its seed; got '0'"),
        ({"budget": 2.0}, "an object as its budget; got 2.0"),
        ({"subnet": None}, "a number as 'latency_ms' of 'subnet'; got None"),
        (
            {"baseline": {**make_cost(1, 1), "metric": 0.9}},
            "the metric of 'baseline'; got 0.9",
        ),
        ({"comparisons": [1]}, "map names to costs as its comparisons; got list"),
        ({"comparisons": {"rule": {}}}, "a number as 'latency_ms' of 'rule'; got None"),
    ],
)
def test_result_of_another_form_is_named(tmp_path: Path, changes: dict, message: str) -> None:
    write_run(tmp_path / "task" / "0", make_result(**changes))
    with pytest.raises(ValueError, match=f"0/result.json' must .*{message}"):
        results_page(tmp_path / "task")

"""Records of runs: what a file holds comes back from it, whatever its age, and what is wrong is named."""

import json
from pathlib import Path

import pytest
from recorded_runs import make_architecture, make_comparisons, make_result

from lightning_nas.report.fields import Fields
from lightning_nas.report.network_record import BudgetRecord
from lightning_nas.report.recorded import read_run
from lightning_nas.report.run_record import ProvenanceRecord, RunRecord

RESULTS = sorted((Path(__file__).parents[1] / "recipes" / "results").rglob("result.json"))
READINESS = {"steps": 90, "progress": 0.5, "stability": None, "size_bias": 0.1, "size_scale": 0.2, "text": "ready"}
METRIC = {"name": "mae", "value": 0.5, "larger_is_better": False, "split": "test", "num_images": None}
COST = {"latency_ms": 2.5, "verified_latency_ms": None, "parameter_bytes": 3, "peak_activation_bytes": 4, "macs": 5}
RESULT = {
    "recipe": "digits",
    "task": "classification",
    "device": "npu",
    "seed": 3,
    "budget": {"latency_ms": 2.5, "peak_activation_bytes": None, "parameter_bytes": 7.0, "requested": "0.5x"},
    "baseline": {**COST, "metric": METRIC, "steps": 40},
    "subnet": {**COST, "metric": METRIC, "steps": 20},
    "choices": "kinds",
    "comparisons": {
        "rule": {**COST, "metric": METRIC},
        "stock": {**COST, "metric": METRIC, "network": "resnet18"},
    },
    "verified_sram_bytes": {"baseline": 9, "subnet": 8},
    "search": {"seconds": 1.5, "steps": 30, "readiness": READINESS, "warnings": ["few steps"]},
    "versions": {"python": "3.11"},
}
RUN = {
    "command": "lightning-nas seed=3",
    "machine": "x86_64, 2 threads",
    "epochs": {"source": 1, "search": 2, "finetune": 3},
    "taught_by": "baseline",
    "data": "digits",
    "fusing": {"all": {"latency_ms": 3.0}, "where_faster": {"latency_ms": 2.0}, "blocks": ["a.0", "b"]},
    "finished": "2026-11-30",
    "classes": ["0", "1"],
    "preprocessing": {"fit": "crop"},
}


# Widths of `a` and within `b.1` are those of blocks.
GRAPH = {
    "format": 2,
    "widths": {"stem": 24, "a": 96, "b.1.hidden": 96, "b.10": 32},
    "blocks": [
        {"path": "a", "kind": "fused", "expansion": 4, "kernel": 3},
        {"path": "b.1", "kind": "skip", "expansion": 1, "kernel": 1},
    ],
    "network": {"image_shape": [64, 96, 3], "operations": [], "outputs": []},
}


def test_what_is_written_is_what_was_read():
    read = RunRecord.from_fields(Fields("result.json", RESULT)).to_dict()
    assert json.dumps(read) == json.dumps(RESULT)
    origin = ProvenanceRecord.from_fields(Fields("run.json", RUN)).to_dict()
    assert json.dumps(origin) == json.dumps(RUN)
    numbered = {**RUN, "fusing": {**RUN["fusing"], "blocks": [1, 2]}}
    assert ProvenanceRecord.from_fields(Fields("run.json", numbered)).to_dict() == numbered


def test_a_network_that_is_a_graph_is_read(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    (tmp_path / "architecture.json").write_text(json.dumps(GRAPH))
    architecture = read_run(tmp_path / "result.json").architecture
    assert architecture.input_size == (3, 64, 96)
    assert architecture.widths == (24, 32)
    assert architecture.stages == (("fused", "skip"),)


@pytest.mark.parametrize(
    "search",
    [
        {"seconds": 1.5, "steps": 30, "readiness": None, "warnings": []},
        {"seconds": 1.5, "steps": 30, "images": 9, "trials": 4, "rejected": 0, "pruned": 1, "finetuned": 2},
        {"seconds": 1.5, "steps": 30},
    ],
)
def test_each_kind_of_search_is_kept(search):
    record = RunRecord.from_fields(Fields("result.json", {**RESULT, "search": search}))
    assert json.dumps(record.to_dict()["search"]) == json.dumps(search)


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.parent.name)
def test_every_recorded_run_is_read_whole(path):
    run = read_run(path)
    written, read = run.record.to_dict(), json.loads(path.read_text())
    for network in (*(written[name] for name in ("baseline", "subnet")), *written.get("comparisons", {}).values()):
        assert network["metric"]["larger_is_better"]
    assert json.dumps(without_direction(written)) == json.dumps(without_direction(read))
    origin, kept = run.provenance.to_dict(), json.loads(path.with_name("run.json").read_text())
    assert {name: origin[name] for name in kept} == kept
    architecture = json.loads(path.with_name("architecture.json").read_text())
    if architecture["format"] == 1:
        assert run.architecture.widths == (architecture["stem"]["width"], *(s["width"] for s in architecture["stages"]))
        assert [len(kinds) for kinds in run.architecture.stages] == [len(s["blocks"]) for s in architecture["stages"]]
    else:
        assert set(run.architecture.widths) <= set(architecture["widths"].values())
        assert run.architecture.stages == (tuple(block["kind"] for block in architecture["blocks"]),)


def without_direction(value):
    """Return JSON without what early records do not tell of a metric."""
    if isinstance(value, dict):
        return {name: without_direction(item) for name, item in value.items() if name != "larger_is_better"}
    return value


def test_a_budget_is_kept_up_to_its_limits():
    record = RunRecord.from_fields(Fields("result.json", make_result()))
    assert record.is_within_budget
    assert not BudgetRecord(latency_ms=1.9).is_kept_by(record.subnet.cost)
    assert not BudgetRecord(peak_activation_bytes=89_999).is_kept_by(record.subnet.cost)
    assert not BudgetRecord(parameter_bytes=299_999).is_kept_by(record.subnet.cost)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("result.json", {"recipe": 1}, "text as its recipe; got 1"),
        (
            "result.json",
            {"search": {"seconds": 1, "steps": 1, "warnings": [1]}},
            r"text as 'warnings\[0\]' of 'search'",
        ),
        ("result.json", {"comparisons": {"rule": {**COST, "metric": {**METRIC, "value": "x"}}}}, "'value' of 'metric'"),
        ("run.json", {"epochs": {"finetune": "3"}}, "a whole number as 'finetune' of 'epochs'; got '3'"),
        ("run.json", {"command": ["a"]}, r"text as its command; got \['a'\]"),
        ("run.json", {"fusing": {**RUN["fusing"], "blocks": [0.5]}}, r"a whole number as 'blocks\[0\]' of 'fusing'"),
        ("architecture.json", {"stages": [{"width": 8, "blocks": [{}]}]}, "text as 'kind' of 'option'; got None"),
        ("architecture.json", {**GRAPH, "blocks": [{"path": "a"}]}, r"text as 'kind' of 'blocks\[0\]'; got None"),
        ("architecture.json", {**GRAPH, "network": {"image_shape": [1]}}, r"channels as 'image_shape'; got \[1\]"),
        ("architecture.json", {**GRAPH, "widths": {"a": "x", "c": "x"}}, "a whole number as 'c' of 'widths'; got 'x'"),
        ("architecture.json", {"input_size": 3}, "a list of whole numbers as its input_size; got 3"),
    ],
)
def test_message_names_the_file_and_the_field(tmp_path, file, content, message):
    contents = {"result.json": make_result(comparisons=make_comparisons(0.8, [0.7], 0.85)), "run.json": RUN}
    contents["architecture.json"] = make_architecture("ds", "ibn")
    contents[file] = {**contents[file], **content}
    for name, whole in contents.items():
        (tmp_path / name).write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=rf"{file}' must .*{message}"):
        read_run(tmp_path / "result.json")

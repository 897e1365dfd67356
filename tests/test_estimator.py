import dataclasses
import logging

import numpy as np
import pytest
import torch
import torchvision
from chains import block
from conftest import VELA

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.files import TARGETS, available_devices, read_device
from lightning_nas.estimator.fit.pieces import OPERATOR_KINDS
from lightning_nas.estimator.fit.regressor import Regressor
from lightning_nas.estimator.fit.trees import Trees
from lightning_nas.estimator.judge.error import format_error
from lightning_nas.estimator.judge.judge import judge
from lightning_nas.estimator.measure.backend import open_backend
from lightning_nas.estimator.measure.campaign import measure
from lightning_nas.estimator.measure.sampling.random_blocks import sample_varied_subgraphs
from lightning_nas.estimator.measure.sampling.sample import sample_subgraphs
from lightning_nas.estimator.measurements import COLUMNS, Figures, read_measurements, to_row
from lightning_nas.graph.decompose import decompose
from lightning_nas.graph.layer import Form
from lightning_nas.graph.memory import Memory
from lightning_nas.graph.subgraph import Subgraph

HEADER = ",".join(COLUMNS)


@pytest.fixture(scope="module")
def estimator(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield Estimator.load("ethos_u85_1024")


def synthetic(widths=range(8, 264, 8)):
    parts = [Subgraph("conv", 8, 8, width, width, width, kernel=3) for width in widths]
    return {part: Figures(part.macs * 1e-6) for part in parts}


def save_device(folder, rows=(), name="own", **kwargs):
    Device(name, "vela", 16, settings=VELA, **kwargs).save(folder / f"{name}.json")
    table = folder / f"{name}.csv"
    table.write_text("\n".join([HEADER, *rows]) + "\n")
    return table


ROWS = [f"conv,8,8,{width},{width},{width},3,1,0,{width * width * 1e-6},100" for width in range(8, 200, 8)]


class Counting:
    """A backend that measures by a formula, counts, and stops after a number of subgraphs."""

    def __init__(self, limit=10**9):
        self.count, self.limit = 0, limit

    def measure_subgraph(self, subgraph):
        if self.count == self.limit:
            raise KeyboardInterrupt
        self.count += 1
        return {part: Figures((part.macs + 1) * 1e-6, part.in_channels) for part in subgraph.operators}


def test_fusing_pays_early_and_costs_late(estimator):
    early = estimator.predict_ms([block(kind, 112, 16, 24, 2) for kind in ("fused", "ibn")])
    late = estimator.predict_ms([block(kind, 7, 160, 160, 1) for kind in ("fused", "ibn")])
    assert early[0] / early[1] == pytest.approx(0.25, rel=0.05)
    assert late[0] / late[1] == pytest.approx(2.38, rel=0.05)
    assert block("fused", 112, 16, 24, 2).macs > 1.5 * block("ibn", 112, 16, 24, 2).macs


def test_latency_is_the_sum_of_subgraphs_and_those_of_operators(estimator):
    model, image = torchvision.models.mobilenet_v2(width_mult=0.75), torch.zeros(1, 3, 96, 96)
    parts = decompose(model, image)
    total = estimator.latency_ms(model, image)
    assert total == pytest.approx(estimator.predict_ms(parts).sum())
    assert total == pytest.approx(estimator.predict_ms([op for part in parts for op in part.operators]).sum())


def test_order_and_batching_do_not_matter(estimator):
    parts = sample_subgraphs(5, 60)
    single = [estimator.predict_ms([part])[0] for part in parts]
    assert estimator.predict_ms(parts).tolist() == single
    fresh = Estimator(estimator.device, estimator.measurements, estimator.regressor)
    assert fresh.predict_ms(parts[::-1])[::-1].tolist() == pytest.approx(single)
    assert estimator.predict_ms([]).shape == (0,)


def test_measured_figures_are_returned_as_measured(estimator):
    rows = list(estimator.measurements.items())[:200]
    assert estimator.predict_ms([part for part, _ in rows]).tolist() == [figures.latency_ms for _, figures in rows]
    predicted = Estimator(estimator.device, estimator.measurements, estimator.regressor, exact=False)
    ratio = predicted.predict_ms([part for part, _ in rows]) / [figures.latency_ms for _, figures in rows]
    assert 0 < np.abs(ratio - 1).mean() < 0.1
    assert estimator.measured_share([part for part, _ in rows]) == 1


def test_model_and_architecture_agree(estimator):
    model, image = torchvision.models.mobilenet_v2(), torch.zeros(1, 3, 224, 224)
    assert estimator.latency_ms(model, image) == pytest.approx(2.08, rel=0.02)
    assert estimator.macs(model, image) == 300_774_272
    weights = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)
    biases = 1000 + sum(module.num_features for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d))
    # The largest live tensors are around the first depthwise convolution with stride 2, of 96 channels.
    peak = 112 * 112 * 96 + 56 * 56 * 96
    assert estimator.memory(model, image) == Memory(weights + 4 * biases, peak)
    with pytest.raises(ValueError, match="example_input"):
        estimator.latency_ms(model)


def test_networks_in_the_table_are_known(estimator):
    model = torchvision.models.mobilenet_v2(num_classes=10)

    for size in (96, 224):
        assert estimator.measured_share(decompose(model, torch.zeros(1, 3, size, size))) > 0.9


def test_recorded_error_meets_the_goal():
    error = read_device(TARGETS / "ethos_u85_1024.json").record["error"]
    for name in ("networks", "networks_predicted"):
        assert error[name]["count"] >= 100
        assert error[name]["mape"] <= 0.02
        assert error[name]["within_10"] >= 0.97


def test_unknown_device_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match=r"one of .*ethos_u85_1024.*nope"):
        Estimator.load("nope")
    with pytest.raises(ValueError, match=r"no .*gone\.csv"):
        Estimator.load(tmp_path / "gone.csv")
    assert "ethos_u85_1024" in available_devices()


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "0", "", "fast"])
def test_bad_figures_are_refused(tmp_path, value):
    table = save_device(tmp_path, [ROWS[0], f"conv,8,8,8,8,8,1,1,0,{value},0"])
    with pytest.raises(ValueError, match=r"own\.csv, line 3"):
        Estimator.load(table)


@pytest.mark.parametrize(
    "row", ["blob,8,8,8,8,8,3,1,0,1,0", "conv,8,8,0,8,8,3,1,0,1,0", "conv,8,8,8", "conv,8,8,8,8,8,3,1,0,1,-5"]
)
def test_bad_rows_are_refused(tmp_path, row):
    with pytest.raises(ValueError, match="line 2"):
        Estimator.load(save_device(tmp_path, [row]))


def test_missing_columns_and_empty_tables_are_refused(tmp_path):
    with pytest.raises(ValueError, match="empty"):
        Estimator.load(save_device(tmp_path))
    table = save_device(tmp_path)
    table.write_text("kind,height\nconv,8\n")
    with pytest.raises(ValueError, match="lacks the columns width"):
        Estimator.load(table)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": 1, "name": "x"}',
        '{"format": 2}',
        '{"format": 1, "name": "x", "backend": "vela", "lanes": 0}',
    ],
)
def test_bad_device_is_refused(tmp_path, text):
    table = save_device(tmp_path, ROWS)
    table.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=r"own\.json is not a valid device|lanes"):
        Estimator.load(table)


def test_backend_of_a_foreign_file_cannot_choose_an_import():
    with pytest.raises(ValueError, match=r"must be one of vela, .*; got 'os'"):
        open_backend(Device("own", "os", 16))


def test_table_of_whole_subgraphs(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    estimator = Estimator.load(save_device(tmp_path, ["ibn,8,8,8,48,8,3,1,1,0.5,100", *ROWS]))
    known = Subgraph("ibn", 8, 8, 8, 48, 8, 3, 1, True, path="anywhere")
    assert estimator.predict_ms([known]).tolist() == [0.5]
    assert estimator.predict_ms([dataclasses.replace(known, in_channels=16)])[0] > 0


def test_cache_is_used_and_a_damaged_one_is_made_anew(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table = save_device(tmp_path, ROWS)
    unseen = [Subgraph("conv", 8, 8, 12, 12, 12, 3)]
    first = Estimator.load(table).predict_ms(unseen)
    (cache,) = (tmp_path / "cache" / "lightning_nas").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(Regressor, "fit", lambda *_: pytest.fail("fitted although cached"))
        assert Estimator.load(table).predict_ms(unseen).tolist() == first.tolist()
    for damaged in (b"", b"PK nothing", cache.read_bytes()[:1000], b"\x80\x04."):
        cache.write_bytes(damaged)
        with caplog.at_level(logging.WARNING):
            assert Estimator.load(table).predict_ms(unseen).tolist() == first.tolist()
        assert "damaged" in caplog.text
        caplog.clear()
    table.write_text(table.read_text() + "conv,8,8,208,208,208,3,1,0,0.04,100\n")
    Estimator.load(table).predict_ms(unseen)
    assert len(list(cache.parent.iterdir())) == 2


def test_cache_that_would_run_code_or_leave_its_arrays_is_refused(tmp_path):
    rows = synthetic()
    # Latency that is no multiple of the work, or there would be nothing for a tree to split.
    trees = Trees.fit(list(rows), np.array([part.macs * part.in_channels * 1e-6 for part in rows]))
    path = tmp_path / "own.npz"
    regressor = Regressor("trees", trees, None, {})
    regressor.save(path)
    with np.load(path) as data:
        arrays = dict(data)
    assert Regressor.load(path).predict_ms(list(rows)).tolist() == regressor.predict_ms(list(rows)).tolist()
    nodes = arrays["trees.nodes"]
    np.savez(path, **{**arrays, "trees.nodes": np.array([print], dtype=object)})
    with pytest.raises(ValueError, match=r"pickle|malformed|no regressor"):
        Regressor.load(path)
    inner = int(np.flatnonzero(nodes["is_leaf"] == 0)[0])
    for name, value in (("left", 10**6), ("left", inner), ("right", 0), ("feature_idx", 10**4), ("is_categorical", 1)):
        nodes = arrays["trees.nodes"].copy()
        nodes[name][inner] = value
        np.savez(path, **{**arrays, "trees.nodes": nodes})
        with pytest.raises(ValueError, match="malformed"):
            Regressor.load(path)


def test_read_only_cache_only_costs_time(tmp_path, monkeypatch, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    with caplog.at_level(logging.WARNING):
        assert Estimator.load(save_device(tmp_path, ROWS)).predict_ms([Subgraph("conv", 8, 8, 12, 12, 12, 3)])[0] > 0
    assert "could not be cached" in caplog.text


def test_measuring_resumes_after_an_interrupt(tmp_path):
    device, parts = Device("own", "vela", 16), sample_subgraphs(1, 40)
    whole, resumed = tmp_path / "whole.csv", tmp_path / "resumed.csv"
    measure(device, parts, whole, Counting())
    with pytest.raises(KeyboardInterrupt):
        measure(device, parts, resumed, Counting(limit=15))
    # The process dies in the middle of a line.
    resumed.write_text(resumed.read_text() + "conv,8,8,1")
    backend = Counting()
    rows = measure(device, parts, resumed, backend)
    assert resumed.read_text() == whole.read_text()
    assert rows == read_measurements(whole).subgraphs
    assert 0 < backend.count <= 25
    again = Counting()
    measure(device, parts, resumed, again)
    assert again.count == 0


def test_samples_are_reproducible_and_a_prefix_of_more():
    assert sample_subgraphs(0, 50) == sample_subgraphs(0, 80)[:50]
    assert len(set(sample_subgraphs(0, 80))) == 80
    assert sample_subgraphs(1, 50) != sample_subgraphs(0, 50)


def test_varied_samples_are_what_stock_networks_hold_beside():
    parts = sample_varied_subgraphs(0, 400)
    assert parts[:50] == sample_varied_subgraphs(0, 50)
    assert sample_varied_subgraphs(1, 50) != parts[:50]
    assert len(set(parts)) == 400
    # Every one of them is the sum of operators that a table can hold, and a residual has the shape of its input.
    assert {operator.kind for part in parts for operator in part.operators} == OPERATOR_KINDS
    assert all(part.out_shape == (part.height, part.width, part.in_channels) for part in parts if part.residual)
    assert any(part.residual and part.kind == "conv" and part.kernel == 3 for part in parts)
    assert any((part.height, part.kind) == (1, "conv") for part in parts)
    assert {13, 26} & {part.height for part in parts}


def test_error_over_rows_of_a_smooth_table_is_small():
    rows = {part: figures for size in range(2, 34, 2) for part, figures in _rows(size)}
    error = judge(Estimator(Device("own", "vela", 16), rows), num_folds=2).error
    assert error["rows"]["mape"] < 0.1
    assert "rows" in format_error(error)


def _rows(size):
    for width in range(8, 136, 8):
        part = Subgraph("conv", size, size, width, width, width, kernel=3)
        yield part, Figures(part.macs * 1e-6)


@pytest.mark.parametrize("kind", ["stem", "conv", "ds", "ibn", "fused", "head", "classifier"])
def test_operators_add_up(kind):
    hidden = {"ibn": 48, "fused": 48, "head": 48}.get(kind, 8)
    part = Subgraph(kind, 9, 7, 8, hidden, 8, 3 if kind in ("stem", "conv", "ds", "ibn", "fused") else 1)
    assert sum(operator.macs for operator in part.operators) == part.macs
    assert sum(operator.parameter_bytes for operator in part.operators) == part.parameter_bytes
    assert part.operators[-1].out_shape == part.out_shape
    assert max(operator.peak_activation_bytes for operator in part.operators) <= part.peak_activation_bytes


def test_residual_is_held_while_the_block_runs():
    plain = Subgraph("ibn", 8, 8, 16, 96, 16, 3)
    residual = dataclasses.replace(plain, residual=True)
    assert plain.peak_activation_bytes == 64 * (96 + 96)
    assert residual.peak_activation_bytes == 64 * (96 + 96 + 16)


def test_bad_subgraph_is_refused():
    with pytest.raises(ValueError, match=r"kind.*'mlp'"):
        Subgraph("mlp", 8, 8, 8, 8, 8)
    with pytest.raises(ValueError, match="`hidden_channels` of subgraph '' must be a whole number of at"):
        Subgraph("conv", 8, 8, 8, 0, 8)


class Squeezed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.gate = torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.Conv2d(16, 16, 1)

    def forward(self, x):
        x = torch.nn.functional.silu(self.stem(x))
        return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))


def test_operator_of_which_the_table_has_no_rows_names_its_module(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    table, image = save_device(tmp_path, ROWS), torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match=r"Module '1' runs activation.*fallback='bytes'"):
        Estimator.load(table).latency_ms(
            torch.nn.Sequential(Squeezed().gate, torch.nn.SiLU()), torch.zeros(1, 16, 8, 8)
        )
    with pytest.raises(ValueError, match=r"no measurement to estimate pool"):
        Estimator.load(table).latency_ms(Squeezed(), image)
    fallback = Estimator.load(table, fallback="bytes")
    parts = decompose(Squeezed(), image, "bytes")
    assert (fallback.predict_ms(parts) > 0).all()
    larger = decompose(Squeezed(), torch.zeros(1, 3, 64, 64), "bytes")
    moving = [index for index, part in enumerate(parts) if part.kind in ("activation", "mul") and part.height > 1]
    assert (fallback.predict_ms(larger)[moving] > 3.9 * fallback.predict_ms(parts)[moving]).all()


def test_operators_are_priced_by_the_rate_of_their_kind():
    def gate(size, variant=""):
        return Subgraph("mul", size, size, 16, 16, 16, form=Form((size, size), variant=variant))

    rows = {**synthetic(), **{gate(size): Figures(size * size * 1e-3) for size in (4, 8, 16)}}
    estimator = Estimator(Device("own", "vela", 16), rows)
    assert estimator.predict_ms([gate(8), gate(12)]).tolist() == pytest.approx([0.064, 0.144])
    with pytest.raises(ValueError, match="broadcast"):
        estimator.predict_ms([gate(8, "broadcast")])
    # What the regressor learns from is the same with them and without.
    unseen = [Subgraph("conv", 8, 8, 12, 12, 12, 3)]
    plain = Estimator(Device("own", "vela", 16), synthetic())
    assert estimator.predict_ms(unseen).tolist() == plain.predict_ms(unseen).tolist()


def test_forms_are_kept_in_tables(tmp_path):
    form = Form((14, 7), (1, 7), (2, 1), 2, 4, "bilinear", 3)
    part = Subgraph("general_conv", 28, 7, 16, 8, 8, form=form)
    table = tmp_path / "own.csv"
    rows = {part: Figures(0.5, 100), dataclasses.replace(part, form=Form((14, 7))): Figures(0.25, 10)}
    table.write_text("\n".join([HEADER, *(",".join(map(str, to_row(*row))) for row in rows.items())]) + "\n")
    assert read_measurements(table).subgraphs == rows
    table.write_text(f"{HEADER}\nmul 8x8,8,8,8,8,8,1,1,0,1,0\n")
    with pytest.raises(ValueError, match=r"line 2.*is not a valid form"):
        read_measurements(table)


def test_stock_networks_are_priced(estimator):
    for name in ("mobilenet_v3_small", "efficientnet_b0", "resnet18"):
        model = getattr(torchvision.models, name)()
        assert estimator.latency_ms(model, torch.zeros(1, 3, 224, 224)) > 0.5

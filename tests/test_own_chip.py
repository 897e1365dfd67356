"""A table of a user's own chip: what is read, what is refused, what is fitted."""

import csv
import json
import logging
import math
import random

import numpy as np
import pytest

from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.files import MIN_ROWS
from lightning_nas.estimator.fit.coverage import Coverage
from lightning_nas.estimator.fit.pieces import pieces
from lightning_nas.estimator.fit.regressor import Regressor
from lightning_nas.estimator.judge.judge import judge
from lightning_nas.estimator.measure.backend import open_backend
from lightning_nas.estimator.measure.sampling.sample import plan_subgraphs
from lightning_nas.estimator.measurements import COLUMNS, Figures, read_measurements, to_row
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.jobs.estimator_command_line import main

HEADER = "kind,height,width,in_channels,hidden_channels,out_channels,kernel,stride,residual,latency_ms"
ROWS = [f"conv,8,8,{width},,{width},3,1,0,{width * width * 1e-4}" for width in range(8, 8 + 8 * MIN_ROWS, 8)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def chip_ms(part):
    """Latency on an array of 16 lanes with a bandwidth and a start-up time, as no regressor knows it."""
    total = 0.0
    for layer in part.layers:
        lanes = math.ceil(layer.out_channels / 16) * 16
        inner = 6 if layer.operator == "depthwise" else math.ceil(layer.in_channels / 16) * 16
        height, width, channels = layer.out_shape
        macs = 0 if layer.operator in ("add", "pool") else height * width * layer.kernel**2 * inner * lanes
        moved = layer.height * layer.width * layer.in_channels + height * width * channels + layer.parameter_bytes
        total += max(macs / 400e6, moved / 8e6) + 0.003
    return total


def table_of(path, parts, noise=0.02):
    rng = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS[:-1])
        for part in parts:
            writer.writerow(to_row(part, Figures(chip_ms(part) * math.exp(rng.gauss(0, noise))))[:-1])
    return path


def write(folder, *rows, header=HEADER):
    path = folder / "my_chip.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_table_is_all_there_is_to_give(tmp_path):
    estimator = Estimator.load(write(tmp_path, *ROWS))
    assert (estimator.name, estimator.lanes, estimator.device.is_split) == ("my_chip", 8, True)
    assert Estimator.load(tmp_path / "my_chip.csv", lanes=32).lanes == 32
    known, between = Subgraph("conv", 8, 8, 16, 16, 16, 3), Subgraph("conv", 8, 8, 20, 20, 20, 3)
    assert estimator.predict_ms([known]).tolist() == pytest.approx([0.0256])
    assert estimator.predict_ms([between])[0] == pytest.approx(0.04, rel=0.1)
    assert estimator.verify_ms([known]) is None
    with pytest.raises(ValueError, match="'my_chip'"):
        open_backend(estimator.device)
    with pytest.raises(ValueError, match="lanes"):
        Estimator.load(tmp_path / "my_chip.csv", lanes=0)


@pytest.mark.parametrize(("unit", "factor"), [("s", 1e-3), ("us", 1e3), ("ns", 1e6)])
def test_units_are_converted(tmp_path, unit, factor):
    rows = [f"conv,8,8,8,8,8,3,1,0,{0.5 * factor!r}"]
    table = read_measurements(write(tmp_path, *rows, header=HEADER.replace("_ms", f"_{unit}")))
    assert table.subgraphs[Subgraph("conv", 8, 8, 8, 8, 8, 3)].latency_ms == pytest.approx(0.5)


def test_what_spreadsheets_write_is_read(tmp_path):
    path = tmp_path / "my_chip.csv"
    names = ["latency_ms", *HEADER.split(",")[:-1]]
    path.write_bytes(("\ufeff" + ",".join(names) + "\r\n0.5,ds,8.0,8,16,,24,3,1,0\r\n").encode())
    assert list(read_measurements(path).subgraphs) == [Subgraph("ds", 8, 8, 16, 16, 24, 3)]


@pytest.mark.parametrize(
    ("column", "value", "valid"),
    [
        ("latency_ms", "nan", "positive, finite"),
        ("latency_ms", "inf", "positive, finite"),
        ("latency_ms", "-0.1", "positive, finite"),
        ("latency_ms", "0", "positive, finite"),
        ("latency_ms", "", "positive, finite"),
        ("latency_ms", "0.3 ms", "positive, finite"),
        ("kind", "mbconv", "stem, conv, ds, ibn"),
        ("height", "0", "whole number, 1 or more"),
        ("in_channels", "8.5", "whole number, 1 or more"),
        ("out_channels", "", "whole number, 1 or more"),
        ("kernel", "nan", "whole number, 1 or more"),
        ("stride", "-1", "whole number, 1 or more"),
        ("residual", "2", "0 or 1"),
        ("residual", "yes", "0 or 1"),
        ("hidden_channels", "9", "`out_channels`, 8, or empty"),
    ],
)
def test_a_bad_value_is_named_with_its_line_and_what_is_valid(tmp_path, column, value, valid):
    values = dict(zip(HEADER.split(","), ["conv", "8", "8", "8", "8", "8", "3", "1", "0", "0.5"], strict=True))
    path = write(tmp_path, *ROWS[1:3], ",".join((values | {column: value}).values()))
    with pytest.raises(ValueError, match=f"(?s)my_chip.csv, line 4: `{column}`.*{valid}.*{value!r}"):
        Estimator.load(path)


def test_duplicates_are_refused_with_both_lines(tmp_path):
    path = write(tmp_path, *ROWS, ROWS[2].replace(",,", ",24,"))
    with pytest.raises(ValueError, match=rf"line {MIN_ROWS + 2}: conv 8x8 24.* on line 4 already.*median"):
        Estimator.load(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (HEADER.replace("latency_ms", "latency"), "latency has no known unit.*latency_us"),
        (HEADER.replace("latency_ms", "latency_cycles"), "latency_cycles has no known unit"),
        (HEADER.replace("stride,", ""), "lacks the columns stride"),
        (HEADER + ",latency_us", "several columns of latency, latency_ms, latency_us"),
        (HEADER + ",kind", "kind twice"),
        (HEADER.replace(",", ";"), "semicolons"),
        ("", "lacks the columns kind, height"),
    ],
)
def test_a_bad_header_is_refused(tmp_path, header, message):
    with pytest.raises(ValueError, match=message):
        Estimator.load(write(tmp_path, header=header))


def test_tables_that_are_no_tables_are_refused(tmp_path):
    with pytest.raises(ValueError, match="0 measurements; at least"):
        Estimator.load(write(tmp_path))
    with pytest.raises(ValueError, match=f"2 measurements; at least {MIN_ROWS}"):
        Estimator.load(write(tmp_path, *ROWS[:2]))
    with pytest.raises(ValueError, match="line 2: it has more values"):
        Estimator.load(write(tmp_path, ROWS[0] + ",1"))
    (tmp_path / "my_chip.csv").write_bytes(b"kind,\xff\xfe")
    with pytest.raises(ValueError, match="UTF-8"):
        Estimator.load(tmp_path / "my_chip.csv")
    with pytest.raises(ValueError, match=r"there is no .*gone\.csv"):
        Estimator.load(tmp_path / "gone.csv")


def test_columns_that_mean_nothing_are_named(tmp_path, caplog):
    rows = [f"{row},5" for row in ROWS]
    with caplog.at_level(logging.WARNING):
        assert Estimator.load(write(tmp_path, *rows, header=HEADER + ",count"))
    assert "ignored: count" in caplog.text


def test_a_kind_without_measurements_is_no_zero(tmp_path):
    estimator = Estimator.load(write(tmp_path, *ROWS))
    with pytest.raises(ValueError, match=r"ds 8x8 .* at 'stages.0' .*has conv; .*needs ds, or depthwise.*add some"):
        estimator.predict_ms([Subgraph("ds", 8, 8, 8, 8, 8, 3, path="stages.0")])
    operators = {"conv", "depthwise"}
    assert [piece.kind for piece in pieces(Subgraph("ibn", 8, 8, 8, 48, 8, 3), operators)] == [
        "conv",
        "depthwise",
        "conv",
    ]
    assert [piece.kind for piece in pieces(Subgraph("stem", 8, 8, 3, 8, 8, 3), operators)] == ["conv"]


def test_the_smallest_table_can_be_judged(tmp_path):
    rows = [f"conv,8,8,{width},,{width},3,1,0,0.5" for width in range(8, 8 + 8 * MIN_ROWS, 8)]
    error = judge(Estimator.load(write(tmp_path, *rows)), 0).error
    assert error["rows"]["count"] == MIN_ROWS
    assert error["rows"]["mape"] < 0.05


def test_what_is_outside_of_the_table_is_said(tmp_path, caplog):
    estimator = Estimator.load(write(tmp_path, *ROWS))
    with caplog.at_level(logging.WARNING):
        estimator.predict_ms([Subgraph("conv", 8, 8, 12, 12, 12, 3)])
        assert not caplog.text
        estimator.predict_ms([Subgraph("conv", 8, 32, 12, 12, 12, 3), Subgraph("conv", 8, 16, 12, 12, 12, 3)])
    assert "up to 4x: conv 8x32 12->12->12 k3 s1 has width 32, measured were 8 to 8" in caplog.text
    assert Coverage(estimator.measurements).warning(list(estimator.measurements)) is None


def test_a_few_hundred_rows_are_learnt_by_the_process_better_than_by_trees(tmp_path):
    parts = plan_subgraphs(0, 400)
    random.Random(0).shuffle(parts)
    estimator = Estimator.load(table_of(tmp_path / "my_chip.csv", parts[::2]))
    unseen = parts[1::2]
    true_ms = np.array([chip_ms(part) for part in unseen])
    regressor = estimator.regressor
    assert regressor.choice != "trees"
    assert np.abs(estimator.predict_ms(unseen) / true_ms - 1).mean() < 0.12
    assert regressor.held_out["smooth"] < 0.8 * regressor.held_out["trees"]
    again = Regressor.load(next((tmp_path / "cache" / "lightning_nas").iterdir()))
    assert again.predict_ms(unseen).tolist() == regressor.predict_ms(unseen).tolist()


def networks_table(path, count, overhead_ms=0.2):
    """A table of random networks of a few blocks, measured whole; each pays something once."""
    rng = random.Random(0)
    blocks = [Subgraph("ibn", 16, 16, 16, 16 * e, 16, k, 1, True) for e in (2, 3, 4, 6) for k in (3, 5, 7)]
    stem, head = Subgraph("stem", 32, 32, 3, 16, 16, 3, 2), Subgraph("head", 16, 16, 16, 64, 10)
    networks = [[stem, *rng.choices(blocks, k=rng.randint(2, 5)), head] for _ in range(count)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS[:-1], "network"])
        for number, parts in enumerate(networks):
            total = Figures(overhead_ms + sum(chip_ms(part) for part in parts))
            writer.writerows([*to_row(part, total)[:-1], f"net{number}"] for part in parts)
    return networks


def test_whole_networks_alone_are_enough(tmp_path):
    path = tmp_path / "my_chip.csv"
    networks = networks_table(path, 80)
    estimator = Estimator.load(path)
    true_ms = [0.2 + sum(chip_ms(part) for part in parts) for parts in networks]
    assert [estimator.predict_ms(parts).sum() for parts in networks] == pytest.approx(true_ms, rel=0.02)
    unseen = Subgraph("ibn", 16, 16, 16, 80, 16, 5, 1, True)
    assert estimator.predict_ms([unseen])[0] == pytest.approx(chip_ms(unseen), rel=0.2)
    regressor = Regressor.load(next((tmp_path / "cache" / "lightning_nas").iterdir()))
    assert regressor.choice == "additive"
    assert regressor.predict_ms([unseen]).tolist() == estimator.regressor.predict_ms([unseen]).tolist()
    error = judge(estimator, 0).error
    assert list(error) == ["networks", "interval"]
    assert error["networks"]["mape"] < 0.02


def networks_beside_subgraphs(path, overhead_ms):
    networks = networks_table(path, 25, overhead_ms)
    parts = list(dict.fromkeys(part for network in networks for part in network))
    wide = [Subgraph("ibn", 16, 16, 16, hidden, 16, 3, 1, True) for hidden in range(20, 96, 3)]
    figures = {part: Figures(chip_ms(part)) for part in [*parts, *wide]}
    with path.open("a", newline="") as file:
        csv.writer(file).writerows([*to_row(part, value)[:-1], ""] for part, value in figures.items())
    estimator = Estimator.load(path)
    assert (len(estimator.measurements), len(estimator.networks)) == (len(figures), 25)
    assert estimator.predict_ms(parts).tolist() == pytest.approx([chip_ms(part) for part in parts])
    return estimator


def test_networks_beside_subgraphs_say_what_sums_are_off_by(tmp_path):
    verdict = judge(networks_beside_subgraphs(tmp_path / "my_chip.csv", 0.02), num_folds=2)
    # What is paid once a network is in none of its parts.
    assert verdict.error["networks_uncorrected"]["bias"] < 1 < verdict.estimator.device.correction
    assert verdict.error["networks"]["mape"] < verdict.error["networks_uncorrected"]["mape"]
    assert verdict.error["sums"]["bias"] == pytest.approx(verdict.error["networks_uncorrected"]["bias"])


def test_parts_that_say_nothing_of_networks_correct_nothing(tmp_path, caplog):
    verdict = judge(networks_beside_subgraphs(tmp_path / "my_chip.csv", 1.0), num_folds=2)
    assert "times the sum of their parts, which is not corrected" in caplog.text
    assert verdict.estimator.device.correction == 1
    assert verdict.error["networks"]["mape"] > 0.5
    assert "below what those took" in verdict.refusal


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            ["conv,8,8,8,,8,3,1,0,1,a", "conv,8,8,8,,8,3,1,0,2,a"],
            "line 3: network 'a' has other figures than on line 2",
        ),
        (["conv,8,8,8,,8,3,1,0,,a", "conv,8,8,8,,8,3,1,0,,a"], "line 2: network 'a' has no latency"),
        (["conv,8,8,8,,8,3,1,0,,"], "line 2: `latency_ms`"),
    ],
)
def test_bad_networks_are_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        Estimator.load(write(tmp_path, *rows, header=HEADER + ",network"))


def test_latency_of_a_network_may_stand_on_one_of_its_lines(tmp_path):
    rows = ["conv,8,8,8,,8,3,1,0,,a", "conv,8,8,8,,8,3,1,0,2,a"]
    table = read_measurements(write(tmp_path, *rows, header=HEADER + ",network"))
    assert not table.subgraphs
    assert table.networks["a"].figures == Figures(2.0)
    assert len(table.networks["a"].parts) == 2


def test_plan_error_and_record_by_command(tmp_path, monkeypatch, capsys):
    path = tmp_path / "my_chip.csv"

    def command(*arguments):
        main([*map(str, arguments)])

    command("plan", path, "--num-subgraphs", "40")
    assert capsys.readouterr().out == (
        f"40 rows written to {path}: fill in latency_ms, then `lightning-nas estimator error {path}`\n"
    )
    for arguments, message in (
        (("plan", path), "not overwritten"),
        (("error", path), "got ''. It is empty in 40 rows"),
    ):
        with pytest.raises(SystemExit) as stopped:
            command(*arguments)
        assert stopped.value.code == 2
        error = capsys.readouterr().err
        assert message in error
    assert "line 2: `latency_ms` must be" in error
    planned = [line.split(",") for line in path.read_text().splitlines()]
    rows = [",".join([*values[:-1], f"{int(values[1]) * int(values[5]) * 1e-4}"]) for values in planned[1:]]
    write(tmp_path, *rows)
    command("error", path, "--lanes", "16")
    assert "rows of ibn" in capsys.readouterr().out
    record = json.loads(path.with_suffix(".json").read_text())
    assert (record["backend"], record["lanes"], record["record"]["error"]["rows"]["count"]) == ("csv", 16, 40)
    assert Estimator.load(path).lanes == 16

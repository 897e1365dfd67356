"""Tables as other programs write them: what is harmless is read, and what is not is refused for its true reason."""

import csv
import io
import logging

import pytest

from lightning_nas.estimator.measurements import read_measurements
from lightning_nas.graph.subgraph import Subgraph

SHAPE = ["height", "width", "in_channels", "hidden_channels", "out_channels", "kernel", "stride", "residual"]
NAMES = ["kind", *SHAPE, "latency_ms"]
VALUES = [
    ["conv", "8", "8", "8", "", "8", "3", "1", "0", "0.5"],
    ["ds", "8", "8", "16", "", "16", "3", "1", "1", "0.25"],
]
PARTS = [Subgraph("conv", 8, 8, 8, 8, 8, 3), Subgraph("ds", 8, 8, 16, 16, 16, 3, residual=True)]


def text_of(names, rows, end="\n", **dialect):
    text = io.StringIO()
    csv.writer(text, lineterminator=end, **dialect).writerows([names, *rows])
    return text.getvalue()


def figures_of(folder, text):
    path = folder / "my_chip.csv"
    path.write_bytes(text.encode())
    return {part: figures.latency_ms for part, figures in read_measurements(path).subgraphs.items()}


INDEXED = [[str(number), *row] for number, row in enumerate(VALUES)]
TRUTHS = [[*row[:-2], str(row[-2] == "1"), row[-1]] for row in VALUES]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text_of(["", *NAMES], INDEXED), id="an index of pandas"),
        pytest.param(text_of(["", "Unnamed: 0", *NAMES], [[row[0], *row] for row in INDEXED]), id="two of them"),
        pytest.param(text_of([*NAMES, "", ""], [[*row, "", ""] for row in VALUES]), id="empty columns at the end"),
        pytest.param(text_of([*NAMES, "", ""], [[*row, "x", "y"] for row in VALUES]), id="nameless columns at the end"),
        pytest.param(text_of(NAMES, [[*row, ""] for row in VALUES]), id="a comma at the end of lines"),
        pytest.param(text_of(NAMES, [VALUES[0], [""] * len(NAMES), [], VALUES[1]]), id="empty lines"),
        pytest.param(text_of(NAMES, TRUTHS), id="truth values of pandas"),
        pytest.param(text_of([*NAMES, "note", "note"], [[*row, "x", "y"] for row in VALUES]), id="notes there twice"),
        pytest.param(text_of([f" {name.title()} " for name in NAMES], VALUES), id="spaces and capitals in the header"),
        pytest.param(text_of(NAMES, [[f" {value} " for value in row] for row in VALUES]), id="spaces around values"),
        pytest.param(text_of(NAMES, VALUES, quoting=csv.QUOTE_ALL), id="quotes"),
        pytest.param("\ufeff" + text_of(["", *NAMES], INDEXED, end="\r\n"), id="a mark of byte order, ends of Windows"),
        pytest.param(text_of(NAMES, VALUES, end="\r"), id="ends of an old Mac"),
    ],
)
def test_what_is_harmless_is_read(tmp_path, text):
    assert figures_of(tmp_path, text) == dict(zip(PARTS, (0.5, 0.25), strict=True))


def test_an_index_column_is_ignored_and_that_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        figures_of(tmp_path, text_of(["", *NAMES], INDEXED))
    assert "ignored: number 1, which has no name" in caplog.text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (text_of(NAMES, VALUES, delimiter=";"), "is separated by semicolons"),
        (text_of(NAMES, VALUES, delimiter="\t"), "is separated by tabs"),
        (text_of(NAMES, [[*VALUES[0][:-1], "0,5"]]), "line 2: `latency_ms`.*got '0,5'.*with a point"),
        (text_of(NAMES, [[*VALUES[0][:-1], "0", "5"]]), r"line 2: it has more values than .*\['5'\].*with a point"),
        (text_of(NAMES, [VALUES[0][:-1]]), "line 2: `latency_ms`.*got None"),
        (text_of([*NAMES, " Kind"], [[*row, "x"] for row in VALUES]), "the columns kind twice"),
    ],
)
def test_what_is_not_is_refused_for_its_true_reason(tmp_path, text, reason):
    with pytest.raises(ValueError, match=reason):
        figures_of(tmp_path, text)

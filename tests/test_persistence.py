"""Files of anybody: none runs code when it is read, and damaged ones are refused or made anew with a message."""

import ast
import json
import logging
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lightning_nas
from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.files import MIN_ROWS
from lightning_nas.estimator.fit.regressor import Regressor
from lightning_nas.estimator.fit.smooth import Smooth
from lightning_nas.estimator.fit.trees import Trees
from lightning_nas.estimator.measurements import read_measurements
from lightning_nas.graph.subgraph import Subgraph

UNPICKLING = {"pickle", "cPickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
HEADER = "kind,height,width,in_channels,hidden_channels,out_channels,kernel,stride,residual,latency_ms"
ROWS = [f"conv,8,8,{width},,{width},3,1,0,{width * width * 1e-4}" for width in range(8, 8 * (MIN_ROWS + 5), 8)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(folder, **record):
    table = folder / "own.csv"
    table.write_text("\n".join([HEADER, *ROWS]) + "\n")
    Device("own", "csv", 8, record=record).save(table.with_suffix(".json"))
    return table


def test_nothing_in_the_package_unpickles():
    """Loaders of pickles are not imported, and those that could unpickle are told not to."""
    allowed = {"torch.load": "weights_only", "np.load": "allow_pickle"}
    for path in Path(lightning_nas.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
                assert not UNPICKLING & set(names), path
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                assert name not in ("eval", "exec"), path
                if name in allowed:
                    values = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert values[allowed[name]] == str(name == "torch.load"), path


def test_flipped_bits_of_a_cache_are_a_message(tmp_path):
    parts = [Subgraph("conv", 8, 8, width, width, width, 3) for width in range(8, 8 * 30, 8)]
    latency_ms = np.array([part.macs * part.in_channels * 1e-6 for part in parts])
    whole = tmp_path / "own.npz"
    Regressor("both", Trees.fit(parts, latency_ms), Smooth.fit(parts, latency_ms), {}).save(whole)
    data, rng, refused = whole.read_bytes(), random.Random(0), 0
    for number in range(60):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 3, 20))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        whole.write_bytes(bytes(damaged[: rng.randrange(len(damaged))] if number % 4 == 0 else damaged))
        try:
            Regressor.load(whole).predict_ms(parts)
        except ValueError as error:
            refused += "own.npz is not a valid regressor" in str(error)
    assert refused > 50


def test_a_cache_of_another_shape_is_made_anew(tmp_path, caplog):
    table, unseen = write(tmp_path), [Subgraph("conv", 8, 8, 12, 12, 12, 3)]
    first = Estimator.load(table).predict_ms(unseen)
    (cache,) = (tmp_path / "cache" / "lightning_nas").iterdir()
    with np.load(cache) as data:
        arrays = dict(data)
    np.savez(cache, **{name: array[..., :-1] if array.ndim else array for name, array in arrays.items()})
    with caplog.at_level(logging.WARNING):
        assert Estimator.load(table).predict_ms(unseen).tolist() == first.tolist()
    assert "damaged and is made anew" in caplog.text


def test_a_truncated_table_is_refused(tmp_path):
    table = write(tmp_path, rows=len(ROWS))
    assert Estimator.load(table)
    text = table.read_text()
    table.write_text(text[: text.rstrip("\n").rindex("\n") + 1])
    with pytest.raises(ValueError, match=rf"own.csv has {len(ROWS) - 1} measurements, .* {len(ROWS)}: it is truncated"):
        Estimator.load(table)
    table.write_text(text[: text.rindex(",")])
    with pytest.raises(ValueError, match=rf"own\.csv, line {len(ROWS) + 1}: `latency_ms` must be .* got None"):
        Estimator.load(table)


def test_a_table_that_grew_is_read(tmp_path):
    assert Estimator.load(write(tmp_path, rows=len(ROWS) - 3))


@pytest.mark.parametrize("data", [b"\x00" * 500, b"\x80\x04\x95junk.", b'"' + b"x" * 200_000, b"PK\x03\x04"])
def test_what_is_no_table_is_refused(tmp_path, data):
    table = tmp_path / "own.csv"
    table.write_bytes(data)
    with pytest.raises(ValueError, match=r"own\.csv"):
        read_measurements(table)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lanes": 0}, "`lanes` of device 'own' must be a positive integer; got 0"),
        ({"lanes": 8.0}, "positive integer; got 8.0"),
        ({"lanes": True}, "positive integer; got True"),
        ({"name": 3}, "`name` of a device must be text; got 3"),
        ({"settings": ["macs"]}, "`settings` of a device must be an object"),
        ({"record": None}, "`record` of a device must be an object"),
        ({"is_split": "no"}, "`is_split` of a device must be true or false"),
        ({"code": "print()"}, "code"),
    ],
)
def test_a_bad_device_names_what_is_bad(tmp_path, change, message):
    table = write(tmp_path)
    path = table.with_suffix(".json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"own\.json is not a valid device: .*{message}"):
        Estimator.load(table)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", '"text"', "\x00"])
def test_what_is_no_device_is_refused(tmp_path, text):
    table = write(tmp_path)
    table.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=r"own\.json is not a valid device"):
        Estimator.load(table)


class Picky(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.Flatten(), nn.Linear(8 * 7 * 7, 10))

    def forward(self, x):
        return self.body(x)


def test_a_network_that_fails_at_a_size_says_where(tmp_path):
    estimator = Estimator.load(write(tmp_path))
    for size, place in ((32, "body.2"), (1, "body.0")):
        message = rf"does not run on images of shape \(1, 3, {size}, {size}\) in module '{place}'"
        with pytest.raises(ValueError, match=message):
            estimator.latency_ms(Picky(), torch.zeros(1, 3, size, size))


def test_an_unknown_operator_names_its_module(tmp_path):
    class Sorted(nn.Module):
        def forward(self, x):
            return x.sort(dim=1).values

    estimator = Estimator.load(write(tmp_path))
    with pytest.raises(ValueError, match=r"Module '1' runs the operator 'sort'.*no cost model.*fallback='bytes'"):
        estimator.latency_ms(nn.Sequential(nn.Conv2d(3, 8, 1), Sorted()), torch.zeros(1, 3, 8, 8))


def test_a_backend_of_no_name_lists_those_that_there_are(tmp_path):
    table = write(tmp_path)
    Device("own", "abacus", 8).save(table.with_suffix(".json"))
    with pytest.raises(ValueError, match=r"must be one of vela.*torch.*abacus"):
        Estimator.load(table).verify_ms(nn.Conv2d(3, 8, 1), torch.zeros(1, 3, 8, 8))

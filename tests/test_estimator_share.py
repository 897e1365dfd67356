"""One file that is handed on: what is read from it, and what is refused."""

import json
import zipfile

import pytest

from lightning_nas.estimator import share
from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.share import pack
from lightning_nas.graph.subgraph import Subgraph

HEADER = "kind,height,width,in_channels,hidden_channels,out_channels,kernel,stride,residual,latency_ms"
ROWS = [f"conv,8,8,{width},,{width},3,1,0,{width * width * 1e-4}" for width in range(8, 200, 8)]
UNSEEN = [Subgraph("conv", 8, 8, 12, 12, 12, 3)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "my_chip.csv"
    path.write_text("\n".join([HEADER, *ROWS]) + "\n")
    Device("my_chip", "csv", 32, record={"note": "kept"}).save(path.with_suffix(".json"))
    return path


@pytest.fixture
def packed(table):
    return pack(table, table.with_name("shared.estimator.zip"))


def rewritten(path, change):
    """Write an archive again with its members changed."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members = change(members)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_what_is_packed_is_loaded_wherever_it_is(table, packed, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    moved = packed.rename(tmp_path / "elsewhere" / packed.name)
    original, shared = Estimator.load(table), Estimator.load(moved)
    assert (shared.name, shared.lanes, shared.device.record) == ("my_chip", 32, {"note": "kept"})
    assert dict(shared.measurements) == dict(original.measurements)
    assert shared.predict_ms(UNSEEN).tolist() == original.predict_ms(UNSEEN).tolist()
    assert Estimator.load(moved, lanes=4).lanes == 4


def test_operators_of_stock_networks_are_in_it(table, tmp_path):
    table.with_name("my_chip_operators.csv").write_text(f"{HEADER}\nadd,8,8,8,8,8,1,1,0,0.5\n")
    path = pack(table, tmp_path / "my_chip.estimator.zip")
    assert len(Estimator.load(path).measurements) == len(ROWS) + 1


def test_equal_tables_make_equal_files(table, packed, tmp_path):
    assert pack(table, tmp_path / "b.estimator.zip").read_bytes() == packed.read_bytes()


def test_what_cannot_be_packed_is_said(table, tmp_path):
    with pytest.raises(ValueError, match=r"named \*.estimator.zip; got a.zip"):
        pack(table, tmp_path / "a.zip")
    table.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"there is no my_chip\.json"):
        pack(table, tmp_path / "a.estimator.zip")
    with pytest.raises(ValueError, match=r"named as a file is.*got '.my chip'"):
        pack(tmp_path / ".my chip.csv", tmp_path / "a.estimator.zip")
    assert not list(tmp_path.glob("a.*"))


def test_a_file_that_is_cut_is_refused(packed):
    whole = packed.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        packed.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"shared.estimator.zip is no estimator, or it is damaged"):
            Estimator.load(packed)


def test_every_flipped_byte_is_refused_or_harmless(table, packed):
    whole, measured = packed.read_bytes(), dict(Estimator.load(table).measurements)
    num_refused = 0
    for place in range(0, len(whole), 7):
        packed.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert dict(Estimator.load(packed).measurements) == measured
        except ValueError:
            num_refused += 1
    assert num_refused > 0.7 * len(range(0, len(whole), 7))


def evil(members):
    return {**members, "../../evil.csv": b"kind"}


def swapped(members):
    return {**members, "my_chip.csv": members["my_chip.csv"].replace(b"0.0064", b"0.0001")}


def renamed(members):
    listed = json.loads(members["estimator.json"])
    return {**members, "estimator.json": json.dumps({**listed, "name": "../my_chip"}).encode()}


def unlisted(members):
    listed = json.loads(members["estimator.json"])
    return {**members, "estimator.json": json.dumps({**listed, "sha256": {".csv": "0", ".py": "0"}}).encode()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (evil, "it must hold .*got .*evil"),
        (swapped, "my_chip.csv is not what was packed"),
        (renamed, "named as a file is"),
        (unlisted, "checksums of .csv, .json"),
        (lambda members: {**members, "estimator.json": b"[]"}, "no estimator"),
        (lambda members: {**members, "estimator.json": b'{"format": 2}'}, "format must be 1; got 2"),
        (lambda members: {"a.pkl": b"\x80\x04."}, "no estimator"),
    ],
)
def test_a_changed_file_is_refused(packed, change, message):
    with pytest.raises(ValueError, match=message):
        Estimator.load(rewritten(packed, change))


def test_a_file_that_would_fill_the_memory_is_refused(packed, monkeypatch):
    monkeypatch.setattr(share, "_MAX_BYTES", 10_000)
    bomb = rewritten(packed, lambda members: {**members, "my_chip.csv": b"0" * 100_000})
    with pytest.raises(ValueError, match="larger than 10000 bytes"):
        Estimator.load(bomb)


def test_a_size_that_lies_is_refused(packed):
    rewritten(packed, lambda members: {**members, "my_chip.csv": b"0" * 4_000_000})
    data = packed.read_bytes()
    lied = data.replace((4_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert lied != data
    packed.write_bytes(lied)
    with pytest.raises(ValueError, match="damaged"):
        Estimator.load(packed)


def test_no_such_file_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"no estimator at .*gone"):
        Estimator.load(tmp_path / "gone.estimator.zip")

"""Every kind of file that is read, broken in many ways: ValueErrors come of it, and nothing else.

``FUZZ_VARIANTS=1000 FUZZ_SEED=1 pytest tests/test_fuzz_files.py`` tries a thousand of each; by default there are few.
"""

import copy
import faulthandler
import io
import json
import os
import random
import re
import socket
import subprocess
import zipfile

import numpy as np
import pytest
import torch
from conftest import SETTING, VELA, small_network
from PIL import Image
from recorded_runs import make_architecture, make_comparisons, make_result
from results_page import results_page

from lightning_nas import load_subnet
from lightning_nas.data._labels import label_settings
from lightning_nas.data.coco import CocoDataModule
from lightning_nas.data.voc import VocDetectionDataModule
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.files import read_device
from lightning_nas.estimator.fit.interval import LEVELS, ErrorQuantiles
from lightning_nas.estimator.fit.regressor import Regressor
from lightning_nas.estimator.share import pack
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.report.sweep import write_sweep_report
from lightning_nas.space.spec import SearchSpace
from lightning_nas.supernet import derive, space_of, stock_network, supernet_from
from lightning_nas.supernet.rebuilding import Rebuilding
from lightning_nas.supernet.subnet_files import write_subnet

VARIANTS = int(os.environ.get("FUZZ_VARIANTS", "60"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
# Of one format; a file that has something run without end is a failure that says where.
TIMEOUT_S = 60 + 3 * VARIANTS

SHAPE = "kind,height,width,in_channels,hidden_channels,out_channels,kernel,stride,residual"
HEADER = f"{SHAPE},latency_ms,sram_bytes,network"
PARTS = [Subgraph("conv", 8, 8, width, width, width, kernel=3) for width in range(8, 264, 8)]
ROWS = [f"conv,8,8,{p.in_channels},,{p.in_channels},3,1,0,{p.macs * 1e-6},{p.macs}," for p in PARTS]
OPERATORS = [
    "add,8,8,8,8,8,1,1,0,0.5,,",
    "general_conv 4x4 k3x3 s2x2 d2 g4 n0,8,8,8,8,8,3,2,0,0.25,12,",
    "ibn,8,8,8,48,8,3,1,1,0.5,,net",
    "classifier,8,8,8,8,8,1,1,0,,,net",
]
STRANGE = (
    *(None, True, False, 0, -1, 1, 2**31, 10**9, 10**18, -(10**18), 10**400, 1e308, -1e308, 5e-324, 0.5, 1e999),
    *(float("nan"), "", "x", "1", "-1", "nan", "inf", "1e999", "../../x", "/dev/null", "a\0b", "\ud800", "x" * 10_000),
    *("hf-hub:a/b", "http://127.0.0.1:9/a", "os.system", "9" * 5000, [], {}, [[]], [None], [1, "a"], {"a": {"b": 1}}),
    *([0] * 5000, {"__class__": "os.system"}, {"_target_": "os.system", "_args_": ["touch x"]}),
)


def deep(depth):
    found = []
    for _ in range(depth):
        found = [found]
    return found


def places(value, path=()):
    """Yield where the values of nested lists and dictionaries are."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in pairs:
        yield from places(child, (*path, key))


def broken_json(rng, text):
    """Return JSON text of the same structure with one to three values, names or lengths changed."""
    whole = {"": json.loads(text)}
    for _ in range(rng.choice((1, 1, 2, 3))):
        *path, key = rng.choice([path for path in places(whole) if path])
        holder = whole
        for step in path:
            holder = holder[step]
        kind = rng.randrange(7)
        if kind < 3:
            holder[key] = copy.deepcopy(rng.choice(STRANGE))
        elif kind == 3 and path:
            del holder[key]
        elif kind == 4:
            other = rng.choice([path for path in places(whole) if path])
            found = whole
            for step in other:
                found = found[step]
            holder[key] = copy.deepcopy(found)
        elif kind == 5 and isinstance(holder, dict) and path:
            holder[rng.choice(["", "extra", "weights", "folder", "__init__", "pretrained_cfg"])] = holder.pop(key)
        else:
            holder[key] = [copy.deepcopy(holder[key]) for _ in range(rng.choice((0, 1, 2, 300)))]
    text = json.dumps(whole[""])
    if rng.random() < 0.03:
        text = text.replace(rng.choice(re.findall(r"\d+|null", text) or [text]), "[" * 20_000 + "]" * 20_000, 1)
    return text.encode()


def broken_bytes(rng, data):
    """Return bytes that are cut, flipped, doubled or mixed with others."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        place, kind = rng.randrange(max(1, len(data))), rng.randrange(5)
        if kind == 0:
            del data[place:]
        elif kind == 1 and data:
            data[place % len(data)] ^= 1 << rng.randrange(8)
        elif kind == 2:
            data[place:place] = rng.randbytes(rng.choice((1, 4, 100)))
        elif kind == 3:
            del data[place : place + rng.choice((1, 4, 100))]
        else:
            data[place:place] = data[place : place + 50]
    return bytes(data)


def broken_text(rng, data):
    """Return lines of which some, or some of their words, are changed, dropped or doubled."""
    lines = data.decode().split("\n")
    for _ in range(rng.choice((1, 1, 2, 3))):
        number, kind = rng.randrange(len(lines)), rng.randrange(6)
        if kind == 0:
            lines[number:number] = [lines[rng.randrange(len(lines))]] * rng.choice((1, 50))
        elif kind == 1 and len(lines) > 1:
            del lines[number]
        else:
            words = re.split(r"(\W)", lines[number])
            words[rng.randrange(len(words))] = re.sub("[\ud800]", "", str(rng.choice(STRANGE)))
            lines[number] = "".join(words)
    return "\n".join(lines).encode()


def broken(rng, data, kind):
    if kind == "bytes" or rng.random() < 0.2:
        return broken_bytes(rng, data)
    return broken_json(rng, data) if kind == "json" else broken_text(rng, data)


def estimator_files():
    errors = dict.fromkeys(ErrorQuantiles.of(PARTS, np.zeros(len(PARTS))).to_dict(), [0.1] * len(LEVELS))
    device = {"format": 1, "name": "chip", "backend": "vela", "lanes": 16, "is_split": True, "settings": VELA}
    device |= {"correction": 1.0, "spread": 0.02, "errors": errors, "record": {"rows": 5, "measured_by": {"vela": "5"}}}
    return {
        "chip.csv": "\n".join([HEADER, *ROWS]).encode(),
        "chip_operators.csv": "\n".join([HEADER, *OPERATORS]).encode(),
        "chip.json": json.dumps(device).encode(),
    }


def read_estimator(folder):
    estimator = Estimator.load(folder / "chip.csv")
    assert estimator.predict_ms([part for part in PARTS if part in estimator.measurements]).min(initial=1.0) > 0


def run_files(tmp_path):
    network, image = small_network(), torch.zeros(1, 3, 32, 32)
    supernet = supernet_from(network, image, space_of(network, image))
    space = supernet.supernet.space
    chosen = space.decode((0,) * len(space.node_sizes))
    derived = derive(supernet, chosen)
    options = {"name": "mobilenet_v2", "num_classes": 4, "inverted_residual_setting": SETTING, "dropout": 0.0}
    described = {"task": "classification", "source": options, "path": "", "output_norms": []}
    found = Rebuilding.of(small_network(), derived)
    write_subnet(tmp_path / "made", chosen, found, derived.state_dict(), described)
    files = {
        "architecture.json": (tmp_path / "made" / "architecture.json").read_bytes(),
        "subnet.safetensors": (tmp_path / "made" / "subnet.safetensors").read_bytes(),
        "space.json": space.to_json().encode(),
    }
    torch.save(small_network().state_dict(), tmp_path / "made.pth")
    return {**files, "weights.pth": (tmp_path / "made.pth").read_bytes()}


def read_space(folder):
    SearchSpace.from_json((folder / "space.json").read_bytes().decode())


def read_weights_file(folder):
    stock_network("mobilenet_v2", 4, folder / "weights.pth", inverted_residual_setting=SETTING)


def result_files():
    result = make_result(comparisons=make_comparisons(0.8, [0.7, 0.9], 0.85), data="digits", choices="both")
    result |= {"fusing": {"all": {"latency_ms": 3.0}, "where_faster": {"latency_ms": 2.0}, "blocks": [1, 2]}}
    run = {"command": "lightning-nas seed=0", "machine": "x", "epochs": {"finetune": 3}, "taught_by": "baseline"}
    other = make_result(seed=1, accuracy=0.8)
    return {
        "0/result.json": json.dumps(result).encode(),
        "0/run.json": json.dumps(run).encode(),
        "0/architecture.json": json.dumps({**make_architecture("ds", "fused ibn"), "input_size": [3, 8, 8]}).encode(),
        "0/.hydra/overrides.yaml": b"- seed=0\n- latency=0.5x\n",
        "1/result.json": json.dumps(other).encode(),
    }


def read_results_of(folder):
    for read in (results_page, write_sweep_report):
        try:
            read(folder)
        except ValueError as error:
            last = error
        else:
            last = None
    if last is not None:
        raise last


def image_bytes():
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, "JPEG")
    return file.getvalue()


def coco_files():
    def content(number):
        boxes = [{"id": n, "image_id": 1, "category_id": 1 + n, "bbox": [1, 2, 10.5, 12], "area": 90} for n in (0, 1)]
        boxes[1]["iscrowd"] = 1
        images = [{"id": 1, "file_name": f"{number}.jpg", "height": 30, "width": 40}]
        return {"images": images, "annotations": boxes, "categories": [{"id": n, "name": f"c{n}"} for n in (1, 2)]}

    files = {f"annotations/instances_{split}.json": json.dumps(content(0)).encode() for split in ("train", "val")}
    return {**files, **{f"images/{split}/0.jpg": image_bytes() for split in ("train", "val")}}


VOC_XML = """<annotation>
<filename>a.jpg</filename>
<size><width>40</width><height>30</height><depth>3</depth></size>
<object><name>cat</name><difficult>0</difficult>
<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>21</ymax></bndbox></object>
<object><name>dog</name>
<part><name>head</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>21</ymax></bndbox></part>
<bndbox><xmin>2</xmin><ymin>3</ymin><xmax>30</xmax><ymax>21</ymax></bndbox></object>
</annotation>"""


def voc_files():
    base = "VOCdevkit/VOC2012"
    lists = {f"{base}/ImageSets/Main/{split}.txt": b"a\n" for split in ("train", "val")}
    return {**lists, f"{base}/JPEGImages/a.jpg": image_bytes(), f"{base}/Annotations/a.xml": VOC_XML.encode()}


LABELS = {"ignore_index": [255, 254], "classes": [{"id": 0, "name": "sky"}, {"id": 1, "name": "sea"}]}


def regressor_files(tmp_path):
    few = PARTS[:30]
    Regressor.fit(few, np.array([part.macs * 1e-6 for part in few])).save(tmp_path / "made.npz")
    return {"regressor.npz": (tmp_path / "made.npz").read_bytes()}


def read_regressor(folder):
    assert np.isfinite(Regressor.load(folder / "regressor.npz").predict_ms(PARTS[:3])).all()


def archive_files(tmp_path):
    (tmp_path / "made").mkdir()
    for name, data in estimator_files().items():
        (tmp_path / "made" / name).write_bytes(data)
    return {"a.estimator.zip": pack(tmp_path / "made" / "chip.csv", tmp_path / "made.estimator.zip").read_bytes()}


def broken_archive(rng, data):
    """Return an archive with a changed list, or damaged as a whole."""
    if rng.random() < 0.5:
        return broken_bytes(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["estimator.json"] = broken_json(rng, members["estimator.json"])
    if rng.random() < 0.3:
        members[rng.choice(["../../x", "/absolute", "chip.pkl"])] = b"x"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


VOC_YEAR = "VOCdevkit/VOC2012/Annotations/a.xml"
COCO = "annotations/instances_train.json"
FORMATS = {
    "device": (estimator_files, "chip.json", "json", read_estimator),
    "device alone": (estimator_files, "chip.json", "json", lambda folder: read_device(folder / "chip.json")),
    "table": (estimator_files, "chip.csv", "text", read_estimator),
    "operators": (estimator_files, "chip_operators.csv", "text", read_estimator),
    "archive": (archive_files, "a.estimator.zip", "zip", lambda folder: Estimator.load(folder / "a.estimator.zip")),
    "architecture": (run_files, "architecture.json", "json", load_subnet),
    "subnet": (run_files, "subnet.safetensors", "bytes", load_subnet),
    "space": (run_files, "space.json", "json", read_space),
    "weights": (run_files, "weights.pth", "bytes", read_weights_file),
    "result": (result_files, "0/result.json", "json", read_results_of),
    "run": (result_files, "0/run.json", "json", read_results_of),
    "recorded architecture": (result_files, "0/architecture.json", "json", read_results_of),
    "overrides": (result_files, "0/.hydra/overrides.yaml", "text", read_results_of),
    "labels": (
        lambda: {"labels.json": json.dumps(LABELS).encode()},
        "labels.json",
        "json",
        lambda folder: label_settings(folder / "labels.json"),
    ),
    "coco": (coco_files, COCO, "json", lambda folder: CocoDataModule(folder, image_size=32)),
    "voc": (voc_files, VOC_YEAR, "text", lambda folder: VocDetectionDataModule(folder, image_size=32)),
    "regressor": (regressor_files, "regressor.npz", "bytes", read_regressor),
}


@pytest.fixture
def outside(monkeypatch):
    """Return what reached for the network or started something, which is then refused."""
    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise OSError("a file of others must not do that")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(os, "system", refuse)
    return asked


@pytest.mark.parametrize("name", FORMATS)
def test_broken_files_are_value_errors(name, tmp_path, monkeypatch, outside):
    make, target, kind, read = FORMATS[name]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    files = make(tmp_path) if make in (run_files, regressor_files, archive_files) else make()
    folder = tmp_path / "a" / "b" / "read"
    for file, data in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
    read(folder)
    before = kept(tmp_path, folder)
    rng = random.Random(f"{SEED} {name}")
    said = []
    faulthandler.dump_traceback_later(TIMEOUT_S, exit=True)
    try:
        for number in range(VARIANTS):
            data = broken_archive(rng, files[target]) if kind == "zip" else broken(rng, files[target], kind)
            (folder / target).write_bytes(data)
            try:
                read(folder)
            except ValueError as error:
                said.append(str(error))
            except Exception as error:
                kind_of = f"{type(error).__name__}: {str(error)[:300]}"
                raise AssertionError(
                    f"FUZZ_SEED={SEED}, {name}, variant {number}: {kind_of}; the file begins with {data[:300]!r}"
                ) from error
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert said
    assert not [text for text in said if "weights_only" in text]
    assert not outside
    assert kept(tmp_path, folder) == before


def kept(root, but):
    """Return what there is below a folder but for another one and caches."""
    paths = (path for path in root.rglob("*") if but not in (path, *path.parents))
    return {path for path in paths if "cache" not in path.parts}

"""Run directories that somebody handed on: nothing of them runs, and nothing is read or fetched for them."""

import json
import os
import pickle
import re
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lightning_nas import load_subnet
from lightning_nas.io.reading import FORMAT
from lightning_nas.jobs.network_options import checked_options
from lightning_nas.jobs.networks import network_settings
from lightning_nas.space.spec import Architecture
from lightning_nas.supernet import derive, space_of, stock_network, supernet_from
from lightning_nas.supernet.rebuilding import Rebuilding
from lightning_nas.supernet.subnet_files import write_subnet
from lightning_nas.supernet.weights import read_weights
from lightning_nas.tasks.detector import detector
from lightning_nas.tasks.segmenter import segmenter

SETTING = [[1, 8, 1, 1], [4, 16, 2, 2], [4, 24, 2, 2]]
SMALL = {"name": "mobilenet_v2", "inverted_residual_setting": SETTING, "weights": None}
BUILDERS = {"classification": stock_network, "detection": detector, "segmentation": segmenter}


class Marker:
    """What makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def no_network(monkeypatch):
    """Fail where an address is asked for."""
    asked = []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise OSError("no network in this test")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


def saved(folder, network=None, task="classification", size=32):
    """Write the run directory of a subnet, as a recipe does."""
    options = dict(network or SMALL)
    model = BUILDERS[task](**{"num_classes": 4, **options})
    image = torch.zeros(1, 3, size, size)
    supernet = supernet_from(model, image, space_of(model, image))
    space = supernet.supernet.space
    chosen = space.decode(space.reference_encoding)
    derived = derive(supernet, chosen)
    found = Rebuilding.of(BUILDERS[task](**{"num_classes": 4, **options}), derived)
    described = {"task": task, "source": {"num_classes": 4, **options}}
    write_subnet(folder, chosen, found, derived.state_dict(), described)
    return folder


def changed(folder, **changes):
    file = folder / "architecture.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


@pytest.fixture(scope="module")
def handed_on(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run(handed_on, tmp_path):
    for file in handed_on.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


TIMM = {"name": "mobilenetv2_050"}


@pytest.mark.parametrize(
    ("network", "named"),
    [
        ({**TIMM, "checkpoint_path": "evil.pth"}, "checkpoint_path"),
        ({**TIMM, "pretrained": True}, "pretrained"),
        ({**TIMM, "pretrained_cfg": {"url": "http://127.0.0.1:9/x.pth"}, "pretrained": True}, "pretrained_cfg"),
        ({**TIMM, "pretrained_cfg_overlay": {"file": "evil.pth"}}, "pretrained_cfg_overlay"),
        ({**TIMM, "cache_dir": "/tmp"}, "cache_dir"),
        ({**TIMM, "weights": "imagenet"}, "weights"),
        ({**SMALL, "weights": "evil.pth"}, "weights"),
        ({"name": "hf-hub:timm/mobilenetv2_050.lamb_in1k"}, "name"),
        ({"name": "hf_hub:timm/mobilenetv2_050.lamb_in1k"}, "name"),
        ({"name": "local-dir:."}, "name"),
        ({"name": "mobilenetv2_050/../x"}, "name"),
        ({"name": ["mobilenet_v2"]}, "name"),
        ({**SMALL, "block": "os.system"}, "block"),
        ({**SMALL, "norm_layer": "torch.nn.BatchNorm2d"}, "norm_layer"),
        ({**TIMM, "act_layer": "os.system"}, "act_layer"),
        ({**SMALL, "width_mult": 10**9}, "width_mult"),
        ({**SMALL, "width_mult": "1.0"}, "width_mult"),
        ({**SMALL, "inverted_residual_setting": [[1, 8, 10**6, 1]]}, "inverted_residual_setting, repeats"),
        ({**SMALL, "inverted_residual_setting": [[1, 8, 1, 1]] * 10**4}, "inverted_residual_setting"),
        ({**SMALL, "inverted_residual_setting": "abc"}, "inverted_residual_setting"),
        ({"name": "resnet18", "pretrained_cfg": "evil"}, "pretrained_cfg"),
        ({"name": "resnet18", "checkpoint_path": "evil.pth"}, "checkpoint_path"),
        ({"name": "resnet18", "block": "os.system"}, "block"),
        ({"name": "resnet18", "norm_layer": "../evil.pth"}, "norm_layer"),
        ({"name": "resnet18", "layers": [10**9]}, "layers"),
        ({"name": "torchvision/resnet18", "progress": True}, "progress"),
        ({"name": "torchvision/../resnet18"}, "name"),
        ({"name": "raft_small"}, "name"),
        ([], "source"),
    ],
)
def test_options_that_reach_outside_are_refused(run, network, named, monkeypatch, no_network):
    monkeypatch.chdir(run)
    with open("evil.pth", "wb") as file:
        pickle.dump(Marker(run / "ran"), file)
    changed(run, source=network)
    with pytest.raises(ValueError, match=rf"architecture\.json': .*`?{re.escape(named)}"):
        load_subnet(run)
    assert not (run / "ran").exists()
    assert not no_network


def test_a_network_that_would_fill_the_memory_is_refused(run):
    setting = [[64, 4096, 8, 1]] * 4
    changed(run, source={**SMALL, "num_classes": 4, "inverted_residual_setting": setting, "width_mult": 8})
    with pytest.raises(ValueError, match=r"architecture\.json'.* parameters; at most 268435456 are loaded"):
        load_subnet(run)
    wide = {**SMALL, "num_classes": 4, "inverted_residual_setting": [[1, 4096, 1, 1]]}
    network = json.loads((run / "architecture.json").read_text())["network"]
    changed(run, source=wide, network={**network, "image_shape": [4096, 4096, 3]})
    with pytest.raises(ValueError, match=r"values in a tensor; at most"):
        load_subnet(run)
    changed(run, source={"name": "efficientnet_l2", "num_classes": 4})
    with pytest.raises(ValueError, match="parameters; at most"):
        load_subnet(run)


def test_sizes_that_no_network_has_are_refused(run):
    described = json.loads((run / "architecture.json").read_text())
    rebuilt, name = described["rebuild"], next(iter(described["widths"]))
    for change, message in (
        ({"widths": {name: 10**9}}, "must be a whole number from 1 to 65536"),
        ({"blocks": described["blocks"] * 10**4}, "`blocks` must be a list of at most 4096"),
        ({"rebuild": {**rebuilt, "attributes": {"features": {"groups": 10**9}}}}, "`groups` must be a whole number"),
        ({"rebuild": {**rebuilt, "tensors": {"a": [10**9, 10**9]}}}, "`tensors` must be a whole number"),
        ({"rebuild": {**rebuilt, "identities": ["a"] * 10**5}}, "`identities` must be a list of at most 32768"),
        ({"rebuild": None}, "`rebuild` must be an object"),
    ):
        (run / "architecture.json").write_text(json.dumps({**described, **change}))
        with pytest.raises(ValueError, match=rf"architecture\.json': .*{message}"):
            load_subnet(run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "must be JSON"),
        (b"\xff\xfe", "no text in UTF-8"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"format": NaN}', "NaN is no number"),
        (b"[]", "no architecture of format 2"),
    ],
)
def test_a_broken_description_is_named(run, text, message):
    (run / "architecture.json").write_bytes(text)
    with pytest.raises(ValueError, match=rf"architecture\.json'.*{message}"):
        load_subnet(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": 3}, "`path` must be text"),
        ({"path": ["a"]}, "`path` must be text"),
        ({"output_norms": "many"}, "`output_norms` must be a list"),
        ({"output_norms": ["1"]}, "`output_norms` must be a number"),
        ({"output_norms": [10**400]}, "`output_norms` must be a number"),
        ({"task": ["detection"]}, "`task` must be one of"),
    ],
)
def test_fields_of_another_type_are_named(run, change, message):
    with pytest.raises(ValueError, match=rf"architecture\.json'.*{message}"):
        load_subnet(changed(run, **change))


def test_weights_that_hold_code_are_one_sentence(run, tmp_path):
    file = tmp_path / "evil.pth"
    for kept in ({"weight": Marker(tmp_path / "ran")}, Marker(tmp_path / "ran")):
        torch.save(kept, file)
        with pytest.raises(ValueError, match="cannot be read, it is damaged or of another kind") as error:
            read_weights(file)
        assert "weights_only" not in str(error.value)
        assert "\n" not in str(error.value)
        (run / "subnet.safetensors").write_bytes(file.read_bytes())
        with pytest.raises(ValueError, match=r"subnet\.safetensors' cannot be read"):
            load_subnet(run)
    assert not (tmp_path / "ran").exists()


def test_cut_weights_are_one_sentence(tmp_path):
    torch.save({"weight": torch.zeros(64)}, tmp_path / "weights.pth")
    save_file({"weight": torch.zeros(64)}, tmp_path / "weights.safetensors")
    for name in ("weights.pth", "weights.safetensors"):
        whole = (tmp_path / name).read_bytes()
        for size in (0, 5, len(whole) // 2, len(whole) - 1):
            (tmp_path / name).write_bytes(whole[:size])
            with pytest.raises(ValueError, match=rf"{name}' cannot be read") as error:
                read_weights(tmp_path / name)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "network"),
    [
        ("classification", {**SMALL, "width_mult": 1.4, "dropout": 0.1, "round_nearest": 4}),
        ("classification", {**TIMM, "drop_rate": 0.1, "drop_path_rate": 0.1, "act_layer": "relu", "bn_eps": 1e-4}),
        ("classification", {"name": "mobilenetv2_050.lamb_in1k"}),
        ("detection", {"backbone": "mobilenetv2_050", "head": "fcos", "head_options": {"width": 16, "depth": 1}}),
        ("detection", {"backbone": "mobilenet_v2", "head": "ssdlite", "head_options": {}, "width_mult": 0.35}),
        (
            "segmentation",
            {
                "backbone": "mobilenet_v2",
                "head": "deeplabv3_lite",
                "head_width": 16,
                "output_stride": 8,
                "backbone_stride": 16,
                "width_mult": 0.35,
            },
        ),
    ],
)
def test_what_users_set_is_loaded_again(tmp_path, task, network):
    folder = saved(tmp_path / "run", network, task, size=64)
    assert load_subnet(folder)(torch.zeros(1, 3, 64, 64)) is not None


@pytest.mark.parametrize(
    "network",
    [
        {"name": "resnet18", "layers": [1, 1, 1, 1], "stem_type": "deep", "zero_init_last": False},
        {"name": "torchvision/resnet18", "width_per_group": 32},
        {"name": "mobilenetv4_conv_small", "drop_rate": 0.1},
    ],
)
def test_options_of_any_family_are_those_of_its_class(network):
    assert checked_options(network, "classification") == network
    backbone = {"backbone": network["name"], **{key: value for key, value in network.items() if key != "name"}}
    assert checked_options(backbone, "detection") == backbone


def test_a_network_of_a_callable_of_ones_own_is_asked_for(run):
    settings = network_settings(partial(torch.nn.Linear, in_features=3, weights="a.pth"), 4)
    assert settings == {"_target_": "torch.nn.modules.linear.Linear", "num_classes": 4, "in_features": 3}
    changed(run, source=settings)
    with pytest.raises(ValueError, match=r"linear.Linear makes.* model=Linear\(num_classes=4, in_features=3\)"):
        load_subnet(run)
    model = stock_network(**{"num_classes": 4, **SMALL})
    assert load_subnet(run, model=model)(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


def test_every_recorded_run_has_options_that_are_loaded():
    files = sorted(Path(__file__).parents[1].glob("recipes/results/**/architecture.json"))
    assert files
    for file in files:
        data = json.loads(file.read_text())
        if data["format"] == FORMAT:
            Architecture.from_dict(data)
        # Runs of format 1 said there what now is the architecture's.
        options = data["source" if data["format"] == FORMAT else "network"]
        # What a callable of the user's made is loaded by that: see the tests of `model`.
        if "_target_" not in options:
            assert checked_options(options, data.get("task", "classification")) == options


def test_the_least_timm_loads_weights_only():
    needed = re.search(r'"timm>=([\d.]+)', (Path(__file__).parents[1] / "pyproject.toml").read_text())
    # The first of whose loaders `weights_only` is true unless it is said otherwise.
    assert tuple(map(int, needed[1].split("."))) >= (1, 0, 26)

"""Derived networks are plain: they run, are saved, exported and made again where this package is not installed."""

import copy
import io
import json
import random
import subprocess
import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import zoo
from torch import nn

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.tensors import tensors_in
from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.read import space_of
from lightning_nas.supernet.convert import supernet_from
from lightning_nas.supernet.derive import derive
from lightning_nas.supernet.rebuild import read_tensors
from lightning_nas.supernet.rebuilding import Rebuilding
from lightning_nas.supernet.subnet import architecture_of
from lightning_nas.supernet.subnet_files import write_subnet

NETWORKS = (
    *("torchvision/mobilenet_v2", "torchvision/mobilenet_v3_small", "torchvision/efficientnet_b0"),
    *("timm/mobilenetv4_conv_small", "timm/tf_efficientnet_lite0", "timm/mobilenet_edgetpu_v2_xs"),
    *("torchvision/resnet18", "own/yolo", "own/unet"),
    *(
        pytest.param(f"{name}", marks=pytest.mark.slow)
        for name in ("torchvision/densenet121", "torchvision/regnet_y_400mf", "detection/ssdlite320_mobilenet_v3_large")
    ),
)
OPTIONS = SpaceOptions(kinds=("ibn", "fused", "skip"), kernels=(3, 5))
# A process without this package.
ELSEWHERE = """
import sys, warnings
warnings.simplefilter("ignore")
sys.modules["lightning_nas"] = None
sys.path[:0] = [{folder!r}, {tests!r}]
import torch
torch.set_num_threads(1)
from saved.rebuild import rebuild
images = torch.load("{folder}/images.pt", weights_only=True)
expected = torch.load("{folder}/outputs.pt", weights_only=True)
model = torch.load("{folder}/source.pt", weights_only=False)
for network in (rebuild(model), torch.load("{folder}/subnet.pt", weights_only=False)):
    assert torch.equal(network(images), expected)
"""


def outputs(network, images):
    with evaluating(network):
        return [tensor.detach().clone() for tensor in tensors_in(network(images))]


def same(network, other, images):
    pairs = zip(outputs(network, images), outputs(other, images), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def members(space, count):
    generator = random.Random(0)
    return [tuple(generator.randrange(size) for size in space.node_sizes) for _ in range(count)]


def converted(network, images):
    return supernet_from(network, images, space_of(network, images, options=OPTIONS, check=False))


def emptied(network):
    """Return a copy of a network with other weights."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.5)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_a_derived_network_is_made_of_its_source_by_data(name):
    network, images = zoo.build(name)
    source = copy.deepcopy(network)
    supernet = converted(network, images)
    for nodes in members(supernet.supernet.space, 2):
        derived = derive(supernet, nodes).eval()
        known = {nn.Identity, nn.Sequential, nn.Conv2d, *map(type, source.modules())}
        assert {type(module) for module in derived.modules()} <= known
        found = Rebuilding.of(source, derived)
        assert Rebuilding.from_dict(json.loads(json.dumps(found.to_dict()))) == found
        again = emptied(copy.deepcopy(source))
        found.apply(again)
        again.load_state_dict(derived.state_dict())
        assert same(again, derived, images)
        assert [repr(m) for m in again.modules()] == [repr(m) for m in derived.modules()]
        assert same(copy.deepcopy(derived), derived, images)


class Module(pl.LightningModule):
    """A user's module: weights of two names, a network that it reads twice."""

    def __init__(self, network):
        super().__init__()
        self.model, self.scale = network, nn.Parameter(torch.full((), 1.5))
        self.factor = self.scale

    def forward(self, images):
        return self.factor * self.model(images)


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v3_small", "timm/tf_efficientnet_lite0", "own/unet"])
def test_a_saved_network_is_made_again_without_this_package(name, tmp_path):
    network, images = zoo.build(name)
    source = copy.deepcopy(network)
    supernet = converted(network, images)
    space = supernet.supernet.space
    nodes = members(space, 1)[0]
    derived = derive(supernet, nodes).eval()
    # Options of one width are told apart by name alone.
    assert architecture_of(derived, supernet.supernet).network == space.decode(nodes).network
    found = Rebuilding.of(source, derived)
    write_subnet(tmp_path / "saved", space.decode(nodes), found, derived.state_dict(), {"path": ""})
    content = {"images": images, "outputs": derived(images), "source": emptied(source), "subnet": derived}
    for key, value in content.items():
        torch.save(value, tmp_path / f"{key}.pt")
    code = ELSEWHERE.format(folder=str(tmp_path), tests=str(Path(__file__).parent))
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_a_module_around_a_network_keeps_what_is_its_own(tmp_path):
    network, images = zoo.build("own/mobilenet")
    module = Module(network).eval()
    source = copy.deepcopy(module)
    converted(module.model, images)
    space = module.model.supernet.space
    nodes = (0,) * len(space.node_sizes)
    derived = derive(module, nodes)
    found = Rebuilding.of(source.model, derived.model)
    write_subnet(tmp_path, space.decode(nodes), found, derived.state_dict(), {"path": "model"})
    scope = {"__file__": str(tmp_path / "rebuild.py"), "__name__": "rebuild"}
    exec(compile((tmp_path / "rebuild.py").read_text(), "rebuild.py", "exec"), scope)
    again = scope["rebuild"](source)
    assert again is source
    assert again.factor is again.scale
    assert same(again, derived, images)
    assert type(again) is Module


def test_a_network_that_a_run_names_is_made_by_its_name(tmp_path):
    images = torch.rand(1, 3, 64, 64)
    network = zoo.timm.create_model("mobilenetv2_035", num_classes=4).eval()
    source = copy.deepcopy(network)
    supernet = converted(network, images)
    space = supernet.supernet.space
    derived = derive(supernet, members(space, 1)[0])
    found, chosen = Rebuilding.of(source, derived), space.decode(members(space, 1)[0])
    described = {"task": "classification", "source": {"name": "mobilenetv2_035", "num_classes": 4}}
    write_subnet(tmp_path, chosen, found, derived.state_dict(), described)
    scope = {"__file__": str(tmp_path / "rebuild.py"), "__name__": "rebuild"}
    exec(compile((tmp_path / "rebuild.py").read_text(), "rebuild.py", "exec"), scope)
    assert same(scope["rebuild"](), derived, images)
    write_subnet(tmp_path, chosen, found, derived.state_dict(), {"path": ""})
    with pytest.raises(ValueError, match=r"cannot be made by its name. HINT: give it, as in `rebuild\(MyModule\(\)\)`"):
        scope["rebuild"]()


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v3_small", "timm/tf_efficientnet_lite0", "own/yolo"])
def test_a_derived_network_is_exported_and_saved_whole(name):
    network, images = zoo.build(name)
    supernet = converted(network, images)
    derived = derive(supernet, members(supernet.supernet.space, 1)[0]).eval()
    program = torch.export.export(derived, (images,))
    assert torch.allclose(program.module()(images), derived(images), atol=1e-4)
    file = io.BytesIO()
    torch.save(derived, file)
    file.seek(0)
    assert same(torch.load(file, weights_only=False), derived, images)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter that needs no onnxscript
        file = io.BytesIO()
        torch.onnx.export(derived, (images,), file, dynamo=False)
    assert len(file.getvalue()) > 4 * sum(p.numel() for p in derived.parameters())


def test_tensors_are_read_by_hand_as_by_the_library(tmp_path):
    from safetensors.torch import save_file

    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    tensors = {str(kind): (torch.rand(2, 3) * 4).to(kind) for kind in kinds}
    tensors |= {"none": torch.zeros(0, 3), "number": torch.tensor(7)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    found = read_tensors(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_what_is_not_of_the_source_is_refused():
    source = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1))
    with pytest.raises(ValueError, match="Module '1' is a SiLU, like none of its source"):
        Rebuilding.of(source, nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 8, 1)))
    with pytest.raises(ValueError, match="has no '2', which that of its source has"):
        Rebuilding.of(source, source[:2])
    found = Rebuilding.of(source, nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.Conv2d(4, 8, 3, padding=1)))
    assert found.identities == ("1",)
    assert found.attributes["2"]["padding"] == (1, 1)
    for other, message in (
        (nn.Sequential(nn.Conv2d(3, 8, 3)), "it has no module '1'"),
        (nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Conv2d(8, 8, 1)), "it has no module '0' with out_channels"),
        (nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Flatten()), "'2' with in_channels"),
    ):
        with pytest.raises(ValueError, match=message):
            found.apply(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identities": "0"}, "`identities` must be a list"),
        ({"identities": [1]}, "`identities` must be text"),
        ({"replaced": {"0": []}}, "`replaced` must hold paths of modules"),
        ({"attributes": {"0": {"forward": 1}}}, "`attributes` has the field 'forward'; known are in_channels"),
        ({"attributes": {"0": {"groups": -1}}}, "`groups` must be a whole number from 0 to 65536; got -1"),
        ({"attributes": {"0": {"kernel_size": [99, 99]}}}, "`kernel_size` must be a whole number from 0 to 31"),
        ({"attributes": {"0": {"padding": "os.system"}}}, "`padding` must be a whole number"),
        ({"tensors": {"0.weight": [10**6, 10**6]}}, "`tensors` must hold at most 268435456 values"),
        ({"requires_grad": {"0.weight": 1}}, "`requires_grad` must be true or false"),
        ({"code": ""}, "`rebuild` has the field 'code'"),
    ],
)
def test_a_file_is_data_within_limits(change, message):
    whole = {"identities": [], "replaced": {}, "attributes": {}, "tensors": {}, "requires_grad": {}}
    with pytest.raises(ValueError, match=message):
        Rebuilding.from_dict({**whole, **change})

"""What cannot be converted is said in one sentence that names the module, and the network is as it was."""

import random
import threading

import numpy as np
import pytest
import torch
import zoo
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.models.quantization import mobilenet_v2 as quantizable_mobilenet_v2

from lightning_nas.graph.width_groups import width_groups
from lightning_nas.supernet.elastic_leaves import elastic_leaves
from lightning_nas.supernet.source_check import check_source

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Three convolutions, norms and a classifier, and what a test adds."""

    def __init__(self, behind=None):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 1))
        self.behind, self.head = behind or nn.Identity(), nn.Linear(8, 4)
        self.calls, self.seen = 0, []

    def forward(self, x):
        self.calls += 1
        self.seen.append(x.shape)
        x = self.stem(x)
        return self.head(self.behind(x + self.body(x)).mean((2, 3)))


def same(first, second):
    if first is second:
        return True
    return torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second


def snapshot(network):
    """Return all that a conversion could change in a network and around it, and what each of it was."""
    state = [random.getstate(), torch.get_rng_state(), str(np.random.get_state())]
    for path, module in network.named_modules():
        state += [path, module.training, type(module)]
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for value in vars(module).values():
            state.append(value.copy() if isinstance(value, list | dict | set) else value)
        held = [tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None]
        plain = [tensor for tensor in held if not (nn.parameter.is_lazy(tensor) or tensor.is_meta or tensor.is_sparse)]
        state += held + [tensor.detach().clone() for tensor in plain]
    return state


def refused(network, images, message, kind=ValueError):
    before = snapshot(network)
    with pytest.raises(kind, match=message) as error:
        check_source(network, images)
    after = snapshot(network)
    assert len(before) == len(after)
    assert all(map(same, before, after))
    sentence, _, hint = str(error.value).partition(" HINT: ")
    assert "\n" not in sentence
    assert sentence.endswith(".") or "cannot run images" in sentence
    assert hint


def changed(change, *args):
    def make():
        network = Small()
        change(network, *args)
        return network

    return make


class Silent(Small):
    def forward(self, x):
        super().forward(x)
        return "done"


class Compiled(Small):
    def __init__(self):
        super().__init__()
        self.body = torch.compile(self.body)


class Training(LightningModule):
    def __init__(self):
        super().__init__()
        self.loss, self.network = nn.CrossEntropyLoss(), Small()

    def forward(self, x):
        return self.network(x)


def elastic():
    network = Small()
    elastic_leaves(network, width_groups(network, IMAGES))
    return network


def quantized_static():
    network = nn.Sequential(torch.ao.quantization.QuantStub(), Small().stem, nn.Conv2d(8, 4, 1)).eval()
    network.qconfig = torch.ao.quantization.default_qconfig
    prepared = torch.ao.quantization.prepare(network)
    prepared(IMAGES)
    return torch.ao.quantization.convert(prepared)


def quantized_dynamic():
    return torch.ao.quantization.quantize_dynamic(Small(), {nn.Linear})


def prepared():
    network = Small()
    network.train().qconfig = torch.ao.quantization.default_qat_qconfig
    return torch.ao.quantization.prepare_qat(network)


def lazy():
    network = Small()
    network.behind = nn.LazyConv2d(8, 1)
    return network


def sparse():
    network = Small()
    network.head.weight = nn.Parameter(network.head.weight.detach().to_sparse())
    return network


def compiled_in_place(network):
    network.body.compile()


def own_supernet(network):
    network.supernet = "mine"


def own_forward(network):
    network.body.forward = lambda x: 2 * x


def locked(network):
    network.body.lock = threading.Lock()


REFUSED = {
    "compiled": (lambda: torch.compile(Small()), r"The network is compiled by `torch\.compile`"),
    "compiled part": (Compiled, r"Module 'body' is compiled by `torch\.compile`"),
    "compiled in place": (changed(compiled_in_place), r"Module 'body' is compiled by"),
    "scripted": (lambda: torch.jit.script(Small().stem), r"The network is scripted or traced"),
    "traced": (lambda: torch.jit.trace(Small().stem, IMAGES), r"The network is scripted or traced"),
    "scripted part": (
        changed(lambda network: setattr(network, "body", torch.jit.script(network.body))),
        r"Module 'body' is scripted",
    ),
    "quantized": (quantized_static, r"'0' is quantized, or prepared for it: it is a Quantize of `torch\.ao\."),
    "quantized dynamically": (quantized_dynamic, r"'head' is quantized, .* it is a Linear of `torch\.ao\.nn\.quan"),
    "prepared": (prepared, r"Module 'stem\.0' is quantized, or prepared for it: it is a Conv2d of `torch\.ao\.nn\.qat"),
    "lazy": (lazy, r"Module 'behind' is lazy: its 'weight' has no shape"),
    "sparse": (sparse, r"Module 'head' holds 'weight' as a torch\.float32 torch\.sparse_coo"),
    "without values": (lambda: Small().to("meta"), r"'stem\.0\.weight' of Small has no values.*'meta'"),
    "on two devices": (
        changed(lambda network: network.head.to("meta")),
        r"'head\.weight' of Small has no values",
    ),
    "data parallel": (lambda: nn.DataParallel(Small()), r"The network is wrapped in a DataParallel"),
    "part data parallel": (
        changed(lambda network: setattr(network, "body", nn.DataParallel(network.body))),
        r"Module 'body' is wrapped in a DataParallel",
    ),
    "Lightning": (Training, r"Training is a LightningModule.*HINT: pass `model\.network`"),
    "supernet": (elastic, r"Small is a supernet already"),
    "own supernet": (changed(own_supernet), r"Small has an attribute `supernet` of its own"),
    "own forward": (changed(own_forward), r"Module 'body' has a `forward` set on the instance"),
    "uncopied": (changed(locked), r"Module 'body' cannot be copied by `copy\.deepcopy`"),
    "weight norm": (
        changed(lambda network: parametrizations.weight_norm(network.stem[0])),
        r"Module 'stem\.0' has parametrizations",
    ),
    "spectral norm": (
        changed(lambda network: parametrizations.spectral_norm(network.head)),
        r"Module 'head' has parametrizations",
    ),
    "old spectral norm": (
        changed(lambda network: nn.utils.spectral_norm(network.head)),
        r"'head' holds weight_orig, .* in place of a plain weight",
    ),
    "pruned": (
        changed(lambda network: prune.l1_unstructured(network.body[0], "weight", 0.5)),
        r"Module 'body\.0' holds weight_orig, weight_mask|Module 'body\.0' holds weight_orig in place",
    ),
    "pruned bias": (
        changed(lambda network: prune.l1_unstructured(network.head, "bias", 0.5)),
        r"Module 'head' holds bias_orig",
    ),
    "hook": (
        changed(lambda network: network.stem[1].register_forward_hook(lambda *args: None)),
        r"Module 'stem\.1' has forward_hooks",
    ),
    "hook before": (
        changed(lambda network: network.stem[2].register_forward_pre_hook(lambda *args: None)),
        r"Module 'stem\.2' has forward_pre_hooks",
    ),
    "hook on gradients": (
        changed(lambda network: network.head.register_full_backward_hook(lambda *args: None)),
        r"Module 'head' has backward_hooks",
    ),
    "hook on a parameter": (
        changed(lambda network: network.head.weight.register_hook(lambda gradient: gradient)),
        r"Module 'head' has hooks on the gradient of its 'weight'",
    ),
    "hook after a gradient": (
        changed(lambda network: network.head.bias.register_post_accumulate_grad_hook(lambda parameter: None)),
        r"Module 'head' has hooks on the gradient of its 'bias'",
    ),
    "no convolution": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 4)), r"Sequential runs no convolution"),
    "no tensor": (Silent, r"Silent returns a str in which no tensor"),
}


# That quantization and scripting are deprecated, and more.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_converted_is_named_and_stays_as_it_is(case):
    make, message = REFUSED[case]
    torch.manual_seed(0)
    refused(make(), IMAGES, message)


@pytest.mark.parametrize(
    ("images", "message", "kind"),
    [
        ((IMAGES, IMAGES), r"Small must take one tensor of images.*got a tuple", TypeError),
        ({"image": IMAGES}, r"Small must take one tensor of images.*got a dict", TypeError),
        (np.zeros((1, 3, 8, 8)), r"got a ndarray", TypeError),
        (IMAGES[0], r"`example_input` of Small must have the shape \(N, C, H, W\).*got \(3, 16, 16\)", ValueError),
        (IMAGES[:0], r"none of them 0; got \(0, 3, 16, 16\)", ValueError),
        (IMAGES[:, :1], r"cannot run images of shape \(1, 1, 16, 16\) in module 'stem\.0': RuntimeError", ValueError),
        (
            IMAGES.half(),
            r"in module 'stem\.0'.*HINT: its weights are torch\.float32, and .* torch\.float16",
            ValueError,
        ),
        (IMAGES.to("meta"), r"is on the device 'meta', and 'stem\.0\.weight' of Small on 'cpu'", ValueError),
    ],
    ids=["tuple", "dictionary", "array", "image", "empty", "channels", "half", "device"],
)
def test_an_input_that_does_not_fit_is_named(images, message, kind):
    refused(Small(), images, message, kind)


@pytest.mark.parametrize(("network", "message"), [(Small, "got the class Small itself"), ("resnet18", "got a str")])
def test_what_is_no_module_is_refused(network, message):
    refused_kind = pytest.raises(TypeError, match=message)
    with refused_kind:
        check_source(network, IMAGES)


class TwoInputs(Small):
    def forward(self, x, other):
        return super().forward(x) + other


class OfDictionary(Small):
    def forward(self, batch):
        return super().forward(batch["image"])


@pytest.mark.parametrize("network", [TwoInputs, OfDictionary])
def test_a_network_of_several_inputs_or_of_a_dictionary_is_refused(network):
    refused(network(), IMAGES, rf"{network.__name__} cannot run images of shape \(1, 3, 16, 16\): ")


class Branch(nn.Module):
    """It does one thing or another, as values ask."""

    def __init__(self, test):
        super().__init__()
        self.test = test

    def forward(self, x):
        return x.relu() if self.test(x) else x.tanh() * 2


class Loop(nn.Module):
    def forward(self, x):
        while x.abs().max() > 1:
            x = x / 2
        return x


@pytest.mark.parametrize(
    "behind",
    [
        Branch(lambda x: x.mean() > 0.1),
        Branch(lambda x: x.max().item() > 2),
        nn.Sequential(nn.Identity(), Loop()),
    ],
    ids=["mean", "largest", "loop"],
)
def test_control_flow_that_depends_on_values_is_named(behind):
    torch.manual_seed(0)
    place = "behind.1" if isinstance(behind, nn.Sequential) else "behind"
    refused(Small(behind), IMAGES, rf"Module '{place}' runs other operators for other images")


class Random(nn.Module):
    """It draws from each generator, and remembers what it has seen, as careless code does."""

    def forward(self, x):
        self.last, self.seed = x, random.random()
        return x + torch.rand(1) * np.random.rand() if random.random() > 0.5 else x * torch.rand(1)


class Fails(Random):
    def forward(self, x):
        super().forward(x)
        raise OSError("no such file\nor folder")


def test_a_network_that_fails_is_as_it_was():
    refused(Small(Fails()), IMAGES, r"Small cannot run images .* in module 'behind': OSError: no such file HINT")


class Twice(nn.Module):
    """Shared weights: one module runs on two maps, and is held under two names."""

    def __init__(self):
        super().__init__()
        self.stem, self.shared = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
        self.again = self.shared

    def forward(self, x):
        return self.again(self.shared(self.stem(x)).relu())


def frozen_norms():
    network = Small().train()
    network.stem[1].eval()
    return network


def hooked():
    network = Small()
    network.body.register_forward_hook(lambda module, inputs, output: None)
    return network


def cached():
    """A network that computes something once only."""

    class Once(nn.Module):
        grid = None

        def forward(self, x):
            if self.grid is None:
                self.grid = x.new_ones(x.shape[1:]).cumsum(-1) + 0 * x[0]
            return x * self.grid

    return Small(Once())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Small().eval(),
        frozen_norms,
        hooked,
        cached,
        Twice,
        lambda: Small(Random()),
        lambda: nn.Sequential(Small()),
        lambda: torch.fx.symbolic_trace(Small().stem),
        lambda: quantizable_mobilenet_v2(num_classes=4, width_mult=0.25),
    ],
    ids=["eval", "frozen norms", "hook on a block", "cache", "twice", "random", "nested", "fx", "quantizable"],
)
def test_what_can_be_converted_passes_and_stays_as_it_is(make):
    network = make()
    before = snapshot(network)
    check_source(network, IMAGES)
    assert all(map(same, before, snapshot(network)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_pass_where_they_run(dtype):
    check_source(Small().to(dtype), IMAGES.to(dtype))


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v2", "timm/ghostnet_100", "detection/fcos_mobilenet_v2_fpn"])
def test_networks_as_people_have_them_pass(name):
    check_source(*zoo.build(name))


@pytest.mark.slow
def test_a_detector_may_pick_other_boxes_for_other_images():
    check_source(*zoo.build("detection/fasterrcnn_mobilenet_v3_large_320_fpn"))

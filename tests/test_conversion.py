"""What a network keeps when it is converted and derived, and that a conversion that fails leaves no trace."""

import copy

import pytest
import timm
import torch
import zoo
from torch import nn
from torchvision.models import MobileNetV2

from lightning_nas.space.options import SpaceOptions
from lightning_nas.space.read import space_of
from lightning_nas.supernet import convert
from lightning_nas.supernet.convert import supernet_from
from lightning_nas.supernet.derive import derive
from lightning_nas.supernet.elastic_class import elastic_modules

SETTING = [[1, 8, 1, 1], [4, 16, 2, 2], [4, 24, 2, 2]]
IMAGE = torch.zeros(1, 3, 32, 32)
OPTIONS = SpaceOptions(kinds=("ibn", "fused", "skip"), kernels=(3, 5))


def small_network():
    torch.manual_seed(0)
    return MobileNetV2(num_classes=4, inverted_residual_setting=SETTING, dropout=0.0)


def timm_network(**options):
    torch.manual_seed(0)
    return timm.create_model("mobilenetv2_035", num_classes=4, **options)


def converted(network, image=IMAGE):
    return supernet_from(network, image, space_of(network, image, options=OPTIONS, check=False))


def narrowest(network):
    return (0,) * len(network.supernet.space.node_sizes)


def option(network, kind):
    """Return the encoding in which all blocks that can be are of a kind, at full width."""
    space = network.supernet.space
    found = [[o.kind for o in choice.options] for choice in space.choices]
    widths = space.reference_encoding[: len(space.multipliers)]
    references = space.reference_encoding[len(space.multipliers) :]
    return (*widths, *(k.index(kind) if kind in k else r for k, r in zip(found, references, strict=True)))


def snapshot(network):
    """Return everything of a network that a failed conversion must leave as it was."""
    modules = list(network.named_modules())
    return {
        "modules": [(name, id(module), type(module), module.training) for name, module in modules],
        "said": [repr(module) for _, module in modules],
        "parameters": [
            (name, id(p), p.requires_grad, p.detach().clone(), p.stride()) for name, p in network.named_parameters()
        ],
        "buffers": [(name, id(b), b.clone()) for name, b in network.named_buffers()],
        "attributes": [sorted(vars(module)) for _, module in modules],
        "hooks": [len(module._forward_pre_hooks) for _, module in modules],
    }


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def fail(*_):
    raise RuntimeError("it fails")


@pytest.mark.parametrize("name", ["small", "own/yolo", "timm/tf_efficientnet_lite0", "torchvision/resnet18"])
@pytest.mark.parametrize("place", ["check_agreement", "Supernet"])
def test_a_conversion_that_fails_is_undone(name, place, monkeypatch):
    network, image = (small_network(), IMAGE) if name == "small" else zoo.build(name)
    network = network.to(memory_format=torch.channels_last).train()
    next(network.parameters()).requires_grad_(False)
    next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d)).eval()
    space = space_of(network, image, options=OPTIONS, check=False)
    before = snapshot(network)
    monkeypatch.setattr(convert, place, fail)
    with pytest.raises(RuntimeError, match="it fails"):
        supernet_from(network, image, space)
    after = snapshot(network)
    assert [part for part in before if not same(before[part], after[part])] == []
    assert not elastic_modules(network)
    monkeypatch.undo()
    assert supernet_from(network, image, space) is network


@pytest.mark.parametrize("make", [small_network, timm_network], ids=["torchvision", "timm"])
def test_frozen_weights_stay_frozen(make):
    network = make()
    for number, parameter in enumerate(network.parameters()):
        parameter.requires_grad_(number % 3 != 0)
    before = {name: p.requires_grad for name, p in network.named_parameters()}
    supernet = converted(network)
    assert {name: p.requires_grad for name, p in supernet.named_parameters() if name in before} == before
    for nodes in (supernet.supernet.space.reference_encoding, narrowest(supernet)):
        still = {name: p.requires_grad for name, p in derive(supernet, nodes).named_parameters()}
        assert still.items() <= before.items()


def test_a_frozen_network_has_frozen_options_and_a_frozen_subnet():
    supernet = converted(small_network().requires_grad_(False))
    assert not [name for name, p in supernet.named_parameters() if p.requires_grad]
    for nodes in (narrowest(supernet), option(supernet, "fused")):
        assert not any(p.requires_grad for p in derive(supernet, nodes).parameters())


def test_a_fused_option_learns_where_one_of_its_two_layers_did():
    network = small_network()
    network.features[2].requires_grad_(False)
    network.features[3].conv[0].requires_grad_(False)
    supernet = converted(network)
    fused = derive(supernet, option(supernet, "fused"))
    assert not any(p.requires_grad for p in fused.features[2].parameters())
    assert fused.features[3].conv[0][0].weight.requires_grad
    assert fused.features[3].conv[0][0].kernel_size == (3, 3)
    assert isinstance(fused.features[3].conv[1][0], nn.Identity)


def test_norms_in_evaluation_mode_stay_so():
    network = small_network().train()
    for module in network.features[:4].modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    before = {name: module.training for name, module in network.named_modules()}
    supernet = converted(network)
    for nodes in (supernet.supernet.space.reference_encoding, option(supernet, "fused")):
        plain = derive(supernet, nodes)
        assert {name: m.training for name, m in plain.named_modules() if name in before} == before


def test_precision_and_memory_format_are_kept():
    network = small_network().bfloat16().to(memory_format=torch.channels_last)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    network.features[2].conv[0][1].bfloat16()
    before = {name: value.dtype for name, value in network.state_dict().items()}
    supernet = converted(network.eval(), IMAGE.bfloat16())
    kept = {name: value.dtype for name, value in supernet.state_dict().items() if name in before}
    assert kept == before
    for nodes in (supernet.supernet.space.reference_encoding, narrowest(supernet)):
        found = {name: value.dtype for name, value in derive(supernet, nodes).state_dict().items()}
        assert found.items() <= before.items()


@pytest.mark.parametrize("family", ["torchvision", "timm"])
def test_the_settings_of_norms_and_of_what_is_dropped_stay(family):
    if family == "timm":
        network = timm_network(bn_eps=3e-3, bn_momentum=0.02, drop_path_rate=0.3, drop_rate=0.25)
    else:
        network = MobileNetV2(num_classes=4, inverted_residual_setting=SETTING, dropout=0.25)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = 3e-3, 0.02
    dropped = drops(network)
    supernet = converted(network)
    for nodes in (supernet.supernet.space.reference_encoding, option(supernet, "fused")):
        derived = derive(supernet, nodes)
        norms = [m for m in derived.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {(norm.eps, norm.momentum) for norm in norms} == {(3e-3, 0.02)}
        assert drops(derived) == dropped
    assert max(dropped) >= 0.25


def drops(network):
    """Return the rates of what drops values in training, of timm's and of PyTorch's own kinds."""
    rates = [getattr(m, "drop_prob", getattr(m, "p", 0.0)) for m in network.modules()]
    return [getattr(network, "drop_rate", 0.0), *(rate for rate in rates if rate)]


@pytest.mark.parametrize(
    "act", [lambda: nn.LeakyReLU(0.2), lambda: nn.Hardtanh(0, 4), lambda: nn.ELU(0.5)], ids=["leaky", "hardtanh", "elu"]
)
def test_an_activation_keeps_its_settings(act):
    network = small_network().eval()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU6):
                setattr(module, name, act())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = network(images)
    supernet = converted(network)
    handle = supernet.supernet
    assert torch.equal(derive(supernet, handle.space.reference_encoding)(images), expected)
    handle.activate(narrowest(supernet))
    subnet = derive(supernet, narrowest(supernet))
    assert torch.equal(subnet(images), supernet(images))
    assert {repr(m) for m in subnet.modules() if type(m) is type(act())} == {repr(act())}


def test_a_block_that_the_network_holds_under_another_name_too_is_one_there():
    network = small_network()
    network.low_level = network.features[2]
    supernet = converted(network)
    assert supernet.low_level is supernet.features[2]
    for nodes in (supernet.supernet.space.reference_encoding, narrowest(supernet)):
        subnet = derive(supernet, nodes)
        assert subnet.low_level is subnet.features[2]


def test_a_supernet_is_not_converted_twice():
    supernet = converted(small_network())
    before = snapshot(supernet)
    with pytest.raises(ValueError, match="supernet"):
        supernet_from(supernet, IMAGE)
    with pytest.raises(ValueError, match="supernet"):
        supernet_from(nn.Sequential(supernet), IMAGE)
    assert all(map(same, before.values(), snapshot(supernet).values()))


class Counting(MobileNetV2):
    """It keeps count of its images in every way that a module has, and adds noise to them."""

    def __init__(self):
        super().__init__(num_classes=4, inverted_residual_setting=SETTING)
        self.register_buffer("num_images", torch.zeros(()))
        self.calls, self.shapes = 0, []

    def forward(self, x):
        self.num_images += len(x)
        self.calls += 1
        self.shapes.append(x.shape)
        return super().forward(x + torch.randn_like(x))


def test_a_conversion_does_not_count_as_use():
    drawn = torch.get_rng_state()
    network = Counting().eval()
    drawn = torch.get_rng_state()
    supernet = converted(network)
    assert (float(supernet.num_images), supernet.calls, supernet.shapes) == (0, 0, [])
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_copy_of_a_supernet_is_one():
    supernet = converted(small_network().eval())
    other = copy.deepcopy(supernet)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    other.supernet.activate(narrowest(other))
    whole, narrow = supernet(images), other(images)
    assert not torch.equal(whole, narrow)
    assert torch.equal(narrow, derive(supernet, narrowest(supernet))(images))

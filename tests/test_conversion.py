"""What a network keeps when it is converted and derived, and what is refused because it would be lost."""

import copy
from functools import partial

import pytest
import timm
import torch
from conftest import SETTING, small_network
from lightning_nas.supernet.elastic import ElasticBatchNorm2d, ElasticConv2d
from torch import nn
from torch.nn.utils import parametrizations, prune
from torchvision.models import MobileNetV2
from torchvision.models.quantization import mobilenet_v2 as quantizable_mobilenet_v2

from lightning_nas.supernet import derive, find_supernet, space_of, supernet_from

IMAGE = torch.zeros(1, 3, 32, 32)


def timm_network(**options):
    return timm.create_model("mobilenetv2_035", num_classes=4, **options)


def used(network):
    """Return a network whose activations meet all that they can, in evaluation mode."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 1, 2)
    return network.eval()


def activated(network, make):
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ReLU6):
                setattr(module, name, make())
    return network


def snapshot(network):
    """Return everything of a network that a refused conversion must leave as it was."""
    modules = list(network.named_modules())
    return {
        "modules": [(name, id(module), module.training) for name, module in modules],
        "parameters": [(name, id(p), p.requires_grad, p.detach().clone()) for name, p in network.named_parameters()],
        "buffers": [(name, id(b), b.clone()) for name, b in network.named_buffers()],
        "attributes": [sorted(vars(module)) for _, module in modules],
    }


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("make", [small_network, timm_network], ids=["torchvision", "timm"])
@pytest.mark.parametrize(
    "act", [lambda: nn.LeakyReLU(0.2), lambda: nn.Hardtanh(0, 4), lambda: nn.ELU(0.5)], ids=["leaky", "hardtanh", "elu"]
)
def test_an_activation_keeps_its_settings(make, act):
    network = activated(used(make()), act)
    images = torch.randn(2, 3, 32, 32)
    expected = network(images)
    supernet = supernet_from(network, IMAGE)
    handle = find_supernet(supernet)
    assert torch.equal(derive(supernet, handle.space.reference_encoding)(images), expected)
    narrow = (0,) * len(handle.space.node_sizes)
    handle.activate(narrow)
    subnet = derive(supernet, narrow)
    assert torch.equal(subnet(images), supernet(images))
    found = [module for module in subnet.modules() if type(module) is type(act())]
    assert {repr(module) for module in found} == {repr(act())}


def other_activation(network):
    network.features[2].conv[1][2] = nn.ReLU()


def block_hook(network):
    network.features[2].register_forward_hook(lambda module, inputs, output: output * 2)


def stem_hook(network):
    network.features[0][0].register_forward_hook(lambda module, inputs, output: output * 2)


def gradient_hook(network):
    network.features[2].conv[0][0].weight.register_hook(lambda gradient: gradient * 0)


def own_forward(network):
    block = network.features[2]
    block.forward = lambda x: 2 * block.conv(x)


def weight_norm(network):
    parametrizations.weight_norm(network.features[2].conv[0][0])


def spectral_norm(network):
    nn.utils.spectral_norm(network.features[2].conv[0][0])


def pruning(network):
    prune.l1_unstructured(network.features[2].conv[0][0], "weight", 0.5)


def stem_norm(network):
    parametrizations.weight_norm(network.features[0][0])


def pruned_classifier(network):
    prune.l1_unstructured(network.classifier[1], "weight", 0.5)


def added_dropout(network):
    network.features[2].conv[0].append(nn.Dropout(0.5))


def reflected(network):
    network.features[2].conv[1][0].padding_mode = "reflect"


def no_statistics(network):
    old = network.features[2].conv[0][1]
    network.features[2].conv[0][1] = nn.BatchNorm2d(old.num_features, track_running_stats=False)


def channelwise_stem(network):
    network.features[0][2] = nn.PReLU(32)


def tied(network):
    network.features[4] = network.features[3]


def held_twice(network):
    network.first_expansion = network.features[2].conv[0][0]


def no_residual(network):
    network.features[3].use_res_connect = not network.features[3].use_res_connect


def own_supernet(network):
    network.supernet = "mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda network: activated(network, nn.PReLU) and None, "activation with weights or buffers, PReLU"),
        (other_activation, "'features.2' has two activations that differ, ReLU6.* and ReLU"),
        (block_hook, "'features.2' has forward_hooks"),
        (stem_hook, "'features.0.0' has forward_hooks"),
        (gradient_hook, "'features.2.conv.0.0.weight' has hooks on its gradient"),
        (own_forward, "'features.2' has a `forward` set on the instance"),
        (weight_norm, "'features.2.conv.0.0' has parametrizations"),
        (spectral_norm, "'features.2.conv.0.0' holds weight_orig, .*in place of a plain weight"),
        (pruning, "'features.2.conv.0.0' holds weight_orig, weight_mask in place of a plain weight"),
        (stem_norm, "'features.0.0' has parametrizations"),
        (pruned_classifier, "'classifier.1' holds weight_orig"),
        (added_dropout, "'features.2' must be one or two units of convolution, norm and activation"),
        (reflected, "padding mode 'reflect'"),
        (no_statistics, "'features.2' has a norm without weights or without running statistics"),
        (channelwise_stem, "'features.0.1' stands an activation with weights for each channel, PReLU"),
        (tied, "'features.3' and 'features.4' are one and the same"),
        (held_twice, "'first_expansion' and 'features.2.conv.0.0' are one and the same"),
        (no_residual, "its supernet gives other outputs, off by"),
        (own_supernet, "has an attribute `supernet` of its own"),
    ],
)
def test_what_would_be_lost_is_refused_and_the_network_is_as_it_was(change, message):
    setting = [[1, 8, 1, 1], [4, 16, 3, 2]]
    network = used(MobileNetV2(num_classes=4, inverted_residual_setting=setting))
    change(network)
    network.train()
    network.features[0][1].eval()
    before, drawn = snapshot(network), torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        supernet_from(network, IMAGE)
    after = snapshot(network)
    assert all(same(before[part], after[part]) for part in before)
    if change is not no_residual:  # that is found last, when the supernet has been made
        assert torch.equal(torch.get_rng_state(), drawn)


def test_a_quantizable_network_is_refused():
    network = quantizable_mobilenet_v2(num_classes=4, width_mult=0.25)
    before = snapshot(network)
    with pytest.raises(ValueError, match=r"'features\.1' is a QuantizableInvertedResidual"):
        supernet_from(network, IMAGE)
    assert all(map(same, before.values(), snapshot(network).values()))


def test_a_classifier_that_reads_two_poolings_keeps_the_width_of_its_head():
    network = used(timm_network(global_pool="catavgmax"))
    images = torch.randn(2, 3, 32, 32)
    expected = network(images)
    supernet = supernet_from(network, IMAGE)
    space = supernet.supernet.space
    assert space.head_node[0] is None
    assert torch.equal(derive(supernet, space.reference_encoding)(images), expected)
    assert derive(supernet, (0,) * len(space.node_sizes))(images).shape == (2, 4)


def test_a_block_that_the_network_holds_under_another_name_too_is_replaced_there():
    network = used(small_network())
    network.low_level = network.features[2]
    supernet = supernet_from(network, IMAGE)
    assert supernet.low_level is supernet.features[2] is supernet.supernet.blocks[1]
    subnet = derive(supernet, supernet.supernet.space.reference_encoding)
    assert subnet.low_level is subnet.features[2]


class Lateral(nn.Module):
    """A backbone, a convolution that reads its blocks, and what stands behind that."""

    def __init__(self, between=None, behind=None, change=lambda conv: conv):
        super().__init__()
        self.features = MobileNetV2(num_classes=4, inverted_residual_setting=SETTING).features
        self.backbone = MobileNetV2(num_classes=4, inverted_residual_setting=SETTING)
        self.backbone.features = self.features[:-1]
        self.backbone.classifier = nn.Identity()
        del self.features
        self.between, self.behind = between or nn.Identity(), behind or nn.Identity()
        self.lateral = change(nn.Conv2d(24, 8, 1))

    def forward(self, x):
        return self.behind(self.lateral(self.between(self.backbone.features(x))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"change": lambda conv: prune.l1_unstructured(conv, "weight", 0.5)}, "'lateral' holds weight_orig"),
        ({"between": nn.PReLU(24)}, "'between' runs 'activation' on channels whose number is searched"),
        ({"behind": nn.BatchNorm2d(8, affine=False)}, "'behind' is a norm without weights"),
    ],
    ids=["pruned", "weight a channel", "no weights"],
)
def test_what_reads_blocks_is_refused_like_blocks(options, message):
    network = Lateral(**options).eval()
    with torch.no_grad():
        network(IMAGE)
    before = snapshot(network)
    with pytest.raises(ValueError, match=message):
        supernet_from(network, IMAGE)
    assert all(map(same, before.values(), snapshot(network).values()))


def test_a_supernet_is_not_converted_twice(supernet):
    before = snapshot(supernet)
    for convert in (supernet_from, space_of):
        with pytest.raises(ValueError, match="MobileNetV2 is a supernet already"):
            convert(supernet, IMAGE)
    with pytest.raises(ValueError, match="Sequential is a supernet already, or holds one"):
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
    network = used(Counting())
    supernet = supernet_from(network, IMAGE)
    assert (float(supernet.num_images), supernet.calls, supernet.shapes) == (0, 0, [])


def frozen(network):
    """Freeze the first blocks, and further on the weights of norms and one expansion."""
    network.features[:3].requires_grad_(False)
    for module in network.features[3].modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    network.features[4].conv[0][0].requires_grad_(False)
    network.classifier[1].bias.requires_grad_(False)
    return network


@pytest.mark.parametrize("make", [small_network, timm_network], ids=["torchvision", "timm"])
def test_frozen_weights_stay_frozen(make):
    network = make()
    if isinstance(network, MobileNetV2):
        frozen(network)
    else:
        network.requires_grad_(False)
        network.blocks[3].requires_grad_(True)
    before = {name: p.requires_grad for name, p in network.named_parameters()}
    supernet = supernet_from(network, IMAGE)
    plain = derive(supernet, supernet.supernet.space.reference_encoding)
    assert {name: p.requires_grad for name, p in plain.named_parameters()} == before
    handle = supernet.supernet
    narrow = derive(supernet, (0,) * len(handle.space.node_sizes))
    still = {name: p.requires_grad for name, p in narrow.named_parameters()}
    assert all(still[name] == before[name] for name in still.keys() & before.keys())


def test_a_frozen_network_has_frozen_options_and_a_frozen_subnet(network):
    network.requires_grad_(False)
    supernet = supernet_from(network, IMAGE)
    handle = supernet.supernet
    assert not [name for name, p in supernet.named_parameters() if p.requires_grad]
    for nodes in ((0,) * len(handle.space.node_sizes), handle.space.reference_encoding):
        assert not any(p.requires_grad for p in derive(supernet, nodes).parameters())


def test_a_fused_option_learns_where_one_of_its_two_layers_did(network):
    supernet = supernet_from(frozen(network), IMAGE)
    fused = [block.candidates["fused"] for block in supernet.supernet.blocks[1:]]
    weights = [(f.expand.weight.requires_grad, f.expand_norm.weight.requires_grad) for f in fused]
    # Of the block that is frozen whole, of that whose norms are, and of that of which the depthwise layer learns.
    assert weights[:3] == [(False, False), (True, False), (True, True)]


def test_norms_in_evaluation_mode_stay_so(network):
    network.train()
    for module in network.features[:4].modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    before = {name: module.training for name, module in network.named_modules()}
    supernet = supernet_from(network, IMAGE)
    modes = [(m.training, c.training) for m, c in supernet.supernet.blocks[0].candidates["ds"].parts()]
    assert modes == [(True, False), (True, False)]
    assert supernet.supernet.blocks[-1].candidates["fused"].expand_norm.training
    plain = derive(supernet, supernet.supernet.space.reference_encoding)
    assert {name: module.training for name, module in plain.named_modules()} == before


def test_norms_of_another_precision_keep_it(network):
    network.bfloat16()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.float()
    before = {name: value.dtype for name, value in network.state_dict().items()}
    supernet = supernet_from(copy.deepcopy(network), IMAGE.bfloat16())
    for module in supernet.modules():
        if isinstance(module, ElasticConv2d | ElasticBatchNorm2d):
            assert module.weight.dtype == (torch.bfloat16 if isinstance(module, ElasticConv2d) else torch.float32)
    plain = derive(supernet, supernet.supernet.space.reference_encoding)
    assert {name: value.dtype for name, value in plain.state_dict().items()} == before


@pytest.mark.parametrize("family", ["torchvision", "timm"])
def test_the_settings_of_norms_and_of_what_is_dropped_stay(family):
    settings = {"eps": 3e-3, "momentum": 0.02}
    if family == "timm":
        options = {"bn_eps": 3e-3, "bn_momentum": 0.02, "drop_path_rate": 0.3, "drop_rate": 0.25}
        network = timm.create_model("mobilenetv2_050", num_classes=4, **options)
    else:
        setting = [[1, 8, 1, 1], [4, 16, 2, 2], [4, 24, 2, 2]]
        layer = partial(nn.BatchNorm2d, **settings)
        network = MobileNetV2(num_classes=4, inverted_residual_setting=setting, norm_layer=layer, dropout=0.25)
    dropped = drops(network)
    supernet = supernet_from(network, torch.zeros(1, 3, 64, 64))
    derived = derive(supernet, supernet.supernet.space.reference_encoding)
    norms = [m for m in derived.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(3e-3, 0.02)}
    assert drops(derived) == dropped
    assert max(dropped) >= 0.25


def drops(network):
    """Return the rates of what drops values in training, of timm's and of PyTorch's own kinds."""
    rates = [getattr(m, "drop_prob", getattr(m, "p", 0.0)) for m in network.modules()]
    return [getattr(network, "drop_rate", 0.0), *(rate for rate in rates if rate)]

"""Elastic leaves: any network at any widths and forms of its blocks, in its own classes, and the same plain network."""

import copy
import io

import numpy as np
import pytest
import torch
import zoo
from torch import nn

from lightning_nas.graph.blocks import BlockForm, blocks_of
from lightning_nas.graph.elastic_network import read_network
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.residuals import residuals
from lightning_nas.graph.tensors import tensors_in
from lightning_nas.graph.width_groups import width_groups
from lightning_nas.supernet.elastic_leaves import elastic_leaves
from lightning_nas.supernet.sliced_step import SlicedStep

OTHER = {"ibn": "fused", "fused": "ibn"}
# Networks with blocks, and what members of each must be shown with: squeeze-excite and SiLU, TensorFlow's padding,
# norms that apply their activation, fused blocks, depthwise convolutions in front of an expansion, blocks that share a
# convolution, concatenations with offsets, classes of one's own.
WITH_BLOCKS = (
    *("torchvision/mobilenet_v2", "torchvision/mobilenet_v3_small", "torchvision/efficientnet_b0"),
    *("torchvision/mnasnet0_5", "torchvision/resnet18", "timm/tf_efficientnet_lite0", "timm/mobilenetv4_conv_small"),
    *("timm/mobilenet_edgetpu_v2_xs", "timm/lcnet_100", "own/mobilenet", "own/yolo", "own/unet", "own/vgg"),
    *("own/timm_pyramid", "segmentation/lraspp_mobilenet_v3_large", "detection/fcos_mobilenet_v2_fpn"),
)
WIDTHS_ALONE = ("torchvision/squeezenet1_1", "torchvision/regnet_y_400mf", "timm/repvgg_a0")


def outputs(network, images):
    with evaluating(network):
        return [tensor.clone() for tensor in tensors_in(network(images))]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def offers_of(network, images, kernels=(3, 5, 7)):
    """Return the groups of a network and, for each block, all kinds and some kernels."""
    (elastic, groups), offers = read_network(network, images), []
    for block in blocks_of(network, elastic):
        kinds = [block.kind] if block.unfusable or block.kind not in OTHER else [block.kind, OTHER[block.kind]]
        sizes = dict.fromkeys((block.own.kernel, *kernels))
        offers.append((block, [BlockForm(kind, size) for kind in kinds for size in sizes]))
    return groups, offers


def converted(name, kernels=(3, 5, 7)):
    network, images = zoo.build(name)
    groups, offers = offers_of(network, images, kernels)
    paths = [residual.path for residual in residuals(network, images)]
    return elastic_leaves(network, groups, offers, paths), offers, images


def drawn(leaves, offers, seed):
    """Return random widths, forms and skipped modules."""
    generator = np.random.default_rng(seed)
    forms = [found[generator.integers(len(found))] for _, found in offers]
    skipped = [path for path in leaves.residuals if generator.random() < 0.3]
    return zoo.drawn(leaves.groups, seed), forms, skipped


def of_kind(offers, kind):
    """Return forms of which all are of a kind where it is offered."""
    return [next((form for form in forms if form.kind == kind), block.own) for block, forms in offers]


def says_its_sizes(module):
    if isinstance(module, nn.Conv2d):
        size = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
        return tuple(module.weight.shape) == size
    if isinstance(module, nn.Linear):
        return tuple(module.weight.shape) == (module.out_features, module.in_features)
    return not isinstance(module, nn.BatchNorm2d) or len(module.running_mean) == module.num_features


@pytest.mark.parametrize("name", [*WITH_BLOCKS, *WIDTHS_ALONE])
def test_each_member_is_its_plain_network_bit_by_bit(name):
    plain, images = zoo.build(name)
    before, keys = outputs(plain, images), list(plain.state_dict())
    classes = {path: type(module) for path, module in plain.named_modules()}
    leaves, offers, images = converted(name)
    network = leaves.model
    assert same(before, outputs(network, images))
    assert [key for key in network.state_dict() if ".fused." not in key and ".ibn." not in key] == keys
    assert all(isinstance(network.get_submodule(path), found) for path, found in classes.items())
    for seed in range(3):
        member = drawn(leaves, offers, seed)
        leaves.run(*member)
        plain = leaves.derive(*member).eval()
        assert same(outputs(network, images), outputs(plain, images))
        assert {type(module) for module in plain.modules()} <= {*classes.values(), nn.Identity, nn.Sequential}
        assert all(says_its_sizes(module) for module in plain.modules())
        assert not any(".fused." in key or ".ibn." in key for key in plain.state_dict())
    leaves.run({})
    assert same(before, outputs(network, images))


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v2", "timm/tf_efficientnet_lite0", "torchvision/resnet18"])
def test_larger_kernels_begin_as_the_source_does(name):
    leaves, offers, images = converted(name)
    before = outputs(leaves.model, images)
    leaves.run({}, [BlockForm("own", 7) for _ in offers])
    for block, _ in offers:
        conv = leaves.model.get_submodule(block.depthwise or block.expand)
        assert conv.weight.shape[2:] == conv.kernel_size == (7, 7)
    for first, second in zip(before, outputs(leaves.model, images), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-4)


def test_blocks_of_another_kind_keep_the_scale_of_what_the_network_computes():
    """An untrained alternate is a stand-in, but none that throws the layers behind it off."""
    leaves, offers, _ = converted("torchvision/mobilenet_v2", ())
    images = torch.rand(8, 3, 64, 64)
    leaves.use_batch_statistics(True)
    before = outputs(leaves.model, images)[0]
    leaves.run({}, of_kind(offers, "fused"))
    after = outputs(leaves.model, images)[0]
    assert 0.3 < float(after.std() / before.std()) < 3


def test_a_skipped_module_gives_back_its_input():
    leaves, _, _ = converted("torchvision/resnet18")
    assert leaves.residuals
    x = torch.rand(1, 64, 8, 8)
    leaves.run({}, skipped=["layer1.0"])
    assert leaves.model.layer1[0](x) is x
    leaves.run({})
    assert leaves.model.layer1[0](x) is not x
    assert isinstance(leaves.derive({}, skipped=["layer1.0"]).layer1[0], nn.Identity)


def test_only_what_was_chosen_learns():
    network, images = zoo.build("own/unet")
    leaves = elastic_leaves(network, width_groups(network, images))
    leaves.run({number: leaves.groups.groups[number].size // 2 for number in leaves.groups.open})
    network.train()
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    whole = dict(network.named_parameters())["encoder.0.0.0.weight"].grad
    assert whole[:16].abs().sum() > 0
    assert whole[16:].abs().sum() == 0


@pytest.mark.parametrize(("name", "kind"), [("own/mobilenet", "fused"), ("timm/mobilenet_edgetpu_v2_xs", "ibn")])
def test_a_member_trains_its_alternates_alone(name, kind):
    leaves, offers, _ = converted(name, ())
    forms = of_kind(offers, kind)
    leaves.run({}, forms)
    leaves.model.train()
    parameters = dict(leaves.model.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = torch.optim.SGD(leaves.model.parameters(), 0.1)
    leaves.model(torch.rand(2, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    block = next(block for (block, _), form in zip(offers, forms, strict=True) if form.kind == kind != block.kind)
    alternate = f"{block.expand}.{kind}." + ("weight" if kind == "fused" else "0.weight")
    assert not torch.equal(parameters[alternate], before[alternate])
    assert parameters[f"{block.expand}.weight"].grad is None
    assert torch.equal(parameters[f"{block.expand}.weight"], before[f"{block.expand}.weight"])


def test_what_is_frozen_stays_frozen():
    network, images = zoo.build("own/mobilenet")
    groups, offers = offers_of(network, images)
    network.features[:5].requires_grad_(False)
    first, other = (network.get_submodule(block.expand) for block, _ in (offers[1], offers[-1]))
    other.weight.requires_grad_(False)
    before = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    leaves = elastic_leaves(network, groups, offers)
    assert before <= {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert not any(parameter.requires_grad for parameter in first.fused.parameters())
    assert other.fused.weight.requires_grad  # it stands for the depthwise convolution, too, which learns
    derived = leaves.derive({}, of_kind(offers, "fused"))
    assert not any(parameter.requires_grad for parameter in derived.features[:5].parameters())


def test_batch_statistics_leave_the_running_ones_alone():
    leaves, offers, _ = converted("torchvision/resnet18")
    network, images = leaves.model, torch.rand(4, 3, 32, 32)
    plain = leaves.derive({}).train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    leaves.use_batch_statistics(True)
    assert same(outputs(network, images), [plain(images)])
    network.train()
    leaves.run(*drawn(leaves, offers, 0))
    network(images)
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
    leaves.use_batch_statistics(False)
    leaves.run({})
    network(images)
    assert not torch.equal(network.bn1.running_mean, before["bn1.running_mean"])
    assert int(network.bn1.num_batches_tracked) == int(before["bn1.num_batches_tracked"]) + 1


def test_a_derived_network_is_exported_saved_and_copied():
    leaves, offers, images = converted("torchvision/mobilenet_v2")
    plain = leaves.derive(zoo.drawn(leaves.groups, 0), of_kind(offers, "fused"), leaves.residuals[:1]).eval()
    assert not any(type(module).__module__.startswith("lightning_nas") for module in plain.modules())
    program = torch.export.export(plain, (images,))
    assert torch.allclose(program.module()(images), plain(images), atol=1e-5)
    file = io.BytesIO()
    torch.save(plain, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert same(outputs(plain, images), outputs(again, images))
    assert same(outputs(plain, images), outputs(copy.deepcopy(plain), images))


def test_a_copy_within_a_larger_module_becomes_plain():
    leaves, offers, images = converted("torchvision/mobilenet_v3_small")
    holder = nn.ModuleDict({"network": leaves.model, "loss": nn.Linear(2, 2)})
    member = drawn(leaves, offers, 1)
    whole = copy.deepcopy(holder)
    leaves.strip(whole["network"], *member)
    leaves.run(*member)
    assert same(outputs(leaves.model, images), outputs(whole["network"], images))
    assert not any(type(module).__name__.startswith("Elastic") for module in whole.modules())
    assert any(type(module).__name__.startswith("Elastic") for module in holder.modules())


def test_an_elastic_network_is_saved_copied_and_loaded():
    leaves, offers, images = converted("timm/mobilenetv4_conv_small")
    member = drawn(leaves, offers, 2)
    leaves.run(*member)
    expected = outputs(leaves.model, images)
    file = io.BytesIO()
    torch.save(leaves, file)
    file.seek(0)
    for other in (copy.deepcopy(leaves), torch.load(file, weights_only=False)):
        assert same(expected, outputs(other.model, images))
        other.run({})
        assert not same(expected, outputs(other.model, images))
        assert same(expected, outputs(leaves.model, images))  # the copy is of its own
    with torch.no_grad():
        for parameter in leaves.model.parameters():
            parameter.mul_(1.01)
    fresh, _, _ = converted("timm/mobilenetv4_conv_small")
    fresh.model.load_state_dict(leaves.model.state_dict())
    fresh.run(*member)
    assert same(outputs(leaves.model, images), outputs(fresh.model, images))


def test_a_step_moves_what_was_read_alone():
    """Weight decay and momentum leave channels, taps and alternates alone that did not run."""
    leaves, offers, _ = converted("own/mobilenet")
    network = leaves.model.train()
    leaves.use_batch_statistics(True)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    sliced = SlicedStep(network)
    sliced.attach([optimizer])
    halves = {number: leaves.groups.groups[number].size // 2 for number in leaves.groups.open}
    for widths, kernel in (({}, 7), (halves, 3)):
        before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        leaves.run(widths, [BlockForm("own", kernel) for _ in offers])
        network(torch.rand(2, 3, 32, 32)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    depthwise = f"{offers[3][0].depthwise}.weight"
    moved = before[depthwise] != dict(network.named_parameters())[depthwise]
    inside = torch.zeros_like(moved)
    inside[: len(moved) // 2, :, 2:5, 2:5] = True
    assert not moved[~inside].any()
    assert moved[inside].float().mean() > 0.9
    assert all(torch.equal(before[name], p) for name, p in network.named_parameters() if ".fused." in name)


@pytest.mark.parametrize(
    ("number", "form", "message"),
    [
        (0, BlockForm("fused", 3), "cannot run as 'fused'"),
        (1, BlockForm("basic", 3), "is 'ibn' and cannot run as 'basic'"),
        (1, BlockForm("ibn", 4), "has a 3x3 kernel, which cannot be 4"),
    ],
)
def test_a_form_that_a_block_cannot_have_is_refused(number, form, message):
    network, images = zoo.build("own/mobilenet")
    groups, offers = offers_of(network, images)
    keys = list(network.state_dict())
    with pytest.raises(ValueError, match=message):
        elastic_leaves(network, groups, [(offers[number][0], [form])])
    assert list(network.state_dict()) == keys


def test_what_is_not_offered_does_not_run():
    leaves, offers, _ = converted("own/mobilenet", ())
    with pytest.raises(ValueError, match="cannot run as ibn k9; it can as ibn k3, fused k3"):
        leaves.run({}, [BlockForm("ibn", 9) if block.kind == "ibn" else block.own for block, _ in offers])
    with pytest.raises(ValueError, match=r"got \['nowhere'\]"):
        leaves.run({}, skipped=["nowhere"])
    with pytest.raises(ValueError, match="is elastic already"):
        elastic_leaves(leaves.model, leaves.groups)

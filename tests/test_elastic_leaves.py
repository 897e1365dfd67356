"""Elastic leaves: any network at any widths, in its own classes, and the plain network at the same widths."""

import io

import pytest
import torch
import zoo
from torch import nn

from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.graph.tensors import tensors_in
from lightning_nas.graph.width_groups import width_groups
from lightning_nas.supernet.elastic_leaves import elastic_leaves

NETWORKS = (
    *("own/yolo", "own/unet", "own/mobilenet", "own/vgg", "own/timm_pyramid", "torchvision/resnet18"),
    *("torchvision/mobilenet_v3_small", "torchvision/squeezenet1_1", "torchvision/regnet_y_400mf"),
    *("segmentation/lraspp_mobilenet_v3_large", "detection/fcos_mobilenet_v2_fpn", "timm/mobilenetv4_conv_small"),
    *("timm/tf_efficientnet_lite0", "timm/repvgg_a0"),
)


def outputs(network, images):
    with evaluating(network):
        return [tensor.clone() for tensor in tensors_in(network(images))]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_at_some_widths_is_the_plain_one_bit_by_bit(name):
    network, images = zoo.build(name)
    before, keys = outputs(network, images), list(network.state_dict())
    classes = {path: type(module) for path, module in network.named_modules()}
    leaves = elastic_leaves(network, width_groups(network, images))
    leaves.run({})
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(network, images), strict=True))
    assert list(network.state_dict()) == keys
    assert all(isinstance(module, classes[path]) for path, module in network.named_modules())
    for seed in range(3):
        widths = zoo.drawn(leaves.groups, seed)
        leaves.run(widths)
        plain = leaves.derive(widths)
        assert {path: type(module) for path, module in plain.named_modules()} == classes
        assert all(torch.equal(a, b) for a, b in zip(outputs(network, images), outputs(plain, images), strict=True))
    leaves.run({})
    assert all(torch.equal(a, b) for a, b in zip(before, outputs(network, images), strict=True))


def test_only_what_was_chosen_learns():
    network, images = zoo.build("own/unet")
    leaves = elastic_leaves(network, width_groups(network, images))
    leaves.run({number: leaves.groups.groups[number].size // 2 for number in leaves.groups.open})
    network.train()
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    whole = dict(network.named_parameters())["encoder.0.0.0.weight"].grad
    assert whole[:16].abs().sum() > 0
    assert whole[16:].abs().sum() == 0


def test_a_derived_network_is_exported_and_saved_whole():
    network, images = zoo.build("own/yolo")
    leaves = elastic_leaves(network, width_groups(network, images))
    plain = leaves.derive(zoo.drawn(leaves.groups, 0)).eval()
    program = torch.export.export(plain, (images,))
    assert torch.allclose(program.module()(images), plain(images), atol=1e-5)
    torch.save(plain, io.BytesIO())
    assert not any(type(module).__module__.startswith("lightning_nas") for module in plain.modules())
    assert sum(p.numel() for p in plain.parameters()) < sum(p.numel() for p in network.parameters())
    assert isinstance(plain.stem[0], nn.Conv2d)

"""Segmenters: every subnet is priced, sliced and derived as a whole, head included."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_nas import Estimator
from lightning_nas.budget.tables import cost_tables
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import derive, space_of, stock_network, supernet_from
from lightning_nas.supernet.features import features
from lightning_nas.tasks.segmenter import DeepLabV3LiteHead, LRASPPHead, segmenter

SHALLOW = [[1, 16, 1, 1], [4, 24, 2, 2], [4, 32, 2, 2], [4, 40, 1, 2]]
SMALL = {"inverted_residual_setting": SHALLOW, "head_width": 16}
HEADS = ("lraspp", "deeplabv3_lite")
DEVICES = ("ethos_u85_1024", "edge_tpu", "ethos_u55_128")


def randomised(network: nn.Module, example: Tensor) -> nn.Module:
    """Give norms statistics and weights that are not those of a fresh network."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
    return network.eval()


def random_nodes(network: nn.Module, count: int = 3) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    space = network.supernet.space
    sizes = space.node_sizes
    found = [tuple(int(rng.integers(size)) for size in sizes) for _ in range(count)]
    return [space.reference_encoding, tuple(0 for _ in sizes), *found]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("backbone", "options"),
    [("mobilenet_v2", SMALL), ("mobilenetv2_035", {"head_width": 16, "backbone_stride": 16, "output_stride": 4})],
)
def test_supernet_and_derived_subnets_agree(head: str, backbone: str, options: dict) -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 96)
    # In double precision, which tells an error from the rounding of another kernel.
    network = randomised(segmenter(5, backbone, head, **options), images).double()
    images = images.double()
    with torch.no_grad():
        expected = network(images)
        supernet = supernet_from(network, images, space_of(network, images, options=SpaceOptions(kernels=(3, 5))))
        torch.testing.assert_close(supernet(images), expected)
        for nodes in random_nodes(supernet):
            supernet.supernet.activate(nodes)
            torch.testing.assert_close(derive(supernet, nodes)(images), supernet(images))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", ["mobilenet_v2", "mobilenetv2_035"])
def test_architecture_network_and_table_have_one_price(backbone: str, head: str, device: str) -> None:
    estimator = Estimator.load(device)
    example = torch.zeros(1, 3, 64, 96)
    options = SMALL if backbone == "mobilenet_v2" else {"head_width": 24}
    network = segmenter(5, backbone, head, **options)
    space = space_of(network, example, lanes=estimator.lanes)
    supernet = supernet_from(network, example, space)
    table = cost_tables(space, estimator).latency_ms
    for nodes in random_nodes(supernet):
        architecture = space.decode(nodes)
        priced = estimator.latency_ms(architecture)
        plain = derive(supernet, nodes)
        assert estimator.latency_ms(plain, example) == pytest.approx(priced, rel=1e-9)
        assert float(table.exact(nodes)) == pytest.approx(priced, rel=1e-9)
        assert estimator.memory(plain, example) == estimator.memory(architecture)


def test_a_step_trains_whatever_is_active() -> None:
    torch.manual_seed(0)
    images = torch.rand(2, 3, 64, 64)
    supernet = supernet_from(segmenter(5, **SMALL), images).train()
    supernet.supernet.use_batch_statistics(True)
    for nodes in random_nodes(supernet):
        supernet.supernet.activate(nodes)
        supernet(images).square().mean().backward()
    trained = [name for name, p in supernet.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any(name.startswith("backbone.features.0") for name in trained)
    assert any(name.startswith("head.gate") for name in trained)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (8, 12)),
        ({"output_stride": 16}, (4, 6)),
        ({"output_stride": 4, "backbone_stride": 16}, (16, 24)),
        ({"head": "deeplabv3_lite", "backbone": "efficientnet_lite0"}, (8, 12)),
    ],
)
def test_the_size_of_the_logits_is_a_choice(options: dict, size: tuple[int, int]) -> None:
    network = segmenter(7, **options).eval()
    assert network(torch.rand(1, 3, 64, 96)).shape == (1, 7, *size)
    factors = {m.scale_factor for m in network.modules() if isinstance(m, nn.Upsample)}
    assert factors <= {2.0}


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "mobilenetv2_035"])
def test_weights_of_a_classifier_are_the_backbones(tmp_path, backbone: str) -> None:
    classifier = stock_network(backbone, num_classes=4).eval()
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    network = segmenter(5, backbone, weights=tmp_path / "weights.pth").eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        pairs = zip(*(features(n, images, network.taps) for n in (classifier, network.backbone)), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert not [m for m in network.backbone.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("backbone", ["resnet10t", "mobilenetv4_conv_small_035", "torchvision/mobilenet_v3_small"])
def test_other_networks_are_backbones_too(backbone: str) -> None:
    network = segmenter(5, backbone, backbone_stride=16, head_width=8).eval()
    assert network(torch.rand(1, 3, 64, 96)).shape == (1, 5, 8, 12)
    assert network.stride == 16
    assert not [m for m in network.backbone.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("make", [LRASPPHead, DeepLabV3LiteHead])
def test_classes_told_before_the_enlargement_are_those_told_behind_it(make: type) -> None:
    torch.manual_seed(0)
    low, high = torch.rand(2, 8, 16, 16), torch.rand(2, 12, 4, 4)
    head = make(8, 12, num_classes=3, width=6, enlargement=4).eval()
    with torch.no_grad():
        wide = head.project(high) if make is LRASPPHead else head.join(torch.cat([b(high) for b in head.branches], 1))
        x = head.enlarge(wide * head.gate(high))
        torch.testing.assert_close(head(low, high), head.classify_high(x) + head.classify_low(low))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "unet"}, "`head` must be one of lraspp, deeplabv3_lite; got 'unet'"),
        ({"num_classes": 1}, "`num_classes` must be at least 2; got 1"),
        ({"head_width": 0}, "`head_width` must be at least 1; got 0"),
        ({"output_stride": 32}, "must be one of 2, 4, 8, 16, the strides .* largest, 32; got 32"),
        ({"output_stride": 16, "backbone_stride": 16}, "must be one of 2, 4, 8, the .* largest, 16; got 16"),
        ({"backbone": "mobilenetv2_035", "width_mult": 0.5}, "got 0.5 for 'mobilenetv2_035'. HINT"),
        ({"backbone": "nothing"}, "Unknown network 'nothing'"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmenter(**{"num_classes": 5, **options})


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(TypeError, match="in a chain, each on what the one before gives; VisionTransformer does not"):
        segmenter(5, backbone="vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="multiples of 32 pixels a side; got 48x64"):
        segmenter(5)(torch.rand(1, 3, 48, 64))
    with pytest.raises(ValueError, match="`enlargement` must be a power of 2; got 3"):
        LRASPPHead(8, 12, 3, width=6, enlargement=3)

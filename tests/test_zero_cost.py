"""Scores that need no training: by hand on small networks, what the papers say of them, and what they refuse."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from zoo import ZOO, tensors

from lightning_nas.graph.detector import without_detection
from lightning_nas.supernet.activation_codes import naswot, swap
from lightning_nas.supernet.az_nas import block_scores
from lightning_nas.supernet.synflow import synflow
from lightning_nas.supernet.zero_cost import SCORES, macs, params, zero_cost
from lightning_nas.supernet.zico import zico


class Small(nn.Module):
    """Two layers, the first with its activation in place or as a function."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.second, self.activation = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 1), activation

    def forward(self, x):
        return self.activation(self.second(self.activation(self.first(x))))


def small(activation=functional.relu, seed=0):
    torch.manual_seed(seed)
    return Small(activation).eval()


def images_of(count, size=6, seed=1):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def codes_of(network, images):
    """Return what stands before the activations, above 0 or not, as a row of bits for each image."""
    with torch.no_grad():
        first = network.first(images)
        second = network.second(network.activation(first.clone()))
    return np.concatenate([(first > 0).flatten(1).numpy(), (second > 0).flatten(1).numpy()], axis=1)


ACTIVATIONS = [functional.relu, nn.ReLU6(inplace=True), nn.Hardswish(), functional.silu, torch.sigmoid, nn.PReLU()]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_naswot_by_hand(activation):
    network, images = small(activation), images_of(7)
    codes = codes_of(network, images)
    kernel = np.array([[float((one == other).sum()) for other in codes] for one in codes])
    assert naswot(network, images) == pytest.approx(np.linalg.slogdet(kernel)[1])


def test_naswot_is_least_where_images_are_alike():
    network, images = small(), images_of(6)
    near = torch.cat([images[:5], images[:1] + 0.05 * images[5:]])
    assert naswot(network, near) < naswot(network, images)
    assert naswot(network, torch.cat([images, images[:1]])) == -math.inf


@pytest.mark.parametrize("count", [4, 31, 32, 70])
def test_swap_by_hand(count):
    network, images = small(nn.ReLU()), images_of(count)
    assert swap(network, images) == len({tuple(pattern) for pattern in codes_of(network, images).T})
    # The same image again tells nothing more.
    assert swap(network, images[:1].expand(count, -1, -1, -1)) == 2


def test_synflow_of_linear_maps_by_hand():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 5, bias=False), nn.Linear(5, 3, bias=False))
    first, second = (network[n].weight.detach().abs().double() for n in (1, 2))
    total = float((second @ first).sum())
    # The flow through each layer is the same (Tanaka et al. 2020, theorem 1), and here it is the sum of the outputs.
    assert synflow(network, torch.zeros(1, 3, 2, 2)) == pytest.approx(math.log(2 * total))
    with torch.no_grad():
        network[2].weight.mul_(-3)
    assert synflow(network, torch.zeros(1, 3, 2, 2)) == pytest.approx(math.log(6 * total))


def test_synflow_leaves_out_norms_and_activations():
    torch.manual_seed(0)
    bare = nn.Sequential(nn.Conv2d(3, 20, 3), nn.Identity(), nn.Identity(), nn.Conv2d(20, 8, 3))
    found = synflow(bare, torch.zeros(2, 3, 9, 9))
    assert found > math.log(6)  # more than what a ReLU6 lets through
    for activation in (nn.ReLU6(inplace=True), nn.Hardswish(), nn.SiLU(), nn.GELU()):
        network = nn.Sequential(bare[0], nn.BatchNorm2d(20).eval(), activation, bare[3])
        network[1].running_mean.fill_(3.0)
        assert synflow(network, torch.zeros(2, 3, 9, 9)) == pytest.approx(found)


def test_zico_by_hand():
    torch.manual_seed(0)
    network, images, targets = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), images_of(8, 2), torch.arange(8) % 3
    rows, classes = images.flatten(1).numpy().astype(np.float64), np.eye(3)[targets.numpy()]
    weight, bias = (value.detach().numpy().astype(np.float64) for value in (network[1].weight, network[1].bias))
    gradients = []
    for half in (slice(0, 4), slice(4, 8)):
        powers = np.exp(rows[half] @ weight.T + bias)
        gradients.append((powers / powers.sum(1, keepdims=True) - classes[half]).T @ rows[half] / 4)
    expected = math.log((np.abs(gradients).mean(0) / np.std(gradients, axis=0)).sum())
    assert zico(network, images, targets) == pytest.approx(expected, rel=1e-4)


def test_zico_draws_its_targets_by_its_seed():
    network, images = small(), images_of(8)
    assert zico(network, images, seed=3) == zico(network, images, seed=3) != zico(network, images, seed=4)
    # Gradients that are the same in both batches would be the best: what is steadier is better.
    network, targets = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.arange(4) % 3
    one, other = images_of(4, 2), images_of(4, 2, seed=2)
    alike = zico(network, torch.cat([one, one + 0.01 * other]), targets.repeat(2))
    assert alike > zico(network, torch.cat([one, other]), targets.repeat(2))


def of_maps(*weights, stride=1):
    """Return 1x1 convolutions of given weights, the last one with a stride."""
    layers = [nn.Conv2d(weight.shape[1], len(weight), 1, bias=False) for weight in weights]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight.data = weight[..., None, None]
    layers[-1].stride = (stride, stride)
    return nn.Sequential(*layers)


def test_az_nas_by_hand():
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(64, 4, 16, 16, generator=generator)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator))[0]
    found = block_scores(of_maps(torch.eye(4), turn), white)
    # Four channels of equal variance, which are turned: what keeps the length of gradients is the best.
    assert found.expressivity == pytest.approx(2 * math.log(4), rel=1e-3)
    assert found.progressivity == pytest.approx(0, abs=1e-3)
    assert found.trainability == pytest.approx(0, abs=1e-2)
    found = block_scores(of_maps(torch.eye(4), torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0]))), white)
    parts = np.array([0.9, 0.1])
    assert found.progressivity == pytest.approx(-(parts * np.log(parts)).sum() - math.log(4), abs=1e-2)
    assert found.trainability == pytest.approx(2 - 3 - 1 / 3, abs=0.05)
    # Of four pixels one passes: its place among the folded channels has the whole gradient.
    found = block_scores(of_maps(torch.eye(4), 2 * turn, stride=2), white)
    assert found.trainability == pytest.approx(2 - 2 - 1 / 2, abs=0.05)


def test_az_nas_judges_the_maps_of_the_modules_that_are_named():
    network, images = small(nn.ReLU(inplace=True)), images_of(4)
    named = block_scores(network, images, ["first", "second"])
    assert named == block_scores(network, images)
    # Maps are what the modules give, whatever works in place behind them.
    assert named == block_scores(small(nn.ReLU()), images)
    with pytest.raises(ValueError, match="`az_nas` compares 2 feature maps or more; first give 1"):
        block_scores(network, images, ["first"])
    # A block that is left out is the identity, and not judged by its gradients.
    maps = of_maps(torch.eye(3), 2 * torch.eye(3))
    skipped = nn.Sequential(maps[0], nn.Identity(), maps[1])
    whole = block_scores(skipped, images, ["0", "1", "2"])
    assert whole.trainability == pytest.approx(block_scores(maps, images).trainability, abs=0.2)


def test_sizes_by_hand():
    assert params(small()) == 3 * 5 * 9 + 5 + 5 * 4 + 4
    assert macs(small(), images_of(3)) == 16 * (3 * 5 * 9 + 5 * 4)


@pytest.mark.parametrize(
    "name",
    [
        "torchvision/mobilenet_v3_small",
        "torchvision/googlenet",
        "segmentation/lraspp_mobilenet_v3_large",
        "detection/fcos_mobilenet_v2_fpn",
        "own/unet",
        "own/yolo",
    ],
)
def test_networks_of_all_kinds_have_all_scores(name):
    torch.manual_seed(0)
    network, images = ZOO[name]().eval(), images_of(4, 64)
    for parameter in list(network.parameters())[:3]:
        parameter.requires_grad_(False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    flags = [(module.training) for module in network.modules()], [p.requires_grad for p in network.parameters()]
    found = {score: zero_cost(score, network, images) for score in SCORES}
    assert all(math.isfinite(value) for values in found.values() for value in values), found
    if name == "own/yolo":
        assert found == {score: zero_cost(score, network, images) for score in SCORES}
    assert flags == ([module.training for module in network.modules()], [p.requires_grad for p in network.parameters()])
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    with torch.no_grad():
        assert tensors(without_detection(network)(images))


class OneWay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()


class Rounded(nn.Module):
    """An operator through which no gradient flows."""

    def forward(self, x):
        return OneWay.apply(x)


class Single(nn.Module):
    """An operator of one precision: its matrix is no parameter."""

    def __init__(self):
        super().__init__()
        self.matrix = [torch.ones(4, 4)]

    def forward(self, x):
        return x @ self.matrix[0]


class Cut(nn.Module):
    """Hands on its input without its gradient."""

    def forward(self, x):
        return x.detach()


@pytest.mark.parametrize("score", ["zico", "az_nas"])
def test_what_has_no_gradient_is_named(score):
    first, last = nn.Sequential(Rounded(), nn.Conv2d(4, 4, 1)), nn.Sequential(nn.Conv2d(4, 4, 1), Rounded())
    for inner, place in ((first, "2.0"), (last, "2.1")):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), inner, nn.Conv2d(4, 4, 1))
        with pytest.raises(ValueError, match=rf"`{score}` cannot run module '{place}' \(Rounded\): .*backward"):
            zero_cost(score, network, images_of(4))


def test_what_cannot_run_is_named():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), Single()))
    assert math.isfinite(naswot(network, images_of(3)))
    with pytest.raises(ValueError, match=r"^`synflow` cannot run module '1.1' \(Single\): [^\n]*\.$"):
        synflow(network, images_of(1))


def test_what_gradients_do_not_reach_is_named():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), Cut(), nn.Conv2d(4, 4, 1))
    with pytest.raises(ValueError, match="`zico` needs gradients, and none reaches module '0'"):
        zico(network, images_of(4))


@pytest.mark.parametrize(
    ("score", "network", "images", "said"),
    [
        ("naswot", nn.Conv2d(3, 4, 1), images_of(3), "`naswot` reads activations; Conv2d runs none that it knows"),
        ("swap", small(), images_of(1), r"`swap` takes images of .* 2 or more; got the shape \(1, 3, 6, 6\)"),
        ("zico", small(), images_of(3), r"`zico` takes images of .* 4 or more; got the shape \(3, 3, 6, 6\)"),
        ("zen", small(), images_of(3), "There is no score 'zen'; there are: naswot, swap, synflow"),
        ("synflow", of_maps(torch.zeros(2, 3)), images_of(1), "`synflow` is no finite number above 0 for Sequential"),
        ("naswot", small(), images_of(3)[:, :1], r"`naswot` cannot run module 'first' \(Conv2d\): "),
    ],
)
def test_bad_input_is_refused(score, network, images, said):
    with pytest.raises(ValueError, match=said):
        zero_cost(score, network, images)

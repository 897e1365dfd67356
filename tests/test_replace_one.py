"""What one option alone does: the shortcuts behind `option_errors` give what running the whole network gives."""

from copy import deepcopy

import pytest
import torch
import zoo
from torch import nn
from torch.nn import functional
from torchvision.models import mobilenet_v2

from lightning_nas.graph.detector import without_detection
from lightning_nas.graph.eval_mode import evaluating
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import derive, recalibrate, refit, sort_channels, space_of, supernet_from
from lightning_nas.supernet.cached_run import CachedRun
from lightning_nas.supernet.last_layers import last_layers
from lightning_nas.supernet.option_errors import OptionErrors, OptionTrials, replace_one
from lightning_nas.supernet.refit import FittedBlock, refit_block
from lightning_nas.supernet.source_judge import FITTED_PART, SourceJudge

NETWORKS = ("own/unet", "own/yolo", "segmentation/lraspp_mobilenet_v3_large", "timm/mobilenetv4_conv_small", "own/vgg")


def smooth(count, size=48):
    """Return images; what follows pixels of noise can be learnt by nobody."""
    return functional.interpolate(torch.randn(count, 3, 8, 8), size=size, mode="bilinear")


def supernet_of(network, images, **options):
    # On what blocks are fitted by, so that norms in front of a change would not move if they were made anew.
    recalibrate(network.eval(), without_detection(network), [images[: round(FITTED_PART * len(images))]])
    space = space_of(network, images[:1], lanes=8, options=SpaceOptions(**options))
    supernet = supernet_from(network, images[:1], space)
    sort_channels(supernet)
    return supernet


def given_by(network, images, layers):
    """Return what the last layers give, of one behind pooling at each position of what is pooled."""
    found = {layer: [] for layer in layers}
    handles = [
        network.get_submodule(layer.pooled or layer.path).register_forward_hook(lambda *now, to=to: to.append(now[2]))
        for layer, to in found.items()
    ]
    with evaluating(network):
        without_detection(network)(images)
    for handle in handles:
        handle.remove()
    pairs = [(layer, output) for layer, outputs in found.items() for output in outputs]
    weights = {layer: network.get_submodule(layer.path).weight for layer in layers if layer.pooled}
    return [o if not one.pooled else torch.einsum("nchw,kc->nkhw", o, weights[one]) for one, o in pairs]


def input_of(network, path, images):
    inputs = []
    handle = network.get_submodule(path).register_forward_pre_hook(lambda _, x: inputs.append(x[0].clone()))
    with evaluating(network):
        without_detection(network)(images)
    handle.remove()
    return inputs[0]


def error_of(subnet, source, images, layers):
    """Return the error by its definition."""
    found = []
    for one, goal in zip(given_by(subnet, images, layers), given_by(source, images, layers), strict=True):
        rows = goal.transpose(0, 1).flatten(1)
        found.append((one - goal).square().sum() / (rows - rows.mean(1, keepdim=True)).square().sum())
    return float(torch.stack(found).mean())


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_not_run_again_changes_nothing(name):
    torch.manual_seed(0)
    network, example = zoo.build(name)
    images = smooth(12, example.shape[-1])
    supernet = supernet_of(
        network, images, ratios=(0.5, 1.0), kinds=("ibn", "fused", "skip"), expansions=(2,), kernels=(3,)
    )
    space = supernet.supernet.space
    trials = OptionTrials(SourceJudge(supernet, images), space.reference_encoding)
    source = derive(supernet, space.reference_encoding)
    count = round(FITTED_PART * len(images))
    fitted, judged = (part.contiguous(memory_format=torch.channels_last) for part in (images[:count], images[count:]))
    layers, reference = last_layers(source, images), space.reference_encoding
    assert len(trials) == sum(space.node_sizes) - len(space.node_sizes)
    nodes = range(len(space.node_sizes))
    tried = [*nodes[:2], *nodes[len(space.multipliers) :][:3], nodes[-1]]
    for node in tried:
        option = 0 if reference[node] else space.node_sizes[node] - 1
        if option == reference[node]:
            continue
        encoding = (*reference[:node], option, *reference[node + 1 :])
        subnet = derive(supernet, encoding)
        choice = None if node < len(space.multipliers) else space.choices[node - len(space.multipliers)]
        if choice is None or not choice.module:
            refit(subnet, source, fitted)
        elif choice.block is not None and choice.options[option].kind != "skip":
            taken = input_of(source, choice.module, fitted)
            refit_block(subnet, source, choice.module, FittedBlock(choice.block, choice.residual), taken)
        *tried_alone, found, _ = trials[trials.tried.index((node, option))]
        assert tried_alone == [node, option]
        assert found == pytest.approx(error_of(subnet, source, judged, layers), rel=5e-2, abs=1e-5), node


@pytest.fixture(scope="module")
def shallow():
    torch.manual_seed(0)
    images = smooth(48)
    network = mobilenet_v2(num_classes=4, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 1]])
    return supernet_of(network, images, ratios=(0.5, 1.0), kernels=(3,), expansions=(2, 3, 6)), images


def test_options_are_put_into_what_an_earlier_round_found(shallow):
    supernet, images = shallow
    space = supernet.supernet.space
    start = tuple(0 for _ in space.node_sizes)
    found = replace_one(SourceJudge(supernet, images), start)
    first = replace_one(SourceJudge(supernet, images))
    assert isinstance(found, OptionErrors)
    own = float(found.distances[0][start[0]])
    assert all(float(row[option]) == pytest.approx(own) for row, option in zip(found.distances, start, strict=True))
    assert own > max(float(row.max()) for row in first.distances)


def test_every_option_has_an_error_and_the_source_none(shallow):
    supernet, images = shallow
    drawn = torch.get_rng_state()
    space, found = supernet.supernet.space, replace_one(SourceJudge(supernet, images)).distances
    assert torch.equal(torch.get_rng_state(), drawn)  # what is trained behind it is as without
    assert [len(row) for row in found] == list(space.node_sizes)
    for row, own in zip(found, space.reference_encoding, strict=True):
        assert row[own] == 0
        assert (row >= 0).all()


def test_classes_are_compared_where_the_network_gives_classes(shallow):
    supernet, images = shallow
    found = replace_one(SourceJudge(supernet, images))
    assert all((row >= -1e-6).all() for row in found.divergences)
    assert max(float(row.max()) for row in found.divergences) > 1e-4
    detector, _ = zoo.build("own/yolo")
    images = smooth(6, 64)
    supernet = supernet_of(detector, images, ratios=(0.5, 1.0), kinds=("ibn",), expansions=(2,), kernels=(3,))
    assert replace_one(SourceJudge(supernet, images)).divergences is None


def test_too_few_images_are_refused(shallow):
    supernet, images = shallow
    with pytest.raises(ValueError, match="`images` must be 2 or more"):
        SourceJudge(supernet, images[:1])


class InPlace(nn.Module):
    """Adds to what a module gave, in place."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Conv2d(8, 2, 1),
        )

    def forward(self, x):
        x = self.first(x)
        x += self.second(x)
        return self.last(x)


def test_a_network_that_works_in_place_gives_the_same_each_time():
    network, images = InPlace().eval(), torch.rand(4, 3, 8, 8)
    with torch.no_grad():
        goal = network(images)
    run = CachedRun(network, [images])
    assert set(run.skipped(["second"])) == {"first"}
    for _ in range(3):
        with torch.no_grad(), run.resumed(network, ["second"], 0):
            assert torch.equal(network(images), goal)
    # Nothing is left behind.
    other = deepcopy(network)
    nn.init.zeros_(other.first.weight)
    with torch.no_grad():
        assert not torch.equal(other(images), goal)


def test_modules_that_run_twice_run_again():
    network = nn.Sequential(shared := nn.Conv2d(4, 4, 1), nn.ReLU(), shared, nn.Conv2d(4, 2, 1)).eval()
    run = CachedRun(network, [torch.rand(2, 4, 4, 4)])
    assert run.skipped(["3"]) == []

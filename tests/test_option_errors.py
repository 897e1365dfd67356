import pytest
import torch
from limits import limits_of
from searches import training_of
from torchvision.models import mobilenet_v2

from lightning_nas.budget.budget import Budget
from lightning_nas.search.engine import Search
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import derive, option_errors, recalibrate, refit, sort_channels, space_of, supernet_from

SHALLOW = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 1]]


@pytest.fixture(scope="module")
def setting():
    """A supernet of a network whose norms have seen the images, the images, and the errors."""
    torch.manual_seed(0)
    # Smooth images: what follows pixels of noise can be learnt by nobody.
    images = torch.nn.functional.interpolate(torch.randn(96, 3, 8, 8), size=48, mode="bilinear")
    network = mobilenet_v2(num_classes=4, inverted_residual_setting=SHALLOW)
    recalibrate(network.eval(), network, [images])
    space = space_of(network, images[:2], options=SpaceOptions(kernels=(3,), expansions=(2, 3, 6), ratios=(0.5, 1.0)))
    supernet = supernet_from(network, images[:2], space)
    sort_channels(supernet)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    errors = option_errors(supernet, images)
    assert all(torch.equal(before[name], value) for name, value in supernet.state_dict().items())
    return supernet, images, errors


def test_the_source_itself_has_no_error_and_others_have(setting) -> None:
    supernet, _, errors = setting
    space = supernet.supernet.space
    assert [len(error) for error in errors] == list(space.node_sizes)
    for error, reference in zip(errors, space.reference_encoding, strict=True):
        assert error[reference] < 1e-3
        assert (error[torch.arange(len(error)) != reference] > 0.005).all()


def test_fewer_hidden_channels_are_farther_away(setting) -> None:
    supernet, _, errors = setting
    space = supernet.supernet.space
    for choice, error in zip(space.choices, errors[len(space.multipliers) :], strict=True):
        for kind in {option.kind for option in choice.options}:
            found = [(o.expansion, float(e)) for o, e in zip(choice.options, error, strict=True) if o.kind == kind]
            by_width = [value for _, value in sorted(found)]
            assert by_width == sorted(by_width, reverse=True)


def test_networks_of_small_errors_are_near_when_refitted_whole(setting) -> None:
    supernet, images, errors = setting
    space = supernet.supernet.space
    teacher = derive(supernet, space.reference_encoding)
    widths = space.reference_encoding[: len(space.multipliers)]
    distances = []
    for pick in (torch.argmax, lambda error: error.argsort()[1 % len(error)]):
        nodes = (*widths, *(int(pick(error)) for error in errors[len(space.multipliers) :]))
        subnet = derive(supernet, nodes)
        refit(subnet, teacher, images)
        with torch.no_grad():
            distances.append(float((subnet.eval().features(images) - teacher.eval().features(images)).square().mean()))
    assert distances[1] < 0.7 * distances[0]


def test_the_prior_follows_the_errors_it_is_given(setting, estimator) -> None:
    supernet, _, errors = setting
    handle = supernet.supernet
    limits = limits_of(handle.space, estimator, Budget(latency="0.8x"))
    search = Search(handle, limits, training_of(prior=2.0), errors)
    for logits, error in zip(search.logits, errors, strict=True):
        assert logits.detach().argsort().tolist() == error.argsort(descending=True).tolist()
    blocks = [logits.detach() for logits in search.logits][len(handle.space.multipliers) :]
    spread = torch.stack([block.max() - block.min() for block in blocks]).mean()
    assert float(spread) == pytest.approx(2.0)
    assert search.candidates(1) == [search.best()]
    found = search.candidates(3)
    # The prior's own best, and one that spends a percent less should the first turn out to be over.
    costs = [limits.costs[0].table.exact(nodes) / limits.costs[0].budget for nodes in found]
    assert max(costs) <= 1
    assert min(costs) <= 0.99

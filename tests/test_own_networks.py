"""Networks as their users write them, in which something was once wrong."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_nas import Estimator, derive, space_of, supernet_from
from lightning_nas.supernet.subnet import architecture_of

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Hidden(nn.Module):
    """A branch that channels are rolled in, and whose scale is zero at first, as in ReZero."""

    def __init__(self, scale):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(n, 32, 3, padding=1) for n in (3, 32, 32))
        self.scale, self.head = nn.Parameter(torch.tensor(scale)), nn.Linear(32, 4)

    def forward(self, x):
        x = functional.relu(self.a(x))
        x = x + self.scale * self.c(functional.relu(self.b(x)).roll(1, 1))
        return self.head(x.mean((2, 3)))


class Halves(nn.Module):
    """Half of a convolution's channels pass another one: no parameter has the channels of the other half alone."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 64, 3), nn.Conv2d(32, 32, 3, padding=1), nn.Linear(64, 4)

    def forward(self, x):
        x = functional.relu(self.a(x))
        x = torch.cat([functional.relu(self.b(x[:, :32])), x[:, 32:]], 1)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0])
def test_a_branch_that_weights_hide_is_checked(scale):
    left_out = {left.path: left.reason for left in space_of(Hidden(scale), IMAGES).left_out}
    assert left_out["b"] == "a narrower network computes something else"
    assert "a" not in left_out


def test_widths_without_a_parameter_of_their_own_are_read_back():
    network = supernet_from(Halves().eval(), IMAGES)
    space = network.supernet.space
    assert [multiplier.name for multiplier in space.multipliers] == ["a[1]", "b"]
    for encoding in ((0, 0), (0, 2), (1, 0), (2, 1)):
        assert architecture_of(derive(network, encoding), network.supernet) == space.decode(encoding)


def test_a_parameter_for_each_channel_of_an_activation_is_narrowed():
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.PReLU(32), nn.Conv2d(32, 4, 1))
    network = supernet_from(net, IMAGES)
    assert derive(network, (0,))[2].weight.shape == (16,)


@pytest.mark.parametrize(
    ("net", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), "'0' .it is an output of the network"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten()), "Nothing of this Sequential"),
    ],
)
def test_a_network_in_which_nothing_can_be_chosen_is_refused(net, reason):
    before = [type(module) for module in net.modules()]
    with pytest.raises(ValueError, match=reason):
        supernet_from(net, IMAGES)
    assert [type(module) for module in net.modules()] == before


def test_what_a_compiler_does_not_know_is_said_once_and_estimated(caplog):
    estimator = Estimator.load("ethos_u85_1024", fallback="bytes")

    class Refusing:
        def measure_network(self, network):
            raise ValueError("Module 'norm' runs 'group_norm', which TFLite has not in int8.")

    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.GroupNorm(1, 32), nn.Conv2d(32, 4, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lightning_nas.estimator.estimator.available_backend", lambda device: Refusing())
        assert [estimator.verify_ms(net, IMAGES) for _ in range(2)] == [None, None]
        assert caplog.text.count("their estimates count: Module 'norm' runs 'group_norm'") == 1
        with pytest.raises(ValueError, match="group_norm"):
            Estimator.load("ethos_u85_1024").verify_ms(net[:1], IMAGES)

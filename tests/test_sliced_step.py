"""An optimizer's step on slices: what was not trained neither decays nor moves, and slices step as if alone."""

import pytest
import torch
from conftest import read_by
from torch.nn import functional

from lightning_nas.supernet import derive
from lightning_nas.supernet.sliced_step import SlicedStep

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
    "nesterov": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, 0.01, weight_decay=0.5),
    "amsgrad": lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "foreach": lambda p: torch.optim.AdamW(p, 0.01, foreach=True),
}


@pytest.fixture
def targets():
    return torch.arange(8) % 4


def train(network, optimizer, images, targets, steps=3):
    for _ in range(steps):
        functional.cross_entropy(network(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()


def paths(space):
    narrow = tuple(0 for _ in space.node_sizes)
    return space.reference_encoding, narrow


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_path_steps_as_the_subnet_alone_does(supernet, images, targets, name):
    """The supernet's slice after some steps is what the plain subnet's weights are after the same steps."""
    # A bias in front of a norm has no gradient but rounding, of which Adam makes whole steps in single precision.
    supernet, images = supernet.double(), images.double()
    handle = supernet.supernet
    _, narrow = paths(handle.space)
    handle.use_batch_statistics(True)
    alone = derive(supernet, narrow).train()
    train(alone, OPTIMIZERS[name](alone.parameters()), images, targets)
    optimizer = OPTIMIZERS[name](supernet.parameters())
    SlicedStep(supernet).attach([optimizer])
    handle.activate(narrow)
    train(supernet, optimizer, images, targets)
    again = derive(supernet, narrow)
    for (name, p), q in zip(again.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_what_was_not_sampled_keeps_its_weights_and_its_state(supernet, images, targets, name):
    handle = supernet.supernet
    full, narrow = paths(handle.space)
    optimizer = OPTIMIZERS[name](supernet.parameters())
    sliced = SlicedStep(supernet)
    sliced.attach([optimizer])
    # All of it gets momentum first.
    handle.activate(full)
    train(supernet, optimizer, images, targets)
    weights = {n: p.detach().clone() for n, p in supernet.named_parameters()}
    states = {
        n: {k: v.clone() for k, v in optimizer.state[p].items() if torch.is_tensor(v) and v.ndim}
        for n, p in supernet.named_parameters()
        if p in optimizer.state
    }
    handle.activate(narrow)
    train(supernet, optimizer, images, targets)
    changed = unchanged = 0
    reached = read_by(supernet, narrow)
    for n, p in supernet.named_parameters():
        outside = ~reached[n]
        assert p.shape == weights[n].shape
        assert torch.equal(p.detach()[outside], weights[n][outside]), n
        changed += int((p.detach() != weights[n]).sum())
        unchanged += int(outside.sum())
        for key, before in states.get(n, {}).items():
            assert optimizer.state[p][key].shape == p.shape
            assert torch.equal(optimizer.state[p][key][outside], before[outside]), (n, key)
    assert changed > 1000
    assert unchanged > 1000


def test_without_it_weight_decay_eats_what_is_not_sampled(supernet, images, targets):
    handle = supernet.supernet
    _, narrow = paths(handle.space)
    handle.activate(narrow)
    weight = dict(supernet.named_parameters())["features.2.conv.0.0.weight"]
    before = weight.detach().clone()
    optimizer = torch.optim.SGD(supernet.parameters(), 0.1, weight_decay=0.1)
    train(supernet, optimizer, images, targets)
    assert not torch.equal(weight[-1], before[-1])


def test_optimizers_that_do_not_work_entry_by_entry_are_left_alone(supernet, images, targets):
    parameters = list(supernet.parameters())

    class Mine(torch.optim.SGD):
        pass

    others = (torch.optim.LBFGS(parameters), Mine(parameters, 0.1), torch.optim.AdamW(parameters, fused=True))
    assert not any(SlicedStep.suits(optimizer) for optimizer in others)
    sliced = SlicedStep(supernet)
    sliced.attach(others)
    supernet.supernet.activate(paths(supernet.supernet.space)[1])
    train(supernet, others[1], images, targets, steps=1)
    assert all(p.is_leaf for p in parameters)


def test_detached_it_does_nothing(supernet, images, targets):
    optimizer = torch.optim.SGD(supernet.parameters(), 0.1, weight_decay=0.1)
    sliced = SlicedStep(supernet)
    sliced.attach([optimizer])
    sliced.detach()
    handle = supernet.supernet
    handle.activate(paths(handle.space)[1])
    head = dict(supernet.named_parameters())["classifier.1.weight"]
    before = head.detach().clone()
    train(supernet, optimizer, images, targets, steps=1)
    assert not torch.equal(head[:, -1], before[:, -1])

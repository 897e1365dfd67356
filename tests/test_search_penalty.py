import itertools

import numpy as np
import pytest
import torch

from lightning_nas.budget.cost_table import CostTable, Factor
from lightning_nas.budget.sampling import draw, draw_near, narrowest
from lightning_nas.budget.solver import Limit
from lightning_nas.search.multipliers import Multipliers
from lightning_nas.search.penalty import augmented_lagrangian, entropy, leave_one_out, policy_loss, relative_excess
from lightning_nas.search.rewards import MAX_UNUSABLE, Rewards
from lightning_nas.search.strategy import Rloo, Tunas


def test_policy_gradient_is_unbiased():
    logits = [torch.tensor([0.3, -0.2], requires_grad=True), torch.tensor([0.1, 0.0, -0.4], requires_grad=True)]
    losses = {nodes: 0.5 * nodes[0] + 0.2 * nodes[1] ** 2 for nodes in itertools.product(range(2), range(3))}
    probabilities = [row.softmax(0) for row in logits]
    mean = sum(losses[n] * probabilities[0][n[0]] * probabilities[1][n[1]] for n in losses)
    exact = torch.autograd.grad(mean, logits)
    total = [torch.zeros_like(row) for row in logits]
    for first, second in itertools.product(losses, losses):
        probabilities = [row.softmax(0) for row in logits]
        chance = torch.stack([p[i] for n in (first, second) for p, i in zip(probabilities, n, strict=True)]).prod()
        surrogate = policy_loss(probabilities, [first, second], torch.tensor([losses[first], losses[second]]))
        for sum_, gradient in zip(total, torch.autograd.grad(surrogate, logits), strict=True):
            sum_ += chance.detach() * gradient
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(total, exact, strict=True))


def test_difficulty_of_the_batch_cancels():
    losses = torch.tensor([0.2, 0.5, 0.9])
    assert torch.allclose(leave_one_out(losses), leave_one_out(losses + 7.0), atol=1e-5)


def test_augmented_lagrangian_holds_the_expectation_at_the_budget():
    costs = torch.tensor([1.0, 2.0, 4.0])
    values = torch.tensor([-0.1, -0.2, -0.4])  # the dearest is the best: only the penalty holds it back
    for budget in (1.5, 2.0, 3.0):
        logits = torch.zeros(3, requires_grad=True)
        optimizer = torch.optim.Adam([logits], 0.05, betas=(0.5, 0.999))
        multiplier = 0.0
        for _ in range(600):
            probabilities = logits.softmax(0)
            excess = relative_excess((probabilities * costs).sum(), budget)
            loss = (probabilities * values).sum() + augmented_lagrangian(excess, multiplier, rho=5.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            multiplier += 0.05 * float(excess.detach())
        assert abs(float(excess.detach())) < 0.02


def test_entropy_is_normalised_and_ignores_single_options():
    assert float(entropy([torch.tensor([0.5, 0.5]), torch.ones(1)])) == pytest.approx(1.0)
    assert float(entropy([torch.tensor([1.0, 0.0])])) == pytest.approx(0.0)
    assert float(entropy([torch.ones(1)])) == 0.0


def test_draws_follow_the_probabilities_and_the_generator():
    probabilities = [torch.tensor([0.1, 0.9]), torch.tensor([1.0])]
    drawn = [draw(probabilities, torch.Generator().manual_seed(s)) for s in range(200)]
    assert 0.8 < sum(nodes[0] for nodes in drawn) / 200 < 1.0
    assert drawn == [draw(probabilities, torch.Generator().manual_seed(s)) for s in range(200)]


def test_paths_are_drawn_from_the_band(supernet, estimator):
    from lightning_nas.budget.cost_table import cost_table

    space = supernet.supernet.space
    table = cost_table(space, estimator.predict_ms)
    budget = 0.6 * table.exact(space.reference_encoding)
    generator = torch.Generator().manual_seed(0)
    ratios = [table.exact(draw_near(table, budget, (0.7, 1.3), generator)) / budget for _ in range(50)]
    assert all(0.7 <= ratio <= 1.3 for ratio in ratios)
    smallest = space.decode(narrowest(space))
    assert {str(option) for _, option in smallest.blocks} == {"ds e1 k3", "ibn e2 k3"}


def limit(budget):
    return Limit(CostTable((Factor((0,), np.array([2.0, 4.0])),), (2,)), budget)


def test_each_multiplier_follows_its_own_budget():
    even = [torch.tensor([0.5, 0.5], requires_grad=True)]
    multipliers = Multipliers([limit(2.0), limit(4.0)], Rloo(rho=0.0, eta=0.1))
    for _ in range(2):
        multipliers.update(even)
    # The expected cost is 3.
    assert multipliers.values == pytest.approx([2 * 0.1 * (3 / 2 - 1), 2 * 0.1 * (3 / 4 - 1)])
    penalty = multipliers.penalty(even)
    assert float(penalty.detach()) == pytest.approx(0.1 * (3 / 2 - 1) - 0.05 * (3 / 4 - 1))
    (gradient,) = torch.autograd.grad(penalty, even)
    assert gradient.tolist() == pytest.approx([2 * (0.1 / 2 - 0.05 / 4), 4 * (0.1 / 2 - 0.05 / 4)])


def test_no_penalty_without_budgets_or_with_the_cost_in_the_reward():
    even = [torch.tensor([0.5, 0.5])]
    for multipliers in (Multipliers([], Rloo()), Multipliers([limit(1.0)], Tunas())):
        multipliers.update(even)
        assert float(multipliers.penalty(even)) == 0


def test_usable_losses_end_a_row_of_others():
    rewards, good, bad = Rewards([], Rloo()), torch.ones(2), torch.tensor([1.0, float("inf")])
    for _ in range(MAX_UNUSABLE - 1):
        assert not rewards.is_usable(bad)
    assert rewards.is_usable(good)
    assert not rewards.is_usable(bad)
    assert rewards.num_skipped == MAX_UNUSABLE

"""The parts of the source's weights that options keep, and the smallest and widest members."""

import math

import numpy as np
import pytest
import torch
from spaces import space_around, space_of_zoo
from torchvision.models import MobileNetV2

from lightning_nas.budget.removal import describe_removed
from lightning_nas.budget.sampling import ends_of, kept_weights, narrowest, nearness
from lightning_nas.space.architecture import subgraphs
from lightning_nas.space.options import SpaceOptions

SETTING = [[1, 8, 1, 1], [4, 16, 2, 2], [4, 24, 2, 2]]


@pytest.fixture(scope="module")
def space():
    network = MobileNetV2(num_classes=4, inverted_residual_setting=SETTING, dropout=0.0).eval()
    options = SpaceOptions(ratios=(0.5, 1.0), kinds=("ibn", "fused", "skip"))
    return space_around(network, torch.zeros(1, 3, 32, 32), options=options)


def weights(member):
    return sum(part.parameter_bytes for part in subgraphs(member))


def test_scores_are_logs_of_the_kept_weights(space):
    scores = kept_weights(space)
    assert [len(score) for score in scores] == list(space.node_sizes)
    assert all(float(score.max()) == 0 and torch.isfinite(score).all() for score in scores)
    source = space.reference_encoding
    assert all(float(score[node]) == 0 for score, node in zip(scores, source, strict=True))
    # The source's 24 channels are written by one block, read and written by the next one, and read by the head: each
    # of the two between keeps a half and a fourth of its weights, or a little more for its biases and depthwise ones.
    (node,) = (n for n, m in enumerate(space.multipliers) if space.network.sizes[m.groups[0]] == 24)
    kept = space.multipliers[node].widths[0][0] / 24
    assert 3.5 * math.log(kept) < float(scores[node][0]) < 2.5 * math.log(kept)


def test_blocks_are_scored_by_their_expansions(space):
    scores = kept_weights(space)[len(space.multipliers) :]
    full = weights(space.decode(space.reference_encoding))
    for choice, row in zip(space.choices, scores, strict=True):
        for option, score in zip(choice.options, row.tolist(), strict=True):
            if option.kind == "skip":
                without = list(space.reference_encoding)
                without[len(space.multipliers) + space.choices.index(choice)] = choice.options.index(option)
                left_out = full - weights(space.decode(without))
                assert score == pytest.approx(math.log(left_out / full), rel=1e-3)
            else:
                assert score == pytest.approx(math.log(option.expansion / choice.own.expansion), abs=1e-6)


def test_the_narrowest_has_fewest_weights(space):
    smallest, draws = weights(space.decode(narrowest(space))), np.random.default_rng(0)
    for _ in range(20):
        assert smallest <= weights(space.decode([int(draws.integers(n)) for n in space.node_sizes]))
    possible = [np.ones(size, dtype=bool) for size in space.node_sizes]
    possible[0][0] = False
    assert narrowest(space, possible)[0] == 1


def test_ends_have_one_option_of_each_kind(space):
    possible = [np.ones(size, dtype=bool) for size in space.node_sizes]
    count = len(space.multipliers)
    for widest in (True, False):
        ends = ends_of(space, widest, possible)
        assert all(row.sum() == 1 and row[-1 if widest else 0] for row in ends[:count])
        for choice, row in zip(space.choices, ends[count:], strict=True):
            kinds = [option.kind for option, here in zip(choice.options, row, strict=True) if here]
            assert sorted(kinds) == sorted({option.kind for option in choice.options})


def test_nearness_of_a_space_without_blocks():
    space = space_of_zoo("own/vgg", kinds=(), only=("features.0",))
    errors = [torch.tensor([0.3, 0.2, 0.1])]
    assert torch.allclose(nearness(space, errors)[0], torch.tensor([-1.0, -0.5, 0.0]))
    assert nearness(space, []) == []


def test_what_was_removed_is_named(space):
    possible = [np.ones(size, dtype=bool) for size in space.node_sizes]
    possible[0][0] = possible[-1][-1] = False
    first, last = describe_removed(space, possible)
    assert first == f"{space.multipliers[0]}: width {space.multipliers[0].widths[0][0]}"
    assert last == f"{space.choices[-1]}: {space.choices[-1].options[-1]}"

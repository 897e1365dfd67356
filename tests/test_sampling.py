"""What is drawn to be measured, and that it stays what the shipped tables hold."""

import hashlib
import random

import pytest

from lightning_nas.estimator.measure.sampling.chain_networks import Block, chain_parts, sample_chain
from lightning_nas.estimator.measure.sampling.random_blocks import sample_varied_subgraphs
from lightning_nas.estimator.measure.sampling.random_networks import CORRECTING, JUDGING, subnets
from lightning_nas.estimator.measure.sampling.sample import plan_subgraphs, sample_subgraphs
from lightning_nas.graph.decompose import split


def digest(parts):
    text = "\n".join(f"{part} {part.residual}" for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# Tables name no seeds: rows that are not drawn again are lost.
@pytest.mark.parametrize(
    ("draw", "expected"),
    [
        (lambda: sample_subgraphs(0, 500), "ed9d5f3d129cd34b"),
        (lambda: sample_subgraphs(20_000, 500), "97caeb717be3b647"),
        (lambda: plan_subgraphs(0, 240), "6c5cca168671a0e4"),
        (lambda: sample_varied_subgraphs(0, 300), "802261e2cdf07260"),
    ],
    ids=["chains", "judging", "plan", "varied"],
)
def test_the_same_is_drawn_as_for_the_shipped_tables(draw, expected):
    assert digest(draw()) == expected


@pytest.mark.parametrize(
    ("seed", "expected", "text"),
    [(JUDGING, "8451fe3b1f71c1e4", "219d0cdd14f3b092"), (CORRECTING, "1c9d96a3bc39fc48", "0171a0af2e077797")],
)
def test_estimators_are_judged_and_corrected_by_the_same_subnets(seed, expected, text):
    found = list(subnets(16, seed, 12))
    assert digest([part for _, network in found[:6] for part in split(network)]) == expected
    # What was measured is found again by this text, see `measure_networks`.
    assert hashlib.sha256("".join(name + repr(network) for name, network in found).encode()).hexdigest()[:16] == text


def test_networks_are_drawn_one_after_the_other():
    rng = random.Random(0)
    networks = [sample_chain(rng) for _ in range(200)]
    assert len({tuple(parts) for parts in networks}) == 200
    # With and without a classifier or a head; square or not; with colours or not.
    assert {parts[-1].kind for parts in networks} >= {"head", "classifier", "conv"}
    assert {parts[0].in_channels for parts in networks} == {1, 3}
    assert {parts[0].stride for parts in networks} == {1, 2}
    assert any(parts[0].height != parts[0].width for parts in networks)


@pytest.mark.parametrize(
    ("head_width", "num_classes", "expected"),
    [
        (64, 10, ["head 4x4 24->64->10 k1 s1"]),
        (64, 0, ["conv 4x4 24->64->64 k1 s1"]),
        (None, 10, ["classifier 4x4 24->24->10 k1 s1"]),
        (None, 0, []),
    ],
)
def test_what_stands_behind_the_blocks(head_width, num_classes, expected):
    stages = [[Block("ds", 1, 3, 1, 16)], [Block("ibn", 6, 5, 2, 24), Block("fused", 4, 3, 1, 24)]]
    parts = chain_parts((3, 16, 16), (8, 2), stages, head_width, num_classes)
    blocks = ["ds 8x8 8->8->16 k3 s1", "ibn 8x8 16->96->24 k5 s2", "fused 4x4 24->96->24 k3 s1"]
    assert [str(part) for part in parts] == ["stem 16x16 3->8->8 k3 s2", *blocks, *expected]
    assert [part.residual for part in parts[:4]] == [False, False, False, True]
    assert [part.path for part in parts[:4]] == ["stem", "stages.0.0", "stages.1.0", "stages.1.1"]

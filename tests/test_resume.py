"""A training that is stopped and resumed is the uninterrupted one, bit by bit, whatever it draws at random."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from noisy_training import STOPS, trained

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


def assert_same(one, other):
    (weights, figures, log), (other_weights, other_figures, other_log) = one, other
    different = [name for name, value in weights.items() if not torch.equal(value, other_weights[name])]
    assert not different
    assert figures == other_figures
    assert log == other_log


@pytest.fixture(scope="module", params=[0, 2])
def whole(request, tmp_path_factory):
    return request.param, trained(tmp_path_factory.mktemp("whole"), num_workers=request.param)


@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, whole, stop):
    num_workers, expected = whole
    assert_same(trained(tmp_path, stop, num_workers), expected)


def test_a_finished_training_that_is_repeated_keeps_its_log(tmp_path, whole):
    num_workers, expected = whole
    for _ in range(2):
        assert_same(trained(tmp_path, None, num_workers), expected)
    assert expected[2].count("\n") == 1 + 3 * 8 + 3 + 1  # header, steps, validations, test


def test_so_it_is_on_two_processes(tmp_path):
    script = Path(__file__).with_name("noisy_training.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        expected, *others = (
            torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for name in ("whole", *STOPS)
        )
        for other in others:
            assert_same(other, expected)

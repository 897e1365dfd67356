"""The search on two processes, equal to a loop in plain PyTorch and alike in what both decide."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from plain_loop import EPOCHS, fit, largest_difference, loader, plain_loop, plugin, searching
from torch.utils.data import DataLoader, DistributedSampler
from two_processes import ACCUMULATE, PRECISIONS, UNTRAINED, module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Search once on two processes, since they take long to start."""
    folder = tmp_path_factory.mktemp("two_processes")
    script = Path(__file__).with_name("two_processes.py")
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        # With more threads sums are added in another order; the seed is that of the order of split data.
        env={**os.environ, "OMP_NUM_THREADS": "1", "PL_GLOBAL_SEED": "0"},
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def found(folder, name):
    """Return what both processes wrote of a search, and the networks that they ended with."""
    rows = []
    for rank in range(2):
        lines = map(json.loads, (folder / f"{rank}.jsonl").read_text().splitlines())
        (row,) = (line for line in lines if line["name"] == name)
        rows.append(row)
    networks = []
    for path in sorted(folder.glob(f"{name}-?.pt")):
        networks.append(module().network)
        networks[-1].load_state_dict(torch.load(path, weights_only=True))
    return rows, networks


@functools.cache
def expected(precision, accumulate, seeds=(1, 2)):
    _, context, scaler = plugin(precision)
    return plain_loop(module().network, context, scaler, accumulate, [list(loader(seed)) for seed in seeds])


@pytest.mark.parametrize("kind", ["straight", "resumed"])
@pytest.mark.parametrize("accumulate", ACCUMULATE)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_processes_equal_a_plain_loop(folder, precision, accumulate, kind):
    (first, second), networks = found(folder, f"{precision}-{accumulate}-{kind}")
    plain, logits = expected(precision, accumulate)
    assert [largest_difference(network, plain) <= 1e-6 for network in networks] == [True, True]
    # Weights and logits are the same bits, and so are the decisions: losses are means over both.
    assert largest_difference(*networks) == 0
    assert first == second
    assert first["within"]
    assert len(first["ranked"]) == 2
    assert first["steps"] == EPOCHS * len(loader()) // accumulate
    pairs = list(zip(logits, map(torch.tensor, first["logits"]), strict=True))
    assert max(float((row - found).detach().abs().max()) for row, found in pairs) <= 1e-6
    assert max(float(row.detach().abs().max()) for row in logits) > 0


def test_both_processes_teach():
    """With the first process's batches alone the weights would be others, or the tests above would show nothing."""
    assert largest_difference(expected("fp32", 4)[0], expected("fp32", 4, seeds=(1,))[0]) > 1e-3


def test_two_processes_on_the_same_batches_are_one(folder, tmp_path):
    (first, second), networks = found(folder, "same-batches")
    search, alone = searching(candidates=2), module()
    fit(alone, search, tmp_path)
    assert first == second
    assert max(largest_difference(alone.network, network) for network in networks) <= 1e-6
    assert first["ranked"] == [list(nodes) for nodes in search.state.progress.ranked]
    assert len(first["history"]) == len(search.history)


@pytest.mark.parametrize("name", UNTRAINED)
def test_what_is_searched_without_training_is_the_same_in_both_processes(folder, name):
    """Their images are not, and what images tell of single options differs."""
    (first, second), networks = found(folder, name)
    assert first == second
    assert first["within"]
    assert first["steps"] == 0
    assert largest_difference(*networks) == 0
    assert largest_difference(networks[0], module().network) > 0  # channels are sorted


class Half:
    """What Lightning gives one process of an epoch, in that epoch's order."""

    def __init__(self, rank):
        self.sampler, self.epoch = DistributedSampler(loader().dataset, num_replicas=2, rank=rank), -1

    def __len__(self):
        return len(self.sampler) // 8

    def __iter__(self):
        self.epoch += 1
        self.sampler.set_epoch(self.epoch)
        return iter(DataLoader(loader().dataset, batch_size=8, sampler=self.sampler))


def test_lightning_splits_the_data(folder):
    (first, second), networks = found(folder, "split-by-lightning")
    halves = [Half(rank) for rank in range(2)]
    plain, _ = plain_loop(module().network, *plugin("fp32")[1:], 1, halves)
    assert max(largest_difference(plain, network) for network in networks) <= 1e-6
    assert first == second
    assert first["steps"] == EPOCHS * len(halves[0])


@pytest.mark.parametrize(
    ("name", "reason", "hint"),
    [
        ("every-gradient", "A step of ArchitectureSearch trains one path", "ddp_find_unused_parameters_true"),
        ("synchronised", "does not support `sync_batchnorm=True`", "leave it out"),
    ],
)
def test_what_cannot_work_is_refused_in_both_processes(folder, name, reason, hint):
    rows, networks = found(folder, name)
    assert not networks
    for row in rows:
        assert reason in row["message"]
        assert hint in row["message"]

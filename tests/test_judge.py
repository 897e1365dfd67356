"""Judging by whole networks: what is measured once stays measured, and what is right is called right."""

import importlib
import itertools
import json

import numpy as np
import pytest
import timm
import torch
from torch import nn

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.fit import regressor, trees
from lightning_nas.estimator.fit.interval import ErrorQuantiles
from lightning_nas.estimator.judge import whole_networks
from lightning_nas.estimator.judge.correction import format_correction
from lightning_nas.estimator.judge.error import format_error
from lightning_nas.estimator.judge.granularity import best_granularity
from lightning_nas.estimator.judge.judge import judge
from lightning_nas.estimator.measure.backend import UnsupportedError
from lightning_nas.estimator.measure.campaign import measure
from lightning_nas.estimator.measure.sampling import random_networks as networks
from lightning_nas.estimator.measure.sampling import sample
from lightning_nas.estimator.measure.sampling.chain_networks import Block, chain_parts
from lightning_nas.estimator.measure.sampling.random_networks import CORRECTING, JUDGING, subnets
from lightning_nas.estimator.measure.whole import measure_networks
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.decompose import decompose, split
from lightning_nas.graph.network import Network
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.graph.trace import trace
from lightning_nas.space.curate import curated_widths


class Chip:
    """Takes for a network what its parts take, times a factor; a whole part saves what its kind says."""

    def __init__(self, device, factor=1.0, saves=(), alone=1.0):
        self.is_split, self.factor, self.saves, self.alone = device.is_split, factor, dict(saves), alone
        self.count = 0

    def part_ms(self, part):
        cost = sum(operator.macs * 1e-6 + 1e-3 for operator in part.operators)
        return cost * self.saves.get(part.kind, 1.0)

    def measure_subgraph(self, part):
        if not self.is_split:
            return {part: Figures(self.alone * self.part_ms(part))}
        return {piece: Figures(self.part_ms(piece)) for piece in part.operators}

    def measure_network(self, network):
        self.count += 1
        parts = split(network) if isinstance(network, Network) else network
        return Figures(self.factor * sum(map(self.part_ms, parts)))

    def versions(self):
        return {"chip": f"{self.factor} {self.saves} {self.alone}"}


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Make every device a formula, keep the cache apart, and judge by few networks."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1))

    def few(seed):
        return [(f"small@{size}", trace(model, torch.zeros(1, 3, size, size))) for size in (seed // 500, 64)]

    monkeypatch.setattr(whole_networks, "stock_networks", few)
    # Few trees alone: how well they are fitted is not what is tested here.
    monkeypatch.setattr(regressor, "_MAX_SMOOTH", 0)
    monkeypatch.setitem(trees._LARGER_STEPS, "max_iter", 40)

    def use(**options):
        for module in ("judge.granularity", "measure.campaign", "measure.whole"):
            found = importlib.import_module(f"lightning_nas.estimator.{module}")
            monkeypatch.setattr(found, "open_backend", lambda device: Chip(device, **options))
        return Chip(DEVICE, **options)

    return use


def table(device, num_subgraphs=250, **options):
    chip = Chip(device, **options)
    rows = {}
    for part in sample.sample_subgraphs(0, num_subgraphs):
        rows |= chip.measure_subgraph(part)
    return rows


ERRORS = ErrorQuantiles.of([Subgraph("conv", 8, 8, 8, 8, 8)] * 60, np.full(60, 0.05)).to_dict()
DEVICE = Device("own", "vela", 8, is_split=True, errors=ERRORS)


def test_an_estimator_that_is_right_is_called_right(place):
    chip = place()
    verdict = judge(Estimator(DEVICE, table(DEVICE)), num_subnets=4, num_folds=2, backend=chip)
    error = verdict.error
    assert error["networks"]["mape"] < 0.05
    assert error["networks_predicted"]["mape"] < 0.1
    assert error["networks"]["count"] == 6
    assert (error["subnets"]["count"], error["stock"]["count"]) == (4, 2)
    assert {"small@40", "small@64"} < set(error)
    assert error["small@40"]["off"] == pytest.approx(
        error["small@40"]["predicted_ms"] / error["small@40"]["true_ms"] - 1
    )
    assert error["pairs"]["right_where_clear"] > 0.8
    # Parts of these networks cost what they cost alone.
    assert error["sums"]["mape"] < 1e-6
    assert error["sums"]["count"] == 4
    text = format_error(error)
    assert "unseen pairs" in text
    assert "small@40" in text
    assert "holds" in text


def test_an_estimator_that_is_wrong_is_called_wrong_and_corrected(place):
    chip = place(factor=1.1)
    verdict = judge(Estimator(DEVICE, table(DEVICE)), num_subnets=4, num_folds=2, backend=chip)
    error, device = verdict.error, verdict.estimator.device
    assert error["sums"]["bias"] == pytest.approx(1 / 1.1)
    assert device.correction == pytest.approx(1.1, abs=0.03)
    assert "used: 1.1" in format_correction(verdict.correction) or "used: 1.0" in format_correction(verdict.correction)
    assert error["networks"]["mape"] < 0.04 < 0.07 < error["networks_uncorrected"]["mape"]
    assert error["networks_uncorrected"]["bias"] == pytest.approx(1 / 1.1, abs=0.03)
    assert error["interval"]["coverage"] > 0.6
    assert device.errors


def test_what_was_measured_to_judge_is_not_measured_again(place, tmp_path):
    chip = place()
    estimator = Estimator(DEVICE, table(DEVICE))
    first = judge(estimator, 2, 2, chip, tmp_path / "judged")
    count, chip.measure_subgraph = chip.count, None
    assert judge(estimator, 2, 2, chip, tmp_path / "judged").error == first.error
    assert chip.count == count
    assert list((tmp_path / "judged").iterdir())


def test_networks_with_operators_that_the_table_lacks_are_left_out(place, caplog):
    chip = place()
    rows = {part: figures for part, figures in table(DEVICE).items() if part.kind != "linear"}
    estimator = Estimator(DEVICE, rows)
    networks = whole_networks.measured_networks(DEVICE, JUDGING, 1, chip).priced_by(estimator)
    assert networks.names == ("small@40", "small@64")
    assert "lacks operators of: subnet 0 of mobilenetv2_100@224" in caplog.text


def test_the_better_granularity_is_found(place, tmp_path):
    # On one chip a fused block costs a tenth of its operators; on the other whole subgraphs pay for standing alone.
    sizes = {"num_subgraphs": 150, "num_networks": 4}
    place(saves={"fused": 0.1})
    is_split, record = best_granularity(DEVICE, tmp_path / "saving.csv", **sizes)
    assert not is_split
    assert record["subgraphs"] < record["operators"]
    place(alone=1.5)
    is_split, record = best_granularity(DEVICE, tmp_path / "plain.csv", **sizes)
    assert is_split
    assert record["operators"] < 0.2 < record["subgraphs"]


def test_networks_are_measured_once_even_after_a_crash(tmp_path):
    networks = [network for _, network in subnets(8, 0, 3)]
    path, chip = tmp_path / "networks.csv", Chip(DEVICE)
    measure_networks(DEVICE, networks[:2], path, chip)
    path.write_text(path.read_text()[:-4])
    figures = measure_networks(DEVICE, networks, path, chip)
    assert chip.count == 4
    assert figures == measure_networks(DEVICE, networks, path, chip)
    assert chip.count == 4
    assert figures[0] == chip.measure_network(networks[0])


def test_what_a_device_does_not_run_is_left_out_and_said(place, monkeypatch, caplog, tmp_path):
    place()

    def refuse(self, what):
        if getattr(what, "image_shape", (0,))[0] == 64 or getattr(what, "height", 0) == 9:
            raise UnsupportedError("1 operators do not run on the NPU.")
        return run(self, what)

    run = Chip.measure_network
    monkeypatch.setattr(Chip, "measure_network", refuse)
    assert whole_networks.measured_networks(DEVICE, JUDGING, 1, Chip(DEVICE)).names == (
        "subnet 0 of mobilenetv2_100@224",
        "small@40",
    )
    assert "small@64" in caplog.text
    run = Chip.measure_subgraph
    monkeypatch.setattr(Chip, "measure_subgraph", refuse)
    parts = [Subgraph("conv", size, size, 8, 8, 8) for size in (8, 9)]
    assert list(measure(DEVICE, parts, tmp_path / "own.csv")) == parts[:1]
    assert "conv 9x9 8->8->8 k1 s1 is left out of own" in caplog.text


def test_networks_that_judge_are_not_those_that_correct():
    judging, correcting = (list(subnets(8, seed, 6)) for seed in (JUDGING, CORRECTING))
    assert not {network for _, network in judging} & {network for _, network in correcting}
    assert list(subnets(8, JUDGING, 6)) == judging
    names = [[(name, size) for name, _, size in networks] for networks in networks._STOCK.values()]
    assert not set(names[0]) & set(names[1])


def test_enough_stock_networks_at_other_sizes_than_the_operators_in_tables():
    assert len(networks._STOCK[JUDGING]) >= 20
    assert len({size for _, _, size in networks._STOCK[JUDGING]}) >= 5


@pytest.mark.parametrize("source", json.loads(networks._SPACES.read_text()), ids=lambda s: f"{s['source']}@{s['size']}")
def test_subnets_are_of_spaces_around_stock_networks(source):
    space = source["space"]
    own = decompose(timm.create_model(source["source"]), torch.zeros(1, 3, source["size"], source["size"]))
    numbers = iter(space["reference"])
    references = [[block["options"][next(numbers)] for block in stage["blocks"]] for stage in space["stages"]]
    stages = []
    for stage, multiplier, chosen in zip(space["stages"], space["multipliers"], references, strict=True):
        full, strides = stage["width"], [block["stride"] for block in stage["blocks"]]
        stages.append([Block(**o, stride=s, out_channels=full) for o, s in zip(chosen, strides, strict=True)])
        assert [w for (w,) in multiplier["widths"]] == list(curated_widths(full, source["ratios"], 1))
        for block, option in zip(stage["blocks"], chosen, strict=True):
            kernels = {option["kernel"], *source["kernels"]}
            kinds, expansions = (("ibn", "fused"), source["expansions"]) if option["kind"] == "ibn" else (("ds",), (1,))
            grid = [tuple(o.values()) for o in block["options"]]
            assert sorted(grid) == sorted(itertools.product(kinds, expansions, kernels))
    stem = space["stem"]["width"], space["stem"]["stride"]
    parts = chain_parts(space["input_size"], stem, stages, space["head"]["width"], space["num_classes"])
    assert [(str(part), part.residual) for part in parts] == [(str(part), part.residual) for part in own]


def test_subnets_fill_the_lanes():
    for _, network in itertools.islice(subnets(16, 3, 4), 4):
        widths = {part.out_channels for part in split(network) if part.kind in ("ibn", "fused")}
        assert np.mean([width % 16 == 0 for width in widths]) > 0.3

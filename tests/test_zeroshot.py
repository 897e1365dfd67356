"""Zero-shot search: nothing is trained, each member is within the budgets, and ranks are multiplied."""

import logging
import math

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from test_library import QUIET, Module, Pairs, network_of
from torch.utils.data import DataLoader

from lightning_nas import ArchitectureSearch, Budget, load_subnet
from lightning_nas.search import Selection, ZeroShot
from lightning_nas.search.engine import Search
from lightning_nas.search.zero_shot import ScoredMember, rank_products, score_table, search_zero_shot
from lightning_nas.space.options import SpaceOptions
from lightning_nas.supernet import derive, find_supernet, space_of, supernet_from
from lightning_nas.supernet.activation_codes import naswot
from lightning_nas.supernet.source_judge import SourceJudge
from lightning_nas.supernet.zero_cost import AGREEMENT, SCORES, params

FEW = {"num_members": 12, "num_images": 16, "num_fitted_images": 48, "budget_use": 0.9}


@pytest.fixture
def module():
    network, images = network_of()
    options = SpaceOptions(ratios=(0.5, 0.75, 1.0), kernels=(3,), expansions=(2, 3, 6))
    supernet_from(network, images[:1], space_of(network, images[:1], options=options))
    return Module(network), images


def searched(module, images, estimator, folder, method=None, budget=None, **settings):
    method = method or ZeroShot(**FEW)
    search = ArchitectureSearch(estimator, budget or Budget(latency="0.7x"), method=method, **settings)
    trainer = pl.Trainer(max_epochs=3, callbacks=[search], default_root_dir=folder, enable_checkpointing=False, **QUIET)
    trainer.fit(module, DataLoader(Pairs(images), batch_size=16))
    return search, trainer


def test_members_in_the_band_are_ranked_without_a_step(module, estimator, tmp_path, caplog):
    module, images = module
    with caplog.at_level(logging.INFO):
        budget = Budget(latency="0.7x", parameters="0.8x")
        chosen, method = Selection(num_candidates=12), ZeroShot(("naswot", "-params"), **FEW)
        search, trainer = searched(module, images, estimator, tmp_path, method, budget, selection=chosen)
    assert (trainer.global_step, trainer.max_epochs, module.num_steps) == (0, 3, 0)
    assert search.has_chosen
    space = find_supernet(module).space
    limits, encodings = search.limits_in(space), [space.encode(one) for one in search.candidates]
    assert len(set(encodings)) == len(encodings) > 6
    assert all(limits.allows(encoding, 0.9 * limits.costs[0].budget) for encoding in encodings)
    # The order is that of the product of ranks, here taken anew.
    members = [derive(module.network, encoding) for encoding in encodings]
    by_codes = np.array([naswot(member, 2 * images[:16]) for member in members])
    by_size = np.array([-params(member) for member in members])
    ranks = [1 + (values[None, :] < values[:, None]).sum(1) for values in (by_codes, by_size)]
    products = ranks[0] * ranks[1]
    assert len(set(by_size)) == len(encodings)
    assert (np.diff(products) <= 0).all()
    table = next(r.getMessage() for r in caplog.records if "of 12 members within the budgets" in r.getMessage())
    rows = table.splitlines()
    assert rows[1].split() == ["rank", "latency,", "ms", "naswot", "params", "(less)"]
    cells = rows[2].split()
    assert float(cells[1]) == pytest.approx(estimator.latency_ms(search.architecture), rel=1e-3)
    assert [float(cell) for cell in cells[2:]] == pytest.approx([by_codes[0], -by_size[0]], rel=1e-4)


def test_a_minus_turns_a_score(module, estimator, tmp_path):
    module, images = module
    found = {}
    for score in ("params", "-params"):
        one = Selection(num_candidates=1)
        search, _ = searched(module, images, estimator, tmp_path, ZeroShot((score,), **FEW), selection=one)
        found[score] = params(search.derive(module).network)
    assert found["params"] > found["-params"]


def test_all_scores_rank_members(module, estimator):
    module, images = module
    space = find_supernet(module).space
    method = ZeroShot(("swap", "synflow", "zico", "-az_nas", "macs"), num_members=3, num_images=8, budget_use=0.8)
    limits = ArchitectureSearch(estimator, latency="0.7x", method=method).limits_in(space)
    ranked = search_zero_shot(
        module, 2 * images[:8], Search(find_supernet(module), limits, method.scoring), estimator, method, 3
    )
    assert len(set(ranked)) == 3


def test_what_is_found_is_derived_refitted_saved_and_found_for_other_budgets(module, estimator, tmp_path):
    module, images = module
    search, _ = searched(module, images, estimator, tmp_path, selection=Selection(num_candidates=2))
    subnet = search.derive(module)
    judge, encoding = SourceJudge(module, 2 * images), find_supernet(module).space.encode(search.architecture)
    raw = judge.judge(derive(module.network, encoding)).error
    assert judge.judge(subnet.network).error < 0.9 * raw
    search.save(tmp_path / "saved", subnet)
    loaded = load_subnet(tmp_path / "saved", model=Module(network_of()[0]))
    with torch.no_grad():
        assert torch.equal(loaded.eval().network(images), subnet.eval().network(images))
    found = search.find(latency="0.5x")
    source_ms = estimator.latency_ms(find_supernet(module).space.decode(find_supernet(module).space.reference_encoding))
    assert len(found) == 2
    assert all(0.4 * source_ms < estimator.latency_ms(one) <= 0.5 * source_ms for one in found)
    assert search.find(latency="0.5x") == found
    assert search.derive(module, latency="0.5x") is not None
    unfitted, _ = searched(module, images, estimator, tmp_path, ZeroShot(**{**FEW, "num_fitted_images": 0}))
    assert judge.judge(unfitted.derive(module).network).error > judge.judge(subnet.network).error


def test_a_search_that_was_made_is_not_made_again(module, estimator, tmp_path):
    module, images = module
    search, trainer = searched(module, images, estimator, tmp_path, selection=Selection(num_candidates=2))
    trainer.save_checkpoint(tmp_path / "search.ckpt")
    again = ArchitectureSearch(estimator, latency="0.7x", method="zeroshot")
    other = pl.Trainer(max_epochs=3, callbacks=[again], default_root_dir=tmp_path, enable_checkpointing=False, **QUIET)
    images = torch.full_like(images, torch.nan)  # none are read
    other.fit(module, DataLoader(Pairs(images), batch_size=16), ckpt_path=tmp_path / "search.ckpt", weights_only=False)
    assert again.candidates == search.candidates
    assert not again.has_chosen


def test_a_score_that_tells_less_than_the_parameters_is_warned_of(module, estimator, tmp_path):
    module, images = module
    method = ZeroShot(("-naswot", "params"), **{**FEW, "num_members": 2})
    search, _ = searched(module, images, estimator, tmp_path, method, selection=Selection(num_candidates=1))
    (warned,) = [text for text in search.warnings if "number of parameters" in text]
    assert warned.startswith("`-naswot` tells less than the number of parameters: ")
    assert f"is {-AGREEMENT['naswot']:.2f}, of more parameters {AGREEMENT['params']:.2f}" in warned


def test_no_score_tells_more_than_the_default_one():
    """But for what is less than the noise of the truth set."""
    assert AGREEMENT[ZeroShot().scores[0]] > max(AGREEMENT.values()) - 0.05
    assert set(AGREEMENT) == set(SCORES)


class Rounding(torch.nn.ReLU6):
    def forward(self, x):
        return super().forward(x).round().detach()


def test_a_network_that_a_score_cannot_run_is_refused_by_its_module(module, estimator, tmp_path):
    module, images = module
    module.network.features[-1][2] = Rounding()
    with pytest.raises(ValueError, match=r"`zico` needs gradients, and none reaches module 'features\.0\.0'"):
        searched(module, images, estimator, tmp_path, ZeroShot(("naswot", "zico"), **FEW))
    assert module.num_steps == 0


def test_ranks_are_multiplied():
    values = [(3.0, 1.0, 2.0, math.nan), (0.5, 0.5, -math.inf, 7.0)]
    # Equal values share a rank, and what is no number is the last.
    expected = [math.log(4 * 2.5 / 16), math.log(2 * 2.5 / 16), math.log(3 * 1 / 16), math.log(1 * 4 / 16)]
    assert rank_products(values) == pytest.approx(expected)


def test_a_table_without_a_latency_has_no_column_of_it():
    members = [ScoredMember((0, 1), None, (12.5, 3e6)), ScoredMember((1, 1), None, (2.25, 4e6))]
    table = score_table(members, ("naswot", "-params"), 1)
    assert [row.split() for row in table.splitlines()] == [
        ["rank", "naswot", "params", "(less)"],
        ["1", "12.5", "3e+06"],
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scores": "naswot"}, "`scores` must be a list or a tuple; got 'naswot'"),
        ({"scores": ()}, r"`scores` must be different ones of naswot, swap, .*; got \[\]"),
        ({"scores": ("naswot", "zen")}, r"each with or without a minus before it; got \['naswot', 'zen'\]"),
        ({"scores": ("params", "-params")}, "`scores` must be different ones"),
        ({"scores": (3,)}, r"`scores` must be different ones of .*; got \[3\]"),
        ({"num_members": 0}, "`num_members` must be at least 1; got 0"),
        ({"num_images": 3}, "`num_images` must be at least 4; got 3"),
        ({"num_fitted_images": -1}, "`num_fitted_images` must be at least 0; got -1"),
        ({"budget_use": 1.0}, "`budget_use` must be .*; got 1.0"),
        ({"seed": -1}, "`seed` must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        ZeroShot(**settings)

"""Short trainings of candidates: they decide, and leave no trace."""

import copy
import logging

import pytest
import torch
from searches import search_of, selection_of
from test_search_callback import Plain, difference, loader, trainer

from lightning_nas.search.brief_training import train_briefly

pytestmark = pytest.mark.usefixtures("few_anchors")
SETTINGS = {"latency": "0.7x", "phases": "decoupled", "steps": 4, "candidates": 4, "evaluations": 0, "seed": 3}
SETTINGS["effort"] = None


def searched(supernet, estimator, tmp_path, **options):
    search, module = search_of(estimator, **SETTINGS, **options), Plain(copy.deepcopy(supernet))
    torch.manual_seed(0)
    fit = trainer(tmp_path, [search], epochs=2)
    fit.fit(module, loader(), loader())
    return search, module, fit


def test_trials_reorder_the_best_and_change_nothing_else(supernet, estimator, tmp_path):
    plain, module, _ = searched(supernet, estimator, tmp_path)
    tried, tried_module, _ = searched(supernet, estimator, tmp_path, trials=3)
    assert sorted(map(str, plain.candidates[:3])) == sorted(map(str, tried.candidates[:3]))
    assert plain.candidates[3:] == tried.candidates[3:]
    assert difference(module, tried_module) == 0
    # What is derived has inherited its weights: a trial's are gone.
    first = tried.candidates[0]
    a, b = (s.derive(m, architecture=first) for s, m in ((plain, module), (tried, tried_module)))
    assert difference(a, b) == 0


def test_the_best_after_training_comes_first(supernet, estimator, tmp_path, monkeypatch):
    search, module, fit = searched(supernet, estimator, tmp_path)
    ranked = search.state.progress.ranked
    seen = []
    step = Plain.training_step

    def counted(self, batch, batch_idx):
        if self.training and self.trainer.max_epochs == 3:  # what recalibrates batch norm has the search's own trainer
            seen.append(sum(p.numel() for p in self.parameters()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(Plain, "training_step", counted)
    held_out = search.state.evaluator(held_out=True).held_out
    order = train_briefly(search.state.fit, ranked, selection_of(trials=2, trial_epochs=3), held_out)
    assert sorted(order[:2]) == sorted(ranked[:2])
    assert order[2:] == ranked[2:]
    # Four batches, three epochs, two subnets.
    assert len(seen) == 4 * 3 * 2
    assert fit.lightning_module is module


def test_what_is_logged_stays_as_loud_as_it_was(supernet, estimator, tmp_path):
    level = logging.getLogger("lightning.pytorch").level
    searched(supernet, estimator, tmp_path, trials=1)
    assert logging.getLogger("lightning.pytorch").level == level


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"trials": -1}, "`num_brief_trainings` must be at least 0"),
        ({"trial_epochs": 0}, "`brief_epochs` must be at least 1"),
    ],
)
def test_settings_that_cannot_be(estimator, setting, message):
    with pytest.raises(ValueError, match=message):
        search_of(estimator, latency="0.7x", **setting)

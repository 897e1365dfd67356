"""What a study of several budgets ends with: which trials are trained on, and which of them each budget gets."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import LinearEstimator, small_network
from torch import zeros

from lightning_nas.budget.budget import Budget
from lightning_nas.budget.tables import cost_tables
from lightning_nas.jobs.multishot import MultishotJob
from lightning_nas.jobs.trainings import Finetuned
from lightning_nas.multishot.evolution import Evolution, Result
from lightning_nas.multishot.propose import propose
from lightning_nas.multishot.space import JointSpace, Setting, targets_of
from lightning_nas.report.network_record import MetricRecord
from lightning_nas.supernet import space_of
from lightning_nas.tasks.metric import TaskMetric

LABELS = ("0.8x", "0.5x")
TOTALS = {"seconds": 1.0, "steps": 3, "images": 3, "trials": 3, "rejected": 0, "pruned": 0}


@pytest.fixture(scope="module")
def ground():
    space = space_of(small_network(), zeros(1, 3, 32, 32))
    tables = cost_tables(space, LinearEstimator())
    places = tuple(Setting("32", {"output_stride": stride}, space, tables) for stride in (8, 4))
    return JointSpace(places, 2, targets_of(places, {x: Budget(x) for x in LABELS}, 0.9))


def finish(ground, brief, final, variants=(0, 0, 0), finalists=1):
    """Return which trial each budget gets, and which were trained on: two for the first budget, one for the second."""
    settings, results = Evolution(40, population=99), []
    for number, (target, value, variant) in enumerate(zip((0, 0, 1), brief, variants, strict=True)):
        _, _, *nodes = propose(ground, ground.targets[target], [], [], 1, settings, np.random.default_rng(number)).genes
        genes = (0, variant, *nodes)
        results.append(Result(number, genes, 1, value, ground.cost(genes), True))
    trained = []

    def finetune(ground, genes, number):
        trained.append(number)
        return Finetuned(number, "segmentation", final[number], MetricRecord("mIoU", final[number], "test"), steps=0)

    study = SimpleNamespace(joint_space=ground, results=lambda: results, totals=lambda: TOTALS)
    trainings = SimpleNamespace(
        alone=nullcontext,
        train_baseline=lambda: (MetricRecord("mIoU", 0.9, "test"), 0),
        finetune=finetune,
        source_of=lambda genes: None,
        metric=TaskMetric("mIoU", "miou"),
        network_settings={},
        data_name="",
        teacher_name="source",
    )
    job = MultishotJob.__new__(MultishotJob)  # what comes before its last phases is not tested here
    job.run = SimpleNamespace(recipe="multishot", seed=0, epochs=SimpleNamespace())
    job.searching, job.estimator = SimpleNamespace(finalists=finalists), LinearEstimator()
    job.study, job.trainings = study, trainings
    job.train_baseline()
    job.finetune()
    outcomes = job.outcomes()
    assert outcomes[LABELS[0]].search.trials.finetuned == len(trained)
    return [outcomes[label].subnet for label in LABELS], trained


def test_each_budget_has_the_best_trial_that_uses_it_trained_on(ground):
    # After a brief training the smallest looks best.
    assert finish(ground, brief=(0.5, 0.6, 0.7), final=(0.9, 0.9, 0.8)) == ([1, 2], [1, 2])


def test_a_smaller_network_that_is_better_in_the_end_serves_a_larger_budget(ground):
    assert finish(ground, brief=(0.5, 0.6, 0.7), final=(0.9, 0.7, 0.8)) == ([2, 2], [1, 2])


def test_finalists_are_of_several_places_and_the_best_in_the_end_is_kept(ground):
    brief, final, variants = (0.6, 0.7, 0.5), (0.9, 0.8, 0.7), (0, 1, 0)
    # The second trial looks better at first. The third is the only one within the second budget.
    assert finish(ground, brief, final, variants) == ([1, 2], [1, 2])
    assert finish(ground, brief, final, variants, finalists=2) == ([0, 2], [1, 0, 2])
    # Both are of one place, so that there is one finalist.
    assert finish(ground, brief, final, finalists=2) == ([1, 2], [1, 2])

"""Tasks with and without a teacher: what a job hands to each."""

import commands
import pytest
from torch import nn

from lightning_nas.jobs.teacher import is_teachable
from lightning_nas.tasks.classification import Classification


class Alone(Classification):
    """A task that takes no teacher."""

    def __init__(self, network, num_classes, lr=0.05, weight_decay=0.0, optimizer="sgd", label_smoothing=0.0):
        super().__init__(network, num_classes, lr, weight_decay, optimizer, label_smoothing=label_smoothing)


class Half(Classification):
    def __init__(self, network, num_classes, teacher=None):
        super().__init__(network, num_classes, teacher=teacher)


def test_a_task_takes_a_teacher_where_its_arguments_say_so():
    assert is_teachable(Classification)
    assert is_teachable(lambda **options: Classification(nn.Identity(), 2, **options))
    assert not is_teachable(Alone)
    with pytest.raises(ValueError, match="that takes `teacher` must take `feature_modules`"):
        is_teachable(Half)


def test_a_task_that_takes_no_teacher_is_searched_and_trained_alone(tmp_path):
    tiny = ("trainer.limit_train_batches=2", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1")
    short = ("epochs.source=1", "epochs.search=1", "epochs.finetune=1", "search.method.steps=2", "num_refitted=1")
    result = commands.run(
        tmp_path,
        *("--config-name", "digits", "latency=0.8x", "output_dir=run", "teaching=null", "search_task=null"),
        *("task._target_=test_teachable.Alone", "finetune_task=null", *tiny, *short),
        *("search.selection.num_candidates=1", "num_calibration_batches=1", "trainer.accelerator=cpu"),
    )
    assert result.returncode == 0, result.stderr
    assert "Latency saved" in result.stdout

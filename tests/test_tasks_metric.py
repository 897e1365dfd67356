"""What a task is judged by: both directions, and values that are none."""

import math

import pytest

from lightning_nas.report.fields import Fields
from lightning_nas.report.network_record import MetricRecord
from lightning_nas.tasks.metric import TaskMetric, metric_of

ACCURACY, ERROR = TaskMetric("accuracy", "acc"), TaskMetric("mean absolute error", "mae", larger_is_better=False)


@pytest.mark.parametrize(("metric", "best", "worst"), [(ACCURACY, 0.75, 0.25), (ERROR, 0.25, 0.75)])
def test_more_is_better_or_less_is(metric, best, worst):
    assert metric.best(worst, best, worst) == best
    assert metric.is_better(best, than=worst)
    assert not metric.is_better(worst, than=best)
    assert not metric.is_better(best, than=best)


@pytest.mark.parametrize("metric", [ACCURACY, ERROR])
def test_what_is_not_a_number_is_never_the_best(metric):
    assert metric.best(math.nan, 0.5) == metric.best(0.5, math.nan) == 0.5
    assert not metric.is_better(math.nan, than=0.5)
    assert not metric.is_better(0.5, than=math.nan)


def test_records_tell_the_direction_and_older_ones_have_more_for_better():
    older = {"name": "accuracy", "value": 0.5, "split": "test"}
    assert MetricRecord.from_fields(Fields("result.json", older)).larger_is_better
    error = {"name": "mae", "value": 0.5, "split": "test", "larger_is_better": False}
    assert not MetricRecord.from_fields(Fields("result.json", error)).larger_is_better


def test_a_module_that_does_not_say_what_it_is_judged_by_is_refused():
    with pytest.raises(TypeError, match=r"`metric = TaskMetric\('accuracy', 'acc'\)`"):
        metric_of(object())

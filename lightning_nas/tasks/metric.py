"""`TaskMetric`: the figure that a task is judged by, where it is logged, and which of two values is better."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["TaskMetric", "metric_of"]


@dataclass(frozen=True)
class TaskMetric:
    """The figure by which networks are compared, the attribute ``metric`` of a LightningModule.

    Attributes:
        name: What a person calls it, such as ``accuracy``.
        key: What it is logged as behind the split: ``acc`` for ``val_acc`` and ``test_acc``.
        larger_is_better: Whether more is better; False for errors.

    Raises:
        ValueError: Name or key is empty.

    Example::

        >>> error = TaskMetric("mean absolute error", "mae", larger_is_better=False)
        >>> error.val_key, error.is_better(0.1, than=0.2)
        ('val_mae', True)
    """

    name: str
    key: str
    larger_is_better: bool = True

    def __post_init__(self) -> None:
        for field, value in (("name", self.name), ("key", self.key)):
            if not (isinstance(value, str) and value):
                raise ValueError(f"`{field}` of a metric must be text; got {value!r}.")

    @property
    def val_key(self) -> str:
        """Name that it is logged by on the validation data."""
        return f"val_{self.key}"

    @property
    def test_key(self) -> str:
        """Name that it is logged by on the test data."""
        return f"test_{self.key}"

    def score(self, value: float) -> float:
        """Return a value so that more is better; what is not a number is the worst.

        Example::

            >>> TaskMetric("error", "mae", larger_is_better=False).score(0.25)
            -0.25
        """
        if math.isnan(value):
            return -math.inf
        return value if self.larger_is_better else -value

    def is_better(self, value: float, than: float) -> bool:
        """Return whether `value` is better than another; what is not a number never is, nor is anything than it."""
        return not math.isnan(value + than) and self.score(value) > self.score(than)

    def best(self, *values: float) -> float:
        """Return the best of the values."""
        return max(values, key=self.score)


def metric_of(module: object) -> TaskMetric:
    """Return the metric that a LightningModule is judged by.

    Args:
        module: The LightningModule.

    Raises:
        TypeError: Its attribute ``metric`` is no `TaskMetric`.
    """
    metric = getattr(module, "metric", None)
    if not isinstance(metric, TaskMetric):
        raise TypeError(
            f"A task must say what it is judged by; got {metric!r} as `metric` of {type(module).__name__}. HINT: in the"
            " class, `metric = TaskMetric('accuracy', 'acc')` for a figure that it logs as `val_acc` and `test_acc`;"
            " with `larger_is_better=False` for an error."
        )
    return metric

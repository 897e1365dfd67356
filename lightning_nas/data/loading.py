"""`Loading`: batches of a data set, their seed, and the memory that its images may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from lightning_nas.io.numbers import check_number, check_seed

__all__ = ["Loading", "loading_of"]


@dataclass(frozen=True)
class Loading:
    """Settings of the batches of a data set: their size and seed, and the memory for decoded images.

    Attributes:
        batch_size: Images a batch.
        num_workers: Worker processes; 0 is usually fastest while the images are in memory.
        seed: Decides the shuffles and the augmentation.
        cache_limit_bytes: Decoded splits above this size are read from files again in every epoch.

    Raises:
        ValueError: A setting is out of range.
    """

    batch_size: int = 16
    num_workers: int = 0
    seed: int = 0
    cache_limit_bytes: int = 2**30

    def __post_init__(self) -> None:
        check_number("batch_size", self.batch_size, whole=True, least=1)
        check_number("num_workers", self.num_workers, whole=True, least=0)
        check_seed(self.seed)
        check_number("cache_limit_bytes", self.cache_limit_bytes, whole=True, least=0)


def loading_of(settings: Mapping[str, int], default: Loading) -> Loading:
    """Return a `Loading` with settings that a recipe gives by name.

    Args:
        settings: Values of some of its attributes.
        default: Values of the others.

    Raises:
        ValueError: A setting is out of range, or there is no such setting.

    Example::

        >>> loading_of({"batch_size": 8}, Loading(seed=3))
        Loading(batch_size=8, num_workers=0, seed=3, cache_limit_bytes=1073741824)
    """
    known = [field.name for field in fields(Loading)]
    for name in settings:
        if name not in known:
            raise ValueError(f"There is no setting `{name}` of this data; beside its own there are {', '.join(known)}.")
    return replace(default, **settings)

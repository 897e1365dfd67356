"""`Job`: the phases of a search, and the function that runs them in their order."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

__all__ = ["Job", "carry_out"]

Records_co = TypeVar("Records_co", covariant=True)


class Job(Protocol[Records_co]):
    """A search with all that comes before and after it. Each phase continues where an interrupted run stopped."""

    def opened(self) -> AbstractContextManager[None]:
        """Claim the directory of the run for as long as the context lasts."""

    def train_source(self) -> None:
        """Train the source network."""

    def search(self) -> None:
        """Find architectures within the budget."""

    def train_baseline(self) -> None:
        """Train the source on, for as long as search and fine-tuning take."""

    def finetune(self) -> None:
        """Train what was found, and what it is compared with."""

    def record(self) -> Records_co:
        """Write the files of the run, and return the content of result.json."""


def carry_out(job: Job[Records_co]) -> Records_co:
    """Run the phases of a job in their order, and return its record.

    Args:
        job: The job; it claims its directory for as long as the phases take.
    """
    with job.opened():
        job.train_source()
        job.search()
        job.train_baseline()
        job.finetune()
        return job.record()

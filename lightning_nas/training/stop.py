"""Stopping of a job by a signal: files stay whole, and the exit status names the signal."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import lightning.pytorch as pl
from typing_extensions import override

__all__ = ["KeepStopping", "Stopped", "requeue", "stoppable"]

log = logging.getLogger(__name__)

REQUEUE = getattr(signal, "SIGUSR1", None)
"""What SLURM sends before the time of a job is over, where ``sbatch --signal=USR1@60`` asks for it."""

# Windows has neither of the last.
_SIGNALS = [found for name in ("SIGINT", "SIGTERM", "SIGUSR1") if (found := getattr(signal, name, None)) is not None]
_DEFAULT = (signal.SIG_DFL, signal.default_int_handler)


class Stopped(KeyboardInterrupt):
    """A signal asked this process to stop. As a KeyboardInterrupt, it ends a training of several processes too.

    Args:
        signum: The signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.name = signal.Signals(signum).name
        # As shells report a process that a signal has ended.
        self.exit_code = 128 + signum


_installed: dict[int, Callable[[int, FrameType | None], None]] = {}
_came: list[Stopped] = []


class KeepStopping(pl.Callback):
    """Restores the signal handlers of `stoppable`, which a Trainer replaces by its own.

    A Trainer's handler ends a training as if it were done.
    """

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for signum, handler in _installed.items():
            signal.signal(signum, handler)

    on_validation_start = on_test_start = on_train_start

    @override
    def on_train_batch_start(self, *arguments: object) -> None:
        if _came:  # it came where Python drops exceptions, as while an object is removed
            raise _came[0]


@contextmanager
def stoppable() -> Iterator[list[Stopped]]:
    """Raise `Stopped` at SIGINT, SIGTERM and SIGUSR1 while the context lasts, and return those that came.

    Whoever had a handler for one of them before keeps it, such as a launcher of jobs.
    """
    process = os.getpid()
    _came.clear()

    def stop(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a worker, whose main process decides
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
            return
        _came.append(Stopped(signum))
        raise _came[-1]

    before = {signum: handler for signum in _SIGNALS if (handler := signal.getsignal(signum)) in _DEFAULT}
    try:
        for signum in before:
            signal.signal(signum, stop)
            _installed[signum] = stop
    except ValueError:  # not the main thread: whoever runs it there has the signals
        before = {}
    try:
        yield _came
    finally:
        for signum, handler in before.items():
            # What comes while a stopped process ends is of the same who stopped it.
            signal.signal(signum, signal.SIG_IGN if _came else handler)
        _installed.clear()


def requeue(stopped: Stopped) -> None:
    """Put a job of SLURM that was stopped by its requeue signal back into the queue."""
    job = os.environ.get("SLURM_JOB_ID")
    if stopped.exit_code != 128 + int(REQUEUE or 0) or job is None:
        return
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
        log.warning("SLURM was asked to run job %s again.", job)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or error
        log.warning("SLURM did not take job %s back into its queue: %s", job, reason)

"""Time what runs on this machine: warm-up, medians over several windows, and how far the windows are apart.

A machine that does other things meanwhile jitters: medians of five windows were off by 8 to 60 % on a shared machine of
two cores, a few by more than 400 %. So every figure has a spread, windows that are far apart are taken again, and a
table is worth what its spreads say. Time on a machine that is idle, at a fixed frequency if it has one. Where it is
not, the clock ``cpu`` counts the time of this process alone, while it runs: not what it waits for others, but still
that they take its caches and memory.
"""

from __future__ import annotations

import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lightning_nas.estimator.measure.settings import TIMING
from lightning_nas.estimator.measurements import Figures

__all__ = ["CLOCKS", "Timing", "clocked_ms", "processor", "timed"]

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""What processors are timed by. A process of several threads has the time of all of them on its clock."""

# Windows are taken again where they are this far apart, and those that are nearest to each other are kept.
_CALM = 0.05
_NUM_TRIES = 3
_NUM_WARM = 3


@dataclass(frozen=True)
class Timing:
    """How long something is timed.

    Attributes:
        window_ms: Time of one window, which holds as many runs as fit in, at least one.
        num_windows: Windows, of whose latencies the median is what was measured.
    """

    window_ms: float = TIMING["window_ms"]
    num_windows: int = int(TIMING["num_windows"])


def timed(run: Callable[[int], float], timing: Timing, num_images: int = 1) -> Figures:
    """Return the median latency of one image, and how far the windows are apart.

    The spread is the distance between the first and the third quartile of the windows, over the median.

    Args:
        run: Runs something as often as it is told, and returns the milliseconds that this took.
        timing: How long.
        num_images: Images that one run takes.

    Example::

        >>> timed(lambda count: count * 0.5, Timing(), num_images=2)
        Figures(latency_ms=0.25, sram_bytes=0, spread=0.0)
    """
    run(_NUM_WARM)
    # The first estimate is of runs that are already warm, and one more window warms up the clock.
    count = max(1, round(timing.window_ms / max(run(1), 1e-6)))
    count = max(1, round(timing.window_ms / max(run(count) / count, 1e-6)))
    best: tuple[float, float] | None = None
    for _ in range(_NUM_TRIES):
        windows = np.array([run(count) / count for _ in range(timing.num_windows)])
        first, median, third = np.quantile(windows, [0.25, 0.5, 0.75]).tolist()
        spread = (third - first) / median
        if best is None or spread < best[1]:
            best = median, spread
        if spread <= _CALM:
            break
    assert best is not None
    return Figures(best[0] / num_images, spread=round(best[1], 4))


def clocked_ms(call: Callable[[], object], clock: str) -> Callable[[int], float]:
    """Return what `timed` needs, of a call that is done when it returns.

    Args:
        call: What is timed.
        clock: One of `CLOCKS`.
    """
    now = CLOCKS[clock]

    def run(count: int) -> float:
        start = now()
        for _ in range(count):
            call()
        return (now() - start) * 1e3

    return run


def processor() -> str:
    """Return the name of this machine's processor, for the record."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE) if info.exists() else []
    return names[0].strip() if names else platform.processor() or platform.machine()

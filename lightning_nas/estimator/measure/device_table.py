"""Measure the table of a device: random networks, random blocks and stock operators."""

from __future__ import annotations

from pathlib import Path

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.measure.backend import TIMED, Backend
from lightning_nas.estimator.measure.campaign import measure
from lightning_nas.estimator.measure.sampling.random_blocks import sample_varied_subgraphs
from lightning_nas.estimator.measure.sampling.sample import plan_subgraphs, sample_subgraphs
from lightning_nas.estimator.measure.sampling.stock_operators import stock_operators
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.subgraph import Subgraph
from lightning_nas.io.numbers import check_number, check_seed

__all__ = ["measure_device"]

_NUM_COUNTED, _NUM_TIMED = 10_000, 300
# So many subgraphs of random networks are measured for one that is drawn by itself.
_VARIED = 5


def measure_device(
    device: Device, table: Path, seed: int = 0, num_subgraphs: int | None = None, backend: Backend | None = None
) -> dict[Subgraph, Figures]:
    """Measure subgraphs of random networks into a table, and return the whole table.

    What is compiled or simulated gets blocks of any size too, and operators of stock networks in a table beside it;
    what is timed takes too long for either.

    Args:
        device: What to measure on.
        table: The ``.csv`` file; what it holds is not measured again.
        seed: Of the sampled subgraphs.
        num_subgraphs: How many; by default 10,000 that are compiled or simulated, 300 that are timed.
        backend: What measures; by default that of the device.
    """
    check_seed(seed)
    if num_subgraphs is not None:
        check_number("num_subgraphs", num_subgraphs, whole=True, least=1)
    if device.backend in TIMED:
        return measure(device, plan_subgraphs(seed, num_subgraphs or _NUM_TIMED), table, backend)
    count = num_subgraphs or _NUM_COUNTED
    varied = sample_varied_subgraphs(seed, count // _VARIED)
    measure(device, stock_operators(), table.with_name(f"{table.stem}_operators.csv"), backend)
    return measure(device, [*sample_subgraphs(seed, count), *varied], table, backend)

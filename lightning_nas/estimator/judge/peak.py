"""Comparison of estimated peak memory with the memory that a compiler plans."""

from __future__ import annotations

import random

import numpy as np
from tqdm import tqdm

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.measure.backend import open_backend
from lightning_nas.estimator.measure.sampling.chain_networks import sample_chain
from lightning_nas.estimator.measure.sampling.random_networks import JUDGING
from lightning_nas.graph.memory import network_memory
from lightning_nas.graph.network import chain
from lightning_nas.io.numbers import check_number

__all__ = ["format_peak", "peak_error"]


def peak_error(device: Device, num_networks: int = 150) -> dict[str, float]:
    """Compare peak activation memory with the compiler's on random networks.

    Args:
        device: A device whose backend plans memory.
        num_networks: How many.

    Returns:
        The share of networks whose peak is the compiler's where it neither buffers weights nor cascades; and by how
        much the compiler's default exceeds it: on average, at most, and in how many networks by less than 1 %.

    Raises:
        ValueError: The backend plans no memory.
    """
    check_number("num_networks", num_networks, whole=True, least=1)
    backend = open_backend(device)
    # Of the backends, only compilers that plan memory have this method.
    if not hasattr(backend, "peak_bytes"):
        raise ValueError(f"Backend {device.backend!r} of device {device.name!r} plans no memory to compare with.")
    rng = random.Random(JUDGING)
    peaks = []
    for _ in tqdm(range(num_networks), desc=f"Planning memory for {device.name}", unit="network"):
        network = chain(sample_chain(rng))
        peak = network_memory(network).peak_activation_bytes
        peaks.append((peak, backend.peak_bytes(network, buffering=False), backend.peak_bytes(network)))
    own, plain, default = np.array(peaks, dtype=np.float64).T
    excess = default / own - 1
    return {
        "count": num_networks,
        "equal": float((own == plain).mean()),
        "default_excess": float(excess.mean()),
        "default_excess_max": float(excess.max()),
        "default_within_1": float((np.abs(excess) < 0.01).mean()),
    }


def format_peak(error: dict[str, float]) -> str:
    """Return the comparison in words.

    Example::

        >>> row = {"count": 2, "equal": 1.0, "default_excess": 0.02, "default_excess_max": 0.3, "default_within_1": 0.5}
        >>> print(format_peak(row))
        peak memory of 2 networks: 100.0 % equal to the compiler's without weight buffering and cascading;
        its default takes 2.0 % more on average, 30.0 % at most, less than 1 % in 50.0 % of the networks
    """
    text = (
        f"peak memory of {error['count']} networks: {error['equal']:.1%} equal to the compiler's without weight"
        f" buffering and cascading;\nits default takes {error['default_excess']:.1%} more on average,"
        f" {error['default_excess_max']:.1%} at most, less than 1% in {error['default_within_1']:.1%} of the networks"
    )
    return text.replace("%", " %")

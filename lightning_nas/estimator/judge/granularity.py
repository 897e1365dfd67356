"""Choice between operators and whole subgraphs as rows of a table, by measuring both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.estimator import Estimator
from lightning_nas.estimator.judge.scores import scores
from lightning_nas.estimator.measure.backend import open_backend
from lightning_nas.estimator.measure.campaign import measure
from lightning_nas.estimator.measure.sampling.random_networks import CORRECTING, subnets
from lightning_nas.estimator.measure.sampling.sample import sample_subgraphs
from lightning_nas.estimator.measure.whole import measure_networks, scratch_table
from lightning_nas.graph.decompose import split

__all__ = ["best_granularity"]

_NAMES = {True: "operators", False: "subgraphs"}


def best_granularity(
    device: Device, table: Path, num_subgraphs: int = 1500, num_networks: int = 40, folder: Path | None = None
) -> tuple[bool, dict[str, float]]:
    """Find out whether operators or whole subgraphs predict networks better, by measuring both.

    Args:
        device: What to measure on.
        table: Its table, which is used for the granularity that the device has so far, and added to where it is short.
        num_subgraphs: How many to measure: the first ones of a table.
        num_networks: Networks to predict; none of those that an estimator is judged by.
        folder: Where what is measured for this alone is kept; by default in the cache.

    Returns:
        Whether operators are better, and the mean relative error of both.
    """
    parts = sample_subgraphs(0, num_subgraphs)
    networks = [network for _, network in subnets(device.lanes, CORRECTING, num_networks)]
    backend = open_backend(device)
    figures = measure_networks(device, networks, scratch_table(device, backend, "granularity", folder), backend)
    assert all(figures), "a device runs every subnet of the spaces that it is searched for"
    true_ms = np.array([one.latency_ms for one in figures if one is not None])
    record: dict[str, float] = {"subgraphs_measured": num_subgraphs, "networks": num_networks}
    for is_split, name in _NAMES.items():
        one = replace(device, is_split=is_split, correction=1.0)
        path = table if is_split == device.is_split else scratch_table(device, backend, name, folder)
        rows = measure(one, parts, path, open_backend(one))
        # Both are fitted to the same subgraphs, whatever else the table holds.
        wanted = {piece for part in parts for piece in ((part, *part.operators) if is_split else (part,))}
        estimator = Estimator(one, {part: row for part, row in rows.items() if part in wanted})
        predicted_ms = np.array([estimator.predict_ms(split(network)).sum() for network in networks])
        record[name] = scores(predicted_ms, true_ms)["mape"]
    return record["operators"] <= record["subgraphs"], record

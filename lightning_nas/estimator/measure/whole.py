"""Measure whole networks into a table, in a way that can be stopped at any moment and continued."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tqdm import tqdm

from lightning_nas.estimator.device import Device
from lightning_nas.estimator.measure.backend import Backend, UnsupportedError, open_backend
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.network import Network
from lightning_nas.io.locks import alone
from lightning_nas.io.writing import appending, cache_folder, write_text

__all__ = ["measure_networks", "scratch_table"]


def measure_networks(
    device: Device, networks: Iterable[Network], path: Path, backend: Backend | None = None
) -> list[Figures | None]:
    """Measure whole networks that a table does not hold yet, and return all figures; None for what cannot run.

    Each is on disk before the next is measured.

    Args:
        device: What to measure on.
        networks: What to measure.
        path: The table, a CSV file that names networks by a digest of what they are.
        backend: What measures; by default that of the device.

    Raises:
        UnwritableError: There is no room for a row, or no right to write there.
    """
    networks = list(networks)
    digests = [hashlib.sha256(repr(network).encode()).hexdigest()[:24] for network in networks]
    with alone(path.with_name(f".{path.name}.lock"), f"the table {str(path)!r}", is_waiting=True):
        known = _measured(device, dict(zip(digests, networks, strict=True)), path, backend)
    return [known.get(digest) for digest in digests]


def _measured(
    device: Device, networks: Mapping[str, Network], path: Path, backend: Backend | None
) -> dict[str, Figures]:
    known = _read(path)
    missing = {digest: network for digest, network in networks.items() if digest not in known}
    if missing:
        backend = backend or open_backend(device)
        with appending(path) as append:
            for digest, network in tqdm(missing.items(), desc=f"Whole networks on {device.name}", unit="network"):
                try:
                    figures = known[digest] = backend.measure_network(network)
                except UnsupportedError:
                    continue
                # A float's `repr` reads back as the same float.
                append(f"{digest},{figures.latency_ms!r},{figures.sram_bytes}\n")
    return known


def scratch_table(device: Device, backend: Backend, name: str, folder: Path | None = None) -> Path:
    """Return the path of a table for measurements that are not shipped; it depends on the device's settings.

    Args:
        device: What is measured.
        backend: What measures.
        name: Of what is kept.
        folder: Where; by default in `cache_folder`.
    """
    key = (device.backend, sorted(device.settings.items()), sorted(backend.versions().items()))
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:12]
    return (folder or cache_folder()) / f"{device.name}-{name}-{digest}.csv"


def _read(path: Path) -> dict[str, Figures]:
    """Return the whole lines of a table, and take what a process left unfinished out of the file."""
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_text(path, whole)
    try:
        return {digest: Figures(float(latency), int(sram)) for digest, latency, sram in csv.reader(whole.splitlines())}
    except (ValueError, csv.Error) as error:
        raise ValueError(f"'{path}' holds no measured networks: {error}. HINT: remove it to measure anew.") from error

"""`Backend`: the protocol of compilers, simulators and clocks, which are opened by their name."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

from lightning_nas.estimator.device import ANALYTIC, TABLE_ONLY, Device
from lightning_nas.estimator.measure.settings import BACKENDS
from lightning_nas.estimator.measurements import Figures
from lightning_nas.graph.network import Network
from lightning_nas.graph.subgraph import Subgraph

__all__ = [
    "BACKENDS",
    "SPLIT",
    "TIMED",
    "Backend",
    "ParallelBackend",
    "UnsupportedError",
    "available_backend",
    "open_backend",
    "why_unavailable",
]

TIMED = ("onnxruntime", "torch")
"""Backends that time this machine, and record the spread of the timings."""

SPLIT = ("vela", "zigzag", "analytic")
"""Backends that know the cost of each operator at its place in a network."""


class UnsupportedError(ValueError):
    """The device does not run an operator, or not on the part of it that is measured."""


class Backend(Protocol):
    """Measures on one device. The module of a backend has a class `Measure` that takes the device."""

    def measure_subgraph(self, subgraph: Subgraph) -> dict[Subgraph, Figures]:
        """Measure a subgraph as a part of a network: the figures of its operators, or of itself if those have none."""
        ...

    def measure_network(self, network: Network | Sequence[Subgraph]) -> Figures:
        """Measure a whole network, or a chain of subgraphs."""
        ...

    def versions(self) -> dict[str, str]:
        """Return the versions and the machine that the figures depend on, for the record."""
        ...


@runtime_checkable
class ParallelBackend(Backend, Protocol):
    """A backend that prices several operators at once, because their costs do not depend on their neighbours."""

    def measure_many(self, subgraphs: Sequence[Subgraph]) -> Iterator[dict[Subgraph, Figures]]:
        """Measure subgraphs over all cores, and yield the figures of each as soon as they are known, in order."""
        ...


def open_backend(device: Device) -> Backend:
    """Return the backend of a device, ready to measure.

    Raises:
        ValueError: There is no such backend, or all that is known of the device is its table.
        ImportError: The packages of the backend are not installed; the message says how to get them.
    """
    if device.backend == TABLE_ONLY:
        raise ValueError(f"Nothing here can measure {device.name!r}: all that is known of it is its table.")
    # Only names of this list: a device can come from anybody's file, which must not choose what is imported.
    if device.backend not in BACKENDS:
        raise ValueError(
            f"`backend` of device {device.name!r} must be one of {', '.join(BACKENDS)}; got {device.backend!r}."
        )
    module = importlib.import_module(f"{__package__}.backends.{device.backend}")
    backend: Backend = module.Measure(device)
    return backend


def available_backend(device: Device) -> Backend | None:
    """Return the backend of a device, or None where it cannot be measured on this machine.

    What counts or simulates does so anywhere; what times this machine says nothing about another one. Of closed forms
    there is nothing to measure. `why_unavailable` says why there is none.
    """
    return _backend_or_reason(device)[0]


def why_unavailable(device: Device) -> str:
    """Return in a sentence why a device cannot be measured here; an empty text where it can."""
    return _backend_or_reason(device)[1]


def _backend_or_reason(device: Device) -> tuple[Backend | None, str]:
    if device.backend in (TABLE_ONLY, ANALYTIC):
        return None, ""
    try:
        backend = open_backend(device)
    except (ImportError, FileNotFoundError) as error:
        # Devices are shared without the files that only their backends need.
        return None, f"{device.name} cannot be measured here: {error}"
    here = backend.versions().get("processor")
    # What counts or simulates names no processor, and so is never of another machine.
    there = device.measured_by.get("processor", here)
    if here != there:
        return None, f"{device.name} cannot be measured here: it is {there}, and this machine is {here}."
    return backend, ""

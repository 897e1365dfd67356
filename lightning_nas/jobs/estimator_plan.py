"""Groups of settings of the job that builds an estimator. Each checks its settings when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lightning_nas.estimator.fit.staircase import FIRST_WIDTH, MIN_POINTS
from lightning_nas.io.numbers import check_number

__all__ = ["DeviceChoice", "EstimatorPlan"]


@dataclass(frozen=True)
class DeviceChoice:
    """Which device is estimated, and what measures it.

    Attributes:
        device: Name of a shipped device; the path of a table, of a device's ``.json`` file, or of an estimator that
            somebody handed on; or the name of a new device, which needs `backend`.
        backend: What measures: the table is then continued. None for the table as it is.
        settings: Of a new device, in the terms of its backend.
        lanes: Channels that the device processes together; by default as documented, else as found.
    """

    device: str
    backend: str | None = None
    settings: Mapping[str, object] | None = None
    lanes: int | None = None

    def __post_init__(self) -> None:
        if self.lanes is not None:
            check_number("lanes", self.lanes, whole=True, least=1)


@dataclass(frozen=True)
class EstimatorPlan:
    """How much is measured, and how the fit is judged.

    Attributes:
        num_subgraphs: How many subgraphs the table is to cover; by default 10,000 that are compiled or simulated, and
            300 that are timed.
        num_networks: How many subnets are measured whole, beside stock networks, to judge the estimator; 0 for none.
        num_folds: Folds of the cross-validation over the rows.
        staircase_width: Up to which width latency is measured against channels; None for what the table holds.
    """

    num_subgraphs: int | None = None
    num_networks: int = 30
    num_folds: int = 5
    staircase_width: int | None = 129

    def __post_init__(self) -> None:
        if self.num_subgraphs is not None:
            check_number("num_subgraphs", self.num_subgraphs, whole=True, least=20)
        check_number("num_networks", self.num_networks, whole=True, least=0)
        check_number("num_folds", self.num_folds, whole=True, least=2)
        if self.staircase_width is not None:
            least = FIRST_WIDTH + MIN_POINTS - 1
            check_number("staircase_width", self.staircase_width, whole=True, least=least)

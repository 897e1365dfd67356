"""Logger that writes the figures of a training to a CSV file, and appends to it when the training is resumed."""

from __future__ import annotations

import csv
import io
import logging
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from lightning.pytorch.core.saving import save_hparams_to_yaml
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from typing_extensions import override

from lightning_nas.io.numbers import check_number
from lightning_nas.io.writing import write_text

__all__ = ["CSVLogger"]

log = logging.getLogger(__name__)

_STEP = "step"

Row: TypeAlias = dict[str, float | str]
"""Figures of one step by their names: numbers, or the text that a file has of them."""


class CSVLogger(Logger):
    """Writes ``metrics.csv`` as Lightning's ``CSVLogger`` does, and keeps the rows of an earlier process.

    Lightning's begins its file anew. Here the rows from the first step that is logged again are replaced, as those of
    an epoch that was begun when the training was interrupted, and all before them stay. The file is always whole.

    Args:
        save_dir: Directory of all logs.
        name: Folder in it.
        version: Folder in that.
        flush_logs_every_n_steps: After how many steps rows are written.

    Raises:
        ValueError: `flush_logs_every_n_steps` is no whole number of at least 1.

    Example::

        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for steps in ((0, 1, 2), (2, 3)):  # interrupted behind step 1, for example
        ...         logger = CSVLogger(folder, "logs", "search")
        ...         for step in steps:
        ...             logger.log_metrics({"loss": 0.5}, step)
        ...         logger.save()
        ...     print(Path(logger.log_dir, "metrics.csv").read_text().split())
        ['loss,step', '0.5,0', '0.5,1', '0.5,2', '0.5,3']
    """

    def __init__(
        self, save_dir: str | Path, name: str, version: str | int = 0, flush_logs_every_n_steps: int = 100
    ) -> None:
        super().__init__()
        check_number("flush_logs_every_n_steps", flush_logs_every_n_steps, whole=True, least=1)
        self._save_dir = Path(save_dir)
        self._name, self._version = name, version
        self._flush_every = flush_logs_every_n_steps
        self._hparams: dict[str, object] = {}
        self._rows: list[Row] | None = None
        self._is_written = True

    @property
    @override
    def name(self) -> str:
        """Folder in the directory of all logs, the version's included."""
        return f"{self._name}/{self._version}"

    @property
    @override
    def version(self) -> str:
        """Nothing: progress bars would show the end of a name as ``v_num``."""
        return ""

    @property
    @override
    def save_dir(self) -> str:
        return str(self._save_dir)

    @property
    def log_dir(self) -> str:
        """Directory of this training's logs."""
        return str(self._save_dir / self._name / str(self._version))

    @property
    def _file(self) -> Path:
        return Path(self.log_dir, "metrics.csv")

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._rows is None:
            known = _read(self._file)
            self._rows = [row for row in known if step is None or int(row[_STEP]) < step]
        step = len(self._rows) if step is None else step
        values = {key: value.item() if isinstance(value, Tensor) else value for key, value in metrics.items()}
        self._rows.append({**values, _STEP: step})
        self._is_written = False
        if (step + 1) % self._flush_every == 0:
            self.save()

    @override
    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, object] | Namespace | None = None) -> None:
        self._hparams.update(vars(params) if isinstance(params, Namespace) else params or {})
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        save_hparams_to_yaml(str(Path(self.log_dir, "hparams.yaml")), self._hparams)

    @override
    @rank_zero_only
    def save(self) -> None:
        """Write the logged rows to the file, behind those of earlier processes.

        Raises:
            UnwritableError: There is no room, or no right to write there.
        """
        if self._is_written or self._rows is None:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, sorted({key for row in self._rows for key in row}), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._file, text.getvalue())
        self._is_written = True

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()


def _read(path: Path) -> list[Row]:
    """Return the rows of a file; none of one that something else wrote or tore, which is replaced."""
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
            return [row for row in rows if int(row[_STEP]) >= 0]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        log.warning("%r is no log of a training (%s) and begins anew.", str(path), error)
        return []

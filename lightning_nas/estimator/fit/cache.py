"""Cache of fitted regressors in the user's cache folder, by the content of their tables."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lightning_nas.estimator.fit.regressor import VERSION, Regressor
from lightning_nas.io.writing import cache_folder

__all__ = ["cache_path", "cached"]

_log = logging.getLogger(__name__)


def cache_path(table: Path) -> Path:
    """Return where the regressor of a table is kept: a name for its content and for what fitted it."""
    key = hashlib.sha256(table.read_bytes())
    # Another release of these may fit other trees to the same table.
    key.update(f"{VERSION} {importlib.metadata.version('scikit-learn')} {np.__version__}".encode())
    return cache_folder() / f"{table.stem}-{key.hexdigest()[:16]}.npz"


def cached(path: Path | None, fit: Callable[[], Regressor]) -> Regressor:
    """Return the regressor of a file, or fit one and keep it there.

    Args:
        path: The file; None keeps nothing.
        fit: Makes the regressor where there is no file, or a damaged one.
    """
    if path is not None and path.exists():
        try:
            return Regressor.load(path)
        except ValueError as error:
            _log.warning("The cache is damaged and is made anew: %s", error)
    regressor = fit()
    if path is not None:
        try:
            regressor.save(path)
        except OSError as error:
            # A read-only home costs time at every start, but no result.
            _log.warning("The fitted estimator could not be cached at %s: %s", path, error)
    return regressor

"""Covariances of Gaussian processes between subgraphs."""

from __future__ import annotations

import numpy as np

__all__ = ["distances", "gauss", "matern", "standardised"]


def standardised(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the deviation of each column; infinity for one that never varies.

    What never varied when it was learnt must not count when something else comes.
    """
    spread = inputs.std(axis=0)
    return inputs.mean(axis=0), np.where(spread < 1e-9, np.inf, spread)


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the Euclidean distance of each row of `first` to each of `second`.

    Example::

        >>> distances(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 1.0]]))
        array([[5., 1.]])
    """
    # A product of matrices in place of all differences, which would take features times as much memory.
    squared = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1) - 2 * first @ second.T
    # Rounding can make squares of nearly equal rows negative.
    values: np.ndarray = np.sqrt(np.maximum(squared, 0))
    return values


def matern(distance: np.ndarray) -> np.ndarray:
    """Return Matérn's covariance of smoothness 3/2: once differentiable, as latency between two stairs is."""
    scaled = np.sqrt(3) * distance
    covariance: np.ndarray = (1 + scaled) * np.exp(-scaled)
    return covariance


def gauss(distance: np.ndarray) -> np.ndarray:
    """Return the squared exponential covariance, of what is smooth throughout."""
    covariance: np.ndarray = np.exp(-(distance**2) / 2)
    return covariance

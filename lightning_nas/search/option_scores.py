"""Scores of single options, fitted to the losses of sampled subnets by ridge regression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from lightning_nas.space.spec import Encoding

__all__ = ["utilities"]

_PENALTIES = np.logspace(-2, 4, 13)


def utilities(
    architectures: Sequence[Encoding], advantages: Sequence[float], node_sizes: Sequence[int]
) -> list[NDArray[np.float64]]:
    """Return a score of each option of each node: what it adds to the negative loss, by ridge regression.

    The penalty is chosen by leaving architectures out (as the bilinear model of BINAS, arXiv 2110.12399, without its
    pairs). Every budget is solved by the same utilities, without another evaluation.

    Args:
        architectures: Encodings of sampled subnets.
        advantages: Loss of each, less the mean on its batch.
        node_sizes: Number of options of each node.

    Example::

        >>> encodings = [(a, b) for a in range(2) for b in range(3)] * 4
        >>> found = utilities(encodings, [0.5 * a - b for a, b in encodings], (2, 3))
        >>> [row.round(2).tolist() for row in found]
        [[0.25, -0.25], [-1.0, 0.0, 1.0]]
    """
    starts = np.concatenate([[0], np.cumsum(node_sizes)])
    columns = np.asarray(architectures, dtype=np.intp) + starts[:-1]
    inputs = np.zeros((len(columns), starts[-1]))
    np.put_along_axis(inputs, columns, 1.0, axis=1)
    fitted = RidgeCV(_PENALTIES).fit(inputs, -np.asarray(advantages, dtype=np.float64))
    # Each architecture has one option of every node, so only differences within a node mean anything.
    return [row - row.mean() for row in np.split(fitted.coef_.astype(np.float64), starts[1:-1])]

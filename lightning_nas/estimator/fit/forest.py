"""Boosted regression trees as numpy arrays, and their prediction for all rows and trees at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NODE", "Forest"]

NODE = np.dtype(
    [
        ("value", "<f8"),
        ("count", "<u4"),
        ("feature_idx", "<i8"),
        ("num_threshold", "<f8"),
        ("missing_go_to_left", "u1"),
        ("left", "<u4"),
        ("right", "<u4"),
        ("gain", "<f8"),
        ("depth", "<u4"),
        ("is_leaf", "u1"),
        ("bin_threshold", "u1"),
        ("is_categorical", "u1"),
        ("bitset_idx", "<u4"),
    ]
)
"""A node as it is stored. Prediction reads value, feature_idx, num_threshold, left, right and is_leaf alone."""

# A leaf's number within its tree fits in a byte.
_MAX_LEAVES = 256
# Rows that are predicted together: more share the overhead of a call, fewer keep the arrays in the processor's cache.
_NUM_ROWS = 2048
_WORD_BITS = 64

_Words = NDArray[np.uint64]
_Places = NDArray[np.int64]


@dataclass(frozen=True)
class _Level:
    """The nodes of all trees at one depth, by their places among the nodes of that depth.

    Attributes:
        inner: Nodes that test a row. Their left children come first at the next depth, then their right ones.
        tests: Number of the test of each.
        leaves: Nodes that have a value.
        slots: Where each leaf's rows are noted: a fixed number of slots a tree.
    """

    inner: _Places
    tests: _Places
    leaves: _Places
    slots: _Places


class Forest:
    """Boosted trees: the prediction is an offset plus the value of each tree's leaf.

    Rows are sets of bits here, a bit a row. Every distinct test is made once for all rows. A node's rows are those of
    its parent that pass the parent's test, so that a depth of all trees takes two logical operations. The number of
    each row's leaf follows from the rows of all leaves, bit by bit.

    Args:
        nodes: The nodes of all trees, of type `NODE`; children are numbered within their tree.
        starts: Number of the first node of each tree.
        offset: What the values of the leaves are added to.

    Raises:
        ValueError: The arrays are not those of trees.

    Example::

        >>> nodes = np.zeros(3, NODE)
        >>> nodes["is_leaf"], nodes["value"], nodes["num_threshold"] = [0, 1, 1], [0.0, 1.0, 2.0], [0.5, 0.0, 0.0]
        >>> nodes["left"][0], nodes["right"][0] = 1, 2
        >>> Forest(nodes, np.array([0]), 10.0).predict(np.array([[0.0], [0.5], [0.6]]))
        array([11., 11., 12.])
    """

    def __init__(self, nodes: np.ndarray, starts: np.ndarray, offset: float) -> None:
        if not _is_forest(nodes, starts):
            raise ValueError("its trees are malformed.")
        self.nodes, self.starts, self.offset = nodes, starts, offset
        self._thresholds, self._num_tests, test_of = _distinct_tests(nodes)
        self._levels, self._values = _levels(nodes, starts, test_of)

    @property
    def num_features(self) -> int:
        """Columns that the inputs must have: one more than the largest that is tested."""
        return max(self._thresholds, default=-1) + 1

    def predict(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the prediction of each row: the offset, plus tree after tree.

        Args:
            inputs: One row a sample, without gaps.
        """
        total = np.full(len(inputs), self.offset)
        for first in range(0, len(inputs), _NUM_ROWS):
            rows = slice(first, first + _NUM_ROWS)
            leaves = self._leaves(inputs[rows])
            for values, leaf in zip(self._values, leaves, strict=True):
                total[rows] += values[leaf]
        return total

    def _leaves(self, inputs: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return the leaf of each row within each tree, shape (num_trees, num_rows)."""
        passed = self._passed(inputs)
        num_trees, num_slots = self._values.shape
        # Bits beyond the last row are never read.
        rows: _Words = np.full((num_trees, passed.shape[1]), np.iinfo(np.uint64).max, np.uint64)
        noted: _Words = np.zeros((num_trees * num_slots, passed.shape[1]), np.uint64)
        for level in self._levels:
            noted[level.slots] = rows[level.leaves]
            above = rows[level.inner]
            left = above & passed[level.tests]
            rows = np.concatenate([left, above ^ left])
        return _numbers(noted.reshape(num_trees, num_slots, -1), len(inputs))

    def _passed(self, inputs: NDArray[np.float64]) -> _Words:
        """Return the rows that pass each test, as bits."""
        num_words = -(-len(inputs) // _WORD_BITS)
        columns = np.zeros((self.num_features, num_words * _WORD_BITS))
        columns[:, : len(inputs)] = inputs[:, : self.num_features].T
        bits = np.empty((self._num_tests, num_words * _WORD_BITS // 8), np.uint8)
        first = 0
        for feature, thresholds in self._thresholds.items():
            tests = slice(first, first + len(thresholds))
            bits[tests] = np.packbits(columns[feature] <= thresholds[:, None], axis=1, bitorder="little")
            first = tests.stop
        return bits.view(np.uint64)


def _numbers(noted: _Words, num_rows: int) -> NDArray[np.uint8]:
    """Return the slot of each row, shape (num_trees, num_rows).

    Args:
        noted: Rows by tree and slot; a row is in one slot of each tree. The number of slots is a power of two.
        num_rows: How many of the rows are asked.
    """
    numbers = np.zeros((len(noted), num_rows), np.uint8)
    while noted.shape[1] > 1:
        half = noted.shape[1] // 2
        # The highest bit of the number is 1 in the upper half of the slots. Folded, the halves give the other bits.
        upper = np.bitwise_or.reduce(noted[:, half:], axis=1)
        numbers <<= 1
        numbers |= np.unpackbits(upper.view(np.uint8), axis=1, count=num_rows, bitorder="little")
        noted = noted[:, :half] | noted[:, half:]
    return numbers


def _distinct_tests(nodes: np.ndarray) -> tuple[dict[int, NDArray[np.float64]], int, _Places]:
    """Return the thresholds by feature, how many there are, and the number of each inner node's among all of them."""
    inner = np.flatnonzero(nodes["is_leaf"] == 0)
    features, thresholds = nodes["feature_idx"][inner], nodes["num_threshold"][inner]
    order = np.lexsort([thresholds, features])
    features, thresholds = features[order], thresholds[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (features[1:] != features[:-1]) | (thresholds[1:] != thresholds[:-1])
    test_of = np.zeros(len(nodes), np.int64)
    test_of[inner[order]] = np.cumsum(is_new) - 1
    used, first = np.unique(features[is_new], return_index=True)
    # Without a single test there is one empty piece too many.
    pieces = np.split(thresholds[is_new], first[1:])[: len(used)]
    return dict(zip(used.tolist(), pieces, strict=True)), int(is_new.sum()), test_of


def _levels(nodes: np.ndarray, starts: np.ndarray, test_of: _Places) -> tuple[list[_Level], NDArray[np.float64]]:
    """Return the nodes by depth, and the values of the leaves by tree and slot."""
    tree_of = np.repeat(np.arange(len(starts)), np.diff([*starts, len(nodes)]))
    is_leaf = nodes["is_leaf"] != 0
    leaves = np.flatnonzero(is_leaf)
    counts = np.bincount(tree_of[leaves], minlength=len(starts))
    # A power of two, so that `_numbers` can halve it.
    num_slots = 1 << int(counts.max() - 1).bit_length()
    slot_of = np.zeros(len(nodes), np.int64)
    slot_of[leaves] = np.arange(len(leaves)) - np.repeat(np.cumsum(counts) - counts, counts)
    slot_of += tree_of * num_slots
    values = np.zeros(len(starts) * num_slots)
    values[slot_of[leaves]] = nodes["value"][leaves]
    levels, here = [], starts
    while len(here):
        inner, ends = np.flatnonzero(~is_leaf[here]), np.flatnonzero(is_leaf[here])
        parents = here[inner]
        levels.append(_Level(inner, test_of[parents], ends, slot_of[here[ends]]))
        children = [starts[tree_of[parents]] + nodes[side][parents] for side in ("left", "right")]
        here = np.concatenate(children)
    return levels, values.reshape(len(starts), num_slots)


def _is_forest(nodes: np.ndarray, starts: np.ndarray) -> bool:
    """Return whether each inner node has two children behind it in its tree, and each child one parent.

    The walk looks at none of this: it would not end in a circle, and read what is not there.
    """
    ordered = starts.ndim == nodes.ndim == 1 and starts.dtype == np.int64 and len(starts) > 0 and starts[0] == 0
    if nodes.dtype != NODE or not ordered or np.any(np.diff(starts) <= 0) or starts[-1] >= len(nodes):
        return False
    sizes = np.diff([*starts, len(nodes)])
    size, start = np.repeat(sizes, sizes), np.repeat(starts, sizes)
    inner = nodes["is_leaf"] == 0
    children = np.stack([nodes["left"], nodes["right"]]).astype(np.int64)
    within = np.all((children > np.arange(len(nodes)) - start) & (children < size), axis=0)
    known = (nodes["feature_idx"] >= 0) & (nodes["is_categorical"] == 0)
    if not np.all(~inner | (within & known)):
        return False
    reached = np.sort(np.concatenate([starts, (start + children)[:, inner].reshape(-1)]))
    return np.array_equal(reached, np.arange(len(nodes))) and bool(np.all(sizes <= 2 * _MAX_LEAVES - 1))

"""Integer matrices into leaf segments: least total meterset, few segments, with or without interleaf collisions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Decomposition:
    """Segments whose weighted sum is the matrix.

    ``weights`` (S,) positive integers; ``left`` and ``right`` (S, rows) column edges: row i of segment s is open on the
    columns left <= j < right, and closed where left = right (with the interleaf constraint at a place where the
    neighbouring rows let the pair stand; without it at 0).
    """

    weights: IntArray
    left: IntArray
    right: IntArray

    @property
    def total(self) -> int:
        """Total weight: the meterset in steps of the discretisation."""
        return int(self.weights.sum())

    def matrix(self, columns: int) -> IntArray:
        """(rows, columns) weighted sum of the segments."""
        column = np.arange(columns)
        opened = (self.left[..., None] <= column) & (column < self.right[..., None])
        total: IntArray = np.einsum("s,srj->rj", self.weights, opened.astype(np.int64))
        return total


def least_total(levels: NDArray[np.integer], *, interleaf: bool = False) -> int:
    """Least total weight with which ``levels`` (rows, cols) >= 0 can be delivered.

    Without constraint the largest row sum of positive differences (Engel, Discrete Appl. Math. 152 (2005) 35); with
    ``interleaf`` (no leaf passes the opposed leaf of a neighbouring row) the longest path of Kalinowski (Discrete
    Appl. Math. 152 (2005) 52). Raises ValueError for anything but a matrix of non-negative integers.
    """
    matrix = _checked(levels)
    if matrix.size == 0:
        return 0
    if interleaf:
        from dicomplan.sequencing._kernels_interleaf import interleaf_total

        return int(interleaf_total(matrix))
    return int(np.clip(np.diff(matrix, axis=1, prepend=0), 0, None).sum(axis=1).max())


def decompose(
    levels: NDArray[np.integer], *, interleaf: bool = False, restarts: int = 100, seed: int = 0
) -> Decomposition:
    """Segments that sum exactly to ``levels`` (rows = leaf pairs, cols along leaf travel), at the least total weight.

    A greedy pass (largest weight that keeps the total optimal, intervals that clear most differences: Engel 2005,
    Kalinowski 2005) and ``restarts`` seeded random ones; the first with the fewest segments is kept (with
    ``interleaf`` restarts that fall clearly behind it are given up), so the answer
    depends on nothing but the arguments. ``interleaf`` forbids a leaf to pass the opposed leaf of a neighbouring row.
    Raises ValueError for anything but a matrix of non-negative integers.
    """
    from dicomplan.sequencing._kernels import decompose_free
    from dicomplan.sequencing._kernels_interleaf import decompose_interleaf

    matrix = _checked(levels)
    rows = matrix.shape[0]
    if matrix.size == 0 or not matrix.any():
        empty = np.zeros((0, rows), np.int64)
        return Decomposition(np.zeros(0, np.int64), empty, empty.copy())
    kernel = decompose_interleaf if interleaf else decompose_free
    weights, left, right = kernel(matrix, restarts, seed)
    return Decomposition(weights, left, right)


def _checked(levels: NDArray[np.integer]) -> IntArray:
    matrix = np.ascontiguousarray(levels)
    if matrix.ndim != 2 or not np.issubdtype(matrix.dtype, np.integer):
        raise ValueError(f"levels are a matrix of integers, found {matrix.ndim} axes of {matrix.dtype}")
    if matrix.size and matrix.min() < 0:
        raise ValueError(f"levels are not negative, found {matrix.min()}")
    return matrix.astype(np.int64)

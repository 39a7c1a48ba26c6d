"""VoxelSet: the voxels of one structure and what each counts for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_COUNTED_COVERAGE = 0.5  # ARCHITECTURE.md: Dmax and Dmin are over voxels covered at least half


@dataclass(frozen=True)
class VoxelSet:
    """Voxels of a structure among the optimisation voxels.

    ``indices`` (n,) int64, strictly rising, count the entries of the dose vector; ``weights`` (n,) float64, positive, are
    the covered volumes in cm3 (where no term states a volume in cc, any unit does). ``coverage`` (n,), optional, is
    the covered fraction 0..1: hard limits then hold at voxels covered at least half (at all of them, if none is). ``cell``,
    optional, is the volume of a whole voxel where they are finest, which is where the structure ends (the largest weight).
    Raises ValueError for an empty set, indices that do not rise, or weights that are not positive and finite.
    """

    name: str
    indices: IntArray
    weights: FloatArray
    coverage: FloatArray | None = None
    cell: float | None = None

    def __post_init__(self) -> None:
        indices = np.ascontiguousarray(self.indices, dtype=np.int64)
        weights = np.ascontiguousarray(self.weights, dtype=np.float64)
        if indices.ndim != 1 or indices.shape != weights.shape or len(indices) == 0:
            raise ValueError(f"voxels of {self.name}: {indices.shape} indices, {weights.shape} weights")
        if indices[0] < 0 or (np.diff(indices) <= 0).any():
            raise ValueError(f"voxels of {self.name}: indices must rise strictly from 0 or more")
        if not (np.isfinite(weights).all() and (weights > 0).all()):
            raise ValueError(f"voxels of {self.name}: weights must be positive")
        if self.coverage is not None and np.shape(self.coverage) != indices.shape:
            raise ValueError(f"voxels of {self.name}: {np.shape(self.coverage)} coverage for {indices.shape} indices")
        object.__setattr__(self, "indices", indices)
        object.__setattr__(self, "weights", weights)

    @property
    def volume(self) -> float:
        """Sum of the weights."""
        return float(self.weights.sum())

    @property
    def whole(self) -> float:
        """Volume of a whole voxel where they are finest."""
        return float(self.weights.max()) if self.cell is None else self.cell

    def counted(self) -> NDArray[np.bool_]:
        """(n,) whether a voxel is covered enough to be held to a hard limit."""
        if self.coverage is None:
            return np.ones(len(self.indices), dtype=np.bool_)
        enough: NDArray[np.bool_] = np.asarray(self.coverage) >= _COUNTED_COVERAGE
        return enough if enough.any() else np.ones(len(self.indices), dtype=np.bool_)

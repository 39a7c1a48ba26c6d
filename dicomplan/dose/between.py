"""Doses between voxel centres, as goals are judged: a linear map from the dose of voxels to that of voxels and points."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import block_diag, csr_array

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class RowsOfDose:
    """``matrix`` (rows, voxels) float32, CSR: each row a voxel as it is, or a point interpolated between some of them."""

    matrix: csr_array
    _transposed: csr_array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_transposed", self.matrix.T.tocsr())

    @property
    def count(self) -> int:
        """Number of rows."""
        return int(self.matrix.shape[0])

    def dose(self, voxel_dose: NDArray[Any]) -> NDArray[Any]:
        """(rows,) dose from that of the voxels (voxels,), in its own precision."""
        rows: NDArray[Any] = self.matrix @ voxel_dose
        return rows

    def adjoint(self, gradient: NDArray[Any]) -> NDArray[Any]:
        """(voxels,) transpose of :meth:`dose`, from (rows,)."""
        voxels: NDArray[Any] = self._transposed @ gradient
        return voxels

    def on(self, rows: IntArray) -> tuple[IntArray, RowsOfDose]:
        """Some of the rows, and the voxels (rising) that these need: the new columns. Doses agree to the last bit."""
        part = self.matrix[rows]
        needed = np.unique(part.indices)
        return needed.astype(np.int64), RowsOfDose(part[:, needed])

    def repeated(self, times: int) -> RowsOfDose:
        """The same map for ``times`` doses of the voxels, one after the other."""
        return self if times == 1 else RowsOfDose(csr_array(block_diag([self.matrix] * times, format="csr")))

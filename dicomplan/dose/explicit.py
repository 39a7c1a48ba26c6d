"""The influence of apertures on voxels as a dense matrix: a few hundred columns, each the dose of one open segment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class DenseInfluence:
    """``columns`` (segments, voxels) float32: dose in Gy of the course for 1 MU of each segment in one fraction."""

    columns: Float32Array

    @property
    def voxel_count(self) -> int:
        """Number of voxels."""
        return int(self.columns.shape[1])

    @property
    def beamlet_count(self) -> int:
        """Number of segments."""
        return int(self.columns.shape[0])

    def forward(self, metersets_mu: FloatArray) -> Float32Array:
        """Dose (voxels,) in Gy of the course."""
        dose: Float32Array = metersets_mu.astype(np.float32) @ self.columns
        return dose

    def adjoint(self, gradient: NDArray[np.floating]) -> FloatArray:
        """(segments,) transpose of :meth:`forward`, per MU."""
        result: FloatArray = (self.columns @ gradient.astype(np.float32)).astype(np.float64)
        return result

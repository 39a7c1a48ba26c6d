"""Ray tracing through voxel grids."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dicomplan.geometry._kernels_rays import path_integrals
from dicomplan.geometry.grid import VoxelGrid

Float32Array = NDArray[np.float32]


def path_integral(volume: Float32Array, grid: VoxelGrid, source_mm: ArrayLike, points_mm: ArrayLike) -> Float32Array:
    """Integral of ``volume`` (z, y, x) in (its unit) x mm along straight lines from ``source_mm`` to each point.

    ``source_mm`` (3,) and ``points_mm`` (n, 3) are patient coordinates (x, y, z). Exact in each voxel; 0 outside the
    grid. With densities relative to water this is the radiological depth in mm of water. float32 (n,).
    """
    source = np.ascontiguousarray(grid.local_from_patient(source_mm)[::-1])
    points = np.ascontiguousarray(grid.local_from_patient(points_mm)[:, ::-1])
    low = np.array([grid.edges_mm(axis)[0] for axis in range(3)])
    out = np.empty(len(points), dtype=np.float32)
    spacing = np.array(grid.spacing_mm, dtype=np.float64)
    path_integrals(np.ascontiguousarray(volume, dtype=np.float32), low, spacing, source, points, out)
    return out

"""A coarse grid over a fine one, for what varies slowly: means of boxes of voxels, and interpolation back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry.frames import BeamFrame
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.geometry.rays import path_integral

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

CELL_MM = 10.0
"""About the size of the cells: a seventh of the mean free path of the photons that are followed on them."""


@dataclass(frozen=True)
class CoarseGrid:
    """``grid`` of the cells, and their edges ``starts`` (z, y, x; cells + 1 each) counted in fine voxels."""

    grid: VoxelGrid
    fine: tuple[int, int, int]
    starts: tuple[FloatArray, FloatArray, FloatArray]

    def averaged(self, volume: Float32Array) -> Float32Array:
        """Mean of a fine volume (z, y, x) in each cell."""
        from dicomplan.dose import _kernels_rescatter as kernels

        mean = np.zeros(self.grid.shape, dtype=np.float32)
        kernels.averaged(volume, np.array(self.grid.shape), *self.starts, mean)
        voxels = np.prod([n / cells for n, cells in zip(self.fine, self.grid.shape, strict=True)])
        mean /= np.float32(voxels)
        return mean

    def interpolated(self, coarse: Float32Array) -> Float32Array:
        """Trilinear values at the fine voxels' centres; beyond the outermost cells' centres continued."""
        from dicomplan.dose import _kernels_rescatter as kernels

        index: list[NDArray[np.int64]] = []
        share: list[Float32Array] = []
        for n, edges in zip(self.fine, self.starts, strict=True):
            centres = 0.5 * (edges[1:] + edges[:-1])
            place = (np.arange(n) + 0.5 - centres[0]) / (centres[1] - centres[0])
            low = np.clip(place.astype(np.int64), 0, len(centres) - 2)
            index.append(low)
            share.append((place - low).astype(np.float32))
        out = np.empty(self.fine, dtype=np.float32)
        kernels.interpolated(coarse, index[0], index[1], index[2], share[0], share[1], share[2], out)
        return out


def coarse_depth_mm(coarse: CoarseGrid, electron_relative: Float32Array, frame: BeamFrame) -> Float32Array:
    """Water-equivalent path (mm) from the source to each cell's centre, (z, y, x); ``electron_relative`` of the fine grid."""
    electron = coarse.averaged(electron_relative)
    cells = np.indices(coarse.grid.shape).reshape(3, -1).T
    depth = path_integral(electron, coarse.grid, frame.source_mm, coarse.grid.patient_from_index(cells))
    return depth.reshape(coarse.grid.shape)


def coarse_grid(grid: VoxelGrid) -> CoarseGrid:
    """Cells of about :data:`CELL_MM` that fill a grid, no smaller than its voxels; at least two along each axis.

    Along an axis of one voxel they are half of it.
    """
    pairs = list(zip(grid.shape, grid.spacing_mm, strict=True))
    cells = [max(2, min(n, round(n * step / CELL_MM))) for n, step in pairs]
    size = [n * step / count for (n, step), count in zip(pairs, cells, strict=True)]
    starts = [np.linspace(0.0, n, count + 1) for n, count in zip(grid.shape, cells, strict=True)]
    first = grid.patient_from_index([0.5 * one[1] - 0.5 for one in starts])
    own = VoxelGrid(
        (cells[0], cells[1], cells[2]),
        (size[0], size[1], size[2]),
        (float(first[0]), float(first[1]), float(first[2])),
        grid.direction,
    )
    return CoarseGrid(own, grid.shape, (starts[0], starts[1], starts[2]))

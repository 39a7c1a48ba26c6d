"""Ray tracing through voxel grids."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dicomplan.geometry._kernels_rays import path_integrals, voxel_places
from dicomplan.geometry.grid import VoxelGrid

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Content:
    """The box of a volume's voxels, ``first`` to ``last`` (exclusive), each (3,) in order (z, y, x), beyond which every
    voxel has the value ``outside``: what rays need not look at."""

    first: IntArray
    last: IntArray
    outside: float


def content_of(volume: Float32Array) -> Content:
    """The smallest such box of a volume (z, y, x); ``outside`` is the value of its first voxel."""
    outside = volume[0, 0, 0]
    differs = volume != outside
    # planes first: the other axes are then looked at in what is left
    first, last = np.zeros(3, dtype=np.int64), np.zeros(3, dtype=np.int64)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(differs.any(axis=others))
        if len(found) == 0:
            return Content(first, first, float(outside))
        first[axis], last[axis] = found[0], found[-1] + 1
        kept = [slice(None)] * 3
        kept[axis] = slice(first[axis], last[axis])
        differs = differs[tuple(kept)]
    return Content(first, last, float(outside))


def path_integral(volume: Float32Array, grid: VoxelGrid, source_mm: ArrayLike, points_mm: ArrayLike) -> Float32Array:
    """Integral of ``volume`` (z, y, x) in (its unit) x mm along straight lines from ``source_mm`` to each point.

    ``source_mm`` (3,) and ``points_mm`` (n, 3) are patient coordinates (x, y, z). Exact in each voxel; 0 outside the
    grid. With densities relative to water this is the radiological depth in mm of water. float32 (n,).
    """
    points = np.ascontiguousarray(grid.local_from_patient(points_mm)[:, ::-1])
    whole = Content(np.zeros(3, dtype=np.int64), np.array(grid.shape, dtype=np.int64), 0.0)
    return local_path_integral(volume, grid, whole, local_point(grid, source_mm), points)


def local_path_integral(
    volume: Float32Array, grid: VoxelGrid, content: Content, source_mm: FloatArray, points_mm: FloatArray
) -> Float32Array:
    """As :func:`path_integral`, in local coordinates of the order (z, y, x), for a volume whose content is known."""
    low = np.array([grid.edges_mm(axis)[0] for axis in range(3)])
    spacing = np.array(grid.spacing_mm, dtype=np.float64)
    held = np.ascontiguousarray(volume, dtype=np.float32)
    out = np.empty(len(points_mm), dtype=np.float32)
    path_integrals(held, low, spacing, content.first, content.last, content.outside, source_mm, points_mm, out)
    return out


def local_point(grid: VoxelGrid, point_mm: ArrayLike) -> FloatArray:
    """A patient point or direction (x, y, z) in the grid's local coordinates, order (z, y, x)."""
    return np.ascontiguousarray(grid.local_from_patient(point_mm)[::-1])


def local_centres(grid: VoxelGrid, voxels: IntArray) -> FloatArray:
    """Local coordinates (n, 3), order (z, y, x), mm, of the centres of voxels given by their linear index (C order)."""
    first = np.array([grid.axis_mm(axis)[0] for axis in range(3)])
    out = np.empty((len(voxels), 3))
    spacing, shape = np.array(grid.spacing_mm, dtype=np.float64), np.array(grid.shape, dtype=np.int64)
    voxel_places(np.ascontiguousarray(voxels, dtype=np.int64), first, spacing, shape, out)
    return out

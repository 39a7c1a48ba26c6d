"""Doses on different grids, brought together: on the axes of a patient's images, and summed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dicomplan.dose.volume import DoseVolume
from dicomplan.geometry.grid import Matrix, VoxelGrid
from dicomplan.geometry.resample import trilinear_on_grid

_SAME_MM = 1e-3


def on_axes(dose: DoseVolume, direction: Matrix) -> DoseVolume:
    """The dose on a grid whose axes are those of ``direction`` (columns: x, y, z index in patient coordinates).

    Unchanged where it has them already. A grid that is only turned by right angles keeps its voxels exactly; any other is
    sampled trilinearly at steps as fine as its own.
    """
    grid = dose.grid
    wanted = replace(grid, direction=direction)
    if grid.same_axes(wanted):
        return dose
    # along each new axis the step of the old axis that runs most nearly along it
    along = np.abs(wanted.direction_matrix.T @ grid.direction_matrix)
    steps = np.array(grid.spacing_mm[::-1])[np.argmax(along, axis=1)]
    corners = [
        [float(end * (count - 1)) for end, count in zip(ends, grid.shape, strict=True)] for ends in np.ndindex(2, 2, 2)
    ]
    local = wanted.local_from_patient(grid.patient_from_index(corners))
    low, high = local.min(axis=0), local.max(axis=0)
    counts = np.floor((high - low) / steps + 1e-6).astype(int) + 1
    origin = wanted.patient_from_local(low)
    turned = replace(
        wanted,
        shape=(int(counts[2]), int(counts[1]), int(counts[0])),
        spacing_mm=(float(steps[2]), float(steps[1]), float(steps[0])),
        origin_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
    )
    return DoseVolume(turned, trilinear_on_grid(dose.dose_gy, grid, turned))


def summed(doses: Sequence[DoseVolume]) -> DoseVolume:
    """The sum of doses in Gy whose grids have the same axes, in double precision.

    On one grid it is exact. Else the finest grid is continued to where the others reach, and every dose sampled on it
    trilinearly; outside of its own grid a dose counts as 0. Raises ValueError for no dose or different axes.
    """
    if not doses:
        raise ValueError("no dose to sum")
    if len(doses) == 1:
        return doses[0]
    grids = [dose.grid for dose in doses]
    if all(same_voxels(grids[0], grid) for grid in grids):
        parts = [dose.dose_gy for dose in doses]
        grid = grids[0]
    else:
        grid = _common(grids)
        parts = [trilinear_on_grid(dose.dose_gy, dose.grid, grid) for dose in doses]
    total = np.zeros(grid.shape, dtype=np.float64)
    for part in parts:
        total += part
    return DoseVolume(grid, total.astype(np.float32))


def same_voxels(first: VoxelGrid, second: VoxelGrid) -> bool:
    """Whether two grids have the same voxels, within 0.001 mm."""
    if first.shape != second.shape or not first.same_axes(second):
        return False
    ends = [[0.0, 0.0, 0.0], [float(count - 1) for count in first.shape]]
    apart = first.patient_from_index(ends) - second.patient_from_index(ends)
    return bool(np.abs(apart).max() <= _SAME_MM)


def _common(grids: Sequence[VoxelGrid]) -> VoxelGrid:
    finest = min(grids, key=lambda grid: grid.voxel_volume_cc)
    if not all(finest.same_axes(grid) for grid in grids):
        raise ValueError("the doses' grids have different axes")
    start, stop = [0, 0, 0], list(finest.shape)
    for axis in range(3):
        first, step = finest.edges_mm(axis)[0], finest.spacing_mm[axis]
        for grid in grids:
            edges = (grid.edges_mm(axis)[[0, -1]] - first) / step
            start[axis] = min(start[axis], int(np.floor(edges[0] + 1e-6)))
            stop[axis] = max(stop[axis], int(np.ceil(edges[1] - 1e-6)))
    return finest.crop((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

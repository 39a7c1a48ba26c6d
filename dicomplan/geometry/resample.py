"""Resampling between grids: conservative box averages and trilinear sampling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry._kernels import trilinear_points, weighted_axis
from dicomplan.geometry.grid import VoxelGrid

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

_POINTS_AT_ONCE = 2_000_000  # bounds the memory for points of turned grids


def overlap_weights(
    source_low_mm: float, source_step_mm: float, source_count: int, edges_mm: FloatArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """How much of each target cell each source cell fills, along one axis.

    Source cell i spans ``source_low_mm + source_step_mm * [i, i + 1]``; target cells lie between ``edges_mm`` (m + 1).
    Returns ``start`` (m), ``count`` (m) and ``weight`` (m, k): overlap length / target length for the source cells
    ``start + 0..count - 1``. Parts of a target cell outside the source count as zeros. Lengths in mm.
    """
    edges = (np.asarray(edges_mm, dtype=np.float64) - source_low_mm) / source_step_mm
    # an edge within 1e-9 of a cell of a source edge is on it: no slivers from rounding
    near = np.rint(edges)
    edges = np.where(np.abs(edges - near) < 1e-9 * np.maximum(1.0, np.abs(near)), near, edges)
    low, high = edges[:-1], edges[1:]
    start = np.clip(np.floor(low), 0, source_count).astype(np.int64)
    stop = np.clip(np.ceil(high), 0, source_count).astype(np.int64)
    count = np.maximum(stop - start, 0)
    cells = start[:, None] + np.arange(max(int(count.max(initial=0)), 1))
    overlap = np.minimum(high[:, None], cells + 1) - np.maximum(low[:, None], cells)
    weight = np.clip(overlap, 0.0, None) / (high - low)[:, None]
    weight[cells >= stop[:, None]] = 0.0
    return start, count, weight


def _along_axis(volume: Float32Array, axis: int, weights: tuple[IntArray, IntArray, FloatArray]) -> Float32Array:
    outer = int(np.prod(volume.shape[:axis], dtype=np.int64))
    inner = int(np.prod(volume.shape[axis + 1 :], dtype=np.int64))
    shape = (*volume.shape[:axis], len(weights[0]), *volume.shape[axis + 1 :])
    out = np.empty((outer, len(weights[0]), inner), dtype=np.float32)
    weighted_axis(np.ascontiguousarray(volume).reshape(outer, volume.shape[axis], inner), *weights, out)
    return out.reshape(shape)


def _separable(volume: Float32Array, weights: list[tuple[IntArray, IntArray, FloatArray]]) -> Float32Array:
    """Apply per-axis weights, the axis that shrinks the data most first."""
    result = np.asarray(volume, dtype=np.float32)
    for axis in sorted(range(3), key=lambda a: len(weights[a][0]) / volume.shape[a]):
        result = _along_axis(result, axis, weights[axis])
    return result


def box_average(volume: Float32Array, from_grid: VoxelGrid, to_grid: VoxelGrid) -> Float32Array:
    """Volume-weighted average of a piecewise constant ``volume`` over each voxel of ``to_grid``; float32 (z, y, x).

    Outside ``from_grid`` the volume is 0; the integral is conserved where ``to_grid`` contains it. Separable, exact.
    Raises ValueError unless both grids have the same axes.
    """
    if not from_grid.same_axes(to_grid):
        raise ValueError("box averages need grids with the same axes")
    weights = [
        overlap_weights(
            float(from_grid.local_origin_mm[2 - axis]) - 0.5 * from_grid.spacing_mm[axis],
            from_grid.spacing_mm[axis],
            from_grid.shape[axis],
            to_grid.edges_mm(axis),
        )
        for axis in range(3)
    ]
    touched = [np.flatnonzero(weight.sum(axis=1) > 0) for _, _, weight in weights]
    out = np.zeros(to_grid.shape, dtype=np.float32)
    if all(len(indices) for indices in touched):
        # only the part of the target that the source touches is computed: structures are small, dose grids large
        span = tuple(slice(int(indices[0]), int(indices[-1]) + 1) for indices in touched)
        cut = [(s[part], c[part], w[part]) for (s, c, w), part in zip(weights, span, strict=True)]
        out[span] = _separable(volume, cut)
    return out


def gaussian_average(volume: Float32Array, grid: VoxelGrid, sigma_mm: float, truncated: float) -> Float32Array:
    """``volume`` (z, y, x) under a normalised Gaussian that ends at ``truncated`` times ``sigma_mm``; float32 (z, y, x).

    It has the grid's spacing, not necessarily its shape. Beyond it the outermost voxels go on.
    """
    return _separable(
        volume,
        [
            _gaussian_weights(size, sigma_mm / step, truncated)
            for size, step in zip(volume.shape, grid.spacing_mm, strict=True)
        ],
    )


def _gaussian_weights(size: int, sigma: float, truncated: float) -> tuple[IntArray, IntArray, FloatArray]:
    """As :func:`overlap_weights` has them, of an axis of ``size`` voxels; ``sigma`` in voxels."""
    reach = int(truncated * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    share = np.exp(-0.5 * (offsets / sigma) ** 2)
    share /= share.sum()
    kept = min(size, 2 * reach + 1)
    start = np.clip(np.arange(size) - reach, 0, size - kept)
    # what lies beyond an end is added to the voxel there
    column = np.clip(np.arange(size)[:, None] + offsets, 0, size - 1) - start[:, None]
    weight = np.zeros((size, kept))
    np.add.at(weight, (np.arange(size)[:, None], column), share)
    return start, np.full(size, kept, dtype=np.int64), weight


def trilinear(volume: Float32Array, grid: VoxelGrid, points_local_mm: FloatArray) -> Float32Array:
    """Trilinear values of ``volume`` (z, y, x) at local points (..., 3) (x, y, z) in mm; float32 of shape (...).

    Within half a voxel beyond the outermost voxel centres the nearest value along that axis is held; farther out
    (outside the voxels) the value is 0. ``points_local_mm`` are local coordinates of ``grid``.
    """
    points = np.asarray(points_local_mm, dtype=np.float64)
    flat = np.ascontiguousarray(points.reshape(-1, 3))
    out = np.empty(len(flat), dtype=np.float32)
    spacing = np.array(grid.spacing_mm[::-1], dtype=np.float64)
    origin = np.ascontiguousarray(grid.local_origin_mm, dtype=np.float64)
    trilinear_points(np.ascontiguousarray(volume, dtype=np.float32), origin, spacing, flat, out)
    return out.reshape(points.shape[:-1])


def _linear_weights(from_grid: VoxelGrid, to_grid: VoxelGrid, axis: int) -> tuple[IntArray, IntArray, FloatArray]:
    size = from_grid.shape[axis]
    index = (to_grid.axis_mm(axis) - from_grid.axis_mm(axis)[0]) / from_grid.spacing_mm[axis]
    # rounding of the two origins must not push a centre on the very border outside
    inside = (index >= -0.5 - 1e-9) & (index <= size - 0.5 + 1e-9)
    index = np.clip(index, 0.0, size - 1.0)
    start = np.minimum(index.astype(np.int64), max(size - 2, 0))
    share = index - start
    weight = np.stack([1.0 - share, share], axis=1) * inside[:, None]
    count = np.full(len(index), min(2, size), dtype=np.int64)
    return start, count, weight


def trilinear_on_grid(volume: Float32Array, from_grid: VoxelGrid, to_grid: VoxelGrid) -> Float32Array:
    """Trilinear values of ``volume`` at the voxel centres of ``to_grid``; float32 (z, y, x), as :func:`trilinear`.

    Grids with the same axes are resampled axis by axis; turned grids point by point through patient coordinates.
    """
    if from_grid.same_axes(to_grid):
        return _separable(volume, [_linear_weights(from_grid, to_grid, axis) for axis in range(3)])
    out = np.empty(to_grid.shape, dtype=np.float32)
    x_mm, y_mm = to_grid.axis_mm(2), to_grid.axis_mm(1)
    planes = max(1, _POINTS_AT_ONCE // (len(x_mm) * len(y_mm)))
    for first in range(0, to_grid.shape[0], planes):
        z_mm = to_grid.axis_mm(0)[first : first + planes]
        z, y, x = np.meshgrid(z_mm, y_mm, x_mm, indexing="ij")
        patient = to_grid.patient_from_local(np.stack([x, y, z], axis=-1))
        out[first : first + planes] = trilinear(volume, from_grid, from_grid.local_from_patient(patient))
    return out

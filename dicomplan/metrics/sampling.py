"""The dose inside a structure: trilinear dose at points at most 1 mm apart, as a :class:`DoseSamples`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.metrics import _kernels
from dicomplan.metrics.dvh import DoseSamples, Point
from dicomplan.patient.case import Coverage

__all__ = ["DoseSamples", "coldest", "dose_samples", "hottest"]

FloatArray = NDArray[np.float64]
_POINT_SPACING_MM = 1.0  # INTERFACE.md, Goals
_BINS = 32_768  # of the structure's own dose range: a bin is 0.003 % of it, a thirtieth of the promised 0.1 %
_CHUNKS = 16  # fixed, so that sums do not depend on the number of threads


def _zyx(grid: VoxelGrid) -> tuple[FloatArray, FloatArray]:
    """Local centre of voxel [0, 0, 0] and spacing, both (z, y, x) in mm."""
    return np.ascontiguousarray(grid.local_origin_mm[::-1]), np.array(grid.spacing_mm, dtype=np.float64)


def _dose_range(coverage: Coverage, dose_gy: NDArray[np.float32], grid: VoxelGrid) -> tuple[float, float]:
    """Least and greatest dose that interpolation can give anywhere on the structure's grid, Gy."""
    spans, outside = [], False
    for axis in range(3):
        edges = coverage.grid.edges_mm(axis)
        centres = grid.axis_mm(axis)
        step = grid.spacing_mm[axis]
        low = math.floor((edges[0] - centres[0]) / step)
        high = math.ceil((edges[-1] - centres[0]) / step)
        outside = outside or low < 0 or high > len(centres) - 1
        spans.append(slice(min(max(low, 0), len(centres) - 1), max(min(high, len(centres) - 1), 0) + 1))
    part = dose_gy[tuple(spans)]
    low_gy, high_gy = float(part.min()), float(part.max())
    if not (math.isfinite(low_gy) and math.isfinite(high_gy)):
        raise ValueError("the dose holds values that are no numbers")
    return (min(low_gy, 0.0), max(high_gy, 0.0)) if outside else (low_gy, high_gy)


def dose_samples(coverage: Coverage, dose_gy: NDArray[np.float32], dose_grid: VoxelGrid) -> DoseSamples:
    """The dose in a structure from ``dose_gy`` float32 (z, y, x) on ``dose_grid`` (Gy of the whole course).

    Each covered cell of the structure's grid gives points at most 1 mm apart (slices are cut into as many planes as
    that takes, an even number); a point stands for its share of the covered volume. Where the border cuts a cell, the
    point moves to the centroid of the covered part. The dose is trilinear between voxel centres, constant in the outer half
    of border voxels and 0 outside the grid (``outside_cc`` tells how much lies there). The points go into a histogram of
    32768 bins over the structure's dose range, each spread over the width that the dose gradient gives its cell: linear
    doses come out exact, whatever the spacing of the points. 10 litres take about half a second.

    Raises ValueError unless both grids have the same axes, or if the dose is not finite.
    """
    if not coverage.grid.same_axes(dose_grid):
        raise ValueError("the structure's grid and the dose grid have different axes")
    if dose_gy.shape != dose_grid.shape:
        raise ValueError(f"dose of shape {dose_gy.shape} on a grid of shape {dose_grid.shape}")
    low, high = _dose_range(coverage, dose_gy, dose_grid)
    span = high - low
    first, cell = _zyx(coverage.grid)
    dose_first, dose_step = _zyx(dose_grid)
    parts = np.ceil(cell / _POINT_SPACING_MM - 1e-6).astype(np.int64).clip(min=1)
    # dose planes lie in the middle of slices, where a trilinear dose has its kinks: an odd number of planes has one on them
    parts[0] += parts[0] % 2
    chunks = min(_CHUNKS, coverage.grid.shape[0])
    mass = np.zeros((chunks, _BINS + 1, 2))
    statistics = np.zeros((chunks, _kernels.STATISTICS))
    _kernels.histogram(
        np.ascontiguousarray(coverage.fraction, dtype=np.float32),
        parts,
        first,
        cell,
        np.ascontiguousarray(dose_gy, dtype=np.float32),
        dose_first,
        dose_step,
        low,
        _BINS / span if span > 0 else 0.0,
        mass,
        statistics,
    )
    return _collect(mass.sum(axis=0), statistics, low, high, coverage.grid)


def _collect(mass: FloatArray, statistics: FloatArray, low: float, high: float, grid: VoxelGrid) -> DoseSamples:
    """The histogram and the statistics of all chunks as one value; mm3 become cm3."""
    total = float(statistics[:, _kernels.WEIGHT].sum())
    edges = np.linspace(low, high, _BINS + 1)
    if total <= 0.0:
        return DoseSamples(edges, np.zeros(_BINS + 1), 0.0, 0.0, 0.0, 0.0, 0.0)
    volume = np.clip(mass[:-1, 0] + np.cumsum(mass[:-1, 1]), 0.0, None)
    above = np.append(np.cumsum(volume[::-1])[::-1], 0.0)
    above *= total / 1000.0 / above[0]
    mean = float(statistics[:, _kernels.DOSE].sum()) / total
    # a uniform dose must come out as itself, not as its mean's rounding
    lowest = max(float(statistics[:, _kernels.LOWEST].min()), low)
    highest = min(float(statistics[:, _kernels.HIGHEST].max()), high)
    half = bool(np.isfinite(statistics[:, _kernels.LEAST]).any())
    least, least_at = _extreme(statistics, half, greatest=False, grid=grid)
    greatest, greatest_at = _extreme(statistics, half, greatest=True, grid=grid)
    return DoseSamples(
        edges_gy=edges,
        volume_above_cc=above,
        mean_gy=min(max(mean, lowest), highest),
        max_gy=greatest,
        min_gy=least,
        lowest_gy=lowest,
        highest_gy=highest,
        max_position_mm=greatest_at,
        min_position_mm=least_at,
        outside_cc=float(statistics[:, _kernels.OUTSIDE].sum()) / 1000.0,
        resolution_gy=(high - low) / _BINS,
    )


def _extreme(statistics: FloatArray, half: bool, *, greatest: bool, grid: VoxelGrid) -> tuple[float, Point]:
    """Dose and patient position (mm) of the greatest or least dose, over cells covered half or over any."""
    if greatest:
        column, place = (
            (_kernels.GREATEST, _kernels.GREATEST_AT) if half else (_kernels.ANY_GREATEST, _kernels.ANY_GREATEST_AT)
        )
        row = statistics[int(np.argmax(statistics[:, column]))]
    else:
        column, place = (_kernels.LEAST, _kernels.LEAST_AT) if half else (_kernels.ANY_LEAST, _kernels.ANY_LEAST_AT)
        row = statistics[int(np.argmin(statistics[:, column]))]
    x, y, z = grid.patient_from_local(row[place : place + 3][::-1])
    return float(row[column]), (float(x), float(y), float(z))


def hottest(
    coverage: Coverage, dose_gy: NDArray[np.float32], dose_grid: VoxelGrid, volume_cc: float
) -> tuple[float, Point]:
    """Least dose (Gy) in the hottest ``volume_cc`` of a structure, and where its highest dose is (patient mm).

    Raises ValueError as :func:`dose_samples`, and if the structure is empty.
    """
    samples = dose_samples(coverage, dose_gy, dose_grid)
    if samples.volume_cc <= 0:
        raise ValueError("hottest spot of an empty structure")
    return samples.hottest_gy(volume_cc), samples.max_position_mm


def coldest(
    coverage: Coverage, dose_gy: NDArray[np.float32], dose_grid: VoxelGrid, volume_cc: float
) -> tuple[float, Point]:
    """Highest dose (Gy) in the coldest ``volume_cc`` of a structure, and where its lowest dose is (patient mm).

    Raises ValueError as :func:`dose_samples`, and if the structure is empty.
    """
    samples = dose_samples(coverage, dose_gy, dose_grid)
    if samples.volume_cc <= 0:
        raise ValueError("coldest spot of an empty structure")
    return samples.coldest_gy(volume_cc), samples.min_position_mm

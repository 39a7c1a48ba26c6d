"""Kernel of the dose-volume histogram: trilinear dose at points at most 1 mm apart in a structure."""

from __future__ import annotations

from math import floor, sqrt

import numba
import numpy as np
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

# columns of the statistics of one chunk
WEIGHT, DOSE, OUTSIDE, LOWEST, HIGHEST, LEAST, GREATEST = range(7)
LEAST_AT, GREATEST_AT, ANY_LEAST, ANY_GREATEST, ANY_LEAST_AT, ANY_GREATEST_AT = 7, 10, 13, 14, 15, 18
STATISTICS = 21


@kernel()
def trilinear_with_gradient(
    dose: Float32Array, z: float, y: float, x: float
) -> tuple[bool, float, float, float, float]:
    """Dose and its derivatives at a fractional index (z, y, x): (inside, dose, d/dz, d/dy, d/dx) per index step.

    Held constant in the outer half of border voxels; beyond them ``inside`` is False and all else 0.
    """
    nz, ny, nx = dose.shape
    if z < -0.5 or y < -0.5 or x < -0.5 or z > nz - 0.5 or y > ny - 0.5 or x > nx - 0.5:
        return False, 0.0, 0.0, 0.0, 0.0
    iz = min(max(floor(z), 0), max(nz - 2, 0))
    iy = min(max(floor(y), 0), max(ny - 2, 0))
    ix = min(max(floor(x), 0), max(nx - 2, 0))
    jz, jy, jx = min(iz + 1, nz - 1), min(iy + 1, ny - 1), min(ix + 1, nx - 1)
    fz, fy, fx = min(max(z - iz, 0.0), 1.0), min(max(y - iy, 0.0), 1.0), min(max(x - ix, 0.0), 1.0)
    a00, a01 = float(dose[iz, iy, ix]), float(dose[iz, iy, jx])
    a10, a11 = float(dose[iz, jy, ix]), float(dose[iz, jy, jx])
    b00, b01 = float(dose[jz, iy, ix]), float(dose[jz, iy, jx])
    b10, b11 = float(dose[jz, jy, ix]), float(dose[jz, jy, jx])
    a0, a1 = a00 + fx * (a01 - a00), a10 + fx * (a11 - a10)
    b0, b1 = b00 + fx * (b01 - b00), b10 + fx * (b11 - b10)
    a, b = a0 + fy * (a1 - a0), b0 + fy * (b1 - b0)
    gz = b - a
    gy = (1.0 - fz) * (a1 - a0) + fz * (b1 - b0)
    gx = (1.0 - fz) * ((1.0 - fy) * (a01 - a00) + fy * (a11 - a10)) + fz * ((1.0 - fy) * (b01 - b00) + fy * (b11 - b10))
    # beyond the outermost centres the dose is held
    gz = gz if 0.0 <= z <= nz - 1 else 0.0
    gy = gy if 0.0 <= y <= ny - 1 else 0.0
    gx = gx if 0.0 <= x <= nx - 1 else 0.0
    return True, a + fz * (b - a), gz, gy, gx


@kernel()
def corner_centroid(area: float, m1: float, m2: float) -> tuple[float, float]:
    """Centroid (along 1, along 2) of the part m1 u + m2 v <= c of the unit square whose area is ``area`` <= 1/2.

    ``m1 >= m2 >= 0``, ``m1 + m2 = 1``; the part lies at the corner (0, 0): a triangle, or a trapezoid along side 1 = 0.
    """
    if area <= 0.0:
        return 0.0, 0.0
    if 2.0 * m1 * area <= m2:
        c = sqrt(2.0 * area * m1 * m2)
        return c / (3.0 * m1), c / (3.0 * m2)
    c = area * m1 + 0.5 * m2
    u = (c * c - c * m2 + m2 * m2 / 3.0) / (2.0 * m1 * m1 * area)
    v = (0.5 * c - m2 / 3.0) / (m1 * area)
    return u, v


@kernel()
def covered_centroid(fraction: float, towards_y: float, towards_x: float) -> tuple[float, float]:
    """Offset (y, x), in cells, of the centroid of the covered part of a cell from the cell's centre.

    The border is taken as a straight line square to (``towards_y``, ``towards_x``), which points into the structure, as in
    piecewise linear interface reconstruction (Youngs 1982); (0, 0) where no direction is known.
    """
    size = abs(towards_y) + abs(towards_x)
    if size < 1e-6 or fraction <= 0.0 or fraction >= 1.0:
        return 0.0, 0.0
    my, mx = abs(towards_y) / size, abs(towards_x) / size
    part = fraction if fraction <= 0.5 else 1.0 - fraction
    if mx >= my:
        u, v = corner_centroid(part, mx, my)
        cy, cx = 0.5 - v, 0.5 - u
    else:
        u, v = corner_centroid(part, my, mx)
        cy, cx = 0.5 - u, 0.5 - v
    if fraction > 0.5:
        # the uncovered corner pulls the centroid away from itself
        cy, cx = cy * part / fraction, cx * part / fraction
    return (cy if towards_y > 0.0 else -cy), (cx if towards_x > 0.0 else -cx)


@kernel()
def inward(fraction: Float32Array, z: int, y: int, x: int) -> tuple[float, float]:
    """Direction (y, x) in which coverage rises at a cell: 3 x 3 differences weighted 1 2 1, 0 outside the array."""
    ny, nx = fraction.shape[1], fraction.shape[2]
    gy, gx = 0.0, 0.0
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            j, i = y + dy, x + dx
            if j >= 0 and i >= 0 and j < ny and i < nx:
                value = float(fraction[z, j, i])
                gy += dy * (2 - abs(dx)) * value
                gx += dx * (2 - abs(dy)) * value
    return gy, gx


@kernel()
def spread(mass: FloatArray, weight: float, low: float, high: float) -> None:
    """Add ``weight``, spread evenly from ``low`` to ``high`` (in bins, 0 <= low <= high <= n), to ``mass`` (n + 1, 2).

    Column 0 holds what falls into single bins, column 1 where a run of equal contributions begins (+) and ends (-).
    """
    first, last = np.int64(low), np.int64(high)
    if first >= last or high - low <= 0.0:
        mass[min(first, mass.shape[0] - 2), 0] += weight
        return
    share = weight / (high - low)
    mass[first, 0] += share * (first + 1 - low)
    mass[last, 0] += share * (high - last)
    if last > first + 1:
        mass[first + 1, 1] += share
        mass[last, 1] -= share


@kernel()
def note_extremes(row: FloatArray, covered: float, dose: float, z: float, y: float, x: float) -> None:
    """Keep the least and greatest dose and their places in ``row``: of any cell, and of cells covered at least half."""
    if dose < row[ANY_LEAST]:
        row[ANY_LEAST] = dose
        row[ANY_LEAST_AT], row[ANY_LEAST_AT + 1], row[ANY_LEAST_AT + 2] = z, y, x
    if dose > row[ANY_GREATEST]:
        row[ANY_GREATEST] = dose
        row[ANY_GREATEST_AT], row[ANY_GREATEST_AT + 1], row[ANY_GREATEST_AT + 2] = z, y, x
    if covered >= 0.5:
        if dose < row[LEAST]:
            row[LEAST] = dose
            row[LEAST_AT], row[LEAST_AT + 1], row[LEAST_AT + 2] = z, y, x
        if dose > row[GREATEST]:
            row[GREATEST] = dose
            row[GREATEST_AT], row[GREATEST_AT + 1], row[GREATEST_AT + 2] = z, y, x


@kernel()
def blended(dose: Float32Array, z: float, y: float, rows: FloatArray) -> bool:
    """Fill ``rows`` (3, nx) with the dose and its derivatives d/dz and d/dy at index (z, y) for every x; False: outside.

    What :func:`trilinear_with_gradient` gives where x is a whole number.
    """
    nz, ny, nx = dose.shape
    if z < -0.5 or y < -0.5 or z > nz - 0.5 or y > ny - 0.5:
        return False
    iz = min(max(floor(z), 0), max(nz - 2, 0))
    iy = min(max(floor(y), 0), max(ny - 2, 0))
    jz, jy = min(iz + 1, nz - 1), min(iy + 1, ny - 1)
    fz, fy = min(max(z - iz, 0.0), 1.0), min(max(y - iy, 0.0), 1.0)
    along_z = 1.0 if 0.0 <= z <= nz - 1 else 0.0
    along_y = 1.0 if 0.0 <= y <= ny - 1 else 0.0
    for x in range(nx):
        a0, a1 = float(dose[iz, iy, x]), float(dose[iz, jy, x])
        b0, b1 = float(dose[jz, iy, x]), float(dose[jz, jy, x])
        a, b = a0 + fy * (a1 - a0), b0 + fy * (b1 - b0)
        rows[0, x] = a + fz * (b - a)
        rows[1, x] = along_z * (b - a)
        rows[2, x] = along_y * ((1.0 - fz) * (a1 - a0) + fz * (b1 - b0))
    return True


@kernel()
def add_point(
    row: FloatArray,
    mass: FloatArray,
    weight: float,
    covered: float,
    value: float,
    half: float,
    low: float,
    high: float,
    z: float,
    y: float,
    x: float,
) -> None:
    """One point of ``weight`` mm3 at (z, y, x) mm: dose ``value`` +- ``half`` Gy, bins ``low`` to ``high``."""
    row[WEIGHT] += weight
    row[DOSE] += weight * value
    row[LOWEST] = min(row[LOWEST], value - half)
    row[HIGHEST] = max(row[HIGHEST], value + half)
    note_extremes(row, covered, value, z, y, x)
    bins = float(mass.shape[0] - 1)
    spread(mass, weight, min(max(low, 0.0), bins), min(max(high, 0.0), bins))


@kernel(parallel=True)
def histogram(
    fraction: Float32Array,
    parts: NDArray[np.int64],
    first_mm: FloatArray,
    cell_mm: FloatArray,
    dose: Float32Array,
    dose_first_mm: FloatArray,
    dose_step_mm: FloatArray,
    low_gy: float,
    bins_per_gy: float,
    mass: FloatArray,
    statistics: FloatArray,
) -> None:
    """Histogram of the trilinear dose over the covered parts of cells; all triples in order (z, y, x), local mm.

    Each cell of ``fraction`` is cut into ``parts``; each part is one point that stands for its volume (mm3) times the
    covered fraction, moved to the centroid of the covered part where the cell is cut in plane into one. Its weight is
    spread evenly over the doses that it spans along the steepest axis, gradient times size: rows of cells then tile
    the dose axis without gaps or overlaps, and a linear dose leaves no ripple of the points' spacing.
    ``mass`` (chunks, bins + 1, 2) and ``statistics`` (chunks, STATISTICS) are filled: chunk c takes
    every slice z with z % chunks == c, so that no two threads write to one place and sums have a fixed order.
    """
    nz, ny, nx = fraction.shape
    dose_nx = dose.shape[2]
    chunks = mass.shape[0]
    pz, py, px = parts[0], parts[1], parts[2]
    size_z, size_y, size_x = cell_mm[0] / pz, cell_mm[1] / py, cell_mm[2] / px
    volume = size_z * size_y * size_x
    moved = py == 1 and px == 1
    for chunk in numba.prange(chunks):
        row, bins_of = statistics[chunk], mass[chunk]
        rows = np.empty((3, dose_nx))
        row[:] = 0.0
        row[LOWEST] = row[LEAST] = row[ANY_LEAST] = np.inf
        row[HIGHEST] = row[GREATEST] = row[ANY_GREATEST] = -np.inf
        for z in range(chunk, nz, chunks):
            for y in range(ny):
                uncut = 0
                for x in range(nx):
                    covered = float(fraction[z, y, x])
                    if covered <= 0.0:
                        continue
                    if not (moved and covered < 0.9999):
                        uncut += 1
                        continue
                    # where the border cuts a cell: a point in each part, wherever it comes to lie
                    off_y, off_x, width_y, width_x = 0.0, 0.0, 1.0, 1.0
                    towards_y, towards_x = inward(fraction, z, y, x)
                    off_y, off_x = covered_centroid(covered, towards_y, towards_x)
                    size = abs(towards_y) + abs(towards_x)
                    if size > 1e-6:
                        width_y = 1.0 - (1.0 - covered) * abs(towards_y) / size
                        width_x = 1.0 - (1.0 - covered) * abs(towards_x) / size
                    weight = covered * volume
                    at_y = first_mm[1] + (y + off_y) * cell_mm[1]
                    at_x = first_mm[2] + (x + off_x) * cell_mm[2]
                    for kz in range(pz):
                        at_z = first_mm[0] + z * cell_mm[0] + (kz + 0.5) * size_z - 0.5 * cell_mm[0]
                        inside, value, gz, gy, gx = trilinear_with_gradient(
                            dose,
                            (at_z - dose_first_mm[0]) / dose_step_mm[0],
                            (at_y - dose_first_mm[1]) / dose_step_mm[1],
                            (at_x - dose_first_mm[2]) / dose_step_mm[2],
                        )
                        if not inside:
                            row[OUTSIDE] += weight
                        wz = gz / dose_step_mm[0] * size_z
                        wy = gy / dose_step_mm[1] * size_y * width_y
                        wx = gx / dose_step_mm[2] * size_x * width_x
                        half = 0.5 * max(abs(wz), abs(wy), abs(wx))
                        low = (value - half - low_gy) * bins_per_gy
                        high = (value + half - low_gy) * bins_per_gy
                        add_point(row, bins_of, weight, covered, value, half, low, high, at_z, at_y, at_x)
                if uncut == 0:
                    continue
                # all points of a line along x share what is interpolated in z and y
                for k in range(pz * py):
                    kz, ky = k // py, k % py
                    at_z = first_mm[0] + z * cell_mm[0] + (kz + 0.5) * size_z - 0.5 * cell_mm[0]
                    at_y = first_mm[1] + y * cell_mm[1] + (ky + 0.5) * size_y - 0.5 * cell_mm[1]
                    within = blended(
                        dose,
                        (at_z - dose_first_mm[0]) / dose_step_mm[0],
                        (at_y - dose_first_mm[1]) / dose_step_mm[1],
                        rows,
                    )
                    per_mm = 1.0 / dose_step_mm[2]
                    z_size = 0.5 * size_z / dose_step_mm[0]
                    y_size = 0.5 * size_y / dose_step_mm[1]
                    x_size = 0.5 * size_x * per_mm
                    for x in range(nx):
                        covered = float(fraction[z, y, x])
                        if covered <= 0.0 or (moved and covered < 0.9999):
                            continue
                        weight = covered * volume
                        for kx in range(px):
                            at_x = first_mm[2] + x * cell_mm[2] + (kx + 0.5) * size_x - 0.5 * cell_mm[2]
                            index = (at_x - dose_first_mm[2]) * per_mm
                            value, half = 0.0, 0.0
                            if within and -0.5 <= index <= dose_nx - 0.5:
                                i = min(int(max(index, 0.0)), max(dose_nx - 2, 0))
                                j = min(i + 1, dose_nx - 1)
                                f = min(max(index - i, 0.0), 1.0)
                                gx = rows[0, j] - rows[0, i]
                                value = rows[0, i] + f * gx
                                gz = rows[1, i] + f * (rows[1, j] - rows[1, i])
                                gy = rows[2, i] + f * (rows[2, j] - rows[2, i])
                                if not 0.0 <= index <= dose_nx - 1:
                                    gx = 0.0
                                half = max(abs(gz) * z_size, abs(gy) * y_size, abs(gx) * x_size)
                            else:
                                row[OUTSIDE] += weight
                            low = (value - half - low_gy) * bins_per_gy
                            high = (value + half - low_gy) * bins_per_gy
                            add_point(row, bins_of, weight, covered, value, half, low, high, at_z, at_y, at_x)

"""Numba kernels of the flights of scattered photons on a coarse grid, and the ways to that grid and back."""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

_ONE = np.float32(1.0)
_HALF = np.float32(0.5)
_C3, _C4, _C5 = np.float32(1.0 / 6.0), np.float32(1.0 / 24.0), np.float32(1.0 / 120.0)
_THIN = np.float32(0.1)
_BLOCK = 512  # cells of a work item
_FLOOR = np.float32(1e-6)


@kernel()
def _blend(plane: Float32Array, u: int, share_u: np.float32, share_v: np.float32, out: Float32Array) -> None:
    """Values at the lines c of row u of a padded plane: between rows u and u + 1 and places c and c + 1."""
    near, far = plane[u], plane[u + 1]
    keep_u, keep_v = _ONE - share_u, _ONE - share_v
    a, b, c, d = keep_u * keep_v, keep_u * share_v, share_u * keep_v, share_u * share_v
    for k in range(out.shape[0]):
        out[k] = a * near[k] + b * near[k + 1] + c * far[k] + d * far[k + 1]


@kernel()
def _give(row: Float32Array, first: np.float32, second: np.float32, lines: Float32Array) -> None:
    """Adds what the lines c deposit to the places c and c + 1 of a padded row."""
    for k in range(lines.shape[0]):
        row[k] += first * lines[k]
        row[k + 1] += second * lines[k]


@kernel()
def flight(
    released: Float32Array,
    density: Float32Array,
    deposit: Float32Array,
    passed: Float32Array,
    slopes: FloatArray,
    step_cm: float,
    photons: FloatArray,
) -> None:
    """One direction: photons that leave every voxel fly on along parallel lines, interact, deposit and are handed on.

    Volumes are float32 (m, u, v), padded with one voxel of nothing on both sides of u and v; the direction goes up along m
    if slopes[0] > 0, and by slopes[1:] voxels of u and v with each plane. ``step_cm`` is the way from plane to plane.
    ``photons`` of the energy ``released`` (per volume): exponent (cm2/g), the share that is deposited at the first
    interaction, and the fraction that a second generation on the same line takes on. ``deposit`` and ``passed`` gain
    energy per electron density. Exact in each voxel for what is released evenly in it.
    """
    planes, rows, width = released.shape
    rows, width = rows - 1, width - 1  # of lines
    last_u, last_v = int(np.floor(slopes[1] * (planes - 1))), int(np.floor(slopes[2] * (planes - 1)))
    offset_u, offset_v = max(last_u, 0), max(last_v, 0)
    flux = np.zeros((2, rows + abs(last_u), width + abs(last_v)), dtype=np.float32)
    dense = np.empty(width, dtype=np.float32)
    source = np.empty(width, dtype=np.float32)
    gain = np.empty(width, dtype=np.float32)
    b = np.float32(photons[0])
    step, exponent = np.float32(step_cm), np.float32(step_cm * photons[0])
    kept, again = np.float32(photons[1]), np.float32(photons[2])
    for count in range(planes):
        m = count if slopes[0] > 0 else planes - 1 - count
        whole_u, whole_v = int(np.floor(slopes[1] * count)), int(np.floor(slopes[2] * count))
        share_u, share_v = np.float32(slopes[1] * count - whole_u), np.float32(slopes[2] * count - whole_v)
        keep_u, keep_v = _ONE - share_u, _ONE - share_v
        start = offset_v - whole_v
        for u in range(rows):
            line = u - whole_u + offset_u
            _blend(density[m], u, share_u, share_v, dense)
            _blend(released[m], u, share_u, share_v, source)
            one, two = flux[0, line, start : start + width], flux[1, line, start : start + width]
            for k in range(width):
                x = exponent * max(dense[k], _FLOOR)
                gone = np.exp(-x)
                inverse = _ONE / x
                # by their series where differences would lose digits
                series = _HALF - x * (_C3 - x * (_C4 - x * _C5))
                mean = _ONE - x * series if x < _THIN else (_ONE - gone) * inverse
                inner = series if x < _THIN else (_ONE - mean) * inverse
                new = source[k] * step
                middle = again * (one[k] * gone + new * (mean - inner))
                gain[k] = b * ((one[k] + two[k]) * mean + new * inner - middle)
                one[k] = one[k] * gone + new * mean
                two[k] = two[k] * gone + x * middle
            if kept > 0:
                _give(deposit[m, u], kept * keep_u * keep_v, kept * keep_u * share_v, gain)
                _give(deposit[m, u + 1], kept * share_u * keep_v, kept * share_u * share_v, gain)
            if kept < 1:
                rest = _ONE - kept
                _give(passed[m, u], rest * keep_u * keep_v, rest * keep_u * share_v, gain)
                _give(passed[m, u + 1], rest * share_u * keep_v, rest * share_u * share_v, gain)


@kernel(parallel=True)
def flights(
    released: Float32Array,
    density: Float32Array,
    deposit: Float32Array,
    passed: Float32Array,
    slopes: FloatArray,
    steps_cm: FloatArray,
    photons: FloatArray,
) -> None:
    """Every direction of :func:`flight`: ``released`` and ``passed`` (n, m, u, v), ``slopes``, ``steps_cm``, ``photons``
    (n, ...). Each of the groups of ``deposit`` (groups, m, u, v) sums a fixed set of them, so that bits do not depend on
    threads."""
    count = deposit.shape[0]
    for group in prange(count):
        for index in range(group, slopes.shape[0], count):
            flight(
                released[index], density, deposit[group], passed[index], slopes[index], steps_cm[index], photons[index]
            )  # fmt: skip


@kernel(parallel=True)
def scattered(passed: Float32Array, electron: Float32Array, parts: Float32Array, out: Float32Array) -> None:
    """Energy that sets out: ``out`` (n, cells) = ``parts`` (n, n) x ``passed`` (n, cells) x ``electron`` (cells,)."""
    directions, cells = passed.shape
    for block in prange((cells + _BLOCK - 1) // _BLOCK):
        low, high = block * _BLOCK, min((block + 1) * _BLOCK, cells)
        for d in range(directions):
            into = out[d, low:high]
            into[:] = 0
            for other in range(directions):
                part = parts[d, other]
                row = passed[other, low:high]
                for k in range(high - low):
                    into[k] += part * row[k]
            for k in range(high - low):
                into[k] *= electron[low + k]


@kernel(parallel=True)
def averaged(
    volume: Float32Array, cells: IntArray, starts_z: FloatArray, starts_y: FloatArray, starts_x: FloatArray,
    out: Float32Array,
) -> None:  # fmt: skip
    """Mean of a volume (z, y, x) in boxes whose edges ``starts_*`` (cells + 1) are counted in its voxels."""
    for i in prange(cells[0]):
        for z in range(int(starts_z[i]), int(np.ceil(starts_z[i + 1]))):
            by_z = min(starts_z[i + 1], z + 1.0) - max(starts_z[i], float(z))
            for j in range(cells[1]):
                for y in range(int(starts_y[j]), int(np.ceil(starts_y[j + 1]))):
                    by_y = by_z * (min(starts_y[j + 1], y + 1.0) - max(starts_y[j], float(y)))
                    for k in range(cells[2]):
                        total = 0.0
                        low, high = starts_x[k], starts_x[k + 1]
                        for x in range(int(low), int(np.ceil(high))):
                            total += (min(high, x + 1.0) - max(low, float(x))) * volume[z, y, x]
                        out[i, j, k] += np.float32(by_y * total)


@kernel(parallel=True)
def interpolated(
    coarse: Float32Array, index_z: IntArray, index_y: IntArray, index_x: IntArray, share_z: Float32Array,
    share_y: Float32Array, share_x: Float32Array, out: Float32Array,
) -> None:  # fmt: skip
    """Trilinear: out (z, y, x) between the coarse values at ``index_*`` and the next ones, with shares of those."""
    planes, rows, width = out.shape
    for z in prange(planes):
        near, far, c = coarse[index_z[z]], coarse[index_z[z] + 1], share_z[z]
        line = np.empty(coarse.shape[2], dtype=np.float32)
        for y in range(rows):
            j, b = index_y[y], share_y[y]
            for k in range(line.shape[0]):
                first = near[j, k] + b * (near[j + 1, k] - near[j, k])
                second = far[j, k] + b * (far[j + 1, k] - far[j, k])
                line[k] = first + c * (second - first)
            for x in range(width):
                k = index_x[x]
                out[z, y, x] = line[k] + share_x[x] * (line[k + 1] - line[k])

"""Numba kernels of the collapsed-cone transport: one sweep of parallel lines through the grid per cone direction."""

from __future__ import annotations

import numpy as np
from numba import prange

from dicomplan.kernel_cache import kernel

_ONE = np.float32(1.0)
_FLOOR = np.float32(1e-6)
_CEILING = np.float32(50.0)
_EIGHTH = np.float32(0.125)
_TWO = np.float32(2.0)
_C2, _C3, _C4, _C5, _C6 = (np.float32(1.0 / n) for n in (2.0, 6.0, 24.0, 120.0, 720.0))


@kernel()
def source_ranges(primary, scatter):
    """First and last + 1 index along v of energy released in each row (m, u) of the two volumes, int32 (m, u, 2)."""
    planes, rows, width = primary.shape
    found = np.empty((planes, rows, 2), dtype=np.int32)
    for m in range(planes):
        for u in range(rows):
            first, last = width, 0
            for v in range(width):
                if primary[m, u, v] != 0 or scatter[m, u, v] != 0:
                    if first == width:
                        first = v
                    last = v + 1
            found[m, u, 0] = first
            found[m, u, 1] = last
    return found


@kernel()
def _blend_rows(volume, m, u, share, first, last, out):
    """out[1 + v] = row u and row u + 1 of plane m blended by ``share``, for first <= v < last; outside the grid 0."""
    rows, width = volume.shape[1], volume.shape[2]
    keep = _ONE - share
    low, high = max(first, 0), min(last, width)
    for v in range(first, low):
        out[1 + v] = 0
    for v in range(high, last):
        out[1 + v] = 0
    if 0 <= u and u + 1 < rows:
        near, far = volume[m, u], volume[m, u + 1]
        for v in range(low, high):
            out[1 + v] = keep * near[v] + share * far[v]
    elif u + 1 < rows:
        far = volume[m, u + 1]
        for v in range(low, high):
            out[1 + v] = share * far[v]
    else:
        near = volume[m, u]
        for v in range(low, high):
            out[1 + v] = keep * near[v]


@kernel()
def _transport_row(first, last, shift, released, density, flux, step_cm, attenuation, share, deposit, add):
    """One component along a row of lines: the exact solution of the transport equation in one voxel.

    ``attenuation`` and ``share`` are quadratics (3,) in the place along the row. Writes (or adds) the dose to each line.
    """
    keep = _ONE - shift
    a0, a1, a2 = attenuation[0], attenuation[1], attenuation[2]
    s0, s1, s2 = share[0], share[1], share[2]
    for c in range(first, last):
        place = np.float32(c)
        a = a0 + place * (a1 + place * a2)
        x = a * step_cm * (keep * density[c] + shift * density[c + 1])
        x = min(max(x, _FLOOR), _CEILING)
        # 1 - exp(-x) = e / (1 + e) with e = exp(x) - 1 from its series at x / 8, doubled three times: no cancellation
        y = x * _EIGHTH
        e = y * (_ONE + y * (_C2 + y * (_C3 + y * (_C4 + y * (_C5 + y * _C6)))))
        e = e * (_TWO + e)
        e = e * (_TWO + e)
        e = e * (_TWO + e)
        inverse = _ONE / (x * (_ONE + e))
        mean = e * inverse
        source = (keep * released[c] + shift * released[c + 1]) * (s0 + place * (s1 + place * s2)) * step_cm
        arriving = flux[c]
        flux[c] = arriving * (x * inverse) + source * mean
        dose = a * (mean * arriving + source * ((_ONE - mean) * (_ONE + e) * inverse))
        if add:
            deposit[c] += dose
        else:
            deposit[c] = dose


@kernel()
def _spread_row(row, weight, shift, deposit, first, last):
    """Adds the dose of the lines to the voxels of one row: the transpose of the interpolation that fed the lines."""
    near = weight * (_ONE - shift)
    far = weight * shift
    for v in range(max(first - 1, 0), min(last, row.shape[0])):
        row[v] += near * deposit[v + 1] + far * deposit[v]


@kernel()
def _quadratic(values, coefficients, middle, end):
    """Coefficients of the parabola through ``values`` (3,) at the places 0, middle and end."""
    slope = (values[1] - values[0]) / middle
    curve = ((values[2] - values[0]) / end - slope) / (end - middle)
    coefficients[0] = values[0]
    coefficients[1] = slope - curve * middle
    coefficients[2] = curve


@kernel()
def march(primary, scatter, density, ranges, dose, origin, step_m, step_u, step_v, direction, table, limits, step_cm):
    """Adds to ``dose`` what one cone direction carries through the grid; see collapsed_cone.py for the method.

    Volumes are float32 (m, u, v), m being the axis that the direction follows most. ``origin`` is the centre of voxel
    (0, 0, 0) seen from the source, ``step_*`` the vectors from voxel to voxel, ``direction`` in index steps
    (m, u, v, cosine vector 3). ``table`` (4, 3): attenuation and share of the two components as quadratics of the
    cosine, held within ``limits``.
    """
    planes, rows, width = dose.shape
    forward = direction[0] > 0
    slope_u, slope_v = direction[1] / abs(direction[0]), direction[2] / abs(direction[0])
    last_u, last_v = int(np.floor(slope_u * (planes - 1))), int(np.floor(slope_v * (planes - 1)))
    lines_u, lines_v = rows + 1 + abs(last_u), width + 1 + abs(last_v)
    offset_u, offset_v = 1 + max(last_u, 0), 1 + max(last_v, 0)
    flux_primary = np.zeros((lines_u, lines_v), dtype=np.float32)
    flux_scatter = np.zeros((lines_u, lines_v), dtype=np.float32)
    active = np.empty((lines_u, 2), dtype=np.int64)
    active[:, 0] = lines_v
    active[:, 1] = 0
    row_density = np.zeros(width + 3, dtype=np.float32)
    row_primary = np.zeros(width + 3, dtype=np.float32)
    row_scatter = np.zeros(width + 3, dtype=np.float32)
    deposit = np.zeros(width + 3, dtype=np.float32)
    values = np.empty((4, 3), dtype=np.float32)
    curves = np.empty((4, 3), dtype=np.float32)
    end = width
    middle = 0.5 * width
    step = np.float32(step_cm)
    for count in range(planes):
        m = count if forward else planes - 1 - count
        whole_u, whole_v = int(np.floor(slope_u * count)), int(np.floor(slope_v * count))
        part_u, part_v = slope_u * count - whole_u, slope_v * count - whole_v
        share_u, share_v = np.float32(part_u), np.float32(part_v)
        base_v = offset_v - 1 - whole_v
        for u in range(-1, rows):
            line = u - whole_u + offset_u
            low, high = width, 0
            if u >= 0:
                low, high = ranges[m, u, 0], ranges[m, u, 1]
            if u + 1 < rows:
                low, high = min(low, ranges[m, u + 1, 0]), max(high, ranges[m, u + 1, 1])
            if high > low:
                active[line, 0] = min(active[line, 0], low + base_v)
                active[line, 1] = max(active[line, 1], high + 1 + base_v)
            first = max(active[line, 0] - base_v, 0)
            last = min(active[line, 1] - base_v, width + 1)
            if last <= first:
                continue
            for sample in range(3):
                place = -1.0 + part_v + (0.0 if sample == 0 else (middle if sample == 1 else end))
                along = 0.0
                square = 0.0
                for axis in range(3):
                    point = origin[axis] + m * step_m[axis] + (u + part_u) * step_u[axis] + place * step_v[axis]
                    along += point * direction[3 + axis]
                    square += point * point
                cosine = min(max(along / np.sqrt(square), limits[0]), limits[1])
                for k in range(4):
                    values[k, sample] = table[k, 0] + cosine * (table[k, 1] + cosine * table[k, 2])
            for k in range(4):
                _quadratic(values[k], curves[k], middle, end)
            _blend_rows(density, m, u, share_u, first - 1, last, row_density)
            _blend_rows(primary, m, u, share_u, first - 1, last, row_primary)
            _blend_rows(scatter, m, u, share_u, first - 1, last, row_scatter)
            _transport_row(
                first, last, share_v, row_primary, row_density, flux_primary[line, base_v : base_v + width + 1], step,
                curves[0], curves[1], deposit, False,
            )  # fmt: skip
            _transport_row(
                first, last, share_v, row_scatter, row_density, flux_scatter[line, base_v : base_v + width + 1], step,
                curves[2], curves[3], deposit, True,
            )  # fmt: skip
            if first > 0:
                deposit[first - 1] = 0
            deposit[last] = 0
            if u >= 0:
                _spread_row(dose[m, u], _ONE - share_u, share_v, deposit, first, last)
            if u + 1 < rows:
                _spread_row(dose[m, u + 1], share_u, share_v, deposit, first, last)


@kernel(parallel=True)
def march_all(
    primary, scatter, density, ranges, groups, origin, step_m, step_u, step_v, directions, tables, limits, steps_cm
):
    """Sweeps every direction; each of ``groups`` (n, m, u, v) sums a fixed set of them, so bits do not depend on threads."""
    count = groups.shape[0]
    for group in prange(count):
        for index in range(group, directions.shape[0], count):
            march(
                primary, scatter, density, ranges, groups[group], origin, step_m, step_u, step_v, directions[index],
                tables[index], limits[index], steps_cm[index],
            )  # fmt: skip

"""Numba kernels of the collapsed-cone transport: one sweep of parallel lines through the grid per cone direction."""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int32]
Quadratic = tuple[np.float32, np.float32, np.float32]
Five = tuple[np.float32, np.float32, np.float32, np.float32, np.float32]

_ONE = np.float32(1.0)
_NONE = np.float32(0.0)
_FLOOR = np.float32(1e-6)
_CEILING = np.float32(50.0)
_SMALL = np.float32(0.1)
_EIGHTH = np.float32(0.125)
_TWO = np.float32(2.0)
_C2, _C3, _C4, _C5, _C6 = (np.float32(1.0 / n) for n in (2.0, 6.0, 24.0, 120.0, 720.0))


@kernel()
def source_ranges(
    primary: Float32Array,
    scatter: Float32Array,
) -> IntArray:
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


@kernel(parallel=True)
def balance(
    primary: Float32Array,
    scatter: Float32Array,
    origin: FloatArray,
    spacing: FloatArray,
    axis: FloatArray,
    totals: FloatArray,
    step: float,
    primary_out: Float32Array,
    scatter_out: Float32Array,
) -> None:
    """Released energy (z, y, x) over the sum of the cones' shares for the ray through each voxel.

    ``origin``: centre of voxel [0, 0, 0] seen from the source, ``axis`` the beam's direction (local x, y, z). ``totals``
    (2, n): the sums at tilts of 1 - cosine = 0, ``step``, 2 ``step``...
    """
    planes, rows, width = primary.shape
    last = totals.shape[1] - 2
    for z in prange(planes):
        pz = origin[2] + z * spacing[2]
        for y in range(rows):
            py = origin[1] + y * spacing[1]
            for x in range(width):
                if primary[z, y, x] == 0 and scatter[z, y, x] == 0:
                    continue
                px = origin[0] + x * spacing[0]
                cosine = (px * axis[0] + py * axis[1] + pz * axis[2]) / np.sqrt(px * px + py * py + pz * pz)
                place = (1.0 - cosine) / step
                i = min(max(int(place), 0), last)
                share = min(place - i, 1.0)
                primary_out[z, y, x] = primary[z, y, x] / (totals[0, i] + share * (totals[0, i + 1] - totals[0, i]))
                scatter_out[z, y, x] = scatter[z, y, x] / (totals[1, i] + share * (totals[1, i + 1] - totals[1, i]))


@kernel()
def _blend(
    near: Float32Array,
    far: Float32Array,
    share: np.float32,
    out: Float32Array,
) -> None:
    """out = near and far blended by ``share``."""
    keep = _ONE - share
    for v in range(out.shape[0]):
        out[v] = keep * near[v] + share * far[v]


@kernel()
def _blend_rows(
    plane: Float32Array,
    u: int,
    share: np.float32,
    first: int,
    last: int,
    out: Float32Array,
) -> None:
    """out[1 + v] = rows u and u + 1 of the plane blended by ``share``, for first <= v < last; outside the grid 0."""
    rows, width = plane.shape
    low, high = max(first, 0), min(last, width)
    out[1 + first : 1 + low] = 0
    out[1 + high : 1 + last] = 0
    if u >= 0 and u + 1 < rows:
        _blend(plane[u, low:high], plane[u + 1, low:high], share, out[1 + low : 1 + high])
    elif u + 1 < rows:
        _scale(plane[u + 1, low:high], share, out[1 + low : 1 + high])
    else:
        _scale(plane[u, low:high], _ONE - share, out[1 + low : 1 + high])


@kernel()
def _scale(
    row: Float32Array,
    weight: np.float32,
    out: Float32Array,
) -> None:
    for v in range(out.shape[0]):
        out[v] = weight * row[v]


@kernel()
def _grow(
    x: np.float32,
) -> np.float32:
    """exp(x) - 1 for x >= 0 from its series at x / 8, doubled three times: no cancellation near 0."""
    y = x * _EIGHTH
    e = y * (_ONE + y * (_C2 + y * (_C3 + y * (_C4 + y * (_C5 + y * _C6)))))
    e = e * (_TWO + e)
    e = e * (_TWO + e)
    return e * (_TWO + e)


@kernel()
def _inner(
    x: np.float32,
    e: np.float32,
    inverse: np.float32,
) -> np.float32:
    """(1 - (1 - exp(-x)) / x) / x, by its series where the difference would lose digits."""
    series = _C2 - x * (_C3 - x * (_C4 - x * _C5))
    return series if x < _SMALL else (_ONE - e * inverse) * (_ONE + e) * inverse


@kernel()
def _carry_primary(
    density: Float32Array,
    released: Float32Array,
    flux: Float32Array,
    deposit: Float32Array,
    step: np.float32,
    rate: Quadratic,
    share: Quadratic,
    denser: Five,
    stopping: Float32Array,
) -> None:
    """Primary energy along a row of lines: the exact solution of the transport equation in each voxel.

    ``rate`` (exponent x step) and ``share`` are quadratics in the place along the row. ``flux`` moves on one plane;
    ``deposit`` becomes the dose x step. Above the first density of ``denser`` by x, the exponent is 1 + second x /
    (1 + third x) times as large; below 1 it grows by the fourth per density, by the fifth at most; and everywhere it is
    ``stopping`` / ``density`` times as large.
    """
    a0, a1, a2 = rate
    s0, s1, s2 = share
    from_density, slope, level, thinner, thinnest = denser
    for c in range(deposit.shape[0]):
        place = np.float32(c)
        thick = max(density[c], _FLOOR)
        above = max(thick - from_density, _NONE)
        # in dense metal all stops in the voxel: the exponent is held so that the exponential stays a number
        a = (a0 + place * (a1 + place * a2)) * (_ONE + slope * above / (_ONE + level * above))
        a *= (_ONE + min(thinner * max(_ONE - thick, _NONE), thinnest)) * max(stopping[c], _FLOOR) / thick
        a = min(a, _CEILING / thick)
        x = a * thick
        e = _grow(x)
        inverse = _ONE / (x * (_ONE + e))
        mean = e * inverse
        source = released[c] * (s0 + place * (s1 + place * s2)) * step
        arriving = flux[c]
        flux[c] = arriving * (x * inverse) + source * mean
        deposit[c] = a * (mean * arriving + source * _inner(x, e, inverse))


@kernel()
def _carry_scatter(
    density: Float32Array,
    released: Float32Array,
    first: Float32Array,
    second: Float32Array,
    deposit: Float32Array,
    step: np.float32,
    rate: np.float32,
    again: np.float32,
    share: Quadratic,
) -> None:
    """Scattered energy along a row of lines, in two generations of one exponent: exact in each voxel.

    The fraction ``again`` of what the first generation loses starts the second. Adds to ``deposit``.
    """
    s0, s1, s2 = share
    for c in range(deposit.shape[0]):
        place = np.float32(c)
        thick = max(density[c], _FLOOR)
        b = min(rate, _CEILING / thick)
        x = b * thick
        e = _grow(x)
        inverse = _ONE / (x * (_ONE + e))
        mean = e * inverse
        gone = x * inverse
        inner = _inner(x, e, inverse)
        source = released[c] * (s0 + place * (s1 + place * s2)) * step
        one, two = first[c], second[c]
        middle = again * (one * gone + source * (mean - inner))
        first[c] = one * gone + source * mean
        second[c] = two * gone + x * middle
        deposit[c] += b * ((one + two) * mean + source * inner - middle)


@kernel()
def _reaches(
    flux: Float32Array,
    least: np.float32,
) -> bool:
    """Whether any of the lines still carries as much as ``least``."""
    most = _NONE
    for c in range(flux.shape[0]):
        most = max(most, abs(flux[c]))
    return bool(most >= least)


@kernel()
def _spread(
    row: Float32Array,
    near: np.float32,
    far: np.float32,
    deposit: Float32Array,
    beyond: Float32Array,
) -> None:
    """Adds the dose of the lines to the voxels of one row: the transpose of the interpolation that fed the lines."""
    for v in range(row.shape[0]):
        row[v] += near * deposit[v] + far * beyond[v]


@kernel()
def _quadratic(
    first: float,
    middle: float,
    last: float,
    width: float,
) -> Quadratic:
    """Coefficients of the parabola through three values at the places 0, width / 2 and width."""
    half = 0.5 * width
    slope = (middle - first) / half
    curve = ((last - first) / width - slope) / half
    return np.float32(first), np.float32(slope - curve * half), np.float32(curve)


@kernel()
def _cosine(
    origin: FloatArray,
    direction: FloatArray,
    step_v: FloatArray,
    place: float,
) -> float:
    along = 0.0
    square = 0.0
    for axis in range(3):
        point = origin[axis] + place * step_v[axis]
        along += point * direction[3 + axis]
        square += point * point
    cosine: float = along / np.sqrt(square)
    return cosine


@kernel()
def _at(
    table: FloatArray,
    cosine: float,
) -> float:
    value: float = table[0] + cosine * (table[1] + cosine * table[2])
    return value


@kernel()
def march(
    primary: Float32Array,
    scatter: Float32Array,
    density: Float32Array,
    ranges: IntArray,
    dose: Float32Array,
    origin: FloatArray,
    step_m: FloatArray,
    step_u: FloatArray,
    step_v: FloatArray,
    direction: FloatArray,
    table: FloatArray,
    limits: FloatArray,
    step_cm: float,
    denser: FloatArray,
    stopping: Float32Array,
    least: float,
) -> None:
    """Adds to ``dose`` what one cone direction carries through the grid; see collapsed_cone.py for the method.

    Volumes are float32 (m, u, v), m being the axis that the direction follows most. ``origin`` is the centre of voxel
    (0, 0, 0) seen from the source, ``step_*`` the vectors from voxel to voxel, ``direction`` in index steps
    (m, u, v, cosine vector 3). ``table`` (5, 3): exponent and share of primary energy; exponent, fraction of the second
    generation and share of scattered energy, as quadratics of the cosine to the ray, held within ``limits``. ``denser``: see
    :func:`_carry_primary`; ``stopping``: the density times what the exponents of primary energy are larger by. Rows of lines
    that carry less than ``least`` of it, away from where it is released, are left.
    """
    planes, rows, width = dose.shape
    forward = direction[0] > 0
    slope_u, slope_v = direction[1] / abs(direction[0]), direction[2] / abs(direction[0])
    last_u, last_v = int(np.floor(slope_u * (planes - 1))), int(np.floor(slope_v * (planes - 1)))
    lines_u, lines_v = rows + 1 + abs(last_u), width + 1 + abs(last_v)
    offset_u, offset_v = 1 + max(last_u, 0), 1 + max(last_v, 0)
    flux = np.zeros((3, lines_u, lines_v), dtype=np.float32)
    active = np.empty((lines_u, 2), dtype=np.int64)
    active[:, 0] = lines_v
    active[:, 1] = 0
    alive = np.zeros(lines_u, dtype=np.bool_)
    smallest = np.float32(least)
    row = np.zeros(width + 3, dtype=np.float32)
    dense = np.zeros(width + 1, dtype=np.float32)
    stops = np.zeros(width + 1, dtype=np.float32)
    released = np.zeros(width + 1, dtype=np.float32)
    deposit = np.zeros(width + 2, dtype=np.float32)
    corner = np.empty(3)
    harder = (
        np.float32(denser[0]), np.float32(denser[1]), np.float32(denser[2]), np.float32(denser[3]), np.float32(denser[4])
    )  # fmt: skip
    step = np.float32(step_cm)
    inverse_step = np.float32(1.0 / step_cm)
    for count in range(planes):
        m = count if forward else planes - 1 - count
        whole_u, whole_v = int(np.floor(slope_u * count)), int(np.floor(slope_v * count))
        part_u, part_v = slope_u * count - whole_u, slope_v * count - whole_v
        share_u, share_v = np.float32(part_u), np.float32(part_v)
        keep_u, keep_v = _ONE - share_u, _ONE - share_v
        base_v = offset_v - 1 - whole_v
        for u in range(-1, rows):
            line = u - whole_u + offset_u
            low, high = width, 0
            for near in range(max(u, 0), min(u + 2, rows)):
                low, high = min(low, ranges[m, near, 0]), max(high, ranges[m, near, 1])
            fed = high > low
            if fed:
                alive[line] = True
                active[line, 0] = min(active[line, 0], low + base_v)
                active[line, 1] = max(active[line, 1], high + 1 + base_v)
            # lines c of this row lie at v = c - 1 + part_v
            first = max(active[line, 0] - base_v, 0)
            last = min(active[line, 1] - base_v, width + 1)
            if last <= first:
                continue
            n = last - first
            for axis in range(3):
                corner[axis] = (
                    origin[axis] + m * step_m[axis] + (u + part_u) * step_u[axis]
                    + (first - 1 + part_v) * step_v[axis]
                )  # fmt: skip
            cos_0 = min(max(_cosine(corner, direction, step_v, 0.0), limits[0]), limits[1])
            cos_1 = min(max(_cosine(corner, direction, step_v, 0.5 * n), limits[0]), limits[1])
            cos_2 = min(max(_cosine(corner, direction, step_v, 1.0 * n), limits[0]), limits[1])
            rate_p = _quadratic(
                step_cm * _at(table[0], cos_0), step_cm * _at(table[0], cos_1), step_cm * _at(table[0], cos_2), n
            )
            share_p = _quadratic(_at(table[1], cos_0), _at(table[1], cos_1), _at(table[1], cos_2), n)
            rate_s = np.float32(step_cm * _at(table[2], cos_1))
            again = np.float32(_at(table[3], cos_1))
            share_s = _quadratic(_at(table[4], cos_0), _at(table[4], cos_1), _at(table[4], cos_2), n)
            _blend_rows(density[m], u, share_u, first - 1, last, row)
            _blend(row[first:last], row[first + 1 : last + 1], share_v, dense[:n])
            arrived = deposit[1 + first : 1 + last]
            if fed:
                _blend_rows(primary[m], u, share_u, first - 1, last, row)
                _blend(row[first:last], row[first + 1 : last + 1], share_v, released[:n])
            else:
                released[:n] = 0
            lines = slice(base_v + first, base_v + last)
            if alive[line]:
                _blend_rows(stopping[m], u, share_u, first - 1, last, row)
                _blend(row[first:last], row[first + 1 : last + 1], share_v, stops[:n])
                _carry_primary(
                    dense[:n], released[:n], flux[0, line, lines], arrived, step, rate_p, share_p, harder, stops[:n]
                )  # fmt: skip
                if not fed and count % 4 == 0:
                    alive[line] = _reaches(flux[0, line, lines], smallest)
            else:
                arrived[:] = 0
            if fed:
                _blend_rows(scatter[m], u, share_u, first - 1, last, row)
                _blend(row[first:last], row[first + 1 : last + 1], share_v, released[:n])
            _carry_scatter(
                dense[:n], released[:n], flux[1, line, lines], flux[2, line, lines], arrived, step, rate_s, again, share_s
            )  # fmt: skip
            deposit[first] = 0
            if last <= width:
                deposit[1 + last] = 0
            # deposit[1 + c]: voxel v lies between lines v and v + 1
            low, high = max(first - 1, 0), min(last, width)
            if u >= 0:
                weight = keep_u * inverse_step
                _spread(
                    dose[m, u, low:high], weight * keep_v, weight * share_v, deposit[low + 2 : high + 2],
                    deposit[low + 1 : high + 1],
                )  # fmt: skip
            if u + 1 < rows:
                weight = share_u * inverse_step
                _spread(
                    dose[m, u + 1, low:high], weight * keep_v, weight * share_v, deposit[low + 2 : high + 2],
                    deposit[low + 1 : high + 1],
                )  # fmt: skip


@kernel(parallel=True)
def march_all(
    primary: Float32Array,
    scatter: Float32Array,
    density: Float32Array,
    ranges: IntArray,
    groups: Float32Array,
    origin: FloatArray,
    step_m: FloatArray,
    step_u: FloatArray,
    step_v: FloatArray,
    directions: FloatArray,
    tables: FloatArray,
    limits: FloatArray,
    steps_cm: FloatArray,
    denser: FloatArray,
    stopping: Float32Array,
    least: float,
) -> None:
    """Sweeps every direction; each of ``groups`` (n, m, u, v) sums a fixed set of them, so bits do not depend on threads."""
    count = groups.shape[0]
    for group in prange(count):
        for index in range(group, directions.shape[0], count):
            march(
                primary, scatter, density, ranges, groups[group], origin, step_m, step_u, step_v, directions[index],
                tables[index], limits[index], steps_cm[index], denser, stopping, least,
            )  # fmt: skip

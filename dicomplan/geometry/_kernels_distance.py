"""Numba kernels of sub-voxel distances: level sets of slices, surface patches, gauge distances, cut cells.

A *gauge* is a distance in units of the margin: an ellipsoid with its own half axis on each of the six sides. Half axes
and steps are given in array order (z, y, x); ``low`` is towards smaller, ``high`` towards larger coordinates.
"""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int32]


@kernel()
def _near_segment(
    squared: Float32Array, ay: float, ax: float, by: float, bx: float, hy: float, hx: float, reach: float
) -> None:
    """Lower ``squared`` (mm2) of the nodes within ``reach`` mm of a segment (node units) to the distance to it."""
    rows, columns = squared.shape
    first_row = max(int(np.ceil(min(ay, by) - reach / hy)), 0)
    last_row = min(int(np.floor(max(ay, by) + reach / hy)), rows - 1)
    first_column = max(int(np.ceil(min(ax, bx) - reach / hx)), 0)
    last_column = min(int(np.floor(max(ax, bx) + reach / hx)), columns - 1)
    dy, dx = (by - ay) * hy, (bx - ax) * hx
    length = dy * dy + dx * dx
    for row in range(first_row, last_row + 1):
        py = (row - ay) * hy
        for column in range(first_column, last_column + 1):
            px = (column - ax) * hx
            share = 0.0
            if length > 0.0:
                share = min(max((py * dy + px * dx) / length, 0.0), 1.0)
            ry, rx = py - share * dy, px - share * dx
            distance = ry * ry + rx * rx
            if distance < squared[row, column]:  # noqa: PLR1730
                squared[row, column] = distance


@kernel(parallel=True)
def slice_level_sets(
    fraction: Float32Array, levels: FloatArray, hy: float, hx: float, reach: float, out: Float32Array
) -> None:
    """Mean over ``levels`` of the signed in-plane distance (mm, positive inside, cut at ``reach``) to the level's line.

    ``fraction`` and ``out`` are (z, y, x); each plane stands alone. The lines are those of marching squares.
    """
    planes, rows, columns = fraction.shape
    for plane in prange(planes):
        values = fraction[plane]
        result = out[plane]
        result[:] = 0.0
        squared = np.empty((rows, columns), dtype=np.float32)
        cut_y = np.empty(4)
        cut_x = np.empty(4)
        for index in range(levels.shape[0]):
            level = levels[index]
            squared[:] = reach * reach
            for row in range(rows - 1):
                for column in range(columns - 1):
                    a, b = values[row, column], values[row, column + 1]
                    c, d = values[row + 1, column + 1], values[row + 1, column]
                    in_a, in_b, in_c, in_d = a >= level, b >= level, c >= level, d >= level
                    if in_a == in_b and in_b == in_c and in_c == in_d:
                        continue
                    number = 0
                    if in_a != in_b:
                        cut_y[number], cut_x[number] = row, column + (level - a) / (b - a)
                        number += 1
                    if in_b != in_c:
                        cut_y[number], cut_x[number] = row + (level - b) / (c - b), column + 1.0
                        number += 1
                    if in_c != in_d:
                        cut_y[number], cut_x[number] = row + 1.0, column + (level - d) / (c - d)
                        number += 1
                    if in_d != in_a:
                        cut_y[number], cut_x[number] = row + (level - a) / (d - a), column
                        number += 1
                    if number == 2:
                        _near_segment(squared, cut_y[0], cut_x[0], cut_y[1], cut_x[1], hy, hx, reach)
                    else:
                        # a saddle: the mean of the corners says which two of them are joined
                        joined = (0.25 * (a + b + c + d) >= level) == in_a
                        if joined:
                            _near_segment(squared, cut_y[0], cut_x[0], cut_y[1], cut_x[1], hy, hx, reach)
                            _near_segment(squared, cut_y[2], cut_x[2], cut_y[3], cut_x[3], hy, hx, reach)
                        else:
                            _near_segment(squared, cut_y[0], cut_x[0], cut_y[3], cut_x[3], hy, hx, reach)
                            _near_segment(squared, cut_y[1], cut_x[1], cut_y[2], cut_x[2], hy, hx, reach)
            share = 1.0 / levels.shape[0]
            for row in range(rows):
                for column in range(columns):
                    distance = np.sqrt(squared[row, column])
                    result[row, column] += share * distance if values[row, column] >= level else -share * distance


@kernel()
def _cut_cell(value: float, a: float, b: float, c: float) -> float:
    """Volume of a unit cube where ``value + a u + b v + c w >= 0``, u, v, w in -0.5..0.5; a, b, c >= 0.

    Inclusion and exclusion of the corner tetrahedra (Scardovelli, Zaleski, J Comput Phys 164, 2000).
    """
    total = a + b + c
    if value >= 0.5 * total:
        return 1.0
    if value <= -0.5 * total:
        return 0.0
    least = 2e-3 * total
    a, b, c = max(a, least), max(b, least), max(c, least)
    total = a + b + c
    flip = value > 0.0
    alpha = 0.5 * total - abs(value)
    if alpha <= 0.0:
        return 1.0 if flip else 0.0
    volume = alpha**3
    volume -= max(alpha - a, 0.0) ** 3 + max(alpha - b, 0.0) ** 3 + max(alpha - c, 0.0) ** 3
    volume += max(alpha - a - b, 0.0) ** 3 + max(alpha - a - c, 0.0) ** 3 + max(alpha - b - c, 0.0) ** 3
    volume = min(max(volume / (6.0 * a * b * c), 0.0), 1.0)
    return 1.0 - volume if flip else volume


@kernel(parallel=True)
def level_set_volume(level_set: Float32Array, shift: float, out: FloatArray) -> None:
    """Volume, in cells, of each plane where ``level_set + shift >= 0``; ``out`` (z,). The outermost cells are left out."""
    planes, rows, columns = level_set.shape
    for plane in prange(planes):
        total = 0.0
        if 0 < plane < planes - 1:
            for row in range(1, rows - 1):
                for column in range(1, columns - 1):
                    value = level_set[plane, row, column] + shift
                    a = 0.5 * abs(level_set[plane + 1, row, column] - level_set[plane - 1, row, column])
                    b = 0.5 * abs(level_set[plane, row + 1, column] - level_set[plane, row - 1, column])
                    c = 0.5 * abs(level_set[plane, row, column + 1] - level_set[plane, row, column - 1])
                    total += _cut_cell(value, a, b, c)
        out[plane] = total


@kernel()
def _is_rim(level_set: Float32Array, z: int, y: int, x: int) -> bool:
    """Whether a node is outside and one of its six neighbours is inside."""
    if level_set[z, y, x] >= 0.0:
        return False
    beside: bool = (
        level_set[z - 1, y, x] >= 0.0
        or level_set[z + 1, y, x] >= 0.0
        or level_set[z, y - 1, x] >= 0.0
        or level_set[z, y + 1, x] >= 0.0
        or level_set[z, y, x - 1] >= 0.0
        or level_set[z, y, x + 1] >= 0.0
    )
    return beside


@kernel(parallel=True)
def count_rim(level_set: Float32Array, out: NDArray[np.int64]) -> None:
    """Number of rim nodes (outside, next to an inside one) of each plane; ``out`` (z,)."""
    planes, rows, columns = level_set.shape
    for plane in prange(planes):
        total = 0
        if 0 < plane < planes - 1:
            for row in range(1, rows - 1):
                for column in range(1, columns - 1):
                    if _is_rim(level_set, plane, row, column):
                        total += 1
        out[plane] = total


@kernel(parallel=True)
def rim_patches(
    level_set: Float32Array,
    step: FloatArray,
    start: NDArray[np.int64],
    patch_of: IntArray,
    point: Float32Array,
    normal: Float32Array,
) -> None:
    """A small plane piece of the zero surface for each rim node: its point and outward normal, both (n, 3) (z, y, x).

    ``point`` is in mm from node [0, 0, 0]; ``patch_of`` (z, y, x) gets the patch number of each rim node, else -1;
    ``start`` (z,) is the number of each plane's first patch.
    """
    planes, rows, columns = level_set.shape
    for plane in prange(planes):
        patch_of[plane] = -1
        if plane in (0, planes - 1):
            continue
        number = start[plane]
        for row in range(1, rows - 1):
            for column in range(1, columns - 1):
                if not _is_rim(level_set, plane, row, column):
                    continue
                here = level_set[plane, row, column]
                gz = (level_set[plane + 1, row, column] - level_set[plane - 1, row, column]) / (2.0 * step[0])
                gy = (level_set[plane, row + 1, column] - level_set[plane, row - 1, column]) / (2.0 * step[1])
                gx = (level_set[plane, row, column + 1] - level_set[plane, row, column - 1]) / (2.0 * step[2])
                size = np.sqrt(gz * gz + gy * gy + gx * gx)
                # the shortest way along an axis to a crossing bounds how far the surface can be
                nearest = np.inf
                axis = 0
                sign = 1.0
                for side in range(6):
                    along = side // 2
                    toward = 1 if side % 2 else -1
                    other = level_set[
                        plane + (toward if along == 0 else 0),
                        row + (toward if along == 1 else 0),
                        column + (toward if along == 2 else 0),
                    ]
                    if other >= 0.0:
                        way = step[along] * here / (here - other)
                        if way < nearest:
                            nearest, axis, sign = way, along, float(toward)
                point[number, 0] = plane * step[0]
                point[number, 1] = row * step[1]
                point[number, 2] = column * step[2]
                normal[number] = 0.0
                if size > 0.0 and -here / size <= nearest * 1.0001:
                    way = -here / size
                    normal[number, 0], normal[number, 1], normal[number, 2] = -gz / size, -gy / size, -gx / size
                else:
                    way = nearest
                    normal[number, axis] = -sign
                for i in range(3):
                    point[number, i] -= way * normal[number, i]
                patch_of[plane, row, column] = number
                number += 1


@kernel(parallel=True)
def fit_normals(
    patch_of: IntArray, step: FloatArray, point: Float32Array, normal: Float32Array, out: Float32Array
) -> None:
    """Normals (n, 3) of planes fitted to the patch points within two nodes of each patch; ``normal`` are the first guess.

    Differences of a level set are crude where the surface is oblique to the slices; a plane through the neighbours'
    points is right to second order (B. Swartz, Math Comput 52, 1989). Neighbours whose guess points elsewhere (other
    side of a thin part) are left out; where too few remain the guess stays.
    """
    planes, rows, columns = patch_of.shape
    for plane in prange(planes):
        for row in range(rows):
            for column in range(columns):
                own = patch_of[plane, row, column]
                if own < 0:
                    continue
                nz, ny, nx = normal[own, 0], normal[own, 1], normal[own, 2]
                # two directions across the normal: the axis it leans on least, made perpendicular, and their product
                if abs(nz) <= abs(ny) and abs(nz) <= abs(nx):
                    uz, uy, ux = 1.0 - nz * nz, -nz * ny, -nz * nx
                elif abs(ny) <= abs(nx):
                    uz, uy, ux = -ny * nz, 1.0 - ny * ny, -ny * nx
                else:
                    uz, uy, ux = -nx * nz, -nx * ny, 1.0 - nx * nx
                size = np.sqrt(uz * uz + uy * uy + ux * ux)
                uz, uy, ux = uz / size, uy / size, ux / size
                vz, vy, vx = ny * ux - nx * uy, nx * uz - nz * ux, nz * uy - ny * uz
                count = 0.0
                su, sv, sh, suu, suv, svv, suh, svh = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
                for z in range(max(plane - 2, 0), min(plane + 3, planes)):
                    for y in range(max(row - 2, 0), min(row + 3, rows)):
                        for x in range(max(column - 2, 0), min(column + 3, columns)):
                            other = patch_of[z, y, x]
                            if other < 0:
                                continue
                            same = normal[other, 0] * nz + normal[other, 1] * ny + normal[other, 2] * nx
                            if same < 0.5:
                                continue
                            dz = point[other, 0] - point[own, 0]
                            dy = point[other, 1] - point[own, 1]
                            dx = point[other, 2] - point[own, 2]
                            u = dz * uz + dy * uy + dx * ux
                            v = dz * vz + dy * vy + dx * vx
                            h = dz * nz + dy * ny + dx * nx
                            count += 1.0
                            su += u
                            sv += v
                            sh += h
                            suu += u * u
                            suv += u * v
                            svv += v * v
                            suh += u * h
                            svh += v * h
                out[own, 0], out[own, 1], out[own, 2] = nz, ny, nx
                if count < 5.0:
                    continue
                suu -= su * su / count
                suv -= su * sv / count
                svv -= sv * sv / count
                suh -= su * sh / count
                svh -= sv * sh / count
                det = suu * svv - suv * suv
                if det <= 0.05 * (suu + svv) ** 2:
                    continue  # the points lie nearly on a line
                slope_u = (suh * svv - svh * suv) / det
                slope_v = (svh * suu - suh * suv) / det
                fz = nz - slope_u * uz - slope_v * vz
                fy = ny - slope_u * uy - slope_v * vy
                fx = nx - slope_u * ux - slope_v * vx
                size = np.sqrt(fz * fz + fy * fy + fx * fx)
                out[own, 0], out[own, 1], out[own, 2] = fz / size, fy / size, fx / size


@kernel()
def _gauge_squared(dz: float, dy: float, dx: float, low: FloatArray, high: FloatArray) -> float:
    """Squared gauge of a displacement from the surface to a point, (z, y, x) mm."""
    z = dz / (high[0] if dz > 0.0 else low[0])
    y = dy / (high[1] if dy > 0.0 else low[1])
    x = dx / (high[2] if dx > 0.0 else low[2])
    squared: float = z * z + y * y + x * x
    return squared


@kernel(parallel=True)
def nearest_along(
    level_set: Float32Array,
    axis: int,
    step: FloatArray,
    low: FloatArray,
    high: FloatArray,
    limit: float,
    point: Float32Array,
    feature: IntArray,
    out: IntArray,
) -> None:
    """For each outside node the nearest patch among the ``feature`` patches of the nodes on its line along ``axis``.

    Nearest by the gauge to the patch's point, up to the gauge ``limit``; -1 if there is none. Run along x, y and z in
    turn it propagates the nearest surface point; inside nodes pass only what they carry themselves.
    """
    planes, rows, columns = level_set.shape
    size = level_set.shape[axis]
    forth = int(np.ceil(limit * low[axis] / step[axis])) + 1
    back = int(np.ceil(limit * high[axis] / step[axis])) + 1
    bound = limit * limit
    for task in prange(planes * rows):
        plane = task // rows
        row = task % rows
        for column in range(columns):
            out[plane, row, column] = -1
            if level_set[plane, row, column] >= 0.0:
                continue
            pz, py, px = plane * step[0], row * step[1], column * step[2]
            here = plane if axis == 0 else row if axis == 1 else column
            best = bound
            chosen = -1
            for k in range(max(forth, back) + 1):
                # a patch lies within one step of its node
                free = (k - 1) * step[axis]
                going = False
                if k <= forth and here + k < size:
                    far = free / low[axis] if free > 0.0 else 0.0
                    if far * far <= best:
                        going = True
                        other = (
                            feature[plane + k, row, column]
                            if axis == 0
                            else feature[plane, row + k, column]
                            if axis == 1
                            else feature[plane, row, column + k]
                        )
                        if other >= 0:
                            value = _gauge_squared(
                                pz - point[other, 0], py - point[other, 1], px - point[other, 2], low, high
                            )
                            if value < best:
                                best, chosen = value, other
                if k > 0 and k <= back and here - k >= 0:
                    far = free / high[axis] if free > 0.0 else 0.0
                    if far * far <= best:
                        going = True
                        other = (
                            feature[plane - k, row, column]
                            if axis == 0
                            else feature[plane, row - k, column]
                            if axis == 1
                            else feature[plane, row, column - k]
                        )
                        if other >= 0:
                            value = _gauge_squared(
                                pz - point[other, 0], py - point[other, 1], px - point[other, 2], low, high
                            )
                            if value < best:
                                best, chosen = value, other
                if not going and k > 1:
                    break
            out[plane, row, column] = chosen


@kernel()
def _foot(
    dz: float, dy: float, dx: float, nz: float, ny: float, nx: float, low: FloatArray, high: FloatArray
) -> tuple[float, float, float, float]:
    """Gauge from a plane to a point at ``d`` from the plane's own point, and the foot's offset from that point.

    The gauge of a plane is its distance divided by the ellipsoid's support along the normal.
    """
    height = dz * nz + dy * ny + dx * nx
    if height < 0.0:
        height, nz, ny, nx = -height, -nz, -ny, -nx
    mz = high[0] if nz > 0.0 else low[0]
    my = high[1] if ny > 0.0 else low[1]
    mx = high[2] if nx > 0.0 else low[2]
    support = np.sqrt(mz * mz * nz * nz + my * my * ny * ny + mx * mx * nx * nx)
    scale = height / (support * support)
    return height / support, dz - scale * mz * mz * nz, dy - scale * my * my * ny, dx - scale * mx * mx * nx


@kernel()
def _patch_gauge(
    pz: float,
    py: float,
    px: float,
    patch: int,
    point: Float32Array,
    normal: Float32Array,
    step: FloatArray,
    low: FloatArray,
    high: FloatArray,
) -> float:
    """Gauge from a patch, a plane piece of 1.2 steps, to a point (mm); beside the piece its nearest place counts."""
    dz, dy, dx = pz - point[patch, 0], py - point[patch, 1], px - point[patch, 2]
    gauge, oz, oy, ox = _foot(dz, dy, dx, normal[patch, 0], normal[patch, 1], normal[patch, 2], low, high)
    bz, by, bx = 0.6 * step[0], 0.6 * step[1], 0.6 * step[2]
    if abs(oz) <= bz and abs(oy) <= by and abs(ox) <= bx:
        return gauge
    rz = dz - min(max(oz, -bz), bz)
    ry = dy - min(max(oy, -by), by)
    rx = dx - min(max(ox, -bx), bx)
    beside: float = np.sqrt(_gauge_squared(rz, ry, rx, low, high))
    return max(beside, gauge)


@kernel()
def _blended_gauge(
    pz: float,
    py: float,
    px: float,
    nearest: int,
    rough: float,
    patch_of: IntArray,
    point: Float32Array,
    normal: Float32Array,
    step: FloatArray,
    low: FloatArray,
    high: FloatArray,
) -> float:
    """Gauge of the planes round the ``nearest`` patch, extrapolated to one that touches the surface at the foot itself.

    The least of many noisy planes would be too near by their noise. On a curved surface a plane errs with the square of
    the foot's offset from its touching point (to second order), so a line is fitted through gauge against offset squared,
    planes with small offsets weighing most. ``rough`` where the foot falls beside all planes (edges).
    """
    planes, rows, columns = patch_of.shape
    cz = int(np.rint(point[nearest, 0] / step[0]))
    cy = int(np.rint(point[nearest, 1] / step[1]))
    cx = int(np.rint(point[nearest, 2] / step[2]))
    nz, ny, nx = normal[nearest, 0], normal[nearest, 1], normal[nearest, 2]
    dz, dy, dx = pz - point[nearest, 0], py - point[nearest, 1], px - point[nearest, 2]
    far = (dz / step[0]) ** 2 + (dy / step[1]) ** 2 + (dx / step[2]) ** 2
    narrow = 2.0
    while True:
        weights, sum_g, sum_s, sum_ss, sum_sg = 0.0, 0.0, 0.0, 0.0, 0.0
        for z in range(max(cz - 2, 0), min(cz + 3, planes)):
            for y in range(max(cy - 2, 0), min(cy + 3, rows)):
                for x in range(max(cx - 2, 0), min(cx + 3, columns)):
                    patch = patch_of[z, y, x]
                    if patch < 0:
                        continue
                    if normal[patch, 0] * nz + normal[patch, 1] * ny + normal[patch, 2] * nx < 0.7:
                        continue
                    dz, dy, dx = pz - point[patch, 0], py - point[patch, 1], px - point[patch, 2]
                    gauge, oz, oy, ox = _foot(
                        dz, dy, dx, normal[patch, 0], normal[patch, 1], normal[patch, 2], low, high
                    )
                    square = oz * oz + oy * oy + ox * ox
                    oz, oy, ox = oz / step[0], oy / step[1], ox / step[2]
                    offset = oz * oz + oy * oy + ox * ox
                    if narrow * offset < 8.0:
                        weight = np.exp(-narrow * offset)
                        weights += weight
                        sum_g += weight * gauge
                        sum_s += weight * square
                        sum_ss += weight * square * square
                        sum_sg += weight * square * gauge
        # far from a convex surface the feet lie wider apart than the patches; near an edge they lie beside all planes
        if weights >= 0.2:
            break
        if narrow < 1.0 or far < 256.0:
            return rough
        narrow = 0.5
    spread = weights * sum_ss - sum_s * sum_s
    if spread <= 1e-3 * weights * sum_ss:
        return sum_g / weights
    slope = (weights * sum_sg - sum_s * sum_g) / spread
    return (sum_g - slope * sum_s) / weights


@kernel(parallel=True)
def gauge_field(
    level_set: Float32Array,
    step: FloatArray,
    low: FloatArray,
    high: FloatArray,
    limit: float,
    near: float,
    patch_of: IntArray,
    point: Float32Array,
    normal: Float32Array,
    feature: IntArray,
    out: Float32Array,
) -> None:
    """Gauge from the surface to each node: ``limit`` if farther, below 0 inside (to first order).

    Nodes whose rough gauge is at least ``near`` are refined with the patches round the nearest one and those that are
    nearest to the six neighbours; the others keep the rough gauge, which is enough to know them covered.
    """
    planes, rows, columns = level_set.shape
    for task in prange(planes * rows):
        plane = task // rows
        row = task % rows
        for column in range(columns):
            pz, py, px = plane * step[0], row * step[1], column * step[2]
            value = level_set[plane, row, column]
            if value >= 0.0:
                inner = 0 < plane < planes - 1 and 0 < row < rows - 1 and 0 < column < columns - 1
                depth = limit
                if inner:
                    gz = (level_set[plane + 1, row, column] - level_set[plane - 1, row, column]) / (2.0 * step[0])
                    gy = (level_set[plane, row + 1, column] - level_set[plane, row - 1, column]) / (2.0 * step[1])
                    gx = (level_set[plane, row, column + 1] - level_set[plane, row, column - 1]) / (2.0 * step[2])
                    mz = high[0] if gz < 0.0 else low[0]
                    my = high[1] if gy < 0.0 else low[1]
                    mx = high[2] if gx < 0.0 else low[2]
                    support = np.sqrt(mz * mz * gz * gz + my * my * gy * gy + mx * mx * gx * gx)
                    if support > 0.0:
                        depth = min(value / support, limit)
                out[plane, row, column] = -depth
                continue
            own = feature[plane, row, column]
            if own < 0:
                out[plane, row, column] = limit
                continue
            best = np.sqrt(_gauge_squared(pz - point[own, 0], py - point[own, 1], px - point[own, 2], low, high))
            if best >= near:
                best = limit
                chosen = -1
                cz = int(np.rint(point[own, 0] / step[0]))
                cy = int(np.rint(point[own, 1] / step[1]))
                cx = int(np.rint(point[own, 2] / step[2]))
                for z in range(max(cz - 1, 0), min(cz + 2, planes)):
                    for y in range(max(cy - 1, 0), min(cy + 2, rows)):
                        for x in range(max(cx - 1, 0), min(cx + 2, columns)):
                            patch = patch_of[z, y, x]
                            if patch >= 0:
                                other = _patch_gauge(pz, py, px, patch, point, normal, step, low, high)
                                if other < best:
                                    best, chosen = other, patch
                for side in range(7):
                    toward = 1 if side % 2 else -1
                    z = plane + (toward if side // 2 == 0 else 0)
                    y = row + (toward if side // 2 == 1 else 0)
                    x = column + (toward if side // 2 == 2 else 0)
                    if 0 <= z < planes and 0 <= y < rows and 0 <= x < columns:
                        patch = feature[z, y, x]
                        if patch >= 0:
                            other = _patch_gauge(pz, py, px, patch, point, normal, step, low, high)
                            if other < best:
                                best, chosen = other, patch
                if chosen >= 0:
                    best = _blended_gauge(pz, py, px, chosen, best, patch_of, point, normal, step, low, high)
            out[plane, row, column] = min(best, limit)


@kernel()
def _sample(field: Float32Array, z: float, y: float, x: float) -> float:
    """Trilinear value at node coordinates, held at the border."""
    planes, rows, columns = field.shape
    z = min(max(z, 0.0), planes - 1.0)
    y = min(max(y, 0.0), rows - 1.0)
    x = min(max(x, 0.0), columns - 1.0)
    k, j, i = min(int(z), planes - 2), min(int(y), rows - 2), min(int(x), columns - 2)
    c, b, a = z - k, y - j, x - i
    low = (field[k, j, i] * (1 - a) + field[k, j, i + 1] * a) * (1 - b) + (
        field[k, j + 1, i] * (1 - a) + field[k, j + 1, i + 1] * a
    ) * b
    high = (field[k + 1, j, i] * (1 - a) + field[k + 1, j, i + 1] * a) * (1 - b) + (
        field[k + 1, j + 1, i] * (1 - a) + field[k + 1, j + 1, i + 1] * a
    ) * b
    value: float = low * (1 - c) + high * c
    return value


@kernel(parallel=True)
def covered_cells(
    gauge: Float32Array,
    z_node: FloatArray,
    y_node: FloatArray,
    x_node: FloatArray,
    parts: int,
    band: float,
    out: Float32Array,
) -> None:
    """Fraction of each cell of ``out`` (z, y, x) where the gauge is at most 1; cells off by ``band`` are not cut.

    ``y_node``, ``x_node`` are the cells' centres and ``z_node`` those of their ``parts`` sub-cells along z, in node
    units of ``gauge``; cells are as large as the spacing of their centres. Each sub-cell is cut by a plane.
    """
    planes, rows, columns = out.shape
    sub = z_node[1] - z_node[0] if z_node.shape[0] > 1 else 1.0
    dy = y_node[1] - y_node[0] if rows > 1 else 1.0
    dx = x_node[1] - x_node[0] if columns > 1 else 1.0
    # gradients over at least one node step: shorter ones see the kinks of the linear interpolation
    wz, wy, wx = max(sub, 1.0), max(dy, 1.0), max(dx, 1.0)
    for task in prange(planes * rows):
        plane = task // rows
        row = task % rows
        y = y_node[row]
        for column in range(columns):
            x = x_node[column]
            total = 0.0
            for part in range(parts):
                z = z_node[plane * parts + part]
                value = 1.0 - _sample(gauge, z, y, x)
                if abs(value) > band:
                    total += 1.0 if value > 0.0 else 0.0
                    continue
                a = (_sample(gauge, z + wz, y, x) - _sample(gauge, z - wz, y, x)) * (0.5 * sub / wz)
                b = (_sample(gauge, z, y + wy, x) - _sample(gauge, z, y - wy, x)) * (0.5 * dy / wy)
                c = (_sample(gauge, z, y, x + wx) - _sample(gauge, z, y, x - wx)) * (0.5 * dx / wx)
                total += _cut_cell(value, abs(a), abs(b), abs(c))
            out[plane, row, column] = total / parts

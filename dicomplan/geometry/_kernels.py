"""Numba kernels of the geometry room: polygon coverage, box averaging, trilinear sampling.

All lengths that reach :func:`polygon_rows` are in units of pixels, so that a coverage is an area.
"""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

_TOUCH = 1e-9  # pixels; edges that swap order by less are taken as touching, so rounding makes no crossings
_SNAP = 1e-12  # coverages this near to 0 or 1 are rounding of the running sum


@kernel(inline=True)
def _x_at(edges: FloatArray, edge: int, y: float) -> float:
    share = (y - edges[edge, 1]) / (edges[edge, 3] - edges[edge, 1])
    x: float = edges[edge, 0] * (1.0 - share) + edges[edge, 2] * share
    return x


@kernel()
def _add_edge(change: FloatArray, columns: int, x_low: float, x_high: float, height: float) -> None:
    """Add the area right of an edge piece to the row's differences: a running sum over them is the coverage."""
    if x_low > x_high:
        x_low, x_high = x_high, x_low
    if x_low >= columns:
        return
    if x_high <= 0.0:
        change[0] += height
        return
    width = x_high - x_low
    if width <= 0.0:
        column = int(x_low)
        inside = height * (column + 1 - x_low)
        change[column] += inside
        change[column + 1] += height - inside
        return
    per_x = height / width
    start = x_low
    if start < 0.0:
        change[0] += -start * per_x
        start = 0.0
    stop = min(x_high, float(columns))
    column = int(start)
    while start < stop:
        right = min(float(column + 1), stop)
        piece = (right - start) * per_x
        inside = piece * (column + 1 - 0.5 * (start + right))
        change[column] += inside
        change[column + 1] += piece - inside
        start = right
        column += 1


@kernel()
def polygon_rows(edges: FloatArray, out: NDArray[np.floating], most: int) -> int:
    """Even-odd coverage of unit pixels by the area that ``edges`` bound; written into ``out`` (ny, nx).

    ``edges`` (n, 4): x, y of the lower end, x, y of the upper end, none horizontal, sorted by the lower y. A sweep
    upwards stops at each pixel row, each end and each crossing of edges; between two stops the edges do not cross,
    so every other gap between them is inside, and the trapezoids' areas are exact. Each stop looks at every edge
    that it meets: after more than ``most`` such looks the sweep ends, ``out`` unfinished. Returns the looks taken.
    """
    rows, columns = out.shape
    count = edges.shape[0]
    active = np.empty(count, dtype=np.int64)
    x_low = np.empty(count)
    x_high = np.empty(count)
    change = np.zeros(columns + 2)
    number = 0
    following = 0
    looks = 0
    for row in range(rows):
        y = float(row)
        row_end = float(row + 1)
        touched = False
        while y < row_end:
            kept = 0
            for index in range(number):
                if edges[active[index], 3] > y:
                    active[kept] = active[index]
                    kept += 1
            number = kept
            while following < count and edges[following, 1] <= y:
                if edges[following, 3] > y:
                    active[number] = following
                    number += 1
                following += 1
            y_next = row_end
            if following < count:
                y_next = min(y_next, edges[following, 1])
            for index in range(number):
                y_next = min(y_next, edges[active[index], 3])
            if number == 0:
                y = y_next
                continue
            looks += number
            if looks > most:
                return looks
            for index in range(number):
                edge = active[index]
                low = _x_at(edges, edge, y)
                high = _x_at(edges, edge, y_next)
                place = index
                while place > 0 and (x_low[place - 1] > low or (x_low[place - 1] == low and x_high[place - 1] > high)):
                    x_low[place] = x_low[place - 1]
                    x_high[place] = x_high[place - 1]
                    active[place] = active[place - 1]
                    place -= 1
                looks += index - place
                if looks > most:
                    return looks
                x_low[place] = low
                x_high[place] = high
                active[place] = edge
            first = 1.0
            for index in range(number - 1):
                overlap = x_high[index] - x_high[index + 1]
                if overlap > _TOUCH:
                    gap = x_low[index + 1] - x_low[index]
                    first = min(first, gap / (gap + overlap))
            if first < 1.0:
                # a step of at least 1e-10 pixel ends the loop where rounding puts a crossing onto the stop itself
                y_next = min(y_next, max(y + first * (y_next - y), y + 1e-10))
                for index in range(number):
                    x_high[index] = _x_at(edges, active[index], y_next)
            height = y_next - y
            for index in range(number):
                signed = height if index % 2 == 0 else -height
                _add_edge(change, columns, x_low[index], x_high[index], signed)
            touched = True
            y = y_next
        if touched:
            total = 0.0
            covered = 0.0
            for column in range(columns):
                step = change[column]
                if step != 0.0:
                    change[column] = 0.0
                    total += step
                    covered = total
                    if total < _SNAP:
                        covered = 0.0
                    elif total > 1.0 - _SNAP:
                        covered = 1.0
                out[row, column] = covered
            change[columns] = 0.0
            change[columns + 1] = 0.0
    return looks


@kernel()
def polygon_planes(
    points: FloatArray, polygons: IntArray, groups: IntArray, planes: IntArray, out: NDArray[np.floating], most: int
) -> IntArray:
    """Coverage of each plane, the mean of its groups' even-odd coverages, into ``out`` (nz, ny, nx); zero on entry.

    ``points`` (n, 2) x, y of all polygons in pixels from the outer corner. Polygon p has the points from
    ``polygons[p]`` to ``polygons[p + 1]``, group g the polygons from ``groups[g]``, plane k the groups from
    ``planes[k]``. Returns for each plane the most looks of one of its groups, see :func:`polygon_rows`; ends at the first
    that takes more than ``most``.
    """
    count, rows, columns = out.shape
    looks = np.zeros(count, dtype=np.int64)
    for plane in range(count):
        several = planes[plane + 1] - planes[plane]
        for group in range(planes[plane], planes[plane + 1]):
            size = polygons[groups[group + 1]] - polygons[groups[group]]
            edges = np.empty((size, 4))
            kept = 0
            for polygon in range(groups[group], groups[group + 1]):
                stop = polygons[polygon + 1]
                for point in range(polygons[polygon], stop):
                    following = point + 1 if point + 1 < stop else polygons[polygon]
                    low, high = point, following
                    if points[low, 1] > points[high, 1]:
                        low, high = following, point
                    if points[low, 1] < points[high, 1] and points[high, 1] > 0.0 and points[low, 1] < rows:
                        edges[kept, 0] = points[low, 0]
                        edges[kept, 1] = points[low, 1]
                        edges[kept, 2] = points[high, 0]
                        edges[kept, 3] = points[high, 1]
                        kept += 1
            if kept == 0:
                continue
            edges = edges[np.argsort(edges[:kept, 1], kind="mergesort")]
            if several == 1:
                found = polygon_rows(edges, out[plane], most)
            else:
                part = np.zeros((rows, columns), dtype=out.dtype)
                found = polygon_rows(edges, part, most)
                for row in range(rows):
                    for column in range(columns):
                        out[plane, row, column] += part[row, column] / several
            looks[plane] = max(looks[plane], found)
            if found > most:
                return looks
    return looks


_LINES = 16  # of the last axis that are summed at a time


@kernel(parallel=True)
def weighted_axis(
    source: Float32Array, start: IntArray, count: IntArray, weight: FloatArray, out: Float32Array
) -> None:
    """Weighted sums along the middle axis: ``out[o, j, i] = sum_k weight[j, k] source[o, start[j] + k, i]``.

    ``source`` (outer, n, inner), ``out`` (outer, m, inner); ``count[j]`` weights of row j are used.
    """
    outer, size, inner = source.shape
    targets = out.shape[1]
    if inner == 1:
        # lines side by side, so that what is done for one is done for all of them
        for block in prange((outer + _LINES - 1) // _LINES):
            first = block * _LINES
            lines = min(_LINES, outer - first)
            turned, total = np.zeros((size, _LINES)), np.empty(_LINES)
            for line in range(lines):
                for i in range(size):
                    turned[i, line] = source[first + line, i, 0]
            for j in range(targets):
                total[:] = 0.0
                for k in range(count[j]):
                    factor, i = weight[j, k], start[j] + k
                    for line in range(_LINES):
                        total[line] += factor * turned[i, line]
                for line in range(lines):
                    out[first + line, j, 0] = total[line]
        return
    for task in prange(outer * targets):
        o = task // targets
        j = task % targets
        sums = np.zeros(inner)
        for k in range(count[j]):
            factor = weight[j, k]
            for i in range(inner):
                sums[i] += factor * source[o, start[j] + k, i]
        for i in range(inner):
            out[o, j, i] = sums[i]


@kernel(parallel=True)
def trilinear_points(
    volume: Float32Array, origin_xyz: FloatArray, spacing_xyz: FloatArray, points: FloatArray, out: Float32Array
) -> None:
    """Trilinear values at local ``points`` (n, 3) (x, y, z) mm; clamped within half a voxel of the border, 0 outside."""
    nz, ny, nx = volume.shape
    for p in prange(points.shape[0]):
        x = (points[p, 0] - origin_xyz[0]) / spacing_xyz[0]
        y = (points[p, 1] - origin_xyz[1]) / spacing_xyz[1]
        z = (points[p, 2] - origin_xyz[2]) / spacing_xyz[2]
        outside = not (-0.5 <= x <= nx - 0.5 and -0.5 <= y <= ny - 0.5 and -0.5 <= z <= nz - 0.5)
        if outside:
            out[p] = 0.0
            continue
        x = min(max(x, 0.0), nx - 1.0)
        y = min(max(y, 0.0), ny - 1.0)
        z = min(max(z, 0.0), nz - 1.0)
        i = min(int(x), max(nx - 2, 0))
        j = min(int(y), max(ny - 2, 0))
        k = min(int(z), max(nz - 2, 0))
        i1 = min(i + 1, nx - 1)
        j1 = min(j + 1, ny - 1)
        k1 = min(k + 1, nz - 1)
        a = x - i
        b = y - j
        c = z - k
        low = (volume[k, j, i] * (1 - a) + volume[k, j, i1] * a) * (1 - b) + (
            volume[k, j1, i] * (1 - a) + volume[k, j1, i1] * a
        ) * b
        high = (volume[k1, j, i] * (1 - a) + volume[k1, j, i1] * a) * (1 - b) + (
            volume[k1, j1, i] * (1 - a) + volume[k1, j1, i1] * a
        ) * b
        out[p] = low * (1 - c) + high * c

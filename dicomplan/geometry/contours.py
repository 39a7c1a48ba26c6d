"""Level lines of a coverage plane as closed polygons, at sub-pixel accuracy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]


def half_coverage_contours(
    plane: NDArray[np.floating], x_mm: FloatArray, y_mm: FloatArray, level: float = 0.5
) -> list[FloatArray]:
    """Closed polygons (n, 2) x, y in mm where the bilinear ``plane`` (ny, nx) of coverage crosses ``level``.

    ``x_mm`` (nx), ``y_mm`` (ny) are the uniform pixel centres in mm. Outer boundaries and holes are separate polygons
    that do not cross: together they enclose, by XOR, where the coverage is above the level. Outer boundaries run
    counter-clockwise in (x, y), holes clockwise; the first point is not repeated. Outside the plane the coverage is 0,
    so a structure cut at the border is closed there.
    """
    from contourpy import contour_generator

    rows = np.flatnonzero((plane > level).any(axis=1))
    if len(rows) == 0:
        return []
    columns = np.flatnonzero((plane > level).any(axis=0))
    first_row, last_row = max(rows[0] - 1, 0), min(rows[-1] + 2, plane.shape[0])
    first_column, last_column = max(columns[0] - 1, 0), min(columns[-1] + 2, plane.shape[1])
    part = np.pad(np.asarray(plane[first_row:last_row, first_column:last_column], dtype=np.float64), 1)
    x_step = (x_mm[-1] - x_mm[0]) / max(len(x_mm) - 1, 1) or 1.0
    y_step = (y_mm[-1] - y_mm[0]) / max(len(y_mm) - 1, 1) or 1.0
    x = x_mm[first_column] + x_step * np.arange(-1, part.shape[1] - 1)
    y = y_mm[first_row] + y_step * np.arange(-1, part.shape[0] - 1)
    lines = contour_generator(x=x, y=y, z=part, name="serial").lines(level)
    polygons = [np.asarray(line[:-1], dtype=np.float64) for line in lines]
    return [polygon for polygon in polygons if len(polygon) >= 3]


def simplify(polygon_mm: FloatArray, tolerance_mm: float = 0.01) -> FloatArray:
    """The polygon (n, 2) without points that lie within ``tolerance_mm`` of the line between their neighbours.

    Points go in rounds of every second one; what each round may have moved the line adds up, so that the result stays
    within ``tolerance_mm`` of the input. At least 3 points stay.
    """
    points = np.asarray(polygon_mm, dtype=np.float64)
    moved = np.zeros(len(points))  # how far the line from each point to the next may be from the input
    idle = 0
    parity = 0
    while idle < 2 and len(points) > 3:
        before, after = np.roll(points, 1, axis=0), np.roll(points, -1, axis=0)
        chord = after - before
        length = np.hypot(chord[:, 0], chord[:, 1])
        offset = points - before
        cross = np.abs(chord[:, 0] * offset[:, 1] - chord[:, 1] * offset[:, 0])
        along = chord[:, 0] * offset[:, 0] + chord[:, 1] * offset[:, 1]
        straight = (along >= 0) & (along <= length**2) & (length > 0)
        distance = np.where(straight, cross / np.where(length > 0, length, 1.0), np.inf)
        total = distance + np.maximum(np.roll(moved, 1), moved)
        chosen = total <= tolerance_mm
        chosen[1 - parity :: 2] = False
        # in a ring of odd length the last and the first point are neighbours of equal parity
        if len(points) % 2 and parity == 0:
            chosen[-1] = False
        if int(chosen.sum()) > len(points) - 3:
            chosen[:] = False
        if chosen.any():
            previous = np.roll(chosen, -1)
            moved[previous] = np.roll(total, -1)[previous]
            points, moved = points[~chosen], moved[~chosen]
            idle = 0
        else:
            idle += 1
        parity = 1 - parity
    return points

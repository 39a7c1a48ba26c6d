"""Exact coverage of pixels by polygons, with the even-odd (XOR) rule of DICOM contours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry._kernels import polygon_rows

FloatArray = NDArray[np.float64]


def polygon_area_mm2(polygon_mm: FloatArray) -> float:
    """Signed area in mm2 of a closed polygon (n, 2) by the shoelace formula; positive when x turns towards y."""
    # relative to the first point, so that far-off coordinates cancel before they are multiplied
    x, y = (polygon_mm[:, :2] - polygon_mm[0, :2]).T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def polygon_coverage_into(
    polygons_mm: Sequence[FloatArray],
    low_mm: tuple[float, float],
    step_mm: tuple[float, float],
    out: NDArray[np.floating],
) -> None:
    """Write the even-odd coverage (0..1) of uniform pixels by the polygons of one plane into ``out`` (ny, nx).

    ``low_mm`` is the outer corner (x, y) of pixel [0, 0], ``step_mm`` the pixel size (x, y). ``out`` is float32 or
    float64, C-contiguous and zero on entry. Works as :func:`polygon_coverage`.
    """
    pieces = []
    for polygon in polygons_mm:
        points = (np.asarray(polygon, dtype=np.float64)[:, :2] - low_mm) / step_mm
        pieces.append(np.concatenate([points, np.roll(points, -1, axis=0)], axis=1))
    if not pieces:
        return
    edges = np.concatenate(pieces)
    downward = edges[:, 1] > edges[:, 3]
    edges[downward] = edges[downward][:, [2, 3, 0, 1]]
    edges = edges[(edges[:, 1] < edges[:, 3]) & (edges[:, 3] > 0.0) & (edges[:, 1] < out.shape[0])]
    if len(edges):
        polygon_rows(edges[np.argsort(edges[:, 1], kind="stable")], out)


def polygon_coverage(polygons_mm: Sequence[FloatArray], x_edges_mm: FloatArray, y_edges_mm: FloatArray) -> FloatArray:
    """Covered fraction (0..1) of each pixel, float64 (ny, nx), by the even-odd union (XOR) of all polygons of a plane.

    ``polygons_mm`` are closed polygons (n, 2) x, y in mm (orientation is irrelevant; the first point is not repeated,
    though it may be); ``x_edges_mm`` (nx + 1) and ``y_edges_mm`` (ny + 1) are uniform pixel edges in mm. A point is
    inside if a ray from it crosses the edges of all polygons together an odd number of times: nested holes, keyholes,
    self-touching, self-crossing and mutually crossing polygons are all exact (a sweep line splits at the crossings).
    Vertices may lie outside the pixels. Areas agree with the shoelace formula to rounding (< 1e-9 relative).
    Raises ValueError if an edge array is not uniform and growing.
    """
    steps = []
    for given in (x_edges_mm, y_edges_mm):
        edges = np.asarray(given, dtype=np.float64)
        step = (edges[-1] - edges[0]) / (len(edges) - 1) if len(edges) > 1 else 0.0
        if step <= 0 or np.abs(np.diff(edges) - step).max() > 1e-6 * step:
            raise ValueError("pixel edges must be uniform and growing")
        steps.append(float(step))
    out = np.zeros((len(y_edges_mm) - 1, len(x_edges_mm) - 1))
    polygon_coverage_into(polygons_mm, (float(x_edges_mm[0]), float(y_edges_mm[0])), (steps[0], steps[1]), out)
    return out

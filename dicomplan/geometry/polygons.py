"""Exact coverage of pixels by polygons, with the even-odd (XOR) rule of DICOM contours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry._kernels import polygon_planes

FloatArray = NDArray[np.float64]

MAX_EDGE_LOOKS = 10_000_000
"""Greatest work of the sweep through one plane: the edges met, summed over all stops (pixel rows, ends, crossings).

Measured on 1 mm pixels: an organ of 200 points takes 700, 2,000 islands of 10 points 1.5 million (0.02 s), 500 points at
random 8 million, 1,000 points at random 66 million (0.8 s). Beyond a tenth of a second the polygons are no anatomy.
"""


def polygon_area_mm2(polygon_mm: FloatArray) -> float:
    """Signed area in mm2 of a closed polygon (n, 2) by the shoelace formula; positive when x turns towards y."""
    # relative to the first point, so that far-off coordinates cancel before they are multiplied
    x, y = (polygon_mm[:, :2] - polygon_mm[0, :2]).T
    return 0.5 * float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def polygon_coverage_into(
    planes_mm: Sequence[Sequence[Sequence[FloatArray]]],
    low_mm: tuple[float, float],
    step_mm: tuple[float, float],
    out: NDArray[np.floating],
) -> None:
    """Write the coverage (0..1) of uniform pixels by the polygons of each plane into ``out`` (nz, ny, nx).

    ``planes_mm`` has for each plane its groups of polygons: those of one group combine by the even-odd rule as in
    :func:`polygon_coverage`, and a plane gets the mean of its groups; one without groups stays as it is. ``low_mm`` is
    the outer corner (x, y) of pixel [0, 0], ``step_mm`` the pixel size (x, y). ``out`` is float32 or float64,
    C-contiguous and zero on entry. Raises ValueError if the edges of a plane cross or run side by side so often that more
    than :data:`MAX_EDGE_LOOKS` would be taken.
    """
    flat = [np.asarray(polygon)[:, :2] for groups in planes_mm for group in groups for polygon in group]
    if not flat:
        return
    points = (np.concatenate(flat, dtype=np.float64) - low_mm) / step_mm
    looks = polygon_planes(
        points,
        _starts([len(polygon) for polygon in flat]),
        _starts([len(group) for groups in planes_mm for group in groups]),
        _starts([len(groups) for groups in planes_mm]),
        out,
        MAX_EDGE_LOOKS,
    )
    if looks.max() > MAX_EDGE_LOOKS:
        plane = int(np.argmax(looks > MAX_EDGE_LOOKS))
        count = sum(len(polygon) for group in planes_mm[plane] for polygon in group)
        raise ValueError(f"the {count} edges of one plane cross each other too often")


def _starts(counts: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)


def polygon_coverage(polygons_mm: Sequence[FloatArray], x_edges_mm: FloatArray, y_edges_mm: FloatArray) -> FloatArray:
    """Covered fraction (0..1) of each pixel, float64 (ny, nx), by the even-odd union (XOR) of all polygons of a plane.

    ``polygons_mm`` are closed polygons (n, 2) x, y in mm (orientation is irrelevant; the first point is not repeated,
    though it may be); ``x_edges_mm`` (nx + 1) and ``y_edges_mm`` (ny + 1) are uniform pixel edges in mm. A point is
    inside if a ray from it crosses the edges of all polygons together an odd number of times: nested holes, keyholes,
    self-touching, self-crossing and mutually crossing polygons are all exact (a sweep line splits at the crossings).
    Vertices may lie outside the pixels. Areas agree with the shoelace formula to rounding (< 1e-9 relative).
    Raises ValueError if an edge array is not uniform and growing, or as :func:`polygon_coverage_into` does.
    """
    steps = []
    for given in (x_edges_mm, y_edges_mm):
        edges = np.asarray(given, dtype=np.float64)
        step = (edges[-1] - edges[0]) / (len(edges) - 1) if len(edges) > 1 else 0.0
        if step <= 0 or np.abs(np.diff(edges) - step).max() > 1e-6 * step:
            raise ValueError("pixel edges must be uniform and growing")
        steps.append(float(step))
    out = np.zeros((len(y_edges_mm) - 1, len(x_edges_mm) - 1))
    low = (float(x_edges_mm[0]), float(y_edges_mm[0]))
    polygon_coverage_into([[polygons_mm]], low, (steps[0], steps[1]), out[np.newaxis])
    return out

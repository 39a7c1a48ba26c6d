"""Which part of a plane a picture shows: BODY, but not so much of the shoulders that the targets become small."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.report.planes import Picture, PlaneView, cut
from dicomplan.report.values import ReportData

Box = tuple[float, float, float, float]
"""u low, v low, u high, v high in picture millimetres."""

_MARGIN_MM = 6.0
_AROUND_TARGETS_MM = 25.0
_COVERED = 0.01


def bar_mm(width_mm: float) -> float:
    """Length of the bar in the corner that tells the scale: it stays clear of the letter below the middle of the picture."""
    return next((length for length in (100.0, 50.0, 20.0) if length <= 0.36 * width_mm), 10.0)


def union(boxes: Sequence[Box]) -> Box | None:
    """The least box that holds all ``boxes``; None without any."""
    if not boxes:
        return None
    low, high = np.min(boxes, axis=0), np.max(boxes, axis=0)
    return (float(low[0]), float(low[1]), float(high[2]), float(high[3]))


def grown(box: Box, margin_mm: float) -> Box:
    """``box`` with a margin all around."""
    return (box[0] - margin_mm, box[1] - margin_mm, box[2] + margin_mm, box[3] + margin_mm)


def intersection(first: Box, second: Box) -> Box:
    """The part common to two boxes that overlap."""
    return (
        max(first[0], second[0]),
        max(first[1], second[1]),
        min(first[2], second[2]),
        min(first[3], second[3]),
    )


def box_above(picture: Picture | None, threshold: float) -> Box | None:
    """The box around the pixel centres above ``threshold``; None where there are none."""
    if picture is None or not (picture.values > threshold).any():
        return None
    columns = np.flatnonzero((picture.values > threshold).any(0))
    rows = np.flatnonzero((picture.values > threshold).any(1))
    return (
        float(picture.u_mm[columns[0]]),
        float(picture.v_mm[rows[0]]),
        float(picture.u_mm[columns[-1]]),
        float(picture.v_mm[rows[-1]]),
    )


def shadow(values: NDArray[np.float32], grid: VoxelGrid, view: PlaneView) -> Picture:
    """The largest value along the view's normal, as a picture."""
    stop = [*grid.shape]
    stop[view.normal_axis] = 1
    flat = grid.crop((0, 0, 0), (stop[0], stop[1], stop[2]))
    largest = values.max(axis=view.normal_axis, keepdims=True)
    picture = cut(largest, flat, view, float(flat.axis_mm(view.normal_axis)[0]), interpolate=False)
    if picture is None:
        raise ValueError("the only plane of a grid lies outside it")
    return picture


def picture_box(
    data: ReportData, view: PlaneView, positions: Sequence[float], middle: float, whole: Picture, dose_gy: float | None
) -> Box:
    """The box to show on planes at local ``positions`` (mm along the normal), around the one at ``middle``.

    BODY on the middle plane and, on all planes, the targets with 25 mm around and the dose above ``dose_gy``; nothing
    beyond BODY plus 6 mm, nor beyond the CT (``whole``, one of its planes). Without a BODY it is all of the CT.
    """
    bodies = [structure.coverage for structure in data.structures if structure.kind == "external"]
    on_planes = [
        box_above(cut(body.fraction, body.grid, view, position, interpolate=False), _COVERED)
        for body in bodies
        for position in positions
    ]
    body_box = union([box for box in on_planes if box is not None])
    if body_box is None:
        return whole.edges_mm
    wanted = [box_above(cut(body.fraction, body.grid, view, middle, interpolate=False), _COVERED) for body in bodies]
    for structure in (item for item in data.structures if item.kind == "target"):
        box = box_above(shadow(structure.coverage.fraction, structure.coverage.grid, view), _COVERED)
        wanted.append(None if box is None else grown(box, _AROUND_TARGETS_MM))
    if data.dose is not None and dose_gy is not None:
        wanted.append(box_above(shadow(data.dose.dose_gy, data.dose.grid, view), dose_gy))
    needed = union([box for box in wanted if box is not None]) or body_box
    return intersection(grown(intersection(needed, body_box), _MARGIN_MM), whole.edges_mm)

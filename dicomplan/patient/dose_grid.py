"""The grid that dose is computed and exported on, from the CT's voxels and the step that was asked for."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import Coverage

_SAME = 1e-6


def dose_grid(ct_grid: VoxelGrid, body: Coverage, step_mm: float | None) -> VoxelGrid:
    """A grid with steps of at most ``step_mm`` (None: the CT's own voxels) that covers BODY (INTERFACE.md, dose.grid).

    In plane the greatest whole multiple of the CT's pixel spacing not above the step, else its greatest whole fraction;
    along z every n-th CT plane, or n equal steps between two. Voxel centres lie on CT pixel centres.
    """
    shape, spacing, start = [0, 0, 0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    used = np.argwhere(body.fraction > 0)
    for axis in range(3):
        pixel = ct_grid.spacing_mm[axis]
        multiple, parts = _steps(pixel, step_mm)
        edges = body.grid.edges_mm(axis)
        low, high = edges[used[:, axis].min()], edges[used[:, axis].max() + 1]
        centres = ct_grid.axis_mm(axis)
        spacing[axis] = pixel * multiple / parts
        if multiple > 1 or parts == 1:
            held = int(np.clip(math.floor((low - centres[0]) / pixel + 0.5 + _SAME), 0, len(centres) - 1))
            start[axis] = centres[_first_pixel(held, multiple, (high - centres[0]) / pixel, len(centres))]
            # the last voxel reaches over BODY's far edge
            shape[axis] = max(1, math.ceil((high - start[axis]) / spacing[axis] - 0.5 - _SAME) + 1)
        else:
            before = math.ceil((centres[0] - low) / spacing[axis] - 0.5 - _SAME)
            offset = -before if before > 0 else math.floor((low - centres[0]) / spacing[axis] + 0.5 + _SAME)
            start[axis] = centres[0] + offset * spacing[axis]
            shape[axis] = max(2, math.ceil((high - start[axis]) / spacing[axis] - 0.5 - _SAME) + 1)
    origin = ct_grid.patient_from_local([start[2], start[1], start[0]])
    return replace(
        ct_grid,
        shape=(shape[0], shape[1], shape[2]),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        origin_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
    )


def _first_pixel(held: int, multiple: int, far: float, count: int) -> int:
    """Index of the CT pixel that is the first voxel's centre: near ``held``, the one that holds BODY's near edge.

    If any choice makes every ``multiple``-th of the CT's ``count`` pixels cover BODY up to its far edge ``far``
    (fractional index), the nearest such one; else ``held``, and the last voxel's centre lies beyond the CT.
    """
    aside = (multiple - 1) // 2
    for first in sorted(range(max(0, held - aside), held + aside + 1), key=lambda index: abs(index - held)):
        last = first + (count - 1 - first) // multiple * multiple
        if last + 0.5 * multiple >= far - _SAME:
            return first
    return held


def _steps(pixel_mm: float, step_mm: float | None) -> tuple[int, int]:
    """(multiple, parts): the spacing is pixel x multiple / parts; one of them is 1."""
    if step_mm is None:
        return 1, 1
    if step_mm >= pixel_mm * (1.0 - _SAME):
        return max(1, math.floor(step_mm / pixel_mm + _SAME)), 1
    return 1, math.ceil(pixel_mm / step_mm - _SAME)

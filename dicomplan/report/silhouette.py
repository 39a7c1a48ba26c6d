"""The outline of a structure as a beam sees it."""

from __future__ import annotations

import contourpy
import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry.frames import BeamFrame
from dicomplan.patient.case import Coverage

FloatArray = NDArray[np.float64]


def covered_points(coverage: Coverage, spacing_mm: float = 1.5) -> FloatArray:
    """Points (n, 3) in patient mm that fill the voxels covered at least half, at most ``spacing_mm`` apart.

    Finer voxels are thinned to about that distance, coarser ones divided.
    """
    grid = coverage.grid
    strides = [max(1, int(spacing_mm / step + 1e-6)) for step in grid.spacing_mm]
    parts = [max(1, int(np.ceil(step / spacing_mm - 1e-6))) for step in grid.spacing_mm]
    index = np.argwhere(coverage.fraction[:: strides[0], :: strides[1], :: strides[2]] >= 0.5) * np.array(strides)
    offsets = np.stack(
        np.meshgrid(*((np.arange(count) + 0.5) / count - 0.5 for count in parts), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    return grid.patient_from_index((index[:, None, :] + offsets[None, :, :]).reshape(-1, 3))


def silhouette(points_mm: FloatArray, frame: BeamFrame, step_mm: float = 2.5) -> tuple[FloatArray, ...]:
    """Outlines (n, 2) on the isocentre plane (beam limiting device x, y, mm) of a cloud of points in patient mm.

    The cloud must be denser than ``step_mm`` (see :func:`covered_points`); outlines are good to about that step.
    Points at or behind the source are not seen.
    """
    projected = frame.project(points_mm)
    seen = projected[projected[:, 2] > 1.0, :2]
    if not len(seen):
        return ()
    low = np.floor(seen.min(0) / step_mm).astype(np.int64) - 2
    high = np.ceil(seen.max(0) / step_mm).astype(np.int64) + 3
    x_edges, y_edges = (step_mm * np.arange(low[axis], high[axis] + 1) for axis in range(2))
    shadow = (np.histogram2d(seen[:, 1], seen[:, 0], bins=(y_edges, x_edges))[0] > 0).astype(np.float64)
    for axis in (0, 1):
        shadow = 0.5 * shadow + 0.25 * (np.roll(shadow, 1, axis) + np.roll(shadow, -1, axis))
    # A bin counts as soon as one point falls in, half a bin too far out on average; the higher level takes that back.
    generator = contourpy.contour_generator(
        0.5 * (x_edges[1:] + x_edges[:-1]), 0.5 * (y_edges[1:] + y_edges[:-1]), shadow
    )
    return tuple(np.asarray(line, dtype=np.float64) for line in generator.lines(0.7))

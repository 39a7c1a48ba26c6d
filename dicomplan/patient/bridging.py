"""CT planes between a structure's contours that have none of their own, filled by shape interpolation on request."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.events import Finding
from dicomplan.geometry.contours import half_coverage_contours, simplify
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import Structure

FloatArray = NDArray[np.float64]

_CELL_MM = 1.0  # of the grid that distances are taken on; the line between cells is linear
_BOUNDARY_MM = 0.1  # step of points along a contour, for distances exact to 0.05 mm
_RANGE_MM = 8.0  # distances beyond this do not move the line


def bridged_structures(
    structures: Sequence[Structure], ct_grid: VoxelGrid
) -> tuple[tuple[Structure, ...], tuple[Finding, ...]]:
    """The structures with all inner CT planes filled (:func:`bridged`), and a warning for each that was changed."""
    filled, findings = [], []
    for structure in structures:
        new, places = bridged(structure, ct_grid)
        filled.append(new)
        if places:
            listed = ", ".join(f"{place:g}" for place in places[:5]) + (" ..." if len(places) > 5 else "")
            message = (
                f"ROI '{structure.name}' had no contour on {len(places)} inner CT planes (at {listed} mm): interpolated"
            )
            findings.append(Finding("warning", message))
    return tuple(filled), tuple(findings)


def bridged(structure: Structure, ct_grid: VoxelGrid) -> tuple[Structure, tuple[float, ...]]:
    """The structure with contours on the CT planes between its first and last that have none; their local z in mm.

    Shape-based interpolation (Raya and Udupa, IEEE Trans Med Imaging 9, 1990): the zero line of the signed in-plane
    distances to the contours below and above, weighted linearly. Contours must be parallel to the CT planes.
    """
    slice_mm, first_mm = ct_grid.spacing_mm[0], float(ct_grid.axis_mm(0)[0])
    planes: dict[int, list[FloatArray]] = {}
    for contour in structure.contours:
        local = ct_grid.local_from_patient(contour)
        planes.setdefault(round((float(local[:, 2].mean()) - first_mm) / slice_mm), []).append(local[:, :2])
    drawn = sorted(planes)
    added: list[FloatArray] = []
    places: list[float] = []
    for below, above in itertools.pairwise(drawn):
        if above - below < 2:
            continue
        x, y = _axes([*planes[below], *planes[above]])
        low, high = (_signed_distance(planes[plane], x, y) for plane in (below, above))
        for plane in range(below + 1, above):
            share = (plane - below) / (above - below)
            field = np.clip((1.0 - share) * low + share * high, -_RANGE_MM, _RANGE_MM)
            place = first_mm + plane * slice_mm
            places.append(place)
            for line in half_coverage_contours(0.5 + field / (2.0 * _RANGE_MM), x, y):
                flat = simplify(line)
                local = np.column_stack([flat, np.full(len(flat), place)])
                added.append(np.ascontiguousarray(ct_grid.patient_from_local(local)))
    if not added:
        return structure, tuple(places)
    return replace(structure, contours=(*structure.contours, *added)), tuple(places)


def _axes(polygons: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
    points = np.concatenate(polygons)
    low, high = points.min(axis=0) - 2 * _CELL_MM, points.max(axis=0) + 2 * _CELL_MM
    counts = [math.ceil(extent / _CELL_MM) + 1 for extent in high - low]
    return low[0] + _CELL_MM * np.arange(counts[0]), low[1] + _CELL_MM * np.arange(counts[1])


def _signed_distance(polygons: Sequence[FloatArray], x_mm: FloatArray, y_mm: FloatArray) -> FloatArray:
    """Distance in mm (ny, nx) to the nearest contour, positive inside (even-odd rule)."""
    from scipy.spatial import cKDTree

    edges = np.concatenate([np.concatenate([line, np.roll(line, -1, axis=0)], axis=1) for line in polygons])
    lengths = np.hypot(edges[:, 2] - edges[:, 0], edges[:, 3] - edges[:, 1])
    parts = np.ceil(lengths / _BOUNDARY_MM).astype(np.int64).clip(min=1)
    which = np.repeat(np.arange(len(edges)), parts)
    share = (np.arange(len(which)) - np.repeat(np.cumsum(parts) - parts, parts)) / parts[which]
    boundary = edges[which, :2] + share[:, None] * (edges[which, 2:] - edges[which, :2])
    points = np.stack(np.meshgrid(x_mm, y_mm), axis=-1)
    distance, _ = cKDTree(boundary).query(points.reshape(-1, 2))
    size: FloatArray = np.asarray(distance, dtype=np.float64).reshape(points.shape[:2])
    return np.where(_inside(edges, x_mm, y_mm), size, -size)


def _inside(edges: FloatArray, x_mm: FloatArray, y_mm: FloatArray) -> NDArray[np.bool_]:
    inside = np.zeros((len(y_mm), len(x_mm)), dtype=bool)
    for row, y in enumerate(y_mm):
        crossing = edges[(edges[:, 1] > y) != (edges[:, 3] > y)]
        share = (y - crossing[:, 1]) / (crossing[:, 3] - crossing[:, 1])
        at = np.sort(crossing[:, 0] + share * (crossing[:, 2] - crossing[:, 0]))
        inside[row] = np.searchsorted(at, x_mm) % 2 == 1
    return inside

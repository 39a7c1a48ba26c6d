"""Structures to fractional voxel coverage and back: contours matched to CT planes, exact areas, half-coverage lines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dicomplan.errors import InputError
from dicomplan.events import Finding
from dicomplan.geometry.contours import half_coverage_contours, simplify
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.geometry.polygons import polygon_area_mm2, polygon_coverage_into
from dicomplan.geometry.resample import box_average
from dicomplan.patient.case import Coverage, Structure

FloatArray = NDArray[np.float64]

CELL_MM = 1.0
"""Largest in-plane cell of a structure grid (INTERFACE.md: metrics at points at most 1 mm apart)."""

CUT_TYPES = ("EXTERNAL", "SUPPORT", "FIXATION", "BOLUS")
"""RTROIInterpretedTypes that may reach beyond the CT and are then cut at its border: they often do (couch, arms)."""

_TILT_MM = 0.5  # contour points may leave their plane by this or by a fifth of a slice, whichever is less
_EDGE_MM = 0.01  # rounding of printed contour coordinates at the CT's border
_SLICE_SHARE = 0.01  # of a slice, tolerance of "within half a slice": contours drawn exactly between planes
_VOLUME_TOLERANCE = 2e-4  # relative; the contours' volume is matched to the coverage's within this


def _cells_per_pixel(pixel_mm: float) -> int:
    """Cells of at most 1 mm across a pixel: one, or an even number.

    A dose on the CT's pixels has its kinks in their middle. Of an odd number of cells one is centred there, and the sum of
    a curved dose over the centres of cells is then biased (D95 of a small target by 0.1 %).
    """
    parts = math.ceil(pixel_mm / CELL_MM - 1e-6)
    return parts if parts == 1 else parts + parts % 2


def structure_grid(ct_grid: VoxelGrid, low_local_mm: ArrayLike, high_local_mm: ArrayLike) -> VoxelGrid:
    """The structure grid that holds the box from ``low_local_mm`` to ``high_local_mm`` (local x, y, z in mm).

    Along z its cells are the CT planes (one slice thick) that the box touches; in plane a cell is the CT pixel divided
    by ``ceil(pixel / 1 mm)``, made even above 1, cell edges on CT pixel edges, with one cell around the box; all cut at
    the CT's border.
    Structure grids of one CT share one lattice. Raises ValueError if the box lies outside the CT.
    """
    low, high = np.asarray(low_local_mm, dtype=np.float64), np.asarray(high_local_mm, dtype=np.float64)
    shape, spacing, origin = [0, 0, 0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    for axis in range(3):
        start = float(ct_grid.edges_mm(axis)[0])
        parts = 1 if axis == 0 else _cells_per_pixel(ct_grid.spacing_mm[axis])
        step = ct_grid.spacing_mm[axis] / parts
        around = 0 if axis == 0 else 1
        first = math.floor((low[2 - axis] - start) / step + 1e-6) - around
        last = math.ceil((high[2 - axis] - start) / step - 1e-6) + around
        first, last = max(first, 0), min(max(last, first + 1), ct_grid.shape[axis] * parts)
        if last <= first:
            raise ValueError("the box lies outside the CT")
        shape[axis], spacing[axis] = last - first, step
        origin[2 - axis] = start + (first + 0.5) * step
    patient = ct_grid.patient_from_local(origin)
    return replace(
        ct_grid,
        shape=(shape[0], shape[1], shape[2]),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        origin_mm=(float(patient[0]), float(patient[1]), float(patient[2])),
    )


def _polygons_by_plane(structure: Structure, ct_grid: VoxelGrid) -> dict[int, list[list[FloatArray]]]:
    """CT plane index -> groups of contours drawn at one height; raises InputError as :func:`rasterize` says.

    Contours finer than the CT's planes give several groups for one plane; each is a XOR of its own.
    """
    contours = [contour for contour in structure.contours if len(contour)]
    if not contours:
        return {}
    cut = structure.roi_type in CUT_TYPES
    slice_mm, z_first = ct_grid.spacing_mm[0], float(ct_grid.axis_mm(0)[0])
    tilt_mm = min(_TILT_MM, 0.2 * slice_mm)
    local = ct_grid.local_from_patient(np.concatenate(contours))
    if not np.isfinite(local).all():
        raise InputError(f"ROI '{structure.name}' has a contour point that is no number", tag="ContourData")
    stops = np.cumsum([len(contour) for contour in contours])
    starts = np.concatenate([[0], stops[:-1]])
    low, high = np.minimum.reduceat(local, starts), np.maximum.reduceat(local, starts)
    beyond = _beyond_mm(low, high, ct_grid)
    z_mm = np.add.reduceat(local[:, 2], starts) / (stops - starts)
    index = (z_mm - z_first) / slice_mm
    plane = np.clip(np.rint(index), 0, ct_grid.shape[0] - 1).astype(np.int64)
    tilted, off = high[:, 2] - low[:, 2] > tilt_mm, np.abs(index - plane) > 0.5 + _SLICE_SHARE
    for bad in np.flatnonzero(tilted | ((off | (beyond > _EDGE_MM)) & (not cut))):
        raise _misplaced(
            structure.name, high[bad, 2] - low[bad, 2], tilt_mm, index[bad] - plane[bad], slice_mm, beyond[bad]
        )
    placed: dict[int, list[tuple[float, FloatArray]]] = {}
    for kept in np.flatnonzero(~off):
        polygon = local[starts[kept] : stops[kept], :2]
        placed.setdefault(int(plane[kept]), []).append((float(z_mm[kept]), polygon))
    return {number: _by_height(group, 0.2 * slice_mm) for number, group in sorted(placed.items())}


def _misplaced(
    name: str, spread_mm: float, tilt_mm: float, off_slices: float, slice_mm: float, beyond_mm: float
) -> InputError:
    """Why a contour of a ROI cannot be taken: tilted, else between or beyond the planes, else beyond the image."""
    if spread_mm > tilt_mm:
        return InputError(
            f"a contour of ROI '{name}' is not parallel to the CT planes: its points are up to "
            f"{spread_mm:.2f} mm apart along the slice normal, at most {tilt_mm:.2f} mm is expected",
            tag="ContourData",
        )
    if abs(off_slices) > 0.5 + _SLICE_SHARE:
        return InputError(
            f"a contour of ROI '{name}' lies {abs(off_slices) * slice_mm:.1f} mm from the nearest CT "
            f"plane, at most half a slice ({0.5 * slice_mm:.2f} mm) is expected",
            tag="ContourData",
            hint="does this structure set belong to this CT?",
        )
    return InputError(
        f"a contour of ROI '{name}' reaches {beyond_mm:.1f} mm beyond the CT image",
        tag="ContourData",
        hint=f"only ROIs of type {', '.join(CUT_TYPES)} may, and are then cut",
    )


def _beyond_mm(low: FloatArray, high: FloatArray, ct_grid: VoxelGrid) -> FloatArray:
    """How far boxes reach beyond the CT's outermost pixel edges in plane, mm, (n,); 0 if inside.

    ``low``, ``high`` (n, 3): their corners in local coordinates, mm.
    """
    beyond = np.zeros(len(low))
    for axis, column in ((2, 0), (1, 1)):
        edges = ct_grid.edges_mm(axis)
        beyond = np.maximum(beyond, np.maximum(edges[0] - low[:, column], high[:, column] - edges[-1]))
    return beyond


def _by_height(contours: list[tuple[float, FloatArray]], same_mm: float) -> list[list[FloatArray]]:
    groups: list[list[FloatArray]] = []
    height = -math.inf
    for z_mm, polygon in sorted(contours, key=lambda item: item[0]):
        if z_mm - height > same_mm:
            groups.append([])
            height = z_mm
        groups[-1].append(polygon)
    return groups


def rasterize(structure: Structure, ct_grid: VoxelGrid) -> Coverage:
    """Fractional coverage of a structure on its structure grid, by exact polygon areas.

    Contours are matched to CT planes by geometry alone: projected on the slice normal, the nearest plane within half a
    slice; each stands for a prism of one slice thickness. Contours of one plane combine by XOR; contours drawn at
    several heights that fall on one CT plane (finer contours than the CT) are averaged. A structure of a type in
    :data:`CUT_TYPES` is cut at the CT's border (:func:`geometry_findings` tells).
    Raises InputError, naming the ROI, if it has no closed contours, a contour lies off all CT planes, is tilted against
    them or (other types) reaches beyond the CT image in plane, if the contours enclose no volume, or if those of one
    plane cross each other beyond reason (:data:`dicomplan.geometry.polygons.MAX_EDGE_LOOKS`).
    """
    if not structure.contours:
        raise InputError(f"ROI '{structure.name}' has no closed contours", tag="ContourSequence")
    planes = _polygons_by_plane(structure, ct_grid)
    z_mm = ct_grid.axis_mm(0)
    polygons = [polygon for groups in planes.values() for group in groups for polygon in group]
    grid = None
    if polygons:
        points = np.concatenate(polygons)
        low, high = points.min(axis=0), points.max(axis=0)
        try:
            grid = structure_grid(ct_grid, (low[0], low[1], z_mm[min(planes)]), (high[0], high[1], z_mm[max(planes)]))
        except ValueError:
            grid = None
    if grid is None:
        raise InputError(f"ROI '{structure.name}' lies outside the CT", tag="ContourData")
    fraction = np.zeros(grid.shape, dtype=np.float32)
    corner = (float(grid.edges_mm(2)[0]), float(grid.edges_mm(1)[0]))
    step = (grid.spacing_mm[2], grid.spacing_mm[1])
    first = min(planes)
    try:
        polygon_coverage_into([planes.get(first + index, []) for index in range(grid.shape[0])], corner, step, fraction)
    except ValueError as error:
        raise InputError(
            f"the contours of ROI '{structure.name}' cannot be rasterized: {error}",
            tag="ContourData",
            hint="draw it anew or leave it out",
        ) from error
    if float(fraction.sum()) * grid.voxel_volume_cc <= 1e-9:
        raise InputError(f"the contours of ROI '{structure.name}' enclose no volume", tag="ContourData")
    return Coverage(grid, fraction)


def geometry_findings(structure: Structure, ct_grid: VoxelGrid) -> tuple[Finding, ...]:
    """Warnings about a structure that :func:`rasterize` accepts: parts cut at the CT's border, slices left out.

    Raises InputError as :func:`rasterize` does for contours that do not lie on the CT.
    """
    findings = []
    planes = _polygons_by_plane(structure, ct_grid)
    kept = sum(len(group) for groups in planes.values() for group in groups)
    if structure.roi_type in CUT_TYPES:
        local = ct_grid.local_from_patient(np.concatenate([np.empty((0, 3)), *structure.contours]))
        beyond = float(_beyond_mm(local, local, ct_grid).max(initial=0.0))
        dropped = len(structure.contours) - kept
        if beyond > _EDGE_MM or dropped:
            where = (
                f"{beyond:.1f} mm beyond the image" if beyond > _EDGE_MM else f"{dropped} contours beyond the planes"
            )
            findings.append(
                Finding("warning", f"ROI '{structure.name}' reaches outside the CT ({where}) and is cut at its border")
            )
    missing = _missing(planes, ct_grid)
    if missing:
        listed = ", ".join(f"{z:g}" for z in missing[:5]) + (" ..." if len(missing) > 5 else "")
        findings.append(
            Finding(
                "warning",
                f"ROI '{structure.name}' has no contour on {len(missing)} CT planes between its first and last one "
                f"(at {listed} mm); they are left empty",
            )
        )
    return tuple(findings)


def _missing(planes: dict[int, list[list[FloatArray]]], ct_grid: VoxelGrid) -> list[float]:
    if not planes:
        return []
    z_mm = ct_grid.axis_mm(0)
    return [float(z_mm[plane]) for plane in range(min(planes), max(planes)) if plane not in planes]


def missing_inner_slices(structure: Structure, ct_grid: VoxelGrid) -> list[float]:
    """Local z in mm of the CT planes between a structure's first and last contour that have none of its contours.

    They are not filled. Raises InputError as :func:`rasterize` does for contours that do not lie on the CT.
    """
    return _missing(_polygons_by_plane(structure, ct_grid), ct_grid)


def coverage_on_grid(coverage: Coverage, grid: VoxelGrid) -> NDArray[np.float32]:
    """Covered fraction of each voxel of ``grid``: the exact volume-weighted average, float32 (z, y, x).

    Volume is conserved when ``grid`` contains the structure. Raises ValueError unless the grids have the same axes.
    """
    return box_average(coverage.fraction, coverage.grid, grid)


def _planar_lines(coverage: Coverage, level: float) -> tuple[list[tuple[float, FloatArray]], float]:
    """Level lines of all planes as (local z, polygon), and the volume in cc that they enclose."""
    x_mm, y_mm, z_mm = coverage.grid.axis_mm(2), coverage.grid.axis_mm(1), coverage.grid.axis_mm(0)
    lines = [
        (float(z_mm[plane]), polygon)
        for plane in range(len(z_mm))
        for polygon in half_coverage_contours(coverage.fraction[plane], x_mm, y_mm, level)
    ]
    # outer boundaries count positive, holes negative: the sum is the XOR's area
    area = sum(polygon_area_mm2(polygon) for _, polygon in lines)
    return lines, area * coverage.grid.spacing_mm[0] / 1000.0


def contours_from_coverage(coverage: Coverage) -> tuple[FloatArray, ...]:
    """Closed contours (n, 3) float64 in patient coordinates (mm) of a coverage, one plane each, for the XOR convention.

    They are the half-coverage lines at sub-pixel accuracy, holes as contours of their own. Where the line at 0.5
    encloses another volume than the coverage (thin or small parts lose, sheets thinner than a cell vanish), another
    level, the same for all planes, is chosen by bisection so that the volume agrees within 0.02 % (or the best there
    is). Points within 0.01 mm of the line between their neighbours are left out. An empty coverage gives ().
    """
    target = coverage.volume_cc
    if target <= 0:
        return ()
    low, high, level = 0.0, 1.0, 0.5
    best, volume = _planar_lines(coverage, level)
    best_error = abs(volume - target)
    for _ in range(12):
        if best_error <= _VOLUME_TOLERANCE * target:
            break
        low, high = (level, high) if volume > target else (low, level)
        level = 0.5 * (low + high)
        lines, volume = _planar_lines(coverage, level)
        if abs(volume - target) < best_error:
            best, best_error = lines, abs(volume - target)
    return tuple(_patient_contours(best, coverage.grid))


def _patient_contours(lines: Sequence[tuple[float, FloatArray]], grid: VoxelGrid) -> list[FloatArray]:
    contours = []
    for z_mm, polygon in lines:
        flat = simplify(polygon)
        local = np.concatenate([flat, np.full((len(flat), 1), z_mm)], axis=1)
        contours.append(grid.patient_from_local(local))
    return contours

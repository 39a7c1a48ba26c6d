"""The outer contour of the patient, found on the CT where none is drawn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.errors import InputError
from dicomplan.geometry.contours import half_coverage_contours, simplify
from dicomplan.geometry.polygons import polygon_area_mm2
from dicomplan.patient.case import CTVolume, Structure

_HALF_HU = -500.0  # half way between air and water: the border of a half-filled voxel
_OPENING_MM = 4.0  # parts thinner than twice this (couch shells, masks, wires) are cut off
_RESTORE_MM = 2.5  # what opening rounds off (nose, chin) comes back this far
_COARSE_MM = 1.5  # the search runs on pixels of at least this size; the contour itself on the CT's own
_SMALLEST_MM2 = 100.0  # islands in a slice below this are not drawn

BoolArray = NDArray[np.bool_]


def find_body(ct: CTVolume, number: int = 1) -> Structure:
    """Find the patient's outline: a Structure named BODY of type EXTERNAL with ROI ``number``.

    Voxels denser than half water, freed of couch-like thin parts (opening by 4 mm in each plane), their largest
    connected part, holes (lungs, airways) filled in each plane. The contours follow the half-density line between
    pixel centres; points within 0.01 mm of a straight line are left out.
    Raises InputError if nothing of that kind is on the CT.
    """
    from scipy import ndimage

    grid = ct.grid
    pool = max(1, int(np.ceil(_COARSE_MM / max(grid.spacing_mm[1:]) - 1e-6)))
    spacing = (grid.spacing_mm[1] * pool, grid.spacing_mm[2] * pool)
    solid = _pooled_solid(ct, pool)
    opened = np.zeros_like(solid)
    for plane, inside in enumerate(solid):
        core = _distance(inside, spacing) > _OPENING_MM
        opened[plane] = _within(core, spacing, _OPENING_MM)
    labels, count = ndimage.label(opened)
    if count == 0:
        raise InputError("no patient outline was found on the CT: nothing in it is as dense as tissue")
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    contours = []
    z_mm, y_mm, x_mm = grid.axis_mm(0), grid.axis_mm(1), grid.axis_mm(2)
    for plane in range(grid.shape[0]):
        if not largest[plane].any():
            continue
        near = _within(largest[plane], spacing, _RESTORE_MM) & solid[plane] | largest[plane]
        filled = ndimage.binary_fill_holes(near)
        fine = np.repeat(np.repeat(filled, pool, axis=0), pool, axis=1)[: grid.shape[1], : grid.shape[2]]
        density = np.clip((ct.hu[plane] + np.float32(1000.0)) / np.float32(1000.0), 0.0, 1.0)
        around = ndimage.binary_dilation(fine, iterations=1)
        inner = ndimage.binary_erosion(fine, iterations=pool + 1, border_value=1)
        field = np.where(inner, np.float32(1.0), np.where(around, density, np.float32(0.0)))
        for polygon in half_coverage_contours(field, x_mm, y_mm):
            # holes have negative area and are skin folds or airways at the border: the outline has none
            if polygon_area_mm2(polygon) >= _SMALLEST_MM2:
                flat = simplify(polygon)
                local = np.concatenate([flat, np.full((len(flat), 1), z_mm[plane])], axis=1)
                contours.append(grid.patient_from_local(local))
    if not contours:
        raise InputError("no patient outline was found on the CT: nothing in it is as large as a patient")
    return Structure("BODY", number, "EXTERNAL", tuple(contours), (0, 160, 0))


def _pooled_solid(ct: CTVolume, pool: int) -> BoolArray:
    """Where blocks of ``pool`` x ``pool`` pixels are on average denser than half water; borders are padded with air."""
    planes, rows, columns = ct.hu.shape
    shape = (planes, -(-rows // pool), -(-columns // pool))
    if pool == 1:
        return ct.hu > _HALF_HU
    solid = np.empty(shape, dtype=np.bool_)
    for plane in range(planes):
        padded = np.full((shape[1] * pool, shape[2] * pool), -1000.0, dtype=np.float32)
        padded[:rows, :columns] = np.clip(ct.hu[plane], -1000.0, 0.0)
        solid[plane] = padded.reshape(shape[1], pool, shape[2], pool).mean(axis=(1, 3)) > _HALF_HU
    return solid


def _distance(inside: BoolArray, spacing_mm: tuple[float, float]) -> NDArray[np.float64]:
    """Distance in mm of each pixel inside to the nearest one outside; the plane's border counts as inside."""
    from scipy import ndimage

    if inside.all():
        return np.full(inside.shape, np.inf)
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(inside, sampling=spacing_mm)
    return distance


def _within(inside: BoolArray, spacing_mm: tuple[float, float], reach_mm: float) -> BoolArray:
    """Pixels inside or at most ``reach_mm`` from it."""
    if not inside.any():
        return inside
    return _distance(~inside, spacing_mm) <= reach_mm

"""Structures as ``inspect`` shows them: volume, centroid, extent, and what is odd about their place on the CT."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dicomplan.errors import InputError
from dicomplan.events import Finding
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import Coverage, Structure
from dicomplan.patient.coverage import geometry_findings, rasterize
from dicomplan.patient.names import guess_tg263

TARGET_MARGIN_MM = 30.0
"""A target nearer than this to the end of the CT is a finding: scatter and oblique beams need the patient beyond it."""

TARGET_TYPES = ("PTV", "CTV", "GTV")
"""RTROIInterpretedTypes of targets (PS3.3 C.8.8.8)."""

_TARGET_NAME = re.compile(r"^[zZ]?(PTV|CTV|GTV|ITV)(?![a-z])", re.IGNORECASE)
_SAME_PLANE_MM = 0.01
_CELL_MM = 1.0
_MAX_CELLS = 3e8  # of the planes that stand in for a CT: four times a whole body's outline
_CONTOUR_DATA = "ContourData (3006,0050)"


def is_target(structure: Structure) -> bool:
    """Whether a structure is a target: by its type; where it has none that says otherwise, by its name."""
    if structure.roi_type in TARGET_TYPES:
        return True
    return structure.roi_type in ("", "ORGAN") and _TARGET_NAME.match(structure.name) is not None


def planes_of_contours(structures: Sequence[Structure]) -> VoxelGrid | None:
    """A grid of axial planes that all contours lie on, as far apart as the nearest two; None if there are no two.

    It stands in for a CT that is not there. Pixels are of 1 mm. None too if it would be larger than any patient.
    """
    contours = [contour for structure in structures for contour in structure.contours]
    if not contours:
        return None
    points = np.concatenate(contours)
    low, high = points.min(axis=0), points.max(axis=0)
    places = np.unique([np.round(contour[:, 2].mean(), 3) for contour in contours])
    gaps = np.diff(places)
    gaps = gaps[gaps > 0.1]
    if len(gaps) == 0 or not np.isfinite(points).all():
        return None
    step = float(gaps.min())
    counts = [math.ceil((high[axis] - low[axis]) / _CELL_MM) + 2 for axis in (1, 0)]
    planes = round((high[2] - low[2]) / step) + 1
    if planes * counts[0] * counts[1] > _MAX_CELLS:
        return None
    return VoxelGrid(
        shape=(planes, counts[0], counts[1]),
        spacing_mm=(step, _CELL_MM, _CELL_MM),
        origin_mm=(float(low[0]) - 0.5 * _CELL_MM, float(low[1]) - 0.5 * _CELL_MM, float(places[0])),
    )


def structure_document(structure: Structure, grid: VoxelGrid | None, *, on_ct: bool) -> dict[str, Any]:
    """One structure for the document of ``inspect``; ``grid`` is the CT's, or stands in for it (then not ``on_ct``).

    ``volume_cc`` and ``centroid_mm`` (patient x, y, z) are None for a structure without closed contours or off the CT.
    """
    document: dict[str, Any] = {
        "name": structure.name,
        "number": structure.number,
        "type": structure.roi_type,
        "volume_cc": None,
        "centroid_mm": None,
        "contours": len(structure.contours),
        "slices": 0,
        "extent_mm": None,
        "tg263": guess_tg263(structure.name),
        "target": is_target(structure),
        "volume_from": None,
    }
    if not structure.contours:
        return document
    points = np.concatenate(structure.contours)
    normal = np.array((0.0, 0.0, 1.0)) if grid is None else grid.direction_matrix[:, 2]
    heights = np.sort([float(contour.mean(axis=0) @ normal) for contour in structure.contours])
    document["slices"] = 1 + int(np.count_nonzero(np.diff(heights) > _SAME_PLANE_MM))
    document["extent_mm"] = [
        [round(float(low), 3), round(float(high), 3)]
        for low, high in zip(points.min(axis=0), points.max(axis=0), strict=True)
    ]
    if grid is None:
        return document
    try:
        coverage = rasterize(structure, grid)
    except InputError:
        return document
    document["volume_cc"] = round(coverage.volume_cc, 6)
    document["centroid_mm"] = [round(float(value), 4) for value in centroid_mm(coverage)]
    document["volume_from"] = "ct planes" if on_ct else "contour planes"
    return document


def centroid_mm(coverage: Coverage) -> tuple[float, float, float]:
    """Centre of the covered volume in patient coordinates (x, y, z), mm."""
    total = float(coverage.fraction.sum(dtype=np.float64))
    local = [
        float(coverage.fraction.sum(axis=others, dtype=np.float64) @ coverage.grid.axis_mm(axis)) / total
        for axis, others in ((2, (0, 1)), (1, (0, 2)), (0, (1, 2)))
    ]
    point = coverage.grid.patient_from_local(local)
    return float(point[0]), float(point[1]), float(point[2])


def structure_findings(structures: Sequence[Structure], grid: VoxelGrid, *, file: str) -> tuple[Finding, ...]:
    """What is odd about structures on the CT of ``grid``: targets near its ends, parts cut or off it, gaps, no targets."""
    return tuple(_structure_findings(structures, grid, file))


def _structure_findings(structures: Sequence[Structure], grid: VoxelGrid, file: str) -> Iterator[Finding]:
    drawn = [structure for structure in structures if structure.contours]
    for structure in drawn:
        if is_target(structure):
            yield from near_the_end(structure, grid, file)
        try:
            for finding in geometry_findings(structure, grid):
                yield Finding(finding.severity, finding.message, file=file, tag=_CONTOUR_DATA)
            rasterize(structure, grid)
        except InputError as error:
            yield Finding("warning", f"{error.message}: it cannot be used", file=file, tag=error.tag or _CONTOUR_DATA)
    types = "RTROIInterpretedType (3006,00A4)"
    if not any(structure.roi_type == "EXTERNAL" for structure in drawn):
        yield Finding("info", "no ROI with contours is of type EXTERNAL (the patient's outline)", file=file, tag=types)
    if not any(is_target(structure) for structure in drawn):
        yield Finding("warning", "no ROI with contours is a target, by type or by name", file=file, tag=types)


def near_the_end(structure: Structure, grid: VoxelGrid, file: str | None = None) -> Iterator[Finding]:
    """Warnings about a target that ends nearer than :data:`TARGET_MARGIN_MM` to an end of the CT (``grid``)."""
    along = np.concatenate(structure.contours) @ grid.direction_matrix[:, 2]
    half = 0.5 * grid.spacing_mm[0]
    edges = grid.edges_mm(0)
    z_axis = grid.direction_matrix[2, 2]
    ends = (
        ("lower", "upper")
        if abs(z_axis) < 0.5
        else ("inferior", "superior")
        if z_axis > 0
        else ("superior", "inferior")
    )
    for end, room in zip(ends, (along.min() - half - edges[0], edges[-1] - along.max() - half), strict=True):
        if room < TARGET_MARGIN_MM - 1e-6:
            message = (
                f"target '{structure.name}' ends {max(room, 0.0):.1f} mm from the {end} end of the CT,"
                f" less than {TARGET_MARGIN_MM:g} mm: dose there lacks scatter from what was not imaged"
            )
            yield Finding("warning", message, file=file, tag=_CONTOUR_DATA)

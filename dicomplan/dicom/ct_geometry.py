"""Geometry of a CT series from its headers: one regular grid, or a refusal that says why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.dicom import attributes as at
from dicomplan.dicom.files import DicomObject
from dicomplan.dicom.orientation import MAX_OFF_AXIS_DEG, as_matrix, check_patient_position, image_axes, off_axis_deg
from dicomplan.dicom.source import SliceReference
from dicomplan.errors import InputError
from dicomplan.events import Finding
from dicomplan.geometry.grid import VoxelGrid

FloatArray = NDArray[np.float64]

DUPLICATE_MM = 0.01
"""Two slices nearer than this lie at one position: ImagePositionPatient is rarely printed finer."""
SPACING_TOLERANCE_MM = 0.05
"""A slice may lie this far (plus 1 % of the spacing) from its place on the regular grid: rounding of printed positions."""
SHIFT_TOLERANCE_MM = 0.1
"""Slices may lie this far (plus 0.1 degrees of the length of the series) beside their common normal."""
_THICKNESS_WARNING = 1.5


@dataclass(frozen=True, eq=False)
class SeriesGeometry:
    """A checked series: its objects sorted along the slice normal, grid, slice references, patient position, findings."""

    objects: tuple[DicomObject, ...]
    grid: VoxelGrid
    slices: tuple[SliceReference, ...]
    patient_position: str
    findings: tuple[Finding, ...]


def series_geometry(objects: Sequence[DicomObject], patient_position: str | None = None) -> SeriesGeometry:
    """Check that the slices of one series make one regular grid and sort them along their normal.

    ``patient_position`` replaces what the headers say. Raises InputError (file, tag, found, expected) for a single
    slice, a mixed or impossible matrix, spacing, orientation or frame of reference, gantry tilt, oblique planes, two
    slices at one position, missing slices, uneven spacing, and a PatientPosition that is absent, mixed or contradicts
    the orientation.
    """
    first = objects[0]
    if len(objects) < 2:
        raise InputError("the CT series has one slice, at least two are needed", file=first.file)
    frame = at.same_for_all(
        objects, "FrameOfReferenceUID", lambda item: at.text(item.header, "FrameOfReferenceUID"), "frame of reference"
    )
    if not frame:
        raise InputError("is missing", file=first.file, tag=at.tag_name("FrameOfReferenceUID"))
    rows = at.same_for_all(objects, "Rows", lambda item: at.whole(item.header, "Rows", file=item.file), "matrix")
    columns = at.same_for_all(
        objects, "Columns", lambda item: at.whole(item.header, "Columns", file=item.file), "matrix"
    )
    spacing = at.same_for_all(objects, "PixelSpacing", _pixel_spacing, "pixel spacing")
    at.same_for_all(objects, "ImageOrientationPatient", _rounded_orientation, "image orientation")
    axes = image_axes(at.numbers(first.header, "ImageOrientationPatient", 6, file=first.file), file=first.file)
    points = np.array([at.numbers(item.header, "ImagePositionPatient", 3, file=item.file) for item in objects])
    order = np.argsort(points @ axes[:, 2], kind="stable")
    ordered = [objects[index] for index in order]
    points = points[order]
    positions = points @ axes[:, 2]
    _check_duplicates(ordered, positions)
    _check_stacking(ordered, points, axes)
    angle = off_axis_deg(axes)
    if angle > MAX_OFF_AXIS_DEG:
        raise InputError(
            f"oblique image planes, {angle:.2f} degrees off the patient's axes, expected at most {MAX_OFF_AXIS_DEG}",
            file=first.file,
            tag=at.tag_name("ImageOrientationPatient"),
        )
    step = _regular_step(ordered, positions)
    position = at.same_for_all(
        ordered, "PatientPosition", lambda item: at.text(item.header, "PatientPosition").upper(), "patient position"
    )
    findings = []
    if patient_position is not None and patient_position != position:
        findings.append(
            Finding("warning", f"patient position {patient_position} is used instead of '{position}' in the images")
        )
        position = patient_position
    findings.extend(check_patient_position(position, axes, file=ordered[0].file))
    findings.extend(_thickness_findings(ordered, step))
    origin = points[0]
    grid = VoxelGrid(
        shape=(len(ordered), rows, columns),
        spacing_mm=(step, spacing[0], spacing[1]),
        origin_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=as_matrix(axes),
        frame_of_reference_uid=frame,
    )
    slices = tuple(_slice_reference(item, float(place)) for item, place in zip(ordered, positions, strict=True))
    return SeriesGeometry(tuple(ordered), grid, slices, position, tuple(findings))


def _slice_reference(item: DicomObject, position_mm: float) -> SliceReference:
    x, y, z = at.texts(item.header, "ImagePositionPatient")
    return SliceReference(item.uid, at.text(item.header, "SOPClassUID"), position_mm, (x, y, z))


def _pixel_spacing(item: DicomObject) -> tuple[float, float]:
    row, column = at.numbers(item.header, "PixelSpacing", 2, file=item.file)
    if min(row, column) <= 0:
        raise InputError(
            f"found {row}\\{column}, expected positive numbers", file=item.file, tag=at.tag_name("PixelSpacing")
        )
    return round(row, 5), round(column, 5)


def _rounded_orientation(item: DicomObject) -> tuple[float, ...]:
    values = at.numbers(item.header, "ImageOrientationPatient", 6, file=item.file)
    return tuple(round(value, 4) + 0.0 for value in values)


def _check_duplicates(ordered: Sequence[DicomObject], positions: FloatArray) -> None:
    gaps = np.diff(positions)
    index = int(np.argmin(gaps))
    if gaps[index] < DUPLICATE_MM:
        raise InputError(
            f"two slices at one position ({positions[index]:.3f} mm along the normal): this one and {ordered[index].file}",
            file=ordered[index + 1].file,
            tag=at.tag_name("ImagePositionPatient"),
        )


def _check_stacking(ordered: Sequence[DicomObject], points: FloatArray, axes: FloatArray) -> None:
    sideways = (points - points[0]) @ axes[:, :2]
    shifts = np.hypot(sideways[:, 0], sideways[:, 1])
    along = (points - points[0]) @ axes[:, 2]
    length = float(along[-1])
    allowed = SHIFT_TOLERANCE_MM + math.tan(math.radians(MAX_OFF_AXIS_DEG)) * length
    index = int(np.argmax(shifts))
    if shifts[index] <= allowed:
        return
    lateral = float(shifts[index])
    linear = np.abs(sideways - np.outer(along / length, sideways[-1])).max() <= allowed
    if linear:
        tilt = math.degrees(math.atan2(float(shifts[-1]), length))
        message = f"gantry tilt of {tilt:.1f} degrees: the slices are not stacked along their normal"
    else:
        message = f"the slices lie beside each other: found a shift of {lateral:.2f} mm in plane"
    raise InputError(
        f"{message}, expected a shift of at most {allowed:.2f} mm",
        file=ordered[index].file,
        tag=at.tag_name("ImagePositionPatient"),
        hint="resample the CT onto upright planes" if linear else None,
    )


def _regular_step(ordered: Sequence[DicomObject], positions: FloatArray) -> float:
    count = len(positions)
    step = float(positions[-1] - positions[0]) / (count - 1)
    regular = positions[0] + step * np.arange(count)
    if np.abs(positions - regular).max() <= SPACING_TOLERANCE_MM + 0.01 * step:
        return step
    gaps = np.diff(positions)
    counts = Counter(np.round(gaps, 2).tolist())
    most = max(counts.values())
    base = min(gap for gap, number in counts.items() if number == most)
    index = int(np.argmax(np.abs(gaps - base)))
    multiples = gaps / base
    whole = np.abs(multiples - np.round(multiples)).max() <= 0.05
    where = f"between {positions[index]:.2f} and {positions[index + 1]:.2f} mm along the normal"
    if whole and np.round(multiples).min() >= 1:
        missing = int(np.round(multiples).sum()) - (count - 1)
        message = f"{missing} missing slice{'s' if missing > 1 else ''}: found a gap of {gaps[index]:.2f} mm {where}"
    else:
        message = f"uneven slice spacing: found {gaps[index]:.2f} mm {where}"
    raise InputError(
        f"{message}, expected {base:.2f} mm throughout",
        file=ordered[index + 1].file,
        tag=at.tag_name("ImagePositionPatient"),
    )


def _thickness_findings(ordered: Sequence[DicomObject], step: float) -> tuple[Finding, ...]:
    thickness = at.optional_number(ordered[0].header, "SliceThickness", file=ordered[0].file)
    if thickness is None or thickness <= 0 or step <= _THICKNESS_WARNING * thickness:
        return ()
    message = (
        f"slices of {thickness:g} mm lie {step:g} mm apart: between them nothing was imaged, or slices are missing"
    )
    return (Finding("warning", message, file=ordered[0].file, tag=at.tag_name("SliceThickness")),)

"""Geometry of a CT series from its headers: one regular grid, or a refusal that says why."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.dicom import attributes as at
from dicomplan.dicom.decimals import decimal_text
from dicomplan.dicom.files import DicomObject
from dicomplan.dicom.multiframe import slices_of
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
MAX_PLANE_PIXELS = 2**26
"""Greatest number of pixels of one slice: 8192 x 8192; scanners reconstruct 512 x 512, seldom 2048 x 2048."""
_THICKNESS_WARNING = 1.5


@dataclass(frozen=True, eq=False)
class SeriesGeometry:
    """A series as one regular grid: its slices sorted along the normal, grid, slice references, patient position, findings.

    ``objects`` and ``slices`` have one entry for each plane; an object is None where a missing slice is to be interpolated
    (its reference then has no identifier). ``refusals``: why the series can be read, but not be planned on.
    ``patient_position`` is empty where the images do not agree on one.
    """

    objects: tuple[DicomObject | None, ...]
    grid: VoxelGrid
    slices: tuple[SliceReference, ...]
    patient_position: str
    findings: tuple[Finding, ...]
    refusals: tuple[InputError, ...] = ()

    @property
    def read_objects(self) -> tuple[DicomObject, ...]:
        """The slices that are there."""
        return tuple(item for item in self.objects if item is not None)


def series_geometry(
    objects: Sequence[DicomObject], patient_position: str | None = None, *, repair: bool = False
) -> SeriesGeometry:
    """Check that the slices of one series (or the frames of an enhanced CT) make one regular grid, and sort them.

    ``patient_position`` replaces what the headers say; ``repair`` accepts gaps of one missing slice, to be interpolated.
    Raises InputError (file, tag, found, expected) where there is no one grid: a mixed or impossible matrix, spacing,
    orientation or frame of reference, gantry tilt, two slices at one position, missing slices, uneven spacing.
    What forbids only planning is in ``refusals``: no frame of reference, a single slice, planes off the patient's axes,
    and a PatientPosition that is absent, mixed or contradicts the orientation (a stated one may contradict it, with a
    warning).
    """
    objects = slices_of(objects)
    first = objects[0]
    with at.naming(first.file):
        frame = at.same_for_all(
            objects,
            "FrameOfReferenceUID",
            lambda item: at.text(item.header, "FrameOfReferenceUID"),
            "frame of reference",
        )
    rows = at.same_for_all(objects, "Rows", lambda item: _matrix(item, "Rows"), "matrix")
    columns = at.same_for_all(objects, "Columns", lambda item: _matrix(item, "Columns"), "matrix")
    if rows * columns > MAX_PLANE_PIXELS:
        raise InputError(
            f"found {rows} x {columns} pixels, at most {MAX_PLANE_PIXELS} are read",
            file=first.file,
            tag=at.tag_name("Rows"),
        )
    spacing = at.same_for_all(objects, "PixelSpacing", _pixel_spacing, "pixel spacing")
    at.same_for_all(objects, "ImageOrientationPatient", _rounded_orientation, "image orientation")
    axes = image_axes(at.numbers(first.header, "ImageOrientationPatient", 6, file=first.file), file=first.file)
    points = np.array([at.lengths_mm(item.header, "ImagePositionPatient", 3, file=item.file) for item in objects])
    order = np.argsort(points @ axes[:, 2], kind="stable")
    ordered = [objects[index] for index in order]
    points = points[order]
    positions = points @ axes[:, 2]
    findings: list[Finding] = []
    refusals: list[InputError] = []
    if not frame:
        refusals.append(InputError("is missing", file=first.file, tag=at.tag_name("FrameOfReferenceUID")))
    if len(objects) == 1:
        step, planes = _thickness_mm(first), [0]
        refusals.append(InputError("the CT series has one slice, at least two are needed", file=first.file))
    else:
        _check_duplicates(ordered, positions)
        _check_stacking(ordered, points, axes)
        step, planes = _regular_planes(ordered, positions, repair=repair)
    angle = off_axis_deg(axes)
    if angle > MAX_OFF_AXIS_DEG:
        refusals.append(
            InputError(
                f"oblique image planes, {angle:.2f} degrees off the patient's axes, expected at most {MAX_OFF_AXIS_DEG}",
                file=first.file,
                tag=at.tag_name("ImageOrientationPatient"),
            )
        )
    position, position_findings, position_refusals = _position(ordered, patient_position, axes)
    findings.extend(position_findings)
    refusals.extend(position_refusals)
    findings.extend(_thickness_findings(ordered, step))
    origin = points[0]
    grid = VoxelGrid(
        shape=(planes[-1] + 1, rows, columns),
        spacing_mm=(step, spacing[0], spacing[1]),
        origin_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=as_matrix(axes),
        frame_of_reference_uid=frame,
    )
    placed: list[DicomObject | None] = [None] * grid.shape[0]
    slices = [_interpolated_reference(grid, plane) for plane in range(grid.shape[0])]
    for item, plane, place in zip(ordered, planes, positions, strict=True):
        placed[plane] = item
        slices[plane] = _slice_reference(item, float(place))
    missing = [slices[plane].position_mm for plane in range(len(placed)) if placed[plane] is None]
    if missing:
        listed = ", ".join(f"{place:.2f}" for place in missing)
        message = (
            f"{len(missing)} missing slices are interpolated from their neighbours (at {listed} mm along the normal)"
        )
        findings.append(Finding("warning", message, tag=at.tag_name("ImagePositionPatient")))
    return SeriesGeometry(tuple(placed), grid, tuple(slices), position, tuple(findings), tuple(refusals))


def _matrix(item: DicomObject, keyword: str) -> int:
    found = at.whole(item.header, keyword, file=item.file)
    if found < 1:
        raise InputError(f"found {found}, expected a positive number", file=item.file, tag=at.tag_name(keyword))
    return found


def _thickness_mm(item: DicomObject) -> float:
    """Thickness of a single slice: nothing else says how much of the patient it stands for."""
    if not at.optional_number(item.header, "SliceThickness", file=item.file):
        raise InputError("the CT series has one slice, at least two are needed", file=item.file)
    return at.positive_mm(item.header, "SliceThickness", 1, file=item.file)[0]


def _position(
    ordered: Sequence[DicomObject], stated: str | None, axes: FloatArray
) -> tuple[str, list[Finding], list[InputError]]:
    """Patient position, findings, and why it cannot be planned on (empty where ``stated``)."""
    first = ordered[0].file
    found = sorted({_position_text(item) for item in ordered})
    if stated is not None:
        findings = []
        if found != [stated]:
            shown = ", ".join(f"'{value}'" for value in found)
            message = f"patient position {stated} is used, as stated, instead of {shown} in the images"
            findings.append(Finding("warning", message, tag=at.tag_name("PatientPosition")))
        try:
            findings.extend(check_patient_position(stated, axes, file=first))
        except InputError as error:
            findings.append(Finding("warning", f"stated, though {error.message}", file=first, tag=error.tag))
        return stated, findings, []
    if len(found) > 1:
        try:
            at.same_for_all(ordered, "PatientPosition", _position_text, "patient position")
        except InputError as error:
            return "", [], [error]
    try:
        return found[0], list(check_patient_position(found[0], axes, file=first)), []
    except InputError as error:
        return found[0], [], [error]


def _position_text(item: DicomObject) -> str:
    with at.naming(item.file):
        return at.text(item.header, "PatientPosition").upper()


def _interpolated_reference(grid: VoxelGrid, plane: int) -> SliceReference:
    x, y, z = (decimal_text(float(value), 4) for value in grid.patient_from_index((plane, 0, 0)))
    return SliceReference("", "", float(grid.axis_mm(0)[plane]), (x, y, z))


def _slice_reference(item: DicomObject, position_mm: float) -> SliceReference:
    x, y, z = at.texts(item.header, "ImagePositionPatient")
    number = None if item.frame is None else item.frame + 1
    return SliceReference(item.uid, at.text(item.header, "SOPClassUID"), position_mm, (x, y, z), number)


def _pixel_spacing(item: DicomObject) -> tuple[float, float]:
    row, column = at.positive_mm(item.header, "PixelSpacing", 2, file=item.file)
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


def _regular_planes(ordered: Sequence[DicomObject], positions: FloatArray, *, repair: bool) -> tuple[float, list[int]]:
    """Step in mm of the regular grid that the slices lie on, and the plane of each; gaps of one slice if ``repair``."""
    count = len(positions)
    step = float(positions[-1] - positions[0]) / (count - 1)
    if _fits(positions, step, np.arange(count)):
        return step, list(range(count))
    gaps = np.diff(positions)
    counts = Counter(np.round(gaps, 2).tolist())
    most = max(counts.values())
    base = min(gap for gap, number in counts.items() if number == most)
    index = int(np.argmax(np.abs(gaps - base)))
    multiples = gaps / max(base, DUPLICATE_MM)
    whole = np.abs(multiples - np.round(multiples)).max() <= 0.05
    where = f"between {positions[index]:.2f} and {positions[index + 1]:.2f} mm along the normal"
    hint = None
    if whole and np.round(multiples).min() >= 1:
        planes = np.concatenate([[0], np.cumsum(np.round(multiples))]).astype(np.int64)
        step = float(positions[-1] - positions[0]) / float(planes[-1])
        single = np.round(multiples).max() <= 2 and _fits(positions, step, planes)
        if repair and single:
            return step, planes.tolist()
        missing = int(planes[-1]) - (count - 1)
        message = f"{missing} missing slice{'s' if missing > 1 else ''}: found a gap of {gaps[index]:.2f} mm {where}"
        hint = "--repair interpolates single missing slices" if single and not repair else None
    else:
        message = f"uneven slice spacing: found {gaps[index]:.2f} mm {where}"
    raise InputError(
        f"{message}, expected {base:.2f} mm throughout",
        file=ordered[index + 1].file,
        tag=at.tag_name("ImagePositionPatient"),
        hint=hint,
    )


def _fits(positions: FloatArray, step: float, planes: NDArray[np.int64]) -> bool:
    regular = positions[0] + step * planes
    return bool(np.abs(positions - regular).max() <= SPACING_TOLERANCE_MM + 0.01 * step)


def _thickness_findings(ordered: Sequence[DicomObject], step: float) -> tuple[Finding, ...]:
    thickness = at.optional_number(ordered[0].header, "SliceThickness", file=ordered[0].file)
    if thickness is None or thickness <= 0 or step <= _THICKNESS_WARNING * thickness:
        return ()
    message = (
        f"slices of {thickness:g} mm lie {step:g} mm apart: between them nothing was imaged, or slices are missing"
    )
    return (Finding("warning", message, file=ordered[0].file, tag=at.tag_name("SliceThickness")),)

"""Structures of an RTSTRUCT as plain values, and how they lie on a CT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from dicomplan.dicom import attributes as at
from dicomplan.dicom._kernels import decimals
from dicomplan.dicom.source import SliceReference
from dicomplan.errors import InputError
from dicomplan.events import Finding
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import Structure

FloatArray = NDArray[np.float64]

CLOSED_TYPES = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
PLANARITY_TOLERANCE_MM = 0.5
"""Points of one contour may differ by this along the slice normal; more, and the contour is not drawn on these slices."""
COVER_TOLERANCE_MM = 0.5
"""A contour may reach this far beyond the outermost slices' slabs or pixels and still count as covered by the CT."""
MAX_CONTOUR_POINTS = 200_000
"""Greatest number of points of one contour: 2 m of outline with a point every 10 micrometres."""
MAX_WINDING = 100
"""Greatest length of a contour against the diagonal of its extent: organs stay below 10, keyholes to many islands below 50."""
_MANY_POINTS = 300
_SAME_POINT_MM = 1e-6


@dataclass(frozen=True, eq=False)
class ReadContour:
    """A closed contour as read: points (n, 3) in mm, and the SOP instance UIDs it names."""

    points_mm: FloatArray
    image_uids: tuple[str, ...]


def contour_points(item: Dataset, *, file: str) -> FloatArray:
    """ContourData of one contour as (n, 3) float64 in mm, patient coordinates, straight from the stored text.

    Raises InputError when it is not a whole number of finite points.
    """
    element = item.get_item("ContourData") if "ContourData" in item else None
    tag = at.tag_name("ContourData")
    if element is None or not element.value:
        return np.empty((0, 3))
    try:
        if isinstance(element, RawDataElement):
            values = _parsed(bytes(element.value).replace(b"\0", b" "), file)
        else:
            values = np.array(element.value, dtype=np.float64).ravel()
    except (ValueError, TypeError):
        raise InputError("does not hold numbers", file=file, tag=tag) from None
    if len(values) % 3 or not (np.abs(values) <= at.MAX_LENGTH_MM).all():
        raise InputError(
            f"found {len(values)} numbers, expected finite ones in mm, three for each point", file=file, tag=tag
        )
    return values.reshape(-1, 3)


def _parsed(raw: bytes, file: str) -> FloatArray:
    """The numbers in a text with backslashes between; too many are refused before they are read."""
    count = raw.count(b"\\") + 1
    if count > 3 * MAX_CONTOUR_POINTS:
        raise InputError(
            f"found a contour of {count // 3} points, at most {MAX_CONTOUR_POINTS} are read",
            file=file,
            tag=at.tag_name("ContourData"),
        )
    values = np.empty(count, dtype=np.float64)
    if not decimals(np.frombuffer(raw, dtype=np.uint8), values):
        values[:] = list(map(float, raw.split(b"\\")))
    return values


def referenced_images(item: Dataset) -> tuple[str, ...]:
    """SOP instance UIDs in the ContourImageSequence of a contour item."""
    return tuple(at.text(image, "ReferencedSOPInstanceUID") for image in at.items(item, "ContourImageSequence"))


def printable(text: str) -> str:
    """``text`` with control characters (line feeds, terminal escapes) as blanks: names go to screens and reports."""
    return "".join(character if character.isprintable() else " " for character in text).strip()


def roi_number(item: Dataset, keyword: str, *, file: str) -> int:
    """ROI number of an item (``ROINumber`` or ``ReferencedROINumber``). Raises InputError."""
    return at.whole(item, keyword, file=file)


@dataclass(frozen=True)
class _Left:
    """What is left out of a ROI: its open contours and points by geometric type, and contours of one or two points."""

    open_contours: Counter[str]
    small_contours: int


def read_structures(
    dataset: Dataset, *, file: str, frame_of_reference_uid: str
) -> tuple[tuple[Structure, ...], dict[int, tuple[ReadContour, ...]], tuple[Finding, ...]]:
    """The structures of an RTSTRUCT in the order of its StructureSetROISequence, their contours as read, findings.

    ``frame_of_reference_uid``: that of the CT; empty reads all ROIs. Items are matched by ROI number. Only closed
    planar contours of three points or more are taken, a repeated last point
    is dropped. ROIs without such contours stay, with none; ROIs of another frame of reference are left out (warning).
    Raises InputError for an RTSTRUCT without ROIs, a missing or repeated ROI number, and unreadable contour data.
    """
    with at.naming(file):
        return _read_structures(dataset, file, frame_of_reference_uid)


def _read_structures(
    dataset: Dataset, file: str, frame_of_reference_uid: str
) -> tuple[tuple[Structure, ...], dict[int, tuple[ReadContour, ...]], tuple[Finding, ...]]:
    items = at.items(dataset, "StructureSetROISequence")
    if not items:
        raise InputError("the structure set has no ROIs", file=file, tag=at.tag_name("StructureSetROISequence"))
    contour_items: dict[int, list[Dataset]] = {}
    for item in at.items(dataset, "ROIContourSequence"):
        contour_items.setdefault(roi_number(item, "ReferencedROINumber", file=file), []).append(item)
    observations: dict[int, Dataset] = {}
    for item in at.items(dataset, "RTROIObservationsSequence"):
        if at.text(item, "ReferencedROINumber"):
            observations.setdefault(roi_number(item, "ReferencedROINumber", file=file), item)
    structures: list[Structure] = []
    contours: dict[int, tuple[ReadContour, ...]] = {}
    findings: list[Finding] = []
    open_contours: Counter[str] = Counter()
    open_in: list[str] = []
    small_contours = 0
    numbers: set[int] = set()
    for item in items:
        number = roi_number(item, "ROINumber", file=file)
        name = printable(at.text(item, "ROIName")) or f"ROI {number}"
        if number in numbers:
            raise InputError(f"ROI number {number} occurs twice", file=file, tag=at.tag_name("ROINumber"))
        numbers.add(number)
        frame = at.text(item, "ReferencedFrameOfReferenceUID")
        if frame and frame_of_reference_uid and frame != frame_of_reference_uid:
            findings.append(
                Finding("warning", f"ROI '{name}' is drawn in another frame of reference and is left out", file=file)
            )
            continue
        read, left = _read_contours(contour_items.get(number, []), file=file)
        open_contours += left.open_contours
        if left.open_contours:
            open_in.append(name)
        small_contours += left.small_contours
        contours[number] = read
        observation = observations.get(number)
        structures.append(
            Structure(
                name=name,
                number=number,
                roi_type="" if observation is None else at.text(observation, "RTROIInterpretedType").upper(),
                contours=tuple(contour.points_mm for contour in read),
                color_rgb=_color(contour_items.get(number, [])),
            )
        )
    if not structures:
        raise InputError(
            "all ROIs are drawn in another frame of reference than the CT's",
            file=file,
            tag=at.tag_name("ReferencedFrameOfReferenceUID"),
        )
    findings.extend(_roi_findings(structures, file))
    if open_contours:
        kinds = ", ".join(f"{open_contours[kind]} {kind}" for kind in sorted(open_contours))
        listed = ", ".join(f"'{name}'" for name in open_in)
        message = f"{open_contours.total()} points and open contours were left out ({kinds}) of ROIs {listed}"
        findings.append(Finding("info", message, file=file, tag=at.tag_name("ContourGeometricType")))
    if small_contours:
        findings.append(
            Finding("info", f"{small_contours} contours of fewer than three points were left out", file=file)
        )
    return tuple(structures), contours, tuple(findings)


def _read_contours(items: Sequence[Dataset], *, file: str) -> tuple[tuple[ReadContour, ...], _Left]:
    read = []
    open_contours: Counter[str] = Counter()
    small_contours = 0
    for item in items:
        for contour in at.items(item, "ContourSequence"):
            kind = at.text(contour, "ContourGeometricType").upper()
            if kind not in CLOSED_TYPES:
                open_contours[printable(kind) or "untyped"] += 1
                continue
            points = contour_points(contour, file=file)
            while len(points) > 1 and np.abs(points[-1] - points[0]).max() <= _SAME_POINT_MM:
                points = points[:-1]
            if len(points) < 3:
                small_contours += 1
                continue
            _check_winding(points, file)
            read.append(ReadContour(np.ascontiguousarray(points), referenced_images(contour)))
    return tuple(read), _Left(open_contours, small_contours)


def _check_winding(points: FloatArray, file: str) -> None:
    """Refuse a scribble: its crossings, the square of its points, would take hours to sort out."""
    if len(points) < _MANY_POINTS:
        return
    around = float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())
    extent = float(np.linalg.norm(np.ptp(points, axis=0)))
    if around > MAX_WINDING * extent:
        raise InputError(
            f"a contour of {len(points)} points is {around / max(extent, _SAME_POINT_MM):.0f} times as long as its extent,"
            f" at most {MAX_WINDING} times is read",
            file=file,
            tag=at.tag_name("ContourData"),
        )


def _color(items: Sequence[Dataset]) -> tuple[int, int, int]:
    for item in items:
        try:
            values = [min(255, max(0, round(float(part)))) for part in at.texts(item, "ROIDisplayColor")]
        except (ValueError, OverflowError, InputError):
            continue
        if len(values) == 3:
            return (values[0], values[1], values[2])
    return (255, 0, 0)


def _roi_findings(structures: Sequence[Structure], file: str) -> Iterator[Finding]:
    names = [structure.name for structure in structures]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Finding("warning", f"{names.count(name)} ROIs have the name '{name}'", file=file)
    empty = [structure.name for structure in structures if not structure.contours]
    if empty:
        listed = ", ".join(f"'{name}'" for name in empty)
        yield Finding("info", f"{len(empty)} ROIs have no closed contours and count as absent: {listed}", file=file)
    externals = [structure.name for structure in structures if structure.roi_type == "EXTERNAL"]
    if len(externals) > 1:
        yield Finding("warning", f"{len(externals)} ROIs are of type EXTERNAL, expected one", file=file)


def uncovered(structures: Sequence[Structure], grid: VoxelGrid) -> tuple[tuple[str, float], ...]:
    """Structures that reach beyond the CT: name and by how many mm (voxel slabs and pixel edges are the border)."""
    low = np.array([grid.edges_mm(axis)[0] for axis in (2, 1, 0)]) - COVER_TOLERANCE_MM
    high = np.array([grid.edges_mm(axis)[-1] for axis in (2, 1, 0)]) + COVER_TOLERANCE_MM
    outside = []
    for structure in structures:
        if structure.contours:
            points = grid.local_from_patient(np.concatenate(structure.contours))
            beyond = float(max((low - points.min(axis=0)).max(), (points.max(axis=0) - high).max()))
            if beyond > 0:
                outside.append((structure.name, beyond + COVER_TOLERANCE_MM))
    return tuple(outside)


def check_planes(structures: Sequence[Structure], grid: VoxelGrid, *, file: str) -> None:
    """Raise InputError if a contour is not drawn in the planes of the CT (points differ along the slice normal)."""
    normal = grid.direction_matrix[:, 2]
    for structure in structures:
        for contour in structure.contours:
            spread = float(np.ptp(contour @ normal))
            if spread > PLANARITY_TOLERANCE_MM:
                raise InputError(
                    f"a contour of ROI '{structure.name}' is not in a plane of the CT: its points differ by {spread:.2f} mm"
                    f" along the slice normal, expected at most {PLANARITY_TOLERANCE_MM} mm",
                    file=file,
                    tag=at.tag_name("ContourData"),
                )


def reference_findings(
    contours: dict[int, tuple[ReadContour, ...]], slices: Sequence[SliceReference], grid: VoxelGrid, *, file: str
) -> tuple[Finding, ...]:
    """One warning for image references that are not in the CT, one for those that name another slice than geometry does."""
    positions: dict[str, list[float]] = {}
    for item in slices:
        positions.setdefault(item.sop_instance_uid, []).append(item.position_mm)
    normal = grid.direction_matrix[:, 2]
    dangling = moved = 0
    for contour in (contour for group in contours.values() for contour in group):
        if not contour.image_uids:
            continue
        known = [place for uid in contour.image_uids for place in positions.get(uid, ())]
        if not known:
            dangling += 1
        elif (
            min(abs(place - float(contour.points_mm[0] @ normal)) for place in known) > 0.5 * grid.spacing_mm[0] + 0.01
        ):
            moved += 1
    findings = []
    if dangling:
        message = f"{dangling} contours refer to images that are not in the CT: matched by geometry instead"
        findings.append(Finding("warning", message, file=file, tag=at.tag_name("ContourImageSequence")))
    if moved:
        message = f"{moved} contours refer to another slice than the one they lie on: geometry is used"
        findings.append(Finding("warning", message, file=file, tag=at.tag_name("ContourImageSequence")))
    return tuple(findings)

"""Read an RTDOSE into a dose volume on its grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomplan.dicom import attributes as at
from dicomplan.dicom.ct_pixels import stored_pixels
from dicomplan.dicom.files import DicomObject, pydicom_silenced, read_object
from dicomplan.dicom.orientation import as_matrix, image_axes
from dicomplan.dose.volume import DoseVolume
from dicomplan.errors import InputError
from dicomplan.events import Finding
from dicomplan.geometry.grid import VoxelGrid

FloatArray = NDArray[np.float64]

OFFSET_TOLERANCE_MM = 0.01
"""Dose planes may lie this far from equal steps: rounding of printed offsets."""
MAX_SCALING = 1e3
"""Greatest DoseGridScaling that is believed: a kilogray for each stored step."""
PLAUSIBLE_GY = 100.0
"""A course beyond this is flagged, never rescaled: external beams give 80 Gy, hot spots of stereotaxy reach 90."""
_STATED_BEYOND = 1.2  # maxima of stored DVHs against the grid's: other sampling gives a few percent


@dataclass(frozen=True)
class StoredDose(DoseVolume):
    """A dose as stored: the volume, what it sums up, and which plan, structure set and beam it refers to.

    ``summation_type`` is DoseSummationType (``PLAN``, ``BEAM``, ``FRACTION``...), ``dose_type`` DoseType; absent
    references are empty. ``findings`` say what is odd (an implausible dose is flagged, never rescaled).
    """

    sop_instance_uid: str = ""
    summation_type: str = ""
    dose_type: str = ""
    comment: str = ""
    plan_uid: str = ""
    structure_set_uid: str = ""
    beam_numbers: tuple[int, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def planar(self) -> bool:
        """Whether the dose is of one plane: SliceThickness then stands for its extent along the normal."""
        return self.grid.shape[0] == 1


@dataclass(frozen=True, eq=False)
class RelativeDose:
    """A dose that its file states as RELATIVE: values float32 ``(z, y, x)`` on ``grid``, in no unit; never taken as Gy."""

    grid: VoxelGrid
    values: NDArray[np.float32]
    sop_instance_uid: str = ""
    summation_type: str = ""
    comment: str = ""


@pydicom_silenced()
def read_dose(path: Path) -> StoredDose:
    """The dose of an RTDOSE in Gy, float32 ``(z, y, x)``, planes sorted along the slice normal, any orientation.

    GridFrameOffsetVector as offsets from the first plane (first element 0) or as absolute positions (first element the
    z of ImagePositionPatient), rising or falling: PS3.3 C.8.8.3.2. A planar dose needs a SliceThickness. Raises
    UsageError if the file is not there; InputError if it is no RTDOSE, not in Gy, of uneven planes, or lacks a tag.
    """
    return dose_of(read_object(path)[0])


@pydicom_silenced()
def dose_of(item: DicomObject) -> StoredDose:
    """As :func:`read_dose`, of an object that was found by a scan."""
    file = item.file
    dataset = item.load()
    with at.naming(file):
        units = dose_units(item)
        if units != "GY":
            raise InputError(f"found '{units}', expected GY", tag=at.tag_name("DoseUnits"))
        dose_type = at.text(dataset, "DoseType").upper()
        if dose_type == "ERROR":
            raise InputError("found ERROR, expected PHYSICAL or EFFECTIVE", tag=at.tag_name("DoseType"))
        grid, dose = _values(dataset, file)
        plans = at.items(dataset, "ReferencedRTPlanSequence")
        sets = at.items(dataset, "ReferencedStructureSetSequence")
        beams = tuple(
            at.whole(beam, "ReferencedBeamNumber", file=file)
            for plan in plans
            for group in at.items(plan, "ReferencedFractionGroupSequence")
            for beam in at.items(group, "ReferencedBeamSequence")
        )
        return StoredDose(
            grid=grid,
            dose_gy=dose,
            sop_instance_uid=item.uid,
            summation_type=at.text(dataset, "DoseSummationType").upper(),
            dose_type=dose_type,
            comment=at.text(dataset, "DoseComment"),
            plan_uid=at.text(plans[0], "ReferencedSOPInstanceUID") if plans else "",
            structure_set_uid=at.text(sets[0], "ReferencedSOPInstanceUID") if sets else "",
            beam_numbers=beams,
            findings=tuple(_findings(dataset, dose, grid, file)),
        )


@pydicom_silenced()
def relative_dose_of(item: DicomObject) -> RelativeDose:
    """The values of an RTDOSE whose DoseUnits are RELATIVE. Raises InputError for other units, else as :func:`dose_of`."""
    dataset = item.load()
    with at.naming(item.file):
        units = dose_units(item)
        if units != "RELATIVE":
            raise InputError(f"found '{units}', expected RELATIVE", tag=at.tag_name("DoseUnits"))
        grid, values = _values(dataset, item.file)
        summation = at.text(dataset, "DoseSummationType").upper()
        return RelativeDose(grid, values, item.uid, summation, at.text(dataset, "DoseComment"))


def dose_units(item: DicomObject) -> str:
    """DoseUnits (``GY``, ``RELATIVE``, or what else is stated). Raises InputError if the object is no RTDOSE."""
    if item.modality != "RTDOSE":
        raise InputError(
            f"found {item.modality or 'nothing'}, expected RTDOSE", file=item.file, tag=at.tag_name("Modality")
        )
    with at.naming(item.file):
        return at.text(item.header, "DoseUnits").upper()


def sum_of_beams(doses: Sequence[StoredDose], beam_numbers: Sequence[int]) -> StoredDose:
    """The plan's dose from BEAM doses of one plan, when together they hold each of its ``beam_numbers`` once.

    Raises InputError, naming what is missing or double, for an incomplete set, for doses of several plans, of another
    summation type, or on different grids (nothing is resampled unseen).
    """
    tag = at.tag_name("ReferencedBeamNumber")
    if {dose.summation_type for dose in doses} != {"BEAM"}:
        found = ", ".join(sorted({dose.summation_type or "nothing" for dose in doses})) or "no dose"
        raise InputError(f"found {found}, expected BEAM doses", tag=at.tag_name("DoseSummationType"))
    if len({dose.plan_uid for dose in doses}) > 1:
        raise InputError("the beam doses are of several plans", tag=at.tag_name("ReferencedRTPlanSequence"))
    held = Counter(number for dose in doses for number in dose.beam_numbers)
    wrong = sorted(set(beam_numbers) ^ set(held)) + [number for number, count in held.items() if count > 1]
    if wrong or any(not dose.beam_numbers for dose in doses):
        raise InputError(
            f"found doses of beams {sorted(held.elements())}, expected {sorted(beam_numbers)}: they are not summed",
            tag=tag,
        )
    first = doses[0]
    for dose in doses[1:]:
        if not _same_grid(first.grid, dose.grid):
            raise InputError(
                "the beam doses lie on different grids: they are not summed", tag=at.tag_name("ImagePositionPatient")
            )
    total = np.sum([dose.dose_gy.astype(np.float64) for dose in doses], axis=0)
    return replace(
        first,
        dose_gy=total.astype(np.float32),
        sop_instance_uid="",
        summation_type="PLAN",
        comment="",
        beam_numbers=tuple(sorted(beam_numbers)),
        findings=(
            *(finding for dose in doses for finding in dose.findings),
            Finding("info", f"the plan's dose is the sum of {len(doses)} beam doses"),
        ),
    )


def _same_grid(first: VoxelGrid, second: VoxelGrid) -> bool:
    return (
        first.shape == second.shape
        and first.frame_of_reference_uid == second.frame_of_reference_uid
        and first.same_axes(second)
        and bool(np.abs(np.subtract(first.origin_mm, second.origin_mm)).max() <= OFFSET_TOLERANCE_MM)
        and bool(np.abs(np.subtract(first.spacing_mm, second.spacing_mm)).max() <= OFFSET_TOLERANCE_MM / 10)
    )


def _values(dataset: Dataset, file: str) -> tuple[VoxelGrid, NDArray[np.float32]]:
    scaling = at.number(dataset, "DoseGridScaling", file=file)
    if not 0 <= scaling <= MAX_SCALING:
        raise InputError(
            f"found {scaling:g}, expected a number from 0 to {MAX_SCALING:g}",
            file=file,
            tag=at.tag_name("DoseGridScaling"),
        )
    pixels = stored_pixels(dataset, file=file)
    grid, order = _grid(dataset, pixels.shape, file)
    return grid, np.ascontiguousarray((pixels[order].astype(np.float64) * scaling).astype(np.float32))


def _findings(dataset: Dataset, dose: NDArray[np.float32], grid: VoxelGrid, file: str) -> Iterator[Finding]:
    greatest = float(dose.max())
    if greatest > PLAUSIBLE_GY:
        message = f"the dose reaches {greatest:.1f} Gy, more than is plausible: is it in Gy? It is left as it is"
        yield Finding("warning", message, file=file, tag=at.tag_name("DoseUnits"))
    elif greatest == 0:
        yield Finding("warning", "the dose is zero everywhere", file=file, tag=at.tag_name("PixelData"))
    if float(dose.min()) < 0:
        yield Finding("warning", "the dose is negative in places", file=file, tag=at.tag_name("PixelRepresentation"))
    if grid.shape[0] == 1:
        yield Finding("warning", "the dose is of one plane only", file=file, tag=at.tag_name("NumberOfFrames"))
    if not grid.frame_of_reference_uid:
        yield Finding("warning", "is missing", file=file, tag=at.tag_name("FrameOfReferenceUID"))
    stated = [
        value
        for item in at.items(dataset, "DVHSequence")
        if at.text(item, "DoseUnits").upper() == "GY"
        and (value := at.optional_number(item, "DVHMaximumDose", file=file)) is not None
    ]
    if stated and greatest > 0 and max(stated) > _STATED_BEYOND * greatest:
        message = (
            f"the stored DVHs state maxima of up to {max(stated):.1f} Gy, the dose grid reaches {greatest:.1f} Gy:"
            " one of them is not in Gy (per cent of the prescription?)"
        )
        yield Finding("warning", message, file=file, tag=at.tag_name("DVHMaximumDose"))


def _grid(dataset: Dataset, shape: tuple[int, ...], file: str) -> tuple[VoxelGrid, NDArray[np.intp]]:
    frames, rows, columns = shape
    axes = image_axes(at.numbers(dataset, "ImageOrientationPatient", 6, file=file), file=file)
    origin = np.array(at.lengths_mm(dataset, "ImagePositionPatient", 3, file=file))
    row_step, column_step = at.positive_mm(dataset, "PixelSpacing", 2, file=file)
    tag = at.tag_name("GridFrameOffsetVector")
    stored_offsets = len(at.texts(dataset, "GridFrameOffsetVector"))
    if frames == 1 and stored_offsets <= 1:
        thickness = at.optional_number(dataset, "SliceThickness", file=file)
        if not thickness:
            raise InputError(
                "found a dose of one plane without a SliceThickness, expected a volume",
                file=file,
                tag=at.tag_name("NumberOfFrames"),
            )
        step = at.positive_mm(dataset, "SliceThickness", 1, file=file)[0]
        return _placed(dataset, (1, rows, columns), (step, row_step, column_step), origin, axes), np.arange(1)
    if frames == 1:
        raise InputError(
            f"found one plane, but {stored_offsets} offsets of planes", file=file, tag=at.tag_name("NumberOfFrames")
        )
    offsets = np.array(at.lengths_mm(dataset, "GridFrameOffsetVector", frames, file=file))
    if offsets[0] != 0:
        if abs(offsets[0] - origin[2]) > OFFSET_TOLERANCE_MM or abs(axes[2, 2]) < 0.999:
            raise InputError(
                f"the first offset is {offsets[0]:g}, expected 0, or the z of ImagePositionPatient ({origin[2]:g}) if axial",
                file=file,
                tag=tag,
            )
        # Absolute positions are patient z; along a normal that points to the feet they count backwards.
        offsets = (offsets - offsets[0]) * np.sign(axes[2, 2])
    order = np.argsort(offsets, kind="stable")
    sorted_offsets = offsets[order]
    step = float(sorted_offsets[-1] - sorted_offsets[0]) / (frames - 1)
    regular = sorted_offsets[0] + step * np.arange(frames)
    if step < at.MIN_STEP_MM or np.abs(sorted_offsets - regular).max() > OFFSET_TOLERANCE_MM + 0.001 * step:
        raise InputError("the dose planes are not equally spaced", file=file, tag=tag)
    first = origin + sorted_offsets[0] * axes[:, 2]
    return _placed(dataset, shape, (step, row_step, column_step), first, axes), order


def _placed(
    dataset: Dataset,
    shape: tuple[int, ...],
    spacing_mm: tuple[float, float, float],
    origin_mm: FloatArray,
    axes: FloatArray,
) -> VoxelGrid:
    return VoxelGrid(
        shape=(shape[0], shape[1], shape[2]),
        spacing_mm=spacing_mm,
        origin_mm=(float(origin_mm[0]), float(origin_mm[1]), float(origin_mm[2])),
        direction=as_matrix(axes),
        frame_of_reference_uid=at.text(dataset, "FrameOfReferenceUID"),
    )

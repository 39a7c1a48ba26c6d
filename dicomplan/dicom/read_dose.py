"""Read an RTDOSE into a dose volume on its grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from dicomplan.dicom import attributes as at
from dicomplan.dicom.ct_pixels import stored_pixels
from dicomplan.dicom.files import pydicom_silenced, read_object
from dicomplan.dicom.orientation import as_matrix, image_axes
from dicomplan.dose.volume import DoseVolume
from dicomplan.errors import InputError
from dicomplan.geometry.grid import VoxelGrid

FloatArray = NDArray[np.float64]

OFFSET_TOLERANCE_MM = 0.01
"""Dose planes may lie this far from equal steps: rounding of printed offsets."""


@dataclass(frozen=True)
class StoredDose(DoseVolume):
    """A dose as stored: the volume, what it sums up, and which plan, structure set and beam it refers to.

    ``summation_type`` is DoseSummationType (``PLAN``, ``BEAM``...), ``dose_type`` DoseType; absent references are empty.
    """

    sop_instance_uid: str = ""
    summation_type: str = ""
    dose_type: str = ""
    comment: str = ""
    plan_uid: str = ""
    structure_set_uid: str = ""
    beam_numbers: tuple[int, ...] = ()


@pydicom_silenced()
def read_dose(path: Path) -> StoredDose:
    """The dose of an RTDOSE in Gy, float32 ``(z, y, x)``, planes sorted along the slice normal, any orientation.

    GridFrameOffsetVector as offsets from the first plane (first element 0) or as absolute positions (first element the
    z of ImagePositionPatient), rising or falling: PS3.3 C.8.8.3.2. Raises UsageError if the file is not there;
    InputError if it is no RTDOSE, not in Gy, has one plane, uneven planes, or lacks a tag that is needed.
    """
    item, dataset = read_object(path)
    file = str(path)
    if item.modality != "RTDOSE":
        raise InputError(f"found {item.modality or 'nothing'}, expected RTDOSE", file=file, tag=at.tag_name("Modality"))
    units = at.text(dataset, "DoseUnits").upper()
    if units != "GY":
        raise InputError(f"found '{units}', expected GY", file=file, tag=at.tag_name("DoseUnits"))
    dose_type = at.text(dataset, "DoseType").upper()
    if dose_type == "ERROR":
        raise InputError("found ERROR, expected PHYSICAL or EFFECTIVE", file=file, tag=at.tag_name("DoseType"))
    scaling = at.number(dataset, "DoseGridScaling", file=file)
    pixels = stored_pixels(dataset, file=file)
    grid, order = _grid(dataset, pixels.shape, file)
    dose = (pixels[order].astype(np.float64) * scaling).astype(np.float32)
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
        dose_gy=np.ascontiguousarray(dose),
        sop_instance_uid=item.uid,
        summation_type=at.text(dataset, "DoseSummationType").upper(),
        dose_type=dose_type,
        comment=at.text(dataset, "DoseComment"),
        plan_uid=at.text(plans[0], "ReferencedSOPInstanceUID") if plans else "",
        structure_set_uid=at.text(sets[0], "ReferencedSOPInstanceUID") if sets else "",
        beam_numbers=beams,
    )


def _grid(dataset: Dataset, shape: tuple[int, ...], file: str) -> tuple[VoxelGrid, NDArray[np.intp]]:
    frames, rows, columns = shape
    axes = image_axes(at.numbers(dataset, "ImageOrientationPatient", 6, file=file), file=file)
    origin = np.array(at.numbers(dataset, "ImagePositionPatient", 3, file=file))
    row_step, column_step = at.numbers(dataset, "PixelSpacing", 2, file=file)
    tag = at.tag_name("GridFrameOffsetVector")
    if frames < 2:
        raise InputError("found a dose of one plane, expected a volume", file=file, tag=at.tag_name("NumberOfFrames"))
    offsets = np.array(at.numbers(dataset, "GridFrameOffsetVector", frames, file=file))
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
    if step <= 0 or np.abs(sorted_offsets - regular).max() > OFFSET_TOLERANCE_MM + 0.001 * step:
        raise InputError("the dose planes are not equally spaced", file=file, tag=tag)
    first = origin + sorted_offsets[0] * axes[:, 2]
    grid = VoxelGrid(
        shape=(frames, rows, columns),
        spacing_mm=(step, row_step, column_step),
        origin_mm=(float(first[0]), float(first[1]), float(first[2])),
        direction=as_matrix(axes),
        frame_of_reference_uid=at.text(dataset, "FrameOfReferenceUID"),
    )
    return grid, order

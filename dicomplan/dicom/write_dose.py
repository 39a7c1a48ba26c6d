"""Write an RTDOSE: 32 bit, Gy, whole course, planes along the slice normal."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import Tag
from pydicom.uid import RTDoseStorage, RTPlanStorage

from dicomplan.dicom.decimals import decimal_text, decimal_text_rounded_up, short_text
from dicomplan.dicom.files import pydicom_silenced
from dicomplan.dicom.identity import Identity
from dicomplan.dicom.objects import new_object, save
from dicomplan.dicom.source import StudySource
from dicomplan.dicom.write_plan import FAILED, NOT_CLINICAL
from dicomplan.dose.volume import DoseVolume

SERIES_NUMBER = 1003
"""Series number of the sum dose; doses of single beams follow it."""
_SMALLEST_MAXIMUM_GY = 1e-6  # an all-zero dose still needs a scaling factor


@pydicom_silenced()
def write_dose(
    path: Path,
    source: StudySource,
    dose: DoseVolume,
    *,
    identity: Identity,
    plan_uid: str,
    summation: Literal["PLAN", "BEAM"] = "PLAN",
    beam_number: int | None = None,
    comment: str = "",
    failed: bool = False,
    density_overrides: bool = False,
    bits: Literal[16, 32] = 32,
) -> str:
    """Write the dose (Gy, whole course, ``(z, y, x)`` on its grid); returns its SOP instance UID.

    GridFrameOffsetVector starts with 0 and runs along row x column direction (PS3.3 C.8.8.3.2, first way). The scaling
    factor is rounded up to what 16 characters hold and the dose is quantised with the printed value, so the file holds
    each dose to half a step of maximum / (2^32 - 1); negative doses become 0. ``bits`` 16 is for old readers. ``summation``
    BEAM needs ``beam_number``. The plan is referred to; the structure set only through it, since a structure set
    reference would claim the DVH module (PS3.3 C.8.8.4), which is not written. Raises ValueError for a dose that is
    not finite, of one plane, or does not fit its grid.
    """
    grid = dose.grid
    values = np.asarray(dose.dose_gy, dtype=np.float64)
    if values.shape != grid.shape or grid.shape[0] < 2:
        raise ValueError(f"a dose of shape {values.shape} cannot be written on a grid of {grid.shape}")
    if not np.isfinite(values).all():
        raise ValueError("the dose is not finite everywhere")
    if (summation == "BEAM") != (beam_number is not None):
        raise ValueError("a beam number belongs to a BEAM dose, and to no other")
    beam = "" if beam_number is None else f" beam {beam_number}"
    description = f"{FAILED} dicomplan dose{beam}" if failed else f"dicomplan dose{beam}"
    note = "; ".join(part for part in (FAILED if failed else "", NOT_CLINICAL, comment) if part)
    output = new_object(
        source,
        identity,
        role=f"RTDOSE{beam}",
        modality="RTDOSE",
        sop_class_uid=RTDoseStorage,
        series_number=SERIES_NUMBER + (beam_number or 0),
        series_description=description,
        texts=[comment],
    )
    output.ContentDate = identity.date
    output.ContentTime = identity.time
    output.DoseUnits = "GY"
    output.DoseType = "PHYSICAL"
    output.DoseSummationType = summation
    output.DoseComment = short_text(note, 64)
    output.TissueHeterogeneityCorrection = ["IMAGE", "ROI_OVERRIDE"] if density_overrides else "IMAGE"
    output.FrameOfReferenceUID = grid.frame_of_reference_uid or source.frame_of_reference_uid
    _geometry(output, dose)
    full_scale = 2**bits - 1
    scaling = decimal_text_rounded_up(max(float(values.max()), _SMALLEST_MAXIMUM_GY) / full_scale)
    stored = np.rint(np.clip(values, 0.0, None) / float(scaling))
    output.DoseGridScaling = scaling
    output.SamplesPerPixel = 1
    output.PhotometricInterpretation = "MONOCHROME2"
    output.BitsAllocated = bits
    output.BitsStored = bits
    output.HighBit = bits - 1
    output.PixelRepresentation = 0
    output.PixelData = np.clip(stored, 0, full_scale).astype(f"<u{bits // 8}").tobytes()
    output["PixelData"].VR = "OW"
    _references(output, plan_uid, beam_number)
    save(output, path)
    return str(output.SOPInstanceUID)


def _geometry(output: Dataset, dose: DoseVolume) -> None:
    grid = dose.grid
    direction = grid.direction_matrix
    output.ImagePositionPatient = [decimal_text(value) for value in grid.origin_mm]
    output.ImageOrientationPatient = [decimal_text(float(v), 13) for v in (*direction[:, 0], *direction[:, 1])]
    output.PixelSpacing = [decimal_text(grid.spacing_mm[1]), decimal_text(grid.spacing_mm[2])]
    output.SliceThickness = decimal_text(grid.spacing_mm[0])
    output.NumberOfFrames = str(grid.shape[0])
    output.FrameIncrementPointer = Tag("GridFrameOffsetVector")
    output.GridFrameOffsetVector = [decimal_text(index * grid.spacing_mm[0]) for index in range(grid.shape[0])]
    output.Rows = grid.shape[1]
    output.Columns = grid.shape[2]


def _references(output: Dataset, plan_uid: str, beam_number: int | None) -> None:
    plan = Dataset()
    plan.ReferencedSOPClassUID = RTPlanStorage
    plan.ReferencedSOPInstanceUID = plan_uid
    if beam_number is not None:
        beam = Dataset()
        beam.ReferencedBeamNumber = str(beam_number)
        group = Dataset()
        group.ReferencedFractionGroupNumber = "1"
        group.ReferencedBeamSequence = DicomSequence([beam])
        plan.ReferencedFractionGroupSequence = DicomSequence([group])
    output.ReferencedRTPlanSequence = DicomSequence([plan])

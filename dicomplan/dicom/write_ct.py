"""Write a CT volume as a series of CT Image Storage files (for phantoms)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage

from dicomplan.dicom.decimals import decimal_text, short_text
from dicomplan.dicom.identity import Identity
from dicomplan.dicom.objects import can_encode, save, set_equipment
from dicomplan.patient.case import CTVolume

RESCALE_INTERCEPT = -1024
"""HU of the stored value 0; slope 1, signed 16 bit, so that -33792 to 31743 HU can be stored."""


@dataclass(frozen=True)
class PatientValues:
    """Attributes of the patient of a phantom; ``name`` is a DICOM person name (``Family^Given``)."""

    name: str
    patient_id: str
    birth_date: str = ""
    sex: str = "O"
    study_id: str = "1"
    study_description: str = ""


def write_ct_series(
    folder: Path,
    ct: CTVolume,
    patient: PatientValues,
    *,
    patient_position: str,
    entropy: str,
    created: datetime,
    series_description: str = "CT",
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL"),
) -> list[Path]:
    """Write ``CT_001.dcm``... into ``folder`` (made if absent); returns the paths, sorted along the slice normal.

    HU are rounded to integers. Identifiers come from ``entropy`` (and ``created``) only; the frame of reference is the
    grid's if it has one. Raises ValueError for HU outside of what 16 bit can hold, OSError if a file cannot be written.
    """
    stored = np.rint(ct.hu.astype(np.float64)) - RESCALE_INTERCEPT
    limits = np.iinfo(np.int16)
    if not np.isfinite(stored).all() or stored.min() < limits.min or stored.max() > limits.max:
        raise ValueError(
            f"CT numbers must lie within {limits.min + RESCALE_INTERCEPT} and {limits.max + RESCALE_INTERCEPT} HU"
        )
    identity = Identity(entropy, created)
    grid = ct.grid
    folder.mkdir(parents=True, exist_ok=True)
    direction = grid.direction_matrix
    paths = []
    for index in range(grid.shape[0]):
        dataset = Dataset()
        texts = (patient.name, patient.patient_id, patient.study_id, patient.study_description, series_description)
        dataset.SpecificCharacterSet = "ISO_IR 100" if can_encode(texts, ("ISO_IR 100",)) else "ISO_IR 192"
        _patient_and_study(dataset, patient, identity)
        dataset.SOPClassUID = CTImageStorage
        dataset.SOPInstanceUID = identity.uid(f"CT {index + 1}")
        dataset.InstanceCreationDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = (
            identity.date
        )
        dataset.InstanceCreationTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = (
            identity.time
        )
        dataset.Modality = "CT"
        dataset.SeriesInstanceUID = identity.uid("CT series")
        dataset.SeriesNumber = "1"
        dataset.SeriesDescription = short_text(series_description, 64)
        dataset.Laterality = ""
        dataset.PatientPosition = patient_position
        dataset.FrameOfReferenceUID = grid.frame_of_reference_uid or identity.uid("frame of reference")
        dataset.PositionReferenceIndicator = ""
        set_equipment(dataset)
        dataset.ImageType = list(image_type)
        dataset.InstanceNumber = str(index + 1)
        dataset.AcquisitionNumber = "1"
        dataset.KVP = "120"
        dataset.SliceThickness = decimal_text(grid.spacing_mm[0])
        dataset.PixelSpacing = [decimal_text(grid.spacing_mm[1]), decimal_text(grid.spacing_mm[2])]
        position = grid.patient_from_index((index, 0, 0))
        dataset.ImagePositionPatient = [decimal_text(float(value)) for value in position]
        dataset.ImageOrientationPatient = [decimal_text(float(v), 13) for v in (*direction[:, 0], *direction[:, 1])]
        _pixels(dataset, stored[index].astype("<i2"))
        path = folder / f"CT_{index + 1:03d}.dcm"
        save(dataset, path, implicit_vr=False)
        paths.append(path)
    return paths


def _patient_and_study(dataset: Dataset, patient: PatientValues, identity: Identity) -> None:
    dataset.PatientName = patient.name
    dataset.PatientID = patient.patient_id
    dataset.PatientBirthDate = patient.birth_date
    dataset.PatientSex = patient.sex
    dataset.StudyInstanceUID = identity.uid("study")
    dataset.StudyDate = identity.date
    dataset.StudyTime = identity.time
    dataset.StudyID = patient.study_id
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""
    if patient.study_description:
        dataset.StudyDescription = short_text(patient.study_description, 64)


def _pixels(dataset: Dataset, stored: np.ndarray[tuple[int, ...], np.dtype[np.int16]]) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated = 16
    dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = 1
    dataset.RescaleIntercept = str(RESCALE_INTERCEPT)
    dataset.RescaleSlope = "1"
    dataset.RescaleType = "HU"
    dataset.PixelData = stored.tobytes()

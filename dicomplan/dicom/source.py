"""What the writers copy from the input: identifiers, patient and study attributes, slices and the structure set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import PatientCase

PLANE_TOLERANCE_MM = 0.01
"""Distance within which a contour lies on a slice: ten times the digit that contours are written with."""


@dataclass(frozen=True)
class InputObject:
    """One DICOM object that was read: its SOP instance UID, the SHA-256 of its file, and its modality."""

    sop_instance_uid: str
    sha256: str
    kind: str


@dataclass(frozen=True)
class SliceReference:
    """One CT slice: identifiers, position along the slice normal in mm, and its printed ImagePositionPatient.

    ``frame_number`` (from 1) where the slice is a frame of an enhanced CT. An interpolated slice has empty identifiers.
    """

    sop_instance_uid: str
    sop_class_uid: str
    position_mm: float
    image_position: tuple[str, str, str]
    frame_number: int | None = None


@dataclass(frozen=True, eq=False)
class StudySource:
    """The input as the writers need it.

    ``attributes``: patient and study attributes of the CT, raw (with its SpecificCharacterSet). ``slices`` are sorted
    along the normal of ``grid`` (the CT's). ``structure_set``: the whole input RTSTRUCT, or None. ``inputs``: every
    object that was read, sorted by UID.
    """

    attributes: Dataset
    slices: tuple[SliceReference, ...]
    series_instance_uid: str
    study_instance_uid: str
    frame_of_reference_uid: str
    position_reference_indicator: str
    grid: VoxelGrid
    structure_set: Dataset | None
    inputs: tuple[InputObject, ...]

    def slice_index(self, position_mm: float) -> int | None:
        """Index of the slice whose slab holds ``position_mm`` along the normal; None outside of the CT."""
        positions = np.array([item.position_mm for item in self.slices])
        index = int(np.argmin(np.abs(positions - position_mm)))
        half = 0.5 * self.grid.spacing_mm[0] + PLANE_TOLERANCE_MM
        return index if abs(positions[index] - position_mm) <= half else None


@dataclass(frozen=True, eq=False)
class Study:
    """A study that was read: the patient as plain values, and the source that the writers copy from."""

    case: PatientCase
    source: StudySource

"""IEC 61217 frames and patient positions: the one place where patient and machine coordinates meet.

All rotations of IEC 61217 are right-handed about the axis named: the gantry about Yf, the beam limiting device
(collimator) about Zg, the patient support (couch) about Zf. IEC fixed: +x to the right of someone facing the gantry,
+y towards the gantry, +z up; the gantry at 0 degrees shines down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.errors import InputError

FloatArray = NDArray[np.float64]

# Rows are IEC support x, y, z (couch at 0) written in DICOM patient x, y, z.
# Source: DICOM PS3.3 C.7.3.1.1.2 (patient position) with IEC 61217; see also the table in tests/test_frames.py.
_FIXED_FROM_PATIENT: dict[str, tuple[tuple[int, int, int], ...]] = {
    "HFS": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
    "HFP": ((-1, 0, 0), (0, 0, 1), (0, 1, 0)),
    "FFS": ((-1, 0, 0), (0, 0, -1), (0, -1, 0)),
    "FFP": ((1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "HFDR": ((0, 1, 0), (0, 0, 1), (1, 0, 0)),
    "HFDL": ((0, -1, 0), (0, 0, 1), (-1, 0, 0)),
    "FFDR": ((0, -1, 0), (0, 0, -1), (1, 0, 0)),
    "FFDL": ((0, 1, 0), (0, 0, -1), (-1, 0, 0)),
}

PATIENT_POSITIONS = tuple(_FIXED_FROM_PATIENT)
"""The patient positions (0018,5100) that dicomplan plans on."""


def rotation(axis: int, angle_deg: float) -> FloatArray:
    """(3, 3) right-handed rotation by ``angle_deg`` about axis 0 (x), 1 (y) or 2 (z); exact at multiples of 90 degrees."""
    quarter = angle_deg / 90.0
    if quarter == round(quarter):
        cosine = (1.0, 0.0, -1.0, 0.0)[round(quarter) % 4]
        sine = (0.0, 1.0, 0.0, -1.0)[round(quarter) % 4]
    else:
        cosine, sine = float(np.cos(np.radians(angle_deg))), float(np.sin(np.radians(angle_deg)))
    matrix = np.eye(3)
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix[first, first] = matrix[second, second] = cosine
    matrix[second, first], matrix[first, second] = sine, -sine
    return matrix


def fixed_from_patient(patient_position: str, couch_angle_deg: float = 0.0) -> FloatArray:
    """(3, 3) matrix from DICOM patient axes to IEC fixed axes (about the isocentre) at a couch angle.

    Raises InputError for a patient position that is not one of :data:`PATIENT_POSITIONS`.
    """
    if patient_position not in _FIXED_FROM_PATIENT:
        raise InputError(
            f"patient position '{patient_position}' is not one of {', '.join(PATIENT_POSITIONS)}",
            tag="PatientPosition (0018,5100)",
        )
    support = np.array(_FIXED_FROM_PATIENT[patient_position], dtype=np.float64)
    return rotation(2, couch_angle_deg) @ support


@dataclass(frozen=True)
class BeamFrame:
    """Axes of the IEC beam limiting device system in patient coordinates (DICOM LPS).

    ``x_axis`` (leaf travel of MLCX), ``y_axis`` (across the leaves) and ``z_axis`` (from isocentre to the source) are
    unit vectors, shape (3,); ``isocenter_mm`` and ``source_mm`` are points in patient coordinates, mm.
    """

    x_axis: FloatArray
    y_axis: FloatArray
    z_axis: FloatArray
    isocenter_mm: FloatArray
    source_mm: FloatArray
    source_axis_distance_mm: float

    def project(self, points_mm: FloatArray) -> FloatArray:
        """Patient points (..., 3) in mm to (..., 3): x, y on the isocentre plane seen from the source, and the
        distance from the source along the central axis; all mm."""
        relative = np.asarray(points_mm, dtype=np.float64) - self.source_mm
        along = -(relative @ self.z_axis)
        scale = self.source_axis_distance_mm / along
        return np.stack([relative @ self.x_axis * scale, relative @ self.y_axis * scale, along], axis=-1)


def beam_frame(
    patient_position: str,
    isocenter_mm: tuple[float, float, float],
    gantry_angle_deg: float,
    collimator_angle_deg: float = 0.0,
    couch_angle_deg: float = 0.0,
    source_axis_distance_mm: float = 1000.0,
) -> BeamFrame:
    """Beam limiting device axes in patient coordinates for IEC 61217 angles in degrees.

    Raises InputError for an unknown patient position.
    """
    fixed_from_device = rotation(1, gantry_angle_deg) @ rotation(2, collimator_angle_deg)
    patient_from_device = fixed_from_patient(patient_position, couch_angle_deg).T @ fixed_from_device
    isocenter = np.array(isocenter_mm, dtype=np.float64)
    z_axis = patient_from_device[:, 2].copy()
    return BeamFrame(
        x_axis=patient_from_device[:, 0].copy(),
        y_axis=patient_from_device[:, 1].copy(),
        z_axis=z_axis,
        isocenter_mm=isocenter,
        source_mm=isocenter + source_axis_distance_mm * z_axis,
        source_axis_distance_mm=source_axis_distance_mm,
    )

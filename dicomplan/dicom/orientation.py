"""Image orientation: axes of the slices, how far they lie off the patient's axes, and whether they fit PatientPosition.

PatientPosition (0018,5100) says how the patient lies to the gantry, ImageOrientationPatient (0020,0037) how the image lies
in the patient; the standard ties neither to the other (PS3.3 C.7.3.1.1.2, C.7.6.2.1.1). Scanners and planning systems
store axial slices in one of two ways: as seen from the foot end of the gantry (rows along IEC +x, columns along IEC -z;
eight orientations for eight positions, as Eclipse exports), or always as the textbook shows them (rows to the
patient's left, columns to the back). Anything else contradicts the position: one of the two attributes is wrong.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dicomplan.dicom.attributes import tag_name
from dicomplan.errors import InputError
from dicomplan.events import Finding
from dicomplan.geometry.frames import PATIENT_POSITIONS, fixed_from_patient
from dicomplan.geometry.grid import Matrix

FloatArray = NDArray[np.float64]

MAX_OFF_AXIS_DEG = 0.1
"""Greatest angle between an image axis and a patient axis: 0.1 degrees move a point 250 mm away by 0.4 mm."""
_SNAP_RAD = 1e-5  # 2.5 micrometres at 250 mm: printed digits, no angle
_ORTHONORMAL_TOLERANCE = 1e-3
TEXTBOOK_AXES = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
"""Row and column direction of a textbook axial slice, patient coordinates."""


def image_axes(orientation: tuple[float, ...], *, file: str) -> FloatArray:
    """(3, 3): columns are the unit directions of growing column index, row index and slice (their cross product).

    Raises InputError if the six direction cosines are not two orthogonal unit vectors (to 0.001).
    """
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(row @ column)) > _ORTHONORMAL_TOLERANCE:
        raise InputError(
            f"found {list(orientation)}, expected two orthogonal unit vectors",
            file=file,
            tag=tag_name("ImageOrientationPatient"),
        )
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    axes = np.stack([row, column, np.cross(row, column)], axis=1)
    nearest = np.round(axes)
    if np.abs(axes - nearest).max() < _SNAP_RAD:
        axes = nearest
    return axes + 0.0


def off_axis_deg(axes: FloatArray) -> float:
    """Greatest angle in degrees between an image axis and the nearest patient axis."""
    cosine = float(np.abs(axes).max(axis=0).min())
    return math.degrees(math.acos(min(1.0, cosine)))


def as_matrix(axes: FloatArray) -> Matrix:
    """The (3, 3) array as nested tuples (for VoxelGrid)."""
    rows = [tuple(float(value) for value in row) for row in axes]
    return (_triple(rows[0]), _triple(rows[1]), _triple(rows[2]))


def _triple(values: tuple[float, ...]) -> tuple[float, float, float]:
    return (values[0], values[1], values[2])


def scanner_axes(patient_position: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Row and column direction (patient coordinates) of an axial slice seen from the foot end of the gantry.

    Rows grow along IEC fixed +x, columns along IEC fixed -z. Raises InputError for an unknown position.
    """
    fixed = fixed_from_patient(patient_position)
    row, column = fixed[0] + 0.0, -fixed[2] + 0.0
    return tuple(float(value) for value in row), tuple(float(value) for value in column)


def check_patient_position(patient_position: str, axes: FloatArray, *, file: str) -> tuple[Finding, ...]:
    """Check PatientPosition against the image axes; a warning where only the textbook view speaks for it.

    Raises InputError for an absent or unknown position, and for axial slices whose orientation is neither the scanner's
    for this position nor the textbook's. Sagittal and coronal slices are not held against it.
    """
    tag = tag_name("PatientPosition")
    if not patient_position:
        raise InputError(
            f"is missing, expected one of {', '.join(PATIENT_POSITIONS)}",
            file=file,
            tag=tag,
            hint="it decides from which side each beam enters and is never guessed",
        )
    if patient_position not in PATIENT_POSITIONS:
        raise InputError(
            f"found '{patient_position}', expected one of {', '.join(PATIENT_POSITIONS)}", file=file, tag=tag
        )
    nearest = np.round(axes) + 0.0
    if abs(nearest[2, 2]) != 1:
        return ()
    found = (tuple(nearest[:, 0].tolist()), tuple(nearest[:, 1].tolist()))
    expected = scanner_axes(patient_position)
    if found == expected:
        return ()
    if found == TEXTBOOK_AXES:
        return (
            Finding(
                "warning",
                f"patient position {patient_position}, but the slices are stored as for HFS: check the position",
                file=file,
                tag=tag,
            ),
        )
    fitting = [position for position in PATIENT_POSITIONS if scanner_axes(position) == found]
    raise InputError(
        f"PatientPosition {patient_position} contradicts the image orientation {_show(found)}"
        + (f" (as of {fitting[0]})" if fitting else "")
        + f", expected {_show(expected)} or {_show(TEXTBOOK_AXES)}",
        file=file,
        tag=tag_name("ImageOrientationPatient"),
    )


def _show(axes: tuple[tuple[float, ...], ...]) -> str:
    return "\\".join(f"{value:g}" for vector in axes for value in vector)

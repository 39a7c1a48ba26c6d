"""Phantom studies as true DICOM files: the one way in which the demo, the tests and ``tools/make_phantoms`` write them."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

import numpy as np

from dicomplan.dicom.write_ct import PatientValues, write_ct_series
from dicomplan.dicom.write_structures import write_phantom_structures
from dicomplan.patient.case import PatientCase
from dicomplan.phantoms.study import PhantomStudy

CREATED = datetime(2025, 1, 1, 12, 0, 0)
"""Date and time in the files of the shipped phantoms: fixed, so that the same phantom gives the same bytes."""


def write_phantom_study(folder: Path, phantom: PhantomStudy, *, created: datetime = CREATED) -> list[Path]:
    """Write CT (``CT_001.dcm``...) and structures (``RTSTRUCT.dcm``) of a phantom into ``folder``, made if absent.

    Returns the paths, the RTSTRUCT last. The patient is called ``PHANTOM^<name>``. Identifiers are a function of the
    phantom's content and ``created``: the same phantom gives the same bytes, another seed other identifiers.
    Raises OSError where it cannot be written.
    """
    case = phantom.case
    entropy = f"phantom {phantom.name} {content_hash(case)}"
    patient = PatientValues(
        name=f"PHANTOM^{phantom.name}", patient_id=phantom.patient_id, study_description="dicomplan phantom, synthetic"
    )
    files = write_ct_series(
        folder,
        case.ct,
        patient,
        patient_position=case.patient_position,
        entropy=entropy,
        created=created,
        series_description=f"Synthetic CT {phantom.name}",
        image_type=("DERIVED", "SECONDARY", "AXIAL"),
    )
    structures = folder / "RTSTRUCT.dcm"
    write_phantom_structures(structures, case.structures, files, entropy=entropy, created=created)
    return [*files, structures]


def content_hash(case: PatientCase) -> str:
    """SHA-256 of a case as it is stored: grid, whole HU, contours in 0.001 mm, names, types and colours."""
    digest = hashlib.sha256()
    grid = case.ct.grid
    digest.update(repr((grid.shape, grid.spacing_mm, grid.origin_mm, grid.direction, case.patient_position)).encode())
    digest.update(np.rint(case.ct.hu).astype("<i4").tobytes())
    for item in case.structures:
        digest.update(repr((item.name, item.number, item.roi_type, item.color_rgb, len(item.contours))).encode())
        for contour in item.contours:
            digest.update(np.rint(contour * 1000.0).astype("<i8").tobytes())
    return digest.hexdigest()

"""PhantomStudy: a synthetic patient and the name it goes by."""

from __future__ import annotations

from dataclasses import dataclass

from dicomplan.patient.case import PatientCase


@dataclass(frozen=True)
class PhantomStudy:
    """A synthetic study: ``name`` (letters only, ends up in the patient's name) and identifier, and the case itself."""

    name: str
    patient_id: str
    case: PatientCase

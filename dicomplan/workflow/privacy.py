"""What a log must not hold: texts of the input that may name the patient."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydicom.dataset import Dataset

from dicomplan.dicom import attributes as at

_KEYWORDS = ("PatientName", "PatientID", "OtherPatientIDs", "AccessionNumber")


def private_texts(header: Dataset, paths: Sequence[Path]) -> tuple[str, ...]:
    """Patient name and identifiers of ``header`` and the names of the input ``paths``, for :meth:`RunLog.hide`."""
    texts = [at.text(header, keyword) for keyword in _KEYWORDS]
    for path in paths:
        texts += [path.name, path.stem]
    return tuple(text for text in texts if len(text) > 1)

"""Write an RTSTRUCT: the input's ROIs unchanged with references rebuilt onto the CT, and derived ROIs; or a new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import RTStructureSetStorage

from dicomplan.dicom import attributes as at
from dicomplan.dicom.decimals import MAX_DECIMAL_CHARACTERS, decimal_text, short_text
from dicomplan.dicom.files import pydicom_silenced
from dicomplan.dicom.identity import Identity
from dicomplan.dicom.objects import character_set, copy_elements, new_object, save
from dicomplan.dicom.read import read_ct_source
from dicomplan.dicom.read_structures import contour_points
from dicomplan.dicom.roi_items import RoiItems, image_reference, make_items
from dicomplan.dicom.source import StudySource
from dicomplan.events import Finding
from dicomplan.patient.case import Structure

_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"  # retired class that PS3.3 C.8.8.5 still names for the referenced study
SERIES_NUMBER = 1001
"""Series number of structure sets that dicomplan writes."""


@dataclass(frozen=True)
class WrittenStructures:
    """The structure set that was written: its SOP instance UID, ROI numbers of the derived structures by name, findings."""

    sop_instance_uid: str
    roi_numbers: Mapping[str, int]
    findings: tuple[Finding, ...]


@pydicom_silenced()
def write_structure_set(
    path: Path,
    source: StudySource,
    derived: Sequence[Structure],
    identity: Identity,
    *,
    label: str = "dicomplan",
    series_description: str = "dicomplan structures",
    external_number: int | None = None,
) -> WrittenStructures:
    """Write a new RTSTRUCT in the study, patient and frame of reference of the CT.

    The input's ROI items are copied unchanged (numbers, contours, observations); image references are rebuilt: each
    contour names the slice it lies on. ``derived`` structures (contours on CT planes, patient coordinates, mm) follow
    with new ROI numbers; names that occur already get a suffix. Exactly one ROI is EXTERNAL if there is a candidate:
    ``external_number``, else the first input ROI of that type with contours, else the first derived one.

    Raises ValueError for a derived contour outside of the CT, OSError if the file cannot be written.
    """
    old = source.structure_set
    dataset = Dataset() if old is None else old
    names = [at.text(item, "ROIName") for item in at.items(dataset, "StructureSetROISequence")]
    texts = [*names, *(item.name for item in derived), label, series_description, *_copied_texts(dataset)]
    output = _new_structure_set(source, identity, texts, label, series_description)
    same_letters = old is not None and character_set(old) == character_set(output)
    copied = _copied_items(dataset, source, raw=same_letters)
    first = max((int(items.roi.ROINumber) for items in copied), default=0) + 1
    renumbered = _numbered(derived, first, names)
    made, findings = make_items(renumbered, source)
    _one_external([*copied, *made], external_number)
    _store(output, [*copied, *made])
    save(output, path)
    numbers = {original.name: item.number for original, item in zip(derived, renumbered, strict=True)}
    return WrittenStructures(str(output.SOPInstanceUID), numbers, findings)


@pydicom_silenced()
def new_structure_set(
    path: Path,
    source: StudySource,
    structures: Sequence[Structure],
    identity: Identity,
    *,
    label: str = "dicomplan",
    series_description: str = "structures",
) -> WrittenStructures:
    """Write an RTSTRUCT of ``structures`` alone on the CT of ``source``; numbers, names, types and colours are kept.

    Raises ValueError for a contour outside of the CT, OSError if the file cannot be written.
    """
    texts = [*(item.name for item in structures), label, series_description]
    output = _new_structure_set(source, identity, texts, label, series_description)
    made, findings = make_items(structures, source)
    _store(output, made)
    save(output, path)
    numbers = {item.name: item.number for item in structures}
    return WrittenStructures(str(output.SOPInstanceUID), numbers, findings)


def write_phantom_structures(
    path: Path, structures: Sequence[Structure], ct_files: Sequence[Path], *, entropy: str, created: datetime
) -> WrittenStructures:
    """Write the RTSTRUCT of a phantom whose CT files were just written; identifiers come from ``entropy`` and ``created``."""
    return new_structure_set(path, read_ct_source(ct_files), structures, Identity(entropy, created), label="phantom")


def _new_structure_set(
    source: StudySource, identity: Identity, texts: Sequence[str], label: str, series_description: str
) -> Dataset:
    output = new_object(
        source,
        identity,
        role="RTSTRUCT",
        modality="RTSTRUCT",
        sop_class_uid=RTStructureSetStorage,
        series_number=SERIES_NUMBER,
        series_description=short_text(series_description, 64),
        texts=texts,
    )
    output.StructureSetLabel = short_text(label)
    output.StructureSetDate = identity.date
    output.StructureSetTime = identity.time
    output.ApprovalStatus = "UNAPPROVED"
    images = DicomSequence()
    for place in source.slices:
        images.extend(image_reference(place))
    series = Dataset()
    series.SeriesInstanceUID = source.series_instance_uid
    series.ContourImageSequence = images
    study = Dataset()
    study.ReferencedSOPClassUID = _DETACHED_STUDY
    study.ReferencedSOPInstanceUID = source.study_instance_uid
    study.RTReferencedSeriesSequence = DicomSequence([series])
    frame = Dataset()
    frame.FrameOfReferenceUID = source.frame_of_reference_uid
    frame.RTReferencedStudySequence = DicomSequence([study])
    output.ReferencedFrameOfReferenceSequence = DicomSequence([frame])
    return output


def _store(output: Dataset, items: Sequence[RoiItems]) -> None:
    output.StructureSetROISequence = DicomSequence([item.roi for item in items])
    output.ROIContourSequence = DicomSequence([item.contour for item in items])
    output.RTROIObservationsSequence = DicomSequence([item.observation for item in items])


def _copied_texts(dataset: Dataset) -> list[str]:
    """Texts of the input's items that are copied and may hold letters outside of ASCII."""
    found = []
    for sequence in ("StructureSetROISequence", "RTROIObservationsSequence"):
        for item in at.items(dataset, sequence):
            # Of a copy: reading decodes in place, and the input's raw bytes are still to be copied.
            for element in copy_elements(item):
                if element.VR in ("LO", "SH", "ST", "LT", "UT", "PN", "UC"):
                    found.append(str(element.value or ""))
    return found


def _copied_items(dataset: Dataset, source: StudySource, *, raw: bool) -> list[RoiItems]:
    """The input's ROIs, items matched by number, image references rebuilt, missing type 2 attributes added empty."""
    contours: dict[int, list[Dataset]] = {}
    for item in at.items(dataset, "ROIContourSequence"):
        contours.setdefault(int(item.ReferencedROINumber), []).append(item)
    observations: dict[int, list[Dataset]] = {}
    for item in at.items(dataset, "RTROIObservationsSequence"):
        if at.text(item, "ReferencedROINumber"):
            observations.setdefault(int(item.ReferencedROINumber), []).append(item)
    copied = []
    for item in at.items(dataset, "StructureSetROISequence"):
        number = int(item.ROINumber)
        roi = copy_elements(item, raw=raw)
        _default(roi, ReferencedFrameOfReferenceUID=source.frame_of_reference_uid)
        _default(roi, ROIName="", ROIGenerationAlgorithm="")
        on_this_ct = at.text(roi, "ReferencedFrameOfReferenceUID") == source.frame_of_reference_uid
        contour = _merged(contours.get(number, []), raw=raw)
        contour.ReferencedROINumber = str(number)
        for part in at.items(contour, "ContourSequence"):
            _rebuild_contour(part, source, on_this_ct=on_this_ct)
        observation = _merged(observations.get(number, [])[:1], raw=raw)
        _default(observation, ObservationNumber=str(number), RTROIInterpretedType="", ROIInterpreter="")
        observation.ReferencedROINumber = str(number)
        copied.append(RoiItems(roi, contour, observation))
    return copied


def _default(item: Dataset, **values: str) -> None:
    for keyword, value in values.items():
        if keyword not in item or (value and not at.text(item, keyword)):
            setattr(item, keyword, value)


def _merged(items: Sequence[Dataset], *, raw: bool) -> Dataset:
    """One item of possibly several (some writers split the contours of one ROI)."""
    if not items:
        return Dataset()
    merged = copy_elements(items[0], raw=raw)
    more = [contour for item in items[1:] for contour in at.items(item, "ContourSequence")]
    if more:
        contours = at.items(merged, "ContourSequence") + [copy_elements(contour, raw=raw) for contour in more]
        merged.ContourSequence = DicomSequence(contours)
    return merged


def _rebuild_contour(contour: Dataset, source: StudySource, *, on_this_ct: bool) -> None:
    """Point the contour's image reference to the slice it lies on; texts beyond 16 bytes are shortened."""
    if "ContourImageSequence" in contour:
        del contour.ContourImageSequence
    if at.text(contour, "ContourGeometricType").upper() == "CLOSEDPLANAR_XOR":
        # The same meaning to every reader (contours of one plane combine by XOR), known to more of them.
        contour.ContourGeometricType = "CLOSED_PLANAR"
    points = contour_points(contour, file="")
    if len(points) and on_this_ct:
        index = source.slice_index(float(np.mean(points @ source.grid.direction_matrix[:, 2])))
        if index is not None and source.slices[index].sop_instance_uid:
            contour.ContourImageSequence = image_reference(source.slices[index])
    if len(points):
        stored = contour.get_item("ContourData").value
        parts = stored.split(b"\\") if isinstance(stored, bytes) else at.texts(contour, "ContourData")
        if max(len(part.strip()) for part in parts) > MAX_DECIMAL_CHARACTERS:
            contour.ContourData = [decimal_text(value, 9) for value in points.ravel().tolist()]


def _numbered(derived: Sequence[Structure], first: int, names: Sequence[str]) -> list[Structure]:
    taken = {name.casefold() for name in names}
    numbered = []
    for index, structure in enumerate(derived):
        name, count = short_text(structure.name, 64), 2
        while name.casefold() in taken:
            name, count = f"{short_text(structure.name, 60)} {count}", count + 1
        taken.add(name.casefold())
        numbered.append(replace(structure, name=name, number=first + index))
    return numbered


def _one_external(items: Sequence[RoiItems], external_number: int | None) -> None:
    """Leave one ROI of type EXTERNAL; the others lose the type (PS3.3 allows them, planning systems do not)."""
    externals = [item for item in items if at.text(item.observation, "RTROIInterpretedType").upper() == "EXTERNAL"]
    if external_number is not None:
        chosen = next((item for item in items if int(item.roi.ROINumber) == external_number), None)
    else:
        drawn = [item for item in externals if at.items(item.contour, "ContourSequence")]
        chosen = next(iter([*drawn, *externals]), None)
    if chosen is None:
        return
    for item in externals:
        if item is not chosen:
            item.observation.RTROIInterpretedType = ""
    if not any(item is chosen for item in externals):
        chosen.observation.RTROIInterpretedType = "EXTERNAL"

"""References between the objects of a study: which lead nowhere, and which frames of reference do not agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset

from dicomplan.dicom import attributes as at
from dicomplan.dicom.files import DicomObject, Scan, pydicom_silenced
from dicomplan.errors import InputError
from dicomplan.events import Finding


@pydicom_silenced()
def study_reference_findings(scan: Scan) -> tuple[Finding, ...]:
    """References of RTSTRUCT, RTPLAN and RTDOSE to objects that are not there, and frames of reference that differ.

    Where there is nothing of the kind referred to, the reference is no finding: only a part of the study was given.
    """
    findings: list[Finding] = []
    images = {item.uid for item in scan.of_modality("CT")}
    frames = {_text(item.header, "FrameOfReferenceUID") for item in scan.of_modality("CT")} - {""}
    sets = {item.uid: item for item in scan.of_modality("RTSTRUCT")}
    plans = {item.uid: item for item in scan.of_modality("RTPLAN")}
    for item in scan.objects:
        try:
            if item.modality == "RTSTRUCT" and images:
                findings += _of_structure_set(item, images, frames)
            elif item.modality == "RTPLAN":
                findings += _of_plan(item, sets, frames)
            elif item.modality == "RTDOSE":
                findings += _of_dose(item, plans, frames)
        except InputError as error:
            findings.append(Finding("error", f"a reference {error.message}", file=item.file, tag=error.tag))
    return tuple(findings)


def _of_structure_set(item: DicomObject, images: set[str], frames: set[str]) -> Iterator[Finding]:
    named = set()
    stated = set()
    for frame in at.items(item.header, "ReferencedFrameOfReferenceSequence"):
        stated.add(at.text(frame, "FrameOfReferenceUID"))
        for study in at.items(frame, "RTReferencedStudySequence"):
            for series in at.items(study, "RTReferencedSeriesSequence"):
                named |= _referenced(at.items(series, "ContourImageSequence"))
    yield from _dangling(named, images, item, "the structure set", "images")
    drawn = set()
    for contours in at.items(item.header, "ROIContourSequence"):
        for contour in at.items(contours, "ContourSequence"):
            drawn |= _referenced(at.items(contour, "ContourImageSequence"))
    yield from _dangling(drawn, images, item, "contours", "images")
    yield from _other_frame(item, stated, frames, "the structure set", "the CT")


def _of_plan(item: DicomObject, sets: dict[str, DicomObject], frames: set[str]) -> Iterator[Finding]:
    named = _referenced(at.items(item.header, "ReferencedStructureSetSequence"))
    if sets:
        yield from _dangling(named, set(sets), item, "the plan", "structure sets")
    yield from _other_frame(item, {_text(item.header, "FrameOfReferenceUID")}, frames, "the plan", "the CT")


def _of_dose(item: DicomObject, plans: dict[str, DicomObject], frames: set[str]) -> Iterator[Finding]:
    named = _referenced(at.items(item.header, "ReferencedRTPlanSequence"))
    if plans:
        yield from _dangling(named, set(plans), item, "the dose", "plans")
    frame = {_text(item.header, "FrameOfReferenceUID")}
    yield from _other_frame(item, frame, frames, "the dose", "the CT")
    of_plans = {_text(plans[uid].header, "FrameOfReferenceUID") for uid in named & set(plans)} - {""}
    yield from _other_frame(item, frame, of_plans, "the dose", "its plan")


def _referenced(items: Sequence[Dataset]) -> set[str]:
    return {at.text(one, "ReferencedSOPInstanceUID") for one in items} - {""}


def _dangling(named: set[str], there: set[str], item: DicomObject, who: str, what: str) -> Iterator[Finding]:
    lost = named - there
    if lost:
        verb = "refer" if who.endswith("s") else "refers"
        message = f"{who} {verb} to {len(named)} {what}, {len(lost)} of them are not here"
        yield Finding("warning", message, file=item.file, tag=at.tag_name("ReferencedSOPInstanceUID"))


def _other_frame(item: DicomObject, stated: set[str], there: set[str], who: str, whose: str) -> Iterator[Finding]:
    own = stated - {""}
    if own and there and not own & there:
        message = f"{who} is in another frame of reference than {whose}"
        yield Finding("warning", message, file=item.file, tag=at.tag_name("FrameOfReferenceUID"))


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        return at.text(dataset, keyword)
    except InputError:
        return ""

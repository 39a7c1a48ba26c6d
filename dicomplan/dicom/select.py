"""Which structure set and which CT series of a study belong together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from dicomplan.dicom import attributes as at
from dicomplan.dicom.ct_geometry import SeriesGeometry, series_geometry
from dicomplan.dicom.files import DicomObject, Scan
from dicomplan.dicom.multiframe import ENHANCED_CT
from dicomplan.dicom.read_structures import read_structures, referenced_images, uncovered
from dicomplan.errors import InputError, UsageError
from dicomplan.events import Finding

# CT Image Storage and the enhanced ones; empty: old or anonymised files that state no class.
_CT_CLASSES = ("", "1.2.840.10008.5.1.4.1.1.2", *ENHANCED_CT)
_LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}


@dataclass(frozen=True, eq=False)
class Series:
    """One CT series: its UID and its objects."""

    uid: str
    objects: tuple[DicomObject, ...]

    def text(self, keyword: str) -> str:
        """An attribute of its first object."""
        return at.text(self.objects[0].header, keyword)

    @property
    def frames(self) -> frozenset[str]:
        """Frames of reference of its objects (one, in a series that can be planned on; empty text where absent)."""
        return frozenset(at.text(item.header, "FrameOfReferenceUID") for item in self.objects)

    @property
    def label(self) -> str:
        """A line for people: UID, number of files, description."""
        description = self.text("SeriesDescription")
        return f"{self.uid} ({len(self.objects)} files{', ' + description if description else ''})"


@dataclass(frozen=True, eq=False)
class Selection:
    """The structure set and the CT series of it, and what was noticed on the way."""

    structure_set: DicomObject
    series: Series
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class References:
    """What an RTSTRUCT refers to: UIDs of CT series, of images, and of frames of reference."""

    series: frozenset[str]
    images: frozenset[str]
    frames: frozenset[str]


def ct_series(scan: Scan) -> tuple[tuple[Series, ...], tuple[Finding, ...]]:
    """The CT series of a study by UID, empty if there is none; localizers and secondary captures left out.

    Raises InputError for a CT slice without series identifier.
    """
    groups: dict[str, list[DicomObject]] = {}
    localizers = others = 0
    for item in scan.of_modality("CT"):
        with at.naming(item.file):
            kinds = {part.upper() for part in at.texts(item.header, "ImageType")}
            if at.text(item.header, "SOPClassUID") not in _CT_CLASSES:
                others += 1
            elif kinds & _LOCALIZERS:
                localizers += 1
            else:
                uid = at.text(item.header, "SeriesInstanceUID")
                if not uid:
                    raise InputError("is missing", tag=at.tag_name("SeriesInstanceUID"))
                groups.setdefault(uid, []).append(item)
    findings = []
    if localizers:
        findings.append(Finding("info", f"{localizers} localizer images were left alone"))
    if others:
        message = f"{others} images of modality CT that are no CT slices (secondary captures) were left alone"
        findings.append(Finding("info", message, tag=at.tag_name("SOPClassUID")))
    return tuple(Series(uid, tuple(groups[uid])) for uid in sorted(groups)), tuple(findings)


def select(
    scan: Scan, *, structure_set: str | None = None, series: str | None = None, repair: bool = False
) -> Selection:
    """Choose the RTSTRUCT and the CT series that it refers to.

    By identifiers first; where those dangle, by frame of reference and full geometric cover. ``structure_set`` (SOP
    or series UID, label, file name) and ``series`` (UID or description) choose among several; ``repair`` as for
    :func:`series_geometry`. Raises InputError for no
    CT, no RTSTRUCT, several studies, patients or candidates, another patient or frame of reference; UsageError when
    the chosen one is not there.
    """
    all_series, found = ct_series(scan)
    if not all_series:
        raise InputError("no CT series to plan on: found no CT slices", tag=at.tag_name("Modality"))
    findings = list(found)
    sets = scan.of_modality("RTSTRUCT")
    if not sets:
        raise _no_structure_set(all_series)
    if series is not None:
        all_series = tuple(item for item in all_series if series in (item.uid, item.text("SeriesDescription")))
        if not all_series:
            raise UsageError(f"no CT series is '{series}'", hint="give its UID or its description")
    if structure_set is not None:
        sets = tuple(item for item in sets if structure_set in _set_names(item))
        if not sets:
            raise UsageError(f"no structure set is '{structure_set}'", hint="give its UID, label or file name")
    if structure_set is None:
        _check_one_study(all_series)
        for item in sets:
            if not any(_patient_fits(item, other) for other in all_series):
                raise _another_patient(item)
    matches: list[tuple[DicomObject, Series, tuple[Finding, ...]]] = []
    refusals: list[InputError] = []
    for item in sets:
        try:
            matches.append((item, *series_of(item, all_series, repair=repair)))
        except InputError as error:
            refusals.append(error)
    if not matches:
        if len(refusals) == 1:
            raise refusals[0]
        reasons = "; ".join(f"{error.file}: {error.message}" for error in refusals)
        raise InputError(f"none of {len(refusals)} structure sets belongs to a CT of this study: {reasons}")
    if len(matches) > 1:
        listed = "; ".join(_set_label(item) for item, _, _ in matches)
        raise InputError(
            f"{len(matches)} structure sets could be meant: {listed}", hint="choose one with --structure-set"
        )
    item, chosen, more = matches[0]
    findings.extend(more)
    if refusals:
        findings.append(Finding("info", f"{len(refusals)} other structure sets do not belong to the CT, left alone"))
    left = sum(len(other.objects) for other in all_series if other is not chosen)
    if left:
        findings.append(Finding("info", f"{left} images of other CT series were left alone"))
    return Selection(item, chosen, tuple(findings))


def _no_structure_set(all_series: Sequence[Series]) -> InputError:
    message = "no RTSTRUCT found: planning needs a structure set"
    for series in all_series:
        try:
            refused = series_geometry(series.objects).refusals
            if refused:
                raise refused[0]
        except InputError as error:
            return InputError(
                f"{message}; nor could the CT be planned on: {error.message}", file=error.file, tag=error.tag
            )
    return InputError(message, tag=at.tag_name("Modality"))


def _another_patient(item: DicomObject) -> InputError:
    return InputError(
        "the structure set is of another patient than the CT", file=item.file, tag=at.tag_name("PatientID")
    )


def _set_names(item: DicomObject) -> tuple[str, ...]:
    header = item.header
    path = Path(item.file)
    return (item.uid, at.text(header, "SeriesInstanceUID"), at.text(header, "StructureSetLabel"), item.file, path.name)


def _set_label(item: DicomObject) -> str:
    label = at.text(item.header, "StructureSetLabel")
    return f"{item.uid}{f' ({label})' if label else ''} in {item.file}"


def _check_one_study(all_series: Sequence[Series]) -> None:
    for keyword, what in (("PatientID", "patients"), ("StudyInstanceUID", "studies")):
        first: dict[str, DicomObject] = {}
        for series in all_series:
            for item in series.objects:
                first.setdefault(at.text(item.header, keyword), item)
        if len(first) > 1:
            files = sorted(item.file for item in first.values())
            raise InputError(
                f"CT of {len(first)} {what} in one input, expected one: see also {files[0]}",
                file=files[1],
                tag=at.tag_name(keyword),
                hint="give one study, or choose with --series",
            )


def references_of(dataset: Dataset) -> References:
    """The identifiers that an RTSTRUCT refers to, wherever it names them. Raises InputError for unreadable ones."""
    series: set[str] = set()
    images: set[str] = set()
    frames = {at.text(dataset, "FrameOfReferenceUID")}
    for frame in at.items(dataset, "ReferencedFrameOfReferenceSequence"):
        frames.add(at.text(frame, "FrameOfReferenceUID"))
        for study in at.items(frame, "RTReferencedStudySequence"):
            for item in at.items(study, "RTReferencedSeriesSequence"):
                series.add(at.text(item, "SeriesInstanceUID"))
                images.update(referenced_images(item))
    for roi in at.items(dataset, "StructureSetROISequence"):
        frames.add(at.text(roi, "ReferencedFrameOfReferenceUID"))
    for roi in at.items(dataset, "ROIContourSequence"):
        for contour in at.items(roi, "ContourSequence"):
            images.update(referenced_images(contour))
    return References(frozenset(series - {""}), frozenset(images - {""}), frozenset(frames - {""}))


def series_of(
    item: DicomObject, all_series: Sequence[Series], *, repair: bool = False
) -> tuple[Series, tuple[Finding, ...]]:
    """The CT series that a structure set refers to, and what was noticed.

    By identifiers, else by frame of reference and full geometric cover. Raises InputError for another patient or frame
    of reference, for several candidates, and where no series covers all contours.
    """
    with at.naming(item.file):
        return _series_of(item, all_series, repair)


def _series_of(item: DicomObject, all_series: Sequence[Series], repair: bool) -> tuple[Series, tuple[Finding, ...]]:
    dataset = item.header
    same_patient = [series for series in all_series if _patient_fits(item, series)]
    if not same_patient:
        raise _another_patient(item)
    references = references_of(dataset)
    same_frame = [
        series for series in same_patient if not references.frames or series.frames & {"", *references.frames}
    ]
    if not same_frame:
        raise InputError(
            f"found frame of reference {', '.join(sorted(references.frames))}, expected the CT's,"
            f" {', '.join(sorted({frame for series in same_patient for frame in series.frames}))}",
            file=item.file,
            tag=at.tag_name("FrameOfReferenceUID"),
        )
    named = [series for series in same_frame if any(member.uid in references.images for member in series.objects)]
    named = named or [series for series in same_frame if series.uid in references.series]
    findings: list[Finding] = []
    if not at.items(dataset, "ReferencedFrameOfReferenceSequence"):
        message = (
            "the structure set does not say which frame of reference and images it refers to: matched by its contours"
        )
        findings.append(
            Finding("warning", message, file=item.file, tag=at.tag_name("ReferencedFrameOfReferenceSequence"))
        )
    if named:
        candidates = named
    else:
        candidates = _covering(item, same_frame, repair)
        message = "the structure set names no image of this CT: matched by frame of reference and geometry"
        findings.append(
            Finding("warning", message, file=item.file, tag=at.tag_name("ReferencedFrameOfReferenceSequence"))
        )
    if len(candidates) > 1:
        listed = "; ".join(series.label for series in candidates)
        raise InputError(
            f"{len(candidates)} CT series could be meant: {listed}", file=item.file, hint="choose one with --series"
        )
    chosen = candidates[0]
    if at.text(dataset, "StudyInstanceUID") != chosen.text("StudyInstanceUID"):
        message = (
            "the structure set has another study identifier than the CT, but the same patient and frame of reference"
        )
        findings.append(Finding("warning", message, file=item.file, tag=at.tag_name("StudyInstanceUID")))
    if at.text(dataset, "PatientID") != chosen.text("PatientID"):
        message = "either the structure set or the CT has no patient identifier"
        findings.append(Finding("warning", message, file=item.file, tag=at.tag_name("PatientID")))
    return chosen, tuple(findings)


def _patient_fits(item: DicomObject, series: Series) -> bool:
    ours, theirs = at.text(item.header, "PatientID"), series.text("PatientID")
    if ours and theirs:
        return ours == theirs
    return at.text(item.header, "PatientName") == series.text("PatientName")


def _covering(item: DicomObject, all_series: Sequence[Series], repair: bool) -> list[Series]:
    """The series whose grid covers every contour; InputError with the reason of the last one if there is none."""
    covering, reason = [], None
    for series in all_series:
        try:
            geometry: SeriesGeometry = series_geometry(series.objects, repair=repair)
            structures, _, _ = read_structures(
                item.header, file=item.file, frame_of_reference_uid=geometry.grid.frame_of_reference_uid
            )
        except InputError as error:
            reason = error
            continue
        outside = uncovered(structures, geometry.grid)
        if not outside:
            covering.append(series)
            continue
        name, beyond = outside[0]
        reason = InputError(
            f"the structure set names no image of the CT, and ROI '{name}' reaches {beyond:.1f} mm beyond it",
            file=item.file,
            tag=at.tag_name("ContourData"),
        )
    if not covering and reason is not None:
        raise reason
    return covering

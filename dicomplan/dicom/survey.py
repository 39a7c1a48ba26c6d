"""Look at a study without planning on it: everything that is in it, and what is wrong as findings, not as exceptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from dicomplan.dicom import attributes as at
from dicomplan.dicom.ct_geometry import SeriesGeometry, series_geometry
from dicomplan.dicom.files import MAX_STUDY_BYTES, DicomObject, Scan, left_alone, pydicom_silenced, scan_study
from dicomplan.dicom.plan_record import PlanRecord, plan_record
from dicomplan.dicom.read_dose import dose_units
from dicomplan.dicom.read_structures import check_planes, read_structures, reference_findings, uncovered
from dicomplan.dicom.select import Series, ct_series, select, series_of
from dicomplan.errors import DicomplanError, InputError, UsageError
from dicomplan.events import Finding, Progress, ProgressCallback, Severity, ignore_progress
from dicomplan.geometry.frames import PATIENT_POSITIONS
from dicomplan.patient.case import Structure

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class SurveyedSeries:
    """One series of images or objects: ``patient`` and ``study`` number the different ones of the input from 1.

    ``geometry`` is that of a CT series that makes one regular grid (its ``refusals`` forbid planning); None for other
    modalities and where a finding says why it does not.
    """

    modality: str
    kind: str
    series_instance_uid: str
    study_instance_uid: str
    frame_of_reference_uid: str
    description: str
    patient: int
    study: int
    objects: tuple[DicomObject, ...]
    geometry: SeriesGeometry | None


@dataclass(frozen=True, eq=False)
class SurveyedStructureSet:
    """One RTSTRUCT: its structures in patient coordinates (mm), and the CT series that it belongs to (None: to none here)."""

    item: DicomObject
    label: str
    structures: tuple[Structure, ...]
    series: SurveyedSeries | None


@dataclass(frozen=True, eq=False)
class SurveyedDose:
    """One RTDOSE, unread: DoseUnits, DoseType and DoseSummationType as stated; read it with ``dose_of(item)``."""

    item: DicomObject
    units: str
    dose_type: str
    summation_type: str


@dataclass(frozen=True, eq=False)
class Survey:
    """What a study holds. ``findings`` are sorted: errors, warnings, infos.

    ``patient_position`` is that of the CT that would be planned on, else of the first readable CT; empty where the images
    do not say. ``plannable``: whether ``read_study`` would read it (pixels not looked at); if not, an error finding says
    why.
    """

    scan: Scan
    series: tuple[SurveyedSeries, ...]
    structure_sets: tuple[SurveyedStructureSet, ...]
    plans: tuple[PlanRecord, ...]
    doses: tuple[SurveyedDose, ...]
    patient_position: str
    plannable: bool
    findings: tuple[Finding, ...]


@pydicom_silenced()
def survey_study(
    paths: Sequence[Path],
    *,
    structure_set: str | None = None,
    series: str | None = None,
    patient_position: str | None = None,
    repair: bool = False,
    max_study_size: int = MAX_STUDY_BYTES,
    progress: ProgressCallback = ignore_progress,
) -> Survey:
    """Survey folders, files or zips; options as of :func:`dicomplan.dicom.read.read_study`. Pixels are not read.

    Raises UsageError for a path or a choice that is not there; InputError only when nothing is readable DICOM, for an
    unsafe zip, and for a study larger than ``max_study_size``. Everything else becomes a finding (file, tag).
    """
    if patient_position is not None and patient_position not in PATIENT_POSITIONS:
        raise UsageError(f"patient position '{patient_position}' is not one of {', '.join(PATIENT_POSITIONS)}")
    scan = scan_study(paths, progress, max_study_size=max_study_size)
    position, refusal = _plannable(scan, structure_set, series, patient_position, repair)
    plannable = refusal is None and not scan.refusals
    # What is wrong with a series or structure set that is not planned on does not forbid planning.
    notes = _Notes("warning" if plannable else "error")
    notes.findings.extend(scan.findings)
    notes.findings.extend(left_alone(scan, ("CT", "RTSTRUCT", "RTPLAN", "RTDOSE")))
    for error in scan.refusals:
        notes.refuse(error)
    progress(Progress("read", "geometry"))
    ct: tuple[Series, ...] = ()
    try:
        ct, more = ct_series(scan)
        notes.findings.extend(more)
    except InputError as error:
        notes.refuse(error)
    surveyed = _all_series(scan, ct, patient_position, repair, notes)
    by_uid = {item.series_instance_uid: item for item in surveyed if item.modality == "CT"}
    progress(Progress("read", "structures"))
    sets = tuple(_structure_set(item, ct, by_uid, repair, notes) for item in scan.of_modality("RTSTRUCT"))
    plans = [notes.attempt(partial(plan_record, item), "warning") for item in scan.of_modality("RTPLAN")]
    doses = [notes.attempt(partial(_dose, item), "warning") for item in scan.of_modality("RTDOSE")]
    for item, plan in zip(scan.of_modality("RTPLAN"), plans, strict=True):
        for reason in () if plan is None else plan.obstacles:
            notes.add("info", f"the plan's dose cannot be calculated: {reason}", item.file)
    for dose in doses:
        if dose is not None and dose.units != "GY":
            message = f"a dose in {dose.units or 'no stated unit'}: it is not taken as Gy"
            notes.add("warning", message, dose.item.file, at.tag_name("DoseUnits"))
    if refusal is not None:
        notes.refuse(refusal)
    readable = [item.geometry for item in surveyed if item.geometry is not None]
    if not position and readable:
        position = readable[0].patient_position
    return Survey(
        scan=scan,
        series=surveyed,
        structure_sets=sets,
        plans=tuple(plan for plan in plans if plan is not None),
        doses=tuple(dose for dose in doses if dose is not None),
        patient_position=position,
        plannable=plannable,
        findings=notes.sorted(),
    )


class _Notes:
    """Findings as they come up; ``severity`` is that of a refusal."""

    def __init__(self, severity: Severity) -> None:
        self.findings: list[Finding] = []
        self.severity = severity

    def add(self, severity: Severity, message: str, file: str | None = None, tag: str | None = None) -> None:
        self.findings.append(Finding(severity, message, file, tag))

    def refuse(self, error: DicomplanError, severity: Severity | None = None) -> None:
        hint = f" ({error.hint})" if error.hint else ""
        self.add(severity or self.severity, error.message + hint, error.file, error.tag)

    def attempt(self, read: Callable[[], _T], severity: Severity | None = None) -> _T | None:
        try:
            return read()
        except InputError as error:
            self.refuse(error, severity)
            return None

    def sorted(self) -> tuple[Finding, ...]:
        order = {"error": 0, "warning": 1, "info": 2}
        return tuple(sorted(dict.fromkeys(self.findings), key=lambda finding: order[finding.severity]))


def _plannable(
    scan: Scan, structure_set: str | None, series: str | None, patient_position: str | None, repair: bool
) -> tuple[str, InputError | None]:
    """Patient position of the CT that would be planned on, and why nothing can be planned."""
    position = ""
    try:
        selection = select(scan, structure_set=structure_set, series=series, repair=repair)
        geometry = series_geometry(selection.series.objects, patient_position, repair=repair)
        position = geometry.patient_position
        if geometry.refusals:
            raise geometry.refusals[0]
        item, grid = selection.structure_set, geometry.grid
        structures, _, _ = read_structures(
            item.header, file=item.file, frame_of_reference_uid=grid.frame_of_reference_uid
        )
        check_planes(structures, grid, file=item.file)
    except InputError as error:
        return position, error
    return position, None


def _all_series(
    scan: Scan, ct: Sequence[Series], patient_position: str | None, repair: bool, notes: _Notes
) -> tuple[SurveyedSeries, ...]:
    groups: dict[tuple[str, str, str], list[DicomObject]] = {}
    for item in scan.objects:
        key = (_text(item, "StudyInstanceUID"), _text(item, "SeriesInstanceUID"), item.kind)
        groups.setdefault(key, []).append(item)
    in_ct = {item: series for series in ct for item in series.objects}
    patients: dict[tuple[str, str], int] = {}
    studies: dict[str, int] = {}
    surveyed = []
    for (study, uid, kind), members in sorted(
        groups.items(), key=lambda entry: (entry[0][0], entry[0][2], entry[0][1])
    ):
        patient = (_text(members[0], "PatientID"), _text(members[0], "PatientName"))
        slices = [item for item in members if item in in_ct]
        geometry = None
        if slices:
            geometry = _geometry(slices, patient_position, repair, notes)
        surveyed.append(
            SurveyedSeries(
                modality=members[0].modality,
                kind=kind,
                series_instance_uid=uid,
                study_instance_uid=study,
                frame_of_reference_uid=_text(members[0], "FrameOfReferenceUID"),
                description=_text(members[0], "SeriesDescription"),
                patient=patients.setdefault(patient, len(patients) + 1),
                study=studies.setdefault(study, len(studies) + 1),
                objects=tuple(members),
                geometry=geometry,
            )
        )
    return tuple(surveyed)


def _geometry(
    slices: Sequence[DicomObject], patient_position: str | None, repair: bool, notes: _Notes
) -> SeriesGeometry | None:
    geometry = notes.attempt(lambda: series_geometry(slices, patient_position, repair=repair))
    if geometry is not None:
        notes.findings.extend(geometry.findings)
        for error in geometry.refusals:
            notes.refuse(error)
    return geometry


def _structure_set(
    item: DicomObject, ct: Sequence[Series], by_uid: dict[str, SurveyedSeries], repair: bool, notes: _Notes
) -> SurveyedStructureSet:
    series = None
    if ct:
        found = notes.attempt(lambda: series_of(item, ct, repair=repair))
        if found is not None:
            series = by_uid.get(found[0].uid)
            notes.findings.extend(found[1])
    else:
        notes.add("warning", "there is no CT that the structure set belongs to", item.file)
    geometry = None if series is None else series.geometry
    frame = "" if geometry is None else geometry.grid.frame_of_reference_uid
    read = notes.attempt(lambda: read_structures(item.header, file=item.file, frame_of_reference_uid=frame))
    structures: tuple[Structure, ...] = ()
    if read is not None:
        structures, contours, more = read
        notes.findings.extend(more)
        if geometry is not None:
            notes.attempt(lambda: check_planes(structures, geometry.grid, file=item.file))
            notes.findings.extend(reference_findings(contours, geometry.slices, geometry.grid, file=item.file))
            for name, beyond in uncovered(structures, geometry.grid):
                message = f"ROI '{name}' reaches {beyond:.1f} mm beyond the CT: that part is not seen"
                notes.add("warning", message, item.file, at.tag_name("ContourData"))
    return SurveyedStructureSet(item, _text(item, "StructureSetLabel"), structures, series)


def _dose(item: DicomObject) -> SurveyedDose:
    with at.naming(item.file):
        dose_type, summation = (at.text(item.header, name).upper() for name in ("DoseType", "DoseSummationType"))
        return SurveyedDose(item, dose_units(item), dose_type, summation)


def _text(item: DicomObject, keyword: str) -> str:
    try:
        return at.text(item.header, keyword)
    except InputError:
        return ""

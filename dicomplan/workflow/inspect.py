"""Look at a study: what is in it, whether it can be planned on, and what is missing or odd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dicomplan.dicom import attributes as at
from dicomplan.dicom.ct_geometry import SeriesGeometry, series_geometry
from dicomplan.dicom.ct_pixels import read_volume
from dicomplan.dicom.files import DicomObject, Scan, left_alone, pydicom_silenced
from dicomplan.dicom.read_structures import check_planes, read_structures, reference_findings, uncovered
from dicomplan.dicom.select import Selection, Series, ct_series, select, series_of
from dicomplan.errors import InputError, UsageError
from dicomplan.events import Cancel, Finding, Progress, ProgressCallback, Severity, ignore_progress
from dicomplan.patient.case import Structure
from dicomplan.workflow.documents import as_finding, finding_documents, grid_document, sorted_findings
from dicomplan.workflow.inspect_objects import dose_documents, plan_documents
from dicomplan.workflow.inspect_structures import planes_of_contours, structure_document, structure_findings
from dicomplan.workflow.study_request import StudyRequest

_LOOKED_AT = ("CT", "RTSTRUCT", "RTDOSE", "RTPLAN")


@dataclass
class _Findings:
    """What was noticed, and whether anything of it forbids planning."""

    found: list[Finding] = field(default_factory=list)

    def refuse(self, error: InputError | UsageError) -> None:
        self.found.append(as_finding(error))

    def add(self, findings: Sequence[Finding]) -> None:
        self.found.extend(findings)


@pydicom_silenced()
def run_inspect(
    request: StudyRequest, progress: ProgressCallback = ignore_progress, cancel: Cancel | None = None
) -> dict[str, Any]:
    """What is in a study, as the document of INTERFACE.md (``inspect``), findings sorted by severity.

    ``plannable`` is whether :func:`dicomplan.dicom.read.read_study` accepts the study with the same options (pixels
    included): whatever it would refuse is a finding of severity ``error``. Volumes are those of the exact rasterisation;
    without a CT that fits, contours stand for slabs as thick as their own distance (``volume_from`` tells).
    Raises UsageError for a path, series or structure set that is not there, InputError if nothing is readable DICOM, a zip
    is unsafe or the study is too large.
    """
    cancel = cancel or Cancel()
    scan = request.scan(progress)
    findings = _Findings([*scan.findings, *left_alone(scan, _LOOKED_AT)])
    for refusal in scan.refusals:
        findings.refuse(refusal)
    all_series = _ct_series(scan, findings)
    selection = _selection(scan, request, findings)
    geometries = _geometries(all_series, selection, request, findings)
    cancel.check()
    progress(Progress("read", "structures"))
    chosen = None if selection is None else geometries.get(selection.series.uid)
    sets, structures = _structures(scan, all_series, geometries, selection, request, findings)
    hu_range = None
    if chosen is not None:
        hu_range = _hu_range(chosen, progress, findings)
        cancel.check()
    position = _patient_position(chosen, geometries)
    frame = "" if chosen is None else chosen.grid.frame_of_reference_uid
    progress(Progress("read", "doses and plans"))
    plans, plan_findings = plan_documents(scan, frame, position)
    doses, dose_findings = dose_documents(scan, None if chosen is None else chosen.grid)
    findings.add([*plan_findings, *dose_findings])
    ordered = sorted_findings(findings.found)
    return {
        "schema": 1,
        "series": _series_documents(scan, geometries, selection, hu_range),
        "patient_position": position or None,
        "structure_sets": sets,
        "structures": structures,
        "plans": plans,
        "doses": doses,
        "findings": finding_documents(ordered),
        "plannable": all(finding.severity != "error" for finding in ordered),
    }


def _ct_series(scan: Scan, findings: _Findings) -> tuple[Series, ...]:
    try:
        found, _ = ct_series(scan)
    except InputError as error:
        findings.refuse(error)
        return ()
    return found


def _selection(scan: Scan, request: StudyRequest, findings: _Findings) -> Selection | None:
    if scan.of_modality("CT") and not scan.of_modality("RTSTRUCT"):
        # What may be wrong with the CT has findings of its own.
        message = "no RTSTRUCT found: planning needs a structure set"
        findings.refuse(InputError(message, tag=at.tag_name("Modality")))
        return None
    try:
        selection = select(scan, structure_set=request.structure_set, series=request.series, repair=request.repair)
    except InputError as error:
        findings.refuse(error)
        return None
    findings.add(selection.findings)
    return selection


def _geometries(
    all_series: Sequence[Series], selection: Selection | None, request: StudyRequest, findings: _Findings
) -> dict[str, SeriesGeometry]:
    """Geometry of each CT series that has one; why the others have none, and why it cannot be planned on.

    Of series beside the chosen one that is only a warning: it does not keep anybody from planning.
    """
    geometries = {}
    for series in all_series:
        severity: Severity = "error" if selection is None or series.uid == selection.series.uid else "warning"
        try:
            geometry = series_geometry(series.objects, request.patient_position, repair=request.repair)
        except InputError as error:
            findings.add([as_finding(error, severity)])
            continue
        geometries[series.uid] = geometry
        findings.add([as_finding(refusal, severity) for refusal in geometry.refusals])
        findings.add(geometry.findings)
    return geometries


def _structures(
    scan: Scan,
    all_series: Sequence[Series],
    geometries: dict[str, SeriesGeometry],
    selection: Selection | None,
    request: StudyRequest,
    findings: _Findings,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Documents of the structure sets and of all their structures, those of the chosen set first."""
    items = list(scan.of_modality("RTSTRUCT"))
    if selection is not None:
        chosen = selection.structure_set
        items = [chosen, *(item for item in items if item is not chosen)]
    if request.structure_set is not None and selection is not None:
        items = items[:1]
    sets: list[dict[str, Any]] = []
    documents: list[dict[str, Any]] = []
    for item in items:
        is_chosen = selection is not None and item is selection.structure_set
        series_uid = selection.series.uid if selection is not None and is_chosen else _series_uid(item, all_series)
        geometry = geometries.get(series_uid)
        try:
            structures = _read_set(item, geometry, findings, is_chosen=is_chosen)
        except InputError as error:
            findings.add([as_finding(error, "error" if selection is None or is_chosen else "warning")])
            continue
        grid = planes_of_contours(structures) if geometry is None else geometry.grid
        for structure in structures:
            document = structure_document(structure, grid, on_ct=geometry is not None)
            documents.append({**document, "structure_set": item.uid})
        sets.append(
            {
                "sop_instance_uid": item.uid,
                "label": at.text(item.header, "StructureSetLabel"),
                "file": item.file,
                "structures": len(structures),
                "ct_series_instance_uid": series_uid or None,
                "chosen": is_chosen,
            }
        )
        if geometry is not None and (is_chosen or selection is None):
            findings.add(structure_findings(structures, geometry.grid, file=item.file))
    return sets, documents


def _series_uid(item: DicomObject, all_series: Sequence[Series]) -> str:
    """UID of the CT series that a structure set belongs to; empty if to none or to several."""
    try:
        return series_of(item, all_series)[0].uid if all_series else ""
    except InputError:
        return ""


def _read_set(
    item: DicomObject, geometry: SeriesGeometry | None, findings: _Findings, *, is_chosen: bool
) -> tuple[Structure, ...]:
    frame = "" if geometry is None else geometry.grid.frame_of_reference_uid
    structures, contours, found = read_structures(item.header, file=item.file, frame_of_reference_uid=frame)
    findings.add(found)
    if geometry is None:
        return structures
    if is_chosen:
        try:
            check_planes(structures, geometry.grid, file=item.file)
        except InputError as error:
            findings.refuse(error)
    findings.add(reference_findings(contours, geometry.slices, geometry.grid, file=item.file))
    for name, beyond in uncovered(structures, geometry.grid):
        message = f"ROI '{name}' reaches {beyond:.1f} mm beyond the CT: that part is not seen"
        findings.add([Finding("warning", message, file=item.file, tag=at.tag_name("ContourData"))])
    return structures


def _hu_range(geometry: SeriesGeometry, progress: ProgressCallback, findings: _Findings) -> list[float] | None:
    """Least and greatest CT number of the chosen series; reading them is what tells whether they can be read."""
    try:
        ct, found = read_volume(geometry, progress)
    except (InputError, UsageError) as error:
        findings.refuse(error)
        return None
    findings.add(found)
    return [round(float(np.min(ct.hu)), 3), round(float(np.max(ct.hu)), 3)]


def _patient_position(chosen: SeriesGeometry | None, geometries: dict[str, SeriesGeometry]) -> str:
    if chosen is not None:
        return chosen.patient_position
    positions = {geometry.patient_position for geometry in geometries.values()}
    return positions.pop() if len(positions) == 1 else ""


def _series_documents(
    scan: Scan, geometries: dict[str, SeriesGeometry], selection: Selection | None, hu_range: list[float] | None
) -> list[dict[str, Any]]:
    """Every series of the study, CT first; ``geometry`` is empty where there is no regular grid."""
    groups: dict[tuple[str, str], list[DicomObject]] = {}
    for item in scan.objects:
        groups.setdefault((item.kind, _text(item, "SeriesInstanceUID")), []).append(item)
    documents = []
    for (kind, uid), items in sorted(groups.items(), key=lambda entry: (entry[0][0] != "CT", entry[0])):
        geometry = geometries.get(uid) if kind == "CT" else None
        chosen = selection is not None and kind == "CT" and uid == selection.series.uid
        documents.append(
            {
                "modality": items[0].modality,
                "kind": kind,
                "series_instance_uid": uid,
                "files": len({item.source.name for item in items}),
                "description": _text(items[0], "SeriesDescription"),
                "patient_position": None if geometry is None else geometry.patient_position or None,
                "chosen": chosen,
                "hu_range": hu_range if chosen else None,
                "geometry": {} if geometry is None else _geometry_document(geometry),
            }
        )
    return documents


def _geometry_document(geometry: SeriesGeometry) -> dict[str, Any]:
    along = geometry.grid.axis_mm(0)
    return {
        **grid_document(geometry.grid),
        "slices": len(geometry.read_objects),
        "first_slice_mm": round(float(along[0]), 4),
        "last_slice_mm": round(float(along[-1]), 4),
    }


def _text(item: DicomObject, keyword: str) -> str:
    try:
        return at.text(item.header, keyword)
    except InputError:
        return ""

"""Doses and plans as ``inspect`` shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dicomplan.dicom import attributes as at
from dicomplan.dicom.files import DicomObject, Scan
from dicomplan.dicom.plan_record import PlanRecord, plan_record
from dicomplan.dicom.read_dose import dose_of, dose_units, relative_dose_of
from dicomplan.errors import InputError, UsageError
from dicomplan.events import Finding
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.workflow.documents import as_finding, grid_document


def plan_documents(
    scan: Scan, frame_of_reference_uid: str, patient_position: str
) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The plans of a study, of any technique, and what is odd about them beside the CT (its empty texts: no CT)."""
    documents, findings = [], []
    sets = {item.uid for item in scan.of_modality("RTSTRUCT")}
    for item in scan.of_modality("RTPLAN"):
        try:
            record = plan_record(item)
        except InputError as error:
            findings.append(as_finding(error, "warning"))
            continue
        documents.append(_plan_document(item, record))
        findings.extend(_plan_findings(item, record, sets, frame_of_reference_uid, patient_position))
    return documents, findings


def _plan_document(item: DicomObject, record: PlanRecord) -> dict[str, Any]:
    metersets = [beam.meterset_mu for beam in record.beams if beam.meterset_mu is not None]
    return {
        "sop_instance_uid": item.uid,
        "file": item.file,
        "kind": record.kind,
        "label": record.label,
        "approval_status": record.approval_status,
        "patient_position": record.patient_position or None,
        "fractions": [group.fractions for group in record.fraction_groups],
        "target_doses_gy": dict(record.target_doses_gy),
        "meterset_mu": round(sum(metersets), 4) if metersets else None,
        "beams": [
            {
                "number": beam.number,
                "name": beam.name,
                "machine": beam.machine,
                "radiation_type": beam.radiation_type,
                "delivery_type": beam.delivery_type,
                "technique": beam.technique,
                "nominal_energy": beam.control_points[0].nominal_energy if beam.control_points else None,
                "gantry_angle_deg": beam.control_points[0].gantry_angle_deg if beam.control_points else None,
                "collimator_angle_deg": beam.control_points[0].collimator_angle_deg if beam.control_points else None,
                "couch_angle_deg": beam.control_points[0].couch_angle_deg if beam.control_points else None,
                "control_points": len(beam.control_points),
                "meterset_mu": beam.meterset_mu,
                "accessories": dict(beam.accessories),
            }
            for beam in record.beams
        ],
        "structure_set": record.structure_set_uid or None,
        "not_calculated_because": list(record.obstacles),
    }


def _plan_findings(
    item: DicomObject, record: PlanRecord, sets: set[str], frame_of_reference_uid: str, patient_position: str
) -> Iterator[Finding]:
    frame = record.frame_of_reference_uid
    if frame and frame_of_reference_uid and frame != frame_of_reference_uid:
        message = f"plan '{record.label}' is in another frame of reference than the CT"
        yield Finding("warning", message, file=item.file, tag=at.tag_name("FrameOfReferenceUID"))
    position = record.patient_position
    if position and patient_position and position != patient_position:
        message = f"plan '{record.label}' is for patient position {position}, the CT is {patient_position}"
        yield Finding("warning", message, file=item.file, tag=at.tag_name("PatientPosition"))
    if sets and record.structure_set_uid not in sets:
        message = f"plan '{record.label}' names another structure set than those that are here"
        yield Finding("info", message, file=item.file, tag=at.tag_name("ReferencedStructureSetSequence"))
    if record.obstacles:
        more = f", and {len(record.obstacles) - 1} more" if len(record.obstacles) > 1 else ""
        message = f"the dose of plan '{record.label}' cannot be calculated here: {record.obstacles[0]}{more}"
        yield Finding("info", message, file=item.file)


def dose_documents(scan: Scan, ct_grid: VoxelGrid | None) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The doses of a study and what is odd about them; ``ct_grid`` is the chosen CT's, or None."""
    documents: list[dict[str, Any]] = []
    findings: list[Finding] = []
    plans = {item.uid for item in scan.of_modality("RTPLAN")}
    for item in scan.of_modality("RTDOSE"):
        try:
            document, grid, found = _dose_document(item)
        except (InputError, UsageError) as error:
            findings.append(as_finding(error, "warning"))
            documents.append(_header_document(item))
            continue
        documents.append(document)
        findings.extend(found)
        if plans and document["plan"] is not None and document["plan"] not in plans:
            message = "a dose refers to a plan that is not here"
            findings.append(Finding("info", message, file=item.file, tag=at.tag_name("ReferencedRTPlanSequence")))
        frame = grid.frame_of_reference_uid
        if ct_grid is not None and frame and frame != ct_grid.frame_of_reference_uid:
            message = "a dose is in another frame of reference than the CT"
            findings.append(Finding("warning", message, file=item.file, tag=at.tag_name("FrameOfReferenceUID")))
    return documents, findings


def _header_document(item: DicomObject) -> dict[str, Any]:
    texts = {}
    for key, keyword in (("units", "DoseUnits"), ("summation_type", "DoseSummationType"), ("type", "DoseType")):
        try:
            texts[key] = at.text(item.header, keyword).upper()
        except InputError:
            texts[key] = ""
    return {
        "sop_instance_uid": item.uid,
        "file": item.file,
        **texts,
        "maximum": None,
        "maximum_mm": None,
        "beam_numbers": [],
        "plan": None,
        "geometry": {},
    }


def _dose_document(item: DicomObject) -> tuple[dict[str, Any], VoxelGrid, tuple[Finding, ...]]:
    if dose_units(item) == "RELATIVE":
        relative = relative_dose_of(item)
        grid, values = relative.grid, relative.values
        more: dict[str, Any] = {}
        found: tuple[Finding, ...] = ()
    else:
        dose = dose_of(item)
        grid, values, found = dose.grid, dose.dose_gy, dose.findings
        more = {"beam_numbers": list(dose.beam_numbers), "plan": dose.plan_uid or None}
    place = np.unravel_index(int(np.argmax(values)), values.shape)
    document = {
        **_header_document(item),
        "maximum": round(float(values[place]), 4),
        "maximum_mm": [round(float(value), 3) for value in grid.patient_from_index(place)],
        "geometry": grid_document(grid),
        **more,
    }
    return document, grid, found

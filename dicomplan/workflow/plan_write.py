"""The stage after planning: DICOM files, report and ``plan.json`` of a result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dicomplan.dicom.identity import Identity
from dicomplan.dicom.write_dose import write_dose
from dicomplan.dicom.write_plan import write_plan
from dicomplan.dicom.write_structures import write_structure_set
from dicomplan.dose.engines import course_dose
from dicomplan.evaluation.scorecard import hard_constraints_met
from dicomplan.events import Finding
from dicomplan.patient.case import Structure
from dicomplan.patient.coverage import contours_from_coverage
from dicomplan.plan.matching import BODY
from dicomplan.report.page import render_report
from dicomplan.workflow.beam_geometry import beam_depths
from dicomplan.workflow.clock import Clock
from dicomplan.workflow.logs import RunLog
from dicomplan.workflow.plan_document import judged, plan_document, plan_samples
from dicomplan.workflow.plan_report import report_data
from dicomplan.workflow.plan_values import PlanRequest, Result, Setup

_DERIVED_COLORS = ((120, 120, 255), (255, 170, 60), (90, 200, 200), (200, 120, 200), (160, 160, 90), (150, 110, 70))


def write_results(
    folder: Path, request: PlanRequest, result: Result, identity: Identity, clock: Clock, log: RunLog
) -> dict[str, Any]:
    """Write DICOM files, report and plan.json into ``folder``; returns the document."""
    setup = result.setup
    with clock.stage("write"):
        samples = plan_samples(result)
        scores = judged(result, samples)
        structure_set, written = _write_structures(folder, setup, identity)
        findings = [*setup.findings, *written]
        status = "not_deliverable" if result.final is None else "accepted" if hard_constraints_met(scores) else "failed"
        if result.final is not None:
            _write_plan_and_dose(folder, result, identity, structure_set, failed=status == "failed")
        document = plan_document(
            result, status, samples, scores, findings, identify=request.identify, created=identity.created
        )
    document["timings_s"] = clock.total()
    data = report_data(result, samples, document, identity.created, identify=request.identify)
    (folder / "report.html").write_text(render_report(data), encoding="utf-8")
    (folder / "plan.json").write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    for warning in document["warnings"]:
        log.write(warning["severity"], warning["message"], stage="findings")
    log.write("info", f"status {status}", stage="end")
    return document


def _write_structures(folder: Path, setup: Setup, identity: Identity) -> tuple[Mapping[str, int], list[Finding]]:
    structures = setup.structures
    derived, findings = [], []
    for index, name in enumerate(structures.derived):
        contours = contours_from_coverage(structures.by_name[name])
        if contours:
            color = _DERIVED_COLORS[index % len(_DERIVED_COLORS)]
            derived.append(Structure(name, 0, "AVOIDANCE", contours, color))
        else:
            findings.append(Finding("info", f"{name} has no contours and is not in the RTSTRUCT"))
    external = None
    if structures.found_body is not None:
        derived.insert(0, structures.found_body)
    elif BODY in setup.resolved.roi_names:
        external = setup.study.case.structure(setup.resolved.roi_names[BODY]).number
    written = write_structure_set(
        folder / "RTSTRUCT.dcm", setup.study.source, derived, identity, external_number=external
    )
    return written.roi_numbers, [*findings, *written.findings]


def _write_plan_and_dose(
    folder: Path,
    result: Result,
    identity: Identity,
    derived_numbers: Mapping[str, int],
    *,
    failed: bool,
) -> None:
    setup, fractions = result.setup, result.setup.resolved.fractions
    assert result.final is not None
    grid = result.final.grid
    center = setup.isocenter_mm
    depths = [beam_depths(item.beam, setup.case, setup.structures.by_name[BODY]) for item in result.deliveries]
    numbers = {name: setup.study.case.structure(roi).number for name, roi in setup.resolved.roi_names.items()}
    place = folder / "failed" if failed else folder
    place.mkdir(exist_ok=True)
    present = {target.name for target in setup.resolved.targets}
    prescription = setup.resolved.template.prescription
    prescription = replace(prescription, targets=setup.resolved.targets)
    plan_uid = write_plan(
        place / "RTPLAN.dcm",
        setup.study.source,
        result.deliveries,
        setup.case.machine,
        prescription,
        identity=identity,
        structure_set_uid=identity.uid("RTSTRUCT"),
        patient_position=setup.case.patient_position,
        name=setup.resolved.template.name,
        beam_doses_gy=result.point_doses_gy,
        beam_dose_point_mm=None if None in result.point_doses_gy else center,
        ssd_mm=[one.source_surface_distance_mm for one in depths],
        target_roi_numbers={name: number for name, number in {**numbers, **derived_numbers}.items() if name in present},
        failed=failed,
    )
    overridden = bool(setup.resolved.density)
    comment = f"dose to {setup.resolved.template.dose.dose_to}"
    write_dose(
        folder / "RTDOSE.dcm",
        setup.study.source,
        result.final,
        identity=identity,
        plan_uid=plan_uid,
        failed=failed,
        density_overrides=overridden,
        comment=comment,
    )
    if result.beam_doses_gy:
        for item, dose in zip(result.deliveries, result.beam_doses_gy, strict=True):
            write_dose(
                folder / f"RTDOSE_{item.beam.number}.dcm",
                setup.study.source,
                course_dose(grid, [dose], fractions),
                identity=identity,
                plan_uid=plan_uid,
                summation="BEAM",
                beam_number=item.beam.number,
                failed=failed,
                density_overrides=overridden,
                comment=comment,
            )

"""Doses that are already there, in the structures of a study: DVH, metrics and, with a template, the scorecard."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from dicomplan import DISCLAIMER, __version__
from dicomplan.dicom import attributes as at
from dicomplan.dicom.files import DicomObject, Scan, left_alone, pydicom_silenced
from dicomplan.dicom.plan_record import plan_record
from dicomplan.dicom.read import study_of
from dicomplan.dicom.read_structures import read_structures
from dicomplan.dicom.source import InputObject
from dicomplan.dose.volume import DoseVolume
from dicomplan.errors import InputError, UsageError
from dicomplan.evaluation.indices import structure_metrics
from dicomplan.evaluation.scorecard import GoalResult, hard_constraints_met, score
from dicomplan.events import Cancel, Finding, Progress, ProgressCallback, ignore_progress
from dicomplan.metrics.dvh import DoseSamples, cumulative_dvh
from dicomplan.metrics.sampling import dose_samples
from dicomplan.patient.case import Coverage, CTVolume, PatientCase, Structure
from dicomplan.patient.coverage import geometry_findings, rasterize
from dicomplan.plan.coverages import structure_coverages
from dicomplan.plan.library import load_template
from dicomplan.plan.resolve import ResolvedTemplate, resolve
from dicomplan.plan.template import PlanTemplate
from dicomplan.workflow.documents import finding_documents, grid_document, sorted_findings
from dicomplan.workflow.inspect_structures import planes_of_contours
from dicomplan.workflow.logs import RunLog
from dicomplan.workflow.output import OutputFolder
from dicomplan.workflow.plan_document import versions
from dicomplan.workflow.privacy import private_texts
from dicomplan.workflow.study_doses import ChosenDoses, chosen_doses, total_dose
from dicomplan.workflow.study_request import StudyRequest, chosen_ct

DOCUMENT = "evaluation.json"
"""Name of the document in the output folder."""
_OUTSIDE_SHARE = 0.01  # of a structure, outside of the dose grid: more is worth a warning


@dataclass(frozen=True)
class EvaluateRequest(StudyRequest):
    """What to evaluate: ``doses`` (files; none: those of the study) in the structures of ``study``.

    ``template`` (shipped name or file) adds its derived structures and goals. ``output`` is a folder (new or empty), or
    None. The others as for planning (:class:`dicomplan.workflow.plan.PlanRequest`).
    """

    doses: tuple[Path, ...] = ()
    template: str | None = None
    output: Path | None = None
    overwrite: bool = False
    identify: bool = False
    bridge: bool = False


@dataclass(frozen=True)
class EvaluateOutcome:
    """Exit code (5 where a hard constraint is broken), the document, its findings, and the folder if one was asked for."""

    exit_code: int
    document: dict[str, Any]
    findings: tuple[Finding, ...]
    output: Path | None


@dataclass(frozen=True, eq=False)
class _Patient:
    """The structures on a grid (the CT's, else the contours' planes), a header for names, and the objects read."""

    case: PatientCase
    header: Dataset
    inputs: tuple[InputObject, ...]


@dataclass(frozen=True, eq=False)
class _Measured:
    """The dose in one structure; ``roi`` is the ROI that a name of the template stands for, None for the study's own."""

    roi: str | None
    volume_cc: float
    samples: DoseSamples


@pydicom_silenced()
def run_evaluate(
    request: EvaluateRequest, progress: ProgressCallback = ignore_progress, cancel: Cancel | None = None
) -> EvaluateOutcome:
    """Metrics and DVH of every structure, and the template's goals on the same dose.

    Writes ``evaluation.json``, ``dvh.csv`` and ``log.txt`` if an output folder is asked for. A study without CT is
    evaluated on the planes of its contours, with a warning. Raises UsageError (2), InputError (3), TemplateError (4).
    """
    cancel = cancel or Cancel()
    template = None if request.template is None else load_template(request.template)
    inputs = [*request.study, *request.doses]
    destination = None
    if request.output is not None:
        destination = OutputFolder(request.output, overwrite=request.overwrite, inputs=inputs)
    elif request.overwrite:
        raise UsageError("--overwrite goes with --output")
    with destination or nullcontext() as folder:
        with nullcontext() if folder is None else RunLog(folder / "log.txt", identify=request.identify) as log:
            progress = progress if log is None else log.progress(progress)
            document, findings = _evaluate(request, template, progress, cancel, log)
        if folder is not None:
            _write(folder, document, findings, identify=request.identify)
    broken = any(goal["kind"] == "hard" and not goal["met"] for goal in document["goals"])
    return EvaluateOutcome(5 if broken else 0, document, findings, None if destination is None else destination.target)


def _evaluate(
    request: EvaluateRequest,
    template: PlanTemplate | None,
    progress: ProgressCallback,
    cancel: Cancel,
    log: RunLog | None,
) -> tuple[dict[str, Any], tuple[Finding, ...]]:
    progress(Progress("read"))
    scan = request.sound_scan(progress)
    chosen = chosen_doses(scan, request.doses)
    patient = _patient(scan, request, chosen, progress)
    if log is not None:
        log.hide(*private_texts(patient.header, [*request.study, *request.doses]))
    for item in chosen.items:
        _check_patient(item, patient.header)
    dose, dose_findings = total_dose(chosen, patient.case.ct.grid)
    findings = [*patient.case.findings, *chosen.findings, *dose_findings]
    cancel.check()
    measured = _measured(patient.case, dose, findings, progress, cancel)
    scores: tuple[GoalResult, ...] = ()
    resolved = None
    if template is not None:
        resolved = resolve(template, patient.case.structures, file=request.template)
        asked = _asked(patient.case, resolved, dose, findings, progress, cancel)
        final = {name: one.samples for name, one in asked.items()}
        scores = score((*resolved.constraints, *resolved.goals), {}, final)
        measured |= {name: one for name, one in asked.items() if name not in measured}
    findings += _outside(measured)
    ordered = sorted_findings(findings)
    if log is not None:
        for finding in ordered:
            log.write(finding.severity, finding.message, stage="findings")
    document = {
        "schema": 1,
        "dicomplan": __version__,
        "disclaimer": DISCLAIMER,
        "inputs": [asdict(one) for one in patient.inputs]
        + [asdict(InputObject(item.uid, item.sha256, "RTDOSE")) for item in chosen.items],
        "dose": _dose_document(chosen, dose),
        "template": None if template is None else template.name,
        "status": None if resolved is None else "accepted" if hard_constraints_met(scores) else "failed",
        "structures": {name: _structure_document(one) for name, one in measured.items()},
        "goals": [item.as_dict() | {"at_most": item.at_most} for item in scores],
        "findings": finding_documents(ordered),
        "versions": versions(),
    }
    return document, ordered


def _patient(scan: Scan, request: EvaluateRequest, chosen: ChosenDoses, progress: ProgressCallback) -> _Patient:
    sets = scan.of_modality("RTSTRUCT")
    if not sets:
        raise InputError(
            "no RTSTRUCT found: a dose is evaluated in the structures of a structure set", tag=at.tag_name("Modality")
        )
    if request.structure_set is None:
        request = replace(request, structure_set=_set_of_doses(scan, chosen))
    alone = left_alone(scan, ("CT", "RTSTRUCT", "RTDOSE", "RTPLAN"))
    if not scan.of_modality("CT"):
        return _patient_without_ct(sets, request, (*scan.findings, *alone))
    ct = chosen_ct(scan, request)
    if ct.geometry is None:
        return _patient_without_ct(sets, request, (*scan.findings, *alone, *ct.findings))
    own = [finding for finding in ct.findings if finding not in ct.geometry.findings]
    noted = [*scan.findings, *alone, *own]
    study = study_of(ct.geometry, ct.structure_set, noted, bridge=request.bridge, progress=progress)
    return _Patient(study.case, study.source.attributes, study.source.inputs)


def _set_of_doses(scan: Scan, chosen: ChosenDoses) -> str | None:
    """The structure set of the study that the doses, or their plans, were made for; None where they do not agree on one."""
    plans = {item.uid: item for item in scan.of_modality("RTPLAN")}
    sets = {item.uid for item in scan.of_modality("RTSTRUCT")}
    named = set()
    for dose in chosen.doses:
        named.add(dose.structure_set_uid)
        if dose.plan_uid in plans:
            named.add(plan_record(plans[dose.plan_uid]).structure_set_uid)
    found = named & sets
    return found.pop() if len(found) == 1 else None


def _patient_without_ct(sets: Sequence[DicomObject], wanted: StudyRequest, findings: tuple[Finding, ...]) -> _Patient:
    """Structures on the planes that their contours lie on."""
    if wanted.series is not None:
        raise UsageError(f"no CT series is '{wanted.series}'")
    if wanted.structure_set is not None:
        names = ("SOPInstanceUID", "StructureSetLabel")
        sets = [
            item
            for item in sets
            if wanted.structure_set in (Path(item.file).name, *(at.text(item.header, name) for name in names))
        ]
        if not sets:
            raise UsageError(f"no structure set is '{wanted.structure_set}'", hint="give its UID, label or file name")
    if len(sets) > 1:
        listed = "; ".join(f"{item.uid} in {item.file}" for item in sets)
        raise InputError(f"{len(sets)} structure sets could be meant: {listed}", hint="choose one with --structure-set")
    (item,) = sets
    structures, _, found = read_structures(item.header, file=item.file, frame_of_reference_uid="")
    grid = planes_of_contours(structures)
    if grid is None:
        raise InputError("no CT, and no contours on two planes: nothing to evaluate in", file=item.file)
    frames = {
        at.text(frame, "FrameOfReferenceUID") for frame in at.items(item.header, "ReferencedFrameOfReferenceSequence")
    }
    frame = at.text(item.header, "FrameOfReferenceUID") or (frames.pop() if len(frames) == 1 else "")
    grid = replace(grid, frame_of_reference_uid=frame)
    warning = Finding("warning", "no CT: contours stand for slabs as thick as the distance of their planes")
    nothing = CTVolume(grid, np.broadcast_to(np.float32(-1000.0), grid.shape))
    case = PatientCase(nothing, structures, wanted.patient_position or "", (*findings, *found, warning))
    return _Patient(case, item.header, (InputObject(item.uid, item.sha256, "RTSTRUCT"),))


def _check_patient(item: DicomObject, header: Dataset) -> None:
    with at.naming(item.file):
        keyword = "PatientID" if all(at.text(one, "PatientID") for one in (item.header, header)) else "PatientName"
        if at.text(item.header, keyword) != at.text(header, keyword):
            raise InputError("the dose is of another patient than the structures", tag=at.tag_name(keyword))


def _measured(
    case: PatientCase, dose: DoseVolume, findings: list[Finding], progress: ProgressCallback, cancel: Cancel
) -> dict[str, _Measured]:
    """The dose in every ROI with contours; ROIs that cannot be used are left out with a warning."""
    measured: dict[str, _Measured] = {}
    drawn = [structure for structure in case.structures if structure.contours]
    for index, structure in enumerate(drawn):
        cancel.check()
        progress(Progress("evaluate", structure.name, index / len(drawn)))
        coverage = _coverage(structure, case, findings)
        if coverage is None:
            continue
        name = structure.name if structure.name not in measured else f"{structure.name} ({structure.number})"
        measured[name] = _Measured(None, coverage.volume_cc, dose_samples(coverage, dose.dose_gy, dose.grid))
    return measured


def _coverage(structure: Structure, case: PatientCase, findings: list[Finding]) -> Coverage | None:
    try:
        findings += geometry_findings(structure, case.ct.grid)
        return rasterize(structure, case.ct.grid)
    except InputError as error:
        findings.append(Finding("warning", f"{error.message}: it is left out", tag=error.tag))
        return None


def _asked(
    case: PatientCase,
    resolved: ResolvedTemplate,
    dose: DoseVolume,
    findings: list[Finding],
    progress: ProgressCallback,
    cancel: Cancel,
) -> dict[str, _Measured]:
    """The dose in the structures of the template, by canonical name, derived ones included."""
    structures = structure_coverages(case, resolved, progress, cancel)
    findings += [*resolved.findings, *structures.findings]
    asked = {}
    for name, coverage in structures.by_name.items():
        cancel.check()
        samples = dose_samples(coverage, dose.dose_gy, dose.grid)
        asked[name] = _Measured(resolved.roi_names.get(name), coverage.volume_cc, samples)
    return asked


def _outside(measured: Mapping[str, _Measured]) -> Iterator[Finding]:
    for name, one in measured.items():
        if one.roi is None and one.samples.outside_cc > _OUTSIDE_SHARE * one.volume_cc:
            share = 100.0 * one.samples.outside_cc / one.volume_cc
            yield Finding("warning", f"{share:.0f} % of {name} lies outside of the dose grid and counts as 0 Gy")


def _dose_document(chosen: ChosenDoses, dose: DoseVolume) -> dict[str, Any]:
    place = np.unravel_index(int(np.argmax(dose.dose_gy)), dose.grid.shape)
    return {
        "summed": len(chosen.doses),
        "summation_types": [one.summation_type for one in chosen.doses],
        "geometry": grid_document(dose.grid),
        "max_dose_gy": float(dose.dose_gy[place]),
        "max_dose_position_mm": [round(float(value), 3) for value in dose.grid.patient_from_index(place)],
    }


def _structure_document(one: _Measured) -> dict[str, Any]:
    document: dict[str, Any] = {"volume_cc": one.volume_cc}
    if one.roi is not None:
        document["roi"] = one.roi
    if one.samples.volume_cc <= 0:
        return document
    edges, fraction = cumulative_dvh(one.samples)
    return {
        **document,
        **structure_metrics(one.samples),
        "outside_dose_grid_cc": one.samples.outside_cc,
        "dvh": {
            "dose_gy": [round(float(value), 6) for value in edges],
            "volume_fraction": [round(float(value), 8) for value in fraction],
        },
    }


def _write(folder: Path, document: Mapping[str, Any], findings: Sequence[Finding], *, identify: bool) -> None:
    """The document (without names of files unless asked to identify) and the DVHs as a table."""
    stored = {**document, "findings": finding_documents(findings, files=identify)}
    (folder / DOCUMENT).write_text(json.dumps(stored, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with (folder / "dvh.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("structure", "dose_gy", "volume_fraction", "volume_cc"))
        for name, one in document["structures"].items():
            if "dvh" in one:
                for dose_gy, fraction in zip(one["dvh"]["dose_gy"], one["dvh"]["volume_fraction"], strict=True):
                    writer.writerow((name, dose_gy, fraction, round(fraction * one["volume_cc"], 6)))

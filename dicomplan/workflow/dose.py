"""The dose of a plan that is already there: RTPLAN and CT in, RTDOSE out. The stages in order."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dicomplan import DISCLAIMER, __version__
from dicomplan.beams.delivery import Segment, direction
from dicomplan.dicom import attributes as at
from dicomplan.dicom.files import DicomObject, Scan, left_alone, pydicom_silenced, read_object
from dicomplan.dicom.identity import Identity
from dicomplan.dicom.plan_record import PlanRecord, plan_record
from dicomplan.dicom.planned_beams import PlannedBeam, planned_beams
from dicomplan.dicom.read import study_of
from dicomplan.dicom.source import InputObject, Study
from dicomplan.dicom.write_dose import write_dose
from dicomplan.dicom.write_plan import FAILED
from dicomplan.dose.dose_to_water import DoseTo
from dicomplan.dose.engines import FIELD_MARGIN_MM, DoseEngine, PencilBeamEngine, collapsed_cone_engine
from dicomplan.dose.fluence import delivered_plane, field_range_mm, plane_axes
from dicomplan.dose.pencil_beam import medium
from dicomplan.dose.pencil_kernel import pencil_kernel
from dicomplan.dose.volume import DoseVolume
from dicomplan.errors import InputError, MachineError, UsageError
from dicomplan.events import Cancel, Finding, Progress, ProgressCallback, ignore_progress
from dicomplan.geometry.resample import box_average, trilinear
from dicomplan.machine.library import load_machine, machine_names
from dicomplan.machine.model import MachineModel
from dicomplan.patient.coverage import coverage_on_grid
from dicomplan.patient.density import DensityVolume
from dicomplan.patient.dose_grid import dose_grid
from dicomplan.workflow.clock import creation_time
from dicomplan.workflow.documents import finding_documents, sorted_findings
from dicomplan.workflow.logs import RunLog
from dicomplan.workflow.memory import refuse_too_large
from dicomplan.workflow.output import OutputFolder
from dicomplan.workflow.patient_model import PatientModel, patient_model
from dicomplan.workflow.plan_document import versions
from dicomplan.workflow.privacy import private_texts
from dicomplan.workflow.study_request import StudyRequest, chosen_ct

EngineName = Literal["collapsed_cone", "pencil_beam"]
DEFAULT_GRID_MM = 3.0
"""Largest step of the dose grid where none is asked for (INTERFACE.md)."""
_OUTSIDE = Finding("warning", "an isocentre lies outside of the dose grid: beams have no dose there")


@dataclass(frozen=True)
class DoseRequest(StudyRequest):
    """What to calculate: the plan of ``study`` paths, into the folder ``output`` (new or empty).

    ``dose_to``: medium or water (None: what the engine computes by itself, the collapsed cone medium, the pencil beam water).
    ``plan``: a file, or UID, label or file name of a plan of the study (None: its only one). ``machine``: shipped name or
    machine file (None: the one that the plan names). ``grid_mm``: largest step of the dose grid; None the CT's voxels.
    The others as for planning (:class:`dicomplan.workflow.plan.PlanRequest`).
    """

    output: Path
    plan: str | None = None
    machine: str | None = None
    engine: EngineName = "collapsed_cone"
    grid_mm: float | None = DEFAULT_GRID_MM
    dose_to: DoseTo | None = None
    overwrite: bool = False
    identify: bool = False
    bridge: bool = False


def _dose_to(request: DoseRequest) -> DoseTo:
    if request.engine == "pencil_beam" and request.dose_to == "medium":
        raise UsageError("the pencil beam's dose is to water", hint="use --engine collapsed_cone for dose to medium")
    return request.dose_to or ("medium" if request.engine == "collapsed_cone" else "water")


@dataclass(frozen=True)
class DoseOutcome:
    """The output folder, the ``dose.json`` document, and all findings (which may name files)."""

    output: Path
    document: Mapping[str, Any]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Inputs:
    study: Study
    plan: DicomObject
    record: PlanRecord
    machine: MachineModel
    beams: tuple[PlannedBeam, ...]
    fractions: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class _Doses:
    """The course's dose, and of each beam the dose of one fraction at its isocentre (None outside of the grid)."""

    total: DoseVolume
    at_isocenter_gy: tuple[float | None, ...]


@pydicom_silenced()
def run_dose(
    request: DoseRequest, progress: ProgressCallback = ignore_progress, cancel: Cancel | None = None
) -> DoseOutcome:
    """Calculate the dose of a plan from its control points into ``RTDOSE.dcm`` and ``dose.json``.

    Raises UsageError (2), InputError (3: also several plans, and what is not calculated: arcs, wedges, electrons...),
    MachineError (4: no machine of that name, or the plan is of another), InsufficientMemoryError (8).
    """
    cancel = cancel or Cancel()
    dose_to = _dose_to(request)
    given = [Path(request.plan)] if request.plan is not None and Path(request.plan).is_file() else []
    machine = None if request.machine is None else load_machine(request.machine)
    destination = OutputFolder(request.output, overwrite=request.overwrite, inputs=[*request.study, *given])
    began = time.perf_counter()
    seconds: dict[str, float] = {}
    with destination as folder, RunLog(folder / "log.txt", identify=request.identify) as log:
        progress = log.progress(progress)

        @contextmanager
        def stage(name: str) -> Iterator[None]:
            start = time.perf_counter()
            progress(Progress(name))
            yield
            seconds[name] = round(time.perf_counter() - start, 3)

        with stage("read"):
            inputs = _read(request, machine, progress)
            log.hide(*private_texts(inputs.study.source.attributes, [*request.study, *given]))
        with stage("masks"):
            case = inputs.study.case
            model = patient_model(case, progress, cancel)
            engine = _engine(request, inputs, model)
        with stage("dose"):
            doses = _doses(engine, inputs, progress, cancel)
        with stage("write"):
            identity = Identity(_entropy(inputs, request), creation_time())
            write_dose(
                folder / "RTDOSE.dcm",
                inputs.study.source,
                doses.total,
                identity=identity,
                plan_uid=inputs.record.sop_instance_uid,
                failed=inputs.record.label.startswith(FAILED),
                comment=f"dose to {dose_to}",
            )
            outside = (_OUTSIDE,) if None in doses.at_isocenter_gy else ()
            findings = sorted_findings((*case.findings, *inputs.findings, *model.findings, *outside))
            document = _document(request, inputs, model, doses, findings, identity)
        document["timings_s"] = {**seconds, "total": round(time.perf_counter() - began, 3)}
        (folder / "dose.json").write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        for finding in findings:
            log.write(finding.severity, finding.message, stage="findings")
    return DoseOutcome(destination.target, document, findings)


def _read(request: DoseRequest, machine: MachineModel | None, progress: ProgressCallback) -> _Inputs:
    scan = request.sound_scan(progress)
    plan = _plan(scan, request.plan)
    record = plan_record(plan)
    if request.structure_set is None and any(
        item.uid == record.structure_set_uid for item in scan.of_modality("RTSTRUCT")
    ):
        # of several structure sets the plan's own is meant
        request = replace(request, structure_set=record.structure_set_uid)
    # what no machine could change is said first
    if record.obstacles:
        planned_beams(plan, record, machine or load_machine(machine_names()[0]))
    machine = machine or load_machine(_machine_name(plan, record))
    beams, beam_findings = planned_beams(plan, record, machine)
    fractions = record.fraction_groups[0].fractions
    if fractions is None or fractions < 1:
        found = "is missing" if fractions is None else f"found {fractions}, expected 1 or more"
        raise InputError(found, file=plan.file, tag=at.tag_name("NumberOfFractionsPlanned"))
    chosen = chosen_ct(scan, request)
    if chosen.geometry is None:
        raise InputError("no CT series to calculate on: found no CT slices", tag=at.tag_name("Modality"))
    if chosen.geometry.refusals:
        raise chosen.geometry.refusals[0]
    own = [finding for finding in chosen.findings if finding not in chosen.geometry.findings]
    noted = [*scan.findings, *left_alone(scan, ("CT", "RTSTRUCT", "RTPLAN")), *own]
    study = study_of(chosen.geometry, chosen.structure_set, noted, bridge=request.bridge, progress=progress)
    findings = _check_same_patient(plan, record, study)
    return _Inputs(study, plan, record, machine, beams, fractions, (*beam_findings, *findings))


def _plan(scan: Scan, wanted: str | None) -> DicomObject:
    """The plan that is meant: by file, UID, label or file name, else the only one. Raises InputError, UsageError."""
    if wanted is not None and Path(wanted).is_file():
        return read_object(Path(wanted))[0]
    plans = scan.of_modality("RTPLAN")
    if wanted is not None:
        plans = tuple(item for item in plans if wanted in (item.uid, _label(item), Path(item.file).name))
        if not plans:
            raise UsageError(f"no plan is '{wanted}'", hint="give its file, UID or label")
    if not plans:
        raise InputError(
            "no RTPLAN found: there is no plan to calculate", tag=at.tag_name("Modality"), hint="name one with --plan"
        )
    if len(plans) > 1:
        listed = "; ".join(f"{item.uid} ({_label(item) or 'no label'}) in {item.file}" for item in plans)
        raise InputError(f"{len(plans)} plans could be meant: {listed}", hint="choose one with --plan")
    return plans[0]


def _label(item: DicomObject) -> str:
    with at.naming(item.file):
        return at.text(item.header, "RTPlanLabel")


def _machine_name(plan: DicomObject, record: PlanRecord) -> str:
    """The shipped machine that all beams of the plan name. Raises MachineError, naming --machine."""
    treating = set(record.treatment_beam_numbers)
    names = sorted({beam.machine for beam in record.beams if beam.number in treating})
    hint = f"choose one with --machine: {', '.join(machine_names())}, or a machine file"
    if len(names) > 1:
        raise MachineError(
            f"the plan's beams name {len(names)} machines: {', '.join(names)}", file=plan.file, hint=hint
        )
    if not names or names[0] not in machine_names():
        stated = f"machine '{names[0]}', which is not a shipped one" if names and names[0] else "no machine"
        raise MachineError(f"the plan names {stated}", file=plan.file, hint=hint)
    return names[0]


def _check_same_patient(plan: DicomObject, record: PlanRecord, study: Study) -> tuple[Finding, ...]:
    """Patient, frame of reference and patient position of plan and CT agree. Raises InputError."""
    file, attributes = plan.file, study.source.attributes
    with at.naming(file):
        keyword = "PatientID" if all(at.text(one, "PatientID") for one in (plan.header, attributes)) else "PatientName"
        if at.text(plan.header, keyword) != at.text(attributes, keyword):
            raise InputError("the plan is of another patient than the CT", tag=at.tag_name(keyword))
        frame, ours = record.frame_of_reference_uid, study.source.frame_of_reference_uid
        findings = []
        if frame and frame != ours:
            raise InputError(
                f"found frame of reference {frame}, expected the CT's, {ours}", tag=at.tag_name("FrameOfReferenceUID")
            )
        if not frame:
            message = "the plan names no frame of reference: it is taken as the CT's"
            findings.append(Finding("warning", message, file=file, tag=at.tag_name("FrameOfReferenceUID")))
        position, expected = record.patient_position, study.case.patient_position
        if position and position != expected:
            raise InputError(
                f"found {position}, the CT is {expected}: the plan is for another patient position",
                tag=at.tag_name("PatientPosition"),
            )
        if not position:
            message = f"the plan states no patient position: it is taken as the CT's, {expected}"
            findings.append(Finding("warning", message, file=file, tag=at.tag_name("PatientPosition")))
        if at.text(plan.header, "StudyInstanceUID") != study.source.study_instance_uid:
            message = "the plan has another study identifier than the CT, but the same patient"
            findings.append(Finding("warning", message, file=file, tag=at.tag_name("StudyInstanceUID")))
    return tuple(findings)


def _engine(request: DoseRequest, inputs: _Inputs, model: PatientModel) -> DoseEngine:
    case = inputs.study.case
    grid = dose_grid(case.ct.grid, model.body, request.grid_mm)
    # the pencil beam keeps what each beam sees, the collapsed cone computes one after the other
    kept = len(inputs.beams) if request.engine == "pencil_beam" else 1
    refuse_too_large(grid, model.body, kept, request.grid_mm)
    body = coverage_on_grid(model.body, grid)
    fine = model.density
    coarse = DensityVolume(grid, box_average(fine.mass_g_cm3, fine.grid, grid), fine.beyond_table)
    if request.engine == "collapsed_cone":
        return collapsed_cone_engine(inputs.machine, coarse, body, case.patient_position, _dose_to(request))
    kernel = pencil_kernel(inputs.machine.beam)
    inside = np.flatnonzero(body.ravel() > 0)
    return PencilBeamEngine(inputs.machine, kernel, medium(coarse), inside, case.patient_position)


def _doses(engine: DoseEngine, inputs: _Inputs, progress: ProgressCallback, cancel: Cancel) -> _Doses:
    """Beam after beam, so that only one dose beside the sum is held."""
    total: NDArray[np.float64] = np.zeros(engine.grid.shape, dtype=np.float64)
    points: list[float | None] = []
    axes = _plane_axes(inputs)
    for index, planned in enumerate(inputs.beams):
        cancel.check()
        beam = planned.delivery.beam
        progress(Progress("dose", f"beam {beam.number}", index / len(inputs.beams)))
        plane = delivered_plane(planned.delivery.segments, inputs.machine, *axes[direction(beam)])
        dose = engine.dose_gy_per_fraction(beam, plane)
        total += dose
        points.append(_at(dose, engine, beam.isocenter_mm))
    return _Doses(DoseVolume(engine.grid, (total * inputs.fractions).astype(np.float32)), tuple(points))


def _plane_axes(inputs: _Inputs) -> dict[tuple[float, ...], tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Pixel centres of the fluence planes, the same for all beams of one direction.

    What leaks is followed over the field of all of them: so carriage groups add up to the field that they share.
    """
    together: dict[tuple[float, ...], list[Segment]] = {}
    for planned in inputs.beams:
        together.setdefault(direction(planned.delivery.beam), []).extend(planned.delivery.segments)
    return {
        key: plane_axes(*field_range_mm(segments, inputs.machine, FIELD_MARGIN_MM))
        for key, segments in together.items()
    }


def _at(dose: NDArray[np.float32], engine: DoseEngine, point_mm: tuple[float, float, float]) -> float | None:
    index = engine.grid.index_from_patient(point_mm)
    if ((index < -0.5) | (index > np.array(engine.grid.shape) - 0.5)).any():
        return None
    return float(trilinear(dose, engine.grid, engine.grid.local_from_patient(point_mm)))


def _document(
    request: DoseRequest,
    inputs: _Inputs,
    model: PatientModel,
    doses: _Doses,
    findings: Sequence[Finding],
    identity: Identity,
) -> dict[str, Any]:
    """The document without its timings; it names neither patient, plan nor input files unless asked to identify."""
    grid, values = doses.total.grid, doses.total.dose_gy
    place = np.unravel_index(int(np.argmax(values)), values.shape)
    record = inputs.record
    plan: dict[str, Any] = {"sop_instance_uid": record.sop_instance_uid, "approval_status": record.approval_status}
    if request.identify:
        plan |= {"label": record.label, "file": inputs.plan.file}
    objects = [*inputs.study.source.inputs, InputObject(inputs.plan.uid, inputs.plan.sha256, "RTPLAN")]
    return {
        "schema": 1,
        "dicomplan": __version__,
        "disclaimer": DISCLAIMER,
        "created": identity.created.isoformat(),
        "inputs": [asdict(item) for item in objects],
        "plan": plan,
        "machine": inputs.machine.name,
        "engine": request.engine,
        "dose_to": _dose_to(request),
        "patient_position": inputs.study.case.patient_position,
        "fractions": inputs.fractions,
        "grid": {"shape": list(grid.shape), "spacing_mm": list(grid.spacing_mm)},
        "body": {
            "found_on_ct": model.found_body,
            "volume_cc": model.body.volume_cc,
            "included": sorted(model.included),
        },
        "beams": [
            {
                "number": item.delivery.beam.number,
                "name": item.delivery.beam.name,
                "technique": item.technique,
                "gantry_angle_deg": item.delivery.beam.gantry_angle_deg,
                "couch_angle_deg": item.delivery.beam.couch_angle_deg,
                "collimator_angle_deg": item.delivery.beam.collimator_angle_deg,
                "isocenter_mm": list(item.delivery.beam.isocenter_mm),
                "control_points": item.control_points,
                "meterset_mu": item.delivery.meterset_mu,
                "isocenter_dose_gy": point,
                "stated_dose_gy": item.stated_dose_gy,
            }
            for item, point in zip(inputs.beams, doses.at_isocenter_gy, strict=True)
        ],
        "total_mu": sum(item.delivery.meterset_mu for item in inputs.beams),
        "max_dose_gy": float(values[place]),
        "max_dose_position_mm": [round(float(value), 3) for value in grid.patient_from_index(place)],
        "warnings": _warnings(findings, identify=request.identify),
        "versions": versions(),
    }


def _warnings(findings: Sequence[Finding], *, identify: bool) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in document.items() if value is not None}
        for document in finding_documents(findings, files=identify)
    ]


def _entropy(inputs: _Inputs, request: DoseRequest) -> str:
    """What identifiers are made of: inputs, machine, engine, grid and version."""
    used = [f"{item.sop_instance_uid} {item.sha256}" for item in inputs.study.source.inputs]
    plan = f"{inputs.plan.uid} {inputs.plan.sha256}"
    options = [request.engine, _dose_to(request), request.grid_mm, request.patient_position]
    return json.dumps(["dose", used, plan, inputs.machine.source, options, __version__])

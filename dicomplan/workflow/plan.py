"""The main job: CT and RTSTRUCT in; RTPLAN, RTDOSE, RTSTRUCT, report and plan.json out. The stages in order."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomplan import __version__
from dicomplan.beams.arrangement import arrange, covered_points_mm, isocenter_mm
from dicomplan.beams.beamlets import BeamletMap, beamlets
from dicomplan.beams.delivery import Beam, BeamDelivery
from dicomplan.beams.limits import violations
from dicomplan.dicom.files import MAX_STUDY_BYTES
from dicomplan.dicom.identity import Identity
from dicomplan.dicom.read import read_plan, read_study
from dicomplan.dicom.source import Study
from dicomplan.dicom.write_dose import write_dose
from dicomplan.dicom.write_plan import write_plan
from dicomplan.dicom.write_structures import write_structure_set
from dicomplan.dose.engines import (
    DoseEngine,
    PencilBeamEngine,
    beam_doses,
    collapsed_cone_engine,
    course_dose,
    delivery_plane,
    direction_planes,
)
from dicomplan.dose.fluence import FluencePlane
from dicomplan.dose.influence import FactorisedInfluence, factorised_influence
from dicomplan.dose.pencil_beam import (
    BeamSamples,
    Medium,
    beam_samples,
    blurred_sigma_mm,
    medium,
    pencil_beam_dose,
    photons_cm2_per_mu,
)
from dicomplan.dose.pencil_kernel import PencilKernel, pencil_kernel
from dicomplan.dose.volume import DoseVolume
from dicomplan.errors import NotDeliverableError, TemplateError
from dicomplan.evaluation.scorecard import hard_constraints_met
from dicomplan.events import Cancel, Finding, Progress, ProgressCallback, ignore_progress
from dicomplan.geometry.resample import box_average
from dicomplan.machine.library import load_machine
from dicomplan.machine.model import MachineModel
from dicomplan.patient.case import Structure
from dicomplan.patient.coverage import contours_from_coverage, coverage_on_grid
from dicomplan.patient.density import DensityVolume, air_outside, apply_overrides, densities
from dicomplan.patient.dose_grid import dose_grid
from dicomplan.plan.coverages import StructureCoverages, structure_coverages
from dicomplan.plan.derive import derive
from dicomplan.plan.library import load_template
from dicomplan.plan.matching import BODY
from dicomplan.plan.resolve import ResolvedTemplate, resolve
from dicomplan.plan.template import PlanTemplate
from dicomplan.planning.anchoring import AnchoredDose
from dicomplan.planning.case import PlanningCase
from dicomplan.planning.imrt import IdealPlan, optimise_fluence
from dicomplan.planning.normalizing import NormalizationResult, normalization, scaled_deliveries
from dicomplan.planning.segments import DeliveredPlan, PointDose, deliver
from dicomplan.planning.voxels import OptimizationVoxels, optimization_voxels
from dicomplan.report.page import render_report
from dicomplan.workflow.beam_geometry import beam_depths
from dicomplan.workflow.logs import RunLog
from dicomplan.workflow.memory import refuse_too_large
from dicomplan.workflow.output import OutputFolder
from dicomplan.workflow.plan_document import judged, plan_document, plan_samples
from dicomplan.workflow.plan_report import report_data

Float32Array = NDArray[np.float32]

_EXIT_CODES = {"accepted": 0, "failed": 5, "not_deliverable": 6}
_DERIVED_COLORS = ((120, 120, 255), (255, 170, 60), (90, 200, 200), (200, 120, 200), (160, 160, 90), (150, 110, 70))


@dataclass(frozen=True)
class PlanRequest:
    """What to plan: ``study`` paths, ``template`` (shipped name or file), ``output`` folder (new or empty).

    ``beam_doses``: also one RTDOSE for each beam. ``overwrite``: an earlier result of dicomplan may be replaced.
    ``identify``: log, plan.json and report may name the patient and the input files. ``structure_set``, ``series`` and
    ``patient_position`` choose or state what the study leaves open. ``repair``: single missing CT slices are
    interpolated; ``bridge``: slices that a ROI leaves out between its contours are filled; ``max_study_size`` in bytes.
    See :func:`dicomplan.dicom.read.read_study`.
    """

    study: tuple[Path, ...]
    template: str
    output: Path
    beam_doses: bool = False
    overwrite: bool = False
    identify: bool = False
    structure_set: str | None = None
    series: str | None = None
    patient_position: str | None = None
    repair: bool = False
    bridge: bool = False
    max_study_size: int = MAX_STUDY_BYTES


@dataclass(frozen=True)
class PlanOutcome:
    """How it ended: exit code (0, 5 or 6), the output folder, the ``plan.json`` document, the report's place."""

    exit_code: int
    output: Path
    document: Mapping[str, Any]
    report: Path


@dataclass(frozen=True)
class Setup:
    """What the stages before optimisation made."""

    study: Study
    resolved: ResolvedTemplate
    structures: StructureCoverages
    case: PlanningCase
    kernel: PencilKernel
    around: Medium
    engine: DoseEngine
    fast: PencilBeamEngine | None
    maps: tuple[BeamletMap, ...]
    isocenter_mm: tuple[float, float, float]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Result:
    """What planning made; ``final`` is None where the plan cannot be delivered.

    In the order of ``deliveries``: ``point_doses_gy``, the dose of one fraction at the isocentre (None outside the dose
    grid), and ``beam_doses_gy`` of one fraction on the dose grid, only where they were asked for.
    """

    setup: Setup
    voxels: OptimizationVoxels
    influence: FactorisedInfluence
    ideal: IdealPlan
    delivered: DeliveredPlan | None
    normalization: NormalizationResult | None
    deliveries: tuple[BeamDelivery, ...]
    point_doses_gy: tuple[float | None, ...]
    beam_doses_gy: tuple[Float32Array, ...]
    final: DoseVolume | None
    violations: tuple[str, ...]


@dataclass
class _Clock:
    """Seconds of each stage; it also tells progress which stage begins."""

    progress: ProgressCallback
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self.progress(Progress(name))
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def total(self) -> dict[str, float]:
        return {**{key: round(value, 3) for key, value in self.seconds.items()}, "total": self._total()}

    def _total(self) -> float:
        return round(time.perf_counter() - self.began, 3)


def run_plan(
    request: PlanRequest, progress: ProgressCallback = ignore_progress, cancel: Cancel | None = None
) -> PlanOutcome:
    """Plan a study into ``request.output``, which is there as a whole or not at all.

    Raises UsageError (2), InputError (3), TemplateError or MachineError (4), InsufficientMemoryError (8) before anything
    is written; a plan that fails (5) or cannot be delivered (6) is an outcome, with its files.
    """
    cancel = cancel or Cancel()
    template = load_template(request.template)
    machine = load_machine(_machine_place(template, request.template))
    destination = OutputFolder(request.output, overwrite=request.overwrite, inputs=request.study)
    created = creation_time()
    with destination as folder, RunLog(folder / "log.txt", identify=request.identify) as log:
        progress = log.progress(progress)
        clock = _Clock(progress)
        with clock.stage("read"):
            study = read_study(
                request.study,
                structure_set=request.structure_set,
                series=request.series,
                patient_position=request.patient_position,
                repair=request.repair,
                bridge=request.bridge,
                max_study_size=request.max_study_size,
                progress=progress,
            )
        log.hide(*_private_texts(study, request))
        setup = prepare(study, template, machine, request.template, clock, cancel)
        identity = Identity(_entropy(study, template, machine), created)
        result = make_plan(setup, folder, identity, clock, cancel, want_beam_doses=request.beam_doses)
        document = write_results(folder, request, result, identity, clock, log)
    report = destination.target / "report.html"
    return PlanOutcome(_EXIT_CODES[document["status"]], destination.target, document, report)


def creation_time() -> datetime:
    """Now, or the time that SOURCE_DATE_EPOCH states (seconds since 1970), UTC: the one clock of all outputs."""
    stated = os.environ.get("SOURCE_DATE_EPOCH", "")
    if stated.isdecimal():
        return datetime.fromtimestamp(int(stated), UTC).replace(tzinfo=None)
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def prepare(
    study: Study, template: PlanTemplate, machine: MachineModel, template_name: str, clock: _Clock, cancel: Cancel
) -> Setup:
    """Everything before optimisation: structures, densities, beams and what they see."""
    case = study.case
    with clock.stage("masks"):
        resolved = resolve(template, case.structures, file=template_name)
        structures = structure_coverages(case, resolved, clock.progress, cancel)
        body = structures.by_name[BODY]
        grid = dose_grid(case.ct.grid, body, template.dose.grid_mm)
        refuse_too_large(grid, body, len(template.beams.fields), template.dose.grid_mm)
        body_on_grid = coverage_on_grid(body, grid)
        density, findings = _density(study, resolved, structures)
    with clock.stage("influence"):
        coarse = DensityVolume(grid, box_average(density.mass_g_cm3, density.grid, grid), density.beyond_table)
        planning = PlanningCase(resolved, structures.by_name, coarse, body_on_grid, machine, case.patient_position)
        clock.progress(Progress("influence", "kernels"))
        kernel, around = pencil_kernel(machine.beam), medium(coarse)
        inside = np.flatnonzero(body_on_grid.ravel() > 0)
        pencil = PencilBeamEngine(machine, kernel, around, inside, case.patient_position)
        engine: DoseEngine = pencil
        if template.dose.final == "collapsed_cone":
            engine = collapsed_cone_engine(machine, coarse, body_on_grid, case.patient_position)
        targets = [structures.by_name[target.name] for target in resolved.targets]
        center = _isocenter(resolved, structures)
        angles = [
            (one.gantry_angle_deg, one.collimator_angle_deg, one.couch_angle_deg) for one in template.beams.fields
        ]
        points = np.concatenate([covered_points_mm(coverage) for coverage in targets])
        maps = []
        for beam in arrange(angles, center, machine.source_axis_distance_mm):
            cancel.check()
            clock.progress(Progress("influence", beam.name, beam.number / len(angles)))
            try:
                maps.append(beamlets(beam, beam.frame(case.patient_position), points, machine.mlc))
            except ValueError as error:
                raise TemplateError(f"beam {beam.name}: {error}", line=template.beams.line or None) from None
    notes = (*case.findings, *resolved.findings, *structures.findings, *findings)
    return Setup(
        study,
        resolved,
        structures,
        planning,
        kernel,
        around,
        engine,
        None if engine is pencil else pencil,
        tuple(maps),
        center,
        notes,
    )


def _density(
    study: Study, resolved: ResolvedTemplate, structures: StructureCoverages
) -> tuple[DensityVolume, list[Finding]]:
    """Mass density on the CT with overrides, air outside of BODY and of what is included."""
    findings = [
        Finding("warning", "densities come from the default HU table, which was not measured on this CT scanner")
    ]
    density = densities(study.case.ct)
    if density.beyond_table:
        findings.append(
            Finding(
                "warning",
                f"{density.beyond_table} voxels of the CT lie above the HU table and take its last density: metal or "
                "artefacts; state their density in the template",
            )
        )
    overrides = [(structures.by_name[one.structure], one.mass_density_g_cm3) for one in resolved.density]
    density = apply_overrides(density, overrides)
    included = (structures.by_name[BODY], *structures.included.values())
    density = air_outside(density, included)
    if not any(one in resolved.include for one in structures.included):
        findings.append(Finding("warning", "no couch takes part in the dose: posterior beams are not weakened by it"))
    return density, findings


def _isocenter(resolved: ResolvedTemplate, structures: StructureCoverages) -> tuple[float, float, float]:
    where = resolved.isocenter
    if not isinstance(where, str):
        return where
    names = [target.name for target in resolved.targets] if where == "targets" else [where]
    return isocenter_mm([structures.by_name[name] for name in names])


def make_plan(
    setup: Setup, folder: Path, identity: Identity, clock: _Clock, cancel: Cancel, *, want_beam_doses: bool
) -> Result:
    """Optimise, sequence, and compute the dose of the control points as an RTPLAN holds them."""
    case, engine = setup.case, setup.engine
    fractions = setup.resolved.fractions
    doses = AnchoredDose(engine, setup.fast, fractions)
    with clock.stage("optimize"):
        specs = derive(setup.resolved)
        named = [spec.region.structure for spec in specs if spec.region.structure != BODY]
        voxels = optimization_voxels(case, tuple(dict.fromkeys(named)))
        seen = []
        for one in setup.maps:
            clock.progress(Progress("optimize", f"depths of {one.beam.name}"))
            frame = one.beam.frame(case.patient_position)
            seen.append(beam_samples(frame, setup.around, voxels.indices, setup.kernel))
        influence = factorised_influence(setup.maps, seen, setup.kernel, case.machine, fractions)
        ideal = optimise_fluence(case, influence, voxels, specs, doses, clock.progress, cancel)
    point_dose = _point_dose(setup, {_direction(one.beam): part for one, part in zip(setup.maps, seen, strict=True)})
    limit = setup.resolved.template.delivery.max_segments
    try:
        with clock.stage("sequence"):
            delivered = deliver(case, setup.maps, ideal, voxels, doses, point_dose, limit, clock.progress, cancel)
    except NotDeliverableError as error:
        return Result(setup, voxels, influence, ideal, None, None, (), (), (), None, (error.message,))
    scaling = normalization(case, delivered.dose.dose_gy)
    deliveries = delivered.deliveries
    if scaling is not None:
        deliveries = scaled_deliveries(deliveries, scaling.factor, case.machine.min_segment_meterset_mu)
    with clock.stage("final_dose"):
        # judged is what a file holds: positions and metersets are read back from the RTPLAN just written
        path = folder / "RTPLAN.dcm"
        write_plan(
            path,
            setup.study.source,
            deliveries,
            case.machine,
            setup.resolved.template.prescription,
            identity=identity,
            structure_set_uid=identity.uid("RTSTRUCT"),
            patient_position=case.patient_position,
        )
        deliveries = read_plan(path).deliveries
        path.unlink()
        broken = tuple(text for item in deliveries for text in violations(item, case.machine))
        if broken:
            return Result(setup, voxels, influence, ideal, delivered, scaling, deliveries, (), (), None, broken)
        planes = direction_planes(deliveries, case.machine)
        by_direction = {_direction(beam): engine.dose_gy_per_fraction(beam, plane) for beam, plane in planes}
        final = course_dose(engine.grid, list(by_direction.values()), fractions)
        points = _point_doses(setup, deliveries, by_direction)
        single = tuple(beam_doses(engine, deliveries, case.machine)) if want_beam_doses else ()
    return Result(setup, voxels, influence, ideal, delivered, scaling, deliveries, points, single, final, ())


def _point_doses(
    setup: Setup, deliveries: Sequence[BeamDelivery], by_direction: Mapping[tuple[float, ...], Float32Array]
) -> tuple[float | None, ...]:
    """Dose of each beam at the isocentre, Gy of one fraction; None where it lies outside the dose grid.

    Carriage groups of one direction share that direction's dose as the pencil beam shares it out.
    """
    grid = setup.around.grid
    index = tuple(np.rint(grid.index_from_patient(setup.isocenter_mm)).astype(int))
    if not all(0 <= at < size for at, size in zip(index, grid.shape, strict=True)):
        return (None,) * len(deliveries)
    voxel = np.array([np.ravel_multi_index(index, grid.shape)])
    seen = {
        _direction(one.beam): beam_samples(
            one.beam.frame(setup.case.patient_position), setup.around, voxel, setup.kernel
        )
        for one in setup.maps
    }
    alone = _point_dose(setup, seen)
    shares = [float(alone(item, delivery_plane(item, setup.case.machine))[0]) for item in deliveries]
    totals: dict[tuple[float, ...], float] = {}
    for item, share in zip(deliveries, shares, strict=True):
        totals[_direction(item.beam)] = totals.get(_direction(item.beam), 0.0) + share
    return tuple(
        float(by_direction[_direction(item.beam)][index])
        * (share / totals[_direction(item.beam)] if share > 0 else 0.0)
        for item, share in zip(deliveries, shares, strict=True)
    )


def write_results(
    folder: Path, request: PlanRequest, result: Result, identity: Identity, clock: _Clock, log: RunLog
) -> dict[str, Any]:
    """Write DICOM files, report and plan.json into ``folder``; returns the document."""
    setup = result.setup
    with clock.stage("write"):
        samples = plan_samples(result)
        scores = judged(result, samples)
        findings = [*setup.findings]
        structure_set, written = _write_structures(folder, setup, identity)
        findings += written
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
    for finding in findings:
        log.write(finding.severity, finding.message, stage="findings")
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
    write_dose(
        folder / "RTDOSE.dcm",
        setup.study.source,
        result.final,
        identity=identity,
        plan_uid=plan_uid,
        failed=failed,
        density_overrides=overridden,
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
            )


def _point_dose(setup: Setup, seen: Mapping[tuple[float, ...], BeamSamples]) -> PointDose:
    """The pencil beam's dose at the optimisation voxels, for the optimised beams and their carriage groups."""
    machine = setup.case.machine
    photons = photons_cm2_per_mu(machine, setup.kernel)
    sigma = blurred_sigma_mm(setup.kernel, machine)

    def dose(delivery: BeamDelivery, plane: FluencePlane) -> Float32Array:
        scaled = FluencePlane(plane.values * photons, plane.x_mm, plane.y_mm)
        return pencil_beam_dose(scaled, seen[_direction(delivery.beam)], sigma)

    return dose


def _direction(beam: Beam) -> tuple[float, ...]:
    return (beam.gantry_angle_deg, beam.collimator_angle_deg, beam.couch_angle_deg)


def _machine_place(template: PlanTemplate, template_name: str) -> str | Path:
    """A machine file named in a template file lies relative to it; a shipped name is taken as it is."""
    place = Path(template.machine)
    if place.suffix == ".toml" and not place.is_absolute() and Path(template_name).is_file():
        return Path(template_name).parent / place
    return template.machine


def _private_texts(study: Study, request: PlanRequest) -> Sequence[str]:
    attributes = study.source.attributes
    texts = [
        str(attributes.get(key, "") or "") for key in ("PatientName", "PatientID", "OtherPatientIDs", "AccessionNumber")
    ]
    for path in request.study:
        texts += [path.name, path.stem]
    return [text for text in texts if len(text) > 1]


def _entropy(study: Study, template: PlanTemplate, machine: MachineModel) -> str:
    """What identifiers are made of: inputs, template, machine and version."""
    inputs = [f"{item.sop_instance_uid} {item.sha256}" for item in study.source.inputs]
    return json.dumps([inputs, template.source, machine.source, __version__])

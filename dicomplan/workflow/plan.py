"""The main job: CT and RTSTRUCT in; RTPLAN, RTDOSE, RTSTRUCT, report and plan.json out. The stages in order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomplan import __version__
from dicomplan.beams.delivery import Beam, BeamDelivery, direction
from dicomplan.beams.limits import violations
from dicomplan.dicom.identity import Identity
from dicomplan.dicom.read import read_plan
from dicomplan.dicom.source import Study
from dicomplan.dicom.write_plan import write_plan
from dicomplan.dose.between import RowsOfDose
from dicomplan.dose.engines import beam_doses, course_dose, delivery_plane, direction_planes
from dicomplan.dose.fluence import FluencePlane
from dicomplan.dose.pencil_beam import (
    BeamSamples,
    beam_samples,
    blurred_sigma_mm,
    pencil_beam_dose,
    photons_cm2_per_mu,
)
from dicomplan.errors import NotDeliverableError
from dicomplan.events import Cancel, Finding, ProgressCallback, ignore_progress
from dicomplan.geometry.resample import trilinear
from dicomplan.machine.library import load_machine
from dicomplan.machine.model import MachineModel
from dicomplan.plan.library import load_template
from dicomplan.plan.template import PlanTemplate, StructureGoal
from dicomplan.planning.anchoring import AnchoredDose
from dicomplan.planning.case import goal_values, plan_loss
from dicomplan.planning.exploring import explore, explored_goals
from dicomplan.planning.imrt import PointDose, optimise_fluence
from dicomplan.planning.normalizing import normalization, scaled_deliveries
from dicomplan.planning.proving import verdict
from dicomplan.planning.pursuing import aims_of
from dicomplan.planning.robustness import shifted_values
from dicomplan.planning.segments import deliver
from dicomplan.sequencing.aperture_moves import FINE_MARGIN_MM, FINE_STEP_MM, fine_map
from dicomplan.workflow.clock import Clock, creation_time
from dicomplan.workflow.logs import RunLog
from dicomplan.workflow.output import OutputFolder
from dicomplan.workflow.plan_setup import influence_of, optimised_voxels, prepare, seen_by_beams
from dicomplan.workflow.plan_values import PlanOutcome, PlanRequest, Result, Setup
from dicomplan.workflow.plan_write import write_results
from dicomplan.workflow.privacy import private_texts
from dicomplan.workflow.threads import one_thread_for_algebra

__all__ = ["PlanOutcome", "PlanRequest", "make_plan", "run_plan"]

Float32Array = NDArray[np.float32]

_EXIT_CODES = {"accepted": 0, "failed": 5, "not_deliverable": 6}


def run_plan(
    request: PlanRequest, progress: ProgressCallback = ignore_progress, cancel: Cancel | None = None
) -> PlanOutcome:
    """Plan a study into ``request.output``, which is there as a whole or not at all.

    Raises UsageError (2), InputError (3), TemplateError or MachineError (4), InsufficientMemoryError (8) before anything
    is written; a plan that fails (5) or cannot be delivered (6) is an outcome, with its files.
    """
    cancel = cancel or Cancel()
    template = load_template(request.template)
    machine = load_machine(machine_place(template, request.template))
    destination = OutputFolder(request.output, overwrite=request.overwrite, inputs=request.study)
    if request.time_limit_s is not None:
        cancel.finish_within(request.time_limit_s)
    created = creation_time()
    with destination as folder, RunLog(folder / "log.txt", identify=request.identify) as log, one_thread_for_algebra():
        progress = log.progress(progress)
        clock = Clock(progress)
        with clock.stage("read"):
            study = request.read(progress, bridge=request.bridge)
        log.hide(*private_texts(study.source.attributes, request.study))
        setup = prepare(study, template, machine, request.template, clock, cancel)
        identity = Identity(_entropy(study, template, machine), created)
        traded = None if request.explore is None else explored_goals(setup.resolved, request.explore)
        result = make_plan(setup, folder, identity, clock, cancel, want_beam_doses=request.beam_doses, traded=traded)
        document = write_results(folder, request, result, identity, clock, log)
    report = destination.target / "report.html"
    return PlanOutcome(_EXIT_CODES[document["status"]], destination.target, document, report)


def make_plan(
    setup: Setup,
    folder: Path,
    identity: Identity,
    clock: Clock,
    cancel: Cancel,
    *,
    want_beam_doses: bool,
    traded: tuple[StructureGoal, StructureGoal] | None = None,
) -> Result:
    """Optimise, sequence, and compute the dose of the control points as an RTPLAN holds them.

    ``traded``: two goals between which a front of plans is computed as well, on the fluence.
    """
    case, engine = setup.case, setup.engine
    fractions = setup.resolved.fractions
    doses = AnchoredDose(engine, setup.fast, fractions)
    with clock.stage("optimize"):
        aims = aims_of(setup.resolved)
        voxels = optimised_voxels(setup, aims)
        seen = seen_by_beams(setup, voxels.indices, clock)
        influence = influence_of(setup, setup.maps, seen, voxels)
        by_beam = {direction(one.beam): part for one, part in zip(setup.maps, seen, strict=True)}
        point_dose = _point_dose(setup, by_beam, influence.rows)
        ideal = optimise_fluence(case, influence, voxels, aims, doses, point_dose, clock.progress, cancel)
    front = None
    if traded is not None:
        with clock.stage("explore"):
            front = explore(case, influence, voxels, ideal, doses, traded, progress=clock.progress, cancel=cancel)
    limit = setup.resolved.template.delivery.max_segments
    try:
        with clock.stage("sequence"):
            finer = [fine_map(one, FINE_STEP_MM, FINE_MARGIN_MM) for one in setup.maps]
            fine = influence_of(setup, finer, seen, voxels)
            delivered = deliver(
                case, setup.maps, influence, ideal, voxels, doses, point_dose, limit, fine, clock.progress, cancel
            )
    except NotDeliverableError as error:
        return Result(setup, voxels, influence, ideal, None, None, (), (), (), None, (error.message,), front=front)
    ended_early = cancel.finishing  # what comes now is no search: a deadline that passes in it has cut nothing short
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
            return Result(
                setup, voxels, influence, ideal, delivered, scaling, deliveries, (), (), None, broken, front=front
            )
        planes = direction_planes(deliveries, case.machine)
        directions = (direction(beam) for beam, _ in planes)
        by_direction = dict(zip(directions, doses.per_fraction(planes), strict=True))
        final = course_dose(engine.grid, list(by_direction.values()), fractions)
        points = _point_doses(setup, deliveries, by_direction)
        single = tuple(beam_doses(engine, deliveries, case.machine)) if want_beam_doses else ()
    moved = None
    robust = setup.resolved.template.robust
    if robust is not None:
        with clock.stage("robustness"):
            moved = shifted_values(case, engine, planes, robust, clock.progress, cancel)
    findings: tuple[Finding, ...] = ()
    proof = None
    if ended_early:
        findings = (
            Finding("warning", "asked to end early: this is the best plan found so far, not the best there is"),
        )
    elif plan_loss(goal_values(case, final.dose_gy))[0] > 0:
        with clock.stage("proof"):
            proof = verdict(case, influence, voxels, ideal.difference_gy, clock.progress, cancel)
        if proof is not None:
            findings = (Finding("error", proof.sentence()),)
    return Result(
        setup,
        voxels,
        influence,
        ideal,
        delivered,
        scaling,
        deliveries,
        points,
        single,
        final,
        (),
        findings,
        proof,
        front,
        moved,
    )


def _point_doses(
    setup: Setup, deliveries: Sequence[BeamDelivery], by_direction: Mapping[tuple[float, ...], Float32Array]
) -> tuple[float | None, ...]:
    """Dose of each beam at the isocentre (trilinear), Gy of one fraction; None where it lies outside the dose grid.

    Carriage groups of one direction share that direction's dose as the pencil beam shares it out in the nearest voxel.
    """
    grid = setup.around.grid
    index = np.rint(grid.index_from_patient(setup.isocenter_mm)).astype(int)
    if (index < 0).any() or (index >= np.array(grid.shape)).any():
        return (None,) * len(deliveries)
    voxel = np.array([np.ravel_multi_index(tuple(index), grid.shape)])
    position = setup.case.patient_position
    seen = {
        direction(one.beam): beam_samples(one.beam.frame(position), setup.around, voxel, setup.kernel)
        for one in setup.maps
    }
    alone = _point_dose(setup, seen)
    shares = [float(alone(item.beam, delivery_plane(item, setup.case.machine))[0]) for item in deliveries]
    totals: dict[tuple[float, ...], float] = {}
    for item, share in zip(deliveries, shares, strict=True):
        totals[direction(item.beam)] = totals.get(direction(item.beam), 0.0) + share
    place = grid.local_from_patient(setup.isocenter_mm)[None, :]
    at_point = {key: float(trilinear(dose, grid, place)[0]) for key, dose in by_direction.items()}
    return tuple(
        at_point[direction(item.beam)] * (share / totals[direction(item.beam)] if share > 0 else 0.0)
        for item, share in zip(deliveries, shares, strict=True)
    )


def _point_dose(
    setup: Setup, seen: Mapping[tuple[float, ...], BeamSamples], rows: RowsOfDose | None = None
) -> PointDose:
    """The pencil beam's dose at the voxels that were seen (``rows`` of it), for optimised beams and their carriage groups."""
    machine = setup.case.machine
    photons = photons_cm2_per_mu(machine, setup.kernel)
    sigma = blurred_sigma_mm(setup.kernel, machine)

    def dose(beam: Beam, plane: FluencePlane) -> Float32Array:
        scaled = FluencePlane(plane.values * photons, plane.x_mm, plane.y_mm)
        at_voxels = pencil_beam_dose(scaled, seen[direction(beam)], sigma)
        return at_voxels if rows is None else rows.dose(at_voxels)

    return dose


def machine_place(template: PlanTemplate, template_name: str) -> str | Path:
    """The machine that a template names: a file lies relative to the template's own, a shipped name is taken as it is."""
    place = Path(template.machine)
    if place.suffix == ".toml" and not place.is_absolute() and Path(template_name).is_file():
        return Path(template_name).parent / place
    return template.machine


def _entropy(study: Study, template: PlanTemplate, machine: MachineModel) -> str:
    """What identifiers are made of: inputs, template, machine and version."""
    inputs = [f"{item.sop_instance_uid} {item.sha256}" for item in study.source.inputs]
    return json.dumps([inputs, template.source, machine.source, __version__])

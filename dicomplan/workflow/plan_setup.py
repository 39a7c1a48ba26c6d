"""The stages before optimisation: structures, densities, engines, beams and their beamlets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.arrangement import arrange, covered_points_mm, isocenter_mm
from dicomplan.beams.beamlets import BeamletMap, Skin, beamlets
from dicomplan.dicom.source import Study
from dicomplan.dose.engines import DoseEngine, PencilBeamEngine, collapsed_cone_engine
from dicomplan.dose.influence import FactorisedInfluence, factorised_influence
from dicomplan.dose.pencil_beam import BeamSamples, beam_samples, joined_samples, medium
from dicomplan.dose.pencil_kernel import pencil_kernel
from dicomplan.errors import TemplateError
from dicomplan.events import Cancel, Progress
from dicomplan.geometry.resample import box_average
from dicomplan.machine.model import MachineModel
from dicomplan.patient.coverage import coverage_on_grid
from dicomplan.patient.density import DensityVolume
from dicomplan.patient.dose_grid import dose_grid
from dicomplan.plan.coverages import StructureCoverages, structure_coverages
from dicomplan.plan.matching import BODY
from dicomplan.plan.resolve import ResolvedTemplate, resolve
from dicomplan.plan.template import PlanTemplate
from dicomplan.planning.case import PlanningCase
from dicomplan.planning.pursuing import Aims
from dicomplan.planning.robustness import shifted
from dicomplan.planning.voxels import OptimizationVoxels, optimization_voxels
from dicomplan.workflow.clock import Clock
from dicomplan.workflow.inspect_structures import near_the_end
from dicomplan.workflow.memory import refuse_too_large
from dicomplan.workflow.patient_model import couch_findings, patient_density
from dicomplan.workflow.plan_values import Setup

IntArray = NDArray[np.int64]


def prepare(
    study: Study, template: PlanTemplate, machine: MachineModel, template_name: str, clock: Clock, cancel: Cancel
) -> Setup:
    """Everything before optimisation: structures, densities, beams and what they see."""
    case = study.case
    with clock.stage("masks"):
        resolved = resolve(template, case.structures, file=template_name)
        structures = structure_coverages(case, resolved, clock.progress, cancel)
        body = structures.by_name[BODY]
        grid = dose_grid(case.ct.grid, body, template.dose.grid_mm)
        scenarios = 1 if template.robust is None else 1 + len(template.robust.shifts_mm)
        refuse_too_large(grid, body, len(template.beams.fields) * scenarios, template.dose.grid_mm)
        body_on_grid = coverage_on_grid(body, grid)
        overrides = [(structures.by_name[one.structure], one.mass_density_g_cm3) for one in resolved.density]
        density, findings = patient_density(case.ct, (body, *structures.included.values()), overrides)
        findings += couch_findings([case.structure(roi) for roi in structures.included])
        for target in resolved.targets:
            findings += near_the_end(case.structure(resolved.roi_names[target.name]), case.ct.grid)
    with clock.stage("influence"):
        coarse = DensityVolume(grid, box_average(density.mass_g_cm3, density.grid, grid), density.beyond_table)
        planning = PlanningCase(resolved, structures.by_name, coarse, body_on_grid, machine, case.patient_position)
        clock.progress(Progress("influence", "kernels"))
        kernel, around = pencil_kernel(machine.beam), medium(coarse)
        inside = np.flatnonzero(body_on_grid.ravel() > 0)
        pencil = PencilBeamEngine(machine, kernel, around, inside, case.patient_position)
        engine: DoseEngine = pencil
        if template.dose.final == "collapsed_cone":
            position, dose_to = case.patient_position, template.dose.dose_to
            engine = collapsed_cone_engine(machine, coarse, body_on_grid, position, dose_to)
        targets = [structures.by_name[target.name] for target in resolved.targets]
        center = _isocenter(resolved, structures)
        angles = [
            (one.gantry_angle_deg, one.collimator_angle_deg, one.couch_angle_deg) for one in template.beams.fields
        ]
        points = np.concatenate([covered_points_mm(coverage) for coverage in targets])
        skin = None
        if template.flash_mm > 0:
            inner = grid.patient_from_index(np.argwhere(body_on_grid >= 0.5))
            skin = Skin(inner, max(grid.spacing_mm), template.flash_mm)
        maps = []
        for beam in arrange(angles, center, machine.source_axis_distance_mm):
            cancel.check()
            clock.progress(Progress("influence", beam.name, beam.number / len(angles)))
            try:
                maps.append(beamlets(beam, beam.frame(case.patient_position), points, machine.mlc, skin=skin))
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


def optimised_voxels(setup: Setup, aims: Aims) -> OptimizationVoxels:
    """The voxels that a plan with these aims is optimised on."""
    named = [region.structure for region in aims.regions if region.structure != BODY]
    return optimization_voxels(setup.case, tuple(dict.fromkeys(named)))


def seen_by_beams(setup: Setup, voxels: IntArray, clock: Clock) -> tuple[BeamSamples, ...]:
    """What the engine of the optimisation needs of voxels (linear on the dose grid), for each beam.

    With set-up errors in the template: of the voxels once more for each shift of the isocentre, one after the other.
    """
    robust = setup.resolved.template.robust
    shifts = ((0.0, 0.0, 0.0), *(robust.shifts_mm if robust is not None else ()))
    found = []
    for one in setup.maps:
        clock.progress(Progress("influence", f"depths of {one.beam.name}"))
        frames = [shifted(one.beam, shift).frame(setup.case.patient_position) for shift in shifts]
        parts = [beam_samples(frame, setup.around, voxels, setup.kernel) for frame in frames]
        found.append(parts[0] if len(parts) == 1 else joined_samples(parts))
    return tuple(found)


def influence_of(
    setup: Setup, maps: Sequence[BeamletMap], seen: Sequence[BeamSamples], voxels: OptimizationVoxels | None = None
) -> FactorisedInfluence:
    """The influence of beamlets on the voxels that were seen; of ``voxels`` also on the points between them."""
    rows = None if voxels is None else voxels.rows.repeated(voxels.scenarios)
    return factorised_influence(maps, seen, setup.kernel, setup.case.machine, setup.resolved.fractions, rows)


def _isocenter(resolved: ResolvedTemplate, structures: StructureCoverages) -> tuple[float, float, float]:
    where = resolved.isocenter
    if not isinstance(where, str):
        return where
    names = [target.name for target in resolved.targets] if where == "targets" else [where]
    return isocenter_mm([structures.by_name[name] for name in names])

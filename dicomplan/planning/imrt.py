"""Intensity-modulated planning: fluence, segments, metersets, judged on the accurate dose and done again where it fails."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import Beam
from dicomplan.dose.engines import plane_of_beamlets
from dicomplan.dose.fluence import FluencePlane
from dicomplan.dose.influence import FactorisedInfluence
from dicomplan.dose.volume import DoseVolume
from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.optimization.build import build, regions
from dicomplan.optimization.smoothing import Smoothing
from dicomplan.optimization.solver import Solution, SolverSettings, solve
from dicomplan.plan.derive import ObjectiveSpec, reweighted, tightened
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.anchoring import AnchoredDose
from dicomplan.planning.case import PlanningCase, goal_values, plan_loss, shortfall
from dicomplan.planning.voxels import OptimizationVoxels, voxel_sets

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

SMOOTHING_WEIGHT = 0.01
"""Weight of the fluence's roughness, relative to squares of (dose / prescription)."""

_ACROSS = 0.5  # roughness across leaves counts less than along them: leaf pairs are independent
_FIRST = SolverSettings(max_iterations=120)
_AGAIN = SolverSettings(max_iterations=70)
_ROUNDS = 3  # of reweighting unmet goals
_WORTH = 0.97  # a round that does not lower the loss to this part of the best one is the last
_NEARLY = 0.03  # of the limit
_OVERSHOOT = 1.1  # of what is missing: the aim moves a little further than it must
_RAISE = 2.0  # the weight of an unmet goal grows by this in each round


@dataclass(frozen=True)
class IdealPlan:
    """The optimised fluence: ``fluences_mu`` per beam (MU of one fraction), its dose, and the objective of each pass.

    ``specs`` are the objectives as they were weighted in the end, ``shifts_gy`` how far the aims of goals were moved,
    ``difference_gy`` (voxels,) the accurate dose minus the operator's at the optimisation voxels.
    """

    fluences_mu: tuple[FloatArray, ...]
    dose: DoseVolume
    values: Mapping[StructureGoal, float]
    specs: tuple[ObjectiveSpec, ...]
    shifts_gy: Mapping[StructureGoal, float]
    difference_gy: FloatArray
    iterations: int
    objective: tuple[float, ...]


def plan_smoothing(maps: Sequence[BeamletMap]) -> Smoothing:
    """Neighbours along and across the leaves of every beam."""
    first, second, weight, start = [], [], [], 0
    for one in maps:
        for pairs, strength in ((one.along_leaf(), 1.0), (one.across_leaves(), _ACROSS)):
            first.append(pairs[0] + start)
            second.append(pairs[1] + start)
            weight.append(np.full(len(pairs[0]), strength))
        start += one.count
    return Smoothing(np.concatenate(first), np.concatenate(second), np.concatenate(weight), SMOOTHING_WEIGHT)


def fluence_planes(
    maps: Sequence[BeamletMap], fluences_mu: Sequence[FloatArray], case: PlanningCase
) -> list[tuple[Beam, FluencePlane]]:
    """The plane of each beam's fluence, before sequencing."""
    return [
        (one.beam, plane_of_beamlets(one.filled(fluence), one.x_edges_mm, one.y_edges_mm, case.machine))
        for one, fluence in zip(maps, fluences_mu, strict=True)
    ]


def raised(
    specs: Sequence[ObjectiveSpec], values: Mapping[StructureGoal, float], factor: float = _RAISE
) -> tuple[ObjectiveSpec, ...]:
    """The objectives with more weight on goals that are not met."""
    unmet = {goal: factor for goal, value in values.items() if not goal.hard and shortfall(goal, value) > 0}
    return reweighted(specs, unmet)


def shifted(
    shifts_gy: Mapping[StructureGoal, float], values: Mapping[StructureGoal, float]
) -> dict[StructureGoal, float]:
    """How far each goal's aim is moved to the strict side, after a dose that gave these values.

    A broken hard limit moves by its overshoot, and so does a goal that is missed by little
    (:data:`_NEARLY`): what the accurate dose has more or less than the optimiser sees, or what lies in parts that carry
    no term. Goals that are far away are left to their weight.
    """
    result = dict(shifts_gy)
    for goal, value in values.items():
        gap = shortfall(goal, value)
        if gap <= 0 or goal.goal.unit != "Gy" or (not goal.hard and gap > _NEARLY):
            continue
        result[goal] = result.get(goal, 0.0) + _OVERSHOOT * abs(value - goal.goal.limit)
    return result


def optimise_fluence(
    case: PlanningCase,
    operator: FactorisedInfluence,
    voxels: OptimizationVoxels,
    specs: Sequence[ObjectiveSpec],
    doses: AnchoredDose,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> IdealPlan:
    """The fluence that serves the objectives best; goals it misses get more weight and it is optimised again.

    What the accurate dose says otherwise than the operator is held while the fluence is optimised again. The plan with
    the least :func:`~dicomplan.planning.case.plan_loss` is kept, its dose computed accurately.
    """
    maps = [beam.beamlets for beam in operator.beams]
    sets = voxel_sets(case, voxels, regions(specs))
    smoothing = plan_smoothing(maps)
    current, best = tuple(specs), None
    solution: Solution | None = None
    offset: FloatArray | None = None
    objective: list[float] = []
    iterations = 0
    shifts: dict[StructureGoal, float] = {}
    for turn in range(_ROUNDS):
        built = build(tightened(current, shifts), sets, case.resolved.highest_level_gy, smoothing)
        solution = solve(
            operator,
            built.problem,
            warm_start=solution,
            dose_offset_gy=offset,
            settings=_FIRST if turn == 0 else _AGAIN,
            progress=progress,
            cancel=cancel,
        )
        iterations += solution.iterations
        objective.append(solution.objective[-1])
        progress(Progress("optimize", "dose of the fluence"))
        fluences = tuple(operator.split(solution.fluence))
        planes = fluence_planes(maps, fluences, case)
        dose = doses.exact(planes) if turn == 0 else doses.near(planes)
        values = goal_values(case, dose.dose_gy)
        offset = _difference(dose, operator, solution.fluence, voxels)
        found = IdealPlan(fluences, dose, values, current, dict(shifts), offset, iterations, tuple(objective))
        loss = plan_loss(values)
        worth = best is None or loss < tuple(_WORTH * part for part in plan_loss(best.values))
        if best is None or loss < plan_loss(best.values):
            best = found
        if loss == (0.0, 0.0) or (turn > 0 and not worth):
            break
        current, shifts = raised(current, values), shifted(shifts, values)
    assert best is not None
    if len(objective) > 1:
        progress(Progress("optimize", "dose of the best fluence"))
        dose = doses.exact(fluence_planes(maps, best.fluences_mu, case))
        offset = _difference(dose, operator, np.concatenate(best.fluences_mu), voxels)
        best = replace(best, dose=dose, values=goal_values(case, dose.dose_gy), difference_gy=offset)
    return replace(best, iterations=iterations, objective=tuple(objective))


def _difference(
    dose: DoseVolume, operator: FactorisedInfluence, fluence_mu: FloatArray, voxels: OptimizationVoxels
) -> FloatArray:
    """(voxels,) accurate dose minus the operator's, Gy."""
    accurate = dose.dose_gy.ravel()[voxels.indices].astype(np.float64)
    difference: FloatArray = accurate - np.asarray(operator.forward(fluence_mu), dtype=np.float64)
    return difference

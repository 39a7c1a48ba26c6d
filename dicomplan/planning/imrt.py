"""Intensity-modulated planning: fluence, segments, metersets, judged on the accurate dose and done again where it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import Beam
from dicomplan.dose.engines import plane_of_beamlets
from dicomplan.dose.fluence import FluencePlane, together
from dicomplan.dose.influence import FactorisedInfluence
from dicomplan.dose.volume import DoseVolume
from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.optimization.smoothing import Smoothing
from dicomplan.optimization.solver import SolverSettings
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.anchoring import AnchoredDose
from dicomplan.planning.case import PlanningCase, goal_values, plan_loss
from dicomplan.planning.leakage import BeamLeakage, expected_leakage
from dicomplan.planning.normalizing import normalization
from dicomplan.planning.pursuing import GUIDE_SHARE, Aims, corrected, pursue, without_idle
from dicomplan.planning.voxels import OptimizationVoxels, voxel_sets

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

SMOOTHING_WEIGHT = 0.6
"""Weight of the fluence's roughness, relative to squares of (dose / prescription)."""

SETTLED = 0.003
"""Correction passes end when no goal changes by more than this part of the highest prescribed level."""

_TIE = 100.0  # a beamlet beyond the skin follows its neighbour on the patient: nothing else asks for its fluence
_ACROSS = 0.5  # roughness across leaves counts less than along them: leaf pairs are independent
FIRST = SolverSettings(max_iterations=80)
_AGAIN = SolverSettings(max_iterations=70)
_CURABLE = 0.01  # of its limit, by which a hard constraint may be broken before it is sequenced
_EFFORTS = (None, 1.5, 0.75)
"""Of the passes after the first look at the accurate dose (:func:`~dicomplan.planning.pursuing.pursue`): all goals at once,
which says how much will leak; then in order, and again from where that ended."""

PointDose = Callable[[Beam, FluencePlane], Float32Array]
"""Dose (voxels,) at the optimisation voxels of one beam's plane, Gy of one fraction, by the optimiser's engine."""


@dataclass(frozen=True)
class IdealPlan:
    """The optimised fluence: ``fluences_mu`` per beam (MU of one fraction), its dose, and the objective of each pass.

    ``dose`` is that of the fluence and of its ``leakage``, both after the template's normalisation. ``aims`` are those in the
    end, with what the accurate dose moved. At the optimisation voxels (voxels,) ``leakage_gy`` is what the operator's engine
    makes of the leakage, and ``difference_gy`` by how much the accurate dose is more than by that engine.
    """

    fluences_mu: tuple[FloatArray, ...]
    leakage: tuple[BeamLeakage | None, ...]
    leakage_gy: FloatArray
    dose: DoseVolume
    values: Mapping[StructureGoal, float]
    aims: Aims
    difference_gy: FloatArray
    iterations: int
    objective: tuple[float, ...]

    @property
    def with_leakage_mu(self) -> tuple[FloatArray, ...]:
        """Fluence of each beam's beamlets, what leaks in it included."""
        return tuple(
            fluence if leak is None else fluence + leak.on_beamlets_mu
            for fluence, leak in zip(self.fluences_mu, self.leakage, strict=True)
        )


def plan_smoothing(maps: Sequence[BeamletMap]) -> Smoothing:
    """Neighbours along and across the leaves of every beam, and beamlets beyond the skin with those on the patient."""
    first, second, weight, start, ties = [], [], [], 0, 0.0
    for one in maps:
        flash = (one.flash[:, 0], one.flash[:, 1])
        for pairs, strength in ((one.along_leaf(), 1.0), (one.across_leaves(), _ACROSS), (flash, _TIE)):
            first.append(pairs[0] + start)
            second.append(pairs[1] + start)
            weight.append(np.full(len(pairs[0]), strength))
        ties += _TIE * len(one.flash)
        start += one.count
    total = float(sum(part.sum() for part in weight))
    # the mean is over all pairs: what smooths the patient's fluence must not count less for ties
    smooth = SMOOTHING_WEIGHT * total / (total - ties)
    return Smoothing(np.concatenate(first), np.concatenate(second), np.concatenate(weight), smooth)


def fluence_planes(
    maps: Sequence[BeamletMap],
    fluences_mu: Sequence[FloatArray],
    leakage: Sequence[BeamLeakage | None],
    case: PlanningCase,
) -> list[tuple[Beam, FluencePlane]]:
    """The plane of each beam's fluence with its leakage, before sequencing."""
    planes = []
    for one, fluence, leak in zip(maps, fluences_mu, leakage, strict=True):
        plane = plane_of_beamlets(one.filled(fluence), one.x_edges_mm, one.y_edges_mm, case.machine)
        planes.append((one.beam, plane if leak is None else together(plane, leak.plane)))
    return planes


def optimise_fluence(
    case: PlanningCase,
    operator: FactorisedInfluence,
    voxels: OptimizationVoxels,
    aims: Aims,
    doses: AnchoredDose,
    point_dose: PointDose,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> IdealPlan:
    """The fluence that serves the aims best on the accurate dose, what will leak while it is delivered included.

    What the accurate dose says otherwise than the operator is held while the wishes are pursued again, and aims move by
    what is judged otherwise than optimised, until no goal changes by more than :data:`SETTLED` of the highest level. The
    plan with the least :func:`ideal_loss` is kept, its dose computed accurately. Once ``cancel`` is
    finishing, the best plan so far is taken.
    """
    cancel = cancel or Cancel()
    maps = [beam.beamlets for beam in operator.beams]
    sets = voxel_sets(case, voxels, aims.regions)
    aims = without_idle(aims, sets)
    scale = case.resolved.highest_level_gy
    smoothing = plan_smoothing(maps)
    if aims.wishes:
        smoothing = replace(smoothing, weight=smoothing.weight * GUIDE_SHARE)
    best: IdealPlan | None = None
    # the first look at the accurate dose is at what the guide makes, before wishes are fulfilled on it
    found = pursue(
        operator, replace(aims, wishes=()), sets, scale, FIRST, smoothing=smoothing, progress=progress, cancel=cancel
    )
    iterations, objective = found.iterations, [found.solution.objective[-1]]
    values: Mapping[StructureGoal, float] = {}
    # without wishes there is no order, and nothing to do at once first
    efforts = _EFFORTS if aims.wishes else _EFFORTS[1:]
    for turn in range(len(efforts) + 1):
        progress(Progress("optimize", "dose of the fluence"))
        fluences = tuple(operator.split(found.solution.fluence))
        leakage = expected_leakage(maps, fluences, case.machine, case.resolved.template.delivery.mode)
        planes = fluence_planes(maps, fluences, leakage, case)
        dose = doses.exact(planes) if turn == 0 else doses.near(planes)
        before, values = values, goal_values(case, dose.dose_gy)
        offset = voxels.difference_gy(dose.dose_gy, operator.forward(found.solution.fluence))
        # what of the difference is leakage matters only in the end
        nothing = np.zeros_like(offset)
        plan = IdealPlan(fluences, leakage, nothing, dose, values, aims, offset, iterations, tuple(objective))
        if best is None or ideal_loss(values) <= ideal_loss(best.values):
            best = plan
        if turn == len(efforts) or cancel.finishing or (turn > 0 and _settled(before, values, scale)):
            break
        at_voxels = voxels.dose_gy(dose.dose_gy)
        aims = corrected(aims, sets, scale, at_voxels, values)
        found = pursue(
            operator,
            aims,
            sets,
            scale,
            _AGAIN,
            smoothing=smoothing,
            warm_start=found,
            dose_offset_gy=offset,
            effort=efforts[turn],
            progress=progress,
            cancel=cancel,
        )
        iterations += found.iterations
        objective.append(found.solution.objective[-1])
    assert best is not None
    progress(Progress("optimize", "dose of the best fluence"))
    dose = doses.exact(fluence_planes(maps, best.fluences_mu, best.leakage, case))
    leakage_gy = _leakage_gy(maps, best.leakage, point_dose, case.resolved.fractions, best.difference_gy)
    offset = voxels.difference_gy(dose.dose_gy, operator.forward(np.concatenate(best.fluences_mu)))
    values = goal_values(case, dose.dose_gy)
    at_voxels = voxels.dose_gy(dose.dose_gy)
    aims = corrected(best.aims, sets, scale, at_voxels, values)
    plan = replace(
        best,
        leakage_gy=leakage_gy,
        dose=dose,
        values=values,
        aims=aims,
        difference_gy=offset - leakage_gy,
        iterations=iterations,
        objective=tuple(objective),
    )
    return _normalized(plan, case)


def _normalized(plan: IdealPlan, case: PlanningCase) -> IdealPlan:
    """The plan with the template's normalisation: what is delivered will have it, too."""
    scaling = normalization(case, plan.dose.dose_gy)
    if scaling is None:
        return plan
    factor = scaling.factor
    dose = DoseVolume(plan.dose.grid, (plan.dose.dose_gy * factor).astype(np.float32))
    return replace(
        plan,
        fluences_mu=tuple(fluence * factor for fluence in plan.fluences_mu),
        leakage=tuple(None if leak is None else leak.times(factor) for leak in plan.leakage),
        leakage_gy=plan.leakage_gy * factor,
        dose=dose,
        values=goal_values(case, dose.dose_gy),
        difference_gy=plan.difference_gy * factor,
    )


def ideal_loss(values: Mapping[StructureGoal, float]) -> tuple[float, float]:
    """:func:`~dicomplan.planning.case.plan_loss` of a fluence: what a hard limit is broken by up to 1 % counts as a goal's miss.

    Delivery tightens that by itself; a plan that has given its goals up is no better start for it.
    """
    hard, soft = plan_loss(values)
    return max(0.0, hard - _CURABLE), soft + hard


def _settled(before: Mapping[StructureGoal, float], after: Mapping[StructureGoal, float], scale_gy: float) -> bool:
    """Whether goals in Gy changed by less than :data:`SETTLED` of the scale, others by less than half a point."""
    return all(
        abs(after[goal] - before[goal]) <= (SETTLED * scale_gy if goal.goal.unit == "Gy" else 0.5)
        for goal in after
        if goal in before
    )


def _leakage_gy(
    maps: Sequence[BeamletMap],
    leakage: Sequence[BeamLeakage | None],
    point_dose: PointDose,
    fractions: int,
    like: FloatArray,
) -> FloatArray:
    """(voxels,) dose of the leakage of all beams by the optimiser's engine, Gy of the course, shaped ``like`` it."""
    total = np.zeros_like(like)
    for one, leak in zip(maps, leakage, strict=True):
        if leak is not None:
            total += fractions * point_dose(one.beam, leak.plane).astype(np.float64)
    return total

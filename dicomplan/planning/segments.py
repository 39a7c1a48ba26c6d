"""Segments of a plan: sequenced from the ideal fluence, their metersets optimised on the dose that they really give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import BeamDelivery, with_meterset
from dicomplan.beams.limits import violations
from dicomplan.dose.engines import delivery_plane, direction_planes
from dicomplan.dose.explicit import DenseInfluence
from dicomplan.dose.fluence import FluencePlane
from dicomplan.dose.influence import FactorisedInfluence
from dicomplan.dose.volume import DoseVolume
from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.optimization.solver import SolverSettings
from dicomplan.optimization.voxels import VoxelSet
from dicomplan.plan.derive import Region
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.anchoring import AnchoredDose
from dicomplan.planning.aperture_dose import ApertureDose
from dicomplan.planning.case import PlanningCase, goal_values, plan_loss
from dicomplan.planning.delivering import (
    SequencedPlan,
    part_metersets_mu,
    parts,
    sequence_plan,
    slide_plan,
    with_part_metersets,
)
from dicomplan.planning.imrt import IdealPlan
from dicomplan.planning.pursuing import Aims, Pursuit, corrected, pursue, reached
from dicomplan.planning.voxels import OptimizationVoxels, voxel_sets
from dicomplan.sequencing.aperture_moves import aperture_fluence, moved

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

TIGHTENING_ROUNDS = 4
"""How often segments are optimised again because the accurate dose breaks a hard limit or misses a goal."""

LOOKING_ROUNDS = 6
"""So many of these come before the exact dose of the best is known; the others follow where it breaks a limit."""

_QUICK, _QUICK_LOOKS = 30_000_000, 8  # where the dose of all segments has fewer elements, a look is cheap

_LEVELS = 30.0  # steps between nothing and the highest fluence of the plan, if the number of segments is free
_SETTINGS = SolverSettings(max_iterations=150, relative_change=5e-4)
_COARSER = 1.2  # the step grows by this until the segments are few enough
_PATIENCE = 1  # rounds in a row that were not worth it and are followed by another
_WORTH = 0.985  # a round that does not lower the loss to this part of the best one is the last
_SHIFT = 0.15  # of its dose: segments meet what voxels say of a goal, so what is judged must be told in full
_TRUST_MM = 10.0  # so far leaves move in one round
_MARGIN = 1.002  # of the minimum meterset, so that printed digits never fall below it

PointDose = Callable[[BeamDelivery, FluencePlane], Float32Array]
"""Dose (voxels,) at the optimisation voxels of one beam's plane, Gy of one fraction, by the optimiser's engine."""


@dataclass(frozen=True)
class DeliveredPlan:
    """Deliveries as they will be printed, their accurate dose and what it gives for each goal.

    ``errors``: what sequencing left of each optimised beam's fluence. ``passes``: objective after each optimisation of
    the metersets.
    """

    sequenced: SequencedPlan
    deliveries: tuple[BeamDelivery, ...]
    dose: DoseVolume
    values: Mapping[StructureGoal, float]
    passes: tuple[float, ...]


def sequenced_within(
    maps: Sequence[BeamletMap], ideal: IdealPlan, case: PlanningCase, max_segments: int | None
) -> SequencedPlan:
    """The ideal fluence as sliding windows, or in steps coarse enough for at most ``max_segments`` in the whole plan."""
    if case.resolved.template.delivery.mode == "sliding_window":
        return slide_plan(maps, ideal.fluences_mu, case.machine)
    highest = max(float(fluence.max(initial=0.0)) for fluence in ideal.fluences_mu)
    step = max(highest / _LEVELS, case.machine.min_segment_meterset_mu, 1e-3)
    while True:
        plan = sequence_plan(maps, ideal.fluences_mu, case.machine, step)
        if max_segments is None or count_segments(plan.deliveries) <= max_segments or step > 4.0 * highest:
            return plan
        step *= _COARSER


def count_segments(deliveries: Sequence[BeamDelivery]) -> int:
    """Number of segments of all beams."""
    return sum(len(item.segments) for item in deliveries)


def segment_influence(
    deliveries: Sequence[BeamDelivery], case: PlanningCase, point_dose: PointDose, cancel: Cancel
) -> DenseInfluence:
    """Dose of each segment (of a moving beam as a whole) for 1 MU at the optimisation voxels."""
    columns = []
    for item in deliveries:
        for part in parts(item):
            cancel.check()
            alone = with_meterset(part, 1.0 / part.meterset_mu)
            columns.append(point_dose(alone, delivery_plane(alone, case.machine)) * case.resolved.fractions)
    return DenseInfluence(np.ascontiguousarray(np.stack(columns), dtype=np.float32))


def with_plan_metersets(deliveries: Sequence[BeamDelivery], metersets_mu: FloatArray) -> tuple[BeamDelivery, ...]:
    """The deliveries with new metersets (all segments of all beams in order), to the digits that are printed."""
    return with_part_metersets(deliveries, metersets_mu)


@dataclass
class _Metersets:
    """Optimisation of the metersets of fixed apertures, round after round: each starts from what the last one gave."""

    case: PlanningCase
    sequenced: SequencedPlan
    influence: DenseInfluence
    sets: Mapping[Region, VoxelSet | None]
    voxels: OptimizationVoxels
    doses: AnchoredDose
    aims: Aims
    difference: FloatArray
    progress: ProgressCallback
    cancel: Cancel
    fine: FactorisedInfluence | None
    found: Pursuit | None = None
    passes: list[float] = field(default_factory=list)

    def optimise(self, *, exact: bool) -> DeliveredPlan:
        """Metersets for the present aims, none below the machine's minimum, and the dose that they give."""
        floor = np.full(self.influence.beamlet_count, _MARGIN * self.case.machine.min_segment_meterset_mu)
        sequenced = part_metersets_mu(self.sequenced.deliveries)
        self.found = pursue(
            self.influence,
            self.aims,
            self.sets,
            self.case.resolved.highest_level_gy,
            _SETTINGS,
            # metersets above the machine's minimum are what is free
            start=np.maximum(sequenced - floor, 0.0),
            warm_start=self.found,
            dose_offset_gy=self.difference + self.influence.forward(floor),
            effort=None,
            progress=_renamed(self.progress),
            cancel=self.cancel,
        )
        self.passes.append(self.found.solution.objective[-1])
        metersets = self.found.solution.fluence + floor
        return self.judged(with_plan_metersets(self.sequenced.deliveries, metersets), exact=exact)

    def again(self, plan: DeliveredPlan, *, exact: bool) -> DeliveredPlan:
        """Another round from a plan: leaf positions and metersets together where leaves may move, else metersets alone."""
        self.learn(plan)
        return self.optimise(exact=exact) if self.fine is None else self.move(plan, exact=exact)

    def move(self, plan: DeliveredPlan, *, exact: bool) -> DeliveredPlan:
        """Leaf positions and metersets together, from a plan whose dose is known."""
        assert self.fine is not None
        assert self.found is not None
        machine = self.case.machine
        maps = [beam.beamlets for beam in self.fine.beams]
        floor = _MARGIN * machine.min_segment_meterset_mu
        step = aperture_fluence(plan.deliveries, maps, machine, _TRUST_MM, floor)
        operator = ApertureDose(self.fine, step)
        optimised = np.asarray(operator.forward(step.start), dtype=np.float64)
        offset = self.voxels.difference_gy(plan.dose.dose_gy, optimised)
        at_start = replace(self.found.solution, fluence=step.start, fluence_scale=float(step.start.mean()))
        self.found = pursue(
            operator,
            self.aims,
            self.sets,
            self.case.resolved.highest_level_gy,
            _SETTINGS,
            warm_start=replace(self.found, solution=replace(at_start, dose_gy=optimised + offset)),
            dose_offset_gy=offset,
            most=step.most,
            effort=None,
            progress=_renamed(self.progress),
            cancel=self.cancel,
        )
        self.passes.append(self.found.solution.objective[-1])
        moves = moved(plan.deliveries, step, self.found.solution.fluence, machine)
        allowed = (
            new if not violations(new, machine) else old for old, new in zip(plan.deliveries, moves, strict=True)
        )
        return self.judged(tuple(allowed), exact=exact)

    def judged(self, deliveries: tuple[BeamDelivery, ...], *, exact: bool) -> DeliveredPlan:
        """Dose and goal values of deliveries, exact or near the last exact dose."""
        self.progress(Progress("final_dose", f"round {len(self.passes)}"))
        planes = direction_planes(deliveries, self.case.machine)
        dose = self.doses.exact(planes) if exact else self.doses.near(planes)
        values = goal_values(self.case, dose.dose_gy)
        return DeliveredPlan(self.sequenced, deliveries, dose, values, tuple(self.passes))

    def learn(self, plan: DeliveredPlan) -> None:
        """Hold what the plan's dose says otherwise than the optimiser, and pursue what it misses."""
        metersets = part_metersets_mu(plan.deliveries)
        accurate = plan.dose.dose_gy.ravel()[self.voxels.indices].astype(np.float64)
        self.difference = self.voxels.difference_gy(plan.dose.dose_gy, self.influence.forward(metersets))
        self.aims = corrected(self.aims, self.sets, self.case.resolved.highest_level_gy, accurate, plan.values, _SHIFT)


def deliver(
    case: PlanningCase,
    maps: Sequence[BeamletMap],
    ideal: IdealPlan,
    voxels: OptimizationVoxels,
    doses: AnchoredDose,
    point_dose: PointDose,
    max_segments: int | None,
    fine: FactorisedInfluence | None = None,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> DeliveredPlan:
    """Sequence the ideal fluence and optimise the metersets until the accurate dose holds what it can.

    Each round looks at the dose of the printed digits, holds its difference to the optimiser's dose, tightens
    a broken hard limit by its overshoot and moves the aims of goals by what they are judged otherwise. While goals
    alone are at stake it looks near the last exact dose; a broken limit is always looked at exactly, and so is the best
    round in the end: if its exact dose breaks a limit, the rounds that are left go on from there. With ``fine`` (all
    cells of finer maps of the same beams) leaf positions are optimised together with the metersets of later rounds. Once
    ``cancel`` is finishing, the best round so far is taken.
    """
    cancel = cancel or Cancel()
    progress(Progress("sequence", "leaf positions"))
    sequenced = sequenced_within(maps, ideal, case, max_segments)
    if any(item.moving for item in sequenced.deliveries):
        fine = None  # the sweep binds the leaves
    progress(Progress("sequence", f"dose of {count_segments(sequenced.deliveries)} segments"))
    influence = segment_influence(sequenced.deliveries, case, point_dose, cancel)
    sets = voxel_sets(case, voxels, ideal.aims.regions)
    aims = reached(ideal.aims, ideal.values)
    work = _Metersets(
        case, sequenced, influence, sets, voxels, doses, aims, ideal.difference_gy, progress, cancel, fine
    )
    found = best = work.optimise(exact=False)
    exact = False
    rounds = idle = 0
    looks = _QUICK_LOOKS if influence.voxel_count * influence.beamlet_count < _QUICK else LOOKING_ROUNDS
    while rounds < looks and plan_loss(best.values) != (0.0, 0.0) and not cancel.finishing:
        rounds += 1
        broken = plan_loss(found.values)[0] > 0
        found = work.again(found, exact=broken)
        worth = broken or plan_loss(found.values)[1] < _WORTH * plan_loss(best.values)[1]
        if plan_loss(found.values) < plan_loss(best.values):
            best, exact = found, broken
        idle = 0 if worth else idle + 1
        if idle > _PATIENCE:
            break
    if not exact:
        best = work.judged(best.deliveries, exact=True)
    while (
        rounds < looks + TIGHTENING_ROUNDS - LOOKING_ROUNDS and plan_loss(best.values)[0] > 0 and not cancel.finishing
    ):
        rounds += 1
        found = work.again(best, exact=True)
        best = min(best, found, key=lambda plan: plan_loss(plan.values))
    return replace(best, passes=tuple(work.passes))


def _renamed(progress: ProgressCallback) -> ProgressCallback:
    def note(event: Progress) -> None:
        progress(replace(event, stage="sequence", message=f"metersets: {event.message}"))

    return note

"""Segments of a plan: sequenced from the ideal fluence, their metersets optimised on the dose that they really give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import BeamDelivery, Segment
from dicomplan.dose.engines import delivery_plane, direction_planes
from dicomplan.dose.explicit import DenseInfluence
from dicomplan.dose.fluence import FluencePlane
from dicomplan.dose.volume import DoseVolume
from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.optimization.build import build, regions
from dicomplan.optimization.solver import Solution, SolverSettings, solve
from dicomplan.plan.derive import ObjectiveSpec, tightened
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.anchoring import AnchoredDose
from dicomplan.planning.case import PlanningCase, goal_values, plan_loss
from dicomplan.planning.delivering import SequencedPlan, sequence_plan
from dicomplan.planning.imrt import IdealPlan, raised, shifted
from dicomplan.planning.voxels import OptimizationVoxels, voxel_sets
from dicomplan.sequencing.step_and_shoot import rounded

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

TIGHTENING_ROUNDS = 4
"""How often metersets are optimised again because the accurate dose breaks a hard limit or misses a goal."""

_LEVELS = 30.0  # steps between nothing and the highest fluence of the plan, if the number of segments is free
_SETTINGS = SolverSettings(max_iterations=150, relative_change=5e-4)
_AGAIN = SolverSettings(max_iterations=60, relative_change=5e-4)
_COARSER = 1.2  # the step grows by this until the segments are few enough
_WORTH = 0.97  # a round that does not lower the loss to this part of the best one is the last
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
    """The ideal fluence sequenced, in steps coarse enough for at most ``max_segments`` in the whole plan."""
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
    """Dose of each segment for 1 MU at the optimisation voxels."""
    columns = []
    for item in deliveries:
        for segment in item.segments:
            cancel.check()
            alone = replace(item, segments=(Segment(segment.aperture, 1.0),))
            columns.append(point_dose(alone, delivery_plane(alone, case.machine)) * case.resolved.fractions)
    return DenseInfluence(np.ascontiguousarray(np.stack(columns), dtype=np.float32))


def with_plan_metersets(deliveries: Sequence[BeamDelivery], metersets_mu: FloatArray) -> tuple[BeamDelivery, ...]:
    """The deliveries with new metersets (all segments of all beams in order), to the digits that are printed."""
    remaining = iter(metersets_mu.tolist())
    return tuple(
        replace(item, segments=tuple(rounded(Segment(one.aperture, next(remaining))) for one in item.segments))
        for item in deliveries
    )


def deliver(
    case: PlanningCase,
    maps: Sequence[BeamletMap],
    ideal: IdealPlan,
    voxels: OptimizationVoxels,
    doses: AnchoredDose,
    point_dose: PointDose,
    max_segments: int | None,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> DeliveredPlan:
    """Sequence the ideal fluence and optimise the metersets until the accurate dose holds what it can.

    Each round looks at the accurate dose of the printed digits, holds its difference to the optimiser's dose, tightens
    a broken hard limit by its overshoot and gives missed goals more weight. The best round is kept, its dose exact.
    """
    cancel = cancel or Cancel()
    progress(Progress("sequence", "leaf positions"))
    sequenced = sequenced_within(maps, ideal, case, max_segments)
    progress(Progress("sequence", f"dose of {count_segments(sequenced.deliveries)} segments"))
    influence = segment_influence(sequenced.deliveries, case, point_dose, cancel)
    least = _MARGIN * case.machine.min_segment_meterset_mu
    floor = np.full(influence.beamlet_count, least)
    metersets = np.array([one.meterset_mu for item in sequenced.deliveries for one in item.segments])
    specs: tuple[ObjectiveSpec, ...] = ideal.specs
    sets = voxel_sets(case, voxels, regions(specs))
    difference = ideal.difference_gy
    shifts = dict(ideal.shifts_gy)
    best: DeliveredPlan | None = None
    solution: Solution | None = None
    passes: list[float] = []
    for turn in range(1 + TIGHTENING_ROUNDS):
        built = build(tightened(specs, shifts), sets, case.resolved.highest_level_gy)
        solution = solve(
            influence,
            built.problem,
            start=np.maximum(metersets - floor, 0.0) if solution is None else None,
            warm_start=solution,
            # metersets above the machine's minimum are what is free
            dose_offset_gy=difference + influence.forward(floor),
            settings=_SETTINGS if turn == 0 else _AGAIN,
            progress=_renamed(progress),
            cancel=cancel,
        )
        passes.append(solution.objective[-1])
        metersets = solution.fluence + floor
        deliveries = with_plan_metersets(sequenced.deliveries, metersets)
        progress(Progress("final_dose", f"round {turn + 1}"))
        planes = direction_planes(deliveries, case.machine)
        dose = doses.exact(planes) if turn == 0 else doses.near(planes)
        values = goal_values(case, dose.dose_gy)
        found = DeliveredPlan(sequenced, deliveries, dose, values, tuple(passes))
        hard, soft = plan_loss(values)
        worth = best is None or hard > 0 or soft < _WORTH * plan_loss(best.values)[1]
        if best is None or (hard, soft) < plan_loss(best.values):
            best = found
        if (hard, soft) == (0.0, 0.0) or not worth:
            break
        accurate = dose.dose_gy.ravel()[voxels.indices].astype(np.float64)
        difference = accurate - np.asarray(influence.forward(metersets), dtype=np.float64)
        specs, shifts = raised(specs, values, 2.0), shifted(shifts, values)
    assert best is not None
    if turn > 0:
        progress(Progress("final_dose", "of the best round"))
        dose = doses.exact(direction_planes(best.deliveries, case.machine))
        best = replace(best, dose=dose, values=goal_values(case, dose.dose_gy))
    return replace(best, passes=tuple(passes))


def _renamed(progress: ProgressCallback) -> ProgressCallback:
    def note(event: Progress) -> None:
        progress(replace(event, stage="sequence", message=f"metersets: {event.message}"))

    return note

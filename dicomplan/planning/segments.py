"""Segments of a plan: sequenced from the ideal fluence, their metersets optimised on the dose that they really give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import BeamDelivery, with_meterset
from dicomplan.dose.engines import delivery_plane
from dicomplan.dose.explicit import DenseInfluence
from dicomplan.dose.influence import FactorisedInfluence
from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.optimization.voxels import VoxelSet
from dicomplan.plan.derive import Region
from dicomplan.planning.anchoring import AnchoredDose
from dicomplan.planning.case import PlanningCase
from dicomplan.planning.delivering import (
    SequencedPlan,
    part_metersets_mu,
    parts,
    sequence_plan,
    slide_plan,
)
from dicomplan.planning.delivery_rounds import METERSET_MARGIN, DeliveredPlan, Rounds, count_segments
from dicomplan.planning.generating import first_apertures, generated, instead_of
from dicomplan.planning.imrt import IdealPlan, PointDose
from dicomplan.planning.levels import DOSE_TOLERANCE, steps_by_dose
from dicomplan.planning.near_ideal import delivery_loss, goal_loss, kept_near
from dicomplan.planning.pursuing import reached
from dicomplan.planning.voxels import OptimizationVoxels, voxel_sets

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

TIGHTENING_ROUNDS = 8
"""How often segments are optimised again because the accurate dose breaks a hard limit or misses a goal."""

LOOKING_ROUNDS = 6
"""So many of these come before the exact dose of the best is known; the others follow where it breaks a limit."""

_QUICK, _QUICK_LOOKS = 30_000_000, 8  # where the dose of all segments has fewer elements, a look is cheap

_COARSER = 1.2  # the step grows by this until the segments are few enough
_PATIENCE = 1  # rounds in a row that were not worth it and are followed by another
_WORTH = 0.015  # of the loss, and of a percent: what a round must gain to be worth it


def sequenced_within(
    maps: Sequence[BeamletMap],
    influence: FactorisedInfluence,
    ideal: IdealPlan,
    case: PlanningCase,
    max_segments: int | None,
    cancel: Cancel | None = None,
) -> SequencedPlan:
    """The ideal fluence as sliding windows, or in the steps that its dose asks for, in at most ``max_segments`` in the plan.

    Where even one level of each beam takes more segments, steps grow until they fit or nothing is left to give up.
    """
    if case.resolved.template.delivery.mode == "sliding_window":
        return slide_plan(maps, ideal.with_leakage_mu, case.machine)
    tolerance = DOSE_TOLERANCE * case.resolved.highest_level_gy
    steps = steps_by_dose(maps, ideal.fluences_mu, case.machine, influence, tolerance, max_segments, cancel)
    highest = max(float(fluence.max(initial=0.0)) for fluence in ideal.fluences_mu)
    while True:
        plan = sequence_plan(maps, ideal.fluences_mu, case.machine, steps)
        if max_segments is None or count_segments(plan.deliveries) <= max_segments or min(steps) > 4.0 * highest:
            return plan
        steps = [_COARSER * step for step in steps]


def segment_influence(
    deliveries: Sequence[BeamDelivery], case: PlanningCase, point_dose: PointDose, cancel: Cancel
) -> DenseInfluence:
    """Dose of each segment (of a moving beam as a whole) for 1 MU at the optimisation voxels."""
    columns = []
    for item in deliveries:
        for part in parts(item):
            cancel.check()
            alone = with_meterset(part, 1.0 / part.meterset_mu)
            columns.append(point_dose(alone.beam, delivery_plane(alone, case.machine)) * case.resolved.fractions)
    return DenseInfluence(np.ascontiguousarray(np.stack(columns), dtype=np.float32))


def generated_within(
    maps: Sequence[BeamletMap],
    ideal: IdealPlan,
    case: PlanningCase,
    voxels: OptimizationVoxels,
    sets: Mapping[Region, VoxelSet | None],
    fine: FactorisedInfluence,
    max_segments: int,
    progress: ProgressCallback,
    cancel: Cancel,
) -> SequencedPlan | None:
    """``max_segments`` apertures made from nothing for the ideal dose.

    None where neighbouring leaves bind each other, or not even the first apertures of all beams are so few.
    """
    if not case.machine.mlc.interdigitation:
        return None
    first = first_apertures(maps, ideal.fluences_mu, case.machine)
    if count_segments(first.deliveries) > max_segments:
        return None
    dose = voxels.dose_gy(ideal.dose.dose_gy)
    deliveries = generated(
        first.deliveries,
        fine,
        np.tile(dose, voxels.scenarios),
        ideal.difference_gy,
        sets,
        [target.name for target in case.resolved.targets],
        case.resolved.highest_level_gy,
        case.machine,
        max_segments,
        METERSET_MARGIN * case.machine.min_segment_meterset_mu,
        progress,
        cancel,
    )
    return instead_of(first, deliveries, maps, ideal.fluences_mu, case.machine)


def deliver(
    case: PlanningCase,
    maps: Sequence[BeamletMap],
    influence: FactorisedInfluence,
    ideal: IdealPlan,
    voxels: OptimizationVoxels,
    doses: AnchoredDose,
    point_dose: PointDose,
    max_segments: int | None,
    fine: FactorisedInfluence | None = None,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> DeliveredPlan:
    """What a machine delivers in place of the ideal fluence, optimised on the dose that it gives.

    Segments come from sequencing the fluence, their metersets optimised; where their number is stated and leaves may
    interdigitate also from column generation, and what loses less is gone on with. Sliding windows sweep the fluence. Then
    rounds: leaf positions and metersets together (with ``fine``: all cells of finer maps of the same beams), or another sweep
    of a fluence that makes up for what the last one did otherwise. Each round looks at the dose of the printed digits, holds
    its difference to the optimiser's dose, tightens a broken hard limit by its overshoot and moves the aims of goals by what
    they are judged otherwise; what it lost counts after normalisation. While goals alone are at stake it looks near the last
    exact dose; a broken limit is always looked at exactly, and so is the best round in the end: if its exact dose breaks a
    limit, the rounds that are left go on from there. Once ``cancel`` is finishing, the best round so far is taken.
    """
    cancel = cancel or Cancel()
    progress(Progress("sequence", "leaf positions"))
    sets = voxel_sets(case, voxels, ideal.aims.regions)
    level = case.resolved.highest_level_gy
    if case.resolved.template.delivery.mode == "sliding_window":
        fine = None  # the sweep binds the leaves

    def begun(plan: SequencedPlan, parts_dose: DenseInfluence | None) -> Rounds:
        return Rounds(
            case,
            plan,
            parts_dose,
            sets,
            voxels,
            doses,
            kept_near(reached(ideal.aims, ideal.values), ideal.values, level),
            ideal.difference_gy,
            progress,
            cancel,
            influence,
            [(plan, np.concatenate(ideal.with_leakage_mu))],
            fine,
            max_segments,
        )

    def loss(plan: DeliveredPlan) -> tuple[float, float]:
        return delivery_loss(plan.normalized, ideal.values, level)

    sequenced = sequenced_within(maps, influence, ideal, case, max_segments, cancel)
    progress(Progress("sequence", f"dose of {count_segments(sequenced.deliveries)} segments"))
    work = begun(sequenced, segment_influence(sequenced.deliveries, case, point_dose, cancel))
    found = best = work.first()
    losses = [goal_loss(best.normalized, ideal.values, level)]
    other = None
    if fine is not None and max_segments is not None and loss(best) > (0.0, 0.0) and not cancel.finishing:
        other = generated_within(maps, ideal, case, voxels, sets, fine, max_segments, progress, cancel)
    if other is not None:
        another = begun(other, None)
        first = another.first()
        losses.append(goal_loss(first.normalized, ideal.values, level))
        if loss(first) < loss(best):
            work, found, best = another, first, first
    exact = False
    rounds = idle = 0
    variables = len(part_metersets_mu(best.deliveries))
    looks = _QUICK_LOOKS if len(voxels.indices) * variables < _QUICK else LOOKING_ROUNDS
    while rounds < looks and loss(best) > (0.0, 0.0) and idle <= _PATIENCE and not cancel.finishing:
        rounds += 1
        broken = loss(found)[0] > 0
        found = work.again(found, exact=broken)
        losses.append(goal_loss(found.normalized, ideal.values, level))
        gained = loss(best)[1] - loss(found)[1]
        idle = 0 if broken or gained > max(_WORTH * abs(loss(best)[1]), _WORTH) else idle + 1
        if loss(found) < loss(best):
            best, exact = found, broken
    if not exact:
        best = replace(work.judged(best.deliveries, exact=True), sequenced=best.sequenced)
    while rounds < looks + TIGHTENING_ROUNDS - LOOKING_ROUNDS and loss(best)[0] > 0 and not cancel.finishing:
        rounds += 1
        found = work.again(best, exact=True)
        best = min(best, found, key=loss)
    losses.append(goal_loss(best.normalized, ideal.values, level))
    generating = other is not None and work.sequenced is other
    return replace(best, passes=tuple(work.passes), generated=generating, goal_losses=tuple(losses))

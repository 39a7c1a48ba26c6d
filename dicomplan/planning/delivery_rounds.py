"""Rounds of optimising what is delivered on its accurate dose: metersets, leaf positions, sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import BeamDelivery
from dicomplan.beams.limits import violations
from dicomplan.dose.engines import direction_planes
from dicomplan.dose.explicit import DenseInfluence
from dicomplan.dose.influence import FactorisedInfluence
from dicomplan.dose.volume import DoseVolume
from dicomplan.events import Cancel, Progress, ProgressCallback
from dicomplan.optimization.meterset import Meterset
from dicomplan.optimization.solver import SolverSettings
from dicomplan.optimization.voxels import VoxelSet
from dicomplan.plan.derive import Region
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.anchoring import AnchoredDose
from dicomplan.planning.aperture_dose import ApertureDose, begun
from dicomplan.planning.case import PlanningCase, goal_samples, values_of
from dicomplan.planning.delivering import (
    SequencedPlan,
    part_metersets_mu,
    slide_plan,
    with_part_metersets,
)
from dicomplan.planning.imrt import plan_smoothing
from dicomplan.planning.normalizing import normalization, scaled_samples
from dicomplan.planning.pursuing import GUIDE_SHARE, Aims, Pursuit, corrected, pursue
from dicomplan.planning.voxels import OptimizationVoxels
from dicomplan.sequencing.aperture_moves import aperture_fluence, moved, without_slits
from dicomplan.sequencing.pricing import grown

FloatArray = NDArray[np.float64]

_SETTINGS = SolverSettings(max_iterations=150, relative_change=5e-4)
_SHIFT = 0.15  # of its dose: segments meet what voxels say of a goal, so what is judged must be told in full
_TRUST_MM = 10.0  # so far leaves move in one round

METERSET_WEIGHT = 1.0
"""Of the total meterset where it is optimised, relative to what it was."""

METERSET_MARGIN = 1.002
"""Of the minimum meterset: the least that is optimised, so that printed digits never fall below it."""


@dataclass(frozen=True)
class DeliveredPlan:
    """Deliveries to the digits that are printed, before normalisation; their accurate dose and what it gives for each goal.

    ``normalized``: what it will give once the template's normalisation has been applied. ``errors``: what sequencing left of
    each optimised beam's fluence. ``passes``: objective after each optimisation of the metersets. ``generated``: whether
    segments come from column generation. ``goal_losses`` (:func:`~dicomplan.planning.near_ideal.goal_loss`, normalised) of
    each plan that was looked at: of what was sequenced, its metersets optimised, of what was generated where it was, and of
    each round; last of this plan.
    """

    sequenced: SequencedPlan
    deliveries: tuple[BeamDelivery, ...]
    dose: DoseVolume
    values: Mapping[StructureGoal, float]
    normalized: Mapping[StructureGoal, float]
    passes: tuple[float, ...]
    generated: bool = False
    goal_losses: tuple[float, ...] = ()


def count_segments(deliveries: Sequence[BeamDelivery]) -> int:
    """Number of segments of all beams."""
    return sum(len(item.segments) for item in deliveries)


@dataclass
class Rounds:
    """Optimisation of what is delivered, round after round: each starts from what the last one gave.

    ``influence`` (of parts) gives the dose of metersets (None: they need no optimisation of their own), ``coarse`` that of
    fluence on beamlets, ``fine`` that of fluence on the cells that leaf positions are seen on (None: leaves stay).
    ``swept``: sliding windows with the fluence (beamlets,) that each was made of.
    """

    case: PlanningCase
    sequenced: SequencedPlan
    influence: DenseInfluence | None
    sets: Mapping[Region, VoxelSet | None]
    voxels: OptimizationVoxels
    doses: AnchoredDose
    aims: Aims
    difference: FloatArray
    progress: ProgressCallback
    cancel: Cancel
    coarse: FactorisedInfluence
    swept: list[tuple[SequencedPlan, FloatArray]]
    fine: FactorisedInfluence | None
    max_segments: int | None = None
    slopes: FloatArray | None = None
    found: Pursuit | None = None
    passes: list[float] = field(default_factory=list)

    def first(self) -> DeliveredPlan:
        """What there is to begin with, its metersets optimised where their dose is known one by one."""
        if self.influence is None:
            return self.judged(self.sequenced.deliveries, exact=False)
        return self.optimise(exact=False)

    def optimise(self, *, exact: bool) -> DeliveredPlan:
        """Metersets for the present aims, none below the machine's minimum, and the dose that they give."""
        assert self.influence is not None
        floor = np.full(self.influence.beamlet_count, METERSET_MARGIN * self.case.machine.min_segment_meterset_mu)
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
            meterset=Meterset(METERSET_WEIGHT, float(sequenced.mean())),
            effort=None,
            progress=_renamed(self.progress),
            cancel=self.cancel,
        )
        self.passes.append(self.found.solution.objective[-1])
        metersets = self.found.solution.fluence + floor
        return self.judged(with_part_metersets(self.sequenced.deliveries, metersets), exact=exact)

    def again(self, plan: DeliveredPlan, *, exact: bool) -> DeliveredPlan:
        """Another round from a plan whose dose is known: leaf positions and metersets together, or another sweep."""
        if self.sweeping and plan.deliveries is not plan.sequenced.deliveries:
            # metersets were scaled beam by beam: what the fluence leads to is the sweep as it was made
            plan = replace(self.judged(plan.sequenced.deliveries, exact=False), sequenced=plan.sequenced)
        self.learn(plan)
        if self.sweeping:
            return self.resweep(plan, exact=exact)
        return self.optimise(exact=exact) if self.fine is None else self.move(plan, exact=exact)

    @property
    def sweeping(self) -> bool:
        """Whether leaves move while the beam is on."""
        return any(item.moving for item in self.sequenced.deliveries)

    def move(self, plan: DeliveredPlan, *, exact: bool) -> DeliveredPlan:
        """Leaf positions and metersets together, from a plan whose dose is known."""
        assert self.fine is not None
        machine = self.case.machine
        maps = [beam.beamlets for beam in self.fine.beams]
        floor = METERSET_MARGIN * machine.min_segment_meterset_mu
        before = ApertureDose(self.fine, aperture_fluence(plan.deliveries, maps, machine, _TRUST_MM, floor))
        offset = self.voxels.difference_gy(plan.dose.dose_gy, before.forward(before.step.start))
        deliveries, room = plan.deliveries, (self.max_segments or 0) - count_segments(plan.deliveries)
        if room > 0 and self.slopes is not None and machine.mlc.interdigitation:
            deliveries = grown(deliveries, maps, self.slopes, machine, room, floor)
        step = aperture_fluence(deliveries, maps, machine, _TRUST_MM, floor)
        operator = ApertureDose(self.fine, step)
        optimised = np.asarray(operator.forward(step.start), dtype=np.float64)
        states = () if self.found is None else self.found.states
        self.found = pursue(
            operator,
            self.aims,
            self.sets,
            self.case.resolved.highest_level_gy,
            _SETTINGS,
            warm_start=Pursuit(begun(step.start, optimised + offset), states, 0),
            dose_offset_gy=offset,
            meterset=Meterset(METERSET_WEIGHT, float(step.metersets_mu.mean()) / step.unit_mu, step.count),
            most=step.most,
            effort=None,
            progress=_renamed(self.progress),
            cancel=self.cancel,
        )
        self.passes.append(self.found.solution.objective[-1])
        self.slopes = operator.cells
        moves = without_slits(moved(deliveries, step, self.found.solution.fluence, machine), machine)
        allowed = (
            new if not violations(new, machine) else old for old, new in zip(plan.deliveries, moves, strict=True)
        )
        return self.judged(tuple(allowed), exact=exact)

    def resweep(self, plan: DeliveredPlan, *, exact: bool) -> DeliveredPlan:
        """Sliding windows of a fluence that makes up for what the last sweep did otherwise: its floor, gaps and rounding."""
        fluence = next(of for swept, of in self.swept if swept is plan.sequenced)
        maps = [beam.beamlets for beam in self.coarse.beams]
        optimised = np.asarray(self.coarse.forward(fluence), dtype=np.float64)
        offset = self.voxels.difference_gy(plan.dose.dose_gy, optimised)
        smoothing = plan_smoothing(maps)
        if self.aims.wishes:
            smoothing = replace(smoothing, weight=smoothing.weight * GUIDE_SHARE)
        self.found = pursue(
            self.coarse,
            self.aims,
            self.sets,
            self.case.resolved.highest_level_gy,
            _SETTINGS,
            smoothing=smoothing,
            warm_start=Pursuit(begun(fluence, optimised + offset), (), 0),
            dose_offset_gy=offset,
            effort=None,
            progress=_renamed(self.progress),
            cancel=self.cancel,
        )
        self.passes.append(self.found.solution.objective[-1])
        fluence = self.found.solution.fluence
        self.sequenced = slide_plan(maps, self.coarse.split(fluence), self.case.machine)
        self.swept.append((self.sequenced, fluence))
        return self.judged(self.sequenced.deliveries, exact=exact)

    def judged(self, deliveries: tuple[BeamDelivery, ...], *, exact: bool) -> DeliveredPlan:
        """Dose and goal values of deliveries, exact or near the last exact dose."""
        self.progress(Progress("final_dose", f"round {len(self.passes)}"))
        planes = direction_planes(deliveries, self.case.machine)
        dose = self.doses.exact(planes) if exact else self.doses.near(planes)
        samples = goal_samples(self.case, dose.dose_gy)
        values = after = values_of(self.case, samples)
        scaling = normalization(self.case, dose.dose_gy)
        if scaling is not None:
            scaled = {name: scaled_samples(one, scaling.factor) for name, one in samples.items()}
            after = values_of(self.case, scaled)
        return DeliveredPlan(self.sequenced, deliveries, dose, values, after, tuple(self.passes))

    def learn(self, plan: DeliveredPlan) -> None:
        """Hold what the plan's dose says otherwise than the optimiser, and pursue what it misses."""
        accurate = self.voxels.dose_gy(plan.dose.dose_gy)
        if self.fine is None and self.influence is not None and not self.sweeping:
            metersets = part_metersets_mu(plan.deliveries)
            self.difference = self.voxels.difference_gy(plan.dose.dose_gy, self.influence.forward(metersets))
        self.aims = corrected(self.aims, self.sets, self.case.resolved.highest_level_gy, accurate, plan.values, _SHIFT)


def _renamed(progress: ProgressCallback) -> ProgressCallback:
    def note(event: Progress) -> None:
        progress(replace(event, stage="sequence", message=f"metersets: {event.message}"))

    return note

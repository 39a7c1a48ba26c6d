"""PlanningCase: all that planning needs to know of patient, template and machine, on the dose grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.machine.model import MachineModel
from dicomplan.metrics.dvh import DoseSamples, evaluate
from dicomplan.metrics.sampling import dose_samples
from dicomplan.patient.case import Coverage
from dicomplan.patient.density import DensityVolume
from dicomplan.plan.resolve import ResolvedTemplate
from dicomplan.plan.template import StructureGoal

Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class PlanningCase:
    """``density`` on the dose grid, air outside of what counts; ``body`` (z, y, x) the covered fraction of BODY there.

    ``coverages`` by canonical name, on their structure grids, BODY and derived ones included.
    """

    resolved: ResolvedTemplate
    coverages: Mapping[str, Coverage]
    density: DensityVolume
    body: Float32Array
    machine: MachineModel
    patient_position: str


def goal_value(goal: StructureGoal, samples: DoseSamples) -> float | None:
    """What a dose gives for a goal, in the goal's unit; None for an empty structure."""
    if samples.volume_cc <= 0:
        return None
    return evaluate(goal.goal.metric, samples, goal.goal.unit)


def goal_samples(case: PlanningCase, dose_gy: Float32Array) -> dict[str, DoseSamples]:
    """A dose (z, y, x; Gy of the course) in every structure that a goal or hard constraint is about."""
    names = dict.fromkeys(goal.structure for goal in (*case.resolved.constraints, *case.resolved.goals))
    return {name: dose_samples(case.coverages[name], dose_gy, case.density.grid) for name in names}


def values_of(case: PlanningCase, samples: Mapping[str, DoseSamples]) -> dict[StructureGoal, float]:
    """Value of every goal and hard constraint on :func:`goal_samples`; empty structures are left out."""
    wanted = (*case.resolved.constraints, *case.resolved.goals)
    found = ((goal, goal_value(goal, samples[goal.structure])) for goal in wanted)
    return {goal: value for goal, value in found if value is not None}


def goal_values(case: PlanningCase, dose_gy: Float32Array) -> dict[StructureGoal, float]:
    """Value of every goal and hard constraint on a dose (z, y, x; Gy of the course); empty structures are left out."""
    return values_of(case, goal_samples(case, dose_gy))


def shortfall(goal: StructureGoal, value: float) -> float:
    """By how much a goal is missed, relative to its limit (0 or less: met; what is to spare is negative)."""
    scale = max(abs(goal.goal.limit), 1e-6)
    difference = value - goal.goal.limit if goal.goal.at_most else goal.goal.limit - value
    return difference / scale


def plan_loss(values: Mapping[StructureGoal, float]) -> tuple[float, float]:
    """How bad a plan is, to be compared: excess of the hard constraints, then the goals' shortfalls.

    The shortfalls are summed, a later group of goals counting 0.7 of the one before it, each unmet goal with 0.5 % more
    so that a goal just missed is worth curing. A goal that is exceeded many times counts by its own value, not its limit,
    as while it is pursued: out of reach it would outweigh all others by what is a trace of it, and of two hard limits that
    fight a plan of no dose at all would break the one least.
    """
    hard = sum(max(0.0, _bounded(goal, shortfall(goal, value))) for goal, value in values.items() if goal.hard)
    soft = sum(
        0.7 ** (goal.priority - 1) * (_bounded(goal, shortfall(goal, value)) + 0.005)
        for goal, value in values.items()
        if not goal.hard and shortfall(goal, value) > 0
    )
    return hard, soft


def _bounded(goal: StructureGoal, missing: float) -> float:
    """A shortfall relative to the greater of limit and value: below 1, and for a near miss the same."""
    return missing / (1.0 + missing) if goal.goal.at_most else missing

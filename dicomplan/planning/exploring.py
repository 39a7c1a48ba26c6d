"""The front between two goals of a template on the fluence: what giving one of them up brings the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from dicomplan.dose.influence import FactorisedInfluence
from dicomplan.errors import UsageError
from dicomplan.events import Cancel, Progress, ProgressCallback, ignore_progress
from dicomplan.optimization.build import build
from dicomplan.optimization.constraints import missing_share, relaxed
from dicomplan.optimization.solver import solve
from dicomplan.optimization.trade_offs import trade_off
from dicomplan.patient.names import normalise
from dicomplan.plan.derive import ObjectiveSpec, tightened
from dicomplan.plan.resolve import ResolvedTemplate
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.anchoring import AnchoredDose
from dicomplan.planning.case import PlanningCase, goal_values
from dicomplan.planning.imrt import FIRST, IdealPlan, fluence_planes, plan_smoothing
from dicomplan.planning.pursuing import GUIDE_SHARE
from dicomplan.planning.voxels import OptimizationVoxels, voxel_sets

COUNT = 7
"""Plans of a front."""


@dataclass(frozen=True)
class Front:
    """Plans between two goals: ``values`` of every goal and hard constraint in each, on the accurate dose of the fluence.

    The first plan is the best of the first goal, the last that of the second; other goals stay met, or as the plan itself
    has them where it misses them. ``dominated``: whether another plan of the front is as good in both goals and better in one.
    """

    goals: tuple[StructureGoal, StructureGoal]
    values: tuple[Mapping[StructureGoal, float], ...]

    @property
    def dominated(self) -> tuple[bool, ...]:
        """For each plan."""
        points = [tuple(_cost(goal, values[goal]) for goal in self.goals) for values in self.values]
        return tuple(
            any(all(a <= b for a, b in zip(other, one, strict=True)) and other != one for other in points)
            for one in points
        )


def _cost(goal: StructureGoal, value: float) -> float:
    return value if goal.goal.at_most else -value


def explored_goals(resolved: ResolvedTemplate, text: str) -> tuple[StructureGoal, StructureGoal]:
    """The two goals that ``A:B`` names, each by its structure, or by structure and metric (``Parotid_L Dmean``).

    Raises UsageError for a text without one colon, and for a side that names no goal, several, or the other side's; it
    lists what there is.
    """
    sides = text.split(":")
    if len(sides) != 2:
        raise UsageError(f"--explore {text}: two goals and a colon between them are expected", hint=_listed(resolved))
    if resolved.objectives:
        raise UsageError("--explore: the template writes its own objectives, so its goals lead no search")
    first, second = (_goal(resolved, side.strip()) for side in sides)
    if first == second:
        raise UsageError(f"--explore {text}: both sides name the same goal", hint=_listed(resolved))
    return first, second


def _goal(resolved: ResolvedTemplate, side: str) -> StructureGoal:
    found = [
        goal
        for goal in resolved.goals
        if normalise(side) in (normalise(goal.structure), normalise(f"{goal.structure} {goal.goal.metric.name}"))
    ]
    if len(found) != 1:
        told = "names several goals: write its metric as well" if found else "names no goal of the template"
        raise UsageError(f"--explore: '{side}' {told}", hint=_listed(resolved))
    return found[0]


def _listed(resolved: ResolvedTemplate) -> str:
    return "goals: " + ", ".join(f"{goal.structure} {goal.goal.metric.name}" for goal in resolved.goals)


def explore(
    case: PlanningCase,
    operator: FactorisedInfluence,
    voxels: OptimizationVoxels,
    ideal: IdealPlan,
    doses: AnchoredDose,
    goals: tuple[StructureGoal, StructureGoal],
    *,
    count: int = COUNT,
    progress: ProgressCallback = ignore_progress,
    cancel: Cancel | None = None,
) -> Front:
    """The front between two goals, ``count`` plans from the ideal fluence in one warm-started run.

    Hard limits hold in every plan; other goals are kept at their limits, those that the ideal fluence misses at what it
    reached, and all within the template's slack: on the operator, with the difference of the ideal dose to the accurate one.
    """
    scale = case.resolved.highest_level_gy
    aims = ideal.aims
    sets = voxel_sets(case, voxels, aims.regions)
    maps = [beam.beamlets for beam in operator.beams]
    fluence = np.concatenate(ideal.fluences_mu)
    offset = ideal.difference_gy + ideal.leakage_gy
    dose = np.asarray(operator.forward(fluence), dtype=np.float64) + offset
    # what pulls at the two goals beside the search itself would favour one of them
    neutral = tuple(spec for spec in aims.guide if spec.hard or spec.goal not in goals)
    smoothing = plan_smoothing(maps)
    smoothing = replace(smoothing, weight=smoothing.weight * GUIDE_SHARE)
    guide = build(tightened(neutral, aims.shifts_gy), sets, scale, smoothing).problem
    asked = build(tightened(aims.wishes, aims.shifts_gy), sets, scale)
    pairs = list(zip(asked.problem.constraints, asked.constraint_specs, strict=True))
    by_goal = {spec.goal: limit for limit, spec in pairs if spec.goal is not None}
    for goal in goals:
        if goal not in by_goal:
            raise UsageError(f"--explore: {goal.structure} {goal.goal.text} asks for nothing on this study")
    # shares count from where the plan is: of a limit far out of reach they would be of another size
    pair = [relaxed(by_goal[goal], missing_share(by_goal[goal], dose)) for goal in goals]
    traded = [spec for _, spec in pairs if spec.goal in goals]
    kept = tuple(
        relaxed(limit, max(0.0, missing_share(limit, dose)) + aims.slack)
        for limit, spec in pairs
        if spec.goal not in goals and not any(_laxer(spec, one) for one in traded)
    )
    held = replace(guide, constraints=(*guide.constraints, *kept))
    # no step: the fluence as a solution of what is held
    start = solve(
        operator,
        held,
        start=fluence,
        dose_offset_gy=offset,
        settings=replace(FIRST, max_iterations=1),
        cancel=cancel,
    )
    points = trade_off(
        operator,
        held,
        (pair[0], pair[1]),
        replace(start, fluence=fluence, dose_gy=dose),
        count=count,
        dose_offset_gy=offset,
        states=start.states,
        progress=progress,
        cancel=cancel,
    )
    values = []
    for number, point in enumerate(points, start=1):
        progress(Progress("explore", f"dose of plan {number} of {count}"))
        planes = fluence_planes(maps, operator.split(point.solution.fluence), ideal.leakage, case)
        values.append(goal_values(case, doses.near(planes).dose_gy))
    return Front(goals, tuple(values))


def _laxer(spec: ObjectiveSpec, goal: ObjectiveSpec) -> bool:
    """Whether a wish is the acceptable value of a goal that is traded, or that goal in another scenario or in air."""
    bare = replace(spec.region, scenario=0, through_air=False)
    return spec.goal is None and bare == goal.region and spec.kind == goal.kind

"""What a template wants of a plan as a guide and a wish list, pursued on any operator: fluence, or metersets of segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dicomplan.events import Cancel, ProgressCallback
from dicomplan.optimization.build import build, regions
from dicomplan.optimization.constraints import Constraint, ConstraintState, missing_share
from dicomplan.optimization.meterset import Meterset
from dicomplan.optimization.operator import DoseOperator
from dicomplan.optimization.smoothing import Smoothing
from dicomplan.optimization.solver import Solution, SolverSettings, solve
from dicomplan.optimization.voxels import VoxelSet
from dicomplan.optimization.wishes import SLACK, Wish, fulfil, serve
from dicomplan.plan.derive import ObjectiveSpec, Region, derive, tightened, wishes, withstanding
from dicomplan.plan.resolve import ResolvedTemplate
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.case import shortfall

FloatArray = NDArray[np.float64]

GUIDE_SHARE = 0.25
"""Of the derived weights and of smoothing: beside wishes the guide only settles what they leave open."""

_OVERSHOOT = 1.1  # a broken hard limit moves by a little more than what is missing
_BACK = 0.5
_AIR_LATER = 0.5  # of a group: a target's air comes after what is asked of its tissue
_LITTLE_AIR = 0.25  # of the volume that a goal allows to be cold: so much air needs nothing of its own
_MOST = 0.03  # of its dose: a goal's aim is not corrected by more; what is further off has other reasons


@dataclass(frozen=True)
class Aims:
    """Terms and hard limits (``guide``), goals as limits (``wishes``), and by how many Gy the dose that each goal or hard
    constraint aims at is moved to the strict side (``shifts_gy``; negative: to the lax side). ``slack``: see
    :func:`dicomplan.optimization.wishes.fulfil`."""

    guide: tuple[ObjectiveSpec, ...]
    wishes: tuple[ObjectiveSpec, ...]
    shifts_gy: Mapping[StructureGoal, float] = field(default_factory=dict)
    slack: float = SLACK

    @property
    def regions(self) -> tuple[Region, ...]:
        """Every region that is named, once."""
        return regions((*self.guide, *self.wishes))


@dataclass(frozen=True)
class Pursuit:
    """Where the pursuit of aims ended; hand it back as a warm start. ``states``: of hard limits and wishes, in order."""

    solution: Solution
    states: tuple[ConstraintState | None, ...]
    iterations: int


def aims_of(resolved: ResolvedTemplate) -> Aims:
    """The aims of a template: its own objectives, or a guide and wishes derived from constraints and goals."""
    wanted = wishes(resolved)
    factor = GUIDE_SHARE if wanted else 1.0
    guide = tuple(spec if spec.hard else replace(spec, weight=spec.weight * factor) for spec in derive(resolved))
    robust = resolved.template.robust
    return Aims(withstanding(guide, robust), withstanding(wanted, robust), slack=resolved.template.slack)


def without_idle(aims: Aims, sets: Mapping[Region, VoxelSet | None]) -> Aims:
    """The aims without wishes for the air of targets that hold little of it."""

    def needed(spec: ObjectiveSpec) -> bool:
        if not spec.region.through_air:
            return True
        every, tissue = sets[spec.region], sets[replace(spec.region, through_air=False)]
        if every is None or tissue is None:
            return False
        air = float(every.weights[every.counted()].sum() - tissue.weights[tissue.counted()].sum())
        return air > _LITTLE_AIR * (spec.allowed_percent / 100.0 * every.volume + spec.allowed_cc)

    return replace(aims, wishes=tuple(spec for spec in aims.wishes if needed(spec)))


def pursue(
    operator: DoseOperator,
    aims: Aims,
    sets: Mapping[Region, VoxelSet | None],
    scale_gy: float,
    settings: SolverSettings,
    *,
    smoothing: Smoothing | None = None,
    meterset: Meterset | None = None,
    start: FloatArray | None = None,
    warm_start: Pursuit | None = None,
    dose_offset_gy: FloatArray | None = None,
    most: FloatArray | None = None,
    effort: float | None = 1.0,
    progress: ProgressCallback,
    cancel: Cancel,
) -> Pursuit:
    """Minimise the guide, then fulfil the wishes in order. From a warm start the guide alone is not looked at again.

    ``most`` (beamlets,) bounds the variables of the operator from above; ``effort``: see
    :func:`dicomplan.optimization.wishes.fulfil`, None: all goals at once (``serve`` there); further arguments as of
    :func:`dicomplan.optimization.solver.solve`.
    """
    guide = build(tightened(aims.guide, aims.shifts_gy), sets, scale_gy, smoothing).problem
    guide = replace(guide, meterset=meterset)
    asked = build(tightened(aims.wishes, aims.shifts_gy), sets, scale_gy)
    listed = [
        Wish(limit, spec.priority + (_AIR_LATER if spec.region.through_air else 0.0), spec.better)
        for limit, spec in zip(asked.problem.constraints, asked.constraint_specs, strict=True)
    ]
    iterations = 0
    states: tuple[ConstraintState | None, ...]
    if warm_start is None or not listed:
        solution = solve(
            operator,
            guide,
            start=start,
            warm_start=None if warm_start is None else warm_start.solution,
            states=None if warm_start is None else warm_start.states,
            dose_offset_gy=dose_offset_gy,
            most=most,
            settings=settings,
            progress=progress,
            cancel=cancel,
        )
        iterations, states = solution.iterations, tuple(solution.states)
    else:
        solution, states = warm_start.solution, warm_start.states
    if not listed:
        return Pursuit(solution, states, iterations)
    way = serve if effort is None else partial(fulfil, effort=effort, slack=aims.slack)
    found = way(
        operator,
        guide,
        listed,
        solution,
        dose_offset_gy=dose_offset_gy,
        most=most,
        states=states,
        progress=progress,
        cancel=cancel,
    )
    return Pursuit(found.solution, found.states, iterations + found.iterations)


def reached(aims: Aims, values: Mapping[StructureGoal, float]) -> Aims:
    """The aims of a plan that can only come near to another: goals in Gy that the other misses aim at its value.

    So no goal far out of reach outweighs all others where goals are served at once.
    """

    def aim(spec: ObjectiveSpec) -> ObjectiveSpec:
        goal = spec.goal
        if goal is None or goal.goal.unit != "Gy" or goal not in values or shortfall(goal, values[goal]) <= 0:
            return spec
        return replace(spec, dose_gy=spec.dose_gy * values[goal] / goal.goal.limit)

    return replace(aims, wishes=tuple(aim(spec) for spec in aims.wishes))


def corrected(
    aims: Aims,
    sets: Mapping[Region, VoxelSet | None],
    scale_gy: float,
    dose_gy: FloatArray,
    values: Mapping[StructureGoal, float],
    most: float = _MOST,
) -> Aims:
    """The aims after a look at an accurate dose: ``dose_gy`` (voxels,) where it is optimised, ``values`` as it is judged.

    A goal's aim moves by what it is judged to be more (or less) than the optimiser's voxels say of the same dose, a hard
    limit's by its overshoot, and back by half of what it then has to spare. No goal's moves by more than ``most`` of its dose,
    no hard limit's by more than that of the scale or what voxels do not see.
    """
    shifts = dict(aims.shifts_gy)
    hard = build(tuple(spec for spec in aims.guide if spec.hard), sets, scale_gy)
    for limit, spec in zip(hard.problem.constraints, hard.constraint_specs, strict=True):
        goal = spec.goal
        if goal is None or goal.goal.unit != "Gy" or goal not in values:
            continue
        value, before = values[goal], shifts.get(goal, 0.0)
        broken_gy = value - goal.goal.limit if goal.goal.at_most else goal.goal.limit - value
        if broken_gy > 0:
            unseen = _strict_side_gy(limit, dose_gy, value)
            # one that is broken by more than voxels do not see and this is so for want of iterations: no place would help
            most_gy = max(unseen, most * scale_gy, before)
            shifts[goal] = min(max(unseen, before + _OVERSHOOT * broken_gy), most_gy)
        elif goal in shifts:
            shifts[goal] = max(0.0, before + _BACK * broken_gy)
    asked = build(aims.wishes, sets, scale_gy)
    for limit, spec in zip(asked.problem.constraints, asked.constraint_specs, strict=True):
        if spec.goal is None or spec.goal.goal.unit != "Gy" or spec.goal not in values:
            continue
        strict = _strict_side_gy(limit, dose_gy, values[spec.goal])
        largest = most * limit.dose_gy
        shifts[spec.goal] = min(max(strict, -largest), largest)
    return replace(aims, shifts_gy=shifts)


def _strict_side_gy(limit: Constraint, dose_gy: FloatArray, judged_gy: float) -> float:
    """How much worse (Gy) a goal is judged than the limit's voxels say of this dose."""
    sign = 1.0 if limit.kind in ("upper", "mean_upper") else -1.0
    seen_gy = limit.dose_gy * (1.0 + sign * missing_share(limit, dose_gy))
    return sign * (judged_gy - seen_gy)

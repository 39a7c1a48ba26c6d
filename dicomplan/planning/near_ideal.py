"""How near a deliverable plan comes to the ideal one, and aims that keep it there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dicomplan.plan.derive import ObjectiveSpec
from dicomplan.plan.template import StructureGoal
from dicomplan.planning.case import plan_loss, shortfall
from dicomplan.planning.pursuing import Aims

UNSEEN = 0.25
"""What a goal may lose before anybody minds: in % of the highest level for goals in Gy, in points for goals on a volume."""

_LATER_SHARE = 0.7  # a later group of goals counts so much of the one before it
_WITHIN_LIMIT = 0.5  # of a loss beyond the limit counts a loss on the good side of it
_OWN = 0.2  # of a loss against the ideal plan counts what both of them miss


def worsening(goal: StructureGoal, ideal: float, value: float, level_gy: float) -> float:
    """By how much a goal's value is on the bad side of the ideal one, % of the highest level ``level_gy`` or points.

    Goals in cc: % of their limit. Negative where it is better.
    """
    sign = 1.0 if goal.goal.at_most else -1.0
    return sign * (value - ideal) * _per_unit(goal, level_gy)


def goal_loss(values: Mapping[StructureGoal, float], ideal: Mapping[StructureGoal, float], level_gy: float) -> float:
    """Sum over goals of what each is worse than by the ideal dose, limits apart: % of the highest level, or points."""
    soft = (goal for goal in values if not goal.hard and goal in ideal)
    return sum(max(0.0, worsening(goal, ideal[goal], values[goal], level_gy)) for goal in soft)


def delivery_loss(
    values: Mapping[StructureGoal, float], ideal: Mapping[StructureGoal, float], level_gy: float
) -> tuple[float, float]:
    """What delivery costs, to be compared: excess of the hard constraints, then the goals' worsening against the ideal dose.

    In % of the highest level, or points: what a goal loses beyond its limit, half of what it loses on the good side of it in
    excess of :data:`UNSEEN`; a later group counts 0.7 of the one before it. What the ideal plan misses and this one less
    counts little, but to its credit: 0 or less is a plan that lost nothing.
    """
    hard, own = plan_loss(values)
    total = 100.0 * _OWN * (own - plan_loss(ideal)[1])
    for goal, value in values.items():
        if goal.hard or goal not in ideal:
            continue
        worse = worsening(goal, ideal[goal], value, level_gy)
        scale = _per_unit(goal, level_gy) * max(abs(goal.goal.limit), 1e-6)
        beyond = scale * (max(0.0, shortfall(goal, value)) - max(0.0, shortfall(goal, ideal[goal])))
        inside = max(0.0, worse - UNSEEN - max(0.0, beyond))
        total += _LATER_SHARE ** (goal.priority - 1) * (max(0.0, beyond) + _WITHIN_LIMIT * inside)
    return hard, total


def kept_near(aims: Aims, ideal: Mapping[StructureGoal, float], level_gy: float) -> Aims:
    """The aims with one more wish for each goal that the ideal plan holds with something to spare: to stay near its value.

    They come in the groups of their goals. Goals in Gy and upper ones on a volume; what is missed already aims at the ideal
    value (:func:`~dicomplan.planning.pursuing.reached`).
    """
    more = (_kept(spec, ideal, level_gy) for spec in aims.wishes)
    return replace(aims, wishes=(*aims.wishes, *(spec for spec in more if spec is not None)))


def _kept(spec: ObjectiveSpec, ideal: Mapping[StructureGoal, float], level_gy: float) -> ObjectiveSpec | None:
    goal = spec.goal
    if goal is None or goal not in ideal or spec.region.through_air:
        return None
    limit, sign = goal.goal.limit, 1.0 if goal.goal.at_most else -1.0
    wanted = ideal[goal] + sign * UNSEEN / _per_unit(goal, level_gy)
    if sign * (limit - wanted) <= 0.0:
        return None
    kept = replace(spec, better=False)
    if goal.goal.unit == "Gy" and wanted > 0.0:
        return replace(kept, dose_gy=spec.dose_gy * wanted / limit)
    if goal.goal.unit == "%" and goal.goal.at_most and spec.allowed_percent > 0.0:
        return replace(kept, allowed_percent=spec.allowed_percent * wanted / limit)
    return None


def _per_unit(goal: StructureGoal, level_gy: float) -> float:
    if goal.goal.unit == "Gy":
        return 100.0 / level_gy
    return 1.0 if goal.goal.unit == "%" else 100.0 / max(abs(goal.goal.limit), 1e-6)

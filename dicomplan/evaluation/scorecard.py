"""The scorecard: every goal and hard constraint, what was reached, and whether that is enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dicomplan.metrics.dvh import DoseSamples, evaluate
from dicomplan.plan.template import StructureGoal


@dataclass(frozen=True)
class GoalResult:
    """One line of the scorecard; ``ideal``, ``achieved``, ``limit`` and ``acceptable`` are in ``unit`` (Gy, % or cc).

    ``ideal`` is the value on the optimised fluence before sequencing (None if there is none), ``achieved`` that on the
    final dose, on which ``met`` is judged, unrounded. ``priority`` is 0 for hard constraints, else the goal's group, 1
    first. ``acceptable_met`` is None for goals without a second limit. ``goal`` is the text as written.
    """

    structure: str
    goal: str
    kind: Literal["hard", "goal"]
    priority: int
    ideal: float | None
    achieved: float
    unit: str
    met: bool
    limit: float
    at_most: bool
    metric: str
    acceptable: float | None = None
    acceptable_met: bool | None = None

    def as_dict(self) -> dict[str, object]:
        """The entry of ``goals`` in ``plan.json`` (INTERFACE.md), with the limit in the same unit."""
        entry: dict[str, object] = {
            "structure": self.structure,
            "goal": self.goal,
            "kind": self.kind,
            "priority": self.priority,
            "ideal": self.ideal,
            "achieved": self.achieved,
            "unit": self.unit,
            "met": self.met,
            "limit": self.limit,
        }
        if self.acceptable is not None:
            entry |= {"acceptable": self.acceptable, "acceptable_met": self.acceptable_met}
        return entry


def score(
    goals: Sequence[StructureGoal],
    ideal_samples: Mapping[str, DoseSamples | None],
    final_samples: Mapping[str, DoseSamples | None],
) -> tuple[GoalResult, ...]:
    """Judge goals and hard constraints (limits in Gy, as resolved) on the dose in their structures, in their order.

    A structure that is empty (samples None, or without volume) has no dose to judge: its goals are left out, and the
    caller says so. ``ideal_samples`` may lack structures; ``final_samples`` must not (KeyError). Raises ValueError for
    goals whose percent of the level was not resolved.
    """
    results = []
    for wish in goals:
        final = final_samples[wish.structure]
        if final is None or final.volume_cc <= 0:
            continue
        goal = wish.goal
        if goal.unit == "%" and goal.metric.kind not in ("V", "CV"):
            raise ValueError(f"{wish.structure} {goal.text}: percent of the level is not resolved to Gy")
        before = ideal_samples.get(wish.structure)
        ideal = None if before is None or before.volume_cc <= 0 else evaluate(goal.metric, before, goal.unit)
        achieved = evaluate(goal.metric, final, goal.unit)
        second = None
        if goal.acceptable is not None:
            second = achieved <= goal.acceptable if goal.at_most else achieved >= goal.acceptable
        results.append(
            GoalResult(
                structure=wish.structure,
                goal=goal.text or f"{goal.metric.name} {'<=' if goal.at_most else '>='} {goal.limit:g} {goal.unit}",
                kind="hard" if wish.hard else "goal",
                priority=wish.priority,
                ideal=ideal,
                achieved=achieved,
                unit=goal.unit,
                met=goal.met(achieved),
                limit=goal.limit,
                at_most=goal.at_most,
                metric=goal.metric.name,
                acceptable=goal.acceptable,
                acceptable_met=second,
            )
        )
    return tuple(results)


def hard_constraints_met(results: Sequence[GoalResult]) -> bool:
    """Whether every hard constraint is met (also if there is none): the plan is accepted."""
    return all(result.met for result in results if result.kind == "hard")

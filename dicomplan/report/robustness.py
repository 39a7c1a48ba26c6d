"""The goals with the isocentre moved: one row for each goal, one column for each shift."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dicomplan.report.goals import bare_value_text, goal_limit, goal_text
from dicomplan.report.markup import Markup, element, section, table
from dicomplan.report.tables import offset_text
from dicomplan.report.values import ReportData

_NOWHERE = (0.0, 0.0, 0.0)
_SUMMARY = ("Met in", "As planned", "Worst", "Mean")
_BESIDE, _BELOW = 6, 10  # so many columns of shifts fit a printed page beside the summary, and below it


def robustness_section(data: ReportData) -> Markup:
    """What set-up errors do to the goals; nothing where the template names none."""
    found = data.document.get("robustness")
    if not found:
        return Markup("")
    shifts = [offset_text(tuple(shift), _NOWHERE) for shift in found["shifts_mm"]]
    tables = [_table(found["goals"], shifts, range(min(_BESIDE, len(shifts))), summary=True)]
    for first in range(_BESIDE, len(shifts), _BELOW):
        places = range(first, min(first + _BELOW, len(shifts)))
        tables.append(_table(found["goals"], shifts, places, summary=False))
    planned_for = "worst of them" if found["planned_for"] == "worst" else "mean over them"
    text = (
        "Final dose of the same control points with the isocentre moved in every fraction alike, one column for each shift "
        "(L left, R right, A anterior, P posterior, S superior, I inferior), in the unit of the goal; in red: missed. Worst, "
        "mean and count are over the plan as it is and all shifts. Hard constraints were planned to hold in all of them, goals "
        f"for the {planned_for}. The verdict is that of the plan as it is."
    )
    return section("robustness", "Set-up errors", element("p", text, class_="note"), *tables)


def _table(goals: Sequence[Mapping[str, Any]], shifts: Sequence[str], places: range, *, summary: bool) -> Markup:
    """A row for each goal: the summary over all shifts, if asked for, then the values in those of ``places``."""
    heads = ("Structure", "Goal", "", *(_SUMMARY if summary else ()), *(shifts[place] for place in places))
    rows = []
    for goal in goals:
        over_all = (
            _count(goal["met_in"], goal["of"]),
            _value(goal["nominal"], goal),
            element("b", _value(goal["worst"], goal)),
            _value(goal["expected"], goal),
        )
        rows.append(
            (
                goal["structure"],
                goal_text(goal),
                element("b", "hard") if goal["kind"] == "hard" else "",
                *(over_all if summary else ()),
                *(_value(goal["shifted"][place], goal) for place in places),
            )
        )
    return table(heads, rows, numeric=tuple(range(3, len(heads))), class_="dense setup")


def _value(value: float | None, goal: Mapping[str, Any]) -> Markup:
    """A value in the goal's unit, red where it misses the goal."""
    limit = goal_limit(goal)
    missed = limit is not None and value is not None and (value > limit[1] if limit[0] else value < limit[1])
    return element("span", bare_value_text(value, goal), class_="missed" if missed else None)


def _count(met: int, of: int) -> Markup:
    return element("span", f"{met} of {of}", class_="missed" if met < of else None)

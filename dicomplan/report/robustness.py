"""The goals with the isocentre moved: one row for each goal, one column for each shift."""

from __future__ import annotations

from dicomplan.report.markup import Markup, element, number, section, table
from dicomplan.report.values import ReportData


def robustness_section(data: ReportData) -> Markup:
    """What set-up errors do to the goals; nothing where the template names none."""
    found = data.document.get("robustness")
    if not found:
        return Markup("")
    shifts = ["(" + ", ".join(f"{step:g}" for step in shift) + ")" for shift in found["shifts_mm"]]
    heads = ("Structure", "Goal", "As planned", *shifts, "Worst", "Mean", "Met in")
    rows = [
        (
            goal["structure"],
            goal["goal"] + (" (hard)" if goal["kind"] == "hard" else ""),
            number(goal["nominal"], 2),
            *(number(value, 2) for value in goal["shifted"]),
            number(goal["worst"], 2),
            number(goal["expected"], 2),
            f"{goal['met_in']} of {goal['of']}",
        )
        for goal in found["goals"]
    ]
    note = element(
        "p",
        "Final dose of the same control points with the isocentre moved in every fraction alike; shifts (x, y, z) in mm, DICOM "
        "patient coordinates. Goals were planned for the "
        + ("worst of them." if found["planned_for"] == "worst" else "mean over them.")
        + " The verdict is that of the plan as it is.",
        class_="note",
    )
    return section("robustness", "Set-up errors", note, table(heads, rows, numeric=tuple(range(2, len(heads)))))

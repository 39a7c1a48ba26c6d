"""The first thing a physicist looks for: status, what is broken or unmet, prescription and the goals table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dicomplan.report.markup import Markup, element, join, number, section, table, volume_text
from dicomplan.report.values import ReportData

STATUS_WORDS = {
    "accepted": ("Accepted", "every hard constraint is met on the final dose"),
    "failed": ("Failed", "a hard constraint is broken on the final dose"),
    "not_deliverable": (
        "Not deliverable",
        "the machine cannot deliver this plan; no RTPLAN and no RTDOSE were written",
    ),
}
NOT_A_DEVICE = "Research software, not a medical device. Not for clinical use."
_LIMIT = re.compile(r"(<=|>=|≤|≥|<|>|=)\s*([0-9.]+)\s*(Gy|%|cc)?")
_METRIC = re.compile(r"\s*(D|V)([0-9.]+)\s*(%|cc|Gy)")
_EXTREME = re.compile(r"\s*D(max|min)\b")
_ACCEPTABLE = re.compile(r"acceptable\s*([0-9.]+)\s*(Gy|%|cc)?")
Goal = Mapping[str, Any]


def goal_limit(goal: Goal) -> tuple[bool, float] | None:
    """(at most?, limit) of a goal of ``plan.json`` in its own unit, or None where its text names another unit.

    ``limit`` and ``at_most`` of the goal are taken where it has them; else they are read from its text.
    """
    if "limit" in goal and "at_most" in goal:
        return bool(goal["at_most"]), float(goal["limit"])
    text, unit = str(goal.get("goal", "")), str(goal.get("unit", ""))
    found = _LIMIT.search(text)
    if found is None:
        return None
    written = found.group(3)
    if written is None:
        inside = re.search(r"\[(Gy|%|cc)\]", text)
        written = inside.group(1) if inside else unit
    return (found.group(1) in ("<=", "≤", "<"), float(found.group(2))) if written == unit else None


def dvh_point(goal: Goal, volume_cc: float | None) -> tuple[float, float] | None:
    """Where a goal (Dx%, Dxcc, VxGy, Dmax, Dmin) lies in a DVH: (dose in Gy, volume fraction); None for other goals.

    ``volume_cc`` is the structure's volume, for goals in cm3.
    """
    limit, found = goal_limit(goal), _METRIC.match(str(goal.get("goal", "")))
    extreme = _EXTREME.match(str(goal.get("goal", "")))
    if limit is not None and extreme is not None and goal.get("unit") == "Gy":
        return limit[1], 0.0 if extreme.group(1) == "max" else 1.0
    if limit is None or found is None:
        return None
    kind, argument, unit = found.group(1), float(found.group(2)), found.group(3)
    share_unit, share, dose = (unit, argument, limit[1]) if kind == "D" else (str(goal.get("unit")), limit[1], argument)
    if (kind == "D" and (goal.get("unit") != "Gy" or unit == "Gy")) or (kind == "V" and unit != "Gy"):
        return None
    if share_unit == "cc":
        return None if not volume_cc else (dose, min(1.0, share / volume_cc))
    return (dose, share / 100.0)


def _digits(value: float, limit: float) -> int:
    """Decimals (2 to 5) that tell a value from the limit when it is not equal to it."""
    digits = 2
    while digits < 5 and value != limit and round(value, digits) == round(limit, digits):
        digits += 1
    return digits


def bare_value_text(value: float | None, goal: Goal) -> str:
    """A value without its unit, with as many decimals (2 to 5) as tell it from the limit when it is not equal to it."""
    limit = goal_limit(goal)
    return number(value, 2 if value is None or limit is None else _digits(value, limit[1]))


def value_text(value: float | None, goal: Goal) -> str:
    """As :func:`bare_value_text`, with its unit."""
    shown = bare_value_text(value, goal)
    return shown if shown == "–" else f"{shown} {goal.get('unit', '')}".strip()


def _room(goal: Goal) -> str:
    """How much room is left (+) or missing (−), in the goal's unit."""
    limit, achieved = goal_limit(goal), goal.get("achieved")
    if limit is None or achieved is None:
        return ""
    room = limit[1] - float(achieved) if limit[0] else float(achieved) - limit[1]
    shown = number(room, _digits(float(achieved), limit[1]))
    return f"+{shown}" if room > 0 else shown


def _acceptable(goal: Goal) -> bool:
    """Whether a missed goal keeps its second, laxer limit."""
    limit, achieved = goal_limit(goal), goal.get("achieved")
    lax = _ACCEPTABLE.search(str(goal.get("goal", "")))
    if limit is None or achieved is None or lax is None or lax.group(2) not in (None, goal.get("unit")):
        return False
    return float(achieved) <= float(lax.group(1)) if limit[0] else float(achieved) >= float(lax.group(1))


def _mark(goal: Goal) -> Markup:
    met = goal.get("met")
    if met is None:
        return element("span", "– not judged", class_="mark none")
    if met:
        return element("span", "✓ met", class_="mark yes")
    if _acceptable(goal):
        return element("span", "✗ acceptable", class_="mark lax")
    return element("span", "✗ not met", class_="mark no")


def _ideal_met(goal: Goal) -> bool | None:
    limit, ideal = goal_limit(goal), goal.get("ideal")
    if limit is None or ideal is None:
        return None
    return float(ideal) <= limit[1] if limit[0] else float(ideal) >= limit[1]


def goal_text(goal: Goal) -> str:
    """The goal as written, with what a percentage of the level comes to: ``D2% ≤ 107 % (53.5 Gy)``."""
    text = str(goal.get("goal", "")).replace("<=", "≤").replace(">=", "≥")
    written, unit, limit = _LIMIT.search(text), str(goal.get("unit", "")), goal.get("limit")
    if limit is not None and unit == "Gy" and written is not None and written.group(3) == "%":
        place = written.end()
        return f"{text[:place]} ({float(limit):.4g} {unit}){text[place:]}"
    return text


def _goal_table(goals: list[Goal]) -> Markup:
    head = ("", "Structure", "Goal", "Priority", "Final", "Room", "Ideal")
    rows: list[Markup] = []
    for goal in goals:
        hard, met = goal.get("kind") == "hard", goal.get("met")
        missed = "missed" if _ideal_met(goal) is False else None
        cells = (
            element("td", _mark(goal)),
            element("td", str(goal.get("structure", ""))),
            element("td", goal_text(goal)),
            element("td", element("b", "hard") if hard else str(goal.get("priority", "–"))),
            element("td", element("b", value_text(goal.get("achieved"), goal)), class_="number"),
            element("td", _room(goal), class_="number"),
            element("td", element("span", value_text(goal.get("ideal"), goal), class_=missed), class_="number"),
        )
        state = "" if met is not False else "lax" if _acceptable(goal) else "unmet"
        rows.append(element("tr", *cells, class_=" ".join(filter(None, (state, "hard" if hard else ""))) or None))
    header = element(
        "tr", *(element("th", cell, class_="number" if index > 3 else None) for index, cell in enumerate(head))
    )
    inner = element("table", element("thead", header), element("tbody", *rows), class_="goals")
    return element("div", inner, class_="scroll")


def ordered(goals: list[Goal]) -> list[Goal]:
    """Hard constraints first, then goals by priority; the order within a group is kept."""
    return sorted(goals, key=lambda goal: (goal.get("kind") != "hard", goal.get("priority") or 0))


def severity(warning: object) -> str:
    """``error``, ``warning`` or ``info`` of an item of the document's ``warnings`` (a plain sentence is a warning)."""
    return str(warning.get("severity", "warning")) if isinstance(warning, Mapping) else "warning"


def header(data: ReportData) -> Markup:
    """Plan label, status, disclaimer and the key numbers."""
    document = data.document
    status = str(document.get("status", ""))
    word, meaning = STATUS_WORDS.get(status, (status, ""))
    if status == "accepted" and not _has_hard(document):
        meaning = "the template sets no hard constraint"
    missed = sum(goal.get("met") is False and goal.get("kind") != "hard" for goal in document.get("goals", []))
    if status == "accepted" and missed:
        meaning += f", but {missed} goal{'s are' if missed > 1 else ' is'} not met"
    tone = f"badge {status}" + (" lax" if status == "accepted" and missed else "")
    badge = element("span", word, class_=tone if status in STATUS_WORDS else "badge")
    title = element(
        "div", element("h1", data.plan_label), badge, element("span", meaning, class_="meaning"), class_="title"
    )
    who = [f"{label}: {value}" for label, value in data.identification]
    facts = [
        *who,
        f"dicomplan {document.get('dicomplan', '')}",
        str(document.get("machine", "")),
        engine_text(document),
        str(document.get("patient_position", "")),
        data.created,
    ]
    line = element("p", " · ".join(fact for fact in facts if fact.strip()), class_="facts")
    disclaimer = element("p", NOT_A_DEVICE, class_="disclaimer")
    return element("header", title, line, disclaimer, _tiles(data), id="top")


def _has_hard(document: Mapping[str, Any]) -> bool:
    return any(goal.get("kind") == "hard" for goal in document.get("goals", []))


def engine_text(document: Mapping[str, Any]) -> str:
    """Which engine computed the final dose, and to what it is stated; empty where the document does not say."""
    engines = document.get("engines", {})
    if not engines:
        return ""
    return f"{engines.get('final')}, dose to {engines.get('dose_to')}".replace("_", " ")


def is_moving(data: ReportData) -> bool:
    """Whether leaves move while the beam is on (sliding window): then intervals between control points are no segments."""
    return any(beam.delivery.moving for beam in data.beams)


def _tiles(data: ReportData) -> Markup:
    document = data.document
    goals = list(document.get("goals", []))
    quality = document.get("quality", {})
    tiles: list[tuple[str, str, str]] = []
    for kind, label in (("hard", "hard constraints met"), ("goal", "goals met")):
        chosen = [goal for goal in goals if goal.get("kind") == kind]
        if chosen:
            met = sum(1 for goal in chosen if goal.get("met"))
            tiles.append(
                (f"{met} / {len(chosen)}", label, "good" if met == len(chosen) else "bad" if kind == "hard" else "warn")
            )
    levels = [float(level) for level in document.get("prescription", {}).get("targets", {}).values()]
    if data.dose is not None:
        largest = float(data.dose.dose_gy.max())
        share = f" ({100.0 * largest / max(levels):.0f}\N{NO-BREAK SPACE}%)" if levels and max(levels) > 0 else ""
        tiles.append((f"{largest:.1f} Gy", f"maximum dose{share}", ""))
    for key, label, digits in (
        ("conformity_index", "conformity (Paddick)", 2),
        ("homogeneity_index", "homogeneity (D2−D98)/D50", 3),
    ):
        if quality.get(key) is not None:
            tiles.append((number(float(quality[key]), digits), label, ""))
    beams, segments = data.beams, sum(len(beam.delivery.segments) for beam in data.beams)
    if beams:
        tiles.append((str(len(beams)), "beams", ""))
        if is_moving(data):
            tiles.append((str(segments + len(beams)), "control points (sliding window)", ""))
        else:
            tiles.append((str(segments), "segments", ""))
        per_gray = quality.get("mu_per_gy")
        label = "MU per fraction" + (f" ({float(per_gray):.0f}\N{NO-BREAK SPACE}MU/Gy)" if per_gray is not None else "")
        tiles.append((number(sum(beam.delivery.meterset_mu for beam in beams), 0), label, ""))
    warnings = [item for item in document.get("warnings", []) if severity(item) != "info"]
    tiles.append((str(len(warnings)), "warnings" if len(warnings) != 1 else "warning", "warn" if warnings else "good"))
    cells = [
        element("div", element("b", value), element("span", label), class_=f"tile {state}".strip())
        for value, label, state in tiles
    ]
    return element("div", *cells, class_="tiles")


def unmet_section(data: ReportData) -> Markup:
    """Broken hard constraints and goals that are not met, before everything else; or that there are none."""
    goals = ordered([goal for goal in data.document.get("goals", []) if goal.get("met") is False])
    violations = [str(item) for item in data.document.get("violations", [])]
    parts: list[Markup] = []
    if violations:
        parts.append(element("h3", "The machine cannot deliver this plan"))
        parts.append(element("ul", *(element("li", item) for item in violations), class_="violations"))
    for title, kind in (("Broken hard constraints", "hard"), ("Goals not met", "goal")):
        chosen = [goal for goal in goals if (goal.get("kind") == "hard") == (kind == "hard")]
        if chosen:
            parts += [element("h3", title), _goal_table(chosen)]
    if not parts:
        judged = any(goal.get("met") is not None for goal in data.document.get("goals", []))
        met = "All hard constraints and goals" if _has_hard(data.document) else "All goals"
        text = f"{met} are met on the final dose." if judged else "No goal was judged."
        parts.append(element("p", text, class_="all-met" if judged else "note"))
    return element("section", *parts, id="unmet")


_TARGET_METRICS = ("D98%_gy", "D95%_gy", "D50%_gy", "D2%_gy", "Dmean_gy", "Dmin_gy", "Dmax_gy")


def prescription_section(data: ReportData) -> Markup:
    """Fractions, levels, and each target whole and for the part that was optimised."""
    prescription = data.document.get("prescription", {})
    fractions = prescription.get("fractions")
    levels = dict(prescription.get("targets", {}))
    lines = []
    for name, dose in sorted(levels.items(), key=lambda item: (-float(item[1]), item[0])):
        each = f" ({float(dose) / int(fractions):.3g} Gy a fraction)" if fractions else ""
        lines.append(element("li", element("b", f"{float(dose):g} Gy"), f" to {name}{each}"))
    parts: list[Markup] = [
        element("ul", element("li", element("b", str(fractions)), " fractions"), *lines, class_="levels")
    ]
    scaled = prescription.get("normalize")
    if scaled:
        parts.append(element("p", _normalization_text(scaled, data.document), class_="note"))
    rows: list[tuple[str, ...]] = []
    for target in data.targets:
        keys = [key for key in _TARGET_METRICS if key in target.whole]
        rows.append(
            (
                element("b", target.name),
                "whole",
                volume_text(target.volume_cc),
                *_target_cells(target.whole, target.level_gy),
            )
        )
        if target.optimized is not None and keys:
            cells = _target_cells(target.optimized, target.level_gy)
            rows.append(("", "part optimised", volume_text(target.optimized_volume_cc), *cells))
    if rows:
        names = [key.removesuffix("_gy") for key in _TARGET_METRICS]
        head = ("Target", "", "cm³", *(f"{name} [Gy]" for name in names))
        parts.append(table(head, rows, numeric=range(2, len(head))))
        note = "In small print: percent of the level."
        if any(target.optimized is not None for target in data.targets):
            note += " The part optimised leaves out points in air and just under the skin."
        parts.append(element("p", note, class_="note"))
    return section("prescription", "Prescription and targets", *parts)


def _normalization_text(scaled: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """By how much all metersets were scaled, for what wish of the template, and what kept it from being met."""
    template = document.get("template")
    asked = template.get("prescription", {}).get("normalize") if isinstance(template, Mapping) else None
    wish = f" for {asked}" if asked else ""
    text = f"Normalised{wish}: all metersets times {float(scaled['factor']):.4f}"
    if scaled.get("limited_by"):
        text += f" ({float(scaled['wanted']):.4f} was wanted; held back by {scaled['limited_by']})"
    return text + "."


def _target_cells(metrics: Mapping[str, float], level_gy: float) -> list[Markup]:
    cells = []
    for key in _TARGET_METRICS:
        value = metrics.get(key)
        share = "" if value is None or level_gy <= 0 else f"{100 * value / level_gy:.1f} %"
        cells.append(join((number(value, 2), element("small", share, class_="below"))))
    return cells


def goals_section(data: ReportData) -> Markup:
    """Every hard constraint and goal with its final and ideal value."""
    goals = ordered(list(data.document.get("goals", [])))
    if not goals:
        return Markup("")
    note = (
        "Final: dose of the exported control points, which decides. Ideal: optimised fluence before sequencing, with "
        "what will leak. Room: distance to the limit, negative where it is missed. Judged unrounded."
    )
    return section("goals", "Goals", _goal_table(goals), element("p", note, class_="note"))

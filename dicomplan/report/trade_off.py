"""The trade-off between two goals: the front as a picture and as a table."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from typing import Any

from dicomplan.report.goals import bare_value_text, goal_limit
from dicomplan.report.markup import Markup, element, join, number, section, table
from dicomplan.report.values import ReportData

_WIDTH, _HEIGHT = 560.0, 380.0
_LEFT, _TOP, _RIGHT, _BOTTOM = 62.0, 16.0, 24.0, 46.0
_STEPS = (1.0, 2.0, 5.0)


def trade_off_section(data: ReportData) -> Markup:
    """The front of plans that was asked for; nothing where none was."""
    front = data.document.get("exploration")
    if not front:
        return Markup("")
    goals, points = front["goals"], front["points"]
    heads = [f"{goal['structure']} {goal['metric']} [{goal['unit']}]" for goal in goals]
    own = [{**goal, "value": goal.get("ideal")} for goal in data.document.get("goals", [])]
    traded = {(goal["structure"], goal["goal"]) for goal in goals}
    rows = [
        (
            str(place) + (" (dominated)" if point["dominated"] else ""),
            *(number(value, 2) for value in point["pair"]),
            _met(point["values"]),
            _missed(point["values"]),
            _paid_by(point["values"], own, traded),
        )
        for place, point in enumerate(points, start=1)
    ]
    rows.append(("this plan", *(number(value, 2) for value in front["plan"]), _met(own), _missed(own), ""))
    note = element(
        "p",
        "Each point is a plan of its own between the best of one goal and the best of the other. The search holds hard limits "
        "and keeps other goals met, or as this plan has them where it misses them; better than its limit a goal need not "
        "stay: the last column says which lost most. All is accurate dose of the fluence, before sequencing, this plan's too. "
        "Dotted: the two goals.",
        class_="note",
    )
    return section(
        "trade-off",
        f"Trade-off: {goals[0]['structure']} against {goals[1]['structure']}",
        note,
        _picture(goals, [point["pair"] for point in points], front["plan"], [_axis_label(goal) for goal in goals]),
        table(("Plan", *heads, "Goals met", "Missed", "Lost most against this plan"), rows, numeric=(1, 2, 3)),
    )


def _axis_label(goal: Mapping[str, Any]) -> str:
    return f"{goal['structure']} {goal['metric']} [{goal['unit']}], goal {'≤' if goal['at_most'] else '≥'} {goal['limit']:.4g}"


def _is_met(one: Mapping[str, Any]) -> bool:
    """Whether a goal is met by its ``value``; where ``met`` speaks of another dose, its limit decides."""
    limit, value = goal_limit(one), one["value"]
    if limit is None or value is None:
        return bool(one["met"])
    return bool(value <= limit[1] if limit[0] else value >= limit[1])


def _met(values: Sequence[Mapping[str, Any]]) -> str:
    return f"{sum(_is_met(one) for one in values)} of {len(values)}"


def _missed(values: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(_value_text(one) for one in values if not _is_met(one)) or "–"


def _value_text(one: Mapping[str, Any]) -> str:
    metric = str(one["goal"]).split()[0]
    return f"{one['structure']} {metric} {bare_value_text(one['value'], one)} {one['unit']}"


def _paid_by(
    values: Sequence[Mapping[str, Any]], own: Sequence[Mapping[str, Any]], traded: Container[tuple[str, str]]
) -> str:
    """Of the other goals, that which is worse than in this plan by most (at least 0.5 of its unit), and what this plan has."""
    before = {(one["structure"], one["goal"]): one for one in own if one["value"] is not None}
    most, text = 0.5, "–"
    for one in values:
        key = (one["structure"], one["goal"])
        limit = goal_limit(before[key]) if key in before and key not in traded else None
        if limit is None:
            continue
        loss = (one["value"] - before[key]["value"]) * (1.0 if limit[0] else -1.0)
        if loss > most:
            most, text = loss, f"{_value_text(one)} (here {bare_value_text(before[key]['value'], one)})"
    return text


def _picture(
    goals: Sequence[Mapping[str, Any]], pairs: Sequence[Sequence[float]], own: Sequence[float], heads: Sequence[str]
) -> Markup:
    """The front as an inline SVG: its plans joined in order, the exported plan's fluence as a square."""
    ranges = [_range([*(pair[axis] for pair in pairs), own[axis], goals[axis]["limit"]]) for axis in (0, 1)]
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def place(pair: Sequence[float]) -> tuple[float, float]:
        parts = [(pair[axis] - ranges[axis][0]) / (ranges[axis][1] - ranges[axis][0]) for axis in (0, 1)]
        return _LEFT + width * parts[0], _TOP + height * (1.0 - parts[1])

    drawn: list[Markup] = []
    for axis in (0, 1):
        low, high, step = ranges[axis]
        count = round((high - low) / step)
        digits = max(0, -math.floor(math.log10(step)))
        for index in range(count + 1):
            value = low + index * step
            x, y = place((value, ranges[1][0]) if axis == 0 else (ranges[0][0], value))
            path = f"M{x:.1f} {_TOP:.1f}v{height:.1f}" if axis == 0 else f"M{_LEFT:.1f} {y:.1f}h{width:.1f}"
            drawn.append(element("path", d=path, class_="grid"))
            text_x, text_y = (x, _HEIGHT - _BOTTOM + 15) if axis == 0 else (_LEFT - 6, y + 4)
            anchor = "middle" if axis == 0 else "end"
            drawn.append(
                element("text", f"{value:.{digits}f}", x=f"{text_x:.1f}", y=f"{text_y:.1f}", text_anchor=anchor)
            )
        x, y = place((goals[0]["limit"], goals[1]["limit"]))
        path = f"M{x:.1f} {_TOP:.1f}v{height:.1f}" if axis == 0 else f"M{_LEFT:.1f} {y:.1f}h{width:.1f}"
        drawn.append(element("path", d=path, class_="prescribed"))
    middle = _TOP + height / 2
    drawn.append(element("text", heads[0], x=f"{_LEFT + width / 2:.1f}", y=f"{_HEIGHT - 8:.1f}", text_anchor="middle"))
    turned = f"rotate(-90 14 {middle:.1f})"
    drawn.append(element("text", heads[1], x="14", y=f"{middle:.1f}", text_anchor="middle", transform=turned))
    axes = element("g", *drawn, class_="axes")
    places = [place(pair) for pair in pairs]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    front = [element("polyline", points=line, fill="none", stroke="#1f5f9f", stroke_width="1.5")]
    for index, (x, y) in enumerate(places, start=1):
        front.append(element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="4", fill="#1f5f9f"))
        front.append(element("text", str(index), x=f"{x + 7:.1f}", y=f"{y - 6:.1f}", font_size="11"))
    x, y = place(own)
    square = element(
        "rect",
        x=f"{x - 4:.1f}",
        y=f"{y - 4:.1f}",
        width="8",
        height="8",
        fill="none",
        stroke="#b03010",
        stroke_width="2",
    )
    label = element("text", "this plan", x=f"{x + 8:.1f}", y=f"{y + 12:.1f}", font_size="11")
    return element(
        "svg",
        axes,
        join(front),
        square,
        label,
        class_="dvh",
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        role="img",
        aria_label=f"Trade-off between {heads[0]} and {heads[1]}",
        style=f"max-width:{_WIDTH:g}px",
    )


def _range(values: Sequence[float]) -> tuple[float, float, float]:
    """Ends of an axis that holds the values, and the step between its marks: 1, 2 or 5 times a power of ten."""
    low, high = min(values), max(values)
    span = max(high - low, 1e-3 * max(abs(high), 1e-3))
    size = 10.0 ** math.floor(math.log10(span / 5.0))
    step = next((size * one for one in _STEPS if size * one >= span / 6.0), 10.0 * size)
    return step * math.floor(low / step - 0.2), step * math.ceil(high / step + 0.2), step

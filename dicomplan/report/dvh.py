"""The DVH: an inline SVG that reads well on paper, and the numbers that make it interactive on a screen."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dicomplan.report.colors import Rgb, css, on_white
from dicomplan.report.goals import dvh_point, goal_limit
from dicomplan.report.markup import Markup, element, join, number, script_json, section
from dicomplan.report.values import DvhCurve, FloatArray, ReportData

_WIDTH, _HEIGHT = 780.0, 430.0
_LEFT, _TOP, _RIGHT, _BOTTOM = 46.0, 16.0, 10.0, 38.0
_MOST_POINTS = 1000


def thinned(curve: DvhCurve) -> tuple[FloatArray, FloatArray]:
    """Dose (Gy) and volume fraction of a curve with at most 1000 points: all, or evenly picked ones with both ends."""
    dose, volume = np.asarray(curve.dose_gy, dtype=np.float64), np.asarray(curve.volume_fraction, dtype=np.float64)
    if len(dose) > _MOST_POINTS:
        picked = np.rint(np.linspace(0, len(dose) - 1, _MOST_POINTS)).astype(np.int64)
        dose, volume = dose[picked], volume[picked]
    return dose, volume


def _largest_dose(data: ReportData, prescriptions_gy: dict[str, float]) -> float:
    """The dose axis' end in Gy: just above the last dose that any structure receives, a multiple of 5."""
    ends = list(prescriptions_gy.values())
    for dvh in data.dvhs:
        for curve in (dvh.ideal, dvh.final):
            if curve is not None:
                received = np.asarray(curve.dose_gy)[np.asarray(curve.volume_fraction) > 0]
                ends += [float(received[-1])] if len(received) else []
    return 5.0 * (math.floor(max(ends, default=1.0) / 5.0) + 1.0)


def _axis_step(largest: float) -> float:
    return next(step for step in (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, largest) if largest / step <= 10)


def _axes(largest: float, prescriptions_gy: dict[str, float]) -> Markup:
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    parts: list[Markup] = []
    step = _axis_step(largest)
    for dose in np.arange(0.0, largest + 1e-9, step):
        x = _LEFT + width * float(dose) / largest
        parts.append(element("path", d=f"M{x:.1f} {_TOP:.1f}v{height:.1f}", class_="grid"))
        parts.append(
            element("text", f"{dose:g}", x=f"{x:.1f}", y=f"{_HEIGHT - _BOTTOM + 15:.1f}", text_anchor="middle")
        )
    for percent in range(0, 101, 20):
        y = _TOP + height * (1.0 - percent / 100.0)
        parts.append(element("path", d=f"M{_LEFT:.1f} {y:.1f}h{width:.1f}", class_="grid"))
        parts.append(element("text", f"{percent}", x=f"{_LEFT - 6:.1f}", y=f"{y + 4:.1f}", text_anchor="end"))
    for dose in sorted(set(prescriptions_gy.values())):
        x = _LEFT + width * dose / largest
        parts.append(element("path", d=f"M{x:.1f} {_TOP:.1f}v{height:.1f}", class_="prescribed"))
        parts.append(element("text", f"{dose:g} Gy", x=f"{x:.1f}", y=f"{_TOP - 5:.1f}", text_anchor="middle"))
    parts.append(
        element("text", "Dose [Gy]", x=f"{_LEFT + width / 2:.1f}", y=f"{_HEIGHT - 5:.1f}", text_anchor="middle")
    )
    middle = _TOP + height / 2
    parts.append(
        element(
            "text",
            "Volume [%]",
            x="12",
            y=f"{middle:.1f}",
            text_anchor="middle",
            transform=f"rotate(-90 12 {middle:.1f})",
        )
    )
    return element("g", *parts, class_="axes")


def _place(dose_gy: float, volume_fraction: float, largest: float) -> tuple[float, float]:
    """Plot coordinates of a point of the DVH."""
    return (
        _LEFT + (_WIDTH - _LEFT - _RIGHT) * dose_gy / largest,
        _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1.0 - volume_fraction),
    )


def _curve_path(curve: DvhCurve, largest: float) -> str:
    """The curve down to the first dose that nothing receives, within the plot."""
    dose, volume = thinned(curve)
    received = np.flatnonzero(volume > 0)
    last = min(int(received[-1]) + 1 if len(received) else 0, len(dose) - 1)
    inside = max(2, int(np.searchsorted(dose[: last + 1], largest, side="right")))
    points = (_place(*point, largest) for point in zip(dose[:inside].tolist(), volume[:inside].tolist(), strict=True))
    return "M" + " ".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _goal_marks(data: ReportData, largest: float, colors: dict[str, Rgb]) -> list[Markup]:
    """A triangle where each dose-volume goal lies; it points to the side on which the curve should be."""
    index_of = {dvh.structure: (index, dvh.shown) for index, dvh in enumerate(data.dvhs)}
    volumes = data.document.get("structures", {})
    marks = []
    for goal in data.document.get("goals", []):
        name, limit = str(goal.get("structure", "")), goal_limit(goal)
        point = dvh_point(goal, volumes.get(name, {}).get("volume_cc"))
        if limit is None or point is None or name not in index_of or point[0] > largest:
            continue
        x, y = _place(*point, largest)
        index, shown = index_of[name]
        color = css(on_white(colors.get(name, (60, 60, 60))))
        marks.append(
            element(
                "path",
                element("title", f"{name} {goal.get('goal', '')}"),
                d=f"M{x:.1f} {y:.1f}l{'' if limit[0] else '-'}9 -5v10z",
                stroke=color,
                fill=color if goal.get("met") is False else "#fff",
                class_=f"goal-mark curve d{index}{'' if shown else ' off'}",
            )
        )
    return marks


def dvh_values(data: ReportData, prescriptions_gy: dict[str, float]) -> dict[str, Any]:
    """The JSON that the page's script reads: the plot's frame, and each curve's dose (Gy) and volume fraction."""
    curves = []
    for index, dvh in enumerate(data.dvhs):
        for kind, curve in (("ideal", dvh.ideal), ("final", dvh.final)):
            if curve is None:
                continue
            dose, volume = thinned(curve)
            curves.append(
                {
                    "index": index,
                    "structure": dvh.structure,
                    "kind": kind,
                    "dose_gy": np.round(dose, 3).tolist(),
                    "volume_fraction": np.round(volume, 5).tolist(),
                }
            )
    frame = {
        "left": _LEFT,
        "top": _TOP,
        "width": _WIDTH - _LEFT - _RIGHT,
        "height": _HEIGHT - _TOP - _BOTTOM,
        "largest_gy": _largest_dose(data, prescriptions_gy),
    }
    return {"frame": frame, "curves": curves}


def dvh_section(data: ReportData, prescriptions_gy: dict[str, float], colors: dict[str, Rgb]) -> Markup:
    """The DVH section: ideal dashed, final solid, a legend that switches structures on and off."""
    if not data.dvhs:
        return Markup("")
    values = dvh_values(data, prescriptions_gy)
    largest = values["frame"]["largest_gy"]
    paths, names = [], []
    metrics = data.document.get("structures", {})
    for index, dvh in enumerate(data.dvhs):
        color = css(on_white(colors.get(dvh.structure, (60, 60, 60))))
        for kind, curve in (("ideal", dvh.ideal), ("final", dvh.final)):
            if curve is not None:
                off = "" if dvh.shown else " off"
                paths.append(
                    element("path", d=_curve_path(curve, largest), stroke=color, class_=f"curve {kind} d{index}{off}")
                )
        mean = metrics.get(dvh.structure, {}).get("final", {}).get("Dmean_gy")
        names.append(
            element(
                "button",
                element("i", class_="line", style=f"background:{color}"),
                element("span", dvh.structure),
                element("small", f"{number(mean, 1)} Gy" if mean is not None else ""),
                type="button",
                class_="toggle",
                data_d=index,
                aria_pressed="true" if dvh.shown else "false",
            )
        )
    plot = element(
        "svg",
        element("title", "Dose-volume histogram"),
        _axes(largest, prescriptions_gy),
        join(paths),
        join(_goal_marks(data, largest, colors)),
        element("circle", r="4", class_="marker off"),
        viewBox=f"0 0 {_WIDTH:g} {_HEIGHT:g}",
        class_="dvh",
        role="img",
    )
    key = element(
        "div",
        element("label", element("input", type="checkbox", checked=True, data_kind="final", class_="kind"), " final —"),
        element("label", element("input", type="checkbox", checked=True, data_kind="ideal", class_="kind"), " ideal ╌"),
        element("button", "all", type="button", class_="every", data_on="1"),
        element("button", "none", type="button", class_="every", data_on="0"),
        class_="switches",
    )
    hint = "Point at a curve to read it; click a structure to hide or show it. Beside each name: final mean dose."
    marks = "Solid: final, dashed: ideal. Triangles: dose-volume goals, pointing to where the curve should be; filled if missed."
    legend = element(
        "div",
        key,
        element("div", *names, class_="names"),
        element("p", hint, class_="note screen"),
        element("p", marks, class_="note"),
        class_="dvh-legend",
    )
    tip = element("div", class_="tip off", id="dvh-tip")
    body = element("div", element("div", plot, tip, class_="dvh-plot"), legend, class_="dvh-box")
    return section("dvh", "Dose-volume histogram", body, script_json("dvh-values", values))

"""Isodose pictures: CT with outlines and isodoses on axial, coronal and sagittal planes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.report.colors import ISODOSES, Rgb, css, on_dark
from dicomplan.report.framing import Box, bar_mm, picture_box
from dicomplan.report.goals import engine_text
from dicomplan.report.markup import Markup, element, join, number, section
from dicomplan.report.planes import PlaneName, PlaneView, cut, plane_view
from dicomplan.report.values import ReportData
from dicomplan.report.vector import bands, grey_levels, outline, png_uri

WINDOW_HU = (-160.0, 260.0)
_BUDGET_BYTES = 4_500_000
_BEYOND_TARGETS_MM = 25.0
_MAX_SLICES = 40


@dataclass(frozen=True)
class IsodoseLevel:
    """An isodose: percent of the highest prescription, Gy, colour, and the targets whose level it is."""

    percent: float
    dose_gy: float
    color: Rgb
    targets: tuple[str, ...] = ()


def isodose_levels(prescriptions_gy: dict[str, float]) -> tuple[IsodoseLevel, ...]:
    """Isodose levels, ascending, for targets and their doses in Gy.

    The set of :data:`ISODOSES`, where each lower target's dose takes the place of the nearest level below 95 %.
    Empty without targets.
    """
    if not prescriptions_gy:
        return ()
    reference = max(prescriptions_gy.values())
    percents = [percent for percent, _ in ISODOSES]
    for dose in sorted(set(prescriptions_gy.values())):
        percent = 100.0 * dose / reference
        if percent < 95.0:
            free = [index for index in range(len(percents)) if percents[index] < 95.0]
            percents[min(free, key=lambda index: abs(percents[index] - percent))] = percent
    levels = []
    for percent, (_, color) in zip(sorted(percents), ISODOSES, strict=True):
        dose = reference * percent / 100.0
        names = tuple(sorted(name for name, level in prescriptions_gy.items() if abs(level - dose) < 0.005))
        levels.append(IsodoseLevel(percent, dose, color, names))
    return tuple(levels)


def _layer(
    data: ReportData,
    view: PlaneView,
    position: float,
    box: Box,
    levels: tuple[IsodoseLevel, ...],
    colors: dict[str, Rgb],
) -> Markup:
    """CT, isodoses and outlines of one plane, in picture millimetres."""
    whole = cut(data.ct.hu, data.ct.grid, view, position, interpolate=False)
    parts: list[Markup] = []
    if whole is not None:
        ct = whole.crop(box)
        left, top, right, bottom = ct.edges_mm
        parts.append(
            element(
                "image",
                href=png_uri(_thin(grey_levels(ct.values, WINDOW_HU), right - left, bottom - top)),
                x=f"{left:.2f}",
                y=f"{top:.2f}",
                width=f"{right - left:.2f}",
                height=f"{bottom - top:.2f}",
                preserveAspectRatio="none",
            )
        )
    dose = None if data.dose is None else cut(data.dose.dose_gy, data.dose.grid, view, position, interpolate=True)
    if dose is not None and levels:
        drawn = bands(dose, np.array([level.dose_gy for level in levels]))
        parts.append(_group("isodoses", [_path(d, class_=f"b{index}") for index, d in enumerate(drawn) if d]))
    outlines = []
    for index, structure in enumerate(data.structures):
        cover = cut(structure.coverage.fraction, structure.coverage.grid, view, position, interpolate=False)
        line = "" if cover is None else outline(cover)
        if line:
            off = "" if structure.shown else " off"
            stroke = css(on_dark(colors[structure.name]))
            outlines.append(_path(line, class_=f"o {structure.kind} s{index}{off}", stroke=stroke))
    parts.append(_group("outlines", outlines))
    return join(parts)


def _thin(grey: NDArray[np.uint8], width_mm: float, height_mm: float) -> NDArray[np.uint8]:
    """Every n-th pixel's block mean where pixels are finer than 1 mm: finer ones are not seen on a page."""
    rows, columns = grey.shape
    step = max(1, int(min(rows / height_mm, columns / width_mm) + 1e-6))
    if step == 1:
        return grey
    kept = grey[: rows // step * step, : columns // step * step]
    blocks = kept.reshape(rows // step, step, columns // step, step).mean(axis=(1, 3))
    thinned: NDArray[np.uint8] = np.rint(blocks).astype(np.uint8)
    return thinned


def _path(data: str, *, class_: str, stroke: str | None = None) -> Markup:
    return element("path", d=data, class_=class_, stroke=stroke)


def _group(class_: str, parts: list[Markup]) -> Markup:
    return element("g", *parts, class_=class_, transform="scale(.1)") if parts else Markup("")


def _furniture(view: PlaneView, box: Box, isocenter: tuple[float, float]) -> Markup:
    """Orientation letters, a cross at the isocentre and a bar of at most 50 mm."""
    left, top, right, bottom = box
    across, down = (left + right) / 2, (top + bottom) / 2
    size = 0.035 * max(right - left, bottom - top)
    places = (
        (left + 0.8 * size, down, "start"),
        (right - 0.8 * size, down, "end"),
        (across, top + 1.4 * size, "middle"),
        (across, bottom - 0.7 * size, "middle"),
    )
    parts = [
        element(
            "text", letter, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, font_size=f"{size:.1f}", class_="letter"
        )
        for letter, (x, y, anchor) in zip(view.letters, places, strict=True)
    ]
    u, v = isocenter
    lines = f"M{u - 7:.1f} {v:.1f}h14M{u:.1f} {v - 7:.1f}v14"
    parts += [element("path", d=lines, class_=name) for name in ("cross halo", "cross")]
    length = min(50.0, bar_mm(right - left))
    line = f"M{right - size - length:.1f} {bottom - size:.1f}h{length:g}"
    parts += [element("path", d=line, class_=name) for name in ("bar halo", "bar")]
    caption = dict(x=f"{right - size - length / 2:.1f}", y=f"{bottom - 1.5 * size:.1f}", font_size=f"{0.7 * size:.1f}")
    parts.append(element("text", f"{length / 10:g} cm", text_anchor="middle", class_="letter", **caption))
    return element("g", *parts, class_="furniture")


def _svg(box: Box, title: str, *content: str) -> Markup:
    left, top, right, bottom = box
    return element(
        "svg",
        element("title", title),
        *content,
        viewBox=f"{left:.2f} {top:.2f} {right - left:.2f} {bottom - top:.2f}",
        class_="ct",
        role="img",
    )


def _position_text(data: ReportData, view: PlaneView, position: float) -> str:
    local = data.ct.grid.local_from_patient(data.isocenter_mm)
    local[2 - view.normal_axis] = position
    return (
        f"{'xyz'[view.patient_axis]} = {number(float(data.ct.grid.patient_from_local(local)[view.patient_axis]), 1)} mm"
    )


def _nearest_plane(data: ReportData, view: PlaneView) -> int:
    isocenter = float(data.ct.grid.local_from_patient(data.isocenter_mm)[2 - view.normal_axis])
    return int(np.argmin(np.abs(data.ct.grid.axis_mm(view.normal_axis) - isocenter)))


def _fixed_view(data: ReportData, name: PlaneName, levels: tuple[IsodoseLevel, ...], colors: dict[str, Rgb]) -> Markup:
    view = plane_view(data.ct.grid, name)
    position = float(data.ct.grid.axis_mm(view.normal_axis)[_nearest_plane(data, view)])
    whole = cut(data.ct.hu, data.ct.grid, view, position, interpolate=False)
    if whole is None:
        raise ValueError("a CT plane lies outside the CT")
    box = picture_box(data, view, [position], position, whole, None)
    cross = view.picture_point(data.ct.grid, data.isocenter_mm)
    caption = f"{name.capitalize()}, {_position_text(data, view, position)}"
    layer = _layer(data, view, position, box, levels, colors)
    return element("figure", _svg(box, caption, layer, _furniture(view, box, cross)), element("figcaption", caption))


def _axial_range(data: ReportData, view: PlaneView, center: int) -> tuple[int, int]:
    """First and last CT plane of the axial pictures: the targets and a margin, within the CT."""
    axis = data.ct.grid.axis_mm(view.normal_axis)
    spans = []
    for target in (item for item in data.structures if item.kind == "target"):
        others = tuple(other for other in range(3) if other != view.normal_axis)
        covered = np.flatnonzero((target.coverage.fraction > 0.01).any(axis=others))
        if len(covered):
            span = target.coverage.grid.axis_mm(view.normal_axis)
            spans += [float(span[covered[0]]), float(span[covered[-1]])]
    if not spans:
        return center, center
    inside = np.flatnonzero((axis >= min(spans) - _BEYOND_TARGETS_MM) & (axis <= max(spans) + _BEYOND_TARGETS_MM))
    return (min(int(inside[0]), center), max(int(inside[-1]), center)) if len(inside) else (center, center)


def _axial_view(data: ReportData, levels: tuple[IsodoseLevel, ...], colors: dict[str, Rgb]) -> Markup:
    """The axial picture through the isocentre, with a slider over planes above and below it."""
    grid = data.ct.grid
    view = plane_view(grid, "axial")
    axis = grid.axis_mm(view.normal_axis)
    center = _nearest_plane(data, view)
    first, last = _axial_range(data, view, center)
    whole = cut(data.ct.hu, grid, view, float(axis[center]), interpolate=False)
    if whole is None:
        raise ValueError("a CT plane lies outside the CT")
    positions = [float(axis[plane]) for plane in range(first, last + 1)]
    lowest = levels[0].dose_gy if levels else None
    box = picture_box(data, view, positions, float(axis[center]), whole, lowest)
    middle = _layer(data, view, float(axis[center]), box, levels, colors)
    allowed = max(1, min(_MAX_SLICES, _BUDGET_BYTES // max(1, len(middle))))
    step = max(1, -(-(last - first + 1) // allowed))
    # The slider runs from inferior to superior, whichever way the planes are stored.
    upward = 1 if grid.direction_matrix[2, 2 - view.normal_axis] > 0 else -1
    planes = [plane for plane in range(first, last + 1) if (plane - center) % step == 0][::upward]
    layers = []
    for plane in planes:
        layer = middle if plane == center else _layer(data, view, float(axis[plane]), box, levels, colors)
        shown = "slice on" if plane == center else "slice"
        text = f"Axial, {_position_text(data, view, float(axis[plane]))}"
        layers.append(element("g", layer, class_=shown, data_caption=text))
    caption = f"Axial, {_position_text(data, view, float(axis[center]))}"
    picture = _svg(box, "Axial", *layers, _furniture(view, box, view.picture_point(grid, data.isocenter_mm)))
    slider = element(
        "input",
        type="range",
        min=0,
        max=len(planes) - 1,
        value=planes.index(center),
        class_="slicer",
        aria_label="axial slice, inferior to superior",
    )
    thickness = grid.spacing_mm[view.normal_axis] * step
    controls = element(
        "div",
        "I",
        slider,
        "S",
        element("small", f"{len(planes)} slices, every {number(thickness, 1)} mm"),
        class_="slider",
    )
    return element(
        "figure", picture, element("figcaption", caption, class_="position"), controls if len(planes) > 1 else ""
    )


def _legend(data: ReportData, levels: tuple[IsodoseLevel, ...], colors: dict[str, Rgb]) -> Markup:
    rows = []
    for index, level in reversed(list(enumerate(levels))):
        names = f" {', '.join(level.targets)}" if level.targets else ""
        swatch = element("i", class_=f"swatch f{index}")
        rows.append(
            element(
                "li",
                swatch,
                element("b", f"{level.dose_gy:.1f} Gy"),
                f" {level.percent:.3g} %",
                element("small", names),
            )
        )
    buttons = []
    for index, structure in enumerate(data.structures):
        line = element("i", class_="line", style=f"background:{css(on_dark(colors[structure.name]))}")
        pressed = "true" if structure.shown else "false"
        buttons.append(
            element("button", line, structure.name, type="button", class_="toggle", data_s=index, aria_pressed=pressed)
        )
    switches = [
        element("label", element("input", type="checkbox", checked=True, data_layer=layer, class_="layer"), f" {label}")
        for layer, label in (("wash", "colour wash"), ("lines", "isodose lines"), ("outlines", "structures"))
    ]
    return element(
        "div",
        element("div", *switches, class_="switches"),
        element("ul", *rows, class_="isodose-legend") if data.dose is not None and levels else "",
        element("div", *buttons, class_="names"),
        class_="ct-legend",
    )


def isodose_styles(levels: tuple[IsodoseLevel, ...]) -> str:
    """CSS of the isodose bands and swatches."""
    return "".join(
        f".b{index}{{fill:{css(level.color)};stroke:{css(level.color)}}}.f{index}{{background:{css(level.color)}}}"
        for index, level in enumerate(levels)
    )


def isodose_section(data: ReportData, levels: tuple[IsodoseLevel, ...], colors: dict[str, Rgb]) -> Markup:
    """The section with the three planes, the legend and the axial slider.

    Raises ValueError if the dose or a structure lies on other axes than the CT.
    """
    grids = [structure.coverage.grid for structure in data.structures]
    grids += [] if data.dose is None else [data.dose.grid]
    if not all(data.ct.grid.same_axes(grid) for grid in grids):
        raise ValueError("the dose and the structures must lie on the axes of the CT")
    window = f"CT window {number(WINDOW_HU[0], 0)} to {number(WINDOW_HU[1], 0)} HU"
    note = f"{window}; the cross is the isocentre or its projection"
    if data.dose is not None and levels:
        reference = max(level.dose_gy / level.percent for level in levels) * 100.0
        note += f"; 100 % = {reference:.4g} Gy; maximum of the dose grid {float(data.dose.dose_gy.max()):.2f} Gy"
    engine = engine_text(data.document)
    if data.dose is not None and engine:
        note += f"; {engine}"
    left = element("div", _axial_view(data, levels, colors), _legend(data, levels, colors), class_="ct-main")
    right = element(
        "div",
        _fixed_view(data, "coronal", levels, colors),
        _fixed_view(data, "sagittal", levels, colors),
        class_="ct-side",
    )
    title = data.dose_label + " on CT" if data.dose is not None else "CT and structures (no dose was computed)"
    return section("isodoses", title, element("p", note, class_="note"), element("div", left, right, class_="ct-views"))

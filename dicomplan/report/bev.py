"""Beam's-eye views: ideal and delivered fluence, targets, and the segments one by one.

A view is what the source sees: beam limiting device +x to the right, +y up, millimetres on the isocentre plane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Aperture
from dicomplan.report.colors import Rgb, css, fluence_colors, on_dark
from dicomplan.report.framing import bar_mm
from dicomplan.report.goals import is_moving
from dicomplan.report.markup import Markup, element, join, number, script_json, section
from dicomplan.report.planes import direction_letters
from dicomplan.report.silhouette import covered_points, silhouette
from dicomplan.report.values import BeamReport, FloatArray, FluenceMap, ReportData
from dicomplan.report.vector import path_data, png_uri, simplify

Box = tuple[float, float, float, float]
_PIXEL_MM = 1.0


def opening(aperture: Aperture, leaf_boundaries_mm: FloatArray) -> list[FloatArray]:
    """The open area of an aperture as polygons (n, 2), beam limiting device x, y in mm.

    Leaf pairs that are open side by side, with openings that touch, make one polygon; jaws cut it off.
    """
    left, right = np.asarray(aperture.leaf_positions_mm, dtype=np.float64)
    low, high = np.asarray(leaf_boundaries_mm[:-1]), np.asarray(leaf_boundaries_mm[1:])
    if aperture.jaw_x_mm is not None:
        left, right = np.maximum(left, aperture.jaw_x_mm[0]), np.minimum(right, aperture.jaw_x_mm[1])
    if aperture.jaw_y_mm is not None:
        low, high = np.maximum(low, aperture.jaw_y_mm[0]), np.minimum(high, aperture.jaw_y_mm[1])
    pairs = np.flatnonzero((right - left > 1e-6) & (high - low > 1e-6))
    if not len(pairs):
        return []
    first, second = pairs[:-1], pairs[1:]
    apart = (second != first + 1) | (np.maximum(left[first], left[second]) >= np.minimum(right[first], right[second]))
    polygons = []
    for run in np.split(pairs, np.flatnonzero(apart) + 1):
        y = np.stack([low[run], high[run]], axis=1).ravel()
        up = np.column_stack([np.repeat(right[run], 2), y])
        down = np.column_stack([np.repeat(left[run], 2), y])[::-1]
        polygons.append(np.concatenate([up, down]))
    return polygons


def _flipped(polygons: list[FloatArray]) -> list[FloatArray]:
    return [polygon * np.array([1.0, -1.0]) for polygon in polygons]


def fluence_raster(fluence: FluenceMap, pixel_mm: float = _PIXEL_MM) -> FloatArray:
    """The map on even pixels of about ``pixel_mm``, nearest cell, rows from high y to low: (rows, columns) in MU."""
    indices = []
    for edges in (np.asarray(fluence.y_edges_mm), np.asarray(fluence.x_edges_mm)):
        count = max(1, round(float(edges[-1] - edges[0]) / pixel_mm))
        centers = edges[0] + (np.arange(count) + 0.5) * (edges[-1] - edges[0]) / count
        indices.append(np.clip(np.searchsorted(edges, centers, side="right") - 1, 0, len(edges) - 2))
    raster: FloatArray = np.asarray(fluence.fluence_mu, dtype=np.float64)[np.ix_(indices[0][::-1], indices[1])]
    return raster


def _view_box(data: ReportData, silhouettes: list[list[tuple[FloatArray, ...]]]) -> Box:
    """One square box for all beams: fluences, openings and targets with room for the letters, x low, y low, x high, y high."""
    points = [np.zeros((1, 2))]
    for beam, outlines in zip(data.beams, silhouettes, strict=True):
        points += [line for lines in outlines for line in lines]
        for segment in beam.delivery.segments:
            points += opening(segment.aperture, beam.leaf_boundaries_mm)
        for fluence in (beam.ideal_fluence, beam.delivered_fluence):
            if fluence is not None and (np.asarray(fluence.fluence_mu) > 0).any():
                rows = np.flatnonzero((np.asarray(fluence.fluence_mu) > 0.02 * np.max(fluence.fluence_mu)).any(1))
                columns = np.flatnonzero((np.asarray(fluence.fluence_mu) > 0.02 * np.max(fluence.fluence_mu)).any(0))
                x, y = np.asarray(fluence.x_edges_mm), np.asarray(fluence.y_edges_mm)
                points.append(np.array([[x[columns[0]], y[rows[0]]], [x[columns[-1] + 1], y[rows[-1] + 1]]]))
    cloud = np.concatenate(points)
    low, high = cloud.min(0), cloud.max(0)
    half = 0.5 * float((high - low).max()) * 1.16 + 4.0
    middle = 0.5 * (low + high)
    return (float(middle[0]) - half, float(middle[1]) - half, float(middle[0]) + half, float(middle[1]) + half)


def _fluence_image(fluence: FluenceMap | None, largest_mu: float) -> Markup:
    if fluence is None:
        return Markup("")
    x, y = np.asarray(fluence.x_edges_mm), np.asarray(fluence.y_edges_mm)
    pixels: NDArray[np.uint8] = fluence_colors(np.clip(fluence_raster(fluence) / largest_mu, 0.0, 1.0))
    return element(
        "image",
        href=png_uri(pixels),
        x=f"{x[0]:.2f}",
        y=f"{-y[-1]:.2f}",
        width=f"{x[-1] - x[0]:.2f}",
        height=f"{y[-1] - y[0]:.2f}",
        preserveAspectRatio="none",
        class_="pixels",
    )


def _panel(title: str, box: Box, letters: tuple[str, str, str, str], *layers: str) -> Markup:
    left, low, right, high = box
    size = 0.055 * (right - left)
    across, down = (left + right) / 2, -(low + high) / 2
    places = (
        (left + 0.5 * size, down + 0.4 * size, "start"),
        (right - 0.5 * size, down + 0.4 * size, "end"),
        (across, -high + 1.2 * size, "middle"),
        (across, -low - 0.5 * size, "middle"),
    )
    marks = [
        element(
            "text", letter, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, font_size=f"{size:.1f}", class_="letter"
        )
        for letter, (x, y, anchor) in zip(letters, places, strict=True)
    ]
    cross = join(element("path", d="M-5 0h10M0-5v10", class_=name) for name in ("cross halo", "cross"))
    length = bar_mm(right - left)
    bar = element("path", d=f"M{right - 4 - length:.1f} {-low - 4:.1f}h{length:g}", class_="bar")
    caption = element(
        "text",
        f"{length / 10:g} cm",
        x=f"{right - 4 - length / 2:.1f}",
        y=f"{-low - 6:.1f}",
        text_anchor="middle",
        font_size=f"{0.7 * size:.1f}",
        class_="letter",
    )
    picture = element(
        "svg",
        element("title", title),
        *layers,
        cross,
        bar,
        caption,
        *marks,
        viewBox=f"{left:.1f} {-high:.1f} {right - left:.1f} {high - low:.1f}",
        class_="bev",
        role="img",
    )
    return element("figure", picture, element("figcaption", title))


def _card(
    data: ReportData, beam: BeamReport, index: int, box: Box, largest_mu: float, outlines: list[Markup]
) -> Markup:
    plan = beam.delivery.beam
    frame = plan.frame(str(data.document.get("patient_position", "HFS")))
    letters = (
        direction_letters(-frame.x_axis),
        direction_letters(frame.x_axis),
        direction_letters(frame.y_axis),
        direction_letters(-frame.y_axis),
    )
    targets = element("g", *outlines, class_="outlines", transform="scale(.1)")
    shapes = [
        element(
            "path",
            d=path_data(_flipped(opening(segment.aperture, beam.leaf_boundaries_mm)), closed=True),
            class_="segment",
        )
        for segment in beam.delivery.segments
    ]
    moving = beam.delivery.moving
    segments = element("g", *shapes, class_="segments moving" if moving else "segments", transform="scale(.1)")
    leaves = element("g", class_="leaves")
    count = len(beam.delivery.segments)
    slider = element(
        "div",
        element(
            "input",
            type="range",
            min=0,
            max=count,
            value=0,
            class_="stepper",
            data_beam=index,
            aria_label=f"{'interval' if moving else 'segment'} of {plan.name}",
        ),
        element("small", f"{count} intervals" if moving else f"all {count} segments", class_="state"),
        class_="slider",
    )
    turn = (
        f"gantry {plan.gantry_angle_deg:g}°, collimator {plan.collimator_angle_deg:g}°, couch {plan.couch_angle_deg:g}°"
    )
    head = element("h3", plan.name, element("small", f"{turn}; {beam.delivery.meterset_mu:.1f} MU"))
    panels = [
        _panel("ideal fluence", box, letters, _fluence_image(beam.ideal_fluence, largest_mu), targets),
        _panel(
            "delivered" if moving else "delivered, with segments",
            box,
            letters,
            _fluence_image(beam.delivered_fluence, largest_mu),
            targets,
            segments,
            leaves,
        ),
    ]
    return element("div", head, element("div", *panels, class_="pair"), slider if count else "", class_="beam-card")


def segment_values(data: ReportData) -> list[dict[str, Any]]:
    """For the page's script, per beam: leaf boundaries, and per segment its MU, leaf positions and jaws, all mm."""
    return [
        {
            "word": "interval" if beam.delivery.moving else "segment",
            "boundaries_mm": np.round(beam.leaf_boundaries_mm, 2).tolist(),
            "segments": [
                {
                    "mu": round(segment.meterset_mu, 2),
                    "leaves_mm": np.round(segment.aperture.leaf_positions_mm, 2).tolist(),
                    "jaw_x_mm": segment.aperture.jaw_x_mm,
                    "jaw_y_mm": segment.aperture.jaw_y_mm,
                }
                for segment in beam.delivery.segments
            ],
        }
        for beam in data.beams
    ]


def bev_section(data: ReportData, colors: dict[str, Rgb]) -> Markup:
    """The section with one card for each beam; all views share one scale of length and one of fluence."""
    if not data.beams:
        return Markup("")
    targets = [item for item in data.structures if item.kind == "target"]
    clouds = [covered_points(item.coverage) for item in targets]
    position = str(data.document.get("patient_position", "HFS"))
    silhouettes = [[silhouette(cloud, beam.delivery.beam.frame(position)) for cloud in clouds] for beam in data.beams]
    maps = [item for beam in data.beams for item in (beam.ideal_fluence, beam.delivered_fluence) if item is not None]
    largest_mu = max((float(np.max(item.fluence_mu)) for item in maps), default=0.0) or 1.0
    box = _view_box(data, silhouettes)
    cards = []
    for index, (beam, lines) in enumerate(zip(data.beams, silhouettes, strict=True)):
        outlines = [
            element(
                "path",
                d=path_data(_flipped([simplify(line, 0.3) for line in shape]), closed=True),
                class_="o target",
                stroke=css(on_dark(colors[item.name])),
            )
            for item, shape in zip(targets, lines, strict=True)
        ]
        cards.append(_card(data, beam, index, box, largest_mu, outlines))
    key = [
        element("span", element("i", class_="line", style=f"background:{css(on_dark(colors[item.name]))}"), item.name)
        for item in targets
    ]
    scale = element("span", "0", element("i", class_="ramp"), f"{number(largest_mu, 1)} MU", class_="scale")
    moving = is_moving(data)
    note = element(
        "p",
        "Seen from the source: beam limiting device +x to the right, +y up; mm at the isocentre. Fluence of one fraction. ",
        element(
            "span",
            "Move a slider to step through the intervals between control points; leaves are drawn at the start of each."
            if moving
            else "Move a slider to step through the segments.",
            class_="screen",
        ),
        class_="note",
    )
    outlines_key = element("span", element("i", class_="line segment-key"), "segments")
    legend = element("div", scale, join(key), "" if moving else outlines_key, class_="bev-key")
    return section(
        "bev",
        "Beam's-eye views",
        note,
        legend,
        element("div", *cards, class_="cards"),
        script_json("segments", segment_values(data)),
    )

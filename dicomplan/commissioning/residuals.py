"""Computed against measured: the figures that a commissioned machine is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.commissioning.fit import maximum_depth_mm, normalised
from dicomplan.commissioning.measurements import DepthCurve, Measurements, OutputFactors, Profile, side_mm
from dicomplan.commissioning.selection import Selection, normal_row

FloatArray = NDArray[np.float64]
Doses = tuple[Sequence[FloatArray], Sequence[FloatArray], Sequence[FloatArray]]
"""Doses at the points of all depth curves, of all profiles, and of all tables of output factors."""

DEPTH_MEAN_PERCENT, DEPTH_MAX_PERCENT = 1.0, 2.0
"""Bars of depth doses and TPRs beyond the maximum, for fields of :data:`DEPTH_FIELDS_MM`."""

DEPTH_FIELDS_MM = (30.0, 300.0)
OUTPUT_PERCENT, SMALL_OUTPUT_PERCENT = 1.0, 2.0
"""Bars of output factors: of fields from 30 mm, and of smaller ones."""

PENUMBRA_MM = 1.0
"""Bar of the difference in penumbra, 80 to 20 %."""

_SMALL_MM = 30.0


@dataclass(frozen=True)
class Compared:
    """One curve: ``at_mm``, ``measured``, ``computed`` (collapsed cone) and ``pencil``, all relative to the same point."""

    title: str
    fitted: bool
    at_mm: FloatArray
    measured: FloatArray
    computed: FloatArray
    pencil: FloatArray
    figures: dict[str, float]
    passed: bool | None


@dataclass(frozen=True)
class Residuals:
    """All comparisons. ``passed`` of each: whether it holds its bars; None where there is none for it."""

    depth: tuple[Compared, ...]
    profiles: tuple[Compared, ...]
    output: tuple[Compared, ...]


def residuals(measured: Measurements, selection: Selection, exact: Doses, fast: Doses) -> Residuals:
    """Comparison of the doses of both engines with everything measured."""
    depth = tuple(
        _depth(curve, seen, one, other)
        for curve, seen, one, other in zip(
            measured.depth_curves, selection.depth_curves, exact[0], fast[0], strict=True
        )
    )
    profiles = tuple(
        _profile(profile, seen, one, other)
        for profile, seen, one, other in zip(measured.profiles, selection.profiles, exact[1], fast[1], strict=True)
    )
    output = tuple(
        row
        for table, rows, one, other in zip(
            measured.output_factors, selection.output_factors, exact[2], fast[2], strict=True
        )
        for row in _outputs(table, rows, one, other)
    )
    return Residuals(depth, profiles, output)


def _depth(curve: DepthCurve, fitted: bool, exact: FloatArray, fast: FloatArray) -> Compared:
    measured, computed = normalised(curve, exact)
    pencil = normalised(curve, fast)[1]
    beyond = curve.depth_mm > maximum_depth_mm(curve)
    figures: dict[str, float] = {}
    for name, own in (("", computed), ("pencil_", pencil)):
        percent = 100.0 * (own / measured - 1.0)[beyond]
        worst = int(np.argmax(np.abs(percent)))
        figures[f"{name}mean_abs_percent"] = float(np.abs(percent).mean())
        figures[f"{name}worst_percent"] = float(percent[worst])
        figures[f"{name}worst_at_mm"] = float(curve.depth_mm[beyond][worst])
    kind = (
        "TPR" if curve.source_surface_distance_mm is None else f"depth dose, SSD {curve.source_surface_distance_mm:g}"
    )
    side = side_mm(curve.field_mm)
    passed = None
    if DEPTH_FIELDS_MM[0] <= side <= DEPTH_FIELDS_MM[1]:
        passed = (
            figures["mean_abs_percent"] <= DEPTH_MEAN_PERCENT and abs(figures["worst_percent"]) <= DEPTH_MAX_PERCENT
        )
    title = f"{kind}, {_field(curve.field_mm)} ({curve.source})"
    return Compared(title, fitted, curve.depth_mm, measured, computed, pencil, figures, passed)


def _profile(profile: Profile, fitted: bool, exact: FloatArray, fast: FloatArray) -> Compared:
    at = profile.position_mm
    measured, computed, pencil = (own / np.interp(0.0, at, own) for own in (profile.value, exact, fast))
    figures: dict[str, float] = {}
    own = edges(at, measured)
    half = own[1]
    inside, outside = np.abs(at) <= 0.8 * half, np.abs(at) >= half + 15.0
    figures["measured_penumbra_mm"], figures["measured_half_width_mm"] = own
    for name, curve in (("", computed), ("pencil_", pencil)):
        penumbra, width = edges(at, curve)
        figures[f"{name}penumbra_difference_mm"] = penumbra - own[0]
        figures[f"{name}edge_shift_mm"] = width - own[1]
        difference = 100.0 * (curve - measured)
        figures[f"{name}inside_mean_abs_percent"] = float(np.abs(difference[inside]).mean())
        figures[f"{name}inside_worst_percent"] = float(max(difference[inside], key=abs))
        figures[f"{name}outside_worst_percent"] = float(max(difference[outside], key=abs)) if outside.any() else 0.0
    title = (
        f"profile along {profile.axis}, {_field(profile.field_mm)}, {profile.depth_mm:g} mm deep, "
        f"SSD {profile.source_surface_distance_mm:g} ({profile.source})"
    )
    passed = abs(figures["penumbra_difference_mm"]) <= PENUMBRA_MM
    return Compared(title, fitted, at, measured, computed, pencil, figures, passed)


def _outputs(table: OutputFactors, rows: NDArray[np.bool_], exact: FloatArray, fast: FloatArray) -> list[Compared]:
    normal = normal_row(table)
    computed, pencil = (own / own[normal] * table.value[normal] for own in (exact, fast))
    found = []
    for k, field in enumerate(table.field_mm):
        if k == normal:
            continue
        pair = (float(field[0]), float(field[1]))
        percent = 100.0 * (computed[k] / table.value[k] - 1.0)
        bar = SMALL_OUTPUT_PERCENT if min(pair) < _SMALL_MM - 0.5 else OUTPUT_PERCENT
        place = f"SSD {table.source_surface_distance_mm:g}, {table.depth_mm:g} mm deep"
        found.append(
            Compared(
                f"output factor, {_field(pair)}, {place} ({table.source})",
                bool(rows[k]),
                np.array([side_mm(pair)]),
                table.value[k : k + 1],
                computed[k : k + 1],
                pencil[k : k + 1],
                {"percent": float(percent), "pencil_percent": float(100.0 * (pencil[k] / table.value[k] - 1.0))},
                bool(abs(percent) <= bar),
            )
        )
    return found


def edges(at_mm: FloatArray, value: FloatArray) -> tuple[float, float]:
    """Width 80 to 20 % and place of 50 % of a profile that is 1 on the axis: the mean of both sides, mm."""
    found = []
    for side in (-1.0, 1.0):
        order = np.argsort(side * at_mm)
        place, curve = (side * at_mm)[order], value[order]
        keep = place >= 0.0
        place, curve = place[keep], curve[keep]
        crossings = [_crossing(place, curve, level) for level in (0.8, 0.5, 0.2)]
        found.append((crossings[2] - crossings[0], crossings[1]))
    penumbra, half = np.mean(found, axis=0)
    return float(penumbra), float(half)


def _crossing(place: FloatArray, curve: FloatArray, level: float) -> float:
    below = np.flatnonzero(curve < level)
    if not below.size or below[0] == 0:
        return float("nan")
    k = int(below[0])
    share = (curve[k - 1] - level) / (curve[k - 1] - curve[k])
    return float(place[k - 1] + share * (place[k] - place[k - 1]))


def _field(field_mm: tuple[float, float]) -> str:
    return f"{field_mm[0]:g} x {field_mm[1]:g} mm"

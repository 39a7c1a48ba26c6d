"""Which measurements the fit sees: every second one of each kind, by size. The others judge it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.commissioning.measurements import DepthCurve, Measurements, OutputFactors, Profile, side_mm


@dataclass(frozen=True)
class Selection:
    """For each curve, profile and output factor of the measurements, whether the fit sees it."""

    depth_curves: tuple[bool, ...]
    profiles: tuple[bool, ...]
    output_factors: tuple[NDArray[np.bool_], ...]


def every_second(measured: Measurements) -> Selection:
    """The first, third, ... of each kind, in order of field size: percentage depth doses, TPRs, output factors of each
    table (that to which they relate, with value 1, takes no part); profiles in order of field, axis and depth."""
    curves = measured.depth_curves
    seen = np.zeros(len(curves), dtype=bool)
    for ratios in (False, True):
        members = [k for k, one in enumerate(curves) if (one.source_surface_distance_mm is None) == ratios]
        seen[sorted(members, key=lambda k: side_mm(curves[k].field_mm))[::2]] = True
    profiles = np.zeros(len(measured.profiles), dtype=bool)
    profiles[sorted(range(len(profiles)), key=lambda k: _place(measured.profiles[k]))[::2]] = True
    outputs = tuple(_of_table(table) for table in measured.output_factors)
    return Selection(tuple(map(bool, seen)), tuple(map(bool, profiles)), outputs)


def normal_row(table: OutputFactors) -> int:
    """Row of the field to which a table of output factors relates: that of value 1, nearest to 100 mm."""
    sides = np.array([side_mm((x, y)) for x, y in table.field_mm])
    off = np.where(np.abs(table.value - 1.0) < 1e-9, 0.0, 1e6)
    return int(np.argmin(np.abs(sides - 100.0) + off))


def normal_depth_mm(curve: DepthCurve) -> float:
    """Depth at which a curve is compared: where a table of ratios is 1 (nearest to 100 mm), else 100 mm."""
    ones = np.flatnonzero(np.abs(curve.value - 1.0) < 1e-9)
    if curve.source_surface_distance_mm is None and ones.size:
        return float(curve.depth_mm[ones[np.argmin(np.abs(curve.depth_mm[ones] - 100.0))]])
    return float(np.clip(100.0, curve.depth_mm[0], curve.depth_mm[-1]))


def _of_table(table: OutputFactors) -> NDArray[np.bool_]:
    seen = np.zeros(len(table.value), dtype=bool)
    rest = [k for k in range(len(seen)) if k != normal_row(table)]
    seen[rest[::2]] = True
    return seen


def _place(profile: Profile) -> tuple[float, str, float]:
    return side_mm(profile.field_mm), profile.axis, profile.depth_mm

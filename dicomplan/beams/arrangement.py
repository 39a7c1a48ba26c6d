"""Beams of a plan: names, isocentre and angles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Beam
from dicomplan.patient.case import Coverage


def covered_points_mm(coverage: Coverage, least: float = 0.5) -> NDArray[np.float64]:
    """Patient coordinates (n, 3), mm, of the cells of a structure that it covers at least by ``least``.

    All covered cells where it covers none by that much.
    """
    index = np.argwhere(coverage.fraction >= least)
    if len(index) == 0:
        index = np.argwhere(coverage.fraction > 0)
    return coverage.grid.patient_from_index(index)


def isocenter_mm(coverages: Sequence[Coverage]) -> tuple[float, float, float]:
    """Centre of the box round all structures together (half-covered cells), each coordinate rounded to 1 mm.

    Raises ValueError if nothing is covered.
    """
    points = [covered_points_mm(coverage) for coverage in coverages]
    points = [one for one in points if len(one)]
    if not points:
        raise ValueError("there is nothing to centre the beams on")
    low = np.min([one.min(axis=0) for one in points], axis=0)
    high = np.max([one.max(axis=0) for one in points], axis=0)
    x, y, z = np.round(0.5 * (low + high)) + 0.0
    return float(x), float(y), float(z)


def beam_name(number: int, gantry_angle_deg: float, couch_angle_deg: float = 0.0, part: str = "") -> str:
    """A beam's name of at most 16 characters: ``1_G040``, ``3_G220_T015``, with ``part`` for carriage groups."""
    gantry = f"{gantry_angle_deg:05.1f}".removesuffix(".0") if gantry_angle_deg % 1 else f"{gantry_angle_deg:03.0f}"
    couch = f"_T{couch_angle_deg:03.0f}" if couch_angle_deg else ""
    return f"{number}_G{gantry}{couch}{part}"


def arrange(
    angles_deg: Sequence[tuple[float, float, float]],
    isocenter: tuple[float, float, float],
    source_axis_distance_mm: float,
) -> tuple[Beam, ...]:
    """Beams numbered from 1 for (gantry, collimator, couch) angles in degrees (IEC 61217), about one isocentre (mm)."""
    return tuple(
        Beam(
            number,
            beam_name(number, gantry, couch),
            gantry_angle_deg=gantry,
            collimator_angle_deg=collimator,
            couch_angle_deg=couch,
            isocenter_mm=isocenter,
            source_axis_distance_mm=source_axis_distance_mm,
        )
        for number, (gantry, collimator, couch) in enumerate(angles_deg, 1)
    )

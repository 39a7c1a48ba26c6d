"""Beams and control points as values: what is exported, and all that the final dose is computed from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry.frames import BeamFrame, beam_frame

TRAVEL_STEP_MM = 1.0
"""A moving leaf or jaw is followed in steps of at most this: one pixel of a fluence plane, which averages over it."""

_SAME = 1e-6
_UNMOVED_MM = 1e-9


@dataclass(frozen=True)
class Beam:
    """Geometry of one beam: IEC 61217 angles in degrees, isocentre in patient coordinates (mm)."""

    number: int
    name: str
    gantry_angle_deg: float
    collimator_angle_deg: float
    couch_angle_deg: float
    isocenter_mm: tuple[float, float, float]
    source_axis_distance_mm: float = 1000.0

    def frame(self, patient_position: str) -> BeamFrame:
        """Axes of the beam limiting device system in patient coordinates."""
        return beam_frame(
            patient_position,
            self.isocenter_mm,
            self.gantry_angle_deg,
            self.collimator_angle_deg,
            self.couch_angle_deg,
            self.source_axis_distance_mm,
        )


@dataclass(frozen=True)
class Aperture:
    """One shape of jaws and leaves, projected at isocentre, mm, in beam limiting device coordinates.

    ``leaf_positions_mm`` is (2, N) float64: bank X1 (negative side) and bank X2 of the N leaf pairs in ascending boundary
    order. ``jaw_x_mm`` and ``jaw_y_mm`` are (first, second) edges; None where the machine has no such jaw.
    """

    leaf_positions_mm: NDArray[np.float64]
    jaw_y_mm: tuple[float, float] | None
    jaw_x_mm: tuple[float, float] | None


@dataclass(frozen=True)
class Segment:
    """What happens between two control points: ``meterset_mu`` of one fraction through an aperture.

    It stands still (step-and-shoot), or, with ``end``, moves from ``aperture`` to ``end`` in proportion to the meterset
    (sliding window; PS3.3 C.8.8.14.5).
    """

    aperture: Aperture
    meterset_mu: float
    end: Aperture | None = None


@dataclass(frozen=True)
class BeamDelivery:
    """One beam with its segments in order of delivery; metersets of one fraction.

    ``dose_rate_mu_min``: the greatest dose rate that the beam asks for, None for the machine's.
    """

    beam: Beam
    segments: tuple[Segment, ...]
    dose_rate_mu_min: float | None = None

    @property
    def meterset_mu(self) -> float:
        """Meterset of the beam in one fraction."""
        return float(sum(segment.meterset_mu for segment in self.segments))

    @property
    def moving(self) -> bool:
        """Whether leaves or jaws move while the beam is on: its segments belong together and scale as one."""
        return any(segment.end is not None for segment in self.segments)


def direction(beam: Beam) -> tuple[float, ...]:
    """What two beams share that see the patient alike: gantry, collimator and couch angle (degrees), isocentre (mm)."""
    return (beam.gantry_angle_deg, beam.collimator_angle_deg, beam.couch_angle_deg, *beam.isocenter_mm)


def travel_mm(start: Aperture, end: Aperture) -> float:
    """The longest way of a leaf or jaw from one aperture to another, mm."""
    ways = [float(np.abs(end.leaf_positions_mm - start.leaf_positions_mm).max(initial=0.0))]
    for before, after in ((start.jaw_x_mm, end.jaw_x_mm), (start.jaw_y_mm, end.jaw_y_mm)):
        if before is not None and after is not None:
            ways += [abs(after[0] - before[0]), abs(after[1] - before[1])]
    return max(ways)


def between(start: Aperture, end: Aperture, share: float) -> Aperture:
    """The aperture at a share (0 to 1) of the way from one to another."""
    leaves = start.leaf_positions_mm + share * (end.leaf_positions_mm - start.leaf_positions_mm)
    return Aperture(
        leaves,
        _between(start.jaw_y_mm, end.jaw_y_mm, share),
        _between(start.jaw_x_mm, end.jaw_x_mm, share),
    )


def stills(segments: Sequence[Segment]) -> tuple[Segment, ...]:
    """The same delivery standing still: a moving segment as shapes at the middle of equal steps.

    As many as the longest way of a leaf or jaw has steps of :data:`TRAVEL_STEP_MM`, equal in meterset.
    """
    result: list[Segment] = []
    for segment in segments:
        end = segment.end
        way = 0.0 if end is None else travel_mm(segment.aperture, end)
        if end is None or way < _UNMOVED_MM:
            result.append(replace(segment, end=None))
            continue
        count = max(1, math.ceil(way / TRAVEL_STEP_MM - _SAME))
        for step in range(count):
            shape = between(segment.aperture, end, (step + 0.5) / count)
            result.append(Segment(shape, segment.meterset_mu / count))
    return tuple(result)


def with_meterset(delivery: BeamDelivery, factor: float) -> BeamDelivery:
    """The delivery with all metersets times ``factor``; with less of them the dose rate falls, so that no leaf is faster."""
    segments = tuple(replace(segment, meterset_mu=segment.meterset_mu * factor) for segment in delivery.segments)
    rate = delivery.dose_rate_mu_min
    return replace(delivery, segments=segments, dose_rate_mu_min=None if rate is None else rate * min(factor, 1.0))


def _between(
    start: tuple[float, float] | None, end: tuple[float, float] | None, share: float
) -> tuple[float, float] | None:
    if start is None or end is None:
        return start
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])

"""Beams and control points as values: what is exported, and all that the final dose is computed from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry.frames import BeamFrame, beam_frame


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
    """A step-and-shoot segment: an aperture held still for ``meterset_mu`` of one fraction."""

    aperture: Aperture
    meterset_mu: float


@dataclass(frozen=True)
class BeamDelivery:
    """One beam with its segments in order of delivery; metersets of one fraction."""

    beam: Beam
    segments: tuple[Segment, ...]

    @property
    def meterset_mu(self) -> float:
        """Meterset of the beam in one fraction."""
        return float(sum(segment.meterset_mu for segment in self.segments))


def direction(beam: Beam) -> tuple[float, ...]:
    """What two beams share that see the patient alike: gantry, collimator and couch angle (degrees), isocentre (mm)."""
    return (beam.gantry_angle_deg, beam.collimator_angle_deg, beam.couch_angle_deg, *beam.isocenter_mm)

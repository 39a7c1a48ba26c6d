"""Where a beam's central axis meets the patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dicomplan.beams.delivery import Beam
from dicomplan.geometry.rays import path_integral
from dicomplan.geometry.resample import trilinear
from dicomplan.patient.case import Coverage
from dicomplan.planning.case import PlanningCase

_STEP_MM = 0.5


@dataclass(frozen=True)
class BeamDepths:
    """Along the central axis, mm: source to skin, skin to isocentre, and the latter in mm of water; None: it misses."""

    source_surface_distance_mm: float | None
    isocenter_depth_mm: float | None
    isocenter_radiological_depth_mm: float | None


def beam_depths(beam: Beam, case: PlanningCase, body: Coverage) -> BeamDepths:
    """The first point of BODY on the way from the source to the isocentre (half coverage), to 0.5 mm."""
    frame = beam.frame(case.patient_position)
    distance = np.arange(0.0, beam.source_axis_distance_mm + _STEP_MM, _STEP_MM)
    points = frame.source_mm - distance[:, None] * frame.z_axis
    covered = trilinear(body.fraction, body.grid, body.grid.local_from_patient(points)) >= 0.5
    if not covered.any():
        return BeamDepths(None, None, None)
    surface = float(distance[int(np.argmax(covered))])
    grid = case.density.grid
    center = frame.isocenter_mm[None, :]
    water = path_integral(case.density.electron_relative, grid, frame.source_mm, center)
    return BeamDepths(surface, beam.source_axis_distance_mm - surface, float(water[0]))

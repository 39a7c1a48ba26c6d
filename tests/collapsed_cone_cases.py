"""Phantoms and beams for the tests of the collapsed cone."""

from __future__ import annotations

import numpy as np

from dicomplan.dose.collapsed_cone import collapsed_cone_dose
from dicomplan.dose.fluence import FluencePlane, plane_axes
from dicomplan.geometry.frames import BeamFrame, beam_frame
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.machine.library import load_machine
from dicomplan.machine.model import BeamModel
from dicomplan.patient.density import DensityVolume


def beam() -> BeamModel:
    """The isotropic 6 MV point source."""
    return load_machine("reference_6mv").beam


def box(shape=(40, 40, 40), spacing_mm=4.0, density=1.0) -> DensityVolume:
    """A homogeneous box centred on the origin."""
    origin = tuple(-0.5 * spacing_mm * (n - 1) for n in shape[::-1])
    grid = VoxelGrid(shape, (spacing_mm,) * 3, origin)
    return DensityVolume(grid, np.full(shape, density, dtype=np.float32))


def half_lung() -> DensityVolume:
    """Water with lung at x > 0 in its middle third."""
    volume = box((20, 24, 20), 5.0)
    volume.mass_g_cm3[:, 8:16, 10:] = 0.26
    return volume


def frame(gantry_angle_deg=0.0, **options) -> BeamFrame:
    """Beam towards the origin, head first supine: gantry 0 shines along +y."""
    return beam_frame("HFS", (0.0, 0.0, 0.0), gantry_angle_deg, **options)


def rectangle(x_mm=(-30.0, 30.0), y_mm=(-30.0, 30.0), value=1.0) -> FluencePlane:
    """An open rectangle at isocentre with edges at whole millimetres."""
    x, y = plane_axes((-100.0, 100.0), (-100.0, 100.0))
    inside = ((y > y_mm[0]) & (y < y_mm[1]))[:, None] & ((x > x_mm[0]) & (x < x_mm[1]))[None, :]
    return FluencePlane(value * inside, x, y)


def dose_of(density, fluence=None, at=None, **options) -> np.ndarray:
    """Collapsed-cone dose of the reference beam, Gy cm2 per photon."""
    return collapsed_cone_dose(fluence or rectangle(), at or frame(), density, beam(), **options)

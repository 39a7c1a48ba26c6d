"""Electrons that contaminate the photon beam: dose near the surface, the same in both engines.

dose = (SAD / r)^2 x w x T(0) x exp(-depth / d) x (fluence (*) G)(u, v): an exponential in radiological depth, as
A. Ahnesjo and P. Andreo write the contamination of photon beams (Phys Med Biol 34 (1989) 1451-1464), with a lateral spread so
wide that it falls off outside the field and grows with its size. T(0) is what an open beam releases at depth 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.coarse import coarse_depth_mm, coarse_grid
from dicomplan.dose.fluence import FluencePlane
from dicomplan.dose.point_kernels import GY_CM2_PER_MEV_MM, water_attenuation_per_mm
from dicomplan.geometry.frames import BeamFrame
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.geometry.rays import path_integral
from dicomplan.machine.model import BeamModel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

ELECTRON_SIGMA_MM = 40.0
"""Lateral spread (mm, isocentre plane) of the electrons of one point of the fluence: one of the pencil kernel's widths,
so that they cost nothing there. They are scattered in the head and in a metre of air; the width is a choice, not fitted."""

_REACH = 8.0  # depths 1/e beyond which nothing is left
_COARSE_MM = 30.0  # by so much at most depths differ from those of the coarse grid, that tell where to look at all
_STEP_MM = 5.0  # of the map of the spread fluence: an eighth of its width


def surface_release_mev_per_mm(beam: BeamModel) -> float:
    """MeV that a photon of the spectrum releases per mm of water at depth 0, on average."""
    photons = beam.photon_weights / beam.photon_weights.sum()
    return float((photons * beam.energies_mev * water_attenuation_per_mm(beam.energies_mev)).sum())


def electron_dose(
    fluence: FluencePlane,
    frame: BeamFrame,
    grid: VoxelGrid,
    electron_relative: Float32Array,
    depth_mm: Float32Array,
    beam: BeamModel,
) -> Float32Array:
    """Dose of contaminating electrons, Gy cm2 per photon, float32 (z, y, x): at voxel centres, to water.

    ``depth_mm`` (z, y, x): water-equivalent paths from the source; traced here where they are NaN.
    """
    from scipy.interpolate import RegularGridInterpolator
    from scipy.special import ndtr

    axes = []
    responses = []
    for centres in (fluence.y_mm, fluence.x_mm):
        half = 0.5 * fluence.step_mm
        reach = 4.0 * ELECTRON_SIGMA_MM
        places = np.arange(centres[0] - reach, centres[-1] + reach + _STEP_MM, _STEP_MM)
        upper, lower = (centres[None, :] + half - places[:, None]), (centres[None, :] - half - places[:, None])
        responses.append(ndtr(upper / ELECTRON_SIGMA_MM) - ndtr(lower / ELECTRON_SIGMA_MM))
        axes.append(places)
    spread = RegularGridInterpolator(
        axes, responses[0] @ fluence.values @ responses[1].T, bounds_error=False, fill_value=0.0
    )
    factor = GY_CM2_PER_MEV_MM * beam.electron_weight * surface_release_mev_per_mm(beam)
    dose = np.zeros(grid.shape, dtype=np.float32)
    coarse = coarse_grid(grid)
    about = coarse.interpolated(coarse_depth_mm(coarse, electron_relative, frame))
    reach = _REACH * beam.electron_depth_mm
    indices = np.indices(grid.shape[1:]).reshape(2, -1).T
    for k in range(grid.shape[0]):
        near = np.flatnonzero(about[k].ravel() < reach + _COARSE_MM)
        points = grid.patient_from_index(np.column_stack([np.full(len(near), k), indices[near]]))
        depth = depth_mm[k].ravel()[near].astype(np.float64)
        unknown = np.isnan(depth)
        depth[unknown] = path_integral(electron_relative, grid, frame.source_mm, points[unknown])
        kept = depth < reach
        near, points, depth = near[kept], points[kept], depth[kept]
        projected = frame.project(points)
        distance = np.linalg.norm(points - frame.source_mm, axis=-1)
        value = spread(projected[:, 1::-1]) * np.exp(-depth / beam.electron_depth_mm)
        dose[k].ravel()[near] = factor * (frame.source_axis_distance_mm / distance) ** 2 * value
    return dose

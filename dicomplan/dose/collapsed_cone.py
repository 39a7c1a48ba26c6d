"""Collapsed-cone convolution/superposition: the accurate dose engine.

Energy that primary photons release (:mod:`dicomplan.dose.terma`) is carried along a fixed set of cone directions with
two exponentials per cone (:mod:`dicomplan.dose.kernel_fit`), scaled by the electron density on the way: A. Ahnesjo,
"Collapsed cone convolution of radiant energy for photon dose calculation in heterogeneous media", Med Phys 16 (1989)
577-592. Per direction the grid is swept plane by plane along a lattice of parallel lines, one through each voxel of a
plane; densities and released energy are interpolated to the lines, the dose of the lines is given back with the same
weights, which conserves energy exactly and leaves no ripple of the lattice. The work is O(voxels) per direction. The
kernels turn with the rays: each line takes the share and exponent for the angle between its direction and the local ray.

In bone and metal electrons get less far (:data:`dicomplan.dose.transport.DENSER`), and some come back
(:mod:`dicomplan.dose.electron_return`); deeper they get further (:mod:`dicomplan.dose.hardening`). What photons that are
scattered more than once do otherwise than in endless water is followed apart (:mod:`dicomplan.dose.rescatter`).

Dose to medium: the transport runs on electron density, and deposits energy per electron density of water; dose to
medium is that times (relative electron density / mass density): where electrons are in balance they deposit what was
released. What metal absorbs beyond its electrons is added to its own dose. Dose to water is the dose to medium times the
ratio of stopping powers (:mod:`dicomplan.dose.dose_to_water`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.dose_to_water import DoseTo, water_over_medium
from dicomplan.dose.electron_return import electron_return, onward
from dicomplan.dose.electrons import electron_dose
from dicomplan.dose.fluence import FluencePlane
from dicomplan.dose.hardening import stopping_density
from dicomplan.dose.kernel_fit import cone_set, fit_kernel
from dicomplan.dose.photon_generations import photon_generations
from dicomplan.dose.point_kernels import load_point_kernels
from dicomplan.dose.rescatter import rescatter
from dicomplan.dose.terma import terma
from dicomplan.dose.transport import transport
from dicomplan.geometry.frames import BeamFrame
from dicomplan.machine.model import BeamModel
from dicomplan.patient.density import DensityVolume

Float32Array = NDArray[np.float32]

CONES = 96
"""Number of cone directions of the final dose."""

SHARPEN = (0.364683, -0.061706, 0.005423)
"""Shares of the differences of the energy released per electron to the next voxels, and (given back) to the ones after, and
to the third, that are taken off before the transport.

Energy is released evenly within a voxel, voxels give it to the lines, and the lines their dose to voxels, by linear
weights: at a phase w per voxel the wave is (sin(w/2) / (w/2))^5 of itself on average, where the mean over a voxel alone
would be the first power. The three weights undo the other four powers to the sixth order in w: they solve
a + 4 b + 9 c = 1/6, a + 16 b + 81 c = -11/60, a + 64 b + 729 c = 0.369047 (the series of the fourth power of
(w/2) / sin(w/2), and of 2 - 2 cos of w, 2 w and 3 w).
"""


def collapsed_cone_dose(
    fluence: FluencePlane,
    frame: BeamFrame,
    density: DensityVolume,
    beam: BeamModel,
    *,
    cones: int = CONES,
    dose_to: DoseTo = "medium",
) -> Float32Array:
    """Dose in Gy cm2 per photon, float32 (z, y, x) on the density's grid: Gy for 1 photon/cm2 of ``fluence`` 1 on the
    axis at the isocentre plane. Dose to medium or, by ``dose_to``, to water."""
    kernels = load_point_kernels()
    kernel = fit_kernel(beam, kernels)
    electron_kernel = onward(kernel)
    directions = cone_set(electron_kernel, cones)
    electrons = beam.electron_weight > 0.0
    released = terma(fluence, frame, density, beam, kernels, sharpen=SHARPEN, depths=electrons)
    stopping = stopping_density(released, frame, beam, kernels)
    dose = transport(released, frame, directions, stopping)
    returned, kept = electron_return(released, frame, electron_kernel)
    dose += returned
    dose += rescatter(released, frame, kernel, photon_generations(beam))
    np.maximum(dose, np.float32(0.0), out=dose)
    mass = np.maximum(density.mass_g_cm3, np.float32(1e-6))
    dose *= released.electron_relative / mass
    if kept.size:
        dose += kept / mass
    if dose_to == "water":
        dose *= water_over_medium(mass, released.electron_relative)
    if electrons:
        dose += electron_dose(fluence, frame, released.grid, released.electron_relative, released.depth_mm, beam)
    return dose

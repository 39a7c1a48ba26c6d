"""Collapsed-cone convolution/superposition: the accurate dose engine.

Energy that primary photons release (:mod:`dicomplan.dose.terma`) is carried along a fixed set of cone directions with
two exponentials per cone (:mod:`dicomplan.dose.kernel_fit`), scaled by the electron density on the way: A. Ahnesjo,
"Collapsed cone convolution of radiant energy for photon dose calculation in heterogeneous media", Med Phys 16 (1989)
577-592. Per direction the grid is swept plane by plane along a lattice of parallel lines, one through each voxel of a
plane; densities and released energy are interpolated to the lines, the dose of the lines is given back with the same
weights, which conserves energy exactly and leaves no ripple of the lattice. The work is O(voxels) per direction. The
kernels turn with the rays: each line takes the share and exponent for the angle between its direction and the local ray.

Dose to medium: the transport runs on electron density, and deposits energy per electron density of water; dose to
medium is that times (relative electron density / mass density), i.e. the stopping powers per electron are taken as
those of water. Dose to water leaves the factor out. What metal absorbs
beyond its electrons is added to its own dose to medium; electrons that metal scatters back are not modelled.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.electrons import electron_dose
from dicomplan.dose.fluence import FluencePlane
from dicomplan.dose.kernel_fit import ConeSet, cone_set, fit_kernel
from dicomplan.dose.point_kernels import load_point_kernels
from dicomplan.dose.terma import Terma, terma
from dicomplan.geometry.frames import BeamFrame
from dicomplan.machine.model import BeamModel
from dicomplan.patient.density import DensityVolume

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

CONES = 96
"""Number of cone directions of the final dose."""

SHARPEN = 1.0 / 6.0
"""Share of the fluence's second differences from voxel to voxel that is taken off before the transport.

Energy is released evenly within a voxel (variance 1/12 voxel^2); voxels give it to the lines, and the lines their dose to
voxels, by linear weights (1/6 each, on average), where the mean over a voxel alone would be 1/12: edges are wider by a
variance of 1/3. A second difference with half that weight narrows by as much.
"""

_GROUPS = 4  # of directions, summed apart: fixed, so that the dose does not depend on the number of threads

_TILT_STEP = 0.002  # of 1 - cosine, for the sums of the shares
_TILTS = 100

# array axes (march, u, v) for the direction's leading local axis x, y, z; v keeps x contiguous where it can
_LAYOUT = {0: (2, 0, 1), 1: (1, 0, 2), 2: (0, 1, 2)}


def collapsed_cone_dose(
    fluence: FluencePlane,
    frame: BeamFrame,
    density: DensityVolume,
    beam: BeamModel,
    *,
    cones: int = CONES,
    to_water: bool = False,
) -> Float32Array:
    """Dose in Gy cm2 per photon, float32 (z, y, x) on the density's grid: Gy for 1 photon/cm2 of ``fluence`` 1 on the
    axis at the isocentre plane. Dose to medium, or to water with ``to_water``."""
    kernels = load_point_kernels()
    directions = cone_set(fit_kernel(beam, kernels), cones)
    released = terma(fluence, frame, density, beam, kernels, sharpen=SHARPEN)
    dose = np.maximum(transport(released, frame, directions), np.float32(0.0))
    if not to_water:
        mass = np.maximum(density.mass_g_cm3, np.float32(1e-6))
        dose *= released.electron_relative / mass
        if released.kept.size:
            dose += released.kept / mass
    if beam.electron_weight > 0.0:
        dose += electron_dose(fluence, frame, released.grid, released.electron_relative, beam)
    return dose


def transport(released: Terma, frame: BeamFrame, cones: ConeSet) -> Float32Array:
    """Carries released energy along every cone: dose to water in Gy per unit fluence, float32 (z, y, x)."""
    from dicomplan.dose import _kernels_collapsed_cone as kernels

    grid = released.grid
    # the cones' third axis runs with the beam
    axes = np.array([frame.x_axis, -frame.y_axis, -frame.z_axis])
    local = grid.local_from_patient(cones.direction @ axes)
    balanced = (*_balanced(released, frame, cones), released.electron_relative)
    leading = np.argmax(np.abs(local), axis=1)
    origin = grid.local_origin_mm - grid.local_from_patient(frame.source_mm)
    step = np.diag(grid.spacing_mm[::-1])
    dose = np.zeros(grid.shape, dtype=np.float32)
    for axis in range(3):
        chosen = np.flatnonzero(leading == axis)
        if not chosen.size:
            continue
        layout = _LAYOUT[axis]
        primary, scatter, electron = (np.ascontiguousarray(np.transpose(volume, layout)) for volume in balanced)
        # local axis (x, y, z) of the march, u and v axes
        march, u, v = (2 - k for k in layout)
        spacing = step.diagonal()
        directions = np.empty((chosen.size, 6))
        for k, place in enumerate((march, u, v)):
            directions[:, k] = local[chosen, place] / spacing[place]
        directions[:, 3:] = local[chosen]
        steps_cm = 0.1 * spacing[march] / np.abs(local[chosen, march])
        groups = np.zeros((min(_GROUPS, chosen.size), *primary.shape), dtype=np.float32)
        kernels.march_all(
            primary,
            scatter,
            electron,
            kernels.source_ranges(primary, scatter),
            groups,
            origin,
            step[march].copy(),
            step[u].copy(),
            step[v].copy(),
            directions,
            cones.table[chosen],
            cones.limits[chosen],
            steps_cm,
        )
        back = np.argsort(layout)
        for group in groups:
            dose += np.transpose(group, back)
    return dose


def _balanced(released: Terma, frame: BeamFrame, cones: ConeSet) -> tuple[Float32Array, Float32Array]:
    """Primary and scattered energy such that the cones' shares of it add up to what is released, whatever the ray."""
    from dicomplan.dose import _kernels_collapsed_cone as kernels

    grid = released.grid
    tilt = np.arccos(1.0 - _TILT_STEP * np.arange(_TILTS))
    azimuth = 2.0 * np.pi * np.arange(8) / 8
    sine = np.sin(tilt)[:, None]
    rays = np.stack(
        [sine * np.cos(azimuth), sine * np.sin(azimuth), np.broadcast_to(np.cos(tilt)[:, None], (_TILTS, 8))]
    )
    cosine = np.clip(np.einsum("nk,kta->nta", cones.direction, rays), *cones.limits.T[:, :, None, None])
    totals = np.array([cones.values(row, cosine).sum(axis=0).mean(axis=1) for row in (1, 4)])
    primary, scatter = np.zeros_like(released.primary), np.zeros_like(released.scatter)
    kernels.balance(
        released.primary,
        released.scatter,
        grid.local_origin_mm - grid.local_from_patient(frame.source_mm),
        np.array(grid.spacing_mm[::-1]),
        grid.local_from_patient(-frame.z_axis),
        totals,
        _TILT_STEP,
        primary,
        scatter,
    )
    return primary, scatter

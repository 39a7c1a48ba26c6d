"""Transport of released energy along the cone directions: a sweep of parallel lines through the grid for each.

See :mod:`dicomplan.dose.collapsed_cone` for the method.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.kernel_fit import ConeSet
from dicomplan.dose.terma import Terma
from dicomplan.geometry.frames import BeamFrame
from dicomplan.geometry.grid import VoxelGrid

Float32Array = NDArray[np.float32]

DENSER = np.array([1.08, 0.15, 0.3, 0.029, 0.018])
"""Electrons' ranges in bone, metal and lung. From the first electron density (relative to water) on, by x, the exponent of
the primary energy is 1 + second x / (1 + third x) times that of water (1.08 in cortical bone, 1.4 in gold). Below 1 it grows
by the fourth for each density, by the fifth at most.

Nuclei of higher charge scatter electrons more for each electron density that they pass (see
:mod:`dicomplan.dose.electron_return`), so that they get less far forward: set by bone_slab_5x5 and gold_5x5 of
../shared/reference/egsnrc. Matter that is thinner polarises less, and stops electrons more for each electron: the density
effect. By R. Sternheimer, M. Berger and S. Seltzer, At Data Nucl Data Tables 30 (1984) 261-271, it is 0.34 of a stopping
number of 19.4 at 1 MeV in water, and nothing below a density of 0.39.
"""

_GROUPS = 4  # of directions, summed apart: fixed, so that the dose does not depend on the number of threads

_TILT_STEP = 0.002  # of 1 - cosine, for the sums of the shares
_TILTS = 100

# array axes (march, u, v) for the direction's leading local axis x, y, z; v keeps x contiguous where it can
_LAYOUT = {0: (2, 0, 1), 1: (1, 0, 2), 2: (0, 1, 2)}


_NOTHING = 1e-9  # of the greatest primary energy released per voxel: sixteen mean reaches of electrons away


def transport(released: Terma, frame: BeamFrame, cones: ConeSet, stopping: Float32Array | None = None) -> Float32Array:
    """Carries released energy along every cone: dose to water in Gy per unit fluence, float32 (z, y, x).

    ``stopping`` (z, y, x): electron density times how much harder electrons are stopped than those that the cones were made
    for (:mod:`dicomplan.dose.hardening`).
    """
    primary, scatter = _balanced(released, frame, cones)
    return carry(primary, scatter, released.electron_relative, released.grid, frame, cones, stopping)


def carry(
    primary: Float32Array,
    scatter: Float32Array,
    electron_relative: Float32Array,
    grid: VoxelGrid,
    frame: BeamFrame,
    cones: ConeSet,
    stopping: Float32Array | None = None,
) -> Float32Array:
    """Dose per electron density of energy (z, y, x) that goes out in the directions of ``cones``, float32 (z, y, x)."""
    from dicomplan.dose import _kernels_collapsed_cone as kernels

    # the cones' third axis runs with the beam
    axes = np.array([frame.x_axis, -frame.y_axis, -frame.z_axis])
    local = grid.local_from_patient(cones.direction @ axes)
    balanced = (primary, scatter, electron_relative, electron_relative if stopping is None else stopping)
    most = max(float(primary.max(initial=0.0)), -float(primary.min(initial=0.0)))
    leading = np.argmax(np.abs(local), axis=1)
    origin = grid.local_origin_mm - grid.local_from_patient(frame.source_mm)
    step = np.diag(grid.spacing_mm[::-1])
    dose = np.zeros(grid.shape, dtype=np.float32)
    for axis in range(3):
        chosen = np.flatnonzero(leading == axis)
        if not chosen.size:
            continue
        layout = _LAYOUT[axis]
        primary, scatter, electron, stops = (np.ascontiguousarray(np.transpose(volume, layout)) for volume in balanced)
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
            DENSER,
            stops,
            _NOTHING * most * float(steps_cm.min()),
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

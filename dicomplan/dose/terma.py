"""TERMA: energy that primary photons release per volume, by exact ray tracing of the whole spectrum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.fluence import FluencePlane, source_sigma_mm
from dicomplan.dose.kernel_fit import fine_spectrum, primary_fraction
from dicomplan.dose.point_kernels import PointKernels, load_point_kernels, mass_attenuation_cm2_g
from dicomplan.geometry.frames import BeamFrame
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.machine.model import BeamModel
from dicomplan.patient.density import HU_TABLE, DensityVolume, electron_from_mass

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

GY_G_PER_MEV = 1.602176634e-10
"""Gy per MeV/g (CODATA 2018)."""

_WATER_ELECTRONS = 0.555087
"""Z/A of water; those of titanium 0.459608 and gold 0.401083: NIST, X-ray mass attenuation coefficients, table 1."""

_METALS = ((4.54, 0.459608 / _WATER_ELECTRONS), (19.3, 0.401083 / _WATER_ELECTRONS))

DENSITY_KNOTS_G_CM3 = np.array([1.10, 1.85, HU_TABLE[-1].mass_g_cm3, _METALS[0][0], _METALS[1][0]])
"""Mass densities between which material is mixed linearly: soft tissue up to the first, ICRP cortical bone from the
second to the third, titanium at the fourth, gold at the fifth and beyond."""

MATERIAL_SHARES = np.array([[0.0, 1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
"""Mass fraction of cortical bone, titanium and gold at :data:`DENSITY_KNOTS_G_CM3`. Below, attenuation follows the
electron density: lung, air and soft tissue differ from water by no more in their coefficients per electron than 0.3 %
above 0.3 MeV."""

_DEPTH_STEP_CM = 0.25
_DEPTHS = 601
_MATERIALS = ("cortical_bone_icrp", "titanium", "gold")


@dataclass(frozen=True)
class Terma:
    """Energy released per volume and unit fluence, Gy g/cm3 (divide by the density for TERMA), float32 (z, y, x).

    ``primary``: what electrons of the first interaction will deposit; ``scatter``: the rest. ``kept``: what titanium and
    gold absorb beyond what their electrons would in water, mostly by photoelectric effect and pair production; it is
    taken to stay where it is released (no voxels, if there is no metal). ``electron_relative``:
    electron density relative to water of the same grid, that the transport runs on. ``depth_mm``: water-equivalent path from
    the source, NaN where nothing is released (no voxels, if not asked for).
    """

    grid: VoxelGrid
    primary: Float32Array
    scatter: Float32Array
    kept: Float32Array
    electron_relative: Float32Array
    depth_mm: Float32Array


def electron_density(mass_g_cm3: NDArray[np.floating]) -> Float32Array:
    """Electron density relative to water (float32) of body materials and, above 2.8 g/cm3, of titanium and gold."""
    electron = electron_from_mass(mass_g_cm3)
    if float(mass_g_cm3.max(initial=0.0)) <= HU_TABLE[-1].mass_g_cm3:
        return electron
    last = HU_TABLE[-1]
    densities = [last.mass_g_cm3, *(density for density, _ in _METALS)]
    per_mass = [last.electron_relative / last.mass_g_cm3, *(ratio for _, ratio in _METALS)]
    metal = mass_g_cm3 * np.interp(mass_g_cm3, densities, per_mass)
    value: Float32Array = np.where(mass_g_cm3 > last.mass_g_cm3, metal, electron).astype(np.float32)
    return value


def spectrum_table(beam: BeamModel, kernels: PointKernels) -> FloatArray:
    """(3 + materials, bins): photons x energy x Gy per (MeV/g), primary fraction, attenuation (cm2/g) of water, and
    of each material beyond what its electrons would do in water. Photons are normalised to 1."""
    energies, photons = fine_spectrum(beam)
    water = mass_attenuation_cm2_g("water", energies)
    rows = [photons * energies * GY_G_PER_MEV, primary_fraction(energies, kernels), water]
    for medium, knot in zip(_MATERIALS, MATERIAL_SHARES.argmax(axis=1), strict=True):
        density = DENSITY_KNOTS_G_CM3[knot : knot + 1]
        rows.append(mass_attenuation_cm2_g(medium, energies) - float((electron_density(density) / density)[0]) * water)
    return np.array(rows)


def depth_tables(spectrum: FloatArray) -> FloatArray:
    """(5, depths): release per electron density of primary and scattered energy at depths of water, extra release of
    bone (2 rows), and log attenuation per g/cm2 of bone; the last is exact to first order in the bone's thickness."""
    depth = _DEPTH_STEP_CM * np.arange(_DEPTHS)
    energy, fraction, water, bone = spectrum[:4]
    arriving = energy[:, None] * np.exp(-water[:, None] * depth)
    released = water[:, None] * arriving
    extra = bone[:, None] * arriving
    mean_bone = (bone[:, None] * released).sum(axis=0) / released.sum(axis=0)
    part = fraction[:, None]
    return np.array(
        [
            (released * part).sum(axis=0),
            (released * (1.0 - part)).sum(axis=0),
            (extra * part).sum(axis=0),
            (extra * (1.0 - part)).sum(axis=0),
            mean_bone,
        ]
    )


def terma(
    fluence: FluencePlane,
    frame: BeamFrame,
    density: DensityVolume,
    beam: BeamModel,
    kernels: PointKernels | None = None,
    sharpen: tuple[float, ...] = (),
    depths: bool = False,
) -> Terma:
    """Energy released in every voxel for ``fluence`` x 1 photon/cm2 on the axis at the isocentre plane.

    Each voxel takes the fluence averaged over its projection on the isocentre plane (a box of the same variance; exact
    where the voxel's axes are the beam's), and the attenuation of the exact path to its centre: electron density times
    the coefficients of water, plus what bone, titanium and gold attenuate beyond their electrons. Outside of the
    density's grid there is nothing. The fluence is that of an isotropic point source: per cm2 square to the ray it
    falls with the inverse square of the distance. Off the axis the path counts 1 + softening x radius times.
    ``sharpen``: shares of the differences to the next voxels, and to the ones after, ..., that edges are steepened by, for a
    transport that blurs those it gets: of the field as of the shadows of lung and bone. The sum stays, voxels just outside
    an edge go below 0. ``depths``: keep the water-equivalent paths.
    """
    from dicomplan.dose import _kernels_terma

    kernels = kernels or load_point_kernels()
    grid = density.grid
    mass = np.ascontiguousarray(density.mass_g_cm3, dtype=np.float32)
    electron = electron_density(mass)
    values, x_mm, y_mm = _blurred(fluence, source_sigma_mm(beam, frame.source_axis_distance_mm))
    spectrum = spectrum_table(beam, kernels)
    primary = np.zeros(grid.shape, dtype=np.float32)
    scatter = np.zeros(grid.shape, dtype=np.float32)
    metal = float(mass.max()) > HU_TABLE[-1].mass_g_cm3
    kept = np.zeros(grid.shape if metal else (0, 0, 0), dtype=np.float32)
    depth = np.full(grid.shape if depths else (0, 0, 0), np.nan, dtype=np.float32)
    opened = np.argwhere(values > 0)
    if opened.size:
        step = np.array([x_mm[1] - x_mm[0], y_mm[1] - y_mm[0]])
        origin = np.array([x_mm[0], y_mm[0]]) - 0.5 * step
        (first_y, first_x), (last_y, last_x) = opened.min(axis=0), opened.max(axis=0) + 1
        open_range = np.array([first_x, last_x, first_y, last_y], dtype=np.float64)
        open_range = open_range * step[[0, 0, 1, 1]] + origin[[0, 0, 1, 1]]
        cumulative = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
        cumulative[1:, 1:] = values.cumsum(axis=0).cumsum(axis=1)
        _kernels_terma.terma(
            mass,
            electron,
            np.array([grid.edges_mm(2)[0], grid.edges_mm(1)[0], grid.edges_mm(0)[0]]),
            np.array(grid.spacing_mm[::-1]),
            grid.local_from_patient(frame.source_mm),
            grid.local_from_patient(np.array([frame.x_axis, frame.y_axis, frame.z_axis])),
            frame.source_axis_distance_mm,
            cumulative,
            origin,
            step,
            open_range,
            DENSITY_KNOTS_G_CM3,
            MATERIAL_SHARES,
            _DEPTH_STEP_CM,
            depth_tables(spectrum),
            spectrum,
            beam.softening_per_mm,
            primary,
            scatter,
            kept,
            depth,
        )
    if sharpen:
        for volume in (primary, scatter):
            blunt = volume.copy()
            _kernels_terma.sharpen(blunt, electron, np.array(sharpen), volume)
    return Terma(grid, primary, scatter, kept, electron, depth)


def _blurred(fluence: FluencePlane, sigma_mm: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Values, x and y of the plane convolved with the source's Gaussian, widened by four standard deviations."""
    if sigma_mm <= 0.0:
        return fluence.values, fluence.x_mm, fluence.y_mm
    from scipy.ndimage import gaussian_filter1d

    values, axes = fluence.values, [fluence.y_mm, fluence.x_mm]
    for axis in (0, 1):
        step = axes[axis][1] - axes[axis][0]
        margin = int(np.ceil(4.0 * sigma_mm / step))
        values = np.pad(values, [(margin, margin) if k == axis else (0, 0) for k in (0, 1)])
        values = gaussian_filter1d(values, sigma_mm / step, axis=axis, mode="constant", truncate=4.0)
        count = values.shape[axis]
        axes[axis] = axes[axis][0] + step * (np.arange(count) - margin)
    return values, axes[1], axes[0]

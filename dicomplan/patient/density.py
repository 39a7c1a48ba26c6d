"""CT numbers to mass density and relative electron density, and what templates put in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient._kernels import piecewise_linear, table_values
from dicomplan.patient.case import Coverage, CTVolume
from dicomplan.patient.coverage import coverage_on_grid

Float32Array = NDArray[np.float32]

AIR_G_CM3 = 0.001205
"""Density of dry air at 20 degrees C and 101.325 kPa in g/cm3 (ICRU Report 37)."""


@dataclass(frozen=True)
class TablePoint:
    """One row of the conversion table: CT number in HU, mass density in g/cm3, electron density relative to water."""

    hu: float
    mass_g_cm3: float
    electron_relative: float
    material: str


HU_TABLE: tuple[TablePoint, ...] = (
    TablePoint(-1000.0, AIR_G_CM3, 0.0011, "air"),
    TablePoint(-990.0, AIR_G_CM3, 0.0011, "air"),
    TablePoint(-742.0, 0.26, 0.258, "lung, inflated"),
    TablePoint(-70.0, 0.95, 0.951, "adipose tissue"),
    TablePoint(0.0, 1.00, 1.000, "water"),
    TablePoint(42.0, 1.05, 1.040, "muscle"),
    TablePoint(98.0, 1.10, 1.083, "cartilage"),
    TablePoint(260.0, 1.18, 1.150, "spongiosa"),
    TablePoint(477.0, 1.33, 1.278, "vertebral column D6, L3"),
    TablePoint(609.0, 1.42, 1.355, "vertebral column C4"),
    TablePoint(903.0, 1.61, 1.517, "cranium"),
    TablePoint(1006.0, 1.68, 1.577, "mandible"),
    TablePoint(1376.0, 1.92, 1.781, "cortical bone"),
    TablePoint(3000.0, 2.80, 2.597, "continued beyond bone"),
)
"""Piecewise linear conversion of CT numbers, a generic curve for tube voltages about 120 kV, not of one scanner.

Tissues, their mass and relative electron densities: ICRU Reports 44 and 46 (White et al.). Their CT numbers: the
stoichiometric calibration of U. Schneider, E. Pedroni, A. Lomax, Phys Med Biol 41 (1996) 111-124, table of body
tissues (scaled Hounsfield units there are HU + 1000). Water is at 0 HU by the definition of the unit; air reaches up
to -990 HU so that noise in air stays air. The last row continues the curve to 2.8 g/cm3 at 3000 HU, as tables after
W. Schneider et al., Phys Med Biol 45 (2000) 459-478, are commonly continued, with the electrons per gram of cortical
bone; it is no tissue, and metal needs an override. CT numbers beyond either end take the end's density.
"""

_HU = np.array([point.hu for point in HU_TABLE])
_MASS = np.array([point.mass_g_cm3 for point in HU_TABLE])
_ELECTRON = np.array([point.electron_relative for point in HU_TABLE])


@dataclass(frozen=True)
class DensityVolume:
    """Mass density in g/cm3, float32 (z, y, x) on ``grid``; ``beyond_table`` counts voxels above the table's last HU."""

    grid: VoxelGrid
    mass_g_cm3: Float32Array
    beyond_table: int = 0

    @property
    def electron_relative(self) -> Float32Array:
        """Electron density relative to water, float32 (z, y, x); see :func:`electron_from_mass`."""
        return electron_from_mass(self.mass_g_cm3)


def mass_from_hu(hu: NDArray[np.floating]) -> Float32Array:
    """Mass density in g/cm3 (float32, same shape) of CT numbers in HU by :data:`HU_TABLE`; held beyond its ends."""
    return _looked_up(hu)[0]


def _looked_up(hu: NDArray[np.floating]) -> tuple[Float32Array, int]:
    """Mass density (same shape), and how many CT numbers lie above the table."""
    # one lookup per whole HU is exact within 1 HU's slope and far faster than a search per voxel: the corners of the
    # table lie on whole HU, so linear interpolation between whole numbers is the table itself
    low = float(_HU[0])
    table = np.interp(np.arange(low, float(_HU[-1]) + 1.0), _HU, _MASS).astype(np.float32)
    held = np.ascontiguousarray(hu, dtype=np.float32)
    mass = np.empty(held.shape, dtype=np.float32)
    rows = _rows(held)
    beyond = np.zeros(rows, dtype=np.int64)
    if held.size:
        table_values(held.reshape(rows, -1), low, table, mass.reshape(rows, -1), beyond)
    return mass, int(beyond.sum())


def electron_from_mass(mass_g_cm3: NDArray[np.floating]) -> Float32Array:
    """Electron density relative to water (float32, same shape) of body materials of a mass density in g/cm3.

    By the two columns of :data:`HU_TABLE`, piecewise linear; above its last row (metal overrides) with the electrons
    per gram of that row.
    """
    held = np.ascontiguousarray(mass_g_cm3, dtype=np.float32)
    electron = np.empty(held.shape, dtype=np.float32)
    if held.size:
        rows = _rows(held)
        # the two rows of air are one point here
        corners, values = _MASS[1:], _ELECTRON[1:]
        piecewise_linear(held.reshape(rows, -1), corners, values, _ELECTRON[-1] / _MASS[-1], electron.reshape(rows, -1))
    return electron


def _rows(volume: Float32Array) -> int:
    """In how many rows kernels take it."""
    return volume.shape[0] if volume.ndim > 1 else 1


def densities(ct: CTVolume) -> DensityVolume:
    """Mass density of each CT voxel by :data:`HU_TABLE`; counts the voxels above it (metal, artefacts)."""
    mass, beyond = _looked_up(ct.hu)
    return DensityVolume(ct.grid, mass, beyond)


def apply_overrides(density: DensityVolume, overrides: Sequence[tuple[Coverage, float]]) -> DensityVolume:
    """Density with overrides (coverage, g/cm3) put in: each voxel mixes by the covered fraction; later ones win."""
    if not overrides:
        return density
    mass = density.mass_g_cm3.copy()
    for coverage, value_g_cm3 in overrides:
        fraction = coverage_on_grid(coverage, density.grid)
        mass += fraction * (np.float32(value_g_cm3) - mass)
    return replace(density, mass_g_cm3=mass)


def air_outside(density: DensityVolume, included: Sequence[Coverage]) -> DensityVolume:
    """Density with air outside the union of the ``included`` structures (BODY, couch, bolus).

    A voxel covered at least half keeps its density, because the CT has already mixed the air of its other part into
    it; below that it fades to air in proportion, so that what lies just outside (couch, mask) does not count.
    Raises ValueError if nothing is included.
    """
    if not included:
        raise ValueError("nothing is included: all would be air")
    covered = np.zeros(density.grid.shape, dtype=np.float32)
    for coverage in included:
        np.maximum(covered, coverage_on_grid(coverage, density.grid), out=covered)
    kept = np.minimum(np.float32(1.0), np.float32(2.0) * covered)
    air = np.float32(AIR_G_CM3)
    return replace(density, mass_g_cm3=air + kept * (density.mass_g_cm3 - air))

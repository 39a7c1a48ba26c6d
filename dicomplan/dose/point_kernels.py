"""Monte Carlo point kernels and attenuation coefficients that both dose engines are made from."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

GY_CM2_PER_MEV_MM = 1.602176634e-13 / 1e-6 * 0.01
"""Gy cm2 per (MeV/mm3)/(photon/mm2) in water of 1 g/cm3: energy of 1 MeV (CODATA 2018) over 1e-6 kg, mm2 to cm2."""


@dataclass(frozen=True)
class PointKernels:
    """Energy deposited round a forced first interaction in water (own EGSnrc figures, ``data/README.md``).

    ``energy_mev`` (E,). ``cone_edges_rad`` (C + 1,) polar angles from the photon's direction. ``radius_edges_mm``
    (S + 1,). ``fraction`` (E, C, S, 5) of the photon's energy in each cone and shell by component: primary, first,
    second and multiple scatter, radiative.
    """

    energy_mev: FloatArray
    cone_edges_rad: FloatArray
    radius_edges_mm: FloatArray
    fraction: FloatArray


def load_point_kernels() -> PointKernels:
    """The shipped kernels in water of 1 g/cm3."""
    data = files("dicomplan.dose").joinpath("data", "point_kernels_water.npz").read_bytes()
    with np.load(io.BytesIO(data)) as stored:
        return PointKernels(
            energy_mev=stored["energy_mev"].astype(np.float64),
            cone_edges_rad=np.radians(np.append(0.0, stored["cone_upper_angle_deg"].astype(np.float64))),
            radius_edges_mm=10.0 * np.append(0.0, stored["sphere_outer_radius_cm"].astype(np.float64)),
            fraction=stored["energy_fraction"].astype(np.float64),
        )


@lru_cache(maxsize=16)
def attenuation_table(medium: str) -> dict[str, FloatArray]:
    """Columns of ``data/attenuation.csv`` for a medium as it is named there: energies in MeV, coefficients in cm2/g."""
    text = files("dicomplan.dose").joinpath("data", "attenuation.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["medium"] == medium]
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "medium"}


def mass_attenuation_cm2_g(
    medium: str, energy_mev: FloatArray, column: str = "total_without_rayleigh_cm2_g"
) -> FloatArray:
    """Mass attenuation (cm2/g; the total has no Rayleigh) at energies (n,); log-log between those of the table."""
    table = attenuation_table(medium)
    value: FloatArray = np.exp(np.interp(np.log(energy_mev), np.log(table["energy_mev"]), np.log(table[column])))
    return value


def water_attenuation_per_mm(energy_mev: FloatArray) -> FloatArray:
    """Linear attenuation (1/mm, no Rayleigh) of water of 1 g/cm3; log-log between the table's energies."""
    value: FloatArray = 0.1 * mass_attenuation_cm2_g("water", energy_mev)
    return value

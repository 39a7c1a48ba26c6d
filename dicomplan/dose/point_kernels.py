"""Monte Carlo point kernels and attenuation coefficients that both dose engines are made from."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
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


def water_attenuation_per_mm(energy_mev: FloatArray) -> FloatArray:
    """Linear attenuation (1/mm, no Rayleigh) of water of 1 g/cm3; log-log between the table's energies."""
    text = files("dicomplan.dose").joinpath("data", "attenuation.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["medium"] == "water"]
    energy = np.array([float(row["energy_mev"]) for row in rows])
    total = np.array([float(row["total_without_rayleigh_cm2_g"]) for row in rows])
    value: FloatArray = np.exp(np.interp(np.log(energy_mev), np.log(energy), np.log(0.1 * total)))
    return value

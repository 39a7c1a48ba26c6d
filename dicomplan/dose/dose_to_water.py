"""Dose to medium as dose to water: the ratio of stopping powers.

Electrons lose energy per mass in proportion to the electrons per mass and the stopping number; a droplet of water in the
medium, small against their range, takes the dose to medium times the ratio of the two (Bragg-Gray). The electrons per
mass are those that the transport runs on. The stopping number is Bethe's at 1 MeV, about the mean energy of the electrons
in a 6 MV beam,

    L = ln(tau^2 (tau + 2) / (2 (I / m c^2)^2)) + F(tau),

without the density effect, which is the same within 0.2 % for water and bone (ICRU report 37, 1984, with its mean
excitation energies I). Up to soft tissue it is water's. For cortical bone the whole ratio is then 1.10 to 1.11; J. Siebers
et al., Phys Med Biol 45 (2000) 983-995, found 1.116 for 6 MV by Monte Carlo.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.terma import DENSITY_KNOTS_G_CM3

Float32Array = NDArray[np.float32]

DoseTo = Literal["medium", "water"]
"""What a dose is stated to."""

_WATER_EV = 75.0
_EXCITATION_EV = np.array([_WATER_EV, 106.4, 106.4, 233.0, 790.0])
"""Mean excitation energies at the density knots of :mod:`dicomplan.dose.terma`: water, cortical bone (ICRP) twice, titanium,
gold; ICRU report 37."""

_ELECTRON_MEV = 1.0
_REST_MEV = 0.510999


def stopping_number(excitation_ev: NDArray[np.floating] | float) -> NDArray[np.float64]:
    """Bethe's stopping number of electrons of 1 MeV for mean excitation energies in eV, no density effect."""
    tau = _ELECTRON_MEV / _REST_MEV
    beta_square = 1.0 - 1.0 / (1.0 + tau) ** 2
    rest = 1.0 - beta_square + (tau**2 / 8.0 - (2.0 * tau + 1.0) * np.log(2.0)) / (tau + 1.0) ** 2
    relative = 1e-6 * np.asarray(excitation_ev, dtype=np.float64) / _REST_MEV
    number: NDArray[np.float64] = np.log(tau**2 * (tau + 2.0) / (2.0 * relative**2)) + rest
    return number


def water_over_medium(mass_g_cm3: Float32Array, electron_relative: Float32Array) -> Float32Array:
    """Dose to water over dose to medium, same shape: densities in g/cm3 and electron densities relative to water."""
    ratio = stopping_number(_WATER_EV) / stopping_number(_EXCITATION_EV)
    number = np.interp(mass_g_cm3, DENSITY_KNOTS_G_CM3, ratio)
    electrons = np.maximum(electron_relative / np.maximum(mass_g_cm3, np.float32(1e-6)), np.float32(1e-6))
    value: Float32Array = (number / electrons).astype(np.float32)
    return value

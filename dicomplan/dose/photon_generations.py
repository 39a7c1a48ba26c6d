"""Photons scattered again and again in endless water: what each generation carries, which way, how far, and what it leaves.

A few hundred thousand histories are followed from a forced first Compton scatter on, without position: Klein-Nishina
scattering, photoelectric effect and pair production by their coefficients (``data/attenuation.csv``). That gives for each
generation and polar angle to the beam the energy carried, the mean free path and the share that the next interaction
deposits, and by which angles it scatters. A second walk follows positions with those averages alone, as the transport on a
grid does: what energy scattered at least twice deposits where, and that as two exponentials for each cone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.kernel_fit import SCATTER_DEPTH_CM, fine_spectrum, fit_scatter
from dicomplan.dose.point_kernels import PointKernels, load_point_kernels, mass_attenuation_cm2_g
from dicomplan.machine.model import BeamModel

FloatArray = NDArray[np.float64]

GENERATIONS = 5
"""The last one deposits all that is left: less than a fifth of what is scattered at all, of photons below 0.25 MeV."""

_HISTORIES = 200_000
_SEED = 20261130
_ELECTRON_MEV = 0.51099895
_LOWEST_MEV = 0.0101


@dataclass(frozen=True)
class Generations:
    """What each of G generations carries in C polar cones, of the energy released as scatter.

    ``carried`` (G, C): energy of the photons that fly in a cone. ``exponent_cm2_g`` (G, C): inverse of their mean free path.
    ``kept`` (G, C): the share that they deposit where they interact. ``turned`` (G - 1, C, S): of what they hand on, the part
    that goes on at an angle to their own direction, in the same cones about it. ``again``, ``again_exponent_cm2_g``,
    ``again_second`` (C,): share, exponent b and fraction m of ``b ((1 - m) + m b r) exp(-b r)`` for what photons scattered
    twice or more deposit, from the point of release on.
    """

    carried: FloatArray
    exponent_cm2_g: FloatArray
    kept: FloatArray
    turned: FloatArray
    again: FloatArray
    again_exponent_cm2_g: FloatArray
    again_second: FloatArray


def photon_generations(beam: BeamModel) -> Generations:
    """The generations of a beam's spectrum behind :data:`~dicomplan.dose.kernel_fit.SCATTER_DEPTH_CM` of water."""
    energy, photons = fine_spectrum(beam)
    return _generations(energy.tobytes(), photons.tobytes())


@lru_cache(maxsize=8)
def _generations(energy: bytes, photons: bytes) -> Generations:
    kernels = load_point_kernels()
    carried, exponent, kept, turned = _histories(np.frombuffer(energy), np.frombuffer(photons), kernels)
    again = _positions(carried, exponent, kept, turned, kernels)
    return Generations(carried, exponent, kept, turned, *again)


def _coefficients(energy_mev: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Compton and total mass attenuation of water (cm2/g)."""
    compton = mass_attenuation_cm2_g("water", energy_mev, "compton_klein_nishina_cm2_g")
    return compton, mass_attenuation_cm2_g("water", energy_mev)


def _histories(energy: FloatArray, photons: FloatArray, kernels: PointKernels) -> tuple[FloatArray, ...]:
    """Energy carried, exponent and share kept (G, C) by generation and cone, and the parts that are turned (G - 1, C, S)."""
    random = np.random.default_rng(_SEED)
    _, mu = _coefficients(energy)
    weight = photons * energy * mu * np.exp(-mu * SCATTER_DEPTH_CM)
    # as many histories in each part of the energy released, at places spread evenly
    places = (np.arange(_HISTORIES) + 0.5) / _HISTORIES
    own = energy[np.minimum(np.searchsorted(np.cumsum(weight) / weight.sum(), places), len(energy) - 1)]
    left = np.full(_HISTORIES, 1.0 / _HISTORIES)
    direction = np.zeros((_HISTORIES, 3))
    direction[:, 2] = 1.0
    cones = len(kernels.cone_edges_rad) - 1
    carried, paths = np.zeros((GENERATIONS + 1, cones)), np.zeros((GENERATIONS, cones))
    handed_on, turned = np.zeros((GENERATIONS, cones)), np.zeros((GENERATIONS, cones, cones))
    released = 0.0
    cone = np.zeros(_HISTORIES, dtype=np.int64)
    for generation in range(GENERATIONS + 1):
        compton, total = _coefficients(own)
        scattered, cosine = klein_nishina(own, random)
        if generation == 0:
            # scatter is all but what electrons of the first interaction deposit, as the point kernels count it
            primary = kernels.fraction[..., 0].sum(axis=(1, 2))
            released = 1.0 - float((left * np.interp(np.log(own), np.log(kernels.energy_mev), primary)).sum())
        left = left * compton / total * scattered / own
        if generation > 0:
            handed_on[generation - 1] = np.bincount(cone, left, cones)
            place = cone * cones + _cone(cosine, kernels)
            turned[generation - 1] = np.bincount(place, left, cones**2).reshape(cones, cones)
        if generation == GENERATIONS:
            break
        direction = _turn(direction, cosine, random)
        own = np.maximum(scattered, _LOWEST_MEV)
        cone = _cone(direction[:, 2], kernels)
        carried[generation] = np.bincount(cone, left, cones)
        paths[generation] = np.bincount(cone, left / _coefficients(own)[1], cones)
    carried = np.maximum(carried[:-1], 1e-12)
    kept = np.clip(1.0 - handed_on / carried, 0.0, 1.0)
    kept[-1] = 1.0
    turned = turned[:-1] / np.maximum(turned[:-1].sum(axis=2, keepdims=True), 1e-12)
    return carried / released, carried / np.maximum(paths, 1e-12), kept, turned


def _cone(cosine: FloatArray, kernels: PointKernels) -> NDArray[np.int64]:
    """Number (n,) of the cone that a cosine lies in."""
    edges = np.cos(kernels.cone_edges_rad)
    found: NDArray[np.int64] = np.clip(np.searchsorted(-edges, -cosine) - 1, 0, len(edges) - 2)
    return found


def klein_nishina(energy_mev: FloatArray, random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Energies (n,) after a Compton scatter and cosines of its angle, drawn from the Klein-Nishina cross section.

    The ratio e of the energies has the density (1/e + e) (1 - e sin^2 / (1 + e^2)) from 1 / (1 + 2 k) to 1: a mixture of
    two densities that are inverted, and a rejection.
    """
    ratio, cosine = np.empty_like(energy_mev), np.empty_like(energy_mev)
    todo = np.arange(len(energy_mev))
    while todo.size:
        k = energy_mev[todo] / _ELECTRON_MEV
        least = 1.0 / (1.0 + 2.0 * k)
        inverse, linear = -np.log(least), 0.5 * (1.0 - least**2)
        which, place, test = random.random((3, todo.size))
        drawn = np.where(
            which * (inverse + linear) < inverse, least ** (1.0 - place), np.sqrt(least**2 + (1.0 - least**2) * place)
        )
        versine = (1.0 - drawn) / (drawn * k)
        ok = test < 1.0 - drawn * versine * (2.0 - versine) / (1.0 + drawn**2)
        ratio[todo[ok]], cosine[todo[ok]] = drawn[ok], 1.0 - versine[ok]
        todo = todo[~ok]
    return ratio * energy_mev, cosine


def _turn(direction: FloatArray, cosine: FloatArray, random: np.random.Generator) -> FloatArray:
    """Unit vectors (n, 3) turned by angles of the cosines (n,) about azimuths drawn evenly."""
    azimuth = 2.0 * np.pi * random.random(len(cosine))
    # a direction across: against the axis that lies least along
    across = np.zeros_like(direction)
    across[np.arange(len(direction)), np.argmin(np.abs(direction), axis=1)] = 1.0
    first = np.cross(direction, across)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(direction, first)
    sine = np.sqrt(np.maximum(1.0 - cosine**2, 0.0))[:, None]
    turned = first * np.cos(azimuth)[:, None] + second * np.sin(azimuth)[:, None]
    value: FloatArray = direction * cosine[:, None] + turned * sine
    value /= np.linalg.norm(value, axis=1, keepdims=True)
    return value


def _positions(
    carried: FloatArray, exponent: FloatArray, kept: FloatArray, turned: FloatArray, kernels: PointKernels
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Share, exponent and fraction (C,) of what generations from the second on deposit, seen from the point of release.

    Each flight takes its length, the share kept and the angle that it is turned by from the averages of its generation and
    the cone that it flies in.
    """
    random = np.random.default_rng(_SEED + 1)
    cosines = np.cos(kernels.cone_edges_rad)
    cones, shells = len(cosines) - 1, len(kernels.radius_edges_mm) - 1
    # the cumulative parts of cone c, plus c: one ascending list to look drawn numbers up in
    first = np.cumsum(carried[0]) / carried[0].sum()
    ladder = np.cumsum(turned, axis=2)
    ladder /= ladder[:, :, -1:]
    place, direction = np.zeros((_HISTORIES, 3)), np.zeros((_HISTORIES, 3))
    direction[:, 2] = 1.0
    left = np.full(_HISTORIES, carried[0].sum() / _HISTORIES)
    found = np.zeros((cones, shells + 1))
    cone = np.zeros(_HISTORIES, dtype=np.int64)
    for generation in range(GENERATIONS):
        drawn = random.random(_HISTORIES)
        if generation == 0:
            by = np.searchsorted(first, (random.permutation(_HISTORIES) + drawn) / _HISTORIES)
        else:
            steps = (ladder[generation - 1] + np.arange(cones)[:, None]).ravel()
            by = np.searchsorted(steps, cone + drawn) - cone * cones
        by = np.clip(by, 0, cones - 1)
        cosine = cosines[by] + (cosines[by + 1] - cosines[by]) * random.random(_HISTORIES)
        direction = _turn(direction, cosine, random)
        cone = _cone(direction[:, 2], kernels)
        length = random.exponential(size=_HISTORIES) / exponent[generation, cone]
        place += length[:, None] * direction
        if generation > 0:
            radius = np.linalg.norm(place, axis=1)
            seen = _cone(place[:, 2] / np.maximum(radius, 1e-12), kernels)
            shell = np.clip(np.searchsorted(0.1 * kernels.radius_edges_mm, radius) - 1, 0, shells)
            index = seen * (shells + 1) + shell
            found += np.bincount(index, left * kept[generation, cone], found.size).reshape(found.shape)
        left *= 1.0 - kept[generation, cone]
    total = found.sum(axis=1)
    # nothing is deposited near the point of release: a fraction a little above 1, negative there, follows that best
    inside = np.cumsum(found[:, :-1], axis=1) / total[:, None]
    b, m = fit_scatter(inside, 0.1 * kernels.radius_edges_mm[1:], most=1.2)
    return total, b, m

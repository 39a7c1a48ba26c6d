"""Photons scattered again and again in endless water: what each generation carries, which way, how far, and what it leaves.

A few hundred thousand histories are followed from a forced first Compton scatter on, without position: Klein-Nishina
scattering, photoelectric effect and pair production by their coefficients (``data/attenuation.csv``). That gives for each
generation and polar angle to the beam the energy carried, the mean free path and the share that the next interaction
deposits. A second walk follows positions with those averages alone, as the transport on a grid does: what energy scattered
at least twice deposits where, and that as two exponentials for each cone.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.kernel_fit import SCATTER_DEPTH_CM, fine_spectrum, fit_scatter
from dicomplan.dose.point_kernels import PointKernels, load_point_kernels
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
    """``carried`` (G, C): energy that photons of a generation carry in each cone, of the energy released as scatter.
    ``exponent_cm2_g`` (G, C): inverse of their mean free path. ``kept`` (G, C): the share that they deposit where they
    interact. ``again``, ``again_exponent_cm2_g``, ``again_second`` (C,): share, exponent b and fraction m of
    ``b ((1 - m) + m b r) exp(-b r)`` for what photons scattered twice or more deposit from the point of release on.
    """

    carried: FloatArray
    exponent_cm2_g: FloatArray
    kept: FloatArray
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
    carried, exponent, kept = _histories(np.frombuffer(energy), np.frombuffer(photons), kernels)
    again = _positions(carried, exponent, kept, kernels)
    return Generations(carried, exponent, kept, *again)


def _coefficients(energy_mev: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Compton and total mass attenuation of water (cm2/g), log-log between the energies of the table."""
    text = files("dicomplan.dose").joinpath("data", "attenuation.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(io.StringIO(text)) if row["medium"] == "water"]
    nodes = np.log([float(row["energy_mev"]) for row in rows])
    place = np.log(energy_mev)
    columns = ("compton_klein_nishina_cm2_g", "total_without_rayleigh_cm2_g")
    compton, total = (np.exp(np.interp(place, nodes, np.log([float(row[name]) for row in rows]))) for name in columns)
    return compton, total


def _histories(energy: FloatArray, photons: FloatArray, kernels: PointKernels) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Energy carried, exponent and share kept (G, C) by generation and cone."""
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
    handed_on = np.zeros((GENERATIONS, cones))
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
        if generation == GENERATIONS:
            break
        direction = _turned(direction, cosine, random)
        own = np.maximum(scattered, _LOWEST_MEV)
        angle = np.arccos(np.clip(direction[:, 2], -1.0, 1.0))
        cone = np.clip(np.searchsorted(kernels.cone_edges_rad, angle) - 1, 0, cones - 1)
        carried[generation] = np.bincount(cone, left, cones)
        paths[generation] = np.bincount(cone, left / _coefficients(own)[1], cones)
    carried = np.maximum(carried[:-1], 1e-12)
    kept = np.clip(1.0 - handed_on / carried, 0.0, 1.0)
    kept[-1] = 1.0
    return carried / released, carried / np.maximum(paths, 1e-12), kept


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


def _turned(direction: FloatArray, cosine: FloatArray, random: np.random.Generator) -> FloatArray:
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
    return value / np.linalg.norm(value, axis=1, keepdims=True)


def _positions(
    carried: FloatArray, exponent: FloatArray, kept: FloatArray, kernels: PointKernels
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Share, exponent and fraction (C,) of what generations from the second on deposit, seen from the point of release.

    Each flight takes its direction, length and share kept from the averages of its generation.
    """
    random = np.random.default_rng(_SEED + 1)
    edges = np.cos(kernels.cone_edges_rad)
    cones, shells = len(edges) - 1, len(kernels.radius_edges_mm) - 1
    place = np.zeros((_HISTORIES, 3))
    left = np.full(_HISTORIES, carried[0].sum() / _HISTORIES)
    found = np.zeros((cones, shells + 1))
    for generation in range(GENERATIONS):
        share = np.cumsum(carried[generation]) / carried[generation].sum()
        draw = random.permutation(_HISTORIES) + random.random(_HISTORIES)
        cone = np.minimum(np.searchsorted(share, draw / _HISTORIES), cones - 1)
        cosine = edges[cone] + (edges[cone + 1] - edges[cone]) * random.random(_HISTORIES)
        sine, azimuth = np.sqrt(np.maximum(1.0 - cosine**2, 0.0)), 2.0 * np.pi * random.random(_HISTORIES)
        length = random.exponential(size=_HISTORIES) / exponent[generation, cone]
        place += length[:, None] * np.column_stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine])
        if generation > 0:
            radius = np.linalg.norm(place, axis=1)
            seen = np.searchsorted(-edges, -place[:, 2] / np.maximum(radius, 1e-12)) - 1
            shell = np.searchsorted(0.1 * kernels.radius_edges_mm, radius) - 1
            index = np.clip(seen, 0, cones - 1) * (shells + 1) + np.clip(shell, 0, shells)
            found += np.bincount(index, left * kept[generation, cone], found.size).reshape(found.shape)
        left *= 1.0 - kept[generation, cone]
    total = found.sum(axis=1)
    # nothing is deposited near the point of release: a fraction a little above 1, negative there, follows that best
    inside = np.cumsum(found[:, :-1], axis=1) / total[:, None]
    b, m = fit_scatter(inside, 0.1 * kernels.radius_edges_mm[1:], most=1.2)
    return total, b, m

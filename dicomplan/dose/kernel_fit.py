"""The poly-energetic point kernel as two exponentials per cone, and the discrete cone directions of the transport.

Energy released at a point of water is handed on as

    K(theta, r) r^2 = p(theta) a(theta) exp(-a(theta) r) + s(theta) b(theta) exp(-b(theta) r)

per unit solid angle and radius: the form of A. Ahnesjo, Med Phys 16 (1989) 577-592, with the shares p, s (integral over
all directions 1 each) kept apart, because primary and scattered energy are released in proportions that change with
depth. The first term carries what electrons of the first interaction deposit, the second the scattered photons and
those of bremsstrahlung and annihilation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.point_kernels import PointKernels, load_point_kernels, water_attenuation_per_mm
from dicomplan.machine.model import BeamModel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

KERNEL_DEPTH_CM = 10.0
"""Depth of water that hardens the spectrum before it weights the point kernels' shape."""

SCATTER_REACH_CM = 20.0
"""The scatter exponentials are fitted to the energy deposited within this distance; the total is kept."""

TILT_LIMIT_DEG = 15.0
"""Greatest angle between a ray and the beam axis for which the cones are turned onto the ray."""


@dataclass(frozen=True)
class PolyKernel:
    """The fitted kernel in water: per polar cone (C,), solid-angle centres ``angle_rad``.

    ``primary`` and ``scatter``: share of the released primary and scattered energy in the cone (each sums to 1).
    ``primary_cm2_g``, ``scatter_cm2_g``: the exponents a and b.
    """

    edges_rad: FloatArray
    primary: FloatArray
    scatter: FloatArray
    primary_cm2_g: FloatArray
    scatter_cm2_g: FloatArray

    @property
    def angle_rad(self) -> FloatArray:
        """Middle of each cone's solid angle."""
        middle: FloatArray = np.arccos(0.5 * (np.cos(self.edges_rad[1:]) + np.cos(self.edges_rad[:-1])))
        return middle


@dataclass(frozen=True)
class ConeSet:
    """Discrete directions of the transport for rays near the beam axis.

    ``direction`` (n, 3): unit vectors, third component along the beam. ``table`` (n, 4, 3) float32: quadratics in the
    cosine between a ray and the direction of a, p, b, s (exponents in cm2/g, shares of the direction); ``limits``
    (n, 2) the cosines that they hold for.
    """

    direction: FloatArray
    table: Float32Array
    limits: FloatArray


def primary_fraction(energy_mev: FloatArray, kernels: PointKernels) -> FloatArray:
    """Fraction of a photon's energy that electrons of the first interaction deposit, at energies (n,) in MeV."""
    fraction = kernels.fraction[..., 0].sum(axis=(1, 2))
    value: FloatArray = np.interp(np.log(energy_mev), np.log(kernels.energy_mev), fraction)
    return value


def fit_kernel(beam: BeamModel, kernels: PointKernels | None = None) -> PolyKernel:
    """Fits both exponentials in every cone to the point kernels weighted with photons x attenuation x energy.

    The primary exponent is the inverse of the mean distance at which electrons deposit, so that the build-up carries
    energy exactly as far as in the Monte Carlo; the scatter exponent is the least-squares fit of the energy deposited
    within :data:`SCATTER_REACH_CM`. What leaves the 60 cm of the point kernels is scatter.
    """
    kernels = kernels or load_point_kernels()
    energy = beam.energies_mev
    mu = 10.0 * water_attenuation_per_mm(energy)
    weight = beam.photon_weights * mu * energy * np.exp(-mu * KERNEL_DEPTH_CM)
    fraction = _at_energies(kernels, energy)
    poly = np.tensordot(weight / weight.sum(), fraction, axes=1)
    primary, scatter = poly[..., 0], poly[..., 1:].sum(axis=2)
    radius = 0.1 * kernels.radius_edges_mm
    middle = 0.5 * (radius[1:] + radius[:-1])
    exponent_p = primary.sum(axis=1) / (primary @ middle)
    # energy that leaves the spheres follows the cones as that of their outer shells does
    beyond = (1.0 - poly.sum()) * scatter[:, -3:].sum(axis=1) / scatter[:, -3:].sum()
    total = scatter.sum(axis=1) + beyond
    exponent_s = _fit_exponents(np.cumsum(scatter, axis=1) / total[:, None], radius[1:])
    return PolyKernel(
        edges_rad=kernels.cone_edges_rad,
        primary=primary.sum(axis=1) / primary.sum(),
        scatter=total / total.sum(),
        primary_cm2_g=exponent_p,
        scatter_cm2_g=exponent_s,
    )


def _at_energies(kernels: PointKernels, energy_mev: FloatArray) -> FloatArray:
    nodes = np.log(kernels.energy_mev)
    place = np.clip(np.log(energy_mev), nodes[0], nodes[-1])
    index = np.clip(np.searchsorted(nodes, place) - 1, 0, len(nodes) - 2)
    share = ((place - nodes[index]) / (nodes[index + 1] - nodes[index]))[:, None, None, None]
    value: FloatArray = (1.0 - share) * kernels.fraction[index] + share * kernels.fraction[index + 1]
    return value


def _fit_exponents(cumulative: FloatArray, radius_cm: FloatArray) -> FloatArray:
    """Exponents b (C,) of 1 - exp(-b r) through ``cumulative`` (C, shells), by Gauss-Newton steps within the reach."""
    inside = radius_cm <= SCATTER_REACH_CM
    r, target = radius_cm[inside], cumulative[:, inside]
    weight = np.gradient(r) / r
    b = np.full(len(cumulative), 0.04)
    for _ in range(50):
        gone = np.exp(-b[:, None] * r)
        slope = r * gone
        step = (weight * slope * (target - 1.0 + gone)).sum(axis=1) / (weight * slope**2).sum(axis=1)
        b = np.clip(b + step, 0.2 * b, 5.0 * b)
    return b


def cone_set(kernel: PolyKernel, count: int) -> ConeSet:
    """``count`` directions (at least 8) in rings about the beam axis, finer where the kernel carries more energy.

    Shares are those of the cell (ring and sector) round each direction, for a ray along the beam axis and for rays
    tilted against it up to :data:`TILT_LIMIT_DEG`.
    """
    edges, sectors = _rings(kernel, count)
    directions, tables, limits = [], [], []
    for ring, sector_count in enumerate(sectors):
        low, high = edges[ring], edges[ring + 1]
        middle = 0.0 if ring == 0 and sector_count == 1 else _mean_angle(kernel, low, high)
        table, limit = _tilt_table(kernel, low, high, sector_count, middle)
        for sector in range(sector_count):
            # turned by the golden angle from ring to ring, so that directions do not line up
            azimuth = 2.0 * np.pi * (sector / sector_count + 0.381966 * ring + 0.11)
            directions.append(
                [np.sin(middle) * np.cos(azimuth), np.sin(middle) * np.sin(azimuth), float(np.cos(middle))]
            )
            tables.append(table)
            limits.append(limit)
    return ConeSet(np.array(directions), np.array(tables, dtype=np.float32), np.array(limits))


def _density_per_sr(kernel: PolyKernel, share: FloatArray, angle_rad: FloatArray) -> FloatArray:
    solid = 2.0 * np.pi * -np.diff(np.cos(kernel.edges_rad))
    value: FloatArray = np.interp(angle_rad, kernel.angle_rad, share / solid)
    return value


def _mean_angle(kernel: PolyKernel, low: float, high: float) -> float:
    angle = np.linspace(low, high, 101)
    weight = _density_per_sr(kernel, kernel.primary + kernel.scatter, angle) * np.sin(angle)
    return float(np.arccos((weight * np.cos(angle)).sum() / weight.sum()))


def _rings(kernel: PolyKernel, count: int) -> tuple[FloatArray, list[int]]:
    """Ring edges (rad) and the number of sectors in each; cells are about as wide as long."""
    angle = np.linspace(0.0, np.pi, 721)
    density = _density_per_sr(kernel, 0.5 * kernel.primary + 0.5 * kernel.scatter, angle)
    # cell size falls with the energy carried, but slowly: every direction matters for scatter from far away
    size = np.clip((density / density[0]) ** -0.25, 1.0, 2.2)

    def layout(scale: float) -> tuple[list[float], list[int]]:
        edges, sectors = [0.0], []
        while edges[-1] < np.pi - 1e-9:
            width = scale * float(np.interp(edges[-1], angle, size))
            high = edges[-1] + (0.6 * width if not sectors else width)
            if np.pi - high < 0.5 * width:
                high = np.pi
            around = 2.0 * np.pi * np.sin(0.5 * (edges[-1] + high))
            sectors.append(1 if not edges[-1] else max(4, round(around / width)))
            edges.append(high)
        return edges, sectors

    low, high = 0.02, 2.0
    for _ in range(60):
        scale = 0.5 * (low + high)
        if sum(layout(scale)[1]) > count:
            low = scale
        else:
            high = scale
    edges, sectors = layout(high)
    ring = 1 + int(np.argmax(sectors[1:]))
    sectors[ring] += count - sum(sectors)
    return np.array(edges), sectors


def _tilt_table(
    kernel: PolyKernel, low: float, high: float, sectors: int, middle: float
) -> tuple[FloatArray, tuple[float, float]]:
    """Quadratics (4, 3) in the cosine to the tilted ray, and the range of cosines."""
    limit = np.radians(TILT_LIMIT_DEG)
    angle = np.linspace(max(middle - limit, 0.0), min(middle + limit, np.pi), 31)
    polar = np.arccos(np.linspace(np.cos(low), np.cos(high), 33))
    polar = np.arccos(0.5 * (np.cos(polar[1:]) + np.cos(polar[:-1])))
    azimuth = (np.arange(32) + 0.5) / 32 * 2.0 * np.pi / sectors - np.pi / sectors
    x = np.sin(polar)[:, None] * np.cos(azimuth)
    z = np.broadcast_to(np.cos(polar)[:, None], x.shape)
    solid = 2.0 * np.pi * (np.cos(low) - np.cos(high)) / sectors / x.size
    values = np.empty((4, len(angle)))
    for k, place in enumerate(angle):
        turn = place - middle
        seen = np.arccos(np.clip(np.cos(turn) * z - np.sin(turn) * x, -1.0, 1.0))
        for row, share, exponent in (
            (0, kernel.primary, kernel.primary_cm2_g),
            (2, kernel.scatter, kernel.scatter_cm2_g),
        ):
            density = _density_per_sr(kernel, share, seen)
            reach = np.interp(seen, kernel.angle_rad, 1.0 / exponent)
            values[row + 1, k] = density.sum() * solid
            values[row, k] = density.sum() / (density * reach).sum()
    cosine = np.cos(angle)
    weight = 1.0 / (1.0 + (np.abs(angle - middle) / np.radians(5.0)) ** 2)
    table = np.array([np.polynomial.polynomial.polyfit(cosine, row, 2, w=weight) for row in values])
    return table, (float(cosine.min()), float(cosine.max()))

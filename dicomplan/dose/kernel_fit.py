"""The poly-energetic point kernel as two exponentials per cone, and the discrete cone directions of the transport.

Energy released at a point of water is handed on, per unit solid angle and radius, as

    K(theta, r) r^2 = p a exp(-a r) + s b ((1 - m) + m b r) exp(-b r)        with a, p, b, m, s functions of theta

after A. Ahnesjo, Med Phys 16 (1989) 577-592, with two differences. The shares p and s (integrals over all directions 1
each) are kept apart, because primary and scattered energy are released in proportions that change with depth. And what
scattered photons lose is deposited only in part (1 - m); the fraction m is carried on once more with the same exponent:
multiple scatter builds up with distance. Against superposition of the Monte Carlo kernel itself, a plain exponential is
1 % wrong at 25 cm depth in a 10 x 10 cm field and 3 % in 30 x 30, this one 0.5 % at most. The first term is what
electrons of the first interaction deposit, the second the scattered photons and those of bremsstrahlung and annihilation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.point_kernels import PointKernels, load_point_kernels, water_attenuation_per_mm
from dicomplan.machine.model import BeamModel

FloatArray = NDArray[np.float64]

PRIMARY_DEPTH_CM = 3.0
"""Depth of water that hardens the spectrum before it weights the electrons' part of the point kernels."""

SCATTER_DEPTH_CM = 10.0
"""As :data:`PRIMARY_DEPTH_CM`, for the scattered part."""

TILT_LIMIT_DEG = 15.0
"""Greatest angle between a ray and the beam axis for which the cones are turned onto the ray."""


@dataclass(frozen=True)
class PolyKernel:
    """The fitted kernel in water: per polar cone (C,), solid-angle centres ``angle_rad``.

    ``primary`` and ``scatter``: share of the released primary and scattered energy in the cone (each sums to 1).
    ``primary_cm2_g``, ``scatter_cm2_g``: the exponents a and b; ``scatter_again``: the fraction m.
    """

    edges_rad: FloatArray
    primary: FloatArray
    scatter: FloatArray
    primary_cm2_g: FloatArray
    scatter_cm2_g: FloatArray
    scatter_again: FloatArray

    @property
    def angle_rad(self) -> FloatArray:
        """Middle of each cone's solid angle."""
        middle: FloatArray = np.arccos(0.5 * (np.cos(self.edges_rad[1:]) + np.cos(self.edges_rad[:-1])))
        return middle


@dataclass(frozen=True)
class ConeSet:
    """Discrete directions of the transport for rays near the beam axis.

    ``direction`` (n, 3): unit vectors, third component along the beam. ``table`` (n, 5, 3): quadratics in the
    cosine between a ray and the direction of a, p, b, m, s (exponents in cm2/g, shares of the direction); ``limits``
    (n, 2) the cosines that they hold for.
    """

    direction: FloatArray
    table: FloatArray
    limits: FloatArray

    def values(self, row: int, cosine: FloatArray) -> FloatArray:
        """Quadratic ``row`` of every direction at cosines (n, ...) within the limits, same shape."""
        c0, c1, c2 = self.table[:, row].T.reshape((3, -1) + (1,) * (cosine.ndim - 1))
        value: FloatArray = c0 + cosine * (c1 + cosine * c2)
        return value


def fine_spectrum(beam: BeamModel) -> tuple[FloatArray, FloatArray]:
    """Energies (MeV) and photons (sum 1) of the beam's spectrum with three points in each bin (Gauss-Legendre).

    Photons are spread evenly over each bin, whose edges lie half way between the bin centres; a single energy stays one.
    Attenuation changes so much within the lowest bins that their centres alone would be 0.5 % wrong at 30 cm depth.
    """
    centre, photons = beam.energies_mev, beam.photon_weights / beam.photon_weights.sum()
    if len(centre) < 2:
        return centre, photons
    inner = 0.5 * (centre[1:] + centre[:-1])
    edges = np.concatenate([[max(2.0 * centre[0] - inner[0], 0.0)], inner, [2.0 * centre[-1] - inner[-1]]])
    place, share = np.polynomial.legendre.leggauss(3)
    energy = 0.5 * (edges[1:] + edges[:-1])[:, None] + 0.5 * np.diff(edges)[:, None] * place
    return energy.ravel(), (photons[:, None] * 0.5 * share).ravel()


def primary_fraction(energy_mev: FloatArray, kernels: PointKernels) -> FloatArray:
    """Fraction of a photon's energy that electrons of the first interaction deposit, at energies (n,) in MeV."""
    fraction = kernels.fraction[..., 0].sum(axis=(1, 2))
    value: FloatArray = np.interp(np.log(energy_mev), np.log(kernels.energy_mev), fraction)
    return value


def electron_reach_cm(beam: BeamModel, depths_cm: FloatArray, kernels: PointKernels) -> FloatArray:
    """Mean distance (n,) from the ray at which electrons of the first interaction deposit, behind depths (n,) of water."""
    edges = kernels.cone_edges_rad
    sideways = np.sin(np.arccos(0.5 * (np.cos(edges[1:]) + np.cos(edges[:-1]))))
    every = kernels.fraction[..., 0]
    electrons = np.einsum("ecs,c->es", every, sideways)
    radius = 0.1 * kernels.radius_edges_mm
    energy, photons = fine_spectrum(beam)
    mu = 10.0 * water_attenuation_per_mm(energy)
    weight = photons * mu * energy * np.exp(-mu * depths_cm[:, None])
    place = np.log(energy), np.log(kernels.energy_mev)
    deposited = np.interp(*place, every.sum(axis=(1, 2)))
    carried = np.interp(*place, _mean_radius(electrons, radius))
    value: FloatArray = weight @ carried / (weight @ deposited)
    return value


def fit_kernel(beam: BeamModel, kernels: PointKernels | None = None) -> PolyKernel:
    """Fits both exponentials in every cone to the point kernels weighted with photons x attenuation x energy.

    The primary exponent is the inverse of the mean distance at which electrons deposit, so that the build-up carries
    energy exactly as far as in the Monte Carlo; exponent and second generation of the scatter are the least-squares fit
    of the energy deposited within each radius. What leaves the 60 cm of the point kernels is scatter.
    """
    kernels = kernels or load_point_kernels()
    electrons = _weighted(kernels, beam, PRIMARY_DEPTH_CM)[..., 0]
    poly = _weighted(kernels, beam, SCATTER_DEPTH_CM)
    scatter = poly[..., 1:].sum(axis=2)
    radius = 0.1 * kernels.radius_edges_mm
    reach = _mean_radius(electrons, radius) / electrons.sum(axis=1)
    # energy that leaves the spheres follows the cones as that of their outer shells does
    beyond = (1.0 - poly.sum()) * scatter[:, -3:].sum(axis=1) / scatter[:, -3:].sum()
    total = scatter.sum(axis=1) + beyond
    exponent, again = fit_scatter(np.cumsum(scatter, axis=1) / total[:, None], radius[1:])
    return PolyKernel(
        edges_rad=kernels.cone_edges_rad,
        primary=electrons.sum(axis=1) / electrons.sum(),
        scatter=total / total.sum(),
        primary_cm2_g=1.0 / reach,
        scatter_cm2_g=exponent,
        scatter_again=again,
    )


def _weighted(kernels: PointKernels, beam: BeamModel, depth_cm: float) -> FloatArray:
    """Energy fractions (cones, shells, components) of the spectrum behind ``depth_cm`` of water."""
    energy, photons = fine_spectrum(beam)
    mu = 10.0 * water_attenuation_per_mm(energy)
    weight = photons * mu * energy * np.exp(-mu * depth_cm)
    poly: FloatArray = np.tensordot(weight / weight.sum(), _at_energies(kernels, energy), axes=1)
    return poly


def _at_energies(kernels: PointKernels, energy_mev: FloatArray) -> FloatArray:
    nodes = np.log(kernels.energy_mev)
    place = np.clip(np.log(energy_mev), nodes[0], nodes[-1])
    index = np.clip(np.searchsorted(nodes, place) - 1, 0, len(nodes) - 2)
    share = ((place - nodes[index]) / (nodes[index + 1] - nodes[index]))[:, None, None, None]
    value: FloatArray = (1.0 - share) * kernels.fraction[index] + share * kernels.fraction[index + 1]
    return value


def _mean_radius(deposited: FloatArray, radius_edges: FloatArray) -> FloatArray:
    """Energy (n, shells) times the radius where it is deposited, summed: (n,).

    By a monotone cubic through the energy within each radius: the shells' middles are 1.6 % too far out, as most of a wide
    shell's energy lies near its inner side.
    """
    from scipy.interpolate import PchipInterpolator

    within = np.concatenate([np.zeros((len(deposited), 1)), np.cumsum(deposited, axis=1)], axis=1)
    inside = PchipInterpolator(radius_edges, within, axis=1).antiderivative()(radius_edges[-1])
    value: FloatArray = within[:, -1] * radius_edges[-1] - inside
    return value


def fit_scatter(cumulative: FloatArray, radius_cm: FloatArray, most: float = 1.0) -> tuple[FloatArray, FloatArray]:
    """Exponents b and fractions m (C,), at most ``most``, of 1 - exp(-b r) (1 + m b r) through ``cumulative`` (C, shells).

    Gauss-Newton; every relative step of the radius weighs the same.
    """
    r = radius_cm
    weight = np.gradient(r) / r
    b, m = np.full(len(cumulative), 0.06), np.full(len(cumulative), 0.5)
    for _ in range(50):
        x = b[:, None] * r
        gone = np.exp(-x)
        miss = cumulative - 1.0 + gone * (1.0 + m[:, None] * x)
        by_b = r * gone * (1.0 - m[:, None] + m[:, None] * x)
        by_m = -x * gone
        bb, mm, bm = ((weight * p * q).sum(axis=1) for p, q in ((by_b, by_b), (by_m, by_m), (by_b, by_m)))
        to_b, to_m = (weight * by_b * miss).sum(axis=1), (weight * by_m * miss).sum(axis=1)
        determinant = bb * mm - bm**2
        b = np.clip(b + (mm * to_b - bm * to_m) / determinant, 0.5 * b, 2.0 * b)
        m = np.clip(m + (bb * to_m - bm * to_b) / determinant, 0.0, most)
    return b, m


def cone_set(kernel: PolyKernel, count: int) -> ConeSet:
    """``count`` directions (at least 8) in rings about the beam axis, finer where the kernel carries more energy.

    Shares are those of the cell (ring and sector) round each direction, for a ray along the beam axis and for rays
    tilted against it up to :data:`TILT_LIMIT_DEG`. No direction lies on the axis: what runs exactly along a narrow beam
    would never leave it, and make it 10 % too high at depth.
    """
    edges, sectors = rings(kernel, count)
    directions, tables, limits = [], [], []
    for ring, sector_count in enumerate(sectors):
        low, high = edges[ring], edges[ring + 1]
        middle = mean_angle(kernel, low, high)
        table, limit = _tilt_table(kernel, low, high, sector_count, middle)
        for sector in range(sector_count):
            # turned by the golden angle from ring to ring, so that directions do not line up
            azimuth = 2.0 * np.pi * (sector / sector_count + 0.381966 * ring + 0.05)
            directions.append(
                [np.sin(middle) * np.cos(azimuth), np.sin(middle) * np.sin(azimuth), float(np.cos(middle))]
            )
            tables.append(table)
            limits.append(limit)
    return ConeSet(np.array(directions), np.array(tables), np.array(limits))


def _density_per_sr(kernel: PolyKernel, share: FloatArray, angle_rad: FloatArray) -> FloatArray:
    solid = 2.0 * np.pi * -np.diff(np.cos(kernel.edges_rad))
    value: FloatArray = np.interp(angle_rad, kernel.angle_rad, share / solid)
    return value


def mean_angle(kernel: PolyKernel, low: float, high: float) -> float:
    """Polar angle (rad) whose cosine is the mean of what the kernel carries between two; electrons count twice."""
    angle = np.linspace(low, high, 101)
    weight = _density_per_sr(kernel, 2.0 * kernel.primary + kernel.scatter, angle) * np.sin(angle)
    return float(np.arccos((weight * np.cos(angle)).sum() / weight.sum()))


def rings(kernel: PolyKernel, count: int) -> tuple[FloatArray, list[int]]:
    """Ring edges (rad) and the number of sectors in each; cells are about as wide as long."""
    angle = np.linspace(0.0, np.pi, 721)
    density = _density_per_sr(kernel, 0.5 * kernel.primary + 0.5 * kernel.scatter, angle)
    # finest where most energy goes, so that cells carry alike: streaks outside of a field are half of those of even cells
    size = np.clip((density / density[0]) ** -0.5, 1.0, 4.0)

    def layout(scale: float) -> tuple[list[float], list[int]]:
        edges, sectors = [0.0], []
        while edges[-1] < np.pi - 1e-9:
            width = scale * float(np.interp(edges[-1], angle, size))
            high = edges[-1] + width
            if np.pi - high < 0.5 * width:
                high = np.pi
            around = 2.0 * np.pi * np.sin(0.5 * (edges[-1] + high))
            sectors.append(max(4, round(around / width)))
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
    """Quadratics (5, 3) in the cosine to the tilted ray, and the range of cosines."""
    limit = np.radians(TILT_LIMIT_DEG)
    angle = np.linspace(max(middle - limit, 0.0), min(middle + limit, np.pi), 31)
    polar = np.arccos(np.linspace(np.cos(low), np.cos(high), 33))
    polar = np.arccos(0.5 * (np.cos(polar[1:]) + np.cos(polar[:-1])))
    azimuth = (np.arange(32) + 0.5) / 32 * 2.0 * np.pi / sectors - np.pi / sectors
    x = np.sin(polar)[:, None] * np.cos(azimuth)
    z = np.broadcast_to(np.cos(polar)[:, None], x.shape)
    solid = 2.0 * np.pi * (np.cos(low) - np.cos(high)) / sectors / x.size
    values = np.empty((5, len(angle)))
    for k, place in enumerate(angle):
        turn = place - middle
        seen = np.arccos(np.clip(np.cos(turn) * z - np.sin(turn) * x, -1.0, 1.0))
        primary = _density_per_sr(kernel, kernel.primary, seen)
        scatter = _density_per_sr(kernel, kernel.scatter, seen)
        reach = np.interp(seen, kernel.angle_rad, 1.0 / kernel.primary_cm2_g)
        exponent = np.interp(seen, kernel.angle_rad, kernel.scatter_cm2_g)
        again = np.interp(seen, kernel.angle_rad, kernel.scatter_again)
        values[:, k] = (
            primary.sum() / (primary * reach).sum(),
            primary.sum() * solid,
            (scatter * exponent).sum() / scatter.sum(),
            (scatter * again).sum() / scatter.sum(),
            scatter.sum() * solid,
        )
    cosine = np.cos(angle)
    weight = 1.0 / (1.0 + (np.abs(angle - middle) / np.radians(5.0)) ** 2)
    table = np.array([np.polynomial.polynomial.polyfit(cosine, row, 2, w=weight) for row in values])
    return table, (float(cosine.min()), float(cosine.max()))

"""The pencil kernel of a beam in water, as Gaussians whose weights depend on depth and on density.

A photon that enters at a point spreads its energy as the TERMA along its ray, convolved with the poly-energetic point
kernel. Seen in the diverging coordinates of the isocentre plane, the energy of each depth within a radius is written
as a sum of two-dimensional Gaussians of fixed widths: sums of Gaussians are separable in x and y, so that a beamlet's
dose is a product of error functions and a whole field's a few matrix products. Convolution kernels of this kind:
A. Ahnesjo, M. Saxner, A. Trepp, Med Phys 19 (1992) 263-273.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.electrons import ELECTRON_SIGMA_MM, surface_release_mev_per_mm
from dicomplan.dose.point_kernels import PointKernels, load_point_kernels, water_attenuation_per_mm
from dicomplan.machine.model import BeamModel

FloatArray = NDArray[np.float64]

SIGMA_MM = np.array([0.35, 0.9, 2.2, 5.5, 14.0, 40.0, 110.0])
"""Standard deviations of the Gaussians, mm on the isocentre plane: from the electrons' range to far scatter."""

DEPTH_MM = np.concatenate([np.arange(0.0, 30.0, 2.0), np.arange(30.0, 60.0, 5.0), np.arange(60.0, 601.0, 20.0)])
"""Radiological depths (mm of water) of the table; linear in between."""

SCALE = np.geomspace(0.1, 2.5, 15)
"""Magnification times relative density: the factor from mm on the isocentre plane to mm of water at the voxel."""

_STEP_MM = 1.0
_STEPS = 620  # reaches beyond the deepest entry
_RADII_MM = np.append(0.0, np.geomspace(0.1, 400.0, 60))  # rings in mm of water
_FIT_RADII_MM = np.geomspace(0.3, 300.0, 60)  # on the isocentre plane
_PARTS = (6, 8)  # a cone's solid angle and a shell's thickness are cut into so many parts
_TOTAL_WEIGHT = 100.0  # the Gaussians together hold the whole energy


@dataclass(frozen=True)
class PencilKernel:
    """Gaussians of a beam's pencil kernel.

    Energy deposited per mm of depth, at ``depth_mm`` (D,) of water and ``scale`` (M,), is the sum over K Gaussians of
    ``sigma_mm`` (K,) (isocentre plane) with ``weight_mev_per_mm`` (D, M, K), per photon of the spectrum that would
    cross the isocentre plane without attenuation and were its area that at the voxel's distance.
    ``softening_per_mm``: radiological depths count 1 + this x radius (isocentre plane, mm) times.
    """

    depth_mm: FloatArray
    scale: FloatArray
    sigma_mm: FloatArray
    weight_mev_per_mm: FloatArray
    softening_per_mm: float = 0.0


def pencil_kernel(beam: BeamModel, rings: FloatArray | None = None) -> PencilKernel:
    """The kernel of a beam's spectrum, from the point kernels in water, with the beam's contaminating electrons.

    The electrons join the Gaussian of their own width. Takes about half a second; less with ``rings``
    (:func:`ring_histograms` of the shipped point kernels), for many beams in a row.
    """
    from scipy.optimize import nnls

    kernels = load_point_kernels()
    rings, terma = ring_histograms(kernels) if rings is None else rings, _terma(beam, kernels.energy_mev)
    basis = 1.0 - np.exp(-(_FIT_RADII_MM[:, None] ** 2) / (2.0 * SIGMA_MM[None, :] ** 2))
    emphasis = np.ones(len(_FIT_RADII_MM))
    emphasis[-1] = _TOTAL_WEIGHT
    weight = np.empty((len(DEPTH_MM), len(SCALE), len(SIGMA_MM)))
    for row, depth in enumerate(DEPTH_MM):
        for column, within in enumerate(_energy_within(rings, terma, float(depth))):
            share, _ = nnls(basis * emphasis[:, None], within / within[-1] * emphasis)
            weight[row, column] = within[-1] * share
    if beam.electron_weight > 0.0:
        electrons = beam.electron_weight * surface_release_mev_per_mm(beam) * np.exp(-DEPTH_MM / beam.electron_depth_mm)
        weight[:, :, int(np.argmin(np.abs(SIGMA_MM - ELECTRON_SIGMA_MM)))] += electrons[:, None]
    return PencilKernel(DEPTH_MM, SCALE, SIGMA_MM, weight, beam.softening_per_mm)


def ring_histograms(kernels: PointKernels) -> FloatArray:
    """(E, rings, 2 steps) energy fraction by distance from the photon's axis and along it, from a forced interaction.

    Within a cone the energy is spread evenly over the solid angle, within a shell over the radius.
    """
    angles, radii = _PARTS
    cosine = np.cos(kernels.cone_edges_rad)
    share = (np.arange(angles) + 0.5) / angles
    middle_cosine = cosine[:-1, None] + (cosine[1:] - cosine[:-1])[:, None] * share  # (C, angles)
    share = (np.arange(radii) + 0.5) / radii
    edges = kernels.radius_edges_mm
    middle_radius = edges[:-1, None] + (edges[1:] - edges[:-1])[:, None] * share  # (S, radii)
    along = middle_cosine[:, None, :, None] * middle_radius[None, :, None, :]  # (C, S, angles, radii)
    aside = np.sqrt(1.0 - middle_cosine**2)[:, None, :, None] * middle_radius[None, :, None, :]
    ring = np.clip(np.searchsorted(_RADII_MM, aside) - 1, 0, len(_RADII_MM) - 2)
    place = along / _STEP_MM + _STEPS - 0.5
    low = np.floor(place).astype(np.int64)
    upper = place - low
    inside = (low >= 0) & (low < 2 * _STEPS - 1)
    cell = (ring * 2 * _STEPS + low)[inside]
    size = (len(_RADII_MM) - 1) * 2 * _STEPS
    result = np.empty((len(kernels.energy_mev), len(_RADII_MM) - 1, 2 * _STEPS))
    fraction = kernels.fraction.sum(axis=-1) / (angles * radii)
    for energy, of_energy in enumerate(fraction):
        value = np.broadcast_to(of_energy[:, :, None, None], place.shape)[inside]
        flat = np.bincount(cell, value * (1.0 - upper[inside]), size)
        flat += np.bincount(cell + 1, value * upper[inside], size)
        result[energy] = flat.reshape(len(_RADII_MM) - 1, 2 * _STEPS)
    return result


def _terma(beam: BeamModel, kernel_energies_mev: FloatArray) -> FloatArray:
    """(E, steps) MeV released in each step of depth per photon of the spectrum, shared out to the kernels' energies."""
    depth = _STEP_MM * np.arange(_STEPS + 1)
    photons = beam.photon_weights / beam.photon_weights.sum()
    attenuation = water_attenuation_per_mm(beam.energies_mev)
    remaining = np.exp(-attenuation[:, None] * depth[None, :])
    released = (photons * beam.energies_mev)[:, None] * (remaining[:, :-1] - remaining[:, 1:])
    last = len(kernel_energies_mev) - 1
    place = np.interp(np.log(beam.energies_mev), np.log(kernel_energies_mev), np.arange(last + 1))
    low = np.minimum(place.astype(np.int64), last - 1)
    share = place - low
    result = np.zeros((last + 1, _STEPS))
    np.add.at(result, low, (1.0 - share)[:, None] * released)
    np.add.at(result, low + 1, share[:, None] * released)
    return result


def _energy_within(rings: FloatArray, terma: FloatArray, depth_mm: float) -> FloatArray:
    """(M, radii) MeV per mm of depth within radii of the isocentre plane, at one depth, for each of :data:`SCALE`.

    A photon scatters about its own, diverging direction. So the distance that counts, from the photon's ray to the point
    of deposition, grows in proportion to that of the point from the source, wherever on the ray the photon interacted.
    """
    centres = _STEP_MM * (np.arange(_STEPS) + 0.5)
    place = (depth_mm - centres) / _STEP_MM + _STEPS - 0.5  # in the histogram's bins
    low = np.clip(np.floor(place).astype(np.int64), 0, 2 * _STEPS - 2)
    upper = place - low
    density = np.zeros(rings.shape[1])
    for of_energy, released in zip(rings, terma, strict=True):
        density += ((1.0 - upper) * of_energy[:, low] + upper * of_energy[:, low + 1]) @ released
    within = np.append(0.0, np.cumsum(density / _STEP_MM))
    step = np.log(_RADII_MM[2] / _RADII_MM[1])
    radius = _FIT_RADII_MM * SCALE[:, None]
    outer = 1.0 + np.log(np.maximum(radius, _RADII_MM[1]) / _RADII_MM[1]) / step
    index = np.where(radius < _RADII_MM[1], radius / _RADII_MM[1], outer)
    result: FloatArray = np.interp(index, np.arange(len(_RADII_MM)), within)
    return result

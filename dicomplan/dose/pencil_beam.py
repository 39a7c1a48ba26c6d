"""The pencil-beam engine: dose at points as depth-weighted samples of the fluence convolved with Gaussians.

dose = (SAD / r)^2 x sum over k of A_k(radiological depth, magnification x density) x (fluence (*) G_k)(u, v), where
(u, v) is the point's projection on the isocentre plane and r its distance from the source: see
:mod:`dicomplan.dose.pencil_kernel` for A_k and G_k. All doses here are Gy cm2 per photon, that is Gy for one
photon/cm2 of an open isotropic beam at the isocentre; :func:`photons_cm2_per_mu` turns them into Gy/MU.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose._kernels_pencil import depth_weights, gather, scatter
from dicomplan.dose.fluence import FluencePlane, open_plane, plane_axes, source_sigma_mm
from dicomplan.dose.pencil_kernel import PencilKernel
from dicomplan.dose.point_kernels import GY_CM2_PER_MEV_MM
from dicomplan.geometry.frames import BeamFrame
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.geometry.rays import path_integral
from dicomplan.machine.model import MachineModel
from dicomplan.patient.density import DensityVolume

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

LATERAL_SIGMA_MM = 10.0
"""Densities are averaged with this Gaussian where they scale the kernel's width: about the reach of its electrons."""


@dataclass(frozen=True)
class Layer:
    """Gaussians ``first`` to ``last`` (exclusive) of the kernel: sampled every ``step_mm``, up to ``reach_mm`` beyond
    the field's edge (isocentre plane)."""

    first: int
    last: int
    step_mm: float
    reach_mm: float


LAYERS = (Layer(0, 4, 1.0, 25.0), Layer(4, 7, 4.0, 220.0))
"""Narrow Gaussians on a fine map about the field, wide ones on a coarse map of all the patient.

The reach is 4.5 times the fine layer's widest Gaussian and twice the coarse layer's; a linear interpolation over a step
h is off by at most h^2 / (8 sigma^2) of a Gaussian's own share: 1 % of 0.1 for the coarse one of 14 mm.
"""

_SHARES = 4  # of the voxels in the transposed product: fixed, so that sums do not depend on the threads


@dataclass(frozen=True)
class Medium:
    """What rays see: electron density relative to water and the same averaged laterally, float32 (z, y, x) on a grid."""

    grid: VoxelGrid
    electron_relative: Float32Array
    averaged: Float32Array


@dataclass(frozen=True)
class BeamSamples:
    """Points seen by one beam: ``u_mm``, ``v_mm`` (n,) on the isocentre plane, ``weight`` (n, K) Gy cm2 per photon."""

    u_mm: Float32Array
    v_mm: Float32Array
    weight: Float32Array


def medium(density: DensityVolume) -> Medium:
    """The medium of a density volume: outside of the grid there is nothing."""
    from scipy.ndimage import gaussian_filter

    electron = density.electron_relative
    sigma = [LATERAL_SIGMA_MM / step for step in density.grid.spacing_mm]
    averaged = gaussian_filter(electron, sigma, mode="nearest", truncate=2.0).astype(np.float32)
    return Medium(density.grid, electron, averaged)


def voxel_centres_mm(grid: VoxelGrid, voxels: NDArray[np.int64]) -> FloatArray:
    """Patient coordinates (n, 3), mm, of the centres of voxels given by their linear index (C order)."""
    index = np.stack(np.unravel_index(voxels, grid.shape), axis=-1)
    return grid.patient_from_index(index)


def beam_samples(frame: BeamFrame, around: Medium, voxels: NDArray[np.int64], kernel: PencilKernel) -> BeamSamples:
    """How one beam sees the voxels (linear indices on the medium's grid): projection, depth, density, inverse square."""
    points = voxel_centres_mm(around.grid, voxels)
    depth = path_integral(around.electron_relative, around.grid, frame.source_mm, points)
    projected = frame.project(points)
    if kernel.softening_per_mm != 0.0:
        depth *= (1.0 + kernel.softening_per_mm * np.hypot(projected[:, 0], projected[:, 1])).astype(np.float32)
    distance = np.linalg.norm(points - frame.source_mm, axis=-1)
    sad = frame.source_axis_distance_mm
    scale = (distance / sad * around.averaged.ravel()[voxels]).astype(np.float32)
    factor = (GY_CM2_PER_MEV_MM * (sad / distance) ** 2).astype(np.float32)
    weight = np.empty((len(points), len(kernel.sigma_mm)), dtype=np.float32)
    log_scale = np.log(kernel.scale)
    depth_weights(
        depth,
        scale,
        # Gy cm2 per photon are about 1e-12: far above the smallest float32
        factor,
        np.ascontiguousarray(kernel.weight_mev_per_mm),
        kernel.depth_mm,
        float(log_scale[0]),
        float(log_scale[1] - log_scale[0]),
        weight,
    )
    return BeamSamples(projected[:, 0].astype(np.float32), projected[:, 1].astype(np.float32), weight)


def blurred_sigma_mm(kernel: PencilKernel, machine: MachineModel) -> FloatArray:
    """(K,) widths (mm) of the kernel's Gaussians with the source's blur added in quadrature."""
    source = source_sigma_mm(machine.beam, machine.source_axis_distance_mm)
    blurred: FloatArray = np.hypot(kernel.sigma_mm, source)
    return blurred


def interval_response(low_mm: FloatArray, high_mm: FloatArray, at_mm: FloatArray, sigma_mm: float) -> FloatArray:
    """(m, n) value at m points of n unit intervals [low, high] convolved with a normalised Gaussian; all mm."""
    from scipy.special import ndtr

    upper = (high_mm[None, :] - at_mm[:, None]) / sigma_mm
    lower = (low_mm[None, :] - at_mm[:, None]) / sigma_mm
    response: FloatArray = ndtr(upper) - ndtr(lower)
    return response


def convolved(plane: FluencePlane, sigma_mm: FloatArray, x_mm: FloatArray, y_mm: FloatArray) -> Float32Array:
    """(ny, nx, K) the plane (constant within its pixels) convolved with each Gaussian, at points x, y (mm)."""
    half = 0.5 * plane.step_mm
    maps = np.empty((len(y_mm), len(x_mm), len(sigma_mm)), dtype=np.float32)
    for k, sigma in enumerate(sigma_mm):
        along = interval_response(plane.x_mm - half, plane.x_mm + half, x_mm, float(sigma))
        across = interval_response(plane.y_mm - half, plane.y_mm + half, y_mm, float(sigma))
        maps[:, :, k] = across @ plane.values @ along.T
    return maps


def layer_axes(
    layer: Layer, samples: BeamSamples, x_range_mm: tuple[float, float], y_range_mm: tuple[float, float]
) -> tuple[FloatArray, FloatArray]:
    """Points (x, y; mm) at which a layer of a field of these ranges is sampled: within its reach, where voxels are."""
    ranges = []
    for at, (low, high) in ((samples.u_mm, x_range_mm), (samples.v_mm, y_range_mm)):
        border = 2.0 * layer.step_mm
        first = max(float(at.min(initial=low)) - border, low - layer.reach_mm)
        last = min(float(at.max(initial=high)) + border, high + layer.reach_mm)
        ranges.append((first, max(last, first + border)))
    return plane_axes(ranges[0], ranges[1], layer.step_mm)


@dataclass(frozen=True)
class LayerPlaces:
    """Where the points of a beam's samples lie on one layer's maps.

    ``x_mm`` (nx,) and ``y_mm`` (ny,) are the maps' points, ``u`` and ``v`` (n,) float32 the samples' fractional indices.
    """

    layer: Layer
    x_mm: FloatArray
    y_mm: FloatArray
    u: Float32Array
    v: Float32Array


def layer_places(
    layer: Layer, samples: BeamSamples, x_range_mm: tuple[float, float], y_range_mm: tuple[float, float]
) -> LayerPlaces:
    """The maps of one layer for a field of these ranges (mm at isocentre), and where the samples lie on them."""
    x_mm, y_mm = layer_axes(layer, samples, x_range_mm, y_range_mm)
    step = np.float32(layer.step_mm)
    u, v = (samples.u_mm - np.float32(x_mm[0])) / step, (samples.v_mm - np.float32(y_mm[0])) / step
    return LayerPlaces(layer, x_mm, y_mm, u, v)


def sampled(maps: Float32Array, places: LayerPlaces, samples: BeamSamples, out: Float32Array) -> None:
    """Add to ``out`` (n,) what one layer's convolved maps (ny, nx, K) give to the points."""
    gather(maps, places.u, places.v, samples.weight, places.layer.first, out)


def spread(gradient: Float32Array, places: LayerPlaces, samples: BeamSamples) -> Float32Array:
    """(ny, nx, K) transpose of :func:`sampled`: what each point of a layer's maps contributes to ``gradient`` (n,)."""
    layer = places.layer
    parts = np.zeros((_SHARES, len(places.y_mm), len(places.x_mm), layer.last - layer.first), dtype=np.float32)
    scatter(gradient, places.u, places.v, samples.weight, layer.first, parts)
    total: Float32Array = parts.sum(axis=0)
    return total


def pencil_beam_dose(plane: FluencePlane, samples: BeamSamples, sigma_mm: FloatArray) -> Float32Array:
    """Dose (n,) at the sampled points of one beam's fluence plane; Gy cm2 per photon times the plane's unit."""
    half = 0.5 * plane.step_mm
    x_range = (float(plane.x_mm[0]) - half, float(plane.x_mm[-1]) + half)
    y_range = (float(plane.y_mm[0]) - half, float(plane.y_mm[-1]) + half)
    out = np.zeros(len(samples.u_mm), dtype=np.float32)
    for layer in LAYERS:
        places = layer_places(layer, samples, x_range, y_range)
        maps = convolved(plane, sigma_mm[layer.first : layer.last], places.x_mm, places.y_mm)
        sampled(maps, places, samples, out)
    return out


def photons_cm2_per_mu(machine: MachineModel, kernel: PencilKernel) -> float:
    """Photons/cm2 of the open beam on the axis at the isocentre for 1 MU, from the machine's calibration.

    The engine's own dose in the calibration field (square, centred, water) is set equal to the stated Gy/MU.
    """
    calibration, sad = machine.calibration, machine.source_axis_distance_mm
    half = 0.5 * calibration.field_mm
    field = open_plane((-half, half), (-half, half), machine)
    axis = np.zeros(1)
    maps = convolved(field, blurred_sigma_mm(kernel, machine), axis, axis)
    distance = calibration.source_surface_distance_mm + calibration.depth_mm
    weight = np.empty((1, len(kernel.sigma_mm)), dtype=np.float32)
    log_scale = np.log(kernel.scale)
    depth_weights(
        np.array([calibration.depth_mm], dtype=np.float32),
        np.array([distance / sad], dtype=np.float32),
        np.array([GY_CM2_PER_MEV_MM * (sad / distance) ** 2], dtype=np.float32),
        np.ascontiguousarray(kernel.weight_mev_per_mm),
        kernel.depth_mm,
        float(log_scale[0]),
        float(log_scale[1] - log_scale[0]),
        weight,
    )
    dose = float(maps[0, 0].astype(np.float64) @ weight[0].astype(np.float64))
    return calibration.dose_per_mu_gy / dose

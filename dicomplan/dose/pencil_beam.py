"""The pencil-beam engine: dose at points as depth-weighted samples of the fluence convolved with Gaussians.

dose = (SAD / r)^2 x sum over k of A_k(radiological depth, magnification x density) x (fluence (*) G_k)(u, v), where
(u, v) is the point's projection on the isocentre plane and r its distance from the source: see
:mod:`dicomplan.dose.pencil_kernel` for A_k and G_k. All doses here are Gy cm2 per photon, that is Gy for one
photon/cm2 of an open isotropic beam at the isocentre; :func:`photons_cm2_per_mu` turns them into Gy/MU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose._kernels_pencil import collect, depth_weights, gather, interleave, scatter, seen_from
from dicomplan.dose.fluence import FluencePlane, open_plane, plane_axes, source_sigma_mm
from dicomplan.dose.pencil_kernel import PencilKernel
from dicomplan.dose.point_kernels import GY_CM2_PER_MEV_MM
from dicomplan.geometry.frames import BeamFrame
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.geometry.rays import Content, content_of, local_centres, local_path_integral, local_point
from dicomplan.geometry.resample import gaussian_average
from dicomplan.machine.model import MachineModel
from dicomplan.patient.density import DensityVolume

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

LATERAL_SIGMA_MM = 10.0
"""Densities are averaged with this Gaussian where they scale the kernel's width: about the reach of its electrons."""

LATERAL_REACH = 2.0
"""Where that Gaussian ends, in standard deviations."""


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

_WIDE = 4  # components of a layer's maps, as many as a vector instruction takes; those that a layer has not got are 0
_SHARES = 8  # of the voxels in the transposed product: fixed, so that sums do not depend on the threads


@dataclass(frozen=True)
class Medium:
    """What rays see: electron density relative to water and the same averaged laterally, float32 (z, y, x) on a grid.

    ``content`` is the box beyond which that density is the same everywhere.
    """

    grid: VoxelGrid
    electron_relative: Float32Array
    averaged: Float32Array
    content: Content


@dataclass(frozen=True)
class BeamSamples:
    """Points seen by one beam: ``u_mm``, ``v_mm`` (n,) on the isocentre plane, ``weight`` (n, 8) Gy cm2 per photon.

    Weights are those of the kernel's Gaussians: four of the fine layer, three of the coarse one (:data:`LAYERS`), and the
    sum of the first four, with which the coarse layer also carries what is smooth to narrow Gaussians.
    """

    u_mm: Float32Array
    v_mm: Float32Array
    weight: Float32Array


def medium(density: DensityVolume) -> Medium:
    """The medium of a density volume: outside of the grid there is nothing."""
    electron, grid = density.electron_relative, density.grid
    content = content_of(electron)
    averaged = np.full(electron.shape, content.outside, dtype=np.float32)
    # farther from the content than the Gaussian reaches nothing changes
    reach = [int(np.ceil(LATERAL_REACH * LATERAL_SIGMA_MM / step)) for step in grid.spacing_mm]
    bounds = zip(content.first.tolist(), content.last.tolist(), reach, strict=True)
    part = tuple(slice(max(first - more, 0), last + more) for first, last, more in bounds)
    averaged[part] = gaussian_average(electron[part], grid, LATERAL_SIGMA_MM, LATERAL_REACH)
    return Medium(grid, electron, averaged, content)


def beam_samples(frame: BeamFrame, around: Medium, voxels: NDArray[np.int64], kernel: PencilKernel) -> BeamSamples:
    """How one beam sees the voxels (linear indices on the medium's grid): projection, depth, density, inverse square."""
    grid, count, sad = around.grid, len(voxels), frame.source_axis_distance_mm
    points, source = local_centres(grid, voxels), local_point(grid, frame.source_mm)
    depth = local_path_integral(around.electron_relative, grid, around.content, source, points)
    axes = np.stack([local_point(grid, axis) for axis in (frame.x_axis, frame.y_axis, frame.z_axis)])
    u_mm, v_mm, scale, factor = (np.empty(count, dtype=np.float32) for _ in range(4))
    seen_from(
        points,
        around.averaged.ravel(),
        np.ascontiguousarray(voxels, dtype=np.int64),
        source,
        axes,
        sad,
        kernel.softening_per_mm,
        # Gy cm2 per photon are about 1e-12: far above the smallest float32
        GY_CM2_PER_MEV_MM,
        depth,
        u_mm,
        v_mm,
        scale,
        factor,
    )
    return BeamSamples(u_mm, v_mm, _weights(depth, scale, factor, kernel))


def _weights(depth: Float32Array, scale: Float32Array, factor: Float32Array, kernel: PencilKernel) -> Float32Array:
    """(n, 8) weights as :class:`BeamSamples` has them at depths (mm of water) and scales, times ``factor``; each (n,)."""
    table = np.zeros((len(kernel.depth_mm), len(kernel.scale), _WIDE * len(LAYERS)), dtype=np.float32)
    for number, layer in enumerate(LAYERS):
        own = kernel.weight_mev_per_mm[:, :, layer.first : layer.last]
        table[:, :, _WIDE * number : _WIDE * number + own.shape[2]] = own
    table[:, :, -1] = kernel.weight_mev_per_mm[:, :, LAYERS[0].first : LAYERS[0].last].sum(axis=-1)
    weight = np.empty((len(depth), table.shape[2]), dtype=np.float32)
    first, second = np.log(kernel.scale[:2]).tolist()
    depth_weights(depth, scale, factor, table, kernel.depth_mm, first, second - first, weight)
    return weight


def joined_samples(parts: Sequence[BeamSamples]) -> BeamSamples:
    """The points of several as one, in their order."""
    return BeamSamples(
        np.concatenate([part.u_mm for part in parts]),
        np.concatenate([part.v_mm for part in parts]),
        np.concatenate([part.weight for part in parts]),
    )


def blurred_sigma_mm(kernel: PencilKernel, machine: MachineModel) -> FloatArray:
    """(K,) widths (mm) of the kernel's Gaussians with the source's blur added in quadrature."""
    source = source_sigma_mm(machine.beam, machine.source_axis_distance_mm)
    blurred: FloatArray = np.hypot(kernel.sigma_mm, source)
    return blurred


def interval_response(low_mm: FloatArray, high_mm: FloatArray, at_mm: FloatArray, sigma_mm: float) -> FloatArray:
    """(m, n) value at m points of n unit intervals [low, high] convolved with a normalised Gaussian; all mm."""
    from scipy.special import ndtr

    response: FloatArray
    if len(low_mm) and np.array_equal(
        low_mm[1:], high_mm[:-1]
    ):  # side by side: what one ends with, the next begins with
        response = np.diff(ndtr((np.append(low_mm, high_mm[-1])[None, :] - at_mm[:, None]) / sigma_mm), axis=1)
        return response
    upper = (high_mm[None, :] - at_mm[:, None]) / sigma_mm
    lower = (low_mm[None, :] - at_mm[:, None]) / sigma_mm
    response = ndtr(upper) - ndtr(lower)
    return response


def convolved(plane: FluencePlane, sigma_mm: FloatArray, x_mm: FloatArray, y_mm: FloatArray) -> Float32Array:
    """(K, ny, nx) the plane (constant within its pixels) convolved with each Gaussian, at points x, y (mm)."""
    half = 0.5 * plane.step_mm
    maps = np.empty((len(sigma_mm), len(y_mm), len(x_mm)), dtype=np.float32)
    for k, sigma in enumerate(sigma_mm):
        along = interval_response(plane.x_mm - half, plane.x_mm + half, x_mm, float(sigma))
        across = interval_response(plane.y_mm - half, plane.y_mm + half, y_mm, float(sigma))
        maps[k] = across @ plane.values @ along.T
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


def sampled(maps: Sequence[Float32Array], axes: Float32Array, samples: BeamSamples, out: Float32Array) -> None:
    """Add to ``out`` (n,) what the convolved maps (K, ny, nx) of both layers give to the points.

    ``axes`` (2, 3) is what :func:`layer_places` says of each layer.
    """
    wide = []
    for one in maps:
        wide.append(np.empty((*one.shape[1:], _WIDE), dtype=np.float32))
        interleave(one, wide[-1])
    gather(wide[0], wide[1], axes, samples.u_mm, samples.v_mm, samples.weight, out)


def spread(
    gradient: Float32Array, shapes: Sequence[tuple[int, int, int]], axes: Float32Array, samples: BeamSamples
) -> list[Float32Array]:
    """Transpose of :func:`sampled`: what each point of both layers' maps, of ``shapes``, contributes to ``gradient`` (n,)."""
    parts = [np.empty((_SHARES, *shape[1:], _WIDE), dtype=np.float32) for shape in shapes]
    rows = np.empty((_SHARES, len(LAYERS), 2), dtype=np.int64)
    scatter(gradient, axes, samples.u_mm, samples.v_mm, samples.weight, parts[0], parts[1], rows)
    result = []
    for number, shape in enumerate(shapes):
        result.append(np.empty(shape, dtype=np.float32))
        collect(parts[number], np.ascontiguousarray(rows[:, number]), result[-1])
    return result


def layer_places(layer: Layer, x_mm: FloatArray, y_mm: FloatArray) -> Float32Array:
    """(3,) x and y of the first point of a layer's maps (mm), and points per mm."""
    return np.array([x_mm[0], y_mm[0], 1.0 / layer.step_mm], dtype=np.float32)


def pencil_beam_dose(plane: FluencePlane, samples: BeamSamples, sigma_mm: FloatArray) -> Float32Array:
    """Dose (n,) at the sampled points of one beam's fluence plane; Gy cm2 per photon times the plane's unit."""
    half = 0.5 * plane.step_mm
    x_range = (float(plane.x_mm[0]) - half, float(plane.x_mm[-1]) + half)
    y_range = (float(plane.y_mm[0]) - half, float(plane.y_mm[-1]) + half)
    out = np.zeros(len(samples.u_mm), dtype=np.float32)
    maps, axes = [], []
    for layer in LAYERS:
        x_mm, y_mm = layer_axes(layer, samples, x_range, y_range)
        maps.append(convolved(plane, sigma_mm[layer.first : layer.last], x_mm, y_mm))
        axes.append(layer_places(layer, x_mm, y_mm))
    sampled(maps, np.stack(axes), samples, out)
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
    weight = _weights(
        np.array([calibration.depth_mm], dtype=np.float32),
        np.array([distance / sad], dtype=np.float32),
        np.array([GY_CM2_PER_MEV_MM * (sad / distance) ** 2], dtype=np.float32),
        kernel,
    )
    dose = float(maps[:, 0, 0].astype(np.float64) @ weight[0, : len(maps)].astype(np.float64))
    return calibration.dose_per_mu_gy / dose

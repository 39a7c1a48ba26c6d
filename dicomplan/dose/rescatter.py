"""Photons that are scattered more than once: what the surroundings give back or take, beyond what endless water would.

The point kernels are those of endless water. Energy that a photon deposits after its second scatter has gone a way off the
straight line to it; carried along straight cones (:mod:`dicomplan.dose.transport`) it arrives as if there were water
everywhere round the line: too much before the beam leaves the body, at its sides and beside lung. Here those photons are
followed flight by flight on a coarse grid: scattered once, they fly straight, deposit and are scattered where they interact,
and so on, in the order of scattering. What that gives, less the same carried straight on as in endless water, is the change.
In endless water it is nothing, by the way both are made (:mod:`dicomplan.dose.photon_generations`): no parameter is fitted to
dose. Energies are averages over the generation and the direction to the beam's axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.dose.coarse import coarse_grid
from dicomplan.dose.kernel_fit import PolyKernel, mean_angle, rings
from dicomplan.dose.photon_generations import Generations
from dicomplan.dose.terma import Terma
from dicomplan.geometry.frames import BeamFrame

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

DIRECTIONS = 48

_SAMPLES = 4  # places along each side of a direction's cell, that what is scattered into it is averaged over
_GROUPS = 4  # of directions, summed apart: fixed, so that the dose does not depend on the number of threads
_LAYOUT = {0: (2, 0, 1), 1: (1, 0, 2), 2: (0, 1, 2)}  # array axes (march, u, v) for the leading local axis x, y, z


def rescatter(released: Terma, frame: BeamFrame, kernel: PolyKernel, generations: Generations) -> Float32Array:
    """Change of the dose to water (Gy per unit fluence, float32 (z, y, x)) by what is round the straight lines."""
    grid = released.grid
    coarse = coarse_grid(grid)
    change = coarse_change(
        coarse.averaged(released.scatter),
        coarse.averaged(released.electron_relative),
        np.array(coarse.grid.spacing_mm),
        grid.local_from_patient(directions_axes(frame)),
        kernel,
        generations,
    )
    return coarse.interpolated(change)


def directions_axes(frame: BeamFrame) -> FloatArray:
    """(3, 3): patient directions of the cones' x, y and z axes, the last along the beam."""
    return np.array([frame.x_axis, -frame.y_axis, -frame.z_axis])


def coarse_change(
    scatter: Float32Array,
    electron: Float32Array,
    spacing_mm: FloatArray,
    axes: FloatArray,
    kernel: PolyKernel,
    generations: Generations,
) -> Float32Array:
    """The change on a grid (z, y, x) with ``spacing_mm`` (z, y, x); ``axes`` (3, 3): of the beam, in local x, y, z."""
    from dicomplan.dose import _kernels_rescatter as kernels

    table = flight_table(kernel, generations)
    local = table.direction @ axes
    change = np.zeros_like(scatter)
    source = scatter * table.first[:, None, None, None]
    for generation, photons in enumerate(table.photons[:-1]):
        deposit, passed = _fly(source, electron, spacing_mm, local, photons)
        if generation > 0:
            change += deposit
        if generation < len(table.turned):
            flat = (len(local), scatter.size)
            kernels.scattered(
                passed.reshape(flat), electron.ravel(), table.turned[generation], source.reshape(flat)
            )  # fmt: skip
    source = scatter * table.straight[:, None, None, None]
    straight, _ = _fly(source, electron, spacing_mm, local, table.photons[-1])
    return change - straight


@dataclass(frozen=True)
class FlightTable:
    """Directions (n, 3), the third component along the beam, and what flies in them. ``first`` (n,): share of the energy
    released as scatter that sets out at first; ``straight`` (n,): that of what is scattered again, carried straight on.
    ``photons`` (G + 1, n, 3): exponent in cm2/g, share kept, fraction of a second generation on the line; the last of them for
    what is carried straight on. ``turned`` (G - 1, n, n): what photons of the second index hand on to the first.
    """

    direction: FloatArray
    first: Float32Array
    straight: Float32Array
    photons: FloatArray
    turned: Float32Array


def flight_table(kernel: PolyKernel, generations: Generations) -> FlightTable:
    """The generations in the discrete directions: cells of rings about the beam and sectors, alike in what they carry."""
    straight_on = generations.again / generations.again.sum()
    layout = replace(kernel, primary=straight_on, scatter=straight_on)
    edges, sectors = rings(layout, DIRECTIONS)
    fine, ring = np.cos(kernel.edges_rad), np.cos(edges)
    # (rings, cones): how much of a cone's solid angle lies in a ring
    inside = np.minimum(fine[None, :-1], ring[:-1, None]) - np.maximum(fine[None, 1:], ring[1:, None])
    part = np.maximum(inside, 0.0) / (fine[:-1] - fine[1:])
    count = np.array(sectors)
    cell = np.repeat(np.arange(len(sectors)), count)
    nothing = np.zeros_like(generations.again)
    photons = []
    for energy, exponent, kept, second in (
        *((e, x, k, nothing) for e, x, k in zip(generations.carried, generations.exponent_cm2_g, generations.kept, strict=True)),
        (generations.again, generations.again_exponent_cm2_g, np.ones_like(nothing), generations.again_second),
    ):  # fmt: skip
        path, left, again = ((part @ (energy * one)) / (part @ energy) for one in (1.0 / exponent, kept, second))
        photons.append(np.column_stack([1.0 / path, left, again])[cell])
    directions, samples = [], []
    for k, sectors_here in enumerate(sectors):
        middle = mean_angle(layout, edges[k], edges[k + 1])
        azimuth = 2.0 * np.pi * (np.arange(sectors_here) / sectors_here + 0.381966 * k + 0.05)
        directions.append(_unit(np.full(sectors_here, np.cos(middle)), azimuth))
        # places that stand for the cell: evenly in its solid angle
        share = (np.arange(_SAMPLES) + 0.5) / _SAMPLES
        cosine = ring[k] + share * (ring[k + 1] - ring[k])
        around = azimuth[:, None] + 2.0 * np.pi * (share - 0.5) / sectors_here
        places = np.broadcast_arrays(cosine[None, :, None], around[:, None, :])
        samples.append(_unit(*places).reshape(sectors_here, -1, 3))
    direction, into = np.concatenate(directions), np.concatenate(samples)
    size = ((ring[:-1] - ring[1:]) / count)[cell]
    angle = np.arccos(np.clip(np.einsum("dsx,ox->dso", into, direction), -1.0, 1.0))
    bin_ = np.clip(np.searchsorted(kernel.edges_rad, angle) - 1, 0, len(fine) - 2)
    turned = []
    for energy, parts in zip(generations.carried, generations.turned, strict=False):
        density = (part @ (energy[:, None] * parts)) / (fine[:-1] - fine[1:])  # of each ring's photons
        matrix = density[cell[None, None, :], bin_].mean(axis=1) * size[:, None]
        turned.append(matrix / matrix.sum(axis=0))
    first, straight = ((part @ energy / count)[cell] for energy in (generations.carried[0], generations.again))
    return FlightTable(
        direction,
        first.astype(np.float32),
        straight.astype(np.float32),
        np.array(photons),
        np.array(turned, dtype=np.float32),
    )


def _unit(cosine: FloatArray, azimuth: FloatArray) -> FloatArray:
    sine = np.sqrt(np.maximum(1.0 - cosine**2, 0.0))
    value: FloatArray = np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), cosine], axis=-1)
    return value


def _fly(
    source: Float32Array, electron: Float32Array, spacing_mm: FloatArray, local: FloatArray, photons: FloatArray
) -> tuple[Float32Array, Float32Array]:
    """Energy per electron density that one generation deposits (z, y, x), and hands on from each direction (n, z, y, x);
    ``source`` (n, z, y, x) sets out in the directions ``local`` (n, 3)."""
    from dicomplan.dose import _kernels_rescatter as kernels

    leading = np.argmax(np.abs(local), axis=1)
    deposit, passed = np.zeros_like(electron), np.empty_like(source)
    for axis in range(3):
        chosen = np.flatnonzero(leading == axis)
        if not chosen.size:
            continue
        layout = _LAYOUT[axis]
        each = (0, *(1 + k for k in layout))
        margin = ((0, 0), (1, 1), (1, 1))
        density = np.pad(np.transpose(electron, layout), margin)
        own = np.pad(np.transpose(source[chosen], each), ((0, 0), *margin))
        march, u, v = (2 - k for k in layout)
        spacing = spacing_mm[::-1]
        along = local[chosen] / spacing
        forward = np.abs(along[:, march])
        slopes = np.column_stack([along[:, march], along[:, u] / forward, along[:, v] / forward])
        steps_cm = 0.1 * spacing[march] / np.abs(local[chosen, march])
        sums = np.zeros((min(_GROUPS, chosen.size), *density.shape), dtype=np.float32)
        onward = np.zeros_like(own)
        kernels.flights(own, density, sums, onward, slopes, steps_cm, np.ascontiguousarray(photons[chosen]))
        for group in sums:
            deposit += np.transpose(group[:, 1:-1, 1:-1], np.argsort(layout))
        passed[chosen] = np.transpose(onward[:, :, 1:-1, 1:-1], np.argsort(each))
    return deposit, passed

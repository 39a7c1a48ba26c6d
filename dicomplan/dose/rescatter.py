"""Photons that are scattered more than once: what the surroundings give back or take, beyond what endless water would.

The point kernels are those of endless water. Energy that a photon deposits after its second scatter has gone a way off the
straight line to it; carried along straight cones (:mod:`dicomplan.dose.transport`) it arrives as if there were water
everywhere round the line: too much before the beam leaves the body, at its sides and beside lung. Here those photons are
followed flight by flight on a coarse grid: scattered once, they fly straight, deposit and are scattered where they interact,
and so on, in the order of scattering. What that gives, less the same carried straight on as in endless water, is the change.
In endless water it is nothing, by the way both are made (:mod:`dicomplan.dose.photon_generations`): no parameter is fitted to
dose. The directions of a generation are those that it has about the beam's axis on average.
"""

from __future__ import annotations

from dataclasses import replace

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
    direction, rows = flight_table(kernel, generations)
    local = direction @ axes
    source, change = scatter, np.zeros_like(scatter)
    for generation, photons in enumerate(rows[:-1]):
        deposit, passed = _fly(source, electron, spacing_mm, local, photons)
        if generation > 0:
            change += deposit
        source = passed * electron
    straight, _ = _fly(scatter, electron, spacing_mm, local, rows[-1])
    return change - straight


def flight_table(kernel: PolyKernel, generations: Generations) -> tuple[FloatArray, FloatArray]:
    """Directions (n, 3), the third component along the beam, and for each generation, and for all from the second on
    carried straight on, (G + 1, n, 4): share, exponent, share kept, fraction of a second generation on the line."""
    straight_on = generations.again / generations.again.sum()
    layout = replace(kernel, primary=straight_on, scatter=straight_on)
    edges, sectors = rings(layout, DIRECTIONS)
    fine = np.cos(kernel.edges_rad)
    ring = np.cos(edges)
    # (rings, cones): how much of a cone's solid angle lies in a ring
    inside = np.minimum(fine[None, :-1], ring[:-1, None]) - np.maximum(fine[None, 1:], ring[1:, None])
    part = np.maximum(inside, 0.0) / (fine[:-1] - fine[1:])
    directions, tables = [], []
    carried = [*generations.carried, generations.again]
    exponents = [*generations.exponent_cm2_g, generations.again_exponent_cm2_g]
    whole = np.ones_like(generations.again)
    kept = [*generations.kept, whole]
    again = [*np.zeros_like(generations.carried), generations.again_second]
    for energy, exponent, left, second in zip(carried, exponents, kept, again, strict=True):
        # what a generation's photons carry is what the one before has handed on: shares of that
        total = energy.sum()
        share = part @ energy
        means = [(part @ (energy * one)) / share for one in (1.0 / exponent, left, second)]
        tables.append((share / total, 1.0 / means[0], means[1], means[2]))
    shares = np.array(tables)  # (G + 1, 4, rings)
    shares[0, 0] *= generations.carried[0].sum()
    shares[-1, 0] *= generations.again.sum()
    rows = []
    for k, count in enumerate(sectors):
        middle = mean_angle(layout, edges[k], edges[k + 1])
        azimuth = 2.0 * np.pi * (np.arange(count) / count + 0.381966 * k + 0.05)
        for one in azimuth:
            directions.append([np.sin(middle) * np.cos(one), np.sin(middle) * np.sin(one), np.cos(middle)])
            row = shares[:, :, k].copy()
            row[:, 0] /= count
            rows.append(row)
    return np.array(directions), np.ascontiguousarray(np.transpose(np.array(rows), (1, 0, 2)))


def _fly(
    released: Float32Array, electron: Float32Array, spacing_mm: FloatArray, local: FloatArray, photons: FloatArray
) -> tuple[Float32Array, Float32Array]:
    """Energy per electron density that one generation deposits and hands on, (z, y, x)."""
    from dicomplan.dose import _kernels_rescatter as kernels

    leading = np.argmax(np.abs(local), axis=1)
    found = np.zeros((2, *released.shape), dtype=np.float32)
    for axis in range(3):
        chosen = np.flatnonzero(leading == axis)
        if not chosen.size:
            continue
        layout = _LAYOUT[axis]
        margin = ((0, 0), (1, 1), (1, 1))
        source, density = (np.pad(np.transpose(volume, layout), margin) for volume in (released, electron))
        march, u, v = (2 - k for k in layout)
        spacing = spacing_mm[::-1]
        along = local[chosen] / spacing
        forward = np.abs(along[:, march])
        slopes = np.column_stack([along[:, march], along[:, u] / forward, along[:, v] / forward])
        steps_cm = 0.1 * spacing[march] / np.abs(local[chosen, march])
        sums = np.zeros((2, min(_GROUPS, chosen.size), *source.shape), dtype=np.float32)
        kernels.flights(source, density, sums[0], sums[1], slopes, steps_cm, np.ascontiguousarray(photons[chosen]))
        back = np.argsort(layout)
        for k in range(2):
            for group in sums[k]:
                found[k] += np.transpose(group[:, 1:-1, 1:-1], back)
    return found[0], found[1]

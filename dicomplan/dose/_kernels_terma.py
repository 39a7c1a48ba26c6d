"""Numba kernels of the energy released by primary photons: exact ray tracing and the mean fluence of each voxel."""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]

_THIN = np.float32(1e-6)  # electron density of no medium
_DENSE = np.float32(1.7)  # of cortical bone: metal counts no more, or thin foils would empty the voxels behind them


@kernel()
def _integral(cumulative: FloatArray, x: float, y: float) -> float:
    """Integral of a piecewise constant plane up to (x, y) in pixels: bilinear in its cumulative sums, held outside."""
    rows, columns = cumulative.shape
    x = min(max(x, 0.0), columns - 1.0)
    y = min(max(y, 0.0), rows - 1.0)
    i, j = min(int(x), columns - 2), min(int(y), rows - 2)
    fx, fy = x - i, y - j
    near = cumulative[j, i] + fx * (cumulative[j, i + 1] - cumulative[j, i])
    far = cumulative[j + 1, i] + fx * (cumulative[j + 1, i + 1] - cumulative[j + 1, i])
    value: float = near + fy * (far - near)
    return value


@kernel()
def _box_mean(cumulative: FloatArray, x: float, y: float, half_x: float, half_y: float) -> float:
    """Mean of the plane over the box x +- half_x, y +- half_y in pixels."""
    x1, x2, y1, y2 = x - half_x, x + half_x, y - half_y, y + half_y
    total = _integral(cumulative, x2, y2) - _integral(cumulative, x1, y2)
    total += _integral(cumulative, x1, y1) - _integral(cumulative, x2, y1)
    return total / (4.0 * half_x * half_y)


@kernel()
def _first_voxel(
    enter: float, source: float, delta: float, start: float, step: float, count: int
) -> tuple[int, int, float, float]:
    """Along one axis: index where the ray enters, step of the index, parameter of the next wall and between walls."""
    place = (source + enter * delta - start) / step
    index = min(max(int(np.floor(place)), 0), count - 1)
    if delta > 0.0:
        return index, 1, (start + (index + 1) * step - source) / delta, step / delta
    if delta < 0.0:
        return index, -1, (start + index * step - source) / delta, -step / delta
    return index, 0, np.inf, np.inf


@kernel()
def _trace(
    mass: Float32Array,
    electron: Float32Array,
    start: FloatArray,
    step: FloatArray,
    source: FloatArray,
    target: FloatArray,
    knots: FloatArray,
    excess: FloatArray,
    paths: FloatArray,
) -> None:
    """Radiological paths from ``source`` to ``target`` (local x, y, z, mm): exact lengths in each voxel (Siddon 1985).

    ``start`` is the outer corner of voxel [0, 0, 0], ``step`` the voxel size (x, y, z). paths[0] is the path weighted
    by electron density, paths[1 + k] by mass density times the fraction of material k (piecewise linear in density
    over ``knots``, ``excess`` (k, knots)); g/cm2.
    """
    shape = (mass.shape[2], mass.shape[1], mass.shape[0])
    paths[:] = 0.0
    delta = target - source
    length = np.sqrt(delta[0] ** 2 + delta[1] ** 2 + delta[2] ** 2)
    enter, leave = 0.0, 1.0
    for axis in range(3):
        low, high = start[axis], start[axis] + step[axis] * shape[axis]
        if delta[axis] == 0.0:
            if source[axis] < low or source[axis] >= high:
                return
        else:
            a, b = (low - source[axis]) / delta[axis], (high - source[axis]) / delta[axis]
            enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
    if leave <= enter:
        return
    x, x_move, x_next, x_between = _first_voxel(enter, source[0], delta[0], start[0], step[0], shape[0])
    y, y_move, y_next, y_between = _first_voxel(enter, source[1], delta[1], start[1], step[1], shape[1])
    z, z_move, z_next, z_between = _first_voxel(enter, source[2], delta[2], start[2], step[2], shape[2])
    here = enter
    while here < leave:
        there = min(x_next, y_next, z_next, leave)
        part = max(there - here, 0.0) * length * 0.1
        density = mass[z, y, x]
        paths[0] += part * electron[z, y, x]
        if density > knots[0]:
            k = 1
            while k < knots.shape[0] - 1 and density > knots[k]:
                k += 1
            share = min((density - knots[k - 1]) / (knots[k] - knots[k - 1]), 1.0)
            for material in range(excess.shape[0]):
                fraction = excess[material, k - 1] + share * (excess[material, k] - excess[material, k - 1])
                paths[1 + material] += part * density * fraction
        here = there
        if x_next <= there:
            x += x_move
            x_next += x_between
        if y_next <= there:
            y += y_move
            y_next += y_between
        if z_next <= there:
            z += z_move
            z_next += z_between
        if x < 0 or y < 0 or z < 0 or x >= shape[0] or y >= shape[1] or z >= shape[2]:
            break


@kernel(parallel=True)
def terma(
    mass: Float32Array,
    electron: Float32Array,
    start: FloatArray,
    step: FloatArray,
    source: FloatArray,
    axes: FloatArray,
    distance: float,
    cumulative: FloatArray,
    plane_origin: FloatArray,
    plane_step: FloatArray,
    open_range: FloatArray,
    knots: FloatArray,
    excess: FloatArray,
    depth_step: float,
    tables: FloatArray,
    energies: FloatArray,
    softening: float,
    primary: Float32Array,
    scatter: Float32Array,
    kept: Float32Array,
    depth: Float32Array,
) -> None:
    """Energy released per volume (Gy g/cm3 per unit fluence) into ``primary`` and ``scatter``, float32 (z, y, x); what
    metal absorbs beyond its electrons into ``kept``, the water-equivalent path in mm where it was traced into ``depth`` (both: no
    voxels, not wanted).

    ``axes`` (3, 3): x, y, z axis of the beam limiting device in local coordinates. ``tables`` (rows, depths) over the
    water-equivalent path: primary, scatter, their extra release per fraction of bone (2 rows), log attenuation
    per g/cm2 of bone (1 row). ``energies`` (3 + materials, bins): photons x energy x Gy per MeV/g, primary
    fraction, attenuation of water, and of each material beyond its electrons. ``softening`` (per mm): paths count
    1 + softening x radius in the isocentre plane times.
    """
    nz, ny, nx = mass.shape
    materials = excess.shape[0]
    width_x = np.sqrt((axes[0, 0] * step[0]) ** 2 + (axes[0, 1] * step[1]) ** 2 + (axes[0, 2] * step[2]) ** 2)
    width_y = np.sqrt((axes[1, 0] * step[0]) ** 2 + (axes[1, 1] * step[1]) ** 2 + (axes[1, 2] * step[2]) ** 2)
    last = tables.shape[1] - 2
    for z in prange(nz):
        paths = np.empty(1 + materials)
        local = np.empty(materials)
        target = np.empty(3)
        for y in range(ny):
            for x in range(nx):
                target[0] = start[0] + (x + 0.5) * step[0]
                target[1] = start[1] + (y + 0.5) * step[1]
                target[2] = start[2] + (z + 0.5) * step[2]
                r0, r1, r2 = target[0] - source[0], target[1] - source[1], target[2] - source[2]
                along = -(r0 * axes[2, 0] + r1 * axes[2, 1] + r2 * axes[2, 2])
                if along <= 0.0:
                    continue
                scale = distance / along
                px = (r0 * axes[0, 0] + r1 * axes[0, 1] + r2 * axes[0, 2]) * scale
                py = (r0 * axes[1, 0] + r1 * axes[1, 1] + r2 * axes[1, 2]) * scale
                half_x, half_y = 0.5 * width_x * scale, 0.5 * width_y * scale
                if (
                    px + half_x <= open_range[0]
                    or px - half_x >= open_range[1]
                    or py + half_y <= open_range[2]
                    or py - half_y >= open_range[3]
                ):
                    continue
                cx, cy = (px - plane_origin[0]) / plane_step[0], (py - plane_origin[1]) / plane_step[1]
                hx, hy = half_x / plane_step[0], half_y / plane_step[1]
                opening = _box_mean(cumulative, cx, cy, hx, hy)
                if opening == 0.0:
                    continue
                _trace(mass, electron, start, step, source, target, knots, excess, paths)
                if depth.size > 0:
                    depth[z, y, x] = 10.0 * paths[0]
                if softening != 0.0:
                    paths *= 1.0 + softening * np.sqrt(px * px + py * py)
                fluence = opening * distance**2 / (r0 * r0 + r1 * r1 + r2 * r2)
                density = mass[z, y, x]
                dense = electron[z, y, x]
                local[:] = 0.0
                if density > knots[0]:
                    k = 1
                    while k < knots.shape[0] - 1 and density > knots[k]:
                        k += 1
                    share = min((density - knots[k - 1]) / (knots[k] - knots[k - 1]), 1.0)
                    for material in range(materials):
                        local[material] = density * (
                            excess[material, k - 1] + share * (excess[material, k] - excess[material, k - 1])
                        )
                metal = False
                for material in range(1, materials):
                    metal = metal or paths[1 + material] > 0.0 or local[material] > 0.0
                if metal:
                    total_p, total_s, stays = 0.0, 0.0, 0.0
                    for e in range(energies.shape[1]):
                        exponent = energies[2, e] * paths[0]
                        coefficient = energies[2, e] * dense + energies[3, e] * local[0]
                        beyond = 0.0
                        for material in range(materials):
                            exponent += energies[3 + material, e] * paths[1 + material]
                            if material > 0:
                                beyond += energies[3 + material, e] * local[material]
                        arriving = energies[0, e] * np.exp(-exponent)
                        total_p += arriving * coefficient * energies[1, e]
                        total_s += arriving * coefficient * (1.0 - energies[1, e])
                        stays += arriving * beyond
                    if kept.size > 0:
                        kept[z, y, x] = fluence * stays
                else:
                    place = paths[0] / depth_step
                    i = min(int(place), last)
                    f = place - i
                    bone = np.exp(-paths[1] * (tables[4, i] + f * (tables[4, i + 1] - tables[4, i])))
                    total_p = dense * (tables[0, i] + f * (tables[0, i + 1] - tables[0, i]))
                    total_s = dense * (tables[1, i] + f * (tables[1, i + 1] - tables[1, i]))
                    total_p += local[0] * (tables[2, i] + f * (tables[2, i + 1] - tables[2, i]))
                    total_s += local[0] * (tables[3, i] + f * (tables[3, i + 1] - tables[3, i]))
                    total_p *= bone
                    total_s *= bone
                primary[z, y, x] = fluence * total_p
                scatter[z, y, x] = fluence * total_s


@kernel()
def _passed(released: Float32Array, electron: Float32Array, z: int, y: int, x: int, k: int, j: int, i: int) -> float:
    """Difference of the energy released per electron between a voxel and another, times their mean density;
    0 beyond the grid."""
    planes, rows, columns = released.shape
    if k < 0 or k >= planes or j < 0 or j >= rows or i < 0 or i >= columns:
        return 0.0
    own, other = max(electron[z, y, x], _THIN), max(electron[k, j, i], _THIN)
    mean = 0.5 * (min(own, _DENSE) + min(other, _DENSE))
    value: float = mean * (released[z, y, x] / own - released[k, j, i] / other)
    return value


@kernel(parallel=True)
def sharpen(
    released: Float32Array,
    electron: Float32Array,
    shares: FloatArray,
    out: Float32Array,
) -> None:
    """Energy released (z, y, x) with steeper edges, into ``out``; the sum stays.

    Each voxel takes from those that are k + 1 away along the three axes ``shares[k]`` times the difference of the energy per
    electron, times the mean of the two densities (metal's counted as bone's). Nothing passes the grid's outside.
    """
    planes, rows, columns = released.shape
    for z in prange(planes):
        for y in range(rows):
            for x in range(columns):
                total = float(released[z, y, x])
                for k in range(shares.shape[0]):
                    away, weight = k + 1, shares[k]
                    passed = _passed(released, electron, z, y, x, z - away, y, x)
                    passed += _passed(released, electron, z, y, x, z + away, y, x)
                    passed += _passed(released, electron, z, y, x, z, y - away, x)
                    passed += _passed(released, electron, z, y, x, z, y + away, x)
                    passed += _passed(released, electron, z, y, x, z, y, x - away)
                    passed += _passed(released, electron, z, y, x, z, y, x + away)
                    total += weight * passed
                out[z, y, x] = total

"""Slow, obviously right versions of the collapsed-cone and TERMA kernels, straight from the equations."""

import math

import numpy as np


def linear_weights(share):
    """Two neighbours, offsets 0 and 1."""
    return {0: 1.0 - share, 1: share}


def sample(plane, u, v):
    """Value of a plane (u, v) at a fractional place; nothing outside of it."""
    whole_u, whole_v = math.floor(u), math.floor(v)
    total = 0.0
    for du, wu in linear_weights(u - whole_u).items():
        for dv, wv in linear_weights(v - whole_v).items():
            if 0 <= whole_u + du < plane.shape[0] and 0 <= whole_v + dv < plane.shape[1]:
                total += wu * wv * float(plane[whole_u + du, whole_v + dv])
    return total


def march(primary, scatter, density, origin, step_m, step_u, step_v, direction, table, step_cm, denser, stopping):
    """Dose of one direction: each line of the lattice on its own, plane by plane, in double precision."""
    planes, rows, width = density.shape
    dose = np.zeros(density.shape)
    slope_u, slope_v = direction[1] / abs(direction[0]), direction[2] / abs(direction[0])
    for line_u in range(-planes - 2, rows + planes + 2):
        for line_v in range(-planes - 2, width + planes + 2):
            first = second = third = 0.0
            for count in range(planes):
                m = count if direction[0] > 0 else planes - 1 - count
                u, v = line_u + slope_u * count, line_v + slope_v * count
                if not (-1 <= math.floor(u) < rows and -1 <= math.floor(v) < width):
                    continue
                point = origin + m * step_m + u * step_u + v * step_v
                cosine = float(point @ direction[3:]) / float(np.linalg.norm(point))
                a, p, b, again, s = (row @ [1.0, cosine, cosine**2] for row in table)
                thick = max(sample(density[m], u, v), 1e-6) * step_cm
                release_p = sample(primary[m], u, v) * p * step_cm
                release_s = sample(scatter[m], u, v) * s * step_cm
                # within the voxel: F' = q - a rho F; the second generation is fed with what the first loses
                above = max(thick / step_cm - denser[0], 0.0)
                slower = 1.0 + denser[1] * above / (1.0 + denser[2] * above)
                slower *= 1.0 + min(denser[3] * max(1.0 - thick / step_cm, 0.0), denser[4])
                slower *= max(sample(stopping[m], u, v), 1e-6) / (thick / step_cm)
                x = a * slower * thick
                after = first * math.exp(-x) + release_p * (1.0 - math.exp(-x)) / x
                deposited = first + release_p - after
                first = after
                x = b * thick
                gone = math.exp(-x)
                after = second * gone + release_s * (1.0 - gone) / x
                lost = second + release_s - after
                fed = second * x * gone + release_s * (1.0 - gone - x * gone) / x
                later = third * gone + again * fed
                deposited += (1.0 - again) * lost + (third + again * lost - later)
                second, third = after, later
                for du, wu in linear_weights(u - math.floor(u)).items():
                    for dv, wv in linear_weights(v - math.floor(v)).items():
                        i, j = math.floor(u) + du, math.floor(v) + dv
                        if 0 <= i < rows and 0 <= j < width:
                            dose[m, i, j] += wu * wv * deposited / thick
    return dose


def path_length(density, start, step, source, target, samples=200_000):
    """Line integral (mm x density) by many equal steps; ``start`` the corner, ``step`` the voxel size (x, y, z)."""
    share = (np.arange(samples) + 0.5) / samples
    points = source + share[:, None] * (target - source)
    index = np.floor((points - start) / step).astype(int)
    inside = ((index >= 0) & (index < density.shape[::-1])).all(axis=1)
    picked = density[index[inside, 2], index[inside, 1], index[inside, 0]].astype(float)
    return float(picked.sum() / samples * np.linalg.norm(target - source))


def sharpened(released, electron, shares):
    """Energy (z, y, x) that steepens the differences per electron: pair by pair, what one voxel takes the other gives.

    In proportion to the mean of the two densities, metal's counted as bone's.
    """
    out = released.astype(np.float64)
    for away, weight in enumerate(shares, start=1):
        for axis in range(3):
            for index in np.ndindex(released.shape):
                other = list(index)
                other[axis] += away
                if other[axis] >= released.shape[axis]:
                    continue
                other = tuple(other)
                density = 0.5 * (min(float(electron[index]), 1.7) + min(float(electron[other]), 1.7))
                moved = float(released[index]) / float(electron[index]) - float(released[other]) / float(
                    electron[other]
                )
                out[index] += weight * density * moved
                out[other] -= weight * density * moved
    return out

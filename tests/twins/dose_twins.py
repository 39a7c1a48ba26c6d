"""Slow, obviously right versions of the kernels of ray tracing and of the pencil beam."""

from itertools import pairwise

import numpy as np


def path_integral(volume, low, spacing, source, point):
    """Integral of a piecewise constant volume (z, y, x) from ``source`` to ``point`` (z, y, x; mm).

    The line is cut at every plane between voxels; each piece counts with the voxel at its middle.
    """
    volume, shape = np.asarray(volume, dtype=np.float64), np.array(np.shape(volume))
    delta = point - source
    cuts = [0.0, 1.0]
    for axis in range(3):
        if delta[axis] != 0.0:
            planes = low[axis] + spacing[axis] * np.arange(shape[axis] + 1)
            cuts += [t for t in (planes - source[axis]) / delta[axis] if 0.0 < t < 1.0]
    cuts = np.sort(cuts)
    total = 0.0
    for first, last in pairwise(cuts):
        index = np.floor((source + 0.5 * (first + last) * delta - low) / spacing).astype(int)
        if (index >= 0).all() and (index < shape).all():
            total += (last - first) * volume[tuple(index)]
    return total * np.linalg.norm(delta)


def depth_weight(depth, scale, table, depths, scales):
    """(K,) value of ``table`` (D, M, K), linear in depth and in the logarithm of the scale, held beyond its ends."""
    result = []
    for k in range(table.shape[2]):
        at_depth = [np.interp(depth, depths, table[:, j, k]) for j in range(len(scales))]
        result.append(np.interp(np.log(scale), np.log(scales), at_depth))
    return np.array(result)


def corners(u, v, shape):
    """(row, column, share) of the four pixels round a fractional index (u along x, v along y); none beyond the centres."""
    ny, nx = shape
    if not (0.0 <= u <= nx - 1 and 0.0 <= v <= ny - 1):
        return []
    rows = {int(np.floor(v)): 1.0 - v % 1.0, int(np.floor(v)) + 1: v % 1.0}
    columns = {int(np.floor(u)): 1.0 - u % 1.0, int(np.floor(u)) + 1: u % 1.0}
    return [(j, i, a * b) for j, a in rows.items() for i, b in columns.items() if a * b > 0.0]


def gather(maps, u, v, weight, first):
    """(n,) sum over the components of weight x bilinear sample of ``maps`` (ny, nx, K)."""
    dose = np.zeros(len(u))
    for n in range(len(u)):
        for j, i, share in corners(float(u[n]), float(v[n]), maps.shape[:2]):
            for k in range(maps.shape[2]):
                dose[n] += float(weight[n, first + k]) * share * float(maps[j, i, k])
    return dose


def scatter(gradient, u, v, weight, first, shape):
    """(ny, nx, K) transpose of :func:`gather`."""
    result = np.zeros(shape)
    for n in range(len(u)):
        for j, i, share in corners(float(u[n]), float(v[n]), shape[:2]):
            for k in range(shape[2]):
                result[j, i, k] += float(weight[n, first + k]) * share * float(gradient[n])
    return result


def blurred(fluence, x_mm, y_mm, u, v, sigma):
    """Fluence (ny, nx; constant within its pixels) under a Gaussian about (u, v), by a sum over small cells."""
    pixel = x_mm[1] - x_mm[0]
    cells = max(1, int(np.ceil(pixel / min(0.25, sigma / 10.0))))
    offset = ((np.arange(cells) + 0.5) / cells - 0.5) * pixel
    x, y = (x_mm[:, None] + offset).ravel(), (y_mm[:, None] + offset).ravel()
    fine = np.repeat(np.repeat(fluence, cells, axis=0), cells, axis=1)
    gauss = np.exp(-0.5 * (((x[None, :] - u) ** 2 + (y[:, None] - v) ** 2) / sigma**2)) / (2.0 * np.pi * sigma**2)
    return float((fine * gauss).sum() * (pixel / cells) ** 2)


def pencil_beam_point(fluence, x_mm, y_mm, place, kernel, sigma, gy_cm2_per_mev_mm):
    """Dose at one point: (SAD / r)^2 x sum over k of A_k x (fluence (*) G_k)(u, v).

    ``place``: u and v (mm at isocentre), depth (mm of water), distance from the source, source-axis distance (mm) and
    density relative to water about the point.
    """
    u, v, depth, distance, sad, density = place
    scale = distance / sad * density
    weight = depth_weight(depth, scale, kernel.weight_mev_per_mm, kernel.depth_mm, kernel.scale)
    total = sum(amount * blurred(fluence, x_mm, y_mm, u, v, width) for amount, width in zip(weight, sigma, strict=True))
    return gy_cm2_per_mev_mm * (sad / distance) ** 2 * total


def seen_from(point, source, axes, sad, softening, gy, density):
    """Projection, factor on the depth, scale and factor of a point that a source sees."""
    relative = point - source
    along = -float(relative @ axes[2])
    u, v = (float(relative @ axis) * sad / along for axis in axes[:2])
    distance = float(np.linalg.norm(relative))
    return u, v, 1.0 + softening * np.hypot(u, v), distance / sad * density, gy * (sad / distance) ** 2

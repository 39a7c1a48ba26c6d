"""Slow, obviously right versions of the kernels of ``dicomplan.geometry``."""

from itertools import pairwise

import numpy as np


def inside(polygons, x, y):
    """Even-odd rule at one point: the number of edges that a ray towards +x crosses is odd."""
    odd = False
    for polygon in polygons:
        for (ax, ay), (bx, by) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
                odd = not odd
    return odd


def coverage_by_points(polygons, shape, points):
    """Coverage of unit pixels by the share of ``points`` x ``points`` sample points that are inside."""
    out = np.zeros(shape)
    for row, column in np.ndindex(*shape):
        for j in range(points):
            for i in range(points):
                out[row, column] += inside(polygons, column + (i + 0.5) / points, row + (j + 0.5) / points)
    return out / points**2


def box_average(volume, low, step, edges):
    """Average along the first axis over cells between ``edges`` of a piecewise constant ``volume``, 0 outside."""
    out = []
    for first, last in pairwise(edges):
        total = np.zeros(volume.shape[1:])
        for i, value in enumerate(volume):
            overlap = min(last, low + step * (i + 1)) - max(first, low + step * i)
            total += max(overlap, 0.0) * value
        out.append(total / (last - first))
    return np.array(out)


def trilinear(volume, index):
    """Trilinear value at a fractional index (z, y, x), held in the outer half voxel, 0 outside."""
    shape = np.array(volume.shape)
    if (index < -0.5).any() or (index > shape - 0.5).any():
        return 0.0
    index = np.clip(index, 0, shape - 1)
    total = 0.0
    for corner in np.ndindex(2, 2, 2):
        place = np.minimum(np.floor(index).astype(int) + corner, shape - 1)
        part = index - np.floor(index)
        total += np.prod(np.where(corner, part, 1 - part)) * float(volume[tuple(place)])
    return total


def cut_cube(value, a, b, c, points=60):
    """Share of a unit cube where ``value + a u + b v + c w >= 0``, by sample points."""
    u = (np.arange(points) + 0.5) / points - 0.5
    field = value + a * u[:, None, None] + b * u[None, :, None] + c * u[None, None, :]
    return float((field >= 0).mean())


def distance_to_level(values, level, hy, hx, reach):
    """Signed distance of each node to densely sampled points of the lines of marching squares, cut at ``reach``."""
    rows, columns = values.shape
    points = []
    for row in range(rows - 1):
        for column in range(columns - 1):
            corners = [(row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column)]
            cuts = []
            for (ay, ax), (by, bx) in zip(corners, corners[1:] + corners[:1], strict=True):
                a, b = values[ay, ax], values[by, bx]
                if (a >= level) != (b >= level):
                    t = (level - a) / (b - a)
                    cuts.append(np.array([(ay + t * (by - ay)) * hy, (ax + t * (bx - ax)) * hx]))
            if len(cuts) == 2:
                points.extend(cuts[0] + s * (cuts[1] - cuts[0]) for s in np.linspace(0, 1, 41))
    out = np.full(values.shape, float(reach))
    for row, column in np.ndindex(*values.shape):
        for point in points:
            out[row, column] = min(out[row, column], float(np.hypot(*(point - (row * hy, column * hx)))))
    return np.where(values >= level, out, -out)


def ball_grown(inside_points, node, low, high):
    """Least gauge from any of the ``inside_points`` (n, 3) to the ``node``: the definition of an ellipsoidal margin."""
    offset = np.asarray(node) - inside_points
    half = np.where(offset > 0, high, low)
    return float(np.sqrt(((offset / half) ** 2).sum(axis=1)).min())


def gaussian_average(volume, sigma, truncated):
    """Mean under a Gaussian of ``sigma`` (z, y, x) voxels that ends at ``truncated`` of them; the outermost voxels go on."""
    reach = [int(truncated * one + 0.5) for one in sigma]
    out = np.zeros(volume.shape)
    for voxel in np.ndindex(*volume.shape):
        total = 0.0
        for offset in np.ndindex(*(2 * one + 1 for one in reach)):
            away = np.array(offset) - reach
            weight = np.exp(-0.5 * np.sum((away / sigma) ** 2))
            total += weight
            out[voxel] += weight * volume[tuple(np.clip(np.array(voxel) + away, 0, np.array(volume.shape) - 1))]
        out[voxel] /= total
    return out

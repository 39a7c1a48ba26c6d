"""Slow, obviously right versions of the kernels of ``dicomplan.metrics``."""

import math

import numpy as np


def trilinear(dose, z, y, x):
    """Dose at a fractional index: held in the outer half voxel, None outside."""
    index = np.array([z, y, x], dtype=float)
    shape = np.array(dose.shape)
    if (index < -0.5).any() or (index > shape - 0.5).any():
        return None
    index = np.clip(index, 0, shape - 1)
    total = 0.0
    for corner in np.ndindex(2, 2, 2):
        place = np.minimum(np.floor(index).astype(int) + np.array(corner), shape - 1)
        part = index - np.floor(index)
        weight = np.prod(np.where(np.array(corner) == 1, part, 1 - part))
        total += weight * float(dose[tuple(place)])
    return total


def clip_polygon(polygon, normal, limit):
    """Part of a convex polygon (n, 2) where normal . p <= limit (Sutherland and Hodgman 1974)."""
    out = []
    for first, second in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        a, b = np.dot(normal, first) - limit, np.dot(normal, second) - limit
        if a <= 0:
            out.append(first)
        if (a < 0 < b) or (b < 0 < a):
            t = a / (a - b)
            out.append((first[0] + t * (second[0] - first[0]), first[1] + t * (second[1] - first[1])))
    return out


def area_and_centroid(polygon):
    """Shoelace area and centroid of a polygon."""
    if len(polygon) < 3:
        return 0.0, (0.0, 0.0)
    p = np.array(polygon)
    q = np.roll(p, -1, axis=0)
    cross = p[:, 0] * q[:, 1] - q[:, 0] * p[:, 1]
    area = cross.sum() / 2
    if abs(area) < 1e-15:
        return 0.0, (0.0, 0.0)
    centroid = ((p + q) * cross[:, None]).sum(axis=0) / (6 * area)
    return abs(area), (float(centroid[0]), float(centroid[1]))


def covered_centroid(fraction, towards_y, towards_x):
    """Centroid (y, x) of the part of the unit cell round 0 behind a line square to the direction, found by bisection."""
    square = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
    normal = np.array([-towards_y, -towards_x])
    low, high = -abs(towards_y) - abs(towards_x), abs(towards_y) + abs(towards_x)
    for _ in range(200):
        middle = (low + high) / 2
        if area_and_centroid(clip_polygon(square, normal, middle))[0] < fraction:
            low = middle
        else:
            high = middle
    return area_and_centroid(clip_polygon(square, normal, high))[1]


def spread(weight, low, high, bins):
    """Histogram (bins,) of ``weight`` spread evenly from ``low`` to ``high`` (in bins): overlap of each bin."""
    if high - low <= 0 or int(low) == int(high):
        out = np.zeros(bins)
        out[min(int(low), bins - 1)] = weight
        return out
    return np.array([max(0.0, min(high, k + 1) - max(low, k)) for k in range(bins)]) * weight / (high - low)


def sample_points(fraction, first_mm, cell_mm, dose, dose_first_mm, dose_step_mm):
    """Every point of the histogram: list of (volume mm3, dose, lowest dose, highest dose, covered, place zyx)."""
    parts = [max(1, math.ceil(size - 1e-6)) for size in cell_mm]
    parts[0] += parts[0] % 2  # across a slice none of the points lies in its middle
    size = [cell_mm[a] / parts[a] for a in range(3)]
    padded = np.pad(fraction.astype(float), ((0, 0), (1, 1), (1, 1)))
    kernel = np.array([[1, 2, 1], [0, 0, 0], [-1, -2, -1]])
    points = []
    for z, y, x in np.argwhere(fraction > 0):
        covered = float(fraction[z, y, x])
        off, width = (0.0, 0.0), [1.0, 1.0, 1.0]
        if parts[1] == parts[2] == 1 and covered < 0.9999:
            window = padded[z, y : y + 3, x : x + 3]
            gy, gx = -(window * kernel).sum(), -(window * kernel.T).sum()
            if abs(gy) + abs(gx) > 1e-6:
                off = covered_centroid(covered, gy, gx)
                width = [
                    1.0,
                    1 - (1 - covered) * abs(gy) / (abs(gy) + abs(gx)),
                    1 - (1 - covered) * abs(gx) / (abs(gy) + abs(gx)),
                ]
        for k in np.ndindex(*parts):
            shift = (0.0, *off)
            place = [
                first_mm[a] + ((z, y, x)[a] + shift[a] - 0.5) * cell_mm[a] + (k[a] + 0.5) * size[a] for a in range(3)
            ]
            index = [(place[a] - dose_first_mm[a]) / dose_step_mm[a] for a in range(3)]
            value = trilinear(dose, *index)
            half = 0.0
            if value is not None:
                h = 1e-5
                for a in range(3):
                    if not 0 <= index[a] <= dose.shape[a] - 1:
                        continue
                    # a derivative inside the cell that the kernel interpolates in, not across its border
                    corner = min(max(math.floor(index[a]), 0), max(dose.shape[a] - 2, 0))
                    here = list(index)
                    here[a] = min(max(index[a], corner + h), corner + 1 - h)
                    up, down = list(here), list(here)
                    up[a], down[a] = here[a] + h / 2, here[a] - h / 2
                    if dose.shape[a] == 1:
                        continue
                    slope = (trilinear(dose, *up) - trilinear(dose, *down)) / h
                    half = max(half, 0.5 * abs(slope) / dose_step_mm[a] * size[a] * width[a])
            value = 0.0 if value is None else value
            points.append((covered * math.prod(size), value, value - half, value + half, covered, place))
    return points

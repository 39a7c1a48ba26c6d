"""Slow, obviously right versions of the kernels of scattered photons' flights on a coarse grid."""

import math

import numpy as np
from twins.collapsed_cone_twins import linear_weights, sample


def flight(released, density, slopes, step_cm, photons):
    """Deposit and what is handed on, (m, u, v) without padding, of one direction: each line on its own."""
    planes, rows, width = released.shape
    deposit, passed = np.zeros(released.shape), np.zeros(released.shape)
    b, kept, again = photons
    for line_u in range(-planes - 2, rows + planes + 2):
        for line_v in range(-planes - 2, width + planes + 2):
            first = second = 0.0
            for count in range(planes):
                m = count if slopes[0] > 0 else planes - 1 - count
                u, v = line_u + slopes[1] * count, line_v + slopes[2] * count
                if not (-1 <= math.floor(u) < rows and -1 <= math.floor(v) < width):
                    continue
                thick = max(sample(density[m], u, v), 1e-6) * step_cm
                release = sample(released[m], u, v) * step_cm
                x = b * thick
                gone = math.exp(-x)
                after = first * gone + release * (1.0 - gone) / x
                lost = first + release - after
                fed = first * x * gone + release * (1.0 - gone - x * gone) / x
                later = second * gone + again * fed
                interacting = (1.0 - again) * lost + (second + again * lost - later)
                first, second = after, later
                for du, wu in linear_weights(u - math.floor(u)).items():
                    for dv, wv in linear_weights(v - math.floor(v)).items():
                        i, j = math.floor(u) + du, math.floor(v) + dv
                        if 0 <= i < rows and 0 <= j < width:
                            deposit[m, i, j] += wu * wv * kept * interacting / thick
                            passed[m, i, j] += wu * wv * (1.0 - kept) * interacting / thick
    return deposit, passed


def averaged(volume, starts):
    """Mean of a volume in boxes: every voxel divided into parts that lie in one box each."""
    parts = [np.clip(np.minimum(high, np.arange(n) + 1.0) - np.maximum(low, np.arange(n)), 0.0, None)
             for n, edges in zip(volume.shape, starts, strict=True)
             for low, high in [(edges[:-1, None], edges[1:, None])]]  # fmt: skip
    total = np.einsum("iz,jy,kx,zyx->ijk", *parts, volume.astype(float))
    return total / np.einsum("i,j,k->ijk", *(part.sum(axis=1) for part in parts))


def interpolated(coarse, index, share):
    """Trilinear values: the weighted sum over the eight cells round each voxel."""
    out = np.zeros([len(one) for one in index])
    for place in np.ndindex(*out.shape):
        for corner in np.ndindex(2, 2, 2):
            weight, cell = 1.0, []
            for axis in range(3):
                part = float(share[axis][place[axis]])
                weight *= part if corner[axis] else 1.0 - part
                cell.append(int(index[axis][place[axis]]) + corner[axis])
            out[place] += weight * float(coarse[tuple(cell)])
    return out

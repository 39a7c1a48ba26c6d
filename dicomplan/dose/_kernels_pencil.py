"""Kernels of the pencil-beam engine: depth weights, and dose as weighted bilinear samples of convolved fluence."""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]


@kernel(parallel=True)
def depth_weights(
    depth: Float32Array,
    scale: Float32Array,
    factor: Float32Array,
    table: FloatArray,
    depths: FloatArray,
    log_scale_first: float,
    log_scale_step: float,
    out: Float32Array,
) -> None:
    """``factor`` times the bilinear value of ``table`` (D, M, K) at depth (uneven ``depths``) and log scale, (n, K)."""
    components = table.shape[2]
    for n in prange(depth.shape[0]):
        z = min(max(float(depth[n]), depths[0]), depths[-1])
        i = min(np.searchsorted(depths, z), depths.shape[0] - 1)
        i = max(i - 1, 0)
        a = (z - depths[i]) / (depths[i + 1] - depths[i])
        place = (np.log(max(float(scale[n]), 1e-6)) - log_scale_first) / log_scale_step
        place = min(max(place, 0.0), table.shape[1] - 1.0)
        j = min(int(place), table.shape[1] - 2)
        b = place - j
        for k in range(components):
            low = (1.0 - b) * table[i, j, k] + b * table[i, j + 1, k]
            high = (1.0 - b) * table[i + 1, j, k] + b * table[i + 1, j + 1, k]
            out[n, k] = factor[n] * ((1.0 - a) * low + a * high)


@kernel(parallel=True)
def gather(
    maps: Float32Array, u: Float32Array, v: Float32Array, weight: Float32Array, first: int, dose: Float32Array
) -> None:
    """Add to ``dose`` (n,) the sum over K of ``weight`` (n, first + K) x bilinear sample of ``maps`` (ny, nx, K).

    ``u``, ``v`` (n,) are fractional pixel indices along x and y; samples beyond the outermost centres count as 0.
    """
    ny, nx, components = maps.shape
    for n in prange(u.shape[0]):
        x, y = u[n], v[n]
        if x < 0.0 or y < 0.0 or x > nx - 1 or y > ny - 1:
            continue
        i, j = min(int(x), nx - 2), min(int(y), ny - 2)
        a, b = x - np.float32(i), y - np.float32(j)
        w00, w01 = (np.float32(1.0) - b) * (np.float32(1.0) - a), (np.float32(1.0) - b) * a
        w10, w11 = b * (np.float32(1.0) - a), b * a
        total = np.float32(0.0)
        for k in range(components):
            value = (
                w00 * maps[j, i, k] + w01 * maps[j, i + 1, k] + w10 * maps[j + 1, i, k] + w11 * maps[j + 1, i + 1, k]
            )
            total += weight[n, first + k] * value
        dose[n] += total


@kernel(parallel=True)
def scatter(
    gradient: Float32Array, u: Float32Array, v: Float32Array, weight: Float32Array, first: int, parts: Float32Array
) -> None:
    """The transpose of :func:`gather`: each of the equal shares of voxels adds into its own of ``parts`` (P, ny, nx, K).

    The shares do not depend on the number of threads, so neither do the sums.
    """
    share_count, ny, nx, components = parts.shape
    count = u.shape[0]
    for part in prange(share_count):
        for n in range(part * count // share_count, (part + 1) * count // share_count):
            g = gradient[n]
            x, y = u[n], v[n]
            if g == 0.0 or x < 0.0 or y < 0.0 or x > nx - 1 or y > ny - 1:
                continue
            i, j = min(int(x), nx - 2), min(int(y), ny - 2)
            a, b = x - np.float32(i), y - np.float32(j)
            w00, w01 = (np.float32(1.0) - b) * (np.float32(1.0) - a) * g, (np.float32(1.0) - b) * a * g
            w10, w11 = b * (np.float32(1.0) - a) * g, b * a * g
            for k in range(components):
                w = weight[n, first + k]
                parts[part, j, i, k] += w * w00
                parts[part, j, i + 1, k] += w * w01
                parts[part, j + 1, i, k] += w * w10
                parts[part, j + 1, i + 1, k] += w * w11

"""Kernel of ray tracing: path integrals through a voxel grid from a source to points."""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]


@kernel(parallel=True)
def path_integrals(
    volume: Float32Array,
    low: FloatArray,
    spacing: FloatArray,
    source: FloatArray,
    points: FloatArray,
    out: Float32Array,
) -> None:
    """Integral of ``volume`` (z, y, x) along the straight line from ``source`` to each point, into ``out`` (n,).

    Everything is local, in the order (z, y, x), mm: ``low`` the outer corner of voxel [0, 0, 0], ``source`` (3,),
    ``points`` (n, 3). Exact lengths in each voxel (J. Amanatides, A. Woo, Eurographics '87, 3-10); 0 outside the grid.
    """
    for n in prange(points.shape[0]):
        length = 0.0
        enter, leave = 0.0, 1.0
        for axis in range(3):
            delta = points[n, axis] - source[axis]
            length += delta * delta
            first = low[axis] - source[axis]
            last = first + spacing[axis] * volume.shape[axis]
            if delta == 0.0:
                if first > 0.0 or last <= 0.0:
                    leave = -1.0
            else:
                near, far = first / delta, last / delta
                if near > far:
                    near, far = far, near
                enter, leave = max(enter, near), min(leave, far)
        length = np.sqrt(length)
        if enter >= leave:
            out[n] = 0.0
            continue
        index_z, index_y, index_x = 0, 0, 0
        step_z, step_y, step_x = 1, 1, 1
        next_z, next_y, next_x = 2.0, 2.0, 2.0
        size_z, size_y, size_x = 2.0, 2.0, 2.0
        middle = enter + 1e-9 * (leave - enter)
        for axis in range(3):
            delta = points[n, axis] - source[axis]
            place = (source[axis] + middle * delta - low[axis]) / spacing[axis]
            index = min(max(int(np.floor(place)), 0), volume.shape[axis] - 1)
            step = 1 if delta > 0.0 else -1
            following, size = 2.0, 2.0
            if delta != 0.0:
                border = low[axis] + spacing[axis] * (index + (1 if delta > 0.0 else 0))
                following = (border - source[axis]) / delta
                size = abs(spacing[axis] / delta)
            if axis == 0:
                index_z, step_z, next_z, size_z = index, step, following, size
            elif axis == 1:
                index_y, step_y, next_y, size_y = index, step, following, size
            else:
                index_x, step_x, next_x, size_x = index, step, following, size
        total = 0.0
        at = enter
        while at < leave:
            value = volume[index_z, index_y, index_x]
            if next_x <= next_y and next_x <= next_z:
                total += (min(next_x, leave) - at) * value
                at = next_x
                next_x += size_x
                index_x += step_x
                if index_x < 0 or index_x >= volume.shape[2]:
                    break
            elif next_y <= next_z:
                total += (min(next_y, leave) - at) * value
                at = next_y
                next_y += size_y
                index_y += step_y
                if index_y < 0 or index_y >= volume.shape[1]:
                    break
            else:
                total += (min(next_z, leave) - at) * value
                at = next_z
                next_z += size_z
                index_z += step_z
                if index_z < 0 or index_z >= volume.shape[0]:
                    break
        out[n] = total * length

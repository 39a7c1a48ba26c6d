"""Kernels of ray tracing: path integrals through a voxel grid from a source to points, and where voxels lie.

Rays are followed from layer to layer of voxels along the axis on which they cross the most of them, so that within a layer
they cross at most one border of each other axis: three pieces with exact lengths. That is the same sum as going from border
to border (J. Amanatides, A. Woo, Eurographics '87, 3-10), without a branch: sixteen rays go side by side, and the compiler
makes vector instructions of them.
"""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

_RAYS = 16  # side by side
_BLOCK = 512  # rays of a work item, which share one set of buffers

# rows of the buffers: place of a ray along its main axis and its end, both in layers from the first one it is in; then of
# each other axis where it crosses the first border, from border to border, crossings so far and how many there can be
_AT, _END, _FIRST, _STEP, _DONE, _MOST = 0, 1, 2, 3, 4, 5
_OTHER = 4  # rows from one of the other axes to the next
_VOXEL, _ALONG, _ASIDE, _MIDDLE, _LATER = 0, 1, 2, 4, 5


@kernel(parallel=True)
def path_integrals(
    volume: Float32Array, low: FloatArray, spacing: FloatArray, first: IntArray, last: IntArray, outside: float,
    source: FloatArray, points: FloatArray, out: Float32Array,
) -> None:  # fmt: skip
    """Integral of ``volume`` (z, y, x) along the straight line from ``source`` to each point, into ``out`` (n,).

    Everything is local, in the order (z, y, x), mm: ``low`` the outer corner of voxel [0, 0, 0], ``source`` (3,),
    ``points`` (n, 3). Exact lengths in each voxel, sums in single precision; 0 outside the grid. Every voxel that is not in
    the box of voxels ``first`` to ``last`` (exclusive) is taken for one of the value ``outside``, and not looked at.
    """
    flat = volume.ravel()
    strides = (volume.shape[1] * volume.shape[2], volume.shape[2], 1)
    count = points.shape[0]
    one, none = np.float32(1.0), np.float32(0.0)
    corners, starts, per_mm, sizes = np.empty((4, 3)), np.empty(3), np.empty(3), last - first
    for axis in range(3):
        corner = low[axis] - source[axis]
        corners[0, axis] = corner + spacing[axis] * first[axis]
        corners[1, axis] = corner + spacing[axis] * last[axis]
        corners[2, axis] = corner
        corners[3, axis] = corner + spacing[axis] * volume.shape[axis]
        starts[axis] = -corners[0, axis] / spacing[axis]
        per_mm[axis] = 1.0 / spacing[axis]
    for block in prange((count + _BLOCK - 1) // _BLOCK):
        real = np.zeros((2 + 2 * _OTHER, _RAYS), dtype=np.float32)
        whole = np.zeros((6, _RAYS), dtype=np.int32)
        pieces = np.zeros((3, _RAYS), dtype=np.float32)
        total, scale = np.zeros(_RAYS, dtype=np.float32), np.zeros(_RAYS)
        beside = np.zeros(_RAYS)
        for begin in range(block * _BLOCK, min((block + 1) * _BLOCK, count), _RAYS):
            rays, layers = min(_RAYS, count - begin), 0
            for ray in range(_RAYS):
                # a ray that crosses nothing has no length in any layer
                real[:, ray], whole[:, ray] = none, 0
                total[ray], scale[ray], beside[ray] = none, 0.0, 0.0
                if ray >= rays:
                    continue
                n = begin + ray
                square, most, main = 0.0, 0.0, 0
                enter, leave, grid_enter, grid_leave = 0.0, 1.0, 0.0, 1.0
                for axis in range(3):
                    delta = points[n, axis] - source[axis]
                    square += delta * delta
                    if delta == 0.0:
                        if corners[0, axis] > 0.0 or corners[1, axis] <= 0.0:
                            leave = -1.0
                        if corners[2, axis] > 0.0 or corners[3, axis] <= 0.0:
                            grid_leave = -1.0
                        continue
                    inverse = 1.0 / delta
                    near, far = corners[0, axis] * inverse, corners[1, axis] * inverse
                    enter, leave = max(enter, min(near, far)), min(leave, max(near, far))
                    near, far = corners[2, axis] * inverse, corners[3, axis] * inverse
                    grid_enter, grid_leave = max(grid_enter, min(near, far)), min(grid_leave, max(near, far))
                    if abs(delta) * per_mm[axis] > most:
                        most, main = abs(delta) * per_mm[axis], axis
                length = np.sqrt(square)
                if grid_leave > grid_enter:
                    beside[ray] = outside * length * (grid_leave - grid_enter - max(leave - enter, 0.0))
                if enter >= leave or most == 0.0:
                    continue
                scale[ray] = length / most
                # in voxels of the box, every axis turned so that the ray goes up along it
                voxel, start = 0, 0.0
                for number in range(3):
                    axis = (main + number) % 3
                    delta, place = (points[n, axis] - source[axis]) * per_mm[axis], starts[axis]
                    size, stride = sizes[axis], strides[axis]
                    voxel += first[axis] * stride
                    if delta < 0.0:
                        voxel += (size - 1) * stride
                        delta, place, stride = -delta, size - place, -stride
                    at = place + enter * delta
                    index = min(max(int(np.floor(at)), 0), size - 1)
                    voxel += index * stride
                    whole[_ALONG + number, ray] = stride
                    if number == 0:
                        # never beyond the box, not even by rounding: what follows reads no voxel there
                        end = min(place + leave * delta, float(size))
                        start = at - index
                        real[_AT, ray], real[_END, ray] = start, end - index
                        layers = max(layers, int(np.ceil(end)) - index)
                    elif delta > 0.0:
                        row = _OTHER * (number - 1)
                        step = most / delta
                        real[_FIRST + row, ray] = start + (index + 1 - at) * step
                        real[_STEP + row, ray] = step
                        real[_MOST + row, ray] = size - 1 - index
                whole[_VOXEL, ray] = voxel
            for layer in range(1, layers + 1):
                for ray in range(_RAYS):
                    at, end = real[_AT, ray], real[_END, ray]
                    after = min(np.float32(layer), end)
                    done, other_done = real[_DONE, ray], real[_DONE + _OTHER, ray]
                    border = real[_FIRST, ray] + done * real[_STEP, ray]
                    other_border = real[_FIRST + _OTHER, ray] + other_done * real[_STEP + _OTHER, ray]
                    crossed = border < after and done < real[_MOST, ray]
                    other_crossed = other_border < after and other_done < real[_MOST + _OTHER, ray]
                    border = border if crossed else after
                    other_border = other_border if other_crossed else after
                    sooner, later = min(border, other_border), max(border, other_border)
                    pieces[0, ray], pieces[1, ray], pieces[2, ray] = sooner - at, later - sooner, after - later
                    aside = whole[_ASIDE, ray] if crossed else 0
                    other_aside = whole[_ASIDE + 1, ray] if other_crossed else 0
                    voxel = whole[_VOXEL, ray]
                    whole[_MIDDLE, ray] = voxel + (aside if border <= other_border else other_aside)
                    whole[_LATER, ray] = voxel + aside + other_aside
                    real[_DONE, ray] = done + (one if crossed else none)
                    real[_DONE + _OTHER, ray] = other_done + (one if other_crossed else none)
                    real[_AT, ray] = after
                for ray in range(_RAYS):
                    last_voxel = whole[_LATER, ray]
                    total[ray] += (
                        pieces[0, ray] * flat[whole[_VOXEL, ray]]
                        + pieces[1, ray] * flat[whole[_MIDDLE, ray]]
                        + pieces[2, ray] * flat[last_voxel]
                    )
                    ahead = whole[_ALONG, ray] if np.float32(layer) < real[_END, ray] else 0
                    whole[_VOXEL, ray] = last_voxel + ahead
            for ray in range(rays):
                out[begin + ray] = total[ray] * scale[ray] + beside[ray]


@kernel(parallel=True)
def voxel_places(voxels: IntArray, first_mm: FloatArray, spacing: FloatArray, shape: IntArray, out: FloatArray) -> None:
    """Local centres (n, 3), mm, of voxels given by their linear index in a grid of ``shape``; all (z, y, x).

    ``first_mm`` (3,) is the centre of voxel [0, 0, 0].
    """
    for n in prange(voxels.shape[0]):
        rest = voxels[n] // shape[2]
        out[n, 0] = first_mm[0] + spacing[0] * (rest // shape[1])
        out[n, 1] = first_mm[1] + spacing[1] * (rest % shape[1])
        out[n, 2] = first_mm[2] + spacing[2] * (voxels[n] - rest * shape[2])

"""Kernels of densities: a value from a table for each voxel."""

from __future__ import annotations

import numpy as np
from numba import prange
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]


@kernel(parallel=True)
def table_values(values: Float32Array, low: float, table: Float32Array, out: Float32Array, beyond: IntArray) -> None:
    """``table`` (m,), which begins at ``low`` and has steps of 1, linear in between, held beyond its ends; rows (r, n).

    ``beyond`` (r,) is how many of each row lie above its last entry.
    """
    rows, size = values.shape
    first, last = np.float32(low), np.float32(table.shape[0] - 1)
    zero, one = np.float32(0.0), np.float32(1.0)
    for row in prange(rows):
        above = 0
        for i in range(size):
            place = values[row, i] - first
            above += place > last
            place = min(max(place, zero), last)
            whole = min(int(place), table.shape[0] - 2)
            share = place - np.float32(whole)
            out[row, i] = table[whole] * (one - share) + table[whole + 1] * share
        beyond[row] = above


@kernel(parallel=True)
def piecewise_linear(values: Float32Array, x: FloatArray, y: FloatArray, above: float, out: Float32Array) -> None:
    """``y`` (m,) at rising ``x`` (m,), linear in between, for each of ``values`` (r, n).

    ``y[0]`` below the first; above the last ``above`` times the value.
    """
    rows, size = values.shape
    last = x.shape[0] - 2
    for row in prange(rows):
        # neighbours mostly lie in the same interval
        k = 0
        for i in range(size):
            value = float(values[row, i])
            if value > x[last + 1]:
                out[row, i] = value * above
            elif not value >= x[0]:
                out[row, i] = y[0]
            else:
                while k < last and value >= x[k + 1]:
                    k += 1
                while value < x[k]:
                    k -= 1
                out[row, i] = y[k] + (y[k + 1] - y[k]) / (x[k + 1] - x[k]) * (value - x[k])

"""Kernels of the explicit influence matrix: its rows from the factors of beams, and its products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]
IntArray = NDArray[np.int64]

_BLOCK = 128  # voxels of a work item, which share one set of buffers


_LANES = 8  # columns of a row that are summed at a time
_EIGHT = ir.VectorType(ir.FloatType(), _LANES)


@intrinsic  # type: ignore[untyped-decorator]
def _add_four(
    context: Any, value: Any, at: Any, response: Any, first: Any, stride: Any, s0: Any, s1: Any, s2: Any, s3: Any
) -> tuple[Any, Callable[..., Any]]:
    """Add to eight elements of ``value`` the sum of four scales times eight elements of ``response``, ``stride`` apart.

    Runs are about as short as the loops that numba makes vector instructions of: it would do most of them one by one.
    """

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        total, source = (target.make_array(kinds[k])(target, builder, arguments[k]) for k in (0, 2))
        products, offset = [], arguments[3]
        for scale in arguments[5:]:
            one = builder.insert_element(ir.Constant(_EIGHT, ir.Undefined), scale, ir.IntType(32)(0))
            mask = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [0] * _LANES)
            every = builder.shuffle_vector(one, ir.Constant(_EIGHT, ir.Undefined), mask)
            place = builder.bitcast(builder.gep(source.data, [offset]), _EIGHT.as_pointer())
            products.append(builder.fmul(every, builder.load(place, align=4)))
            offset = builder.add(offset, arguments[4])
        place = builder.bitcast(builder.gep(total.data, [arguments[1]]), _EIGHT.as_pointer())
        added = builder.fadd(builder.fadd(products[0], products[1]), builder.fadd(products[2], products[3]))
        builder.store(builder.fadd(builder.load(place, align=4), added), place, align=4)
        return target.get_dummy_value()

    return types.void(value, at, response, first, stride, s0, s1, s2, s3), generate


@kernel(inline=True)
def _within(place: float, reach: float, first: float, step: float, count: int) -> tuple[int, int]:
    """Cells [low, high) of ``count`` uniform ones, the first centred at ``first``, with centres within reach of place."""
    low = int(max(np.ceil((place - reach - first) / step), 0.0))
    high = int(min(np.floor((place + reach - first) / step) + 1.0, float(count)))
    return low, max(low, high)


@kernel(parallel=True)
def count_rows(
    u_mm: Float32Array, v_mm: Float32Array, x_mm: FloatArray, strips: IntArray, strip_y_mm: FloatArray,
    cutoff_mm: float, counts: IntArray,
) -> None:  # fmt: skip
    """Add to ``counts`` (n,) how many beamlets of a beam have centres within the cut-off of each point.

    ``x_mm`` (cols,) are the uniform centres of columns, ``strips`` (s, 4) runs of beamlets along a row: row, first column,
    last (exclusive), and the number of the run's first beamlet in the plan; ``strip_y_mm`` (s,) their rows' centres.
    """
    step = x_mm[1] - x_mm[0]
    for n in prange(u_mm.shape[0]):
        found = 0
        for strip in range(strips.shape[0]):
            aside = strip_y_mm[strip] - v_mm[n]
            room = cutoff_mm * cutoff_mm - aside * aside
            if room >= 0.0:
                low, high = _within(u_mm[n], np.sqrt(room), x_mm[0], step, x_mm.shape[0])
                found += max(min(high, strips[strip, 2]) - max(low, strips[strip, 1]), 0)
        counts[n] += found


@kernel(parallel=True)
def fill_rows(
    u_mm: Float32Array, v_mm: Float32Array, weight: Float32Array, which: IntArray, profiled: int,
    tables: IntArray, axes: Float32Array, along: Float32Array, across: Float32Array, profile: Float32Array,
    x_mm: FloatArray, strips: IntArray, strip_y_mm: FloatArray, cutoff_mm: float, unit: float,
    places: IntArray, indices: Int32Array, data: Float32Array,
) -> None:  # fmt: skip
    """Write a beam's part of each row of the matrix from ``places`` (n,) on, and move them behind it.

    An element is the sum over components of ``weight`` (n, 8) at ``which`` (K,) x response along x response across, each of
    them linear between the points of a map, as :func:`~dicomplan.dose._kernels_pencil.gather` has them. ``tables`` (K, 5)
    says of each component: its layer, the layer's points along x and y, and where its responses begin in ``along``, point
    by point of all columns, and in ``across``, point by point of all rows. The first ``profiled`` components are multiplied
    by ``profile`` (rows, cols). Both kinds come in fours, the last of which may be nothing. The rest is as for
    :func:`count_rows`.
    """
    step = x_mm[1] - x_mm[0]
    components, rows, columns = which.shape[0], profile.shape[0], profile.shape[1]
    count = u_mm.shape[0]
    for block in prange((count + _BLOCK - 1) // _BLOCK):
        row_response = np.empty((components, rows), dtype=np.float32)
        # sums of eight columns may reach beyond the last one: over zeros
        wide = columns + _LANES
        column_response = np.zeros((components, wide), dtype=np.float32)
        value, plain = np.zeros(wide, dtype=np.float32), np.zeros(wide, dtype=np.float32)
        for n in range(block * _BLOCK, min((block + 1) * _BLOCK, count)):
            left, right = _within(u_mm[n], cutoff_mm, x_mm[0], step, columns)
            top, bottom = strips.shape[0], 0
            for strip in range(strips.shape[0]):
                if abs(strip_y_mm[strip] - v_mm[n]) <= cutoff_mm:
                    top, bottom = min(top, strip), strip + 1
            if left >= right or top >= bottom:
                continue
            row_low, row_high = strips[top, 0], strips[bottom - 1, 0] + 1
            for k in range(components):
                layer, nx, ny = tables[k, 0], tables[k, 1], tables[k, 2]
                x = (u_mm[n] - axes[layer, 0]) * axes[layer, 2]
                y = (v_mm[n] - axes[layer, 1]) * axes[layer, 2]
                w = weight[n, which[k]] * np.float32(unit)
                if x < 0.0 or y < 0.0 or x > nx - 1 or y > ny - 1:
                    w, x, y = np.float32(0.0), np.float32(0.0), np.float32(0.0)
                i, j = min(int(x), nx - 2), min(int(y), ny - 2)
                a, b = x - np.float32(i), y - np.float32(j)
                start = tables[k, 3] + i * columns
                for c in range(left, right):
                    low, high = along[start + c], along[start + columns + c]
                    column_response[k, c] = low + a * (high - low)
                start = tables[k, 4] + j * rows
                for r in range(row_low, row_high):
                    low, high = across[start + r], across[start + rows + r]
                    row_response[k, r] = w * (low + b * (high - low))
            place = places[n]
            for strip in range(top, bottom):
                aside = strip_y_mm[strip] - v_mm[n]
                room = cutoff_mm * cutoff_mm - aside * aside
                if room < 0.0:
                    continue
                first, last = _within(u_mm[n], np.sqrt(room), x_mm[0], step, columns)
                first, last = max(first, strips[strip, 1]), min(last, strips[strip, 2])
                row = strips[strip, 0]
                for c in range(first, last, _LANES):
                    value[c : c + _LANES] = np.float32(0.0)
                    for k in range(0, profiled, 4):
                        s0, s1 = row_response[k, row], row_response[k + 1, row]
                        s2, s3 = row_response[k + 2, row], row_response[k + 3, row]
                        _add_four(value, c, column_response, k * wide + c, wide, s0, s1, s2, s3)
                number = strips[strip, 3] - strips[strip, 1]
                for c in range(first, last):
                    data[place + c - first] = value[c] * profile[row, c]
                    indices[place + c - first] = number + c
                if profiled < components:
                    for c in range(first, last, _LANES):
                        plain[c : c + _LANES] = np.float32(0.0)
                        for k in range(profiled, components, 4):
                            s0, s1 = row_response[k, row], row_response[k + 1, row]
                            s2, s3 = row_response[k + 2, row], row_response[k + 3, row]
                            _add_four(plain, c, column_response, k * wide + c, wide, s0, s1, s2, s3)
                    for c in range(first, last):
                        data[place + c - first] += plain[c]
                place += max(last - first, 0)
            places[n] = place


@kernel(parallel=True)
def product(starts: IntArray, indices: Int32Array, data: Float32Array, x: FloatArray, out: Float32Array) -> None:
    """``out`` (rows,) = matrix x ``x``: rows as in CSR, each summed in double precision in a fixed order."""
    for n in prange(out.shape[0]):
        first, last = starts[n], starts[n + 1]
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        whole = first + (last - first) // 4 * 4
        for k in range(first, whole, 4):
            a += data[k] * x[indices[k]]
            b += data[k + 1] * x[indices[k + 1]]
            c += data[k + 2] * x[indices[k + 2]]
            d += data[k + 3] * x[indices[k + 3]]
        for k in range(whole, last):
            a += data[k] * x[indices[k]]
        out[n] = (a + b) + (c + d)


@kernel(parallel=True)
def transposed_product(
    starts: IntArray, indices: Int32Array, data: Float32Array, gradient: FloatArray, parts: FloatArray
) -> None:
    """The transpose of :func:`product`: each of the equal shares of rows adds into its own of ``parts`` (shares, columns).

    The shares do not depend on the number of threads, so neither do the sums.
    """
    shares, rows = parts.shape[0], gradient.shape[0]
    for share in prange(shares):
        parts[share] = 0.0
        for n in range(share * rows // shares, (share + 1) * rows // shares):
            g = gradient[n]
            if g != 0.0:
                for k in range(starts[n], starts[n + 1]):
                    parts[share, indices[k]] += data[k] * g

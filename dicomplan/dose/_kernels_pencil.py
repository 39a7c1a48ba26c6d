"""Kernels of the pencil-beam engine: depth weights, and dose as weighted bilinear samples of convolved fluence.

A point reads eight values from each corner of its cell of a table, and four from each of a map's. Numba does not make
vector instructions of so short a loop, so the innermost steps are stated as vectors: :func:`_between`, :func:`_sample` and
:func:`_spread`. Order of sums and products is fixed in them as it is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

_COMPONENTS = 8  # of the weights of a point, as many as a vector instruction takes
_FOUR, _EIGHT = ir.VectorType(ir.FloatType(), 4), ir.VectorType(ir.FloatType(), 8)


def _lanes(builder: Any, vector: Any, lanes: Sequence[int]) -> Any:
    """The lanes of a vector, in the order stated."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), list(lanes))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


def _all_lanes(builder: Any, scalar: Any, kind: Any) -> Any:
    """A vector with the scalar in every lane."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.IntType(32)(0))
    return _lanes(builder, one, [0] * kind.count)


def _place(builder: Any, array: Any, offset: Any, kind: Any) -> Any:
    """Pointer to a vector that begins at an element of a contiguous array."""
    return builder.bitcast(builder.gep(array.data, [offset]), kind.as_pointer())


@intrinsic  # type: ignore[untyped-decorator]
def _between(
    context: Any, out: Any, at: Any, table: Any, low: Any, row: Any, a: Any, b: Any, factor: Any
) -> tuple[Any, Callable[..., Any]]:
    """Eight elements of ``out``: ``factor`` x what is ``a`` of the way from a row of ``table`` to the next.

    In each row it is ``b`` of the way from eight elements to the eight after them; ``low`` is the first one's place.
    """

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result, source = (target.make_array(signature.args[k])(target, builder, arguments[k]) for k in (0, 2))
        a, b, factor = (_all_lanes(builder, one, _EIGHT) for one in arguments[5:])
        rows = []
        for first in (arguments[3], builder.add(arguments[3], arguments[4])):
            second = builder.add(first, ir.IntType(64)(_COMPONENTS))
            pair = [builder.load(_place(builder, source, one, _EIGHT), align=4) for one in (first, second)]
            rows.append(builder.fadd(pair[0], builder.fmul(b, builder.fsub(pair[1], pair[0]))))
        value = builder.fadd(rows[0], builder.fmul(a, builder.fsub(rows[1], rows[0])))
        builder.store(builder.fmul(factor, value), _place(builder, result, arguments[1], _EIGHT), align=4)
        return target.get_dummy_value()

    return types.void(out, at, table, low, row, a, b, factor), generate


@intrinsic  # type: ignore[untyped-decorator]
def _sample(
    context: Any, maps: Any, low: Any, high: Any, weight: Any, at: Any, a: Any, b: Any
) -> tuple[Any, Callable[..., Any]]:
    """Sum over four components of weight x bilinear sample.

    ``low`` and ``high`` are the elements of ``maps`` at which the cell's two rows begin (eight values each: two corners of
    four components), ``at`` the first weight, ``a`` and ``b`` the place within the cell.
    """

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        source = target.make_array(kinds[0])(target, builder, arguments[0])
        weights = target.make_array(kinds[3])(target, builder, arguments[3])
        rows = [builder.load(_place(builder, source, row, _EIGHT), align=4) for row in arguments[1:3]]
        step = builder.fmul(_all_lanes(builder, arguments[6], _EIGHT), builder.fsub(rows[1], rows[0]))
        both = builder.fadd(rows[0], step)
        left, right = _lanes(builder, both, range(4)), _lanes(builder, both, range(4, 8))
        step = builder.fmul(_all_lanes(builder, arguments[5], _FOUR), builder.fsub(right, left))
        value = builder.fadd(left, step)
        value = builder.fmul(value, builder.load(_place(builder, weights, arguments[4], _FOUR), align=4))
        value = builder.fadd(value, _lanes(builder, value, [2, 3, 0, 1]))
        value = builder.fadd(value, _lanes(builder, value, [1, 0, 3, 2]))
        return builder.extract_element(value, ir.IntType(32)(0))

    return types.float32(maps, low, high, weight, at, a, b), generate


@intrinsic  # type: ignore[untyped-decorator]
def _spread(
    context: Any, maps: Any, low: Any, high: Any, weight: Any, at: Any, a: Any, b: Any, value: Any
) -> tuple[Any, Callable[..., Any]]:
    """The transpose of :func:`_sample`: adds ``value`` x weight x the corners' shares to ``maps``."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        source = target.make_array(kinds[0])(target, builder, arguments[0])
        weights = target.make_array(kinds[3])(target, builder, arguments[3])
        whole = builder.load(_place(builder, weights, arguments[4], _FOUR), align=4)
        whole = builder.fmul(whole, _all_lanes(builder, arguments[7], _FOUR))
        right = builder.fmul(whole, _all_lanes(builder, arguments[5], _FOUR))
        left = builder.fsub(whole, right)
        pair = ir.Constant(ir.VectorType(ir.IntType(32), 8), list(range(8)))
        both = builder.shuffle_vector(left, right, pair)
        upper = builder.fmul(both, _all_lanes(builder, arguments[6], _EIGHT))
        for row, share in ((arguments[1], builder.fsub(both, upper)), (arguments[2], upper)):
            place = _place(builder, source, row, _EIGHT)
            builder.store(builder.fadd(builder.load(place, align=4), share), place, align=4)
        return target.get_dummy_value()

    return types.void(maps, low, high, weight, at, a, b, value), generate


@kernel(parallel=True)
def depth_weights(
    depth: Float32Array,
    scale: Float32Array,
    factor: Float32Array,
    table: Float32Array,
    depths: FloatArray,
    log_scale_first: float,
    log_scale_step: float,
    out: Float32Array,
) -> None:
    """``factor`` times the bilinear value of ``table`` (D, M, 8) at depth (uneven ``depths``) and log scale, (n, 8)."""
    # of cells as narrow as the narrowest interval, the interval in which each begins: at most one step from any depth's
    narrowest = np.inf
    for i in range(1, depths.shape[0]):
        narrowest = min(narrowest, depths[i] - depths[i - 1])
    cells = int((depths[-1] - depths[0]) / narrowest) + 2
    interval = np.empty(cells, dtype=np.int64)
    found = 0
    for cell in range(cells):
        while found < depths.shape[0] - 2 and depths[found + 1] <= depths[0] + cell * narrowest:
            found += 1
        interval[cell] = found
    row, last = table.shape[1] * _COMPONENTS, np.float32(table.shape[1] - 1)
    first, per_step = np.float32(log_scale_first), np.float32(1.0 / log_scale_step)
    for n in prange(depth.shape[0]):
        z = min(max(float(depth[n]), depths[0]), depths[-1])
        i = interval[min(max(int((z - depths[0]) / narrowest), 0), cells - 1)]
        while i < depths.shape[0] - 2 and depths[i + 1] < z:
            i += 1
        a = np.float32((z - depths[i]) / (depths[i + 1] - depths[i]))
        place = (np.log(max(scale[n], np.float32(1e-6))) - first) * per_step
        place = min(max(place, np.float32(0.0)), last)
        j = min(int(place), table.shape[1] - 2)
        b = place - np.float32(j)
        _between(out, _COMPONENTS * n, table, i * row + j * _COMPONENTS, row, a, b, factor[n])


@kernel(parallel=True)
def seen_from(
    points: FloatArray, averaged: Float32Array, voxels: IntArray, source: FloatArray, axes: FloatArray, sad: float,
    softening: float, gy_at_sad: float,
    depth: Float32Array, u_mm: Float32Array, v_mm: Float32Array, scale: Float32Array, factor: Float32Array,
) -> None:  # fmt: skip
    """How a source sees points (n, 3): their projection ``u_mm``, ``v_mm`` (n,) along the first two rows of ``axes`` (3, 3).

    ``scale`` (n,) is the distance over ``sad`` times the ``averaged`` density (flat) of the point's voxel, ``factor`` (n,)
    ``gy_at_sad`` with the inverse square of that distance; ``depth`` (n,) is multiplied by 1 + ``softening`` x the distance
    of the projection from the axis. The third row of ``axes`` points from the isocentre to the source; mm.
    """
    for n in prange(points.shape[0]):
        a, b, c = points[n, 0] - source[0], points[n, 1] - source[1], points[n, 2] - source[2]
        along = -(a * axes[2, 0] + b * axes[2, 1] + c * axes[2, 2])
        shrink = sad / along
        u = (a * axes[0, 0] + b * axes[0, 1] + c * axes[0, 2]) * shrink
        v = (a * axes[1, 0] + b * axes[1, 1] + c * axes[1, 2]) * shrink
        square = a * a + b * b + c * c
        u_mm[n], v_mm[n] = u, v
        scale[n] = np.sqrt(square) / sad * averaged[voxels[n]]
        factor[n] = gy_at_sad * (sad * sad / square)
        if softening != 0.0:
            depth[n] *= np.float32(1.0 + softening * np.sqrt(u * u + v * v))


@kernel(parallel=True)
def gather(
    fine: Float32Array,
    coarse: Float32Array,
    axes: Float32Array,
    u_mm: Float32Array,
    v_mm: Float32Array,
    weight: Float32Array,
    dose: Float32Array,
) -> None:
    """Add to ``dose`` (n,) the sum over two layers' four components each of weight x bilinear sample of their maps.

    ``fine``, ``coarse`` (ny, nx, 4) are the maps, of at least two rows and columns, ``axes`` (2, 3) the x and y (mm) of each
    one's first point and its points per mm, ``weight`` (n, 8) those of the fine layer and then those of the coarse one. A
    point beyond the outermost points of a map gets nothing from it.
    """
    # comparisons and sums in single precision only: they are most of what is not a vector
    zero = np.float32(0.0)
    x0, y0, per_mm = axes[0, 0], axes[0, 1], axes[0, 2]
    x1, y1, per_mm1 = axes[1, 0], axes[1, 1], axes[1, 2]
    fine_x, fine_y = np.float32(fine.shape[1] - 1), np.float32(fine.shape[0] - 1)
    coarse_x, coarse_y = np.float32(coarse.shape[1] - 1), np.float32(coarse.shape[0] - 1)
    for n in prange(u_mm.shape[0]):
        total = zero
        x, y = (u_mm[n] - x0) * per_mm, (v_mm[n] - y0) * per_mm
        if x >= zero and y >= zero and x <= fine_x and y <= fine_y:
            nx = fine.shape[1]
            i, j = min(np.int64(x), nx - 2), min(np.int64(y), fine.shape[0] - 2)
            low = 4 * (j * nx + i)
            total += _sample(fine, low, low + 4 * nx, weight, 8 * n, x - np.float32(i), y - np.float32(j))
        x, y = (u_mm[n] - x1) * per_mm1, (v_mm[n] - y1) * per_mm1
        if x >= zero and y >= zero and x <= coarse_x and y <= coarse_y:
            nx = coarse.shape[1]
            i, j = min(np.int64(x), nx - 2), min(np.int64(y), coarse.shape[0] - 2)
            low = 4 * (j * nx + i)
            total += _sample(coarse, low, low + 4 * nx, weight, 8 * n + 4, x - np.float32(i), y - np.float32(j))
        dose[n] += total


@kernel(parallel=True)
def scatter(
    gradient: Float32Array,
    axes: Float32Array,
    u_mm: Float32Array,
    v_mm: Float32Array,
    weight: Float32Array,
    fine: Float32Array,
    coarse: Float32Array,
    rows: IntArray,
) -> None:
    """The transpose of :func:`gather`: each of the equal shares of points adds into its own of ``fine``, ``coarse``.

    They are (shares, ny, nx, 4) and need not be set: of each share the rows that it reaches are set to 0 first, and written
    to ``rows`` (shares, 2, 2): first and last (exclusive) of both layers. The shares do not depend on the number of threads,
    so neither do the sums.
    """
    shares, count = fine.shape[0], u_mm.shape[0]
    zero = np.float32(0.0)
    x0, y0, per_mm = axes[0, 0], axes[0, 1], axes[0, 2]
    x1, y1, per_mm1 = axes[1, 0], axes[1, 1], axes[1, 2]
    fine_x, fine_y = np.float32(fine.shape[2] - 1), np.float32(fine.shape[1] - 1)
    coarse_x, coarse_y = np.float32(coarse.shape[2] - 1), np.float32(coarse.shape[1] - 1)
    for share in prange(shares):
        first, last = share * count // shares, (share + 1) * count // shares
        lowest, highest = np.float32(np.inf), np.float32(-np.inf)
        for n in range(first, last):
            lowest, highest = min(lowest, v_mm[n]), max(highest, v_mm[n])
        for layer in range(2):
            ny = fine.shape[1] if layer == 0 else coarse.shape[1]
            start, stop = 0, 0
            if last > first:
                # in double precision far places do not leave the integers' range
                below = np.floor((float(lowest) - axes[layer, 1]) * axes[layer, 2])
                above = np.floor((float(highest) - axes[layer, 1]) * axes[layer, 2])
                # a row of slack: the places of the points themselves are in single precision
                start = int(min(max(below - 1.0, 0.0), ny - 2.0))
                stop = int(min(max(above + 3.0, float(start)), float(ny)))
            rows[share, layer, 0], rows[share, layer, 1] = start, stop
        fine[share, rows[share, 0, 0] : rows[share, 0, 1]] = 0.0
        coarse[share, rows[share, 1, 0] : rows[share, 1, 1]] = 0.0
        for n in range(first, last):
            g = gradient[n]
            if g == zero:
                continue
            x, y = (u_mm[n] - x0) * per_mm, (v_mm[n] - y0) * per_mm
            ny, nx = fine.shape[1], fine.shape[2]
            if x >= zero and y >= zero and x <= fine_x and y <= fine_y:
                i, j = min(np.int64(x), nx - 2), min(np.int64(y), ny - 2)
                low = 4 * ((share * ny + j) * nx + i)
                _spread(fine, low, low + 4 * nx, weight, 8 * n, x - np.float32(i), y - np.float32(j), g)
            x, y = (u_mm[n] - x1) * per_mm1, (v_mm[n] - y1) * per_mm1
            ny, nx = coarse.shape[1], coarse.shape[2]
            if x >= zero and y >= zero and x <= coarse_x and y <= coarse_y:
                i, j = min(np.int64(x), nx - 2), min(np.int64(y), ny - 2)
                low = 4 * ((share * ny + j) * nx + i)
                _spread(coarse, low, low + 4 * nx, weight, 8 * n + 4, x - np.float32(i), y - np.float32(j), g)


@kernel(parallel=True)
def collect(parts: Float32Array, rows: IntArray, out: Float32Array) -> None:
    """Sum the shares (shares, ny, nx, 4) of one layer, each over its ``rows`` (shares, 2), into ``out`` (K, ny, nx), K <= 4."""
    shares, ny, nx, _ = parts.shape
    for j in prange(ny):
        for k in range(out.shape[0]):
            out[k, j] = 0.0
        for share in range(shares):
            if rows[share, 0] <= j < rows[share, 1]:
                for k in range(out.shape[0]):
                    for i in range(nx):
                        out[k, j, i] += parts[share, j, i, k]


@kernel(parallel=True)
def interleave(maps: Float32Array, out: Float32Array) -> None:
    """``maps`` (K, ny, nx), K <= 4, as (ny, nx, 4); what is beyond K is set to 0."""
    components, ny, nx = maps.shape
    for j in prange(ny):
        for i in range(nx):
            for k in range(components):
                out[j, i, k] = maps[k, j, i]
            for k in range(components, 4):
                out[j, i, k] = 0.0

"""Kernels of the explicit influence matrix: its rows from the factors of beams, and its products with vectors.

A row's elements are products of two short tables: responses of rows of beamlets, and of columns. Numba does not make good
vector instructions of loops as short as these, so the two innermost steps are stated as vectors of eight columns:
:func:`_interpolate` and what :func:`_writer` makes. Order of sums and products is fixed in them as it is elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from dicomplan.kernel_cache import kernel

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]
UInt32Array = NDArray[np.uint32]
IntArray = NDArray[np.int64]

_BLOCK = 128  # voxels of a work item, which share one set of buffers


_LANES = 8  # columns of a row that are summed at a time
_INT, _LONG = ir.IntType(32), ir.IntType(64)
_EIGHT, _EIGHT_INTS = ir.VectorType(ir.FloatType(), _LANES), ir.VectorType(_INT, _LANES)


def _every_lane(builder: Any, scalar: Any, kind: Any) -> Any:
    """A vector with the scalar in each lane."""
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, _INT(0))
    lanes = ir.Constant(_EIGHT_INTS, [0] * _LANES)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), lanes)


def _place(builder: Any, array: Any, offset: Any, kind: Any) -> Any:
    """Pointer to a vector that begins at an element of a contiguous array."""
    return builder.bitcast(builder.gep(array.data, [offset]), kind.as_pointer())


def _fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a x b + c, rounded once, of vectors."""
    kind = ir.FunctionType(_EIGHT, [_EIGHT] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{_LANES}f32"), [a, b, c])


def _store_some(builder: Any, value: Any, array: Any, offset: Any, some: Any, name: str) -> None:
    """Store the lanes of ``value`` that ``some`` names; the others' places are not touched."""
    place = _place(builder, array, offset, value.type)
    kind = ir.FunctionType(ir.VoidType(), [value.type, place.type, _INT, some.type])
    store = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.store.v{_LANES}{name}.p0")
    builder.call(store, [value, place, _INT(4), some])


@intrinsic  # type: ignore[untyped-decorator]
def _interpolate(
    context: Any, out: Any, at: Any, table: Any, low: Any, step: Any, share: Any, scale: Any
) -> tuple[Any, Callable[..., Any]]:
    """Eight elements of ``out``: ``scale`` times those of ``table`` at ``low``, and ``step`` after it, ``share`` of the way."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        result, source = (target.make_array(signature.args[k])(target, builder, arguments[k]) for k in (0, 2))
        first = builder.load(_place(builder, source, arguments[3], _EIGHT), align=4)
        second = builder.load(_place(builder, source, builder.add(arguments[3], arguments[4]), _EIGHT), align=4)
        between = _fused(builder, _every_lane(builder, arguments[5], _EIGHT), builder.fsub(second, first), first)
        value = builder.fmul(between, _every_lane(builder, arguments[6], _EIGHT))
        builder.store(value, _place(builder, result, arguments[1], _EIGHT), align=4)
        return target.get_dummy_value()

    return types.void(out, at, table, low, step, share, scale), generate


def _writer(profiled: int, groups: int) -> Any:
    """A step that writes eight columns of all rows of beamlets, of ``groups`` of four components each.

    The first ``profiled`` groups are those that the profile counts for.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def write(
        context: Any, data: Any, indices: Any, columns: Any, wide: Any, rows: Any, group: Any, profile: Any,
        runs: Any, starts: Any, top: Any, bottom: Any, first: Any,
    ) -> tuple[Any, Callable[..., Any]]:  # fmt: skip
        """Columns ``first`` to ``first`` + 8 of the runs ``top`` to ``bottom`` (exclusive) into ``data`` and ``indices``.

        ``columns`` holds the columns' responses, ``wide`` for each component, ``rows`` the rows' by fours, ``group`` for each
        four components; ``profile`` is (rows, wide). ``runs`` (r, 4) int32: row, first column, last (exclusive), and what
        turns a column into a beamlet's number; ``starts`` (r,) what turns it into a place in ``data``.
        """

        def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            arrays = (0, 1, 2, 4, 6, 7, 8)
            held = {k: target.make_array(signature.args[k])(target, builder, arguments[k]) for k in arrays}
            width, stride, begin = arguments[3], arguments[5], arguments[11]
            # they stay in registers for all rows
            responses = []
            for k in range(4 * groups):
                offset = builder.add(builder.mul(width, _LONG(k)), begin)
                responses.append(builder.load(_place(builder, held[2], offset, _EIGHT), align=4))
            lanes = _every_lane(builder, builder.trunc(begin, _INT), _EIGHT_INTS)
            lanes = builder.add(lanes, ir.Constant(_EIGHT_INTS, list(range(_LANES))))
            with cgutils.for_range_slice(builder, arguments[9], arguments[10], _LONG(1)) as (run, _):
                base = builder.mul(run, _LONG(4))
                told = [builder.load(builder.gep(held[7].data, [builder.add(base, _LONG(k))])) for k in range(4)]
                row = builder.sext(told[0], _LONG)

                def total(first_group: int, last_group: int, row: Any = row) -> Any:
                    value = None
                    for k in range(4 * first_group, 4 * last_group):
                        place = builder.add(builder.mul(stride, _LONG(k // 4)), builder.mul(row, _LONG(4)))
                        response = builder.load(builder.gep(held[4].data, [builder.add(place, _LONG(k % 4))]))
                        response = _every_lane(builder, response, _EIGHT)
                        if value is None:
                            value = builder.fmul(response, responses[k])
                        else:
                            value = _fused(builder, response, responses[k], value)
                    return value

                offset = builder.add(builder.mul(row, width), begin)
                value = builder.fmul(
                    total(0, profiled), builder.load(_place(builder, held[6], offset, _EIGHT), align=4)
                )
                if groups > profiled:
                    value = builder.fadd(value, total(profiled, groups))
                low, high, number = (_every_lane(builder, one, _EIGHT_INTS) for one in told[1:])
                some = builder.and_(builder.icmp_signed(">=", lanes, low), builder.icmp_signed("<", lanes, high))
                place = builder.add(builder.load(builder.gep(held[8].data, [run])), begin)
                _store_some(builder, value, held[0], place, some, "f32")
                _store_some(builder, builder.add(lanes, number), held[1], place, some, "i32")
            return target.get_dummy_value()

        kinds = (data, indices, columns, wide, rows, group, profile, runs, starts, top, bottom, first)
        return types.void(*kinds), generate

    return write


_write_one, _write_two, _write_three, _write_four = _writer(1, 1), _writer(2, 2), _writer(2, 3), _writer(2, 4)


@kernel(inline=True)
def _chord(u: Any, aside: Any, cutoff: Any, first: Any, per_mm: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """Columns of a run within the cut-off of a point at ``u``, ``aside`` of the run's row: first and last (exclusive).

    Columns have uniform centres from ``first`` on, ``per_mm`` of them in each mm; the run has those from ``low`` to ``high``.
    All in single precision, so that several runs are done at a time.
    """
    room = cutoff * cutoff - aside * aside
    half = np.sqrt(max(room, np.float32(0.0)))
    begin = max(np.ceil((u - half - first) * per_mm), low)
    end = min(np.floor((u + half - first) * per_mm) + np.float32(1.0), high)
    return begin, max(begin, end) if room >= np.float32(0.0) else begin


@kernel(parallel=True)
def count_rows(
    u_mm: Float32Array,
    v_mm: Float32Array,
    columns: Float32Array,
    runs: Float32Array,
    cutoff_mm: float,
    counts: IntArray,
) -> None:
    """Add to ``counts`` (n,) how many beamlets of a beam have centres within the cut-off of each point.

    ``columns`` (3,): the first and the last column's centre, and columns per mm. ``runs`` (3, r) of beamlets along a row, in
    the order of rows: the row's centre, first column, last (exclusive).
    """
    cutoff, count = np.float32(cutoff_mm), runs.shape[1]
    left, right, per_mm = columns[0] - cutoff, columns[1] + cutoff, columns[2]
    lower, upper = runs[0, 0] - cutoff, runs[0, count - 1] + cutoff
    for n in prange(u_mm.shape[0]):
        u, v = u_mm[n], v_mm[n]
        if u < left or u > right or v < lower or v > upper:
            continue
        found = np.int32(0)
        for run in range(count):
            first, last = _chord(u, runs[0, run] - v, cutoff, columns[0], per_mm, runs[1, run], runs[2, run])
            found += np.int32(last - first)
        counts[n] += found


@kernel(parallel=True)
def fill_rows(
    u_mm: Float32Array, v_mm: Float32Array, weight: Float32Array, groups: IntArray, axes: Float32Array,
    along: Float32Array, across: Float32Array, profile: Float32Array,
    columns: Float32Array, runs: Float32Array, numbers: Int32Array, cutoff_mm: float, unit: float,
    start: int, stop: int, places: IntArray, indices: Int32Array, data: Float32Array,
) -> None:  # fmt: skip
    """Write a beam's part of rows ``start`` to ``stop`` (exclusive) from ``places`` (n,) on, and move them behind it.

    An element is the sum over components of ``weight`` (n, 8) x response along x response across, each of them linear between
    the points of a map, as :func:`~dicomplan.dose._kernels_pencil.gather` has them. Components come in fours: ``groups``
    (g, 5) are the layer of each (4 x layer: the first weight), its maps' nx and ny, and where its values begin in ``along``
    (nx x 4 x width) and in ``across`` (ny x rows x 4). The first two groups, or the only one, are multiplied by ``profile``
    (rows, width); the third, and the fourth of a source with a tail, are not. The width is that of all columns and eight
    more, which hold zeros, as do eight elements at the end of ``across``. ``axes`` as of gather; ``numbers`` (r, 2) row and
    number of the first beamlet of each of the
    ``runs``, which with ``columns`` are those of :func:`count_rows`.
    """
    cutoff, zero, one = np.float32(cutoff_mm), np.float32(0.0), np.float32(1.0)
    left, right, per_mm = columns[0] - cutoff, columns[1] + cutoff, columns[2]
    strips, wide, rows = runs.shape[1], profile.shape[1], profile.shape[0]
    lower, upper = runs[0, 0] - cutoff, runs[0, strips - 1] + cutoff
    count, fours, group = stop - start, groups.shape[0], 4 * rows + _LANES
    for block in prange((count + _BLOCK - 1) // _BLOCK):
        row_response = np.zeros(fours * group, dtype=np.float32)
        column_response = np.zeros(4 * fours * wide, dtype=np.float32)
        chords = np.zeros((2, strips), dtype=np.float32)
        told, starts = np.zeros((strips, 4), dtype=np.int32), np.zeros(strips, dtype=np.int64)
        for n in range(start + block * _BLOCK, start + min((block + 1) * _BLOCK, count)):
            u, v = u_mm[n], v_mm[n]
            if u < left or u > right or v < lower or v > upper:
                continue
            for run in range(strips):
                first, last = _chord(u, runs[0, run] - v, cutoff, columns[0], per_mm, runs[1, run], runs[2, run])
                chords[0, run], chords[1, run] = first, last
            place, top, bottom, begin, end = places[n], strips, 0, wide, 0
            for run in range(strips):
                low, high = int(chords[0, run]), int(chords[1, run])
                if high > low:
                    top, bottom = min(top, run), run + 1
                    begin, end = min(begin, low), max(end, high)
                told[run, 0], told[run, 1], told[run, 2] = numbers[run, 0], low, high
                told[run, 3] = numbers[run, 1] - np.int32(runs[1, run])
                starts[run] = place - low
                place += high - low
            places[n] = place
            if top >= bottom:
                continue
            row_first, row_last = numbers[top, 0], numbers[bottom - 1, 0] + 1
            for g in range(fours):
                layer, nx, ny = groups[g, 0], groups[g, 1], groups[g, 2]
                x = (u - axes[layer, 0]) * axes[layer, 2]
                y = (v - axes[layer, 1]) * axes[layer, 2]
                on_map = np.float32(unit)
                if x < zero or y < zero or x > np.float32(nx - 1) or y > np.float32(ny - 1):
                    on_map, x, y = zero, zero, zero
                i, j = min(int(x), nx - 2), min(int(y), ny - 2)
                a, b = x - np.float32(i), y - np.float32(j)
                for k in range(4):
                    source, scale = groups[g, 3] + (4 * i + k) * wide, weight[n, 4 * layer + k] * on_map
                    for c in range(begin, end, _LANES):
                        _interpolate(column_response, (4 * g + k) * wide + c, along, source + c, 4 * wide, a, scale)
                source = groups[g, 4] + 4 * rows * j
                for r in range(4 * row_first, 4 * row_last, _LANES):
                    _interpolate(row_response, g * group + r, across, source + r, 4 * rows, b, one)
            for c in range(begin, end, _LANES):
                if fours == 1:
                    _write_one(
                        data, indices, column_response, wide, row_response, group, profile, told, starts, top, bottom, c
                    )
                elif fours == 2:
                    _write_two(
                        data, indices, column_response, wide, row_response, group, profile, told, starts, top, bottom, c
                    )
                elif fours == 3:
                    _write_three(
                        data, indices, column_response, wide, row_response, group, profile, told, starts, top, bottom, c
                    )
                else:
                    _write_four(
                        data, indices, column_response, wide, row_response, group, profile, told, starts, top, bottom, c
                    )


@kernel(parallel=True)
def product(starts: IntArray, indices: UInt32Array, data: Float32Array, x: FloatArray, out: Float32Array) -> None:
    """``out`` (rows,) = matrix x ``x``: rows as in CSR, each summed in double precision in a fixed order.

    Unsigned indices need no look whether they count from the end, and slices no sum for each place: twice as fast.
    """
    for n in prange(out.shape[0]):
        columns, elements = indices[starts[n] : starts[n + 1]], data[starts[n] : starts[n + 1]]
        a, b, c, d = 0.0, 0.0, 0.0, 0.0
        fours = len(columns) // 4
        for k in range(fours):
            a += elements[4 * k] * x[columns[4 * k]]
            b += elements[4 * k + 1] * x[columns[4 * k + 1]]
            c += elements[4 * k + 2] * x[columns[4 * k + 2]]
            d += elements[4 * k + 3] * x[columns[4 * k + 3]]
        for k in range(4 * fours, len(columns)):
            a += elements[k] * x[columns[k]]
        out[n] = (a + b) + (c + d)


@kernel(parallel=True)
def transposed_product(
    starts: IntArray, indices: UInt32Array, data: Float32Array, gradient: FloatArray, parts: FloatArray
) -> None:
    """The transpose of :func:`product`: each of the equal shares of rows adds into its own of ``parts`` (shares, columns).

    The shares do not depend on the number of threads, so neither do the sums.
    """
    shares, rows = parts.shape[0], gradient.shape[0]
    for share in prange(shares):
        own = parts[share]
        own[:] = 0.0
        for n in range(share * rows // shares, (share + 1) * rows // shares):
            g = gradient[n]
            if g != 0.0:
                columns, elements = indices[starts[n] : starts[n + 1]], data[starts[n] : starts[n + 1]]
                for k in range(len(columns)):
                    own[columns[k]] += elements[k] * g


@kernel(parallel=True)
def copy_rows(
    starts: IntArray, indices: Int32Array, data: Float32Array, rows: IntArray,
    new_starts: IntArray, new_indices: Int32Array, new_data: Float32Array,
) -> None:  # fmt: skip
    """The rows ``rows`` (n,) of a matrix in CSR to where ``new_starts`` (n + 1,) says."""
    for n in prange(rows.shape[0]):
        first, last = starts[rows[n]], starts[rows[n] + 1]
        new_indices[new_starts[n] : new_starts[n + 1]] = indices[first:last]
        new_data[new_starts[n] : new_starts[n + 1]] = data[first:last]

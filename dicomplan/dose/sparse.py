"""The influence of beamlets on voxels as a sparse matrix that is held: rows voxels, columns beamlets, CSR.

Elements are those of :mod:`dicomplan.dose.influence`, computed from the same factors, so that both operators say the same
within rounding. A matrix has to end somewhere: what lies beyond its cut-off is either carried by the coarse maps of the
factorised form (:func:`explicit_influence` without a cut-off), or left out and counted (:func:`left_out`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from dicomplan.dose._kernels_explicit import copy_rows, count_rows, fill_rows, product, transposed_product
from dicomplan.dose.influence import BeamInfluence, FactorisedInfluence
from dicomplan.dose.pencil_beam import LAYERS
from dicomplan.errors import InsufficientMemoryError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]
IntArray = NDArray[np.int64]

_CHUNK = 1024  # rows of each thread that all beams write before the next: about what its cache holds
_LANES = 8  # elements that the kernel takes beyond the last column
_SHARES = 8  # of the rows in the transposed product: fixed, so that sums do not depend on the threads
_ELEMENT_BYTES = 8
_ROW_BYTES = 16


@dataclass(frozen=True)
class ExplicitInfluence:
    """Dose of a plan's beamlets on voxels as a matrix in CSR, Gy of the course per MU of one fraction.

    ``starts`` (voxels + 1,) int64, ``indices`` (nonzeros,) int32 rising within a row, ``data`` (nonzeros,) float32.
    ``rest`` adds what the matrix leaves to the coarse maps; None where it was left out.
    """

    starts: IntArray
    indices: Int32Array
    data: Float32Array
    beamlet_count: int
    rest: FactorisedInfluence | None

    @property
    def voxel_count(self) -> int:
        """Number of voxels."""
        return len(self.starts) - 1

    @property
    def nonzeros(self) -> int:
        """Number of elements that are held."""
        return len(self.data)

    @property
    def bytes(self) -> int:
        """Memory that the operator holds."""
        own = self.starts.nbytes + self.indices.nbytes + self.data.nbytes
        return own + (self.rest.bytes if self.rest is not None else 0)

    def forward(self, fluence_mu: FloatArray) -> Float32Array:
        """Dose (voxels,) in Gy of the course for a fluence (beamlets,) in MU of an open field, of one fraction."""
        dose = np.empty(self.voxel_count, dtype=np.float32)
        fluence = np.ascontiguousarray(fluence_mu, dtype=np.float64)
        product(self.starts, self.indices.view(np.uint32), self.data, fluence, dose)
        if self.rest is not None:
            dose += self.rest.forward(fluence)
        return dose

    def adjoint(self, gradient: NDArray[np.floating]) -> FloatArray:
        """(beamlets,) transpose of :meth:`forward` applied to a gradient (voxels,) per Gy: per MU."""
        parts = np.empty((_SHARES, self.beamlet_count))
        double = np.ascontiguousarray(gradient, dtype=np.float64)
        transposed_product(self.starts, self.indices.view(np.uint32), self.data, double, parts)
        result: FloatArray = parts.sum(axis=0)
        if self.rest is not None:
            result += self.rest.adjoint(gradient)
        return result

    def on_voxels(self, rows: IntArray) -> ExplicitInfluence:
        """The matrix of some of its rows, in their order."""
        starts = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(self.starts[rows + 1] - self.starts[rows], out=starts[1:])
        indices, data = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1], dtype=np.float32)
        copy_rows(self.starts, self.indices, self.data, np.ascontiguousarray(rows), starts, indices, data)
        rest = self.rest.on_voxels(rows) if self.rest is not None else None
        return ExplicitInfluence(starts, indices, data, self.beamlet_count, rest)

    def to_scipy(self) -> csr_array:
        """The held elements as ``scipy.sparse.csr_array`` (voxels, beamlets) float32; ``rest`` is not among them."""
        from scipy.sparse import csr_array

        # scipy keeps one type for both index arrays
        starts = self.starts.astype(np.int32) if self.nonzeros < 2**31 else self.starts
        return csr_array((self.data, self.indices, starts), shape=(self.voxel_count, self.beamlet_count))


def explicit_influence(
    operator: FactorisedInfluence, cutoff_mm: float | None = None, available_bytes: int | None = None
) -> ExplicitInfluence:
    """The matrix of a factorised operator's beams.

    With ``cutoff_mm``: every element whose voxel, projected to the isocentre plane, is no farther than it from the
    beamlet's centre; nothing else (:func:`left_out` says how much that is). Without: of every such element within the
    fine maps' reach the share of the narrow Gaussians, and ``rest`` restores the wide ones and the extra-focal source
    wherever they reach. No element is left out for being small.

    Raises InsufficientMemoryError where the matrix would take more than ``available_bytes``, ValueError for columns that
    are not equally wide.
    """
    fine = LAYERS[0]
    layers = (0,) if cutoff_mm is None else (0, 1)
    reach = cutoff_mm
    counts = np.zeros(operator.voxel_count, dtype=np.int64)
    parts = []
    number = 0
    for beam in operator.beams:
        own = _cut(beam, number, fine.reach_mm if reach is None else reach)
        number += beam.beamlets.count
        parts.append(own)
        if own.runs.size:
            count_rows(beam.samples.u_mm, beam.samples.v_mm, own.columns, own.runs, own.cutoff_mm, counts)
    starts = np.zeros(operator.voxel_count + 1, dtype=np.int64)
    np.cumsum(counts, out=starts[1:])
    needed = explicit_bytes(operator.voxel_count, int(starts[-1]))
    if available_bytes is not None and needed > available_bytes:
        raise InsufficientMemoryError(
            f"the influence matrix needs about {needed / 1e9:.1f} GB of memory, {available_bytes / 1e9:.1f} GB are free",
            hint="the factorised form needs no matrix; or use a coarser grid or a shorter cut-off",
        )
    indices, data = np.empty(starts[-1], dtype=np.int32), np.empty(starts[-1], dtype=np.float32)
    places = starts[:-1].copy()
    tables = [_tables(beam, layers) for beam in operator.beams]
    # some voxels of every beam, then the next ones: a row's parts meet in the cache
    at_once = _CHUNK * get_num_threads()
    for start in range(0, operator.voxel_count, at_once):
        rows = (start, min(start + at_once, operator.voxel_count))
        for beam, own, held in zip(operator.beams, parts, tables, strict=True):
            if own.runs.size:
                fill_rows(
                    beam.samples.u_mm, beam.samples.v_mm, beam.samples.weight, held.groups, beam.axes,
                    held.along, held.across, held.profile, own.columns, own.runs, own.numbers, own.cutoff_mm,
                    operator.gy_per_unit, *rows, places, indices, data,
                )  # fmt: skip
    rest = _coarse_only(operator) if reach is None else None
    return ExplicitInfluence(starts, indices, data, number, rest)


def explicit_bytes(voxels: int, nonzeros: int) -> int:
    """Memory that a matrix of so many rows and elements takes while it is built."""
    return _ELEMENT_BYTES * nonzeros + _ROW_BYTES * voxels


@dataclass(frozen=True)
class LeftOut:
    """What a matrix leaves out of the dose of an open field of all beamlets, as fractions of the complete dose.

    ``target_mean``: of the target's mean dose; ``body_integral``: of the body's integral dose.
    """

    target_mean: float
    body_integral: float

    @property
    def allowed(self) -> bool:
        """Whether it is below 0.5 % of the target's mean dose and 1 % of the body's integral dose."""
        return self.target_mean < 0.005 and self.body_integral < 0.01


def left_out(
    matrix: ExplicitInfluence, complete: FactorisedInfluence, target: NDArray[np.floating], body: NDArray[np.floating]
) -> LeftOut:
    """What a matrix leaves out of the complete operator, for target and body given by their volume in each voxel (n,)."""
    opened = np.ones(matrix.beamlet_count)
    whole = complete.forward(opened).astype(np.float64)
    missing = whole - matrix.forward(opened)
    shares = [float(missing @ part) / float(whole @ part) for part in (target, body)]
    return LeftOut(shares[0], shares[1])


def shortest_influence(
    operator: FactorisedInfluence,
    target: NDArray[np.floating],
    body: NDArray[np.floating],
    available_bytes: int | None = None,
) -> tuple[ExplicitInfluence, float, LeftOut]:
    """The matrix of the shortest cut-off (60 mm and on, in steps of 20) that leaves out no more than is allowed.

    With it the cut-off in mm, and what it leaves out.
    Arguments as of :func:`left_out` and :func:`explicit_influence`, whose errors it raises; ValueError where not even
    500 mm are enough.
    """
    for cutoff_mm in np.arange(60.0, 501.0, 20.0).tolist():
        matrix = explicit_influence(operator, cutoff_mm, available_bytes)
        lost = left_out(matrix, operator, target, body)
        if lost.allowed:
            return matrix, cutoff_mm, lost
        del matrix  # before the next one is built
    raise ValueError("no cut-off leaves out as little as is allowed")


@dataclass(frozen=True)
class _Cut:
    """A beam's beamlets as the kernels take them (:func:`count_rows`, :func:`fill_rows`), and the cut-off."""

    columns: Float32Array
    runs: Float32Array
    numbers: Int32Array
    cutoff_mm: float


def _cut(beam: BeamInfluence, first_number: int, cutoff_mm: float) -> _Cut:
    """Runs of beamlets along the rows, numbered from ``first_number`` on."""
    cells = beam.beamlets
    widths = np.diff(cells.x_edges_mm)
    if np.ptp(widths) > 1e-6:
        raise ValueError("the beamlets of a beam differ in width")
    edge = np.zeros((cells.active.shape[0], 1), dtype=np.int8)
    change = np.diff(np.concatenate([edge, cells.active.astype(np.int8), edge], axis=1), axis=1)
    row, first = np.nonzero(change == 1)
    last = np.nonzero(change == -1)[1]
    number = first_number + np.cumsum(last - first) - (last - first)
    x_mm = 0.5 * (cells.x_edges_mm[1:] + cells.x_edges_mm[:-1])
    y_mm = 0.5 * (cells.y_edges_mm[1:] + cells.y_edges_mm[:-1])
    columns = np.array([x_mm[0], x_mm[-1], 1.0 / widths[0]], dtype=np.float32)
    runs = np.stack([y_mm[row], first, last]).astype(np.float32)
    return _Cut(columns, runs, np.column_stack([row, number]).astype(np.int32), cutoff_mm)


@dataclass(frozen=True)
class _Tables:
    """A beam's responses as :func:`fill_rows` takes them."""

    groups: IntArray
    along: Float32Array
    across: Float32Array
    profile: Float32Array


def _tables(beam: BeamInfluence, layers: tuple[int, ...]) -> _Tables:
    """Responses of a beam's rows and columns of beamlets in these layers."""
    primary = [(layer, beam.layers[layer].across, beam.layers[layer].along) for layer in layers]
    # of an extra-focal source with a tail there are eight maps
    extra = [
        (layer, beam.layers[layer].extra_across[first : first + 4], beam.layers[layer].extra_along[first : first + 4])
        for layer in layers
        for first in range(0, len(beam.layers[layer].extra_across), 4)
    ]
    rows, columns = beam.profile.shape
    wide = columns + _LANES
    groups: list[tuple[int, ...]] = []
    along: list[Float32Array] = []
    across: list[Float32Array] = []
    for layer, by_row, by_column in primary + extra:
        if len(by_row) == 0:
            continue
        held, ny, nx = len(by_row), by_row.shape[1], by_column.shape[2]
        groups.append((layer, nx, ny, sum(a.size for a in along), sum(a.size for a in across)))
        # the kernel takes components in fours, and columns in eights
        points = np.zeros((nx, 4, wide), dtype=np.float32)
        points[:, :held, :columns] = by_column.transpose(2, 0, 1)
        along.append(points.ravel())
        points = np.zeros((ny, rows, 4), dtype=np.float32)
        points[:, :, :held] = by_row.transpose(1, 2, 0)
        across.append(points.ravel())
    across.append(np.zeros(_LANES, dtype=np.float32))
    profile = np.zeros((rows, wide), dtype=np.float32)
    profile[:, :columns] = beam.profile
    return _Tables(np.array(groups, dtype=np.int64), np.concatenate(along), np.concatenate(across), profile)


def _coarse_only(operator: FactorisedInfluence) -> FactorisedInfluence:
    """The operator without its fine maps: their responses are none of them."""
    beams = []
    for beam in operator.beams:
        fine = beam.layers[0]
        # two by two points far away: a map that no voxel lies on
        empty = replace(
            fine,
            across=np.zeros((1, 2, fine.across.shape[2]), dtype=np.float32),
            along=np.zeros((1, fine.along.shape[1], 2), dtype=np.float32),
            extra_across=fine.extra_across[:0, :2],
            extra_along=fine.extra_along[:0, :, :2],
        )
        axes = beam.axes.copy()
        axes[0, :2] = 1e6
        beams.append(replace(beam, layers=(empty, *beam.layers[1:]), axes=axes))
    return replace(operator, beams=tuple(beams))

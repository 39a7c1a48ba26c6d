"""Points where targets and organs end: there goals are won or lost, and the optimiser has to see the dose as it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.coverage import coverage_on_grid
from dicomplan.planning.case import PlanningCase

FloatArray = NDArray[np.float64]
Float32Array = NDArray[np.float32]
IntArray = NDArray[np.int64]

_PARTS = 3  # along each axis, of a voxel at a border
_FEWER_PARTS = 2  # where that would give more points than
_MOST_POINTS = 300_000
_LEAST, _WHOLE = 1e-3, 0.999  # of a part that a structure covers: no more than a trace; no border runs through it
_EVERY = -1  # a point of all structures that cover its part wholly


@dataclass(frozen=True)
class BorderPoints:
    """Where structures end, dose is looked at between voxel centres.

    ``cells`` (c,) rising places in the list of voxels that are cut into points (there the ``structures`` have no voxels, but
    points); ``holder`` (m,) for each point the voxel that it lies in, a place in the same list; ``part`` (m,) in which of the
    voxel's ``parts`` cubed parts it lies, counted z, y, x; ``place`` (3, m) where in the voxel, z, y, x from its centre in
    voxels; ``owner`` (m,) the one of ``structures`` whose border runs through the part, -1 for all that cover it wholly.

    Points lie anywhere in what of the part their structure covers (random, the same each time). In the middles of parts, a
    face along the grid would have them in planes, and of a dose that falls by 6 Gy/mm there the coldest 1 % would be known to
    half a plane's distance: 1 to 2 Gy.
    """

    cells: IntArray
    holder: IntArray
    part: IntArray
    parts: int
    place: FloatArray
    owner: IntArray
    structures: tuple[str, ...]

    def covered(self, case: PlanningCase, structure: str, indices: IntArray) -> Float32Array:
        """(m,) covered fraction of the part that a point stands for; ``indices`` the listed voxels, linear on the dose grid."""
        found = _in_parts(case, structure, indices[self.holder], self.part, self.parts)
        own = self.structures.index(structure)
        stands = np.where(self.owner == _EVERY, found >= _WHOLE, self.owner == own)
        result: Float32Array = np.where(stands, found, np.float32(0.0))
        return result


def border_points(
    case: PlanningCase, structures: Sequence[str], cells: IntArray, indices: IntArray, seed: int = 0
) -> BorderPoints:
    """The points of the voxels ``cells`` (places in ``indices``, the voxels that are listed, linear on the dose grid)."""
    parts = _PARTS if len(cells) * _PARTS**3 <= _MOST_POINTS else _FEWER_PARTS
    holder, part = np.repeat(cells, parts**3), np.tile(np.arange(parts**3), len(cells))
    at = indices[holder]
    shared = np.zeros(len(part), dtype=np.bool_)
    chosen, owners, centres, widths = [], [], [], []
    for number, name in enumerate(structures):
        covered = _in_parts(case, name, at, part, parts)
        shared |= covered >= _WHOLE
        crossed = np.flatnonzero((covered > _LEAST) & (covered < _WHOLE))
        centre, width = _covered_places(case, name, at[crossed], part[crossed], parts)
        chosen.append(crossed)
        owners.append(np.full(len(crossed), number))
        centres.append(centre)
        widths.append(width)
    whole = np.flatnonzero(shared)
    which = np.concatenate([whole, *chosen])
    owner = np.concatenate([np.full(len(whole), _EVERY), *owners])
    centre = np.concatenate([np.zeros((3, len(whole))), *centres], axis=1)
    width = np.concatenate([np.ones((3, len(whole))), *widths], axis=1)
    order = np.argsort(which, kind="stable")
    which = which[order]
    anywhere = np.random.default_rng(seed).random((3, len(which))) - 0.5
    inside = centre[:, order] + width[:, order] * anywhere
    place = (np.array(np.unravel_index(part[which], (parts,) * 3)) + 0.5 + inside) / parts - 0.5
    return BorderPoints(cells, holder[which], part[which], parts, place, owner[order], tuple(structures))


def _covered_places(
    case: PlanningCase, structure: str, at: IntArray, part: IntArray, parts: int
) -> tuple[FloatArray, FloatArray]:
    """(3, n) middle and (3, n) width of what a structure covers of some parts: from their middles, in parts.

    Exact where a face cuts them square to an axis. Arguments as of :func:`_in_parts`.
    """
    first = np.array(np.unravel_index(part, (parts,) * 3))
    covered, lean = np.zeros(len(part)), np.zeros((3, len(part)))
    for corner in np.ndindex(2, 2, 2):
        side = np.array(corner)[:, None]
        finer = np.ravel_multi_index(tuple(2 * first + side), (2 * parts,) * 3)
        of_corner = 0.125 * _in_parts(case, structure, at, finer, 2 * parts).astype(np.float64)
        covered += of_corner
        lean += of_corner * (2.0 * side - 1.0)
    # how much of what is missing is missing at one end: all of it where a face lies square to the axis, nothing where along it
    least = np.minimum(covered, 1.0 - covered)
    missing = np.clip(lean / np.maximum(least, 1e-6), -1.0, 1.0) * (1.0 - covered)
    return 0.5 * missing, 1.0 - np.abs(missing)


def _in_parts(case: PlanningCase, structure: str, at: IntArray, part: IntArray, cut: int) -> Float32Array:
    """(m,) covered fraction of parts (m,), counted z, y, x, of voxels ``at`` (m,), linear on the dose grid.

    Voxels are cut into ``cut`` parts along each axis.
    """
    grid = case.density.grid
    if len(at) == 0:
        return np.zeros(0, dtype=np.float32)
    where = np.array(np.unravel_index(at, grid.shape))
    low, high = where.min(axis=1), where.max(axis=1) + 1
    box = grid.crop((int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2])))
    covered = coverage_on_grid(case.coverages[structure], _divided(box, cut))
    z, y, x = cut * (where - low[:, None]) + np.array(np.unravel_index(part, (cut,) * 3))
    found: Float32Array = covered[z, y, x]
    return found


def _divided(grid: VoxelGrid, parts: int) -> VoxelGrid:
    """The grid with each voxel cut into ``parts`` along each axis."""
    nz, ny, nx = grid.shape
    dz, dy, dx = grid.spacing_mm
    x, y, z = grid.patient_from_index([0.5 * (1.0 / parts - 1.0)] * 3)
    return replace(
        grid,
        shape=(parts * nz, parts * ny, parts * nx),
        spacing_mm=(dz / parts, dy / parts, dx / parts),
        origin_mm=(float(x), float(y), float(z)),
    )

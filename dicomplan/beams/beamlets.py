"""Beamlets: the cells of a fluence map that see a target."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Beam
from dicomplan.geometry.frames import BeamFrame
from dicomplan.machine.model import MlcModel

FloatArray = NDArray[np.float64]

BEAMLET_MM = 5.0
"""Beamlet size along leaf travel, at isocentre, where leaves can open so little (:func:`column_mm`)."""

MARGIN_MM = 7.0
"""Beamlets reach so far beyond the targets' projection (isocentre plane): the penumbra of a 6 MV field, 90 to 50 %."""


NO_FLASH: NDArray[np.int64] = np.empty((0, 2), dtype=np.int64)


@dataclass(frozen=True)
class BeamletMap:
    """Beamlets of one beam: rows are leaf pairs ``first_leaf_pair``, ... (from 0), columns lie between ``x_edges_mm``.

    ``y_edges_mm`` (rows + 1,) are leaf boundaries; ``active`` (rows, cols) bool marks the beamlets there are. Their
    order in a plan's fluence is row by row, along the leaf. Beam limiting device coordinates at isocentre, mm.
    ``flash`` (pairs, 2): beamlets beyond the skin, each with the one on the patient whose fluence it is to have.
    """

    beam: Beam
    first_leaf_pair: int
    x_edges_mm: FloatArray
    y_edges_mm: FloatArray
    active: NDArray[np.bool_]
    flash: NDArray[np.int64] = field(default_factory=lambda: NO_FLASH)

    @property
    def count(self) -> int:
        """Number of beamlets."""
        return int(np.count_nonzero(self.active))

    def filled(self, fluence_mu: FloatArray) -> FloatArray:
        """(rows, cols) map with the values of the beamlets (count,) in their cells, 0 elsewhere."""
        result = np.zeros(self.active.shape)
        result[self.active] = fluence_mu
        return result

    def along_leaf(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (first, second) of beamlets that lie side by side along a leaf pair."""
        number = _numbers(self.active)
        return _pairs(number[:, :-1], number[:, 1:])

    def across_leaves(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (first, second) of beamlets that lie side by side across two leaf pairs."""
        number = _numbers(self.active)
        return _pairs(number[:-1], number[1:])


def column_mm(mlc: MlcModel) -> float:
    """Width of beamlets along leaf travel, at isocentre: what the leaves can open alone.

    :data:`BEAMLET_MM`, or the edges of radiation that a pair makes at its minimum gap, rounded up to 1 mm. A narrower column
    could be optimised, but neither opened alone nor swept over without what is beside it.
    """
    least = mlc.min_gap_mm + 2.0 * mlc.leaf_end_offset_mm
    return max(BEAMLET_MM, float(np.ceil(least - 1e-6)))


def _numbers(active: NDArray[np.bool_]) -> NDArray[np.int64]:
    number = np.full(active.shape, -1, dtype=np.int64)
    number[active] = np.arange(np.count_nonzero(active))
    return number


def _pairs(one: NDArray[np.int64], other: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    both = (one >= 0) & (other >= 0)
    return one[both], other[both]


@dataclass(frozen=True)
class Skin:
    """What a beam is to reach beyond: ``points_mm`` (n, 3; patient mm) fill the body at ``spacing_mm``; by ``flash_mm``."""

    points_mm: FloatArray
    spacing_mm: float
    flash_mm: float


def beamlets(
    beam: Beam,
    frame: BeamFrame,
    target_points_mm: FloatArray,
    mlc: MlcModel,
    margin_mm: float = MARGIN_MM,
    skin: Skin | None = None,
) -> BeamletMap:
    """Beamlets that cover the projection of the target points (n, 3; patient mm) with a margin.

    Columns are :func:`column_mm` wide with edges at its multiples, rows the machine's leaf pairs. A gap within a row
    is filled, so that a leaf pair can open over it. With ``skin`` beamlets also lie beyond the body's silhouette, up to
    ``flash_mm`` from it, where the field without them ends at the skin. Columns lie where a leaf of either bank can stand:
    what the opposed leaf cannot cover, nothing could modulate. Raises ValueError where no target lies within
    the leaves' reach.
    """
    projected = frame.project(target_points_mm)[:, :2]
    boundaries = mlc.leaf_boundaries_mm
    reach = margin_mm + (skin.flash_mm if skin is not None else 0.0)
    width = column_mm(mlc)
    most = int(min(mlc.retraction_mm, mlc.over_travel_mm) / width + 1e-6)
    first = max(int(np.floor((float(projected[:, 0].min()) - reach) / width)), -most)
    last = min(int(np.ceil((float(projected[:, 0].max()) + reach) / width)), most)
    if last <= first:
        raise ValueError("the targets lie beyond the reach of the leaves")
    x_edges: FloatArray = np.arange(first, last + 1, dtype=np.float64) * width
    active = _near(projected, x_edges, boundaries, margin_mm)
    beyond = np.zeros_like(active)
    if skin is not None:
        # a disc of 0.87 voxels about each centre, half the space diagonal, leaves no holes in the silhouette
        body, hole = frame.project(skin.points_mm)[:, :2], 0.87 * skin.spacing_mm
        outside = ~_near(body, x_edges, boundaries, hole)
        # only where the field itself ends at the skin: elsewhere tissue lies between the two
        edge = _centres(active & _beside(outside), x_edges, boundaries)
        if len(edge):
            beyond = (
                outside
                & _near(body, x_edges, boundaries, hole + skin.flash_mm)
                & _near(edge, x_edges, boundaries, skin.flash_mm)
            )
            active |= beyond
    rows = np.flatnonzero(active.any(axis=1))
    if len(rows) == 0:
        raise ValueError("the targets lie beyond the leaves")
    active, beyond = active[rows[0] : rows[-1] + 1], beyond[rows[0] : rows[-1] + 1]
    columns = np.arange(active.shape[1])
    start = np.where(active.any(axis=1), active.argmax(axis=1), active.shape[1])
    stop = active.shape[1] - active[:, ::-1].argmax(axis=1)
    filled = (columns >= start[:, None]) & (columns < stop[:, None])
    y_edges = boundaries[rows[0] : rows[-1] + 2]
    return BeamletMap(beam, int(rows[0]), x_edges, y_edges, filled, _tied(filled, beyond, x_edges, y_edges))


def _beside(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cells that touch one of these, also at a corner."""
    from scipy.ndimage import binary_dilation

    result: NDArray[np.bool_] = binary_dilation(cells, np.ones((3, 3), dtype=np.bool_))
    return result


def _centres(cells: NDArray[np.bool_], x_edges: FloatArray, y_edges: FloatArray) -> FloatArray:
    """(n, 2) x and y of the centres of cells, mm."""
    y, x = np.meshgrid(0.5 * (y_edges[1:] + y_edges[:-1]), 0.5 * (x_edges[1:] + x_edges[:-1]), indexing="ij")
    return np.stack([x[cells], y[cells]], axis=-1)


def _tied(
    active: NDArray[np.bool_], beyond: NDArray[np.bool_], x_edges: FloatArray, y_edges: FloatArray
) -> NDArray[np.int64]:
    """(pairs, 2) each beamlet beyond the skin with the nearest one that is not."""
    if not beyond.any():
        return NO_FLASH
    from scipy.spatial import KDTree

    number, inside = _numbers(active), active & ~beyond
    nearest = KDTree(_centres(inside, x_edges, y_edges)).query(_centres(beyond, x_edges, y_edges))[1]
    return np.stack([number[beyond], number[inside][nearest]], axis=-1)


def _near(projected: FloatArray, x_edges: FloatArray, y_edges: FloatArray, margin_mm: float) -> NDArray[np.bool_]:
    """(rows, cols) whether a cell is nearer than the margin to a projected point, by a disc on a 1 mm raster."""
    from scipy.ndimage import distance_transform_edt

    x0, y0 = x_edges[0] - margin_mm, y_edges[0] - margin_mm
    shape = (int(y_edges[-1] - y0 + margin_mm) + 1, int(x_edges[-1] - x0 + margin_mm) + 1)
    x, y = np.floor(projected[:, 0] - x0).astype(int), np.floor(projected[:, 1] - y0).astype(int)
    inside = (x >= 0) & (y >= 0) & (x < shape[1]) & (y < shape[0])
    raster = np.zeros(shape, dtype=np.bool_)
    raster[y[inside], x[inside]] = True
    near = distance_transform_edt(~raster) <= margin_mm
    rows = np.searchsorted(y_edges, y0 + np.arange(shape[0]) + 0.5, side="right") - 1
    columns = np.searchsorted(x_edges, x0 + np.arange(shape[1]) + 0.5, side="right") - 1
    row, column = np.meshgrid(rows, columns, indexing="ij")
    on_map = near & (row >= 0) & (row < len(y_edges) - 1) & (column >= 0) & (column < len(x_edges) - 1)
    result = np.zeros((len(y_edges) - 1, len(x_edges) - 1), dtype=np.bool_)
    result[row[on_map], column[on_map]] = True
    return result

"""Beamlets: the cells of a fluence map that see a target."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.delivery import Beam
from dicomplan.geometry.frames import BeamFrame
from dicomplan.machine.model import MlcModel

FloatArray = NDArray[np.float64]

BEAMLET_MM = 5.0
"""Beamlet size along leaf travel, at isocentre."""

MARGIN_MM = 7.0
"""Beamlets reach so far beyond the targets' projection (isocentre plane): the penumbra of a 6 MV field, 90 to 50 %."""


@dataclass(frozen=True)
class BeamletMap:
    """Beamlets of one beam: rows are leaf pairs ``first_leaf_pair``, ... (from 0), columns lie between ``x_edges_mm``.

    ``y_edges_mm`` (rows + 1,) are leaf boundaries; ``active`` (rows, cols) bool marks the beamlets there are. Their
    order in a plan's fluence is row by row, along the leaf. Beam limiting device coordinates at isocentre, mm.
    """

    beam: Beam
    first_leaf_pair: int
    x_edges_mm: FloatArray
    y_edges_mm: FloatArray
    active: NDArray[np.bool_]

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
        number = self._numbers()
        return _pairs(number[:, :-1], number[:, 1:])

    def across_leaves(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs (first, second) of beamlets that lie side by side across two leaf pairs."""
        number = self._numbers()
        return _pairs(number[:-1], number[1:])

    def _numbers(self) -> NDArray[np.int64]:
        number = np.full(self.active.shape, -1, dtype=np.int64)
        number[self.active] = np.arange(self.count)
        return number


def _pairs(one: NDArray[np.int64], other: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    both = (one >= 0) & (other >= 0)
    return one[both], other[both]


def beamlets(
    beam: Beam, frame: BeamFrame, target_points_mm: FloatArray, mlc: MlcModel, margin_mm: float = MARGIN_MM
) -> BeamletMap:
    """Beamlets that cover the projection of the target points (n, 3; patient mm) with a margin.

    Columns are :data:`BEAMLET_MM` wide with edges at its multiples, rows the machine's leaf pairs. A gap within a row
    is filled, so that a leaf pair can open over it. Raises ValueError where no target lies within the leaves' reach.
    """
    projected = frame.project(target_points_mm)[:, :2]
    boundaries = mlc.leaf_boundaries_mm
    low_x = max(float(projected[:, 0].min()) - margin_mm, -mlc.retraction_mm)
    high_x = min(float(projected[:, 0].max()) + margin_mm, mlc.retraction_mm)
    first, last = int(np.floor(low_x / BEAMLET_MM)), int(np.ceil(high_x / BEAMLET_MM))
    if last <= first:
        raise ValueError("the targets lie beyond the reach of the leaves")
    x_edges: FloatArray = np.arange(first, last + 1, dtype=np.float64) * BEAMLET_MM
    active = _near(projected, x_edges, boundaries, margin_mm)
    rows = np.flatnonzero(active.any(axis=1))
    if len(rows) == 0:
        raise ValueError("the targets lie beyond the leaves")
    active = active[rows[0] : rows[-1] + 1]
    columns = np.arange(active.shape[1])
    start = np.where(active.any(axis=1), active.argmax(axis=1), active.shape[1])
    stop = active.shape[1] - active[:, ::-1].argmax(axis=1)
    filled = (columns >= start[:, None]) & (columns < stop[:, None])
    return BeamletMap(beam, int(rows[0]), x_edges, boundaries[rows[0] : rows[-1] + 2], filled)


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

"""Margins: expanding and shrinking structures by six sides, as fractional coverage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import Coverage

if TYPE_CHECKING:
    from dicomplan.geometry.distance import Reach

SIDES = ("left", "right", "anterior", "posterior", "superior", "inferior")
"""Patient sides of a margin: DICOM +x, -x, -y, +y, +z, -z."""


@dataclass(frozen=True)
class Margin:
    """Margin in mm towards the six patient sides (LPS: left +x, posterior +y, superior +z); ellipsoidal between them.

    Raises ValueError if one is negative (shrinking is :func:`shrink`).
    """

    left_mm: float = 0.0
    right_mm: float = 0.0
    anterior_mm: float = 0.0
    posterior_mm: float = 0.0
    superior_mm: float = 0.0
    inferior_mm: float = 0.0

    def __post_init__(self) -> None:
        if min(self.sides_mm) < 0:
            raise ValueError(f"a margin is not negative: {self.sides_mm} mm")

    @property
    def sides_mm(self) -> tuple[float, float, float, float, float, float]:
        """The six margins in mm in the order of :data:`SIDES`."""
        return (
            self.left_mm,
            self.right_mm,
            self.anterior_mm,
            self.posterior_mm,
            self.superior_mm,
            self.inferior_mm,
        )

    @classmethod
    def uniform(cls, margin_mm: float) -> Margin:
        """The same margin in mm towards all sides."""
        return cls(*(margin_mm,) * 6)


def cropped(coverage: Coverage) -> Coverage:
    """The same coverage on the smallest grid that holds it with one empty cell around in plane where there is one.

    A coverage of zeros keeps its grid.
    """
    spans = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(coverage.fraction.any(axis=others))
        if len(used) == 0:
            return coverage
        around = 0 if axis == 0 else 1
        spans.append((max(int(used[0]) - around, 0), min(int(used[-1]) + 1 + around, coverage.grid.shape[axis])))
    start = (spans[0][0], spans[1][0], spans[2][0])
    stop = (spans[0][1], spans[1][1], spans[2][1])
    if start == (0, 0, 0) and stop == coverage.grid.shape:
        return coverage
    part = coverage.fraction[start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]]
    return Coverage(coverage.grid.crop(start, stop), np.ascontiguousarray(part))


def _reach(margin: Margin, grid: VoxelGrid) -> Reach:
    """The margin along the grid's own axes; on turned grids each axis takes the sides of the patient axis next to it."""
    from dicomplan.geometry.distance import Reach

    left, right, anterior, posterior, superior, inferior = margin.sides_mm
    towards_high, towards_low = (left, posterior, superior), (right, anterior, inferior)  # of patient x, y, z
    low, high = [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]
    for column in range(3):
        axis = grid.direction_matrix[:, column]
        patient = int(np.argmax(np.abs(axis)))
        forward = axis[patient] > 0
        high[2 - column] = (towards_high if forward else towards_low)[patient]
        low[2 - column] = (towards_low if forward else towards_high)[patient]
    return Reach((low[0], low[1], low[2]), (high[0], high[1], high[2]))


def _within_ct(fraction: NDArray[np.float32], grid: VoxelGrid, ct_grid: VoxelGrid) -> Coverage:
    """The coverage without the cells that lie outside the CT."""
    start, stop = [], []
    for axis in range(3):
        edges, limits = grid.edges_mm(axis), ct_grid.edges_mm(axis)
        tolerance = 1e-3 * grid.spacing_mm[axis]
        start.append(int(np.searchsorted(edges, limits[0] - tolerance)))
        stop.append(int(np.searchsorted(edges, limits[-1] + tolerance)) - 1)
    low, high = (start[0], start[1], start[2]), (stop[0], stop[1], stop[2])
    part = fraction[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
    return cropped(Coverage(grid.crop(low, high), np.ascontiguousarray(part)))


def expand(coverage: Coverage, margin: Margin, ct_grid: VoxelGrid) -> Coverage:
    """The structure with a margin round it, as fractional coverage on its own structure grid, cut at the CT's extent.

    The margin is an ellipsoid with its own half axis towards each patient side (on CTs whose planes are turned against
    the patient's axes, each CT axis takes the sides nearest to it), measured from the surface inside the voxels
    (:mod:`dicomplan.geometry.distance`). A margin of zero on all sides gives ``coverage`` itself; the result covers at
    least what the structure does.
    """
    if not any(margin.sides_mm) or not coverage.fraction.any():
        return coverage
    from dicomplan.geometry.distance import grown

    tight = cropped(coverage)
    fraction, padding = grown(tight.fraction, tight.grid.spacing_mm, _reach(margin, tight.grid))
    (z0, z1), (y0, y1), (x0, x1) = padding
    planes, rows, columns = tight.grid.shape
    start, stop = (-z0, -y0, -x0), (planes + z1, rows + y1, columns + x1)
    return _within_ct(fraction, tight.grid.crop(start, stop), ct_grid)


def shrink(coverage: Coverage, margin: Margin, ct_grid: VoxelGrid) -> Coverage:
    """The structure with each side moved inwards by its margin; the counterpart of :func:`expand`.

    It shrinks from all its borders, also where the CT cuts it. What is too thin vanishes: the result may be a coverage
    of zeros. A margin of zero gives ``coverage`` itself.
    """
    if not any(margin.sides_mm) or not coverage.fraction.any():
        return coverage
    from dicomplan.geometry.distance import shrunk

    tight = cropped(coverage)
    fraction = shrunk(tight.fraction, tight.grid.spacing_mm, _reach(margin, tight.grid))
    return _within_ct(fraction, tight.grid, ct_grid)

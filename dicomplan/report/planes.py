"""Anatomical planes through a volume: axial, coronal and sagittal pictures that look the same for every grid.

A picture is always shown as a radiologist expects it, however the patient was scanned: anterior up and the patient's
right at the left (axial), superior up (coronal, sagittal), anterior at the left (sagittal).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dicomplan.geometry.grid import VoxelGrid

FloatArray = NDArray[np.float64]
PlaneName = Literal["axial", "coronal", "sagittal"]

# Patient axis (0 x, 1 y, 2 z) of the normal, of what grows to the right and of what grows downwards, with sign.
# LPS (DICOM PS3.3 C.7.6.2.1.1): +x left, +y posterior, +z superior.
_LAYOUT: dict[PlaneName, tuple[int, tuple[int, int], tuple[int, int]]] = {
    "axial": (2, (0, 1), (1, 1)),
    "coronal": (1, (0, 1), (2, -1)),
    "sagittal": (0, (1, 1), (2, -1)),
}
_LETTERS = (("L", "R"), ("P", "A"), ("S", "I"))


def direction_letters(direction: ArrayLike) -> str:
    """Where a patient-space vector points: ``L R P A S I``, two letters (larger part first) if it is oblique by more
    than about 20 degrees."""
    parts = np.asarray(direction, dtype=np.float64)
    parts = parts / np.linalg.norm(parts)
    order = np.argsort(-np.abs(parts), kind="stable")
    return "".join(
        _LETTERS[axis][0 if parts[axis] > 0 else 1]
        for rank, axis in enumerate(order)
        if rank == 0 or abs(parts[axis]) > 0.35
    )


@dataclass(frozen=True)
class PlaneView:
    """How a grid is cut and shown: array axes (0 z, 1 y, 2 x) of the normal, the rows (down) and the columns (right).

    ``row_sign`` and ``column_sign`` are -1 where the picture runs against the index. Picture coordinates (u right,
    v down) are ``sign * local`` mm of the column and row axis. ``patient_axis`` is the normal's in the patient (0 x, 1 y, 2 z).
    """

    name: PlaneName
    normal_axis: int
    row_axis: int
    column_axis: int
    row_sign: int
    column_sign: int
    patient_axis: int
    letters: tuple[str, str, str, str]

    def picture_point(self, grid: VoxelGrid, point_mm: ArrayLike) -> tuple[float, float]:
        """Picture coordinates (u, v) in mm of a point in patient coordinates."""
        local = grid.local_from_patient(point_mm)
        return (
            self.column_sign * float(local[2 - self.column_axis]),
            self.row_sign * float(local[2 - self.row_axis]),
        )


def plane_view(grid: VoxelGrid, name: PlaneName) -> PlaneView:
    """The view of ``name`` on grids with the axes of ``grid``; ``letters`` are those at left, right, top, bottom."""
    direction = grid.direction_matrix
    array_axis = [2 - int(np.argmax(np.abs(direction[patient_axis]))) for patient_axis in range(3)]
    normal, (column, column_wish), (row, row_wish) = _LAYOUT[name]
    right = direction[:, 2 - array_axis[column]]
    down = direction[:, 2 - array_axis[row]]
    column_sign = column_wish if right[column] > 0 else -column_wish
    row_sign = row_wish if down[row] > 0 else -row_wish
    return PlaneView(
        name=name,
        normal_axis=array_axis[normal],
        row_axis=array_axis[row],
        column_axis=array_axis[column],
        row_sign=row_sign,
        column_sign=column_sign,
        patient_axis=normal,
        letters=(
            direction_letters(-column_sign * right),
            direction_letters(column_sign * right),
            direction_letters(-row_sign * down),
            direction_letters(row_sign * down),
        ),
    )


@dataclass(frozen=True)
class Picture:
    """Values ``(rows, columns)`` of a plane; ``u_mm`` (columns,) and ``v_mm`` (rows,) are pixel centres, ascending."""

    values: NDArray[np.float32]
    u_mm: FloatArray
    v_mm: FloatArray

    def crop(self, box_mm: tuple[float, float, float, float]) -> Picture:
        """The pixels whose centres lie within ``box_mm`` (u low, v low, u high, v high), at least one each way."""
        columns = _within(self.u_mm, box_mm[0], box_mm[2])
        rows = _within(self.v_mm, box_mm[1], box_mm[3])
        return Picture(self.values[rows, columns], self.u_mm[columns], self.v_mm[rows])

    @property
    def edges_mm(self) -> tuple[float, float, float, float]:
        """Outer pixel edges: u low, v low, u high, v high."""
        half_u, half_v = 0.5 * _step(self.u_mm), 0.5 * _step(self.v_mm)
        return (
            float(self.u_mm[0]) - half_u,
            float(self.v_mm[0]) - half_v,
            float(self.u_mm[-1]) + half_u,
            float(self.v_mm[-1]) + half_v,
        )


def _within(axis_mm: FloatArray, low: float, high: float) -> slice:
    first = min(int(np.searchsorted(axis_mm, low)), len(axis_mm) - 1)
    last = max(int(np.searchsorted(axis_mm, high, side="right")), first + 1)
    return slice(first, last)


def _step(axis_mm: FloatArray) -> float:
    return float(axis_mm[1] - axis_mm[0]) if len(axis_mm) > 1 else 1.0


def cut(
    values: NDArray[np.float32], grid: VoxelGrid, view: PlaneView, position_mm: float, *, interpolate: bool
) -> Picture | None:
    """The plane of ``values`` at local coordinate ``position_mm`` along the view's normal, or None outside the grid.

    ``interpolate`` mixes the two neighbouring planes linearly (dose); else the voxel that holds the plane (CT, coverage).
    """
    axis = view.normal_axis
    index = (position_mm - float(grid.axis_mm(axis)[0])) / grid.spacing_mm[axis]
    count = grid.shape[axis]
    if not -0.5 - 1e-6 <= index <= count - 0.5 + 1e-6:
        return None
    if interpolate:
        clipped = min(max(index, 0.0), count - 1.0)
        low = min(int(clipped), max(count - 2, 0))
        share = np.float32(clipped - low)
        plane = (
            np.take(values, low, axis) * (np.float32(1) - share)
            + np.take(values, min(low + 1, count - 1), axis) * share
        )
    else:
        plane = np.take(values, min(max(int(np.floor(index + 0.5)), 0), count - 1), axis)
    if view.row_axis > view.column_axis:
        plane = plane.T
    rows, columns = view.row_sign * grid.axis_mm(view.row_axis), view.column_sign * grid.axis_mm(view.column_axis)
    if view.row_sign < 0:
        plane, rows = plane[::-1], rows[::-1]
    if view.column_sign < 0:
        plane, columns = plane[:, ::-1], columns[::-1]
    return Picture(np.ascontiguousarray(plane, dtype=np.float32), columns, rows)

"""VoxelGrid: where the voxels of a volume lie in patient coordinates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Matrix = tuple[tuple[float, float, float], tuple[float, float, float], tuple[float, float, float]]
IDENTITY: Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True)
class VoxelGrid:
    """A regular grid of voxels; arrays on it are C-contiguous ``(z, y, x)``.

    ``shape`` and ``spacing_mm`` are in array order (z, y, x). ``origin_mm`` is the *centre* of voxel [0, 0, 0] in
    patient coordinates (x, y, z), DICOM LPS. The columns of ``direction`` (as in ITK) are the unit vectors along
    which the x, y and z index grow, in patient coordinates; right-handed.

    Two coordinate systems: *patient* (LPS, mm) and *local* = direction^T (patient - 0), i.e. the patient axes turned
    onto the grid axes, still in mm and with the patient's origin, order (x, y, z). Grids with the same direction share
    one local system, so that their overlap is separable along the axes. All kernels work in local coordinates.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    direction: Matrix = IDENTITY
    frame_of_reference_uid: str = ""

    def __post_init__(self) -> None:
        if min(self.shape) < 1 or min(self.spacing_mm) <= 0:
            raise ValueError(f"impossible grid: shape {self.shape}, spacing {self.spacing_mm} mm")

    @property
    def direction_matrix(self) -> FloatArray:
        """(3, 3) float64; columns are the axes of x, y, z index in patient coordinates."""
        return np.array(self.direction, dtype=np.float64)

    @property
    def voxel_count(self) -> int:
        """Number of voxels."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def voxel_volume_cc(self) -> float:
        """Volume of one voxel in cm3."""
        return self.spacing_mm[0] * self.spacing_mm[1] * self.spacing_mm[2] / 1000.0

    @property
    def local_origin_mm(self) -> FloatArray:
        """Centre of voxel [0, 0, 0] in local coordinates (x, y, z), mm."""
        return self.local_from_patient(self.origin_mm)

    def local_from_patient(self, points_mm: ArrayLike) -> FloatArray:
        """Patient coordinates (..., 3) in mm to local coordinates (..., 3) in mm, order (x, y, z)."""
        local: FloatArray = np.asarray(points_mm, dtype=np.float64) @ self.direction_matrix
        return local

    def patient_from_local(self, points_mm: ArrayLike) -> FloatArray:
        """Local coordinates (..., 3) in mm to patient coordinates (..., 3) in mm, order (x, y, z)."""
        points: FloatArray = np.asarray(points_mm, dtype=np.float64) @ self.direction_matrix.T
        return points

    def axis_mm(self, axis: int) -> FloatArray:
        """Local coordinates in mm of the voxel centres along array axis 0 (z), 1 (y) or 2 (x)."""
        start = float(self.local_origin_mm[2 - axis])
        return start + self.spacing_mm[axis] * np.arange(self.shape[axis], dtype=np.float64)

    def edges_mm(self, axis: int) -> FloatArray:
        """Local coordinates in mm of the voxel edges along array axis 0 (z), 1 (y) or 2 (x); shape (n + 1,)."""
        start = float(self.local_origin_mm[2 - axis]) - 0.5 * self.spacing_mm[axis]
        return start + self.spacing_mm[axis] * np.arange(self.shape[axis] + 1, dtype=np.float64)

    def patient_from_index(self, index_zyx: ArrayLike) -> FloatArray:
        """Fractional voxel indices (..., 3) in order (z, y, x) to patient coordinates (..., 3) in order (x, y, z)."""
        index = np.asarray(index_zyx, dtype=np.float64)[..., ::-1]
        spacing = np.array(self.spacing_mm[::-1])
        return self.patient_from_local(self.local_origin_mm + index * spacing)

    def index_from_patient(self, points_mm: ArrayLike) -> FloatArray:
        """Patient coordinates (..., 3) (x, y, z) in mm to fractional voxel indices (..., 3) in order (z, y, x)."""
        spacing = np.array(self.spacing_mm[::-1])
        index: FloatArray = ((self.local_from_patient(points_mm) - self.local_origin_mm) / spacing)[..., ::-1]
        return index

    def crop(self, start: tuple[int, int, int], stop: tuple[int, int, int]) -> VoxelGrid:
        """The sub-grid of voxels ``start <= index < stop`` (order z, y, x); indices may lie outside (grid is extended)."""
        origin = self.patient_from_index(start)
        shape = (stop[0] - start[0], stop[1] - start[1], stop[2] - start[2])
        return replace(self, shape=shape, origin_mm=(float(origin[0]), float(origin[1]), float(origin[2])))

    def same_axes(self, other: VoxelGrid, tolerance: float = 1e-6) -> bool:
        """Whether both grids have the same axes directions (then their local coordinates agree)."""
        return bool(np.abs(self.direction_matrix - other.direction_matrix).max() <= tolerance)

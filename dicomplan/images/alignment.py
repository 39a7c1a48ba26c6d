"""Volumes of other programs on the CT's own voxels: the same lattice, perhaps stored in another order of axes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dicomplan.errors import InputError
from dicomplan.geometry.grid import VoxelGrid

PLACE_TOLERANCE_MM = 0.05
"""A voxel may lie this far from the CT's: NIfTI keeps its geometry in single precision (0.0001 mm), others print digits."""
_AXIS_TOLERANCE = 1e-3


def voxel_order(grid: VoxelGrid, ct_grid: VoxelGrid, *, file: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """How an array on ``grid`` becomes one on ``ct_grid``: its array axes in the CT's order, and which are then reversed.

    Many programs store volumes in an order of their own (RAS); the voxels are the same. Raises InputError, naming what
    was found and expected, if the two grids do not have the same voxels.
    """
    turn = ct_grid.direction_matrix.T @ grid.direction_matrix
    nearest = np.round(turn)
    if np.abs(turn - nearest).max() > _AXIS_TOLERANCE or not (np.abs(nearest).sum(axis=0) == 1).all():
        raise InputError("its axes are not those of the CT: expected a mask with the geometry of the CT", file=file)
    # rows and columns of the turn are in order x, y, z; array axes in order z, y, x
    of_ct = np.argmax(np.abs(nearest), axis=1)
    axes = tuple(2 - int(of_ct[2 - axis]) for axis in range(3))
    reversed_axes = tuple(axis for axis in range(3) if nearest[2 - axis, of_ct[2 - axis]] < 0)
    shape = tuple(grid.shape[axis] for axis in axes)
    spacing = tuple(grid.spacing_mm[axis] for axis in axes)
    if shape != ct_grid.shape:
        raise InputError(f"found {_by(shape)} voxels (z, y, x), expected the CT's {_by(ct_grid.shape)}", file=file)
    first = [0, 0, 0]
    for axis in reversed_axes:
        first[axes[axis]] = grid.shape[axes[axis]] - 1
    origin = grid.patient_from_index(first)
    here = replace(
        ct_grid,
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        origin_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
    )
    corners = np.array([(0, 0, 0), *[[(n - 1) * (axis == k) for k, n in enumerate(shape)] for axis in range(3)]])
    apart = np.linalg.norm(here.patient_from_index(corners) - ct_grid.patient_from_index(corners), axis=1)
    if apart.max() > PLACE_TOLERANCE_MM:
        raise InputError(
            f"found spacing {_by(spacing)} mm and first voxel at {_by(origin)} mm,"
            f" expected the CT's {_by(ct_grid.spacing_mm)} mm and {_by(ct_grid.origin_mm)} mm",
            file=file,
        )
    return axes, reversed_axes


def in_voxel_order(values: NDArray[np.generic], order: tuple[tuple[int, ...], tuple[int, ...]]) -> NDArray[np.generic]:
    """``values`` in the order of the CT, as :func:`voxel_order` told it; C-contiguous."""
    axes, reversed_axes = order
    return np.ascontiguousarray(np.flip(values.transpose(axes), axis=reversed_axes))


def _by(values: object) -> str:
    return " x ".join(f"{float(value):g}" for value in np.asarray(values).tolist())

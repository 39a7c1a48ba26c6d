"""Influence matrices as files: NPZ by numpy, or the layout of PortPy's patients, HDF5 by h5py (optional part).

NPZ: ``data``, ``indices``, ``indptr``, ``shape``, ``format`` as ``scipy.sparse.load_npz`` reads them, and beside them
``voxels`` (rows,), linear indices (C order, z y x) on the dose grid of ``grid_shape``, ``grid_spacing_mm`` (z, y, x),
``grid_origin_mm`` and ``grid_direction`` (x, y, z; DICOM's LPS coordinates), and of each column ``beam_number``,
``position_x_mm``, ``position_y_mm``, ``width_mm``, ``height_mm`` (isocentre plane, IEC 61217 beam limiting device) and
``leaf_pair`` (from 0). Elements are Gy of the course per MU of one fraction.

PortPy (https://github.com/PortPy-Project/PortPy): ``Beams/Beam_<n>_Data.h5`` with ``inf_matrix_sparse`` (non-zeros, 3) of row,
column, value, and ``beamlets/id``, ``beamlets/position_x_mm`` and so on (1, beamlets); ``Beams/Beam_<n>_MetaData.json`` with the
beam's angles and isocentre, and which file holds what. A column counts within its beam.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.dose.sparse import ExplicitInfluence
from dicomplan.errors import UsageError
from dicomplan.geometry.grid import VoxelGrid

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

EXTRA = "hdf5"
"""Name of the optional part that brings h5py (BSD-3-Clause)."""

_BEAMLET_KEYS = ("position_x_mm", "position_y_mm", "width_mm", "height_mm")


def require_hdf5() -> None:
    """Raise UsageError unless h5py can be imported."""
    try:
        import h5py  # noqa: F401
    except ImportError:
        raise UsageError(
            "writing an influence matrix as HDF5 needs h5py", hint=f"pip install 'dicomplan[{EXTRA}]'"
        ) from None


def write_influence_npz(
    path: Path, matrix: ExplicitInfluence, maps: Sequence[BeamletMap], grid: VoxelGrid, voxels: IntArray
) -> None:
    """Write a matrix, its beamlets and its voxels (linear indices on ``grid``) as NPZ; layout as the module says.

    Raises ValueError for a matrix that has left a part to coarse maps, or does not fit maps and voxels.
    """
    _check(matrix, maps, voxels)
    beamlets = [_beamlets(one) for one in maps]
    columns: dict[str, Any] = {
        key: np.concatenate([one[key] for one in beamlets]) for key in (*_BEAMLET_KEYS, "leaf_pair")
    }
    numbers = np.concatenate([np.full(one.count, one.beam.number) for one in maps])
    np.savez(
        path,
        data=matrix.data,
        indices=matrix.indices,
        indptr=matrix.starts,
        shape=np.array([matrix.voxel_count, matrix.beamlet_count]),
        format=np.array(b"csr"),
        voxels=voxels,
        grid_shape=np.array(grid.shape),
        grid_spacing_mm=np.array(grid.spacing_mm),
        grid_origin_mm=np.array(grid.origin_mm),
        grid_direction=grid.direction_matrix,
        beam_number=numbers,
        **columns,
    )


def write_influence_portpy(
    folder: Path, matrix: ExplicitInfluence, maps: Sequence[BeamletMap], voxels: IntArray
) -> None:
    """Write a matrix's beams into ``folder``/Beams in PortPy's layout, as the module says.

    Raises UsageError if h5py is not installed, ValueError as :func:`write_influence_npz`.
    """
    require_hdf5()
    import h5py

    _check(matrix, maps, voxels)
    whole = matrix.to_scipy().tocsc()
    beams = folder / "Beams"
    beams.mkdir(parents=True, exist_ok=True)
    first = 0
    for number, one in enumerate(maps):
        own = whole[:, first : first + one.count].tocoo()
        first += one.count
        name = f"Beam_{number}_Data.h5"
        beamlets = _beamlets(one)
        with h5py.File(beams / name, "w") as file:
            file["inf_matrix_sparse"] = np.column_stack([own.row, own.col, own.data.astype(np.float64)])
            group = file.create_group("beamlets")
            group["id"] = np.arange(one.count)[None, :]
            for key in _BEAMLET_KEYS:
                group[key] = beamlets[key][None, :]
            group["MLC_leaf_idx"] = beamlets["leaf_pair"][None, :]
        angles, isocenter = one.beam, one.beam.isocenter_mm
        described = {
            "ID": number,
            "gantry_angle": angles.gantry_angle_deg,
            "collimator_angle": angles.collimator_angle_deg,
            "couch_angle": angles.couch_angle_deg,
            "iso_center": dict(zip(("x_mm", "y_mm", "z_mm"), map(float, isocenter), strict=True)),
            "SAD_mm": angles.source_axis_distance_mm,
            "beam_modality": "Photon",
            "beamlets": {f"{key}_File": f"{name}/beamlets/{key}" for key in ("id", *_BEAMLET_KEYS, "MLC_leaf_idx")},
            "influenceMatrixSparse_File": f"{name}/inf_matrix_sparse",
            "influenceMatrixSparse_tol": 0.0,
        }
        (beams / f"Beam_{number}_MetaData.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def _check(matrix: ExplicitInfluence, maps: Sequence[BeamletMap], voxels: IntArray) -> None:
    if matrix.rest is not None:
        raise ValueError("the matrix leaves a part to coarse maps: build it with a cut-off")
    if matrix.beamlet_count != sum(one.count for one in maps) or matrix.voxel_count != len(voxels):
        raise ValueError("the matrix is not of these beamlets and voxels")


def _beamlets(one: BeamletMap) -> dict[str, Any]:
    """Of each beamlet of a beam: centre and size in mm, leaf pair."""
    row, column = np.nonzero(one.active)
    x, y = one.x_edges_mm, one.y_edges_mm
    return {
        "position_x_mm": 0.5 * (x[column] + x[column + 1]),
        "position_y_mm": 0.5 * (y[row] + y[row + 1]),
        "width_mm": x[column + 1] - x[column],
        "height_mm": y[row + 1] - y[row],
        "leaf_pair": row + one.first_leaf_pair,
    }

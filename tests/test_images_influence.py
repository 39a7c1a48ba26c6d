"""Influence matrices as files: what others read back is the matrix and where its rows and columns lie."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array, load_npz
from test_influence import plan

from dicomplan.dose.sparse import explicit_influence
from dicomplan.errors import UsageError
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.images.influence import write_influence_npz, write_influence_portpy

GRID = VoxelGrid((24, 26, 28), (6.0, 5.0, 5.0), (-67.5, -62.5, -69.0))
VOXELS = np.flatnonzero(np.arange(GRID.voxel_count) % 3 == 0)


def test_npz_is_read_by_scipy(tmp_path: Path) -> None:
    operator, _, maps = plan()
    matrix = explicit_influence(operator, 30.0)
    path = tmp_path / "influence.npz"
    write_influence_npz(path, matrix, maps, GRID, VOXELS)
    read = csr_array(load_npz(path))
    assert (read != matrix.to_scipy()).nnz == 0
    file = np.load(path)
    np.testing.assert_array_equal(file["voxels"], VOXELS)
    # the highest dose of a beamlet on the axis of beam 1 lies under that beamlet
    column = int(np.argmin(np.hypot(file["position_x_mm"], file["position_y_mm"]) + 1e3 * (file["beam_number"] != 1)))
    row = int(np.argmax(read[:, [column]].toarray()))
    point = GRID.patient_from_index(np.array([np.unravel_index(file["voxels"][row], file["grid_shape"])]))
    u, v, _ = maps[0].beam.frame("HFS").project(point)[0]
    assert np.hypot(u - file["position_x_mm"][column], v - file["position_y_mm"][column]) < 6.0
    assert set(file["width_mm"]) == {5.0}
    leaf = maps[0].first_leaf_pair
    assert file["leaf_pair"][0] >= leaf


def test_a_matrix_with_a_restored_part_is_not_written(tmp_path: Path) -> None:
    operator, _, maps = plan()
    with pytest.raises(ValueError, match="cut-off"):
        write_influence_npz(tmp_path / "a.npz", explicit_influence(operator), maps, GRID, VOXELS)
    with pytest.raises(ValueError, match="not of these"):
        write_influence_npz(tmp_path / "a.npz", explicit_influence(operator, 30.0), maps[:2], GRID, VOXELS)


def test_without_h5py_one_line_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operator, _, maps = plan()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match="h5py") as caught:
        write_influence_portpy(tmp_path, explicit_influence(operator, 30.0), maps, VOXELS)
    assert caught.value.exit_code == 2
    assert "dicomplan[hdf5]" in str(caught.value.hint)


def test_portpy_layout(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    operator, _, maps = plan()
    matrix = explicit_influence(operator, 30.0)
    write_influence_portpy(tmp_path, matrix, maps, VOXELS)
    whole, first = matrix.to_scipy(), 0
    for number, one in enumerate(maps):
        described = json.loads((tmp_path / "Beams" / f"Beam_{number}_MetaData.json").read_text())
        assert described["gantry_angle"] == one.beam.gantry_angle_deg
        name, key = described["influenceMatrixSparse_File"].split("/")
        with h5py.File(tmp_path / "Beams" / name) as file:
            row, column, value = file[key][:].T
            assert file["beamlets/position_x_mm"].shape == (1, one.count)
        read = csr_array((value, (row.astype(int), column.astype(int))), shape=(matrix.voxel_count, one.count))
        assert abs(read - whole[:, first : first + one.count]).max() == 0.0
        first += one.count

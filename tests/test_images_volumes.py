"""NIfTI, NRRD and NPZ: geometry and values come back, read by other means too; what is no volume is refused."""

from __future__ import annotations

import gzip
import struct
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicomplan.errors import InputError, UsageError
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.images.alignment import in_voxel_order, voxel_order
from dicomplan.images.volumes import SUFFIXES, read_grid, read_volume, require, volume_suffix, write_volume

OBLIQUE = ((0.9, -(0.19**0.5), 0.0), (0.19**0.5, 0.9, 0.0), (0.0, 0.0, 1.0))
SAGITTAL = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
UPRIGHT = VoxelGrid((4, 5, 6), (3.0, 1.2, 0.7), (-17.125, -20.25, 512.5), frame_of_reference_uid="1.2.3")
GRIDS = [UPRIGHT, replace(UPRIGHT, direction=OBLIQUE), replace(UPRIGHT, direction=SAGITTAL)]
SUFFIX = sorted(SUFFIXES.values())


def values_on(grid: VoxelGrid) -> np.ndarray:
    return np.random.default_rng(5).normal(0, 1000, grid.shape).astype(np.float32)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("suffix", SUFFIX)
def test_values_and_geometry_come_back(tmp_path: Path, suffix: str, grid: VoxelGrid) -> None:
    path = tmp_path / f"volume{suffix}"
    write_volume(path, values_on(grid), grid)
    found = read_grid(path)
    assert found.shape == grid.shape
    # NIfTI keeps its geometry in single precision.
    assert np.allclose(found.spacing_mm, grid.spacing_mm, rtol=1e-6)
    assert np.allclose(found.origin_mm, grid.origin_mm, atol=1e-4)
    assert np.allclose(found.direction_matrix, grid.direction_matrix, atol=1e-6)
    assert np.array_equal(read_volume(path), values_on(grid))
    assert voxel_order(found, grid, file=path) == ((0, 1, 2), ())


@pytest.mark.parametrize("grid", GRIDS)
def test_nifti_affine_is_ras(tmp_path: Path, grid: VoxelGrid) -> None:
    """The header's own bytes (NIfTI-1: srow_x at byte 280): index to RAS millimetres; RAS is LPS with x and y negated."""
    path = tmp_path / "ct.nii.gz"
    write_volume(path, values_on(grid), grid)
    header = gzip.decompress(path.read_bytes())[:352]
    sform_code = struct.unpack_from("<h", header, 254)[0]
    assert sform_code > 0
    assert header[123] & 7 == 2  # millimetres
    affine = np.array(struct.unpack_from("<12f", header, 280)).reshape(3, 4)
    index_zyx = (3, 2, 5)
    ras = affine @ np.array([*index_zyx[::-1], 1.0])
    assert np.allclose(ras, grid.patient_from_index(index_zyx) * (-1, -1, 1), atol=1e-4)


@pytest.mark.parametrize("suffix", SUFFIX)
def test_equal_values_give_equal_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("one", "two"):
        write_volume(tmp_path / f"{name}{suffix}", values_on(UPRIGHT), UPRIGHT)
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()


def test_another_order_of_axes_is_the_same_volume(tmp_path: Path) -> None:
    """As programs that store RAS write it: x and y run the other way, and axes may be exchanged."""
    values = values_on(UPRIGHT)
    matrix = UPRIGHT.direction_matrix
    # index axes of the new array: x' = -y, y' = z, z' = -x of the old one
    turned = np.ascontiguousarray(values.transpose(2, 0, 1)[::-1, :, ::-1])
    columns = np.stack([-matrix[:, 1], matrix[:, 2], -matrix[:, 0]], axis=1)
    first = UPRIGHT.patient_from_index((0, UPRIGHT.shape[1] - 1, UPRIGHT.shape[2] - 1))
    spacing = UPRIGHT.spacing_mm
    grid = VoxelGrid(
        turned.shape, (spacing[2], spacing[0], spacing[1]), tuple(first), tuple(tuple(row) for row in columns)
    )
    path = tmp_path / "turned.nii.gz"
    write_volume(path, turned, grid)
    order = voxel_order(read_grid(path), UPRIGHT, file=path)
    assert np.array_equal(in_voxel_order(read_volume(path), order), values)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"shape": (4, 5, 7)}, "voxels"),
        ({"spacing_mm": (3.0, 1.2, 0.75)}, "spacing"),
        ({"origin_mm": (-17.0, -20.25, 512.5)}, "first voxel"),
        ({"direction": OBLIQUE}, "axes"),
    ],
)
def test_another_geometry_is_refused_by_name(change: dict, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        voxel_order(replace(UPRIGHT, **change), UPRIGHT, file=Path("mask.nrrd"))
    assert caught.value.file == "mask.nrrd"
    assert "expected" in caught.value.message


@pytest.mark.parametrize("suffix", [*SUFFIX, ".nii"])
@pytest.mark.parametrize("content", [b"", b"not a volume", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_volume_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"mask{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_grid(path)
    assert caught.value.file == str(path)


def test_vector_images_are_refused(tmp_path: Path) -> None:
    import SimpleITK

    path = tmp_path / "vectors.nrrd"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((3, 4, 5, 2)), isVector=True), str(path))
    with pytest.raises(InputError, match="2 values"):
        read_grid(path)


def test_an_npz_runs_no_code_and_claims_no_memory(tmp_path: Path) -> None:
    good = tmp_path / "good.npz"
    write_volume(good, values_on(UPRIGHT), UPRIGHT)
    parts = dict(np.load(good))
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, **{**parts, "values": np.array([{}, {}], dtype=object)})
    with pytest.raises(InputError):
        read_grid(pickled)
    bomb = tmp_path / "bomb.npz"
    np.savez_compressed(bomb, **{**parts, "spacing_mm": np.zeros(10**6)})
    with pytest.raises(InputError, match="larger"):
        read_grid(bomb)
    # More bytes than the shape in its header says.
    liar = tmp_path / "liar.npz"
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(liar, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name) + (bytes(10**6) if name == "values.npy" else b""))
    with pytest.raises(InputError, match="larger"):
        read_grid(liar)


def test_a_missing_library_is_one_line_that_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    for image_format in ("nifti", "nrrd"):
        with pytest.raises(UsageError) as caught:
            require(image_format)
        assert "dicomplan[images]" in str(caught.value)
        assert "\n" not in str(caught.value)
    require("npz")
    write_volume(tmp_path / "ct.npz", values_on(UPRIGHT), UPRIGHT)
    assert np.array_equal(read_volume(tmp_path / "ct.npz"), values_on(UPRIGHT))


def test_file_names_tell_the_format(tmp_path: Path) -> None:
    assert volume_suffix(Path("a/MASK.NII.GZ")) == ".nii.gz"
    assert volume_suffix(Path("ct.dcm")) is None
    with pytest.raises(InputError, match="no image file"):
        read_grid(tmp_path / "ct.dcm")
    with pytest.raises(ValueError, match="shape"):
        write_volume(tmp_path / "ct.npz", np.zeros((1, 2, 3)), UPRIGHT)

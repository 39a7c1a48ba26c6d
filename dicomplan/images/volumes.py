"""Volumes as files of other programs: NIfTI and NRRD by SimpleITK, NPZ by numpy.

The geometry in a file is that of the grid: NRRD and NPZ keep DICOM's LPS coordinates, NIfTI is RAS (SimpleITK turns the
signs of x and y); in all of them the origin is the centre of the first voxel.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dicomplan.errors import InputError, UsageError
from dicomplan.geometry.grid import VoxelGrid

ImageFormat = Literal["nifti", "nrrd", "npz"]

SUFFIXES: dict[ImageFormat, str] = {"nifti": ".nii.gz", "nrrd": ".nrrd", "npz": ".npz"}
"""What file names of each format end with."""
EXTRA = "images"
"""Name of the optional part that brings SimpleITK (Apache-2.0)."""
READ_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".npz")
"""File names that :func:`read_grid` and :func:`read_volume` take."""

_NPZ_KEYS = ("values", "spacing_mm", "origin_mm", "direction")
_SMALL_BYTES = 4096  # of an array of up to nine numbers, with its header
_WHOLE_NUMBER_BYTES = 8


def volume_suffix(path: Path) -> str | None:
    """Which of :data:`READ_SUFFIXES` the file name ends with (in any case), or None."""
    return next((suffix for suffix in READ_SUFFIXES if path.name.lower().endswith(suffix)), None)


def require(image_format: ImageFormat) -> None:
    """Raise UsageError, naming the extra, if the library that a format needs is not installed."""
    if image_format != "npz":
        _simple_itk()


def write_volume(path: Path, values: NDArray[np.generic], grid: VoxelGrid) -> None:
    """Write ``values`` ``(z, y, x)`` on ``grid``; the format follows from the file name (see :data:`SUFFIXES`).

    The same values give the same bytes. An NPZ holds ``values``, ``spacing_mm`` and shape in array order (z, y, x),
    ``origin_mm`` (x, y, z; LPS; centre of the first voxel), ``direction`` (3, 3; columns are the axes of x, y and z index)
    and ``frame_of_reference_uid``. Raises UsageError if SimpleITK is needed and not installed, OSError if the file cannot
    be written, ValueError for an unknown file name or values of another shape than the grid's.
    """
    suffix = volume_suffix(path)
    if suffix is None:
        raise ValueError(f"no image format has the file name '{path.name}'")
    if values.shape != grid.shape:
        raise ValueError(f"values of shape {values.shape} do not fit a grid of shape {grid.shape}")
    if suffix == ".npz":
        np.savez_compressed(
            path,
            values=values,
            spacing_mm=np.array(grid.spacing_mm),
            origin_mm=np.array(grid.origin_mm),
            direction=grid.direction_matrix,
            frame_of_reference_uid=np.array(grid.frame_of_reference_uid),
        )
        return
    itk = _simple_itk()
    image = itk.GetImageFromArray(np.ascontiguousarray(values))
    image.SetSpacing(grid.spacing_mm[::-1])
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction_matrix.ravel().tolist())
    try:
        itk.WriteImage(image, str(path), useCompression=True, compressionLevel=6)
    except RuntimeError as error:
        raise OSError(f"the image could not be written: {_last_line(error)}") from error


def read_grid(path: Path) -> VoxelGrid:
    """The grid of a volume, from the file's header alone; its frame of reference is empty unless the file (NPZ) states it.

    Raises InputError if the file is no volume of one number for each voxel, UsageError if SimpleITK is missing.
    """
    suffix = _known_suffix(path)
    try:
        if suffix == ".npz":
            with _opened_npz(path) as content:
                return _npz_grid(content, _npz_shape(path))
        reader = _reader(path)
        size = reader.GetSize()
        spacing, origin, direction = reader.GetSpacing(), reader.GetOrigin(), np.array(reader.GetDirection())
        return _grid((size[2], size[1], size[0]), spacing[::-1], origin, direction.reshape(3, 3), "")
    except ValueError as error:
        raise InputError(f"its geometry is not that of a volume: {error}", file=path) from error


def read_volume(path: Path) -> NDArray[np.generic]:
    """The values ``(z, y, x)`` of a volume. Look at :func:`read_grid` first: a header may claim any size.

    Raises InputError if the file is damaged or no volume, UsageError if SimpleITK is missing.
    """
    if _known_suffix(path) == ".npz":
        with _opened_npz(path) as content:
            return np.ascontiguousarray(content["values"])
    itk = _simple_itk()
    reader = _reader(path)
    try:
        return np.ascontiguousarray(itk.GetArrayFromImage(reader.Execute()))
    except RuntimeError as error:
        raise InputError(f"cannot be read: {_last_line(error)}", file=path) from error


def _known_suffix(path: Path) -> str:
    suffix = volume_suffix(path)
    if suffix is None:
        raise InputError(f"is no image file: expected a name that ends with {', '.join(READ_SUFFIXES)}", file=path)
    return suffix


def _simple_itk() -> ModuleType:
    try:
        import SimpleITK
    except (ImportError, OSError) as error:
        raise UsageError(
            f"NIfTI and NRRD need the optional part '{EXTRA}' (SimpleITK), which is not installed",
            hint=f"pip install 'dicomplan[{EXTRA}]', or use --format npz",
        ) from error
    module: ModuleType = SimpleITK
    return module


def _reader(path: Path) -> Any:
    """SimpleITK's reader of a file, header read. Raises InputError unless it holds one number for each voxel in 3D."""
    itk = _simple_itk()
    reader = itk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(f"cannot be read: {_last_line(error)}", file=path) from error
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        found = f"{reader.GetDimension()} dimensions and {reader.GetNumberOfComponents()} values for each voxel"
        raise InputError(f"found {found}, expected 3 and 1", file=path)
    return reader


def _last_line(error: RuntimeError) -> str:
    """SimpleITK's own words, without the places in its source code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("sitk::ERROR:").strip() if lines else type(error).__name__


@contextlib.contextmanager
def _opened_npz(path: Path) -> Iterator[Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {member.filename.removesuffix(".npy"): member.file_size for member in archive.infolist()}
        missing = [key for key in _NPZ_KEYS if key not in sizes]
        if missing:
            raise InputError(f"holds no {', '.join(missing)}: expected an NPZ as `convert` writes it", file=path)
        if any(size > _SMALL_BYTES for key, size in sizes.items() if key != "values"):
            raise InputError("its geometry is larger than a geometry can be", file=path)
        with np.load(path, allow_pickle=False) as content:
            yield content
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise InputError(f"cannot be read ({type(error).__name__})", file=path) from error


def _npz_shape(path: Path) -> tuple[int, ...]:
    """Shape of ``values``, from the header of the array; checked against the size of the member."""
    with zipfile.ZipFile(path) as archive, archive.open("values.npy") as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(stream)
        size = archive.getinfo("values.npy").file_size
    if kind.kind not in "buif" or kind.itemsize > _WHOLE_NUMBER_BYTES:
        raise InputError(f"found values of type {kind}, expected numbers", file=path)
    if size > int(np.prod(shape, dtype=object)) * kind.itemsize + _SMALL_BYTES:
        raise InputError("its values are larger than their shape", file=path)
    return tuple(shape)


def _npz_grid(content: Any, shape: tuple[int, ...]) -> VoxelGrid:
    frame = str(content["frame_of_reference_uid"]) if "frame_of_reference_uid" in content else ""
    numbers = [np.asarray(content[key], dtype=np.float64) for key in _NPZ_KEYS[1:]]
    return _grid(shape, numbers[0], numbers[1], numbers[2], frame)


def _grid(shape: tuple[int, ...], spacing: Any, origin: Any, direction: NDArray[np.float64], frame: str) -> VoxelGrid:
    """The grid of these numbers. Raises ValueError if they are of another count, or not finite."""
    spacing, origin = np.asarray(spacing, dtype=np.float64), np.asarray(origin, dtype=np.float64)
    if len(shape) != 3 or spacing.shape != (3,) or origin.shape != (3,) or direction.shape != (3, 3):
        raise ValueError("expected three dimensions")
    if not (np.isfinite(spacing).all() and np.isfinite(origin).all() and np.isfinite(direction).all()):
        raise ValueError("expected finite numbers")
    rows = [(float(row[0]), float(row[1]), float(row[2])) for row in direction]
    return VoxelGrid(
        shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        spacing_mm=(float(spacing[0]), float(spacing[1]), float(spacing[2])),
        origin_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
        direction=(rows[0], rows[1], rows[2]),
        frame_of_reference_uid=frame,
    )

"""Masks to contours: pixel edges of binary masks, sub-pixel lines of fractional ones; voxels stay what they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twins.images_twins import outlines

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.geometry.polygons import polygon_area_mm2
from dicomplan.images.outlines import mask_contours, pixel_outlines
from dicomplan.patient.case import Structure
from dicomplan.patient.coverage import coverage_on_grid, rasterize

OBLIQUE = ((0.9, -(0.19**0.5), 0.0), (0.19**0.5, 0.9, 0.0), (0.0, 0.0, 1.0))
GRID = VoxelGrid((5, 12, 14), (3.0, 1.2, 0.7), (-17.13, -20.2, 5.0))


def shape(*rows: str) -> np.ndarray:
    return np.array([[letter == "#" for letter in row] for row in rows])


SHAPES = {
    "one pixel": shape("#"),
    "diagonal": shape("#.", ".#"),
    "other diagonal": shape(".#", "#."),
    "hole": shape("###", "#.#", "###"),
    "diagonal holes": shape("####", "#.##", "##.#", "####"),
    "hole at a corner": shape("###.", "#.##", "##.#"),
    "island in a hole": shape("#####", "#...#", "#.#.#", "#...#", "#####"),
    "chessboard": np.indices((6, 7)).sum(axis=0) % 2 == 0,
    "full": np.ones((12, 14), dtype=bool),
}


def normalised(lines: list) -> set[tuple]:
    """Outlines as a set, each started at its least corner that is followed by the least one."""
    found = set()
    for line in lines:
        points = [(int(x), int(y)) for x, y in line]
        found.add(min(tuple(points[start:] + points[:start]) for start in range(len(points))))
    return found


def covered(fraction: np.ndarray, grid: VoxelGrid) -> np.ndarray:
    """The mask's contours, printed to 0.001 mm as in a file, as coverage of the mask's own voxels."""
    contours = tuple(np.round(line, 3) for line in mask_contours(fraction.astype(np.float32), grid))
    return coverage_on_grid(rasterize(Structure("mask", 1, "", contours), grid), grid)


@pytest.mark.parametrize("name", SHAPES)
def test_outlines_of_shapes_enclose_their_pixels(name: str) -> None:
    mask = SHAPES[name]
    lines = pixel_outlines(mask)
    assert normalised(lines) == normalised(outlines(mask))
    # Outer outlines count positive, holes negative.
    assert sum(polygon_area_mm2(line.astype(float)) for line in lines) == mask.sum()


def test_one_pixel_is_a_square() -> None:
    mask = np.zeros((4, 5), dtype=bool)
    mask[2, 3] = True
    assert normalised(pixel_outlines(mask)) == {((3, 2), (4, 2), (4, 3), (3, 3))}


def test_pixels_that_touch_at_a_corner_have_outlines_of_their_own() -> None:
    assert len(pixel_outlines(SHAPES["diagonal"])) == 2
    assert len(pixel_outlines(SHAPES["hole"])) == 2
    assert pixel_outlines(np.zeros((3, 3), dtype=bool)) == []


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 0.5, 0.9]))
def test_outlines_agree_with_the_slow_twin(seed: int, share: float) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((random.integers(1, 9), random.integers(1, 9))) < share
    assert normalised(pixel_outlines(mask)) == normalised(outlines(mask))


@pytest.mark.parametrize("direction", [GRID.direction, OBLIQUE])
@pytest.mark.parametrize("name", SHAPES)
def test_binary_masks_come_back_to_the_voxel(name: str, direction: tuple) -> None:
    grid = VoxelGrid(GRID.shape, GRID.spacing_mm, GRID.origin_mm, direction)
    mask = np.zeros(grid.shape, dtype=bool)
    rows, columns = SHAPES[name].shape
    mask[1, -rows:, -columns:] = SHAPES[name]
    mask[3, :rows, :columns] = SHAPES[name]
    found = covered(mask, grid)
    assert np.abs(found - mask).max() < 0.005  # 0.001 mm of a pixel of 0.7 mm, on each side


@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.98))
def test_random_binary_masks_come_back_to_the_voxel(seed: int, share: float) -> None:
    mask = np.random.default_rng(seed).random(GRID.shape) < share
    if mask.any():
        assert np.array_equal(covered(mask, GRID) >= 0.5, mask)


@given(st.integers(0, 2**32 - 1))
def test_voxels_of_noise_stay_on_their_side(seed: int) -> None:
    """The hardest fractional masks: each voxel independent of its neighbours."""
    fraction = np.random.default_rng(seed).random((1, 9, 10)).astype(np.float32)
    grid = VoxelGrid((1, 9, 10), GRID.spacing_mm, GRID.origin_mm)
    assert np.array_equal(covered(fraction, grid) >= 0.5, fraction >= 0.5)


@pytest.mark.parametrize(("radius_mm", "within"), [(6.0, 0.01), (12.0, 0.002)])
def test_fractional_spheres_keep_their_voxels_and_nearly_their_volume(radius_mm: float, within: float) -> None:
    grid = VoxelGrid((12, 40, 44), (3.0, 1.0, 0.8), (-16.0, -20.0, -17.0))
    z, y, x = np.meshgrid(grid.axis_mm(0), grid.axis_mm(1), grid.axis_mm(2), indexing="ij")
    distance = np.sqrt((x - 0.3) ** 2 + (y + 0.4) ** 2 + (z + 0.7) ** 2)
    fraction = np.clip(radius_mm - distance + 0.5, 0.0, 1.0)
    found = covered(fraction, grid)
    assert np.array_equal(found >= 0.5, fraction >= 0.5)
    assert found.sum() == pytest.approx(fraction.sum(), rel=within)
    # Fractions are kept better than by whole voxels, whose error is half a voxel at the border.
    assert np.abs(found - fraction).mean() < 0.5 * np.abs((fraction >= 0.5) - fraction).mean()

"""Path integrals through voxel grids: against a slow twin, slabs with analytic answers, laws of integrals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twins import dose_twins

from dicomplan.geometry import _kernels_rays as kernels
from dicomplan.geometry.frames import rotation
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.geometry.rays import content_of, local_centres, local_path_integral, local_point, path_integral
from dicomplan.patient.density import DensityVolume

GRID = VoxelGrid((20, 30, 25), (5.0, 3.0, 4.0), (-48.0, -43.5, -47.5))
"""100 x 90 x 100 mm about the origin, unlike along every axis."""
ONES = np.ones(GRID.shape, dtype=np.float32)


@pytest.mark.parametrize("seed", range(20))
def test_the_kernel_is_its_twin(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = tuple(int(n) for n in random.integers(1, 6, size=3))
    volume = random.uniform(0.0, 3.0, size=shape).astype(np.float32)
    low, spacing = random.uniform(-20, 20, size=3), random.uniform(1.0, 5.0, size=3)
    middle = low + 0.5 * spacing * shape
    source = middle + random.normal(size=3) * 40.0
    points = middle + random.normal(size=(40, 3)) * 10.0
    points[0] = source
    points[1:4] = source
    for axis in range(3):  # along the grid's axes, where a ray meets no plane of the other two
        points[1 + axis, axis] = middle[axis]
    inner = low + random.uniform(0, 1, size=3) * spacing * shape
    first, last, outside = np.zeros(3, dtype=np.int64), np.array(shape), 7.0
    if seed % 2:  # all but a box of voxels holds one value, and the kernel is told so
        first, last = np.sort(random.integers(0, np.array(shape) + 1, size=(2, 3)), axis=0)
        surely = np.full(shape, outside, dtype=np.float32)
        box = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        surely[box] = volume[box]
        volume = surely
    for start in (source, inner):
        out = np.full(len(points), np.nan, dtype=np.float32)
        kernels.path_integrals(volume, low, spacing, first, last, outside, start, points, out)
        expected = [dose_twins.path_integral(volume, low, spacing, start, point) for point in points]
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_water_equivalent_depth_behind_slabs(axis: int) -> None:
    """Slabs of 0.26, 1 and 1.85 across the beam: the depth is the sum of thickness x density over the cosine."""
    step, count = GRID.spacing_mm[axis], GRID.shape[axis]
    density = np.where(np.arange(count) < 4, 0.26, np.where(np.arange(count) < 9, 1.0, 1.85))
    shape = [1, 1, 1]
    shape[axis] = count
    volume = (ONES * density.reshape(shape)).astype(np.float32)
    edge = GRID.edges_mm(axis)[0]
    source = np.array([3.0, -7.0, 11.0])
    source[2 - axis] = edge - 500.0
    depth = np.array([2.0, 4 * step, 6.5 * step, 9 * step, (count - 0.25) * step])
    points = np.tile(source, (len(depth), 1))
    points[:, 2 - axis] = edge + depth
    along = [0.26 * min(d, 4 * step) + min(max(d - 4 * step, 0), 5 * step) + 1.85 * max(d - 9 * step, 0) for d in depth]
    np.testing.assert_allclose(path_integral(volume, GRID, source, points), along, rtol=1e-5)
    slanted = points.copy()
    slanted[:, (3 - axis) % 3] -= 9.0
    cosine = (500.0 + depth) / np.hypot(500.0 + depth, 9.0)
    np.testing.assert_allclose(path_integral(volume, GRID, source, slanted), along / cosine, rtol=1e-5)


def test_radiological_depth_in_lung_is_that_of_its_electrons() -> None:
    """50 mm of water, then 40 mm of lung of 0.26 g/cm3 (0.258 electrons relative to water, ICRU 44)."""
    grid = VoxelGrid((10, 100, 10), (2.0, 1.0, 2.0), (-9.0, 0.5, -9.0))
    mass = np.ones(grid.shape, dtype=np.float32)
    mass[:, 50:90] = 0.26
    density = DensityVolume(grid, mass)
    depth = path_integral(density.electron_relative, grid, (0.0, -900.0, 0.0), [[0.0, 50.0, 0.0], [0.0, 90.0, 0.0]])
    np.testing.assert_allclose(depth, [50.0, 50.0 + 40 * 0.258], atol=0.01)


@given(st.integers(0, 2**32 - 1))
def test_in_a_box_of_ones_it_is_the_length_inside(seed: int) -> None:
    random = np.random.default_rng(seed)
    low, high = np.array([-50.0, -45.0, -50.0]), np.array([50.0, 45.0, 50.0])
    source = random.normal(size=3) * 200.0
    points = random.uniform(-80, 80, size=(20, 3))
    with np.errstate(divide="ignore"):
        near, far = (low - source) / (points - source), (high - source) / (points - source)
    enter = np.clip(np.minimum(near, far).max(axis=1), 0, 1)
    leave = np.clip(np.maximum(near, far).min(axis=1), 0, 1)
    length = np.linalg.norm(points - source, axis=1) * np.clip(leave - enter, 0, None)
    np.testing.assert_allclose(path_integral(ONES, GRID, source, points), length, rtol=1e-4, atol=1e-3)


def test_it_is_linear_and_the_same_both_ways() -> None:
    random = np.random.default_rng(1)
    first, second = (random.uniform(0, 2, GRID.shape).astype(np.float32) for _ in range(2))
    source, points = np.array([30.0, -400.0, 90.0]), random.uniform(-40, 40, size=(50, 3))
    values = [path_integral(volume, GRID, source, points) for volume in (first, second, 2 * first + second)]
    np.testing.assert_allclose(values[2], 2 * values[0] + values[1], rtol=1e-5)
    back = [float(path_integral(first, GRID, point, source[None])[0]) for point in points]
    np.testing.assert_allclose(values[0], back, rtol=1e-5)


def test_half_way_and_the_rest_are_the_whole() -> None:
    random = np.random.default_rng(2)
    volume = random.uniform(0, 2, GRID.shape).astype(np.float32)
    source, points = np.array([-300.0, 10.0, 20.0]), random.uniform(-40, 40, size=(50, 3))
    middle = source + 0.97 * (points - source)
    first = path_integral(volume, GRID, source, middle)
    rest = [float(path_integral(volume, GRID, a, b[None])[0]) for a, b in zip(middle, points, strict=True)]
    np.testing.assert_allclose(first + np.array(rest), path_integral(volume, GRID, source, points), rtol=1e-4)


def test_nothing_outside_and_nothing_of_no_length() -> None:
    beside = [[0.0, 60.0, 0.0], [400.0, 0.0, 0.0], [0.0, -46.0, 10.0]]
    np.testing.assert_array_equal(path_integral(ONES, GRID, (300.0, 300.0, 0.0), beside[:1]), 0.0)
    np.testing.assert_array_equal(path_integral(ONES, GRID, (-5.0, -300.0, 0.0), beside[2:]), 0.0)
    np.testing.assert_array_equal(path_integral(ONES, GRID, (1.0, 2.0, 3.0), [[1.0, 2.0, 3.0]]), 0.0)
    # behind the box it keeps what the box holds
    np.testing.assert_allclose(path_integral(ONES, GRID, (0.0, -300.0, 0.0), [[0.0, 500.0, 0.0]]), 90.0, rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_turned_grid_gives_the_same_along_turned_rays(seed: int) -> None:
    random = np.random.default_rng(seed)
    volume = random.uniform(0, 2, GRID.shape).astype(np.float32)
    turn = rotation(0, 37.0 * seed) @ rotation(2, 90.0 * seed) @ rotation(1, 12.0)
    turned = replace(
        GRID, origin_mm=tuple(turn @ np.array(GRID.origin_mm)), direction=tuple(tuple(row) for row in turn)
    )
    source, points = random.normal(size=3) * 300.0, random.uniform(-60, 60, size=(60, 3))
    np.testing.assert_allclose(
        path_integral(volume, turned, turn @ source, points @ turn.T),
        path_integral(volume, GRID, source, points),
        rtol=1e-4,
        atol=1e-3,
    )


@pytest.mark.parametrize("seed", range(6))
def test_what_lies_about_the_content_counts_without_being_looked_at(seed: int) -> None:
    random = np.random.default_rng(seed)
    volume = np.full(GRID.shape, 0.25, dtype=np.float32)
    first, last = np.sort(random.integers(0, np.array(GRID.shape), size=(2, 3)), axis=0)
    last += 1
    volume[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = 2.0
    content = content_of(volume)
    if (first > 0).any():
        np.testing.assert_array_equal([content.first, content.last], [first, last])
        assert content.outside == 0.25
    source, points = random.normal(size=3) * 300.0, random.uniform(-60, 60, size=(80, 3))
    found = local_path_integral(
        volume, GRID, content, local_point(GRID, source), np.ascontiguousarray(GRID.local_from_patient(points)[:, ::-1])
    )
    np.testing.assert_allclose(found, path_integral(volume, GRID, source, points), rtol=1e-5, atol=1e-4)


def test_a_volume_of_one_value_has_no_content() -> None:
    content = content_of(ONES)
    np.testing.assert_array_equal(content.first, content.last)
    points = np.zeros((1, 3))
    found = local_path_integral(ONES, GRID, content, np.array([0.0, -300.0, 0.0]), points)
    np.testing.assert_allclose(found, 43.5 + 1.5, rtol=1e-6)


def test_local_centres_are_those_of_the_grid() -> None:
    turn = rotation(2, 30.0) @ rotation(0, 20.0)
    grid = replace(GRID, origin_mm=(7.0, -3.0, 2.0), direction=tuple(tuple(row) for row in turn))
    voxels = np.random.default_rng(0).integers(0, grid.voxel_count, 50)
    expected = grid.patient_from_index(np.stack(np.unravel_index(voxels, grid.shape), axis=-1))
    np.testing.assert_allclose(grid.patient_from_local(local_centres(grid, voxels)[:, ::-1]), expected, atol=1e-9)

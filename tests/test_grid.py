"""Grids and resampling: coordinates both ways, conservation, twins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twins import geometry_twins as twins

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.geometry.resample import box_average, gaussian_average, overlap_weights, trilinear, trilinear_on_grid

TURNED = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
GRID = VoxelGrid((4, 5, 6), (3.0, 2.0, 1.0), (10.0, -20.0, 5.0), TURNED)


def random_volume(shape, seed=0):
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def test_index_and_patient_coordinates():
    np.testing.assert_allclose(GRID.patient_from_index((0, 0, 0)), (10, -20, 5))
    # x index grows along the first column of the direction, patient +y; y along the second, patient -x
    np.testing.assert_allclose(GRID.patient_from_index((0, 0, 1)), (10, -19, 5))
    np.testing.assert_allclose(GRID.patient_from_index((0, 1, 0)), (8, -20, 5))
    np.testing.assert_allclose(GRID.patient_from_index((1, 0, 0)), (10, -20, 8))
    index = np.random.default_rng(1).uniform(-3, 9, (20, 3))
    np.testing.assert_allclose(GRID.index_from_patient(GRID.patient_from_index(index)), index, atol=1e-12)


def test_edges_lie_half_a_voxel_outside_and_crops_keep_places():
    assert GRID.edges_mm(0)[0] == pytest.approx(GRID.axis_mm(0)[0] - 1.5)
    assert len(GRID.edges_mm(2)) == 7
    part = GRID.crop((1, -2, 3), (3, 4, 9))
    assert part.shape == (2, 6, 6)
    np.testing.assert_allclose(part.patient_from_index((0, 2, 0)), GRID.patient_from_index((1, 0, 3)))
    assert GRID.voxel_count == 120
    assert GRID.voxel_volume_cc == pytest.approx(0.006)


@pytest.mark.parametrize(("shape", "spacing"), [((0, 1, 1), (1.0, 1.0, 1.0)), ((1, 1, 1), (1.0, -1.0, 1.0))])
def test_impossible_grids_are_refused(shape, spacing):
    with pytest.raises(ValueError, match="impossible"):
        VoxelGrid(shape, spacing, (0.0, 0.0, 0.0))


@given(seed=st.integers(0, 10**6))
def test_box_averages_conserve_the_integral_and_agree_with_the_twin(seed):
    random = np.random.default_rng(seed)
    source = VoxelGrid(
        tuple(random.integers(1, 7, 3)), tuple(random.uniform(0.5, 4, 3)), tuple(random.uniform(-9, 9, 3))
    )
    spacing = random.uniform(0.7, 5, 3)
    low = [source.edges_mm(a)[0] - random.uniform(0, 3) for a in range(3)]
    shape = [int(np.ceil((source.edges_mm(a)[-1] - low[a]) / spacing[a])) for a in range(3)]
    target = VoxelGrid(tuple(shape), tuple(spacing), tuple(low[2 - i] + spacing[2 - i] / 2 for i in range(3)))
    volume = random_volume(source.shape, seed)
    out = box_average(volume, source, target)
    assert out.sum() * target.voxel_volume_cc == pytest.approx(volume.sum() * source.voxel_volume_cc, rel=1e-5)
    slow = volume.astype(float)
    for axis in range(3):
        moved = np.moveaxis(slow, axis, 0)
        edges = source.edges_mm(axis)
        slow = np.moveaxis(twins.box_average(moved, edges[0], source.spacing_mm[axis], target.edges_mm(axis)), 0, axis)
    np.testing.assert_allclose(out, slow, atol=1e-6)


def test_box_average_of_the_same_grid_is_the_same_and_apart_grids_give_zero():
    volume = random_volume(GRID.shape)
    np.testing.assert_array_equal(box_average(volume, GRID, GRID), volume)
    assert not box_average(volume, GRID, GRID.crop((10, 0, 0), (12, 5, 6))).any()
    with pytest.raises(ValueError, match="same axes"):
        box_average(volume, GRID, VoxelGrid((1, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))


@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 2, 6), (4, 5, 1), (2, 17, 3)])
def test_a_gaussian_average_is_its_twin_also_in_volumes_smaller_than_it(shape):
    volume = random_volume(shape)
    grid = VoxelGrid(shape, (2.0, 3.0, 4.0), (0.0, 0.0, 0.0))
    expected = twins.gaussian_average(volume, 3.0 / np.array(grid.spacing_mm), 2.0)
    np.testing.assert_allclose(gaussian_average(volume, grid, 3.0, 2.0), expected, atol=1e-6)
    np.testing.assert_allclose(gaussian_average(np.ones_like(volume), grid, 3.0, 2.0), 1.0, rtol=1e-6)


def test_overlap_weights_of_a_shifted_axis():
    start, count, weight = overlap_weights(0.0, 1.0, 3, np.array([-0.5, 0.5, 2.5, 3.5]))
    assert list(start) == [0, 0, 2]
    assert list(count) == [1, 3, 1]
    np.testing.assert_allclose(weight[1], [0.25, 0.5, 0.25])
    np.testing.assert_allclose(weight[[0, 2], 0], [0.5, 0.5])


@given(seed=st.integers(0, 10**6), shape=st.tuples(*[st.integers(1, 4)] * 3))
def test_trilinear_values_agree_with_the_twin(seed, shape):
    random = np.random.default_rng(seed)
    grid = VoxelGrid(shape, tuple(random.uniform(0.5, 4, 3)), tuple(random.uniform(-9, 9, 3)), TURNED)
    volume = random_volume(shape, seed)
    index = random.uniform(-1, np.array(shape), (40, 3))
    points = grid.local_from_patient(grid.patient_from_index(index))
    expected = [twins.trilinear(volume, one) for one in index]
    np.testing.assert_allclose(trilinear(volume, grid, points), expected, atol=1e-5)


def test_a_linear_field_is_reproduced_on_another_grid_also_on_a_turned_one():
    source = VoxelGrid((8, 9, 10), (3.0, 2.0, 1.5), (0.0, 0.0, 0.0))

    def field(grid):
        z, y, x = np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij")
        return (grid.patient_from_index(np.stack([z, y, x], axis=-1)) @ (0.3, -0.7, 0.2)).astype(np.float32)

    straight = VoxelGrid((5, 6, 7), (2.0, 1.7, 1.1), (1.0, 2.0, 3.0))
    turned = VoxelGrid((5, 6, 7), (2.0, 1.7, 1.1), (10.0, 2.0, 3.0), TURNED)
    for target in (straight, turned):
        np.testing.assert_allclose(trilinear_on_grid(field(source), source, target), field(target), atol=1e-4)

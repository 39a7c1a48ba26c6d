"""Margins: exact volumes of spheres, sides, monotony, shrinking, and the definition itself."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import geometry_twins as twins

from dicomplan.geometry import _kernels_distance as kernels
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import Coverage
from dicomplan.patient.margins import Margin, cropped, expand, shrink

GRIDS = [(1.0, 1.0, 1.0), (2.5, 1.0, 1.0), (3.0, 2.0, 2.0), (5.0, 1.0, 1.0)]
CASES = [(spacing, radius) for spacing in GRIDS for radius in ((15.0, 25.0, 40.0) if spacing[0] < 5 else (30.0, 40.0))]


@cache
def sphere(radius, spacing, center=(0.3, -0.2, 0.4)):
    """Fractional coverage of a sphere: exact along x, 20 sub-lines along y and z in each cell."""
    parts = 20
    half = [int(np.ceil(radius / step)) + 2 for step in spacing]
    z, y, x = [np.arange(-n, n + 1) * step for n, step in zip(half, spacing, strict=True)]
    sub = (np.arange(parts) + 0.5) / parts - 0.5
    fine_z = (z[:, None] + sub * spacing[0] - center[0]).ravel()
    fine_y = (y[:, None] + sub * spacing[1] - center[1]).ravel()
    reach = np.sqrt(np.maximum(radius**2 - fine_z[:, None] ** 2 - fine_y**2, 0))[:, :, None]
    low, high = x - center[2] - spacing[2] / 2, x - center[2] + spacing[2] / 2
    inside = np.clip(np.minimum(high, reach) - np.maximum(low, -reach), 0, None) / spacing[2]
    fraction = inside.reshape(len(z), parts, len(y), parts, len(x)).mean(axis=(1, 3))
    return Coverage(VoxelGrid(fraction.shape, spacing, (x[0], y[0], z[0])), fraction.astype(np.float32))


def ct_of(spacing, half_mm=100):
    half = [int(half_mm / step) for step in spacing]
    origin = tuple(-n * step for n, step in zip(half, spacing, strict=True))[::-1]
    return VoxelGrid(tuple(2 * n + 1 for n in half), spacing, origin)


def ball(radius):
    return 4 / 3 * np.pi * radius**3 / 1000


def on(coverage, grid):
    """The coverage's fractions on a grid of the same lattice that holds it."""
    start = np.rint(grid.index_from_patient(coverage.grid.origin_mm)).astype(int)
    out = np.zeros(grid.shape, dtype=np.float32)
    out[tuple(slice(s, s + n) for s, n in zip(start, coverage.fraction.shape, strict=True))] = coverage.fraction
    return out


@pytest.mark.parametrize(("spacing", "radius"), CASES)
@pytest.mark.parametrize("margin", [3.0, 5.0, 10.0])
def test_a_sphere_grows_to_the_exact_volume(spacing, radius, margin):
    grown = expand(sphere(radius, spacing), Margin.uniform(margin), ct_of(spacing))
    assert grown.volume_cc == pytest.approx(ball(radius + margin), rel=0.005)
    assert grown.fraction.min() >= 0
    assert grown.fraction.max() <= 1


@pytest.mark.parametrize(("spacing", "radius"), [case for case in CASES if case[1] >= 25])
@pytest.mark.parametrize("margin", [3.0, 5.0, 10.0])
def test_a_sphere_shrinks_to_the_exact_volume(spacing, radius, margin):
    shrunk = shrink(sphere(radius, spacing), Margin.uniform(margin), ct_of(spacing))
    assert shrunk.volume_cc == pytest.approx(ball(radius - margin), rel=0.01)


def test_wide_margins_are_exact_too():
    spacing = (2.5, 1.0, 1.0)
    assert expand(sphere(24.0, spacing), Margin.uniform(40), ct_of(spacing)).volume_cc == pytest.approx(
        ball(64), rel=0.01
    )


@pytest.mark.parametrize("spacing", GRIDS)
def test_each_side_moves_by_its_own_margin(spacing):
    margin = Margin(left_mm=8, right_mm=3, anterior_mm=5, posterior_mm=10, superior_mm=7, inferior_mm=4)
    whole, center = sphere(30.0, spacing), (0.3, -0.2, 0.4)
    for change, sign in ((expand, 1), (shrink, -1)):
        result = change(whole, margin, ct_of(spacing))
        for axis, (low, high) in enumerate(((4, 7), (5, 10), (3, 8))):
            # the row of cells through the centre: how much of it is covered on either side
            row = np.moveaxis(result.fraction, axis, -1)
            others = [np.abs(result.grid.axis_mm(a) - center[a]).argmin() for a in range(3) if a != axis]
            line, place = row[others[0], others[1]], result.grid.axis_mm(axis)
            # where the surface lies between two slices is known to about a tenth of a slice
            length = line.sum() * spacing[axis]
            middle = (line * place).sum() * spacing[axis] / length
            assert length == pytest.approx(60 + sign * (low + high), abs=max(0.3, 0.15 * spacing[axis]))
            assert middle - center[axis] == pytest.approx(sign * (high - low) / 2, abs=max(0.25, spacing[axis] / 10))


def test_an_ellipsoidal_margin_of_a_sphere_has_the_volume_of_the_minkowski_sum():
    # a spheroid K of half axes 5, 5, 10: V(K + rB) = V + S r + M r^2 + 4 pi r^3 / 3 (Steiner)
    a, c, r = 5.0, 10.0, 30.0
    e = np.sqrt(1 - a**2 / c**2)
    surface = 2 * np.pi * a**2 * (1 + c / (a * e) * np.arcsin(e))
    mu = (np.arange(20000) + 0.5) / 10000 - 1
    curvature = 2 * np.pi * 2 * np.mean(np.sqrt(a**2 * (1 - mu**2) + c**2 * mu**2))
    exact = (4 / 3 * np.pi * a * a * c + surface * r + curvature * r**2) / 1000 + ball(r)
    for spacing in GRIDS:
        grown = expand(sphere(r, spacing), Margin(a, a, a, a, c, c), ct_of(spacing))
        assert grown.volume_cc == pytest.approx(exact, rel=0.005)


@pytest.mark.parametrize("spacing", GRIDS)
def test_a_margin_along_one_axis_sweeps_the_sphere(spacing):
    r, m = 30.0, 10.0
    ct, whole = ct_of(spacing), sphere(r, spacing)
    for margin in (Margin(left_mm=m), Margin(superior_mm=4, inferior_mm=6), Margin(anterior_mm=3.3, posterior_mm=6.7)):
        swept = ball(r) + np.pi * r**2 * m / 1000
        lens = np.pi * (4 * r + m) * (2 * r - m) ** 2 / 12 / 1000
        assert expand(whole, margin, ct).volume_cc == pytest.approx(swept, rel=0.002)
        assert shrink(whole, margin, ct).volume_cc == pytest.approx(lens, rel=0.003)


def test_no_margin_is_the_identity():
    whole = sphere(15.0, GRIDS[1])
    assert expand(whole, Margin(), ct_of(GRIDS[1])) is whole
    assert shrink(whole, Margin(), ct_of(GRIDS[1])) is whole
    # the result never covers less than the structure, so what smoothing rounds off stays: the bar of all margins, 1 %
    near = expand(whole, Margin.uniform(0.01), ct_of(GRIDS[1]))
    assert near.volume_cc == pytest.approx(ball(15.01), rel=0.01)


@pytest.mark.parametrize("spacing", GRIDS)
def test_wider_margins_cover_more_everywhere(spacing):
    ct, whole = ct_of(spacing), sphere(15.0, spacing)
    smaller = on(shrink(whole, Margin.uniform(6), ct), ct)
    steps = [shrink(whole, Margin.uniform(2), ct), whole]
    steps += [expand(whole, Margin.uniform(m), ct) for m in (0.5, 1, 3, 5, 10, 25)]
    for step in steps:
        larger = on(step, ct)
        assert (smaller - larger).max() <= 0.05
        assert larger.sum() > smaller.sum()
        smaller = larger


def test_what_grew_and_shrank_again_covers_about_what_it_was():
    spacing = (2.5, 1.0, 1.0)
    there = expand(sphere(24.0, spacing), Margin.uniform(7), ct_of(spacing))
    assert shrink(there, Margin.uniform(7), ct_of(spacing)).volume_cc == pytest.approx(ball(24), rel=0.01)


@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (2.5, 0.49, 0.49), (3.0, 0.9765625, 0.9765625)])
def test_a_prism_keeps_flat_ends(spacing):
    # 10 slices of a square of odd size: its ends lie half a slice beyond the outermost contours
    cells = int(41 / spacing[1]) | 1
    grid = VoxelGrid((10, cells, cells), spacing, (-0.5 * (cells - 1) * spacing[2],) * 2 + (-4.5 * spacing[0],))
    prism = Coverage(grid, np.ones(grid.shape, dtype=np.float32))
    ct = VoxelGrid((60, 401, 401), spacing, (-200 * spacing[2], -200 * spacing[1], -29.5 * spacing[0]))
    grown, m = expand(prism, Margin.uniform(6), ct), 6.0
    a, h = cells * spacing[1], 10 * spacing[0]
    height = grown.fraction[:, grown.fraction.shape[1] // 2, grown.fraction.shape[2] // 2].sum() * spacing[0]
    assert height == pytest.approx(h + 2 * m, abs=0.15)
    steiner = a * a * h + (2 * a * a + 4 * a * h) * m + np.pi * (2 * a + h) * m**2 + 4 / 3 * np.pi * m**3
    # the edges lose a little: the surface between slices is interpolated
    assert grown.volume_cc == pytest.approx(steiner / 1000, rel=0.025)


def test_the_result_is_cut_at_the_ct_and_shrinks_away_from_it():
    spacing = (3.0, 2.0, 2.0)
    ct = ct_of(spacing, 18)
    whole = Coverage(ct, np.ones(ct.shape, dtype=np.float32))
    grown = expand(whole, Margin.uniform(10), ct)
    assert grown.grid.shape == ct.shape
    assert (grown.fraction == 1).all()
    side = np.array(ct.shape) * spacing
    assert shrink(whole, Margin.uniform(6), ct).volume_cc == pytest.approx(np.prod(side - 12) / 1000, rel=0.03)


def test_what_is_too_thin_vanishes():
    assert shrink(sphere(15.0, GRIDS[0]), Margin.uniform(16), ct_of(GRIDS[0])).volume_cc == pytest.approx(0, abs=1e-6)
    empty = Coverage(ct_of(GRIDS[2], 10), np.zeros(ct_of(GRIDS[2], 10).shape, dtype=np.float32))
    assert expand(empty, Margin.uniform(5), empty.grid) is empty


def test_on_turned_grids_sides_are_the_patients():
    # feet-first-like axes: x and z run the other way
    turned = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    plain = sphere(15.0, GRIDS[2], (0.0, 0.0, 0.0))
    start = plain.grid.patient_from_index(np.array(plain.grid.shape) - 1)
    grid = VoxelGrid(
        plain.grid.shape, GRIDS[2], (float(start[0]), float(plain.grid.origin_mm[1]), float(start[2])), turned
    )
    other = Coverage(grid, np.ascontiguousarray(plain.fraction[::-1, :, ::-1]))
    margin = Margin(left_mm=9, right_mm=2, posterior_mm=4, superior_mm=6)
    ct = ct_of(GRIDS[2])
    far = ct.patient_from_index(np.array(ct.shape) - 1)
    turned_ct = VoxelGrid(ct.shape, GRIDS[2], (float(far[0]), float(ct.origin_mm[1]), float(far[2])), turned)
    first, second = expand(plain, margin, ct), expand(other, margin, turned_ct)
    np.testing.assert_allclose(on(first, ct), on(second, turned_ct)[::-1, :, ::-1], atol=0.02)


def test_cropping_leaves_the_structure_where_it_is():
    whole = sphere(15.0, GRIDS[2])
    wide = Coverage(ct_of(GRIDS[2]), on(whole, ct_of(GRIDS[2])))
    tight = cropped(wide)
    assert tight.grid.voxel_count < 0.1 * wide.grid.voxel_count
    np.testing.assert_array_equal(on(tight, wide.grid), wide.fraction)


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match="not negative"):
        Margin(left_mm=-1)


@settings(max_examples=8)
@given(seed=st.integers(0, 10**6))
def test_margins_follow_their_definition_on_random_blobs(seed):
    # a blob of smooth random balls; a cell centre is covered if the mirrored ellipsoid about it touches the blob
    random = np.random.default_rng(seed)
    grid = VoxelGrid((12, 24, 24), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    z, y, x = np.meshgrid(grid.axis_mm(0), grid.axis_mm(1), grid.axis_mm(2), indexing="ij")
    depth = np.full(grid.shape, -np.inf)
    for _ in range(3):
        cz, cy, cx = random.uniform(8, 15, 3)
        depth = np.maximum(depth, random.uniform(4, 7) - np.sqrt((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2))
    coverage = Coverage(grid, np.clip(depth + 0.5, 0, 1).astype(np.float32))
    sides = random.uniform(2, 8, 6)
    ct = grid.crop((-8, -15, -15), (20, 39, 39))
    ours = on(expand(coverage, Margin(*sides), ct), ct)
    inside = np.column_stack([a[depth >= 0] for a in (z, y, x)])
    left, right, anterior, posterior, superior, inferior = sides
    low, high = np.array([inferior, anterior, right]), np.array([superior, posterior, left])
    for index in random.integers(0, ct.shape, (60, 3)):
        node = [ct.axis_mm(axis)[index[axis]] for axis in range(3)]
        gauge = twins.ball_grown(inside, node, low, high)
        if gauge < 1:  # the points inside lie up to a cell below the surface: what they reach is surely covered
            assert ours[tuple(index)] >= 0.45
        if gauge > 1 + 2.2 / min(sides):
            assert ours[tuple(index)] <= 0.05


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_cut_cubes_have_the_volume_of_sampled_ones(seed):
    value, a, b, c = np.random.default_rng(seed).uniform([-1, 0, 0, 0], [1, 1, 1, 1])
    assert kernels._cut_cell(value, a, b, c) == pytest.approx(twins.cut_cube(value, a, b, c), abs=0.02)


@settings(max_examples=4)
@given(seed=st.integers(0, 10**6))
def test_slice_distances_agree_with_the_twin(seed):
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(np.arange(9.0), np.arange(8.0), indexing="ij")
    values = np.clip(random.uniform(2, 3) - np.hypot(y - random.uniform(3, 5), x - random.uniform(3, 4)), 0, 1)
    out = np.empty((1, 9, 8), dtype=np.float32)
    levels = np.array([0.3, 0.7])
    kernels.slice_level_sets(values[None].astype(np.float32), levels, 1.5, 1.0, 4.0, out)
    expected = np.mean([twins.distance_to_level(values, level, 1.5, 1.0, 4.0) for level in levels], axis=0)
    np.testing.assert_allclose(out[0], expected, atol=0.01)

"""Exact polygon coverage and level lines: areas, XOR, twins."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twins import geometry_twins as twins

from dicomplan.geometry.contours import half_coverage_contours, simplify
from dicomplan.geometry.polygons import polygon_area_mm2, polygon_coverage, polygon_coverage_into

EDGES = np.arange(0.0, 41.0)


def area(polygons, edges=EDGES):
    step = edges[1] - edges[0]
    return polygon_coverage(polygons, edges, edges).sum() * step**2


def star(random, points, low=0.0, high=40.0):
    """A simple (star-shaped) polygon about a random centre that stays inside the pixels."""
    center = random.uniform(low + 12, high - 12, 2)
    angle = np.sort(random.uniform(0, 2 * np.pi, points))
    reach = random.uniform(0.5, 12, points)
    return center + reach[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def square(x, y, size, *, reverse=False):
    corners = np.array([(x, y), (x + size, y), (x + size, y + size), (x, y + size)], dtype=float)
    return corners[::-1] if reverse else corners


@given(seed=st.integers(0, 10**6), points=st.integers(3, 300), step=st.sampled_from([1.0, 0.7, 2.3]))
def test_areas_of_random_polygons_are_the_shoelace_areas(seed, points, step):
    polygon = star(np.random.default_rng(seed), points)
    edges = step * np.arange(int(np.ceil(40 / step)) + 1)
    assert area([polygon], edges) == pytest.approx(abs(polygon_area_mm2(polygon)), rel=1e-9)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_coverage_is_the_even_odd_rule_of_crossing_polygons(seed):
    random = np.random.default_rng(seed)
    # random corners: self-crossing and mutually crossing
    polygons = [random.uniform(-1, 5, (random.integers(3, 7), 2)) for _ in range(random.integers(1, 4))]
    edges = np.arange(5.0)
    ours = polygon_coverage(polygons, edges, edges)
    slow = twins.coverage_by_points(polygons, (4, 4), 16)
    assert np.abs(ours - slow).max() < 0.12
    assert abs(ours.sum() - slow.sum()) < 0.35
    assert ours.min() >= 0
    assert ours.max() <= 1


def test_nested_polygons_make_holes_and_islands():
    nested = [square(5, 5, 20), square(8.3, 8.1, 10, reverse=True), square(10.7, 10.9, 3)]
    assert area(nested) == pytest.approx(400 - 100 + 9, rel=1e-12)
    assert area(nested[::-1]) == pytest.approx(309, rel=1e-12)


def test_a_keyhole_is_a_hole():
    keyhole = np.array(
        [
            (5, 5),
            (25, 5),
            (25, 25),
            (15, 25),
            (15, 20),
            (20, 20),
            (20, 10),
            (10, 10),
            (10, 20),
            (15, 20),
            (15, 25),
            (5, 25),
        ]
    )
    assert area([keyhole]) == pytest.approx(400 - 100, rel=1e-12)


def test_crossing_squares_leave_out_what_both_cover():
    assert area([square(5, 5, 10), square(10.25, 10.5, 10)]) == pytest.approx(200 - 2 * 4.75 * 4.5, rel=1e-12)


def test_a_bow_tie_has_both_its_wings():
    assert area([np.array([(5.0, 5.0), (15.0, 15.0), (15.0, 5.0), (5.0, 15.0)])]) == pytest.approx(50, rel=1e-9)


def test_the_same_polygon_twice_covers_nothing_and_touching_ones_add_up():
    polygon = star(np.random.default_rng(4), 40)
    assert area([polygon, polygon]) == pytest.approx(0, abs=1e-9)
    assert area([square(3.3, 3, 5), square(8.3, 3, 5)]) == pytest.approx(50, rel=1e-12)


@given(seed=st.integers(0, 10**6))
def test_parts_outside_the_pixels_do_not_count(seed):
    random = np.random.default_rng(seed)
    polygon = star(random, 30, -14, 54)
    wide = np.arange(-30.0, 71.0)
    whole = polygon_coverage([polygon], wide, wide)
    np.testing.assert_allclose(polygon_coverage([polygon], EDGES, EDGES), whole[30:70, 30:70], atol=1e-12)


def test_coverage_does_not_depend_on_direction_start_or_a_repeated_point():
    polygon = star(np.random.default_rng(8), 25)
    expected = polygon_coverage([polygon], EDGES, EDGES)
    for other in (polygon[::-1], np.roll(polygon, 7, axis=0), np.vstack([polygon, polygon[:1]])):
        np.testing.assert_allclose(polygon_coverage([other], EDGES, EDGES), expected, atol=1e-12)


def test_a_flat_polygon_and_none_at_all_cover_nothing():
    out = np.zeros((2, 4, 4), dtype=np.float32)
    polygon_coverage_into([[], []], (0.0, 0.0), (1.0, 1.0), out)
    flat = np.array([(1.0, 2.0), (3.0, 2.0), (2.0, 2.0)])
    polygon_coverage_into([[], [[flat], [flat, flat]]], (0.0, 0.0), (1.0, 1.0), out)
    assert not out.any()


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_a_stack_of_planes_is_each_plane_alone_and_groups_are_averaged(seed):
    random = np.random.default_rng(seed)
    planes = [
        [[star(random, 20) for _ in range(random.integers(0, 4))] for _ in range(random.integers(0, 4))]
        for _ in range(6)
    ]
    out = np.zeros((6, 40, 40))
    polygon_coverage_into(planes, (0.0, 0.0), (1.0, 1.0), out)
    for plane, groups in zip(out, planes, strict=True):
        alone = [polygon_coverage(group, EDGES, EDGES) for group in groups] or [np.zeros((40, 40))]
        np.testing.assert_allclose(plane, np.mean(alone, axis=0), atol=1e-12)


def comb(teeth):
    """Narrow teeth side by side, the height of all pixels, no two ends at one height, no crossing."""
    x = np.linspace(1, 39, 2 * teeth)
    y = np.where(np.arange(2 * teeth) % 2, 38.0, 2.0) + np.linspace(0, 1, 2 * teeth)
    return np.vstack([np.column_stack([x, y]), [(39, 1), (1, 1)]])


@pytest.mark.parametrize(
    "polygons",
    [
        lambda random: [random.uniform(0, 40, (1000, 2))],
        lambda random: [random.uniform(0, 40, (5000, 2))],
        lambda random: list(random.uniform(0, 40, (5000, 3, 2))),
        lambda random: [random.uniform(0, 40, (200_000, 2))],
        lambda random: [comb(100_000)],
        lambda random: [np.column_stack([np.tile((5.0, 15.0), 50_000), np.tile((3.0, 3.0, 30.0, 30.0), 25_000)])],
    ],
    ids=["1000", "5000", "triangles", "200000", "comb", "one height"],
)
def test_scribbles_are_refused_within_a_second(polygons):
    drawn = polygons(np.random.default_rng(2))
    area([square(1, 1, 2)])  # the kernel is compiled
    start = time.perf_counter()
    with pytest.raises(ValueError, match="cross each other too often"):
        area(drawn)
    assert time.perf_counter() - start < 2


def test_many_islands_and_a_hand_drawn_scribble_are_exact():
    random = np.random.default_rng(3)
    corners = np.stack(np.meshgrid(np.arange(0, 300, 6.0), np.arange(0, 300, 6.0)), axis=-1).reshape(-1, 2)
    angle = np.arange(12) * (np.pi / 6)
    islands = [
        corner + random.uniform(2.2, 3.8, 2) + random.uniform(0.5, 2) * np.column_stack([np.cos(angle), np.sin(angle)])
        for corner in corners
    ]
    edges = np.arange(301.0)
    assert area(islands, edges) == pytest.approx(sum(abs(polygon_area_mm2(one)) for one in islands), rel=1e-9)
    # the areas left and right of every crossing of a closed line, weighed by its winding parity, are those of its pixels
    scribble = random.uniform(0, 40, (300, 2))
    coarse, fine = area([scribble]), area([scribble], np.linspace(0, 40, 161))
    assert coarse == pytest.approx(fine, rel=1e-9)


def test_uneven_pixel_edges_are_refused():
    with pytest.raises(ValueError, match="uniform"):
        polygon_coverage([square(1, 1, 2)], np.array([0.0, 1.0, 3.0]), EDGES)


@pytest.mark.parametrize("radius", [4.0, 8.0, 20.0])
def test_level_lines_enclose_the_area_of_a_circle(radius):
    angle = np.arange(360) * (2 * np.pi / 360)
    for center in ((28.2, 28.7), (27.55, 28.1)):
        circle = center + radius * np.column_stack([np.cos(angle), np.sin(angle)])
        edges = np.arange(57.0)
        coverage = polygon_coverage([circle], edges, edges)
        lines = half_coverage_contours(coverage, edges[:-1] + 0.5, edges[:-1] + 0.5)
        assert len(lines) == 1
        # pixels and linear interpolation blur the border, so a curved line moves inwards by a length times its curvature:
        # the loss is the same number of pixels for all circles. Contours of coverages choose a level that corrects it.
        lost = polygon_area_mm2(circle) - polygon_area_mm2(lines[0])
        assert 0 <= lost < 2.0
        assert radius < 10 or lost < 0.005 * polygon_area_mm2(circle)


def test_level_lines_keep_holes_and_close_at_the_border():
    coverage = polygon_coverage([square(-5, 5, 30), square(6, 10, 8)], EDGES, EDGES)
    lines = half_coverage_contours(coverage, EDGES[:-1] + 0.5, EDGES[:-1] + 0.5)
    areas = sorted(polygon_area_mm2(line) for line in lines)
    assert len(areas) == 2
    assert areas[0] < 0 < areas[1]
    assert sum(areas) == pytest.approx(25 * 30 - 64, rel=0.01)


@given(seed=st.integers(0, 10**6), tolerance=st.sampled_from([0.01, 0.1, 1.0]))
def test_simplified_polygons_stay_within_the_tolerance(seed, tolerance):
    polygon = star(np.random.default_rng(seed), 200)
    flat = simplify(polygon, tolerance)
    assert 3 <= len(flat) <= len(polygon)
    start, way = flat, np.roll(flat, -1, axis=0) - flat
    length = np.maximum((way**2).sum(axis=1), 1e-300)
    for point in polygon:
        share = np.clip(((point - start) * way).sum(axis=1) / length, 0, 1)
        assert np.hypot(*(start + share[:, None] * way - point).T).min() <= tolerance + 1e-9


def test_points_on_straight_lines_are_left_out():
    side = np.linspace(0, 10, 50, endpoint=False)
    zero, ten = np.zeros(50), np.full(50, 10.0)
    square_points = np.concatenate(
        [np.column_stack(p) for p in ((side, zero), (ten, side), (10 - side, ten), (zero, 10 - side))]
    )
    flat = simplify(square_points)
    assert len(flat) <= 8
    assert polygon_area_mm2(flat) == pytest.approx(100, rel=1e-3)

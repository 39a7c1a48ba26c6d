"""The rule of INTERFACE.md for the dose grid: step from the CT's pixels, centres on the CT's lattice, BODY covered."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicomplan.geometry.grid import IDENTITY, Matrix, VoxelGrid
from dicomplan.patient.case import Coverage, Structure
from dicomplan.patient.coverage import rasterize
from dicomplan.patient.dose_grid import dose_grid

TURNED: Matrix = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))


def ct_grid(spacing_mm: tuple[float, float, float], shape=(20, 24, 22), direction: Matrix = IDENTITY) -> VoxelGrid:
    return VoxelGrid(shape, spacing_mm, (-33.3, 12.7, -104.5), direction)


def body(ct: VoxelGrid, low: tuple[int, int, int], high: tuple[int, int, int], finer: int = 1) -> Coverage:
    """A block of whole CT voxels from ``low`` to ``high`` (exclusive; z, y, x) on a grid ``finer`` times as fine in plane."""
    z, y, x = ct.spacing_mm
    index = np.array([low[0], low[1] - 0.5 + 0.5 / finer, low[2] - 0.5 + 0.5 / finer])
    origin = ct.patient_from_index(index)
    shape = (high[0] - low[0], finer * (high[1] - low[1]), finer * (high[2] - low[2]))
    grid = VoxelGrid(shape, (z, y / finer, x / finer), tuple(float(a) for a in origin), ct.direction)
    return Coverage(grid, np.ones(shape, dtype=np.float32))


def whole(ct: VoxelGrid) -> Coverage:
    return body(ct, (0, 0, 0), ct.shape)


@pytest.mark.parametrize(
    ("pixel", "step", "spacing"),
    [
        (0.977, 3.0, 2.931),
        (4.688, 3.0, 2.344),
        (1.0, 3.0, 3.0),
        (2.5, 3.0, 2.5),
        (3.0, 3.0, 3.0),
        (3.1, 3.0, 1.55),
        (10.0, 3.0, 2.5),
        (1.5, 3.0, 3.0),
        (0.5, 0.4, 0.25),
        (3.90625, 3.0, 1.953125),
        (0.1, 0.3, 0.3),  # 0.3 / 0.1 is a little below 3 in binary
        (0.9, 2.7, 2.7),
        (4.688, None, 4.688),
    ],
)
def test_the_steps_of_the_contract(pixel: float, step: float | None, spacing: float) -> None:
    ct = ct_grid((pixel, pixel, pixel))
    np.testing.assert_allclose(dose_grid(ct, whole(ct), step).spacing_mm, [spacing] * 3, rtol=1e-9)


def test_the_cts_own_voxels() -> None:
    ct = ct_grid((3.0, 1.17, 1.17))
    grid = dose_grid(ct, body(ct, (4, 5, 6), (19, 20, 21)), None)
    assert grid.shape == (15, 15, 15)
    np.testing.assert_allclose(grid.origin_mm, ct.patient_from_index((4, 5, 6)), atol=1e-9)


PIXELS = st.tuples(st.floats(0.5, 6.0), st.floats(0.4, 6.0), st.floats(0.4, 6.0))
CORNER = st.tuples(st.integers(0, 19), st.integers(0, 23), st.integers(0, 21))


@given(PIXELS, st.one_of(st.none(), st.floats(1.0, 8.0)), CORNER, CORNER, st.integers(1, 4), st.booleans())
def test_step_lattice_and_cover(
    pixels: tuple[float, float, float],
    step: float | None,
    one: tuple[int, int, int],
    other: tuple[int, int, int],
    finer: int,
    turned: bool,
) -> None:
    ct = ct_grid(pixels, direction=TURNED if turned else IDENTITY)
    low = tuple(min(a, b) for a, b in zip(one, other, strict=True))
    high = tuple(max(a, b) + 1 for a, b in zip(one, other, strict=True))
    coverage = body(ct, low, high, finer)
    grid = dose_grid(ct, coverage, step)
    assert grid.direction == ct.direction
    for axis in range(3):
        pixel, spacing = ct.spacing_mm[axis], grid.spacing_mm[axis]
        limit = pixel if step is None else step
        # a whole multiple or a whole fraction, at most the step; the next larger of its kind would be above it
        assert spacing <= limit * (1 + 1e-5)
        ratio = spacing / pixel
        if ratio > 0.999:
            assert math.isclose(ratio, round(ratio), rel_tol=1e-9)
            assert (round(ratio) + 1) * pixel > limit or step is None
        else:
            parts = round(1 / ratio)
            assert math.isclose(1 / ratio, parts, rel_tol=1e-9)
            assert pixel / (parts - 1) > limit
        # voxel centres on pixel centres: all of them, or every one of so many parts
        place = (grid.axis_mm(axis) - ct.axis_mm(axis)[0]) / min(spacing, pixel)
        np.testing.assert_allclose(place, np.round(place), atol=1e-6)
        # BODY is covered, and not much more than that
        edges, wanted = grid.edges_mm(axis), coverage.grid.edges_mm(axis)
        assert edges[0] <= wanted[0] + 1e-6
        assert edges[-1] >= wanted[-1] - 1e-6
        most = spacing + 0.5 * max(pixel, spacing)
        assert edges[0] > wanted[0] - most - 1e-6
        assert edges[-1] < wanted[-1] + most + 1e-6


@pytest.mark.parametrize("count", range(20, 27))
@pytest.mark.parametrize("multiple", [1, 2, 3, 4, 5])
def test_a_body_that_goes_on_beyond_the_ct_is_covered_to_the_last_slice(count: int, multiple: int) -> None:
    """Thin slices, every n-th taken: whatever the number of slices, none of BODY's lies outside of the grid."""
    ct = ct_grid((1.0, 2.0, 2.0), shape=(count, 12, 12))
    grid = dose_grid(ct, body(ct, (0, 2, 2), (count, 10, 10)), float(multiple))
    assert grid.spacing_mm[0] == multiple
    edges, wanted = grid.edges_mm(0), ct.edges_mm(0)
    assert edges[0] <= wanted[0] + 1e-9
    assert edges[-1] >= wanted[-1] - 1e-9


def test_a_single_slice_of_body_is_covered() -> None:
    ct = ct_grid((3.0, 1.0, 1.0))
    grid = dose_grid(ct, body(ct, (19, 0, 0), (20, 24, 22)), 3.0)
    assert grid.shape[0] >= 1
    assert grid.edges_mm(0)[-1] >= ct.edges_mm(0)[-1] - 1e-9


def test_a_drawn_body() -> None:
    ct = ct_grid((2.5, 0.977, 0.977))
    corner, other = ct.patient_from_index((4, 3.2, 2.7)), ct.patient_from_index((4, 20.9, 18.1))
    contours = []
    for plane in range(4, 11):
        z = ct.patient_from_index((plane, 0, 0))[2]
        x, y = (corner[0], other[0]), (corner[1], other[1])
        contours.append(np.array([(x[0], y[0], z), (x[1], y[0], z), (x[1], y[1], z), (x[0], y[1], z)]))
    grid = dose_grid(ct, rasterize(Structure("BODY", 1, "EXTERNAL", tuple(contours)), ct), 3.0)
    np.testing.assert_allclose(grid.spacing_mm, (2.5, 2.931, 2.931))
    for axis, (first, last) in ((1, (corner[1], other[1])), (2, (corner[0], other[0]))):
        edges = grid.edges_mm(axis)
        assert edges[0] <= first
        assert edges[-1] >= last
        assert edges[-1] - edges[0] < last - first + 3 * 2.931

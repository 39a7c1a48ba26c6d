"""Dose samples of structures: analytic shapes, conservation, borders, the slow twin."""

import math
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicomplan.geometry.grid import VoxelGrid
from dicomplan.metrics import _kernels
from dicomplan.metrics.dvh import evaluate
from dicomplan.metrics.grammar import parse_metric
from dicomplan.metrics.sampling import coldest, dose_samples, hottest
from dicomplan.patient.case import Coverage, Structure
from dicomplan.patient.coverage import rasterize

sys.path.insert(0, str(Path(__file__).parent / "twins"))
import metrics_twins as twin


def metric(name, samples, unit=""):
    return evaluate(parse_metric(name)[0], samples, unit)


def circle(radius_mm, z_mm, points=720):
    angle = np.arange(points) * 2 * np.pi / points
    # a polygon of the circle's area
    radius = radius_mm * math.sqrt(2 * np.pi / points / math.sin(2 * np.pi / points))
    return np.stack([0.3 + radius * np.cos(angle), -0.2 + radius * np.sin(angle), np.full(points, z_mm)], axis=1)


def shape(radius_of_z, half_mm, slice_mm):
    planes = 2 * round(half_mm / slice_mm)
    ct = VoxelGrid((planes, 64, 64), (slice_mm, 0.98, 0.98), (-31.0, -31.0, -half_mm + slice_mm / 2))
    contours = tuple(circle(radius_of_z(z), z) for z in ct.axis_mm(0))
    return rasterize(Structure("shape", 1, "ORGAN", contours), ct)


def linear_dose(gradient_xyz, at_centre_gy=16.0, step_mm=3.0):
    grid = VoxelGrid((24, 24, 24), (step_mm,) * 3, (-34.0, -35.0, -36.0))
    z, y, x = np.meshgrid(*(grid.axis_mm(axis) for axis in range(3)), indexing="ij")
    dose = at_centre_gy + gradient_xyz[0] * (x - 0.3) + gradient_xyz[1] * (y + 0.2) + gradient_xyz[2] * z
    return dose.astype(np.float32), grid


def solve(volume, fraction):
    """t in [-1, 1] where a falling V(t) equals ``fraction``."""
    low, high = -1.0, 1.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if volume(middle) > fraction else (low, middle)
    return low


def sphere(t):
    return (2 - 3 * t + t**3) / 4


def across_cylinder(t):
    return (math.acos(t) - t * math.sqrt(1 - t * t)) / math.pi


def along_cylinder(t):
    return (1 - t) / 2


def across_cone(t):
    if t < 0:
        return 1 - across_cone(-t)
    if t in (0, 1):
        return 0.5 * (1 - t)
    root = math.sqrt(1 - t * t)
    return (math.acos(t) - 2 * t * root + t**3 * math.log((1 + root) / t)) / math.pi


def cone_apex_hot(t):
    return (1 - (t + 1) / 2) ** 3


R = 12.0
SHAPES = {
    # thin slices, since the formulas are for the smooth shape and contours stand for prisms
    "sphere, x": (lambda z: math.sqrt(R * R - z * z), 0.25, (1, 0, 0), sphere),
    "sphere, xy": (lambda z: math.sqrt(R * R - z * z), 0.25, (0.5**0.5, 0.5**0.5, 0), sphere),
    "sphere, z": (lambda z: math.sqrt(R * R - z * z), 0.25, (0, 0, 1), sphere),
    "cylinder, y": (lambda z: R, 3.0, (0, 1, 0), across_cylinder),
    "cylinder, z": (lambda z: R, 3.0, (0, 0, 1), along_cylinder),
    "cone, x": (lambda z: R * (R - z) / (2 * R), 0.25, (1, 0, 0), across_cone),
    "cone, z": (lambda z: R * (R - z) / (2 * R), 0.25, (0, 0, 1), cone_apex_hot),
}


@pytest.mark.parametrize("case", SHAPES)
def test_dvh_of_shapes_in_linear_gradients(case):
    """1 Gy/mm through shapes of 24 mm, 16 Gy at the centre: formulas of solid geometry within 0.25 % of 16 Gy."""
    radius, slice_mm, gradient, volume = SHAPES[case]
    samples = dose_samples(shape(radius, R, slice_mm), *linear_dose(gradient))
    for percent in (99, 98, 95, 80, 50, 20, 5, 2, 1):
        exact = 16.0 + R * solve(volume, percent / 100)
        assert metric(f"D{percent}%", samples) == pytest.approx(exact, abs=0.25 / 100 * 16)
    for dose in (8.0, 12.0, 16.0, 20.0):
        assert metric(f"V{dose}Gy", samples) == pytest.approx(100 * volume((dose - 16) / R), abs=0.25)


def test_published_numbers_of_the_sphere_and_the_cone():
    radius, slice_mm, gradient, _ = SHAPES["sphere, x"]
    samples = dose_samples(shape(radius, R, slice_mm), *linear_dose(gradient))
    assert metric("D95%", samples) == pytest.approx(7.2484, abs=0.02)
    assert metric("D50%", samples) == pytest.approx(16.0, abs=0.005)
    assert metric("D1%", samples) == pytest.approx(26.5863, abs=0.03)
    assert metric("Dmean", samples) == pytest.approx(16.0, abs=0.002)
    radius, slice_mm, gradient, _ = SHAPES["cone, z"]
    cone = dose_samples(shape(radius, R, slice_mm), *linear_dose(gradient))
    assert metric("Dmean", cone) == pytest.approx(10.0, abs=0.01)


def test_uniform_dose_comes_out_exactly():
    coverage = shape(lambda z: R, R, 3.0)
    grid = VoxelGrid((24, 24, 24), (3.0,) * 3, (-34.0, -35.0, -36.0))
    samples = dose_samples(coverage, np.full(grid.shape, 70.1, dtype=np.float32), grid)
    dose = float(np.float32(70.1))
    for name in ("D95%", "D2%", "D98%", "D0.03cc", "Dmean", "Dmax", "Dmin", "DC0.1cc", "D500cc"):
        assert metric(name, samples) == pytest.approx(dose, rel=1e-12)
    assert metric("D95%", samples) >= dose * (1 - 1e-15)
    assert metric(f"V{dose}Gy", samples) == 100.0
    assert metric("V70.2Gy", samples) == 0.0


def test_volume_is_the_coverage_and_doses_scale():
    coverage = shape(lambda z: R, R, 3.0)
    dose, grid = linear_dose((0.3, 0.4, 0.5))
    one, two = dose_samples(coverage, dose, grid), dose_samples(coverage, 2 * dose, grid)
    assert one.volume_cc == pytest.approx(coverage.volume_cc, rel=1e-6)
    for name in ("D95%", "D50%", "D0.03cc", "Dmean", "Dmax", "Dmin"):
        assert metric(name, two) == pytest.approx(2 * metric(name, one), rel=1e-6)
    assert metric("V16Gy", one, "cc") + metric("CV16Gy", one, "cc") == pytest.approx(one.volume_cc)


def test_dose_outside_the_grid_is_zero_and_counted():
    coverage = shape(lambda z: R, R, 3.0)
    grid = VoxelGrid((24, 24, 11), (3.0,) * 3, (-34.0, -35.0, -36.0))
    # voxels end at x = -4 + 1.5 = -2.5; the cylinder's centre is at 0.3: t = -2.8 / 12
    samples = dose_samples(coverage, np.full(grid.shape, 5.0, dtype=np.float32), grid)
    outside = across_cylinder(-2.8 / 12)
    assert samples.outside_cc / samples.volume_cc == pytest.approx(
        outside, abs=0.03
    )  # the edge falls into cells of 1 mm
    assert metric("V5Gy", samples) == pytest.approx(100 * (1 - outside), abs=3)
    assert metric("Dmin", samples) == 0.0
    away = VoxelGrid((4, 4, 4), (3.0,) * 3, (500.0, 0.0, 0.0))
    nothing = dose_samples(coverage, np.full(away.shape, 5.0, dtype=np.float32), away)
    assert metric("Dmax", nothing) == 0.0
    assert nothing.outside_cc == pytest.approx(nothing.volume_cc)


def test_extremes_leave_out_cells_covered_less_than_half():
    grid = VoxelGrid((1, 1, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    dose_grid = VoxelGrid((2, 2, 6), (1.0, 1.0, 1.0), (-1.0, 0.0, 0.0))
    dose = np.broadcast_to(np.arange(6, dtype=np.float32), dose_grid.shape)
    fraction = np.array([[[0.0, 1.0, 1.0, 0.4]]], dtype=np.float32)
    assert dose_samples(Coverage(grid, fraction), dose, dose_grid).max_gy == pytest.approx(3.0)
    thin = dose_samples(Coverage(grid, 0.4 * fraction), dose, dose_grid)
    assert thin.max_gy > 3.0  # no cell is covered half: any covered one counts


def test_place_of_the_hottest_and_coldest_spot_in_a_turned_patient():
    # prone, feet first: x index runs to patient -x, y to +y, z to -z
    turned = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    ct = VoxelGrid((20, 40, 40), (2.0, 1.0, 1.0), (20.0, -20.0, 19.0), turned)
    dose = np.zeros((14, 14, 14), dtype=np.float32)
    grid = VoxelGrid((14, 14, 14), (3.0,) * 3, (19.5, -19.5, 19.5), turned)
    dose[4, 5, 6] = 50.0
    place = grid.patient_from_index([4, 5, 6])
    coverage = Coverage(ct, np.ones(ct.shape, dtype=np.float32))
    at_least, position = hottest(coverage, dose, grid, 0.001)
    assert np.abs(np.array(position) - place).max() <= 1.0
    assert 30 < at_least <= 50
    cold, _ = coldest(coverage, dose, grid, 0.03)
    assert cold == pytest.approx(0.0, abs=1e-4)


def test_empty_structure_and_bad_dose_are_refused():
    grid = VoxelGrid((4, 4, 4), (1.0,) * 3, (0.0,) * 3)
    empty = dose_samples(Coverage(grid, np.zeros(grid.shape, np.float32)), np.ones(grid.shape, np.float32), grid)
    assert empty.volume_cc == 0.0
    with pytest.raises(ValueError, match="empty"):
        metric("Dmean", empty)
    bad = np.full(grid.shape, np.nan, dtype=np.float32)
    with pytest.raises(ValueError, match="numbers"):
        dose_samples(Coverage(grid, np.ones(grid.shape, np.float32)), bad, grid)


@settings(deadline=None, max_examples=60)
@given(st.floats(0.001, 0.999), st.floats(0, 2 * math.pi))
def test_twin_of_the_covered_centroid(fraction, angle):
    fast = _kernels.covered_centroid(fraction, math.sin(angle), math.cos(angle))
    assert fast == pytest.approx(twin.covered_centroid(fraction, math.sin(angle), math.cos(angle)), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 12), st.floats(0, 12))
def test_twin_of_the_spread(one, other):
    low, high = min(one, other), max(one, other)
    mass = np.zeros((13, 2))
    _kernels.spread(mass, 2.5, low, high)
    fast = mass[:-1, 0] + np.cumsum(mass[:-1, 1])
    assert fast.sum() == pytest.approx(2.5)
    assert fast == pytest.approx(twin.spread(2.5, low, high, 12), abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_twin_of_the_histogram(seed):
    rng = np.random.default_rng(seed)
    cell = (rng.uniform(0.6, 3.2), rng.uniform(0.7, 1.6), rng.uniform(0.7, 1.0))
    fraction = np.clip(rng.uniform(-0.7, 1.7, (3, 4, 5)), 0, 1).astype(np.float32)
    grid = VoxelGrid(fraction.shape, cell, tuple(rng.uniform(-1, 1, 3)))
    dose = rng.uniform(0, 60, (4, 3, 1 if seed == 5 else 4)).astype(np.float32)
    dose_grid = VoxelGrid(dose.shape, tuple(rng.uniform(1, 3, 3)), tuple(rng.uniform(-2, 0, 3)))
    points = twin.sample_points(
        fraction, grid.local_origin_mm[::-1], cell, dose, dose_grid.local_origin_mm[::-1], dose_grid.spacing_mm
    )
    samples = dose_samples(Coverage(grid, fraction), dose, dose_grid)
    weight = np.array([point[0] for point in points])
    value = np.array([point[1] for point in points])
    assert samples.volume_cc == pytest.approx(weight.sum() / 1000, rel=1e-6)
    assert samples.mean_gy == pytest.approx(weight @ value / weight.sum(), rel=1e-6)
    for level in np.linspace(samples.lowest_gy, samples.highest_gy, 9)[1:-1]:
        share = [
            np.clip((p[3] - level) / (p[3] - p[2]), 0, 1) if p[3] - p[2] > 1e-9 else float(p[1] >= level)
            for p in points
        ]
        assert samples.volume_at_least_cc(level) == pytest.approx(weight @ np.array(share) / 1000, rel=2e-3)
    counted = [point for point in points if point[4] >= 0.5] or points
    assert samples.max_gy == pytest.approx(max(point[1] for point in counted), abs=1e-4)
    assert samples.min_gy == pytest.approx(min(point[1] for point in counted), abs=1e-4)


def test_ten_litres_are_quick():
    """A head and neck BODY: 100 slices of 3 mm, 11 million points; generous bound for a loaded machine."""
    grid = VoxelGrid((100, 250, 220), (3.0, 0.98, 0.98), (-110.0, -120.0, -150.0))
    disc = (grid.axis_mm(1)[:, None] / 115) ** 2 + (grid.axis_mm(2)[None, :] / 100) ** 2 < 1
    coverage = Coverage(grid, np.repeat(disc[None].astype(np.float32), 100, axis=0))
    dose_grid = VoxelGrid((110, 90, 80), (3.0,) * 3, (-120.0, -135.0, -160.0))
    dose = np.random.default_rng(0).uniform(0, 70, dose_grid.shape).astype(np.float32)
    dose_samples(coverage, dose, dose_grid)
    start = time.process_time()
    samples = dose_samples(coverage, dose, dose_grid)
    assert time.process_time() - start < 6.0
    assert samples.volume_cc > 10_000


def test_threads_do_not_change_a_bit():
    import numba

    coverage = shape(lambda z: math.sqrt(R * R - z * z), R, 1.0)
    grid = VoxelGrid((24, 24, 24), (3.0,) * 3, (-34.0, -35.0, -36.0))
    dose = np.random.default_rng(3).uniform(0, 70, grid.shape).astype(np.float32)
    threads, before = [], numba.get_num_threads()
    try:
        for count in sorted({1, before}):
            numba.set_num_threads(count)
            threads.append(dose_samples(coverage, dose, grid))
    finally:
        numba.set_num_threads(before)
    first, last = threads[0], threads[-1]
    assert np.array_equal(first.volume_above_cc, last.volume_above_cc)
    assert (first.mean_gy, first.max_gy, first.max_position_mm) == (last.mean_gy, last.max_gy, last.max_position_mm)


def within(polygon, points):
    """Even-odd rule: edges crossed by a ray in +x from each point."""
    inside = np.zeros(len(points), dtype=bool)
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (points[:, 1] < y1) != (points[:, 1] < y2)
        if y1 != y2:
            inside ^= crosses & (points[:, 0] < x1 + (points[:, 1] - y1) * (x2 - x1) / (y2 - y1))
    return inside


CASE = Path(__file__).parents[1].parent / "shared" / "data" / "cases" / "openkbp_247"


@pytest.mark.skipif(not CASE.is_dir(), reason="the shared case openkbp_247 is not here")
@pytest.mark.parametrize("name", ["PTV70", "SpinalCord", "LeftParotid"])
def test_published_dose_against_points_in_the_contours(name):
    """Metrics within 0.1 % of 70 Gy of those of jittered points 0.25 mm apart inside the contours, dose by scipy."""
    import pydicom
    from scipy.ndimage import map_coordinates

    dose_file = next(
        file
        for file in sorted(CASE.glob("*.dcm"))
        if pydicom.dcmread(file, stop_before_pixels=True).Modality == "RTDOSE"
    )
    file = pydicom.dcmread(dose_file)
    columns, rows = file.PixelSpacing[1], file.PixelSpacing[0]
    origin = tuple(float(value) for value in file.ImagePositionPatient)
    planes = [float(value) for value in file.GridFrameOffsetVector]
    grid = VoxelGrid(file.pixel_array.shape, (planes[1] - planes[0], float(rows), float(columns)), origin)
    dose = (file.pixel_array * float(file.DoseGridScaling)).astype(np.float32)
    structures = next(
        pydicom.dcmread(one)
        for one in sorted(CASE.glob("*.dcm"))
        if pydicom.dcmread(one, stop_before_pixels=True).Modality == "RTSTRUCT"
    )
    number = next(roi.ROINumber for roi in structures.StructureSetROISequence if roi.ROIName == name)
    item = next(one for one in structures.ROIContourSequence if one.ReferencedROINumber == number)
    contours = [np.array(one.ContourData, dtype=float).reshape(-1, 3) for one in item.ContourSequence]
    assert [int(value) for value in file.ImageOrientationPatient] == [1, 0, 0, 0, 1, 0]
    # dose and CT of this case share their voxels
    samples = dose_samples(rasterize(Structure(name, 1, "", tuple(contours)), grid), dose, grid)

    rng, step, values = np.random.default_rng(0), 0.25, []
    for z in sorted({round(float(contour[0, 2]), 3) for contour in contours}):
        here = [contour[:, :2] for contour in contours if round(float(contour[0, 2]), 3) == z]
        low, high = np.vstack(here).min(axis=0) - 1, np.vstack(here).max(axis=0) + 1
        points = np.stack(np.meshgrid(*(np.arange(low[i], high[i], step) for i in (0, 1))), axis=-1).reshape(-1, 2)
        points += rng.uniform(-step / 2, step / 2, points.shape)
        inside = np.zeros(len(points), dtype=bool)
        for contour in here:
            inside ^= within(contour, points)
        points = points[inside]
        for plane in range(6):
            height = z + ((plane + 0.5) / 6 - 0.5) * grid.spacing_mm[0]
            index = grid.index_from_patient(np.column_stack([points, np.full(len(points), height)]))
            values.append(map_coordinates(dose, index.T, order=1, mode="nearest"))
    dense = np.sort(np.concatenate(values))[::-1].astype(np.float64)
    volume = step**2 * grid.spacing_mm[0] / 6 / 1000
    assert samples.volume_cc == pytest.approx(len(dense) * volume, rel=0.005)
    expected = {"Dmean": dense.mean(), "D0.1cc": dense[int(0.1 / volume)]}
    expected |= {f"D{percent}%": dense[int(percent / 100 * len(dense))] for percent in (98, 95, 50, 5, 2)}
    for wanted, value in expected.items():
        assert metric(wanted, samples) == pytest.approx(value, abs=0.001 * 70), wanted

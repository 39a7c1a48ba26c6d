"""The report's pictures: planes, letters, outlines, isodoses and beam's-eye views against analytic shapes."""

from __future__ import annotations

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from report_helpers import ISOCENTER, ellipsoid, make_grid, make_report_data, relative_points

from dicomplan.beams.delivery import Aperture
from dicomplan.geometry.frames import beam_frame
from dicomplan.geometry.grid import IDENTITY, Matrix, VoxelGrid
from dicomplan.patient.case import Coverage
from dicomplan.report.bev import fluence_raster, opening
from dicomplan.report.colors import ISODOSES, fluence_colors, luminance, on_dark, on_white
from dicomplan.report.framing import box_above, picture_box, shadow
from dicomplan.report.page import render_report
from dicomplan.report.planes import Picture, PlaneName, cut, direction_letters, plane_view
from dicomplan.report.silhouette import covered_points, silhouette
from dicomplan.report.slices import isodose_levels
from dicomplan.report.values import FluenceMap
from dicomplan.report.vector import UNITS_PER_MM, bands, grey_levels, outline, path_data, png_uri

# Columns are the directions of x, y, z index (row, column cosines and normal of ImageOrientationPatient).
PRONE: Matrix = ((-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 1.0))
FEET_FIRST: Matrix = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
DECUBITUS: Matrix = ((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
ORIENTATIONS = [IDENTITY, PRONE, FEET_FIRST, DECUBITUS]
EXPECTED: dict[PlaneName, tuple[str, str, str, str]] = {
    "axial": ("R", "L", "A", "P"),
    "coronal": ("R", "L", "S", "I"),
    "sagittal": ("A", "P", "S", "I"),
}


def _rings(path: str) -> list[np.ndarray]:
    """Absolute points in mm of path data as written by the report."""
    rings = []
    for part in re.findall(r"M(-?\d+) (-?\d+)l([^zM]*)", path):
        steps = np.array(re.findall(r"-?\d+", part[2]), dtype=float).reshape(-1, 2)
        start = np.array([[float(part[0]), float(part[1])]])
        rings.append(np.concatenate([start, start + np.cumsum(steps, axis=0)]) / UNITS_PER_MM)
    return rings


def _area(ring: np.ndarray) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))


@pytest.mark.parametrize("direction", ORIENTATIONS)
@pytest.mark.parametrize("name", list(EXPECTED))
def test_anatomy_lies_where_the_letters_say(direction: Matrix, name: PlaneName) -> None:
    """A ball that lies left, anterior and superior of the isocentre is found on those sides of every picture."""
    grid = make_grid((150.0, 160.0, 170.0), (5.0, 4.0, 3.0), direction)
    offset = {"axial": (30.0, -24.0, 0.0), "coronal": (30.0, 0.0, 36.0), "sagittal": (0.0, -24.0, 36.0)}[name]
    values = (ellipsoid(*offset, 12, 12, 12)(*relative_points(grid)) > 0).astype(np.float32)
    view = plane_view(grid, name)
    assert view.letters == EXPECTED[name]
    position = float(grid.local_from_patient(ISOCENTER)[2 - view.normal_axis])
    picture = cut(values, grid, view, position, interpolate=False)
    assert picture is not None
    assert (np.diff(picture.u_mm) > 0).all()
    assert (np.diff(picture.v_mm) > 0).all()
    u, v = view.picture_point(grid, ISOCENTER)
    rows, columns = np.nonzero(picture.values)
    side = {"R": -offset[0], "L": offset[0], "A": -offset[1], "P": offset[1], "S": offset[2], "I": -offset[2]}
    assert picture.u_mm[columns].mean() - u == pytest.approx(side[view.letters[1]], abs=2.0)
    assert picture.v_mm[rows].mean() - v == pytest.approx(side[view.letters[3]], abs=2.0)


@pytest.mark.parametrize("direction", ORIENTATIONS)
def test_same_patient_same_picture_however_scanned(direction: Matrix) -> None:
    """An asymmetric dose gives the same axial values, to interpolation, on a grid of any orientation."""
    reference = make_grid((100.0, 100.0, 100.0), (4.0, 4.0, 4.0))
    grid = make_grid((100.0, 100.0, 100.0), (4.0, 4.0, 4.0), direction)
    pictures = []
    for item in (reference, grid):
        x, y, z = relative_points(item)
        view = plane_view(item, "axial")
        position = float(item.local_from_patient(ISOCENTER)[2 - view.normal_axis])
        picture = cut((x + 3 * y + 7 * z).astype(np.float32), item, view, position, interpolate=True)
        assert picture is not None
        pictures.append(picture.values)
    np.testing.assert_allclose(pictures[0], pictures[1], atol=1e-3)


def test_letters_of_oblique_and_feet_first_axes() -> None:
    assert direction_letters((0.0, 0.0, -1.0)) == "I"
    assert direction_letters((0.766, -0.643, 0.0)) == "LA"
    assert direction_letters((0.1, 0.995, 0.0)) == "P"


@pytest.mark.parametrize("direction", [IDENTITY, PRONE, FEET_FIRST])
@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS"])
def test_page_carries_the_letters_of_each_view(direction: Matrix, position: str) -> None:
    page = render_report(make_report_data(direction=direction, patient_position=position))
    pictures = re.findall(r'<svg viewBox="[^"]*" class="ct".*?</svg>', page, re.S)
    letters = [re.findall(r'class="letter">([A-Z]+)<', picture) for picture in pictures]
    assert letters == [list(EXPECTED[name]) for name in ("axial", "coronal", "sagittal")]
    # Gantry 0, collimator 0: beam +x is IEC fixed +x, beam +y points to the gantry (IEC 61217).
    beam = re.search(r'<svg viewBox="[^"]*" class="bev".*?</svg>', page, re.S)
    assert beam is not None
    expected = {"HFS": ["R", "L", "S", "I"], "HFP": ["L", "R", "S", "I"], "FFS": ["L", "R", "I", "S"]}[position]
    assert re.findall(r'class="letter">([A-Z]+)<', beam.group(0)) == expected


def test_dose_between_planes_is_interpolated() -> None:
    grid = VoxelGrid((3, 2, 2), (2.0, 1.0, 1.0), (0.0, 0.0, 10.0))
    values = np.broadcast_to(np.array([1.0, 3.0, 7.0], np.float32)[:, None, None], grid.shape)
    view = plane_view(grid, "axial")
    for z, expected in ((10.0, 1.0), (10.5, 1.5), (13.0, 5.0), (14.9, 7.0)):
        picture = cut(values, grid, view, z, interpolate=True)
        assert picture is not None
        np.testing.assert_allclose(picture.values, expected)
    assert cut(values, grid, view, 15.1, interpolate=True) is None


@settings(deadline=None, max_examples=15, derandomize=True)
@given(radius=st.floats(6, 25), u=st.floats(-8, 8), v=st.floats(-8, 8))
def test_outline_of_a_disc_has_its_area_and_place(radius: float, u: float, v: float) -> None:
    axis = np.arange(-40.0, 40.1, 1.0)
    distance = np.hypot(axis[None, :] - u, axis[:, None] - v)
    fraction = np.clip(0.5 + radius - distance, 0, 1).astype(np.float32)
    (ring,) = _rings(outline(Picture(fraction, axis, axis)))
    assert abs(_area(ring)) == pytest.approx(np.pi * radius**2, rel=0.02)
    np.testing.assert_allclose(np.hypot(ring[:, 0] - u, ring[:, 1] - v), radius, atol=0.3)


def test_bands_have_the_area_between_their_radii() -> None:
    """Dose falls linearly from 80 Gy at 2 Gy/mm: each isodose is a circle of known radius."""
    axis = np.arange(-50.0, 50.1, 1.0)
    dose = np.clip(80.0 - 2.0 * np.hypot(axis[None, :], axis[:, None]), 0, None).astype(np.float32)
    levels = np.array([20.0, 50.0, 70.0])
    areas = [abs(sum(_area(ring) for ring in _rings(path))) for path in bands(Picture(dose, axis, axis), levels)]
    radii = np.append((80.0 - levels) / 2.0, 0.0)
    np.testing.assert_allclose(areas, np.pi * (radii[:-1] ** 2 - radii[1:] ** 2), rtol=0.005, atol=3)


def test_outline_at_the_edge_of_the_picture_is_closed() -> None:
    axis = np.arange(0.0, 10.0)
    (ring,) = _rings(outline(Picture(np.ones((10, 10), np.float32), axis, axis)))
    assert abs(_area(ring)) == pytest.approx(100.0, abs=0.7)


def test_path_rounding_does_not_add_up() -> None:
    line = np.column_stack([np.linspace(0, 100, 1501), np.linspace(0, 33.3, 1501)])
    (ring,) = _rings(path_data([line], closed=False))
    np.testing.assert_allclose(ring[-1], [100.0, 33.3], atol=0.051)


def test_ct_picture_is_the_ct() -> None:
    hu = np.array([[-200.0, -160.0], [50.0, 260.0], [1000.0, 0.0]], np.float32)
    uri = png_uri(grey_levels(hu, (-160.0, 260.0)))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    np.testing.assert_array_equal(pixels, [[0, 0], [128, 255], [255, 97]])


def test_ct_pictures_keep_millimetres() -> None:
    """The image element covers exactly the voxels shown, so anisotropic voxels keep their aspect."""
    data = make_report_data()
    page = render_report(data)
    sagittal = re.findall(r'<svg viewBox="[^"]*" class="ct".*?</svg>', page, re.S)[2]
    uri, width, height = re.search(
        r'<image href="([^"]*)" x="[^"]*" y="[^"]*" width="([^"]*)" height="([^"]*)"', sagittal
    ).groups()  # type: ignore[union-attr]
    columns, rows = Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size
    assert float(width) == pytest.approx(columns * data.ct.grid.spacing_mm[1], abs=0.02)
    assert float(height) == pytest.approx(rows * data.ct.grid.spacing_mm[0], abs=0.02)


def test_opening_of_an_aperture_has_its_area_within_the_jaws() -> None:
    boundaries = np.array([-20.0, -10.0, -5.0, 0.0, 5.0, 10.0, 20.0])
    leaves = np.array([[-9.0, -8.0, 0.0, -4.0, 6.0, 0.0], [4.0, 5.0, 0.0, 5.0, 9.0, 9.0]])
    polygons = opening(Aperture(leaves, (-15.0, 12.0), (-8.5, 8.0)), boundaries)
    by_hand = 5 * (4 + 8.5) + 5 * (5 + 8) + 0 + 5 * (5 + 4) + 5 * (8 - 6) + 2 * 8
    assert sum(abs(_area(polygon)) for polygon in polygons) == pytest.approx(by_hand)
    # Rows 0 and 1 touch; row 2 is closed; rows 3 and 4 are open apart from each other; 4 and 5 touch.
    assert [len(polygon) for polygon in polygons] == [8, 4, 8]
    assert opening(Aperture(np.zeros((2, 6)), None, None), boundaries) == []


@settings(deadline=None, max_examples=20, derandomize=True)
@given(st.integers(0, 2**31))
def test_opening_keeps_the_area_of_random_leaves(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boundaries = np.cumsum(rng.uniform(2, 10, 13)) - 40
    left = rng.uniform(-40, 30, 12)
    leaves = np.stack([left, left + np.maximum(rng.uniform(-20, 40, 12), 0)])
    area = sum(_area(polygon) for polygon in opening(Aperture(leaves, None, None), boundaries))
    assert area == pytest.approx(float((np.diff(boundaries) * (leaves[1] - leaves[0])).sum()))


def test_fluence_raster_puts_high_y_on_top_and_respects_leaf_widths() -> None:
    raster = fluence_raster(
        FluenceMap(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.0, 5.0, 10.0]), np.array([-10.0, 0.0, 5.0]))
    )
    assert raster.shape == (15, 10)
    np.testing.assert_array_equal(raster[:5, 0], 3.0)
    np.testing.assert_array_equal(raster[5:, 9], 2.0)
    assert raster.mean() == pytest.approx((10 * 1.5 + 5 * 3.5) / 15)


@pytest.mark.parametrize("gantry", [0.0, 90.0, 213.0])
def test_silhouette_of_a_ball_is_a_disc_where_the_beam_sees_it(gantry: float) -> None:
    grid = make_grid((120.0, 120.0, 120.0), (3.0, 1.0, 1.0))
    coverage = Coverage(
        grid, np.clip(0.5 + 25 * ellipsoid(15, -10, 20, 25, 25, 25)(*relative_points(grid)), 0, 1).astype(np.float32)
    )
    frame = beam_frame("HFS", ISOCENTER, gantry)
    (line,) = silhouette(covered_points(coverage), frame)
    center = frame.project(np.array(ISOCENTER) + np.array([15.0, -10.0, 20.0]))
    radius = np.hypot(*(line - center[:2]).T)
    np.testing.assert_allclose(radius, 25.0 * 1000.0 / center[2], atol=2.5)


def test_isodose_levels_name_the_targets() -> None:
    levels = isodose_levels({"PTV_7000": 70.0, "PTV_5400": 54.0})
    assert len(levels) == len(ISODOSES)
    assert [level.percent for level in levels] == sorted(level.percent for level in levels)
    named = {level.targets: level.dose_gy for level in levels if level.targets}
    assert named == {("PTV_7000",): 70.0, ("PTV_5400",): pytest.approx(54.0)}
    assert isodose_levels({}) == ()


@settings(deadline=None, max_examples=40, derandomize=True)
@given(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255)))
def test_lines_stand_out_on_their_ground(color: tuple[int, int, int]) -> None:
    assert luminance(on_white(color)) <= 0.35
    assert luminance(on_dark(color)) >= 0.22


def test_fluence_scale_grows_lighter_all_the_way() -> None:
    shades = [luminance(tuple(int(part) for part in shade)) for shade in fluence_colors(np.linspace(0, 1, 21))]  # type: ignore[arg-type]
    assert (np.diff(shades) > 0).all()


def test_axial_frame_holds_the_dose_but_not_all_of_the_shoulders() -> None:
    data = make_report_data()
    grid = data.ct.grid
    view = plane_view(grid, "axial")
    axis = grid.axis_mm(0)
    middle = float(axis[np.argmin(np.abs(axis - ISOCENTER[2]))])
    whole = cut(data.ct.hu, grid, view, middle, interpolate=False)
    assert whole is not None
    assert data.dose is not None
    low_planes = [float(z) for z in axis[axis < middle]]
    box = picture_box(data, view, [*low_planes, middle], middle, whole, 30.0)
    shoulders = box_above(shadow(data.structures[0].coverage.fraction, data.structures[0].coverage.grid, view), 0.01)
    dose = box_above(shadow(data.dose.dose_gy, data.dose.grid, view), 30.0)
    neck = box_above(
        cut(data.structures[0].coverage.fraction, data.structures[0].coverage.grid, view, middle, interpolate=False),
        0.01,
    )
    assert shoulders is not None
    assert dose is not None
    assert neck is not None
    assert box[2] - box[0] < 0.8 * (shoulders[2] - shoulders[0])
    for inner in (dose, neck):
        assert box[0] < inner[0] < inner[2] < box[2]
        assert box[1] < inner[1] < inner[3] < box[3]


def test_without_a_body_all_of_the_ct_is_shown() -> None:
    data = make_report_data()
    bare = dataclasses.replace(data, structures=data.structures[1:])
    view = plane_view(data.ct.grid, "coronal")
    position = float(data.ct.grid.axis_mm(1)[5])
    whole = cut(data.ct.hu, data.ct.grid, view, position, interpolate=False)
    assert whole is not None
    assert picture_box(bare, view, [position], position, whole, None) == whole.edges_mm

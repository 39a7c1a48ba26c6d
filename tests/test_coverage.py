"""Structures to coverage and back, the body finder, the density table, TG-263 names."""

import numpy as np
import pytest

from dicomplan.errors import InputError
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.body import find_body
from dicomplan.patient.case import Coverage, CTVolume, Structure
from dicomplan.patient.coverage import (
    contours_from_coverage,
    coverage_on_grid,
    geometry_findings,
    missing_inner_slices,
    rasterize,
    structure_grid,
)
from dicomplan.patient.density import AIR_G_CM3, HU_TABLE, air_outside, apply_overrides, densities, electron_from_mass
from dicomplan.patient.names import guess_tg263, normalise

CT = VoxelGrid((20, 60, 60), (3.0, 1.5, 1.5), (-44.25, -44.25, -28.5))


def circle(radius, z_mm, center=(0.3, -0.7), points=180):
    angle = np.arange(points) * (2 * np.pi / points)
    x, y = center[0] + radius * np.cos(angle), center[1] + radius * np.sin(angle)
    return np.column_stack([x, y, np.full(points, z_mm)])


def polygon_area(radius, points=180):
    return 0.5 * points * radius**2 * np.sin(2 * np.pi / points)


def roi(*contours, roi_type="ORGAN"):
    return Structure("Organ", 1, roi_type, contours)


def planes(first, last):
    return CT.axis_mm(0)[first : last + 1]


def test_each_contour_is_a_prism_of_one_slice_with_half_a_slice_beyond_the_ends():
    coverage = rasterize(roi(*(circle(20, z) for z in planes(5, 9))), CT)
    assert coverage.volume_cc == pytest.approx(5 * 3.0 * polygon_area(20) / 1000, rel=1e-6)
    edges = coverage.grid.edges_mm(0)
    assert (edges[0], edges[-1]) == pytest.approx((planes(5, 5)[0] - 1.5, planes(9, 9)[0] + 1.5))
    assert coverage.grid.spacing_mm == (3.0, 0.75, 0.75)


def test_nested_contours_are_holes_and_islands():
    z = planes(5, 5)[0]
    coverage = rasterize(roi(circle(20, z), circle(10, z), circle(4, z)), CT)
    area = polygon_area(20) - polygon_area(10) + polygon_area(4)
    assert coverage.volume_cc == pytest.approx(3 * area / 1000, rel=1e-6)


def test_contours_finer_than_the_ct_are_averaged_on_their_plane():
    z = planes(5, 5)[0]
    coverage = rasterize(roi(circle(20, z - 0.75), circle(10, z + 0.75)), CT)
    assert coverage.volume_cc == pytest.approx(3 * (polygon_area(20) + polygon_area(10)) / 2000, rel=1e-6)


def test_the_order_and_direction_of_contours_do_not_matter():
    contours = [circle(20 - 2 * abs(k - 7), z) for k, z in zip(range(5, 10), planes(5, 9), strict=True)]
    plain = rasterize(roi(*contours), CT)
    other = rasterize(roi(*(contour[::-1] for contour in reversed(contours))), CT)
    np.testing.assert_allclose(plain.fraction, other.fraction, atol=1e-6)


def test_missing_slices_stay_empty_and_are_told():
    structure = roi(circle(20, planes(5, 5)[0]), circle(20, planes(8, 8)[0]))
    assert missing_inner_slices(structure, CT) == pytest.approx(list(planes(6, 7)))
    assert rasterize(structure, CT).volume_cc == pytest.approx(2 * 3 * polygon_area(20) / 1000, rel=1e-6)
    assert "2 CT planes" in geometry_findings(structure, CT)[0].message


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (roi(), "no closed contours"),
        (roi(circle(20, 60.0)), "from the nearest CT plane"),
        (roi(circle(60, 1.5)), "beyond the CT image"),
        (roi(circle(20, 1.5) + np.linspace(0, 2, 180)[:, None] * [0, 0, 1]), "not parallel"),
        (roi(circle(20, 1.5) * [1, 0, 1]), "no volume"),
        (roi(np.full((3, 3), np.nan)), "no number"),
    ],
)
def test_what_does_not_lie_on_the_ct_is_refused(structure, message):
    with pytest.raises(InputError, match=message):
        rasterize(structure, CT)


def test_an_external_outline_is_cut_at_the_border_and_told():
    body = roi(circle(60, planes(5, 5)[0]), roi_type="EXTERNAL")
    coverage = rasterize(body, CT)
    assert coverage.fraction.shape[1:] == (120, 120)
    assert coverage.volume_cc < 3 * polygon_area(60) / 1000
    assert "cut at its border" in geometry_findings(body, CT)[0].message


def test_contours_that_cross_beyond_reason_are_refused_by_name():
    random = np.random.default_rng(5)
    corners = random.uniform(-15, 15, (5000, 3, 2))
    triangles = [np.column_stack([corner, np.zeros(3)]) for corner in corners]
    with pytest.raises(
        InputError, match=r"ROI 'Organ' cannot be rasterized: the 15000 edges of one plane cross"
    ) as caught:
        rasterize(roi(*triangles), CT)
    assert caught.value.tag == "ContourData"


def test_structure_grids_share_one_lattice():
    first = structure_grid(CT, (-10.3, -5, -3), (4, 9, 9))
    second = structure_grid(CT, (-3.1, -15, 3), (14.2, 19, 19))
    offset = first.index_from_patient(second.origin_mm)
    np.testing.assert_allclose(offset, np.rint(offset), atol=1e-9)


@pytest.mark.parametrize("radius", [4.0, 8.0, 20.0])
def test_contours_of_a_coverage_hold_its_volume(radius):
    contours = [circle(np.sqrt(max(radius**2 - z**2, 0.01)), z) for z in CT.axis_mm(0) if abs(z) < radius]
    coverage = rasterize(roi(*contours), CT)
    back = rasterize(roi(*contours_from_coverage(coverage)), CT)
    assert back.volume_cc == pytest.approx(coverage.volume_cc, rel=0.005)


def test_holes_survive_the_way_to_contours_and_back():
    coverage = rasterize(roi(*(circle(r, z) for z in planes(5, 8) for r in (20, 12))), CT)
    contours = contours_from_coverage(coverage)
    assert len(contours) == 8
    assert rasterize(roi(*contours), CT).volume_cc == pytest.approx(coverage.volume_cc, rel=1e-3)
    assert contours_from_coverage(Coverage(CT, np.zeros(CT.shape, dtype=np.float32))) == ()


def test_the_volume_is_kept_on_any_grid_that_holds_the_structure():
    coverage = rasterize(roi(*(circle(20, z) for z in planes(5, 9))), CT)
    dose = VoxelGrid((12, 21, 21), (5.0, 4.0, 4.0), (-40.0, -40.0, -30.0))
    volume = coverage_on_grid(coverage, dose).sum() * dose.voxel_volume_cc
    assert volume == pytest.approx(coverage.volume_cc, rel=1e-5)


def phantom_hu():
    y, x = np.meshgrid(CT.axis_mm(1), CT.axis_mm(2), indexing="ij")
    hu = np.full(CT.shape, -1000.0, dtype=np.float32)
    hu[:, np.hypot(x, y + 8) < 25] = 0.0
    hu[:, np.hypot(x - 8, y + 8) < 6] = -750.0  # a lung
    hu[:, 55:57] = 200.0  # a couch shell, thin and apart
    return hu


def test_the_body_is_found_without_couch_and_with_its_lungs():
    body = find_body(CTVolume(CT, phantom_hu()), 7)
    assert (body.name, body.number, body.roi_type) == ("BODY", 7, "EXTERNAL")
    assert len(body.contours) == CT.shape[0]
    assert rasterize(body, CT).volume_cc == pytest.approx(20 * 3 * np.pi * 25**2 / 1000, rel=0.02)
    assert max(contour[:, 1].max() for contour in body.contours) < 20


def test_no_body_in_air():
    with pytest.raises(InputError, match="no patient outline"):
        find_body(CTVolume(CT, np.full(CT.shape, -1000.0, dtype=np.float32)))


TABLE_COLUMNS = ("hu", "mass_g_cm3", "electron_relative")


def test_density_follows_the_table_and_grows():
    line = VoxelGrid((1, 1, len(HU_TABLE)), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    hu = np.array([[[point.hu for point in HU_TABLE]]], dtype=np.float32)
    density = densities(CTVolume(line, hu))
    np.testing.assert_allclose(density.mass_g_cm3.ravel(), [point.mass_g_cm3 for point in HU_TABLE], rtol=1e-6)
    np.testing.assert_allclose(
        density.electron_relative.ravel()[1:], [point.electron_relative for point in HU_TABLE][1:], rtol=1e-5
    )
    steps = np.arange(-1100, 3500, 0.5, dtype=np.float32)[None, None]
    many = densities(CTVolume(VoxelGrid((1, 1, steps.size), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), steps))
    assert (np.diff(many.mass_g_cm3.ravel()) >= -1e-6).all()
    assert many.beyond_table == (steps > 3000).sum()
    assert electron_from_mass(np.array([1.0])) == pytest.approx(1.0)


def test_densities_are_read_off_the_table_in_any_order():
    """The kernels' twin is numpy's interpolation, and a loop over voxels."""
    random = np.random.default_rng(3)
    hu = random.uniform(-1200, 3300, size=(3, 4, 50)).astype(np.float32)
    hu[0, 0, :4] = -1000.0, 3000.0, 0.0, -990.5
    table_hu, mass, electron = (np.array([getattr(point, name) for point in HU_TABLE]) for name in TABLE_COLUMNS)
    found = densities(CTVolume(VoxelGrid(hu.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)), hu))
    np.testing.assert_allclose(found.mass_g_cm3, np.interp(hu, table_hu, mass), rtol=2e-6)
    assert found.beyond_table == (hu > 3000).sum()
    values = random.uniform(0.0, 4.0, size=(2, 3, 40)).astype(np.float32)
    values[0, 0, :3] = AIR_G_CM3, 19.3, 0.0
    for value, one in zip(values.ravel(), electron_from_mass(values).ravel(), strict=True):
        beyond = value * electron[-1] / mass[-1]
        expected = beyond if value > mass[-1] else np.interp(value, mass[1:], electron[1:])
        assert one == pytest.approx(expected, rel=1e-5)


def test_overrides_mix_by_the_covered_part_and_outside_is_air():
    density = densities(CTVolume(CT, np.zeros(CT.shape, dtype=np.float32)))
    fraction = np.zeros(CT.shape, dtype=np.float32)
    fraction[5, 5, 5:8] = (1.0, 0.5, 0.25)
    inside = Coverage(CT, fraction)
    mixed = apply_overrides(density, [(inside, 19.3)]).mass_g_cm3
    assert mixed[5, 5, 5:9] == pytest.approx([19.3, 10.15, 1 + 18.3 / 4, 1.0], rel=1e-5)
    kept = air_outside(density, [inside]).mass_g_cm3
    assert kept[5, 5, 5:9] == pytest.approx([1.0, 1.0, 0.5 + AIR_G_CM3 / 2, AIR_G_CM3], rel=1e-5)
    with pytest.raises(ValueError, match="nothing is included"):
        air_outside(density, [])


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("RightParotid", "Parotid_R"),
        ("parotid lt", "Parotid_L"),
        ("Lung_L", "Lung_L"),
        ("PTV70", "PTV_7000"),
        ("PTV 56.0 Gy", "PTV_5600"),
        ("ptv_6300", "PTV_6300"),
        ("spinal cord", "SpinalCord"),
        ("Mandible", "Bone_Mandible"),
        ("External", "BODY"),
        ("lungs", "Lungs"),
        ("Parotid", None),
        ("parotid left right", None),
        ("PTV boost", None),
        ("Ring 2 cm", None),
        ("", None),
    ],
)
def test_names_are_guessed_but_sides_never(name, guess):
    assert guess_tg263(name) == guess


def test_names_match_without_case_blanks_and_dashes():
    assert normalise("Spinal-Cord_PRV 05") == normalise("spinalcordprv05")
    assert normalise("PTV+70") != normalise("PTV70")

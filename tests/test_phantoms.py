"""The synthetic patients: their shapes against formulas, their anatomy, and the files in test_data."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from scipy.spatial import cKDTree

from dicomplan.dicom.read import read_study
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.geometry.polygons import polygon_area_mm2
from dicomplan.patient.body import find_body
from dicomplan.patient.case import Structure
from dicomplan.patient.coverage import coverage_on_grid, rasterize
from dicomplan.phantoms import shapes
from dicomplan.phantoms.head_neck import head_neck
from dicomplan.phantoms.study import PhantomStudy
from dicomplan.phantoms.water_box import water_box
from dicomplan.phantoms.write import content_hash, write_phantom_study

TEST_DATA = Path(__file__).parents[1] / "test_data"
NOISE_DIGEST = "35a734bfb609696a"
"""Start of the SHA-256 of noise of a given seed: numpy promises the raw stream, so it must never change."""
MAKERS = {"head_neck": head_neck, "water_box": water_box}


@cache
def phantom(name: str) -> PhantomStudy:
    return MAKERS[name]()


@cache
def fraction(name: str) -> np.ndarray:
    """Coverage of a structure of the head-and-neck phantom on its CT grid, (z, y, x)."""
    case = phantom("head_neck").case
    return coverage_on_grid(rasterize(case.structure(name), case.ct.grid), case.ct.grid)


def volume_cc(structure: Structure, spacing_mm: float) -> float:
    """Volume by the shoelace formula, a contour standing for one slice; these phantoms have no nested contours."""
    return sum(abs(polygon_area_mm2(contour)) for contour in structure.contours) * spacing_mm / 1000.0


def points(name: str) -> np.ndarray:
    return np.concatenate(phantom("head_neck").case.structure(name).contours)


# Shapes against formulas


@settings(max_examples=25)
@given(a=st.floats(4, 80), b=st.floats(4, 80), angle=st.floats(0, 360), step=st.floats(0.5, 2.0))
def test_ellipse_has_its_area_axes_and_spacing(a: float, b: float, angle: float, step: float) -> None:
    outline = shapes.ellipse((3.0, -7.0), (a, b), angle_deg=angle, step_mm=step)
    # A chord of length s cuts off less than s^3 / (12 r), r the least radius of curvature.
    short, long = min(a, b), max(a, b)
    lost = len(outline) * step**3 / (12 * short**2 / long)
    assert abs(abs(polygon_area_mm2(outline)) - np.pi * a * b) <= lost + 0.01 * (a + b)
    gap = np.hypot(*(outline - np.roll(outline, 1, axis=0)).T)
    assert gap.max() <= step + 0.002
    turn = np.deg2rad(angle)
    x, y = (outline - (3.0, -7.0)).T
    along, across = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    np.testing.assert_allclose((along / a) ** 2 + (across / b) ** 2, 1.0, atol=0.02)


@settings(max_examples=25)
@given(a=st.floats(10, 40), b=st.floats(10, 40), front=st.floats(5, 30), side=st.floats(5, 30), half=st.floats(60, 150))
def test_crescent_keeps_out_of_its_inner_ellipse_and_opens_to_the_back(
    a: float, b: float, front: float, side: float, half: float
) -> None:
    outline = shapes.crescent((0.0, 10.0), (a, b), (front, side), half)
    x, y = outline[:, 0], outline[:, 1] - 10.0
    # 0.3 mm: sagitta of a 1.5 mm chord where the inner ellipse is most curved.
    assert ((x / a) ** 2 + (y / b) ** 2).min() >= (1 - 0.3 / min(a, b)) ** 2
    in_front = np.argmin(np.hypot(x, y + b + front))
    assert np.hypot(x[in_front], y[in_front] + b + front) < 0.8  # half a step
    assert np.hypot(x, y).max() <= max(a, b) + max(front, side) + 0.01
    inside = np.abs(np.arctan2(x / a, -y / b)) <= np.deg2rad(half) + 0.05 + np.deg2rad(0.5 * (180 - half))
    assert inside.all()
    assert abs(x.max() + x.min()) < 0.3
    assert abs(x.mean()) < 0.2


def test_union_of_ellipses_is_their_pixels() -> None:
    parts = [((0.0, 8.0), (70.0, 60.0), 2.0), ((0.0, -38.0), (55.0, 60.0), 2.2), ((0.0, -45.0), (14.0, 68.0), 2.0)]
    x, y = np.meshgrid(np.arange(-120, 120, 0.5), np.arange(-120, 120, 0.5))
    inside = np.zeros(x.shape, dtype=bool)
    for (cx, cy), (a, b), p in parts:
        inside |= np.abs((x - cx) / a) ** p + np.abs((y - cy) / b) ** p <= 1
    outline = shapes.star_union((0.0, 5.0), parts)
    assert abs(polygon_area_mm2(outline)) == pytest.approx(inside.sum() * 0.25, rel=2e-3)
    smaller = shapes.star_union((0.0, 5.0), parts, inset_mm=5.0)
    distance = cKDTree(outline).query(smaller)[0]
    assert np.median(distance) == pytest.approx(5.0, abs=0.1)
    assert 1.5 < distance.min() <= distance.max() < 6.0  # along rays: less across where the outline runs with the ray


def test_barrel_and_broken_line() -> None:
    assert shapes.barrel(0.0, -10, 10) == 1.0
    assert shapes.barrel(6.0, -10, 10, 2.0) == pytest.approx(0.8)
    assert shapes.barrel(10.0, -10, 10) == shapes.barrel(-30.0, -10, 10) == 0.0
    assert shapes.along_z(1.0, ((2, 30), (0, 10))) == 20.0
    assert shapes.along_z(9.0, ((2, 30), (0, 10))) == 30.0


def test_noise_has_its_deviation_and_is_the_same_everywhere() -> None:
    noise = shapes.noise((40, 64, 64), 12.0, 5)
    assert noise.std() == pytest.approx(12.0, rel=0.01)
    assert abs(noise.mean()) < 0.2
    # Weights 1 2 1: neighbours share (2 + 2) / 6, planes nothing.
    assert np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1] == pytest.approx(4 / 6, abs=0.02)
    assert abs(np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]) < 0.02
    digest = hashlib.sha256(np.rint(noise * 1e6).astype("<i8").tobytes()).hexdigest()
    assert digest.startswith(NOISE_DIGEST)
    assert not np.array_equal(noise, shapes.noise((40, 64, 64), 12.0, 6))
    assert not shapes.noise((2, 3, 4), 0.0, 5).any()


def test_paint_mixes_by_covered_area_later_over_earlier() -> None:
    grid = VoxelGrid((1, 4, 4), (1.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    left = shapes.Material(0.0, {0: [shapes.rectangle((1.5, 3.0), (5.0, 8.0))]})  # x from -1 to 4
    gold = shapes.Material(9000.0, {0: [shapes.rectangle((0.0, 0.0), (2.0, 2.0))]})  # pixel [0, 0]
    hu = shapes.paint(grid, [left, gold], noise_hu=0.0, seed=0).hu[0]
    assert hu[0].tolist() == [3071.0, 0.0, -500.0, -1000.0]
    assert hu[3].tolist() == [0.0, 0.0, -500.0, -1000.0]


# The water box


def test_water_box_is_water_with_whole_voxels() -> None:
    case = phantom("water_box").case
    body = rasterize(case.structure("BODY"), case.ct.grid)
    assert body.volume_cc == pytest.approx(27000.0, rel=1e-6)
    inside = coverage_on_grid(body, case.ct.grid)
    assert set(np.unique(np.round(inside, 5))) == {0.0, 1.0}
    assert abs(case.ct.hu[inside > 0.5].mean()) < 0.1
    assert case.ct.hu[inside > 0.5].std() == pytest.approx(4.0, rel=0.02)
    assert case.ct.hu[inside < 0.5].mean() == pytest.approx(-1000.0, abs=0.1)
    ball = volume_cc(case.structure("PTV_5000"), 5.0)
    assert ball == pytest.approx(4 / 3 * np.pi * 3.0**3, rel=0.02)
    centroid = np.concatenate(case.structure("PTV_5000").contours).mean(axis=0)
    np.testing.assert_allclose(centroid, 0.0, atol=0.05)


def test_water_box_without_noise_and_with_impossible_voxels() -> None:
    assert set(np.unique(water_box(size_mm=80, voxel_mm=10, noise_hu=0.0).case.ct.hu)) == {-1000.0, 0.0}
    with pytest.raises(ValueError, match="whole even number"):
        water_box(size_mm=300, voxel_mm=7)


# The head-and-neck phantom


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_contours_lie_on_the_planes_with_close_points(name: str) -> None:
    case = phantom(name).case
    planes = case.ct.grid.axis_mm(0)
    step = 10.0 if name == "water_box" else 2.0
    for item in case.structures:
        assert item.contours
        for contour in item.contours:
            assert len(set(contour[:, 2])) == 1
            assert np.abs(planes - contour[0, 2]).min() < 1e-9
            gap = np.linalg.norm(contour - np.roll(contour, 1, axis=0), axis=1)
            assert 0.0 < gap.min() <= gap.max() <= step + 0.002
    assert len({item.number for item in case.structures}) == len(case.structures)
    assert [item.roi_type for item in case.structures if item.name == "BODY"] == ["EXTERNAL"]


def test_targets_ask_the_question() -> None:
    primary, elective = fraction("PTV_7000"), fraction("PTV_5600")
    assert (np.minimum(primary, elective)).sum() >= 0.999 * primary.sum()
    for side in ("Parotid_L", "Parotid_R"):
        overlap = (fraction(side) * elective).sum() / fraction(side).sum()
        assert 0.08 < overlap < 0.25
        assert (fraction(side) * primary).sum() == 0.0
    # The crescent lies left, right and in front of the cord on one plane, and 8 mm and more away from it.
    cord, tumour = points("SpinalCord"), points("PTV_7000")
    assert cKDTree(tumour).query(cord)[0].min() >= 8.0
    plane, middle = tumour[tumour[:, 2] == 15.0], cord[cord[:, 2] == 15.0].mean(axis=0)
    beside = plane[np.abs(plane[:, 1] - middle[1]) < 1.5, 0] - middle[0]
    assert beside.min() < -10 < 10 < beside.max()
    assert plane[np.abs(plane[:, 0] - middle[0]) < 1.5, 1].max() < middle[1] - 10
    assert cKDTree(points("PTV_5600")).query(points("Brainstem"))[0].min() >= 5.0
    assert 150.0 <= np.ptp(points("PTV_5600")[:, 0]) <= 170.0


def test_targets_lie_under_the_skin() -> None:
    """By the body's outline drawn 5 mm nearer to its middle on each plane; tissue above and below counts too."""
    skin = cKDTree(points("BODY"))
    for name in ("PTV_7000", "PTV_5600"):
        assert skin.query(points(name))[0].min() >= 5.0


def test_everything_lies_in_the_body_and_left_is_left() -> None:
    case, body = phantom("head_neck").case, fraction("BODY")
    for item in case.structures:
        assert (fraction(item.name) - body).max() < 1e-5, item.name
    for name in ("Parotid_L", "Cochlea_L", "Lung_L", "Filling_Gold"):
        assert points(name)[:, 0].min() > 0.0  # DICOM: +x is the patient's left
    for name in ("Parotid_R", "Lung_R"):
        assert points(name)[:, 0].max() < 0.0
    assert points("Larynx")[:, 1].mean() < points("SpinalCord")[:, 1].mean()  # in front of it: -y
    assert points("Brainstem")[:, 2].min() > points("Larynx")[:, 2].max()
    areas = [abs(polygon_area_mm2(contour)) for contour in case.structure("BODY").contours]
    assert max(areas) > 2 * min(areas)


def test_materials_are_where_they_belong() -> None:
    hu = phantom("head_neck").case.ct.hu

    def mean(name: str) -> float:
        return float(hu[fraction(name) > 0.999].mean())

    assert hu.min() >= -1024
    assert hu.max() == 3071
    assert hu[fraction("Filling_Gold") > 0.999].min() == 3071
    assert 900 < mean("Mandible") < 1300
    assert -850 < mean("Lung_L") < -780
    assert mean("SpinalCord") == pytest.approx(42.0, abs=3.0)
    assert mean("Parotid_L") == pytest.approx(15.0, abs=5.0)
    # Bone within 10 mm of the cord, air inside the crescent.
    case = phantom("head_neck").case
    index = np.rint(case.ct.grid.index_from_patient((12.5, 22.0, 15.0))).astype(int)
    assert hu[tuple(index)] > 300
    assert 0.03 < (hu[fraction("PTV_7000") > 0.5] < -700).mean() < 0.15


def test_body_is_found_without_its_contour() -> None:
    """The couch of the phantom is not part of the patient."""
    case = phantom("head_neck").case
    found = coverage_on_grid(rasterize(find_body(case.ct), case.ct.grid), case.ct.grid)
    body = fraction("BODY")
    assert np.minimum(found, body).sum() >= 0.97 * np.maximum(found, body).sum()


def test_same_seed_same_phantom() -> None:
    assert content_hash(head_neck().case) == content_hash(phantom("head_neck").case)
    other = head_neck(seed=1).case
    assert not np.array_equal(other.ct.hu, phantom("head_neck").case.ct.hu)
    np.testing.assert_array_equal(other.structures[1].contours[3], phantom("head_neck").case.structures[1].contours[3])


# The files


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_files_read_back_as_the_phantom(name: str, tmp_path: Path) -> None:
    made = phantom(name).case
    files = write_phantom_study(tmp_path, phantom(name))
    assert sorted(tmp_path.iterdir()) == sorted(files)
    read = read_study([tmp_path]).case
    np.testing.assert_array_equal(read.ct.hu, made.ct.hu)
    np.testing.assert_allclose(read.ct.grid.origin_mm, made.ct.grid.origin_mm, atol=1e-9)
    assert read.ct.grid.spacing_mm == made.ct.grid.spacing_mm
    assert read.patient_position == "HFS"
    assert [(s.name, s.number, s.roi_type, s.color_rgb) for s in read.structures] == [
        (s.name, s.number, s.roi_type, s.color_rgb) for s in made.structures
    ]
    for ours, theirs in zip(made.structures, read.structures, strict=True):
        for one, other in zip(ours.contours, theirs.contours, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-9)
    assert [finding for finding in read.findings if finding.severity != "info"] == []


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_test_data_is_what_the_tool_writes(name: str, tmp_path: Path) -> None:
    """Byte for byte, but for the version of dicomplan; mended by ``tools/make_phantoms``."""
    files = write_phantom_study(tmp_path, phantom(name))
    stored = TEST_DATA / name
    assert sorted(path.name for path in stored.iterdir()) == sorted(path.name for path in files)

    def digest(path: Path) -> str:
        dataset = dcmread(path)
        del dataset.SoftwareVersions
        del dataset.file_meta.ImplementationVersionName
        return hashlib.sha256(dataset.file_meta.to_json().encode() + dataset.to_json().encode()).hexdigest()

    different = [
        path.name
        for path in files
        if path.read_bytes() != (stored / path.name).read_bytes() and digest(path) != digest(stored / path.name)
    ]
    assert not different


def test_test_data_is_small() -> None:
    assert sum(path.stat().st_size for path in TEST_DATA.rglob("*") if path.is_file()) <= 30e6


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian: dicom3tools)")
@pytest.mark.parametrize("name", ["head_neck/CT_046.dcm", "head_neck/RTSTRUCT.dcm", "water_box/RTSTRUCT.dcm"])
def test_test_data_conforms(name: str) -> None:
    done = subprocess.run(["dciodvfy", "-new", TEST_DATA / name], capture_output=True, text=True, check=False)
    assert "Error" not in done.stderr + done.stdout
    assert done.returncode == 0

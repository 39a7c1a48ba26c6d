"""The TG-119 phantoms have the dimensions of the report (or of its description), in water, and can be read back."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from dicomplan.beams.arrangement import isocenter_mm
from dicomplan.dicom.read import read_study
from dicomplan.machine.library import load_machine
from dicomplan.patient.coverage import coverage_on_grid, rasterize
from dicomplan.phantoms import tg119
from dicomplan.phantoms.study import PhantomStudy
from dicomplan.phantoms.write import content_hash
from dicomplan.plan.coverages import structure_coverages
from dicomplan.plan.library import load_template
from dicomplan.plan.resolve import resolve

TOOL = Path(__file__).parents[1] / "tools" / "make_phantoms"
MAKERS = {
    "tg119_multitarget": tg119.multi_target,
    "tg119_prostate": tg119.prostate,
    "tg119_head_neck": tg119.head_neck,
    "tg119_cshape": tg119.c_shape,
}


@cache
def phantom(name: str) -> PhantomStudy:
    return MAKERS[name]()


@cache
def fraction(name: str, roi: str) -> np.ndarray:
    case = phantom(name).case
    return coverage_on_grid(rasterize(case.structure(roi), case.ct.grid), case.ct.grid)


def volume_cc(name: str, roi: str) -> float:
    return float(fraction(name, roi).sum(dtype=np.float64)) * phantom(name).case.ct.grid.voxel_volume_cc


def points(name: str, roi: str) -> np.ndarray:
    return np.concatenate(phantom(name).case.structure(roi).contours)


def length_mm(name: str, roi: str) -> float:
    """From the lowest to the highest plane, each standing for its thickness."""
    return float(np.ptp(points(name, roi)[:, 2])) + tg119.SPACING_MM[0]


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_it_is_water_in_air_with_room_about_the_targets(name: str) -> None:
    case = phantom(name).case
    body = fraction(name, "BODY")
    assert abs(case.ct.hu[body > 0.999].mean()) < 0.1
    assert case.ct.hu[body < 0.001].mean() == pytest.approx(-1000.0, abs=0.1)
    assert case.ct.hu[body > 0.999].std() == pytest.approx(4.0, rel=0.02)
    ends = case.ct.grid.edges_mm(0)[[0, -1]]
    for item in case.structures:
        assert (fraction(name, item.name) - body).max() < 1e-5, item.name
        if item.roi_type == "PTV":
            z = points(name, item.name)[:, 2]
            assert min(z.min() - ends[0], ends[1] - z.max()) >= 50.0
    assert [item.name for item in case.structures if item.roi_type == "EXTERNAL"] == ["BODY"]


@pytest.mark.parametrize("name", ["tg119_multitarget", "tg119_prostate", "tg119_cshape"])
def test_the_slab_is_as_large_as_asked_and_covers_whole_voxels(name: str) -> None:
    assert volume_cc(name, "BODY") == pytest.approx(30.0 * 15.0 * 24.0, rel=1e-6)
    assert set(np.unique(np.round(fraction(name, "BODY"), 5))) == {0.0, 1.0}


def test_three_cylinders_of_4_cm_stacked_along_the_axis() -> None:
    for roi, middle in (("PTV_5000", 0.0), ("PTV_2500", 40.0), ("PTV_1250", -40.0)):
        assert volume_cc("tg119_multitarget", roi) == pytest.approx(np.pi * 2.0**2 * 4.0, rel=2e-3)
        assert length_mm("tg119_multitarget", roi) == pytest.approx(40.0)
        np.testing.assert_allclose(points("tg119_multitarget", roi).mean(axis=0), (0, 0, middle), atol=0.01)
        assert np.ptp(points("tg119_multitarget", roi)[:, :2], axis=0) == pytest.approx(40.0, abs=0.02)


def test_c_shape_has_its_radii_lengths_and_gap() -> None:
    core, target = points("tg119_cshape", "Core"), points("tg119_cshape", "OuterTarget")
    assert volume_cc("tg119_cshape", "Core") == pytest.approx(np.pi * 1.0**2 * 10.0, rel=2e-3)
    assert length_mm("tg119_cshape", "Core") == pytest.approx(100.0)
    assert length_mm("tg119_cshape", "OuterTarget") == pytest.approx(80.0)
    radius = np.hypot(target[:, 0], target[:, 1])
    assert radius.min() == pytest.approx(15.0, abs=0.05)  # sagitta of a chord of 1 mm, and rounding
    assert radius.max() == pytest.approx(37.0, abs=0.05)
    assert cKDTree(target[:, :2]).query(core[:, :2])[0].min() == pytest.approx(5.0, abs=0.06)
    # it opens to the back, and is the same on both sides
    assert target[:, 1].min() == pytest.approx(-37.0, abs=0.05)
    assert target[:, 1].max() < 10.0
    assert abs(target[:, 0].max() + target[:, 0].min()) < 0.1
    # half a ring and two arms 7 mm long, cut straight
    arm = 0.5 * (37.0**2 * np.arcsin(7 / 37) + 7 * np.sqrt(37.0**2 - 49))
    arm -= 0.5 * (15.0**2 * np.arcsin(7 / 15) + 7 * np.sqrt(15.0**2 - 49))
    exact = (0.5 * np.pi * (37.0**2 - 15.0**2) + 2 * arm) * 80.0 / 1000.0
    assert volume_cc("tg119_cshape", "OuterTarget") == pytest.approx(exact, rel=2e-3)


def test_prostate_has_its_axes_its_margin_and_its_organs() -> None:
    name = "tg119_prostate"
    ctv, ptv = points(name, "CTV_7560"), points(name, "PTV_7560")
    assert np.ptp(ctv[:, 0]) == pytest.approx(40.0, abs=0.1)
    assert ctv[:, 1].min() == pytest.approx(-13.0, abs=0.05)
    assert length_mm(name, "CTV_7560") == pytest.approx(65.0, abs=2.5)
    # hollow behind: on the middle plane the outline comes nearer to the front in the middle than beside it
    middle = ctv[np.abs(ctv[:, 2]) < 1.3]
    behind = middle[middle[:, 1] > 0]
    assert behind[np.abs(behind[:, 0]) < 1.0, 1].max() < behind[:, 1].max() - 1.5
    # the margin, in space, from surface to surface (contours lie up to 1.25 mm in z from the true surface)
    inner = cKDTree(ctv)
    inside = np.abs(ptv[:, 2]) < 20.0
    assert inner.query(ptv[inside])[0] == pytest.approx(6.0, abs=0.35)
    assert length_mm(name, "PTV_7560") == pytest.approx(77.0, abs=2.5)
    rectum, bladder = points(name, "Rectum"), points(name, "Bladder")
    assert np.ptp(rectum[:, 0]) == pytest.approx(15.0, abs=0.02)
    assert volume_cc(name, "Bladder") == pytest.approx(4 / 3 * np.pi * 2.5 * 2.0 * 2.5, rel=5e-3)
    assert rectum[:, 1].mean() > 0 > bladder[:, 1].mean()  # behind and in front: +y is posterior
    assert bladder[:, 2].mean() > ctv[:, 2].mean()
    assert np.hypot(ctv[:, 0], ctv[:, 1] - rectum[:, 1].mean()).min() > 7.5
    off_center = (ctv - (0.0, bladder[:, 1].mean(), bladder[:, 2].mean())) / (25.0, 20.0, 25.0)
    assert np.linalg.norm(off_center, axis=1).min() == pytest.approx(1.0, abs=0.1)  # they touch


def test_about_a_third_of_the_rectum_lies_in_the_widest_plane_of_the_ptv() -> None:
    rectum, ptv = fraction("tg119_prostate", "Rectum"), fraction("tg119_prostate", "PTV_7560")
    plane = rectum.shape[0] // 2
    assert 0.28 < np.minimum(rectum[plane], ptv[plane]).sum() / rectum[plane].sum() < 0.38


def test_head_neck_target_keeps_its_distances_and_reaches_round_the_cord() -> None:
    name = "tg119_head_neck"
    target, cord, skin = points(name, "PTV_5000"), points(name, "SpinalCord"), points(name, "BODY")
    planes = {float(z) for z in target[:, 2]}
    for z in planes:
        own = target[target[:, 2] == z, :2]
        assert cKDTree(cord[cord[:, 2] == z, :2]).query(own)[0].min() >= 15.0
        assert cKDTree(skin[skin[:, 2] == z, :2]).query(own)[0].min() >= 6.0 - 0.1
        # all of the front: the outline lies 6 mm under the skin there
        front = own[np.argmin(own[:, 1])]
        assert cKDTree(skin[skin[:, 2] == z, :2]).query(front)[0] == pytest.approx(6.0, abs=0.6)
    nodes = target[target[:, 1] > cord[:, 1].mean() + 10]
    assert nodes[:, 0].min() < -20.0 < 20.0 < nodes[:, 0].max()
    for roi in ("Parotid_L", "Parotid_R"):
        assert points(name, roi)[:, 2].mean() > target[:, 2].mean() + 25  # at the superior end
        near = cKDTree(target).query(points(name, roi))[0]
        assert 2.5 < near.min() < 4.0
    assert points(name, "Parotid_L")[:, 0].min() > 0.0


@pytest.mark.parametrize("name", [*sorted(MAKERS), "tg119_cshape_hard"])
def test_its_template_finds_every_structure_and_keeps_every_goal(name: str) -> None:
    template = load_template(name)
    resolved = resolve(template, phantom(name.removesuffix("_hard")).case.structures)
    assert {goal.goal.text for goal in resolved.goals} == {goal.goal.text for goal in template.goals}
    assert len(resolved.goals) == len(template.goals)
    assert len(resolved.targets) == len(template.prescription.targets)


def test_the_tool_writes_them_readable_and_always_the_same(tmp_path: Path) -> None:
    subprocess.run([sys.executable, TOOL, tmp_path, "tg119_cshape"], check=True, capture_output=True)
    assert [path.name for path in tmp_path.iterdir()] == ["tg119_cshape"]
    read = read_study([tmp_path]).case
    made = phantom("tg119_cshape").case
    np.testing.assert_array_equal(read.ct.hu, made.ct.hu)
    for one, other in zip(read.structures, made.structures, strict=True):
        assert (one.name, one.roi_type) == (other.name, other.roi_type)
        for ours, theirs in zip(one.contours, other.contours, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-9)
    assert content_hash(tg119.c_shape().case) == content_hash(made)
    refused = subprocess.run([sys.executable, TOOL, tmp_path, "tg119"], check=False, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "tg119_cshape" in refused.stderr


def test_no_leaf_side_lies_where_targets_touch() -> None:
    """Multi-target's isocentre as its template has it: rows of fluence that end on a border cannot make dose fall there."""
    template, case = load_template("tg119_multitarget"), phantom("tg119_multitarget").case
    needed = tuple(one for one in template.derived if one.name in ("Targets", "AroundIsocenter"))
    resolved = resolve(replace(template, derived=needed, goals=()), case.structures)
    assert isinstance(resolved.isocenter, str)
    around = structure_coverages(case, resolved).by_name[resolved.isocenter]
    x, y, z = isocenter_mm([around])
    sides = z + load_machine(template.machine).mlc.leaf_boundaries_mm
    assert (x, y) == (0.0, 0.0)
    for touching_mm in (-20.0, 20.0):
        assert np.abs(sides - touching_mm).min() >= 2.0

"""Points where targets end: they carry the targets' volumes, and see what is judged of doses that fall steeply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import plan_helpers as helpers
import pytest

from dicomplan.dicom.read import read_study
from dicomplan.events import Cancel, ignore_progress
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.machine.library import load_machine
from dicomplan.metrics.dvh import DoseSamples
from dicomplan.patient.case import Coverage
from dicomplan.patient.coverage import coverage_on_grid
from dicomplan.plan.library import load_template
from dicomplan.planning import border
from dicomplan.planning.border import border_points
from dicomplan.planning.case import PlanningCase
from dicomplan.planning.voxels import OptimizationVoxels, optimization_voxels
from dicomplan.workflow.clock import Clock
from dicomplan.workflow.plan_setup import prepare

FALL_GY_MM = 6.0
LENGTH_MM = 20.0


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> PlanningCase:
    folder = tmp_path_factory.mktemp("border")
    study = helpers.write_small_study(folder / "study")
    (folder / "t.yaml").write_text(helpers.template(grid="2.5 mm"))
    template, machine = load_template(str(folder / "t.yaml")), load_machine("generic_6mv")
    return prepare(read_study([study]), template, machine, "t.yaml", Clock(ignore_progress), Cancel()).case


def box(case: PlanningCase, low_mm: float) -> Coverage:
    """40 x 40 mm and 20 mm long from ``low_mm`` (z) on, on cells of 0.5 mm: its faces lie on theirs."""
    grid = case.density.grid
    first = (-19.75, -19.75, low_mm + 0.25)
    fine = VoxelGrid((40, 80, 80), (0.5, 0.5, 0.5), first, grid.direction, grid.frame_of_reference_uid)
    return Coverage(fine, np.ones(fine.shape, dtype=np.float32))


def stacked(case: PlanningCase, face_mm: float) -> PlanningCase:
    """Two boxes that touch in the plane z = ``face_mm``: Upper and Lower."""
    boxes = {"Upper": box(case, face_mm), "Lower": box(case, face_mm - LENGTH_MM)}
    return replace(case, coverages={**case.coverages, **boxes})


def points_of(
    case: PlanningCase, monkeypatch: pytest.MonkeyPatch, parts: int
) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
    """z (mm) of the points of all voxels that hold some of a box, and what each point stands for of either, cm3."""
    monkeypatch.setattr(border, "_PARTS", parts)
    grid = case.density.grid
    held = sum(coverage_on_grid(case.coverages[name], grid) for name in ("Upper", "Lower"))
    indices = np.flatnonzero(np.asarray(held).ravel() > 1e-3)
    found = border_points(case, ("Upper", "Lower"), np.arange(len(indices)), indices)
    index = np.array(np.unravel_index(indices[found.holder], grid.shape)) + found.place
    part_cc = grid.voxel_volume_cc / parts**3
    volume = {name: found.covered(case, name, indices) * part_cc for name in ("Upper", "Lower")}
    return grid.patient_from_index(index.T)[:, 2], volume


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("face_mm", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_a_face_is_seen_wherever_it_cuts_voxels(
    case: PlanningCase, monkeypatch: pytest.MonkeyPatch, parts: int, face_mm: float
) -> None:
    """A dose that falls by 6 Gy/mm across the face that two targets share: quantiles are known without any judge.

    The coldest 1 % of Lower and the hottest of Upper end 0.2 mm from the face. In the middles of parts, points would be up
    to 0.6 mm from there.
    """
    z, volume = points_of(stacked(case, face_mm), monkeypatch, parts)
    dose = 200.0 - FALL_GY_MM * (z - face_mm)
    for name, percent, beyond_mm in (
        ("Lower", 99.0, -0.2),
        ("Lower", 95.0, -1.0),
        ("Upper", 1.0, 0.2),
        ("Upper", 10.0, 2.0),
        ("Upper", 50.0, 10.0),
    ):
        assert volume[name].sum() == pytest.approx(32.0, rel=1e-4)
        samples = DoseSamples.of_points(dose[volume[name] > 0], volume[name][volume[name] > 0])
        seen_mm = (200.0 - samples.hottest_gy(percent / 100.0 * samples.volume_cc)) / FALL_GY_MM
        assert seen_mm == pytest.approx(beyond_mm, abs=0.05), (name, percent)


def test_points_lie_in_the_target_that_they_stand_for(case: PlanningCase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both targets run through a part, each has a point of its own, on its own side."""
    for face_mm in (0.5, 1.0, 2.0):
        z, volume = points_of(stacked(case, face_mm), monkeypatch, 3)
        assert not (volume["Upper"] * volume["Lower"]).any()
        assert z[volume["Upper"] > 0].min() > face_mm - 1e-6
        assert z[volume["Lower"] > 0].max() < face_mm + 1e-6


def test_every_run_has_the_same_points(case: PlanningCase) -> None:
    first, again = (optimization_voxels(case, ("PTV_5000",)) for _ in range(2))
    assert isinstance(first, OptimizationVoxels)
    np.testing.assert_array_equal(first.border.place, again.border.place)
    assert (np.abs(first.border.place) <= 0.5).all()

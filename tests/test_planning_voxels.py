"""Voxels that are optimised on: every one counts for its volume, regions leave out what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plan_helpers as helpers
import pytest

from dicomplan.dicom.read import read_study
from dicomplan.events import Cancel, ignore_progress
from dicomplan.geometry.resample import trilinear
from dicomplan.machine.library import load_machine
from dicomplan.metrics.dvh import DoseSamples, evaluate
from dicomplan.metrics.grammar import parse_goal, parse_metric
from dicomplan.metrics.sampling import dose_samples
from dicomplan.patient.coverage import coverage_on_grid
from dicomplan.plan.derive import AIR_DENSITY_G_CM3, HIGHER_LEVEL_MARGIN_MM, Region
from dicomplan.plan.library import load_template
from dicomplan.planning.case import PlanningCase, goal_values, plan_loss, shortfall
from dicomplan.planning.pursuing import aims_of, without_idle
from dicomplan.planning.voxels import OptimizationVoxels, optimization_voxels, reachable_fraction, voxel_sets
from dicomplan.workflow.clock import Clock
from dicomplan.workflow.plan_setup import prepare


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> PlanningCase:
    folder = tmp_path_factory.mktemp("voxels")
    study = helpers.write_small_study(folder / "study")
    (folder / "t.yaml").write_text(helpers.template(grid="2.5 mm"))
    template = load_template(str(folder / "t.yaml"))
    machine = load_machine("generic_6mv")
    return prepare(read_study([study]), template, machine, "t.yaml", Clock(ignore_progress), Cancel()).case


@pytest.fixture(scope="module")
def voxels(case: PlanningCase) -> OptimizationVoxels:
    return optimization_voxels(case, ("PTV_5000", "SpinalCord"))


def centres(case: PlanningCase, voxels: OptimizationVoxels) -> np.ndarray:
    grid = case.density.grid
    return grid.patient_from_index(np.stack(np.unravel_index(voxels.indices, grid.shape), axis=-1))


def test_targets_and_organs_are_looked_at_voxel_by_voxel(case: PlanningCase, voxels: OptimizationVoxels) -> None:
    assert (np.diff(voxels.indices) > 0).all()
    chosen = np.zeros(case.density.grid.voxel_count)
    chosen[voxels.indices] = voxels.stands_for
    for name in ("PTV_5000", "SpinalCord"):
        covered = coverage_on_grid(case.coverages[name], case.density.grid).ravel() > 0
        inside = covered & (case.body.ravel() > 0)
        np.testing.assert_array_equal(chosen[inside], 1.0)
    assert len(voxels.indices) < 0.7 * np.count_nonzero(case.body)
    assert (case.body.ravel()[voxels.indices] > 0).all()


def test_the_voxels_stand_for_all_of_body(case: PlanningCase, voxels: OptimizationVoxels) -> None:
    volume = voxels.stands_for.sum() * case.density.grid.voxel_volume_cc
    assert volume == pytest.approx(900.0, rel=0.1)


def test_a_structures_voxels_carry_its_volume(case: PlanningCase, voxels: OptimizationVoxels) -> None:
    regions = [Region("PTV_5000"), Region("SpinalCord"), Region("BODY")]
    sets = voxel_sets(case, voxels, regions)
    for region, exact in zip(regions[:2], (20.59, 10.13), strict=True):
        found = sets[region]
        assert found is not None
        assert found.volume == pytest.approx(exact, rel=0.01)
    body = sets[regions[2]]
    assert body is not None
    assert body.volume == pytest.approx(900.0, rel=0.1)


def test_doses_at_a_targets_border_are_those_that_are_judged(case: PlanningCase, voxels: OptimizationVoxels) -> None:
    """A dose that falls by 8.3 Gy/mm at the border: points see it to 0.1 mm, whole voxels are off by more."""
    grid = case.density.grid
    places = grid.patient_from_index(np.stack(np.indices(grid.shape), axis=-1))
    beyond = np.linalg.norm(places - helpers.TARGET_MM, axis=-1) - helpers.TARGET_RADIUS_MM
    dose = (50.0 / (1.0 + np.exp((beyond - 1.0) / 1.5))).astype(np.float32)
    judged = dose_samples(case.coverages["PTV_5000"], dose, grid)
    seen = voxels.dose_gy(dose)
    found = voxel_sets(case, voxels, [Region("PTV_5000")])[Region("PTV_5000")]
    assert found is not None
    samples = DoseSamples.of_points(seen[found.indices], found.weights)
    for percent in (99.0, 98.0, 90.0, 50.0):
        metric = parse_metric(f"D{percent:g}%")[0]
        assert evaluate(metric, samples) == pytest.approx(evaluate(metric, judged), abs=0.1 * 50.0 / 6.0)
    centre_only = dose.ravel()[voxels.indices][
        coverage_on_grid(case.coverages["PTV_5000"], grid).ravel()[voxels.indices] >= 0.5
    ]
    assert np.percentile(centre_only, 2.0) > evaluate(parse_metric("D98%")[0], judged) + 1.0


def test_points_are_trilinear_between_voxels(case: PlanningCase, voxels: OptimizationVoxels) -> None:
    grid, border = case.density.grid, voxels.border
    dose = np.random.default_rng(3).uniform(0, 60, grid.shape).astype(np.float32) * (case.body > 0)
    index = np.array(np.unravel_index(voxels.indices[border.holder], grid.shape)) + border.place
    places = grid.local_from_patient(grid.patient_from_index(index.T))
    expected = np.concatenate([dose.ravel()[voxels.indices], trilinear(dose, grid, places)])
    np.testing.assert_allclose(voxels.dose_gy(dose), expected, rtol=1e-5, atol=1e-4)
    assert len(border.part) > 1000


def test_a_region_keeps_its_distance(case: PlanningCase, voxels: OptimizationVoxels) -> None:
    region = Region("BODY", ("PTV_5000",), HIGHER_LEVEL_MARGIN_MM)
    found = voxel_sets(case, voxels, [region])[region]
    assert found is not None
    distance = np.linalg.norm(centres(case, voxels)[found.indices] - helpers.TARGET_MM, axis=1)
    # a voxel is 2.5 mm: distances are from centres of covered ones
    assert distance.min() > helpers.TARGET_RADIUS_MM + HIGHER_LEVEL_MARGIN_MM - 2.5
    nearest = np.linalg.norm(centres(case, voxels) - helpers.TARGET_MM, axis=1)
    beyond = np.flatnonzero(nearest > helpers.TARGET_RADIUS_MM + HIGHER_LEVEL_MARGIN_MM + 2.5)
    assert set(beyond) <= set(found.indices.tolist())


def test_a_region_without_voxels_is_none(case: PlanningCase, voxels: OptimizationVoxels) -> None:
    region = Region("PTV_5000", ("PTV_5000",), HIGHER_LEVEL_MARGIN_MM)
    assert voxel_sets(case, voxels, [region])[region] is None


@pytest.mark.parametrize("skin_mm", [4.0, 9.0])
def test_air_and_skin_carry_no_underdose(case: PlanningCase, skin_mm: float) -> None:
    """BODY as a target: its part that can be reached is neither in the cavity nor near under the surface."""
    template = replace(case.resolved.template, skin_mm=skin_mm)
    case = replace(case, resolved=replace(case.resolved, template=template))
    part = reachable_fraction(case, "BODY")
    grid = case.density.grid
    points = grid.patient_from_index(np.stack(np.indices(grid.shape), axis=-1))
    depth = np.min(np.array([50.0, 50.0, 45.0]) - np.abs(points), axis=-1)
    assert not part[depth < skin_mm - 1.3].any()
    assert not part[case.density.mass_g_cm3 < AIR_DENSITY_G_CM3].any()
    cavity = np.linalg.norm(points - (14.0, -37.0, 10.0), axis=-1)
    assert not part[cavity < 5.0].any()
    # all the rest of the box can be reached
    assert (part[(depth > skin_mm + 2.6) & (cavity > 12.0)] > 0.99).all()


def test_air_is_held_where_it_is_asked_for(case: PlanningCase, voxels: OptimizationVoxels) -> None:
    """``counted`` lets points in air and under the skin go, ``through_air`` those under the skin alone."""
    tissue, every = Region("BODY", counted=True), Region("BODY", counted=True, through_air=True)
    sets = voxel_sets(case, voxels, [tissue, every])
    held = {region: one.counted() for region, one in sets.items() if one is not None}
    assert (held[every] >= held[tissue]).all()
    more = sets[every].indices[held[every] & ~held[tissue]]
    cavity = np.linalg.norm(centres(case, voxels)[more] - (14.0, -37.0, 10.0), axis=1)
    assert len(more) > 5
    assert cavity.max() < 10.0


def test_a_target_without_air_has_no_wish_for_it(case: PlanningCase, voxels: OptimizationVoxels) -> None:
    aims = aims_of(case.resolved)
    asked = [spec.region for spec in aims.wishes if spec.region.through_air]
    assert [region.structure for region in asked] == ["PTV_5000"]
    sets = voxel_sets(case, voxels, aims.regions)
    assert not [spec for spec in without_idle(aims, sets).wishes if spec.region.through_air]
    # a target that is half air keeps it
    half = replace(sets[asked[0]], coverage=None)
    kept = {
        **sets,
        asked[0]: half,
        replace(asked[0], through_air=False): replace(half, coverage=np.arange(len(half.indices)) % 2),
    }
    assert [spec for spec in without_idle(aims, kept).wishes if spec.region.through_air]


def test_goals_are_judged_and_weighed(case: PlanningCase) -> None:
    """Uniform doses have known metrics; a hard excess comes before any goal."""
    losses = []
    for level in (50.0, 48.0, 40.0, 46.0):
        dose = np.full(case.density.grid.shape, level, dtype=np.float32)
        values = goal_values(case, dose)
        named = {(goal.structure, goal.goal.text): value for goal, value in values.items()}
        assert named["PTV_5000", "D98% >= 95 %"] == pytest.approx(level, rel=1e-5)
        assert named["SpinalCord", "Dmean <= 10 Gy"] == pytest.approx(level, rel=1e-5)
        hard = next(goal for goal in values if goal.hard)
        assert (shortfall(hard, values[hard]) > 0) == (level > 45.0)
        losses.append(plan_loss(values))
    assert losses[2][0] == 0.0
    assert min(losses) == losses[2]  # the only one that keeps the cord's limit, though it misses the target
    assert losses[3] < losses[1] < losses[0]


def test_a_goal_out_of_reach_does_not_outweigh_one_that_is_near(case: PlanningCase) -> None:
    """Exceeded twenty times, a goal gains by 1 Gy less than a target loses by 0.5 Gy less; a near miss counts by its limit."""
    dose = np.full(case.density.grid.shape, 47.5, dtype=np.float32)
    target, far = (
        next(goal for goal in goal_values(case, dose) if not goal.hard and goal.structure == name)
        for name in ("PTV_5000", "SpinalCord")
    )
    far = replace(far, goal=replace(far.goal, limit=1.0), priority=target.priority)

    def loss(covered_gy: float, organ_gy: float) -> float:
        return plan_loss({target: covered_gy, far: organ_gy})[1]

    assert loss(47.0, 21.0) < loss(46.5, 20.0)
    assert loss(47.5, 1.02) - loss(47.5, 1.01) == pytest.approx(0.01, rel=0.05)


def test_a_plan_without_dose_is_no_better_than_one_too_hot(case: PlanningCase) -> None:
    """Two hard limits that fight: twice too hot breaks them no more than half too cold, nothing at all most."""
    dose = np.full(case.density.grid.shape, 47.5, dtype=np.float32)
    found = next(goal for goal in goal_values(case, dose) if goal.hard)
    most = replace(found, goal=replace(found.goal, limit=30.0))
    least = replace(found, goal=replace(found.goal, limit=40.0, at_most=False))
    assert plan_loss({most: 60.0, least: 40.0})[0] == pytest.approx(plan_loss({most: 30.0, least: 20.0})[0])
    assert plan_loss({most: 60.0, least: 40.0})[0] < plan_loss({most: 0.4, least: 0.4})[0]


def test_the_hot_border_of_an_organ_is_seen_as_it_is_judged(case: PlanningCase) -> None:
    """Dose falls by 5 Gy/mm through the cord; without points its hottest part lay in voxels that were held to nothing."""
    hot = replace(case.resolved.goals[0], structure="SpinalCord", goal=parse_goal("D5% <= 20 Gy"))
    asked = replace(case, resolved=replace(case.resolved, constraints=(), goals=(hot,)))
    grid = case.density.grid
    x = grid.patient_from_index(np.stack(np.indices(grid.shape), axis=-1))[..., 0]
    dose = (100.0 + 5.0 * x).astype(np.float32)
    judged = dose_samples(case.coverages["SpinalCord"], dose, grid)
    points = optimization_voxels(asked, ("SpinalCord",))
    region = Region("SpinalCord")
    found = voxel_sets(asked, points, [region])[region]
    assert found is not None
    samples = DoseSamples.of_points(points.dose_gy(dose)[found.indices], found.weights)
    assert samples.volume_cc == pytest.approx(judged.volume_cc, rel=1e-3)
    for percent in (1.0, 2.0, 5.0):
        seen, exact = (one.hottest_gy(percent / 100.0 * one.volume_cc) for one in (samples, judged))
        assert seen == pytest.approx(exact, abs=0.1 * 5.0), percent
    # of a mean alone, voxels are enough
    assert (
        "SpinalCord"
        not in optimization_voxels(
            replace(case, resolved=replace(case.resolved, constraints=(), goals=())), ()
        ).border.structures
    )

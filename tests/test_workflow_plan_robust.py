"""Set-up errors: what is planned for them, on which voxels, and what they do to the goals of a plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import plan_helpers as helpers
import pytest
from plan_helpers import plan, template

from dicomplan.dicom.read import read_plan, read_study
from dicomplan.dose.engines import direction_planes
from dicomplan.errors import TemplateError
from dicomplan.events import Cancel, ignore_progress
from dicomplan.machine.library import load_machine
from dicomplan.plan.derive import ALL_SCENARIOS
from dicomplan.plan.library import load_template
from dicomplan.plan.parse import parse_template
from dicomplan.plan.template import Robustness
from dicomplan.planning.normalizing import NormalizationResult
from dicomplan.planning.pursuing import aims_of
from dicomplan.planning.robustness import shifted_values
from dicomplan.planning.voxels import voxel_sets
from dicomplan.workflow.clock import Clock
from dicomplan.workflow.plan_document import normalization_findings
from dicomplan.workflow.plan_setup import influence_of, optimised_voxels, prepare, seen_by_beams
from dicomplan.workflow.plan_values import Setup

SHIFTS = ((7.0, 0.0, 0.0), (-7.0, 0.0, 0.0))
ROBUST = "robust: {shifts: [[7, 0, 0], [-7, 0, 0]]}\n"
FIELDS = "{gantry: 0}, {gantry: 180}"  # x, in which the isocentre moves, lies across both


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return helpers.write_small_study(tmp_path_factory.mktemp("robust") / "study")


@pytest.fixture(scope="module")
def robust(study: Path, tmp_path_factory: pytest.TempPathFactory) -> helpers.Planned:
    return plan(tmp_path_factory.mktemp("with"), template(fields=FIELDS, normalize="", more=ROBUST), study=study)


@pytest.fixture(scope="module")
def plain(study: Path, tmp_path_factory: pytest.TempPathFactory) -> helpers.Planned:
    return plan(tmp_path_factory.mktemp("without"), template(fields=FIELDS, normalize=""), study=study)


def prepared(planned: helpers.Planned) -> Setup:
    wanted = load_template(str(planned.template))
    machine = load_machine("generic_6mv")
    study = read_study([planned.study])
    return prepare(study, wanted, machine, str(planned.template), Clock(ignore_progress), Cancel())


def test_the_worst_shift_keeps_the_coverage_that_a_plain_plan_loses(
    robust: helpers.Planned, plain: helpers.Planned
) -> None:
    setup = prepared(plain)
    planes = direction_planes(read_plan(plain.output / "RTPLAN.dcm").deliveries, setup.case.machine)
    without = shifted_values(setup.case, setup.engine, planes, Robustness(SHIFTS))
    coverage = [value for values in without.values for goal, value in values.items() if goal.goal.metric.name == "D98%"]
    found = {goal["goal"]: goal for goal in robust.document["robustness"]["goals"]}["D98% >= 95 %"]
    assert min(coverage) < 46.0
    assert found["worst"] > min(coverage) + 1.0
    assert found["worst"] == min(found["nominal"], *found["shifted"])
    assert found["expected"] == pytest.approx(np.mean([found["nominal"], *found["shifted"]]))


def test_a_shift_of_nothing_gives_the_final_dose(robust: helpers.Planned) -> None:
    setup = prepared(robust)
    planes = direction_planes(read_plan(robust.output / "RTPLAN.dcm").deliveries, setup.case.machine)
    (values,) = shifted_values(setup.case, setup.engine, planes, Robustness(((0.0, 0.0, 0.0),))).values
    nominal = {(goal["structure"], goal["goal"]): goal["nominal"] for goal in robust.document["robustness"]["goals"]}
    for goal, value in values.items():
        assert value == pytest.approx(nominal[(goal.structure, goal.goal.text)], rel=1e-5)


def test_the_optimisers_dose_of_a_shift_is_that_of_shifted_beams(robust: helpers.Planned) -> None:
    """The second part of the dose vector is the first one of a plan whose isocentre lies 7 mm further left."""
    setup = prepared(robust)
    indices = optimised_voxels(setup, aims_of(setup.resolved)).indices
    operator = influence_of(setup, setup.maps, seen_by_beams(setup, indices, Clock(ignore_progress)))
    fluence = np.random.default_rng(4).uniform(0.0, 5.0, operator.beamlet_count)
    dose = operator.forward(fluence)
    assert len(dose) == 3 * len(indices)
    bare = replace(setup.resolved, template=replace(setup.resolved.template, robust=None))
    moved = [
        replace(one, beam=replace(one.beam, isocenter_mm=tuple(np.add(one.beam.isocenter_mm, SHIFTS[0]))))
        for one in setup.maps
    ]
    other = replace(setup, resolved=bare, maps=tuple(moved))
    alone = influence_of(other, moved, seen_by_beams(other, indices, Clock(ignore_progress)))
    np.testing.assert_allclose(dose[len(indices) : 2 * len(indices)], alone.forward(fluence), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("goals", ["worst", "expected"])
def test_limits_stand_in_every_shift_and_goals_as_asked(robust: helpers.Planned, goals: str) -> None:
    setup = prepared(robust)
    wanted = replace(setup.resolved.template, robust=Robustness(SHIFTS, goals))  # type: ignore[arg-type]
    aims = aims_of(replace(setup.resolved, template=wanted))
    hard = [spec.region.scenario for spec in aims.guide if spec.hard]
    assert sorted(hard) == [0, 1, 2]
    assert {spec.region.scenario for spec in aims.guide if not spec.hard} == {ALL_SCENARIOS}
    asked = [spec.region.scenario for spec in aims.wishes if spec.region.structure == "SpinalCord"]
    assert sorted(asked) == ([0, 1, 2] if goals == "worst" else [ALL_SCENARIOS])
    # of all scenarios together the volume is the structure's own
    voxels = optimised_voxels(setup, aims)
    sets = voxel_sets(setup.case, voxels, aims.regions)
    volumes = {region.scenario: one.volume for region, one in sets.items() if one and region.structure == "SpinalCord"}
    assert len(set(np.round(list(volumes.values()), 6))) == 1
    everywhere = next(one for region, one in sets.items() if one and region.scenario == ALL_SCENARIOS)
    assert everywhere.indices[-1] >= 2 * len(voxels.indices)


def test_the_report_shows_every_shift(robust: helpers.Planned) -> None:
    report = robust.outcome.report.read_text(encoding="utf-8")
    assert 'id="robustness"' in report
    assert "7 mm L" in report
    assert "7 mm R" in report


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("robust: {shifts: [[1, 2]]}\n", "three numbers"),
        ("robust: {shifts: [[3, 0, 0], [3, 0, 0]]}\n", "given twice"),
        ("robust: {shifts: []}\n", "1 to 26 shifts"),
        ("robust: {goals: worst}\n", "'shifts' is missing"),
        ("robust: {shifts: [[3, 0, 0]], goals: best}\n", "'best' is not known"),
        ("skin: 3 cm\n", "skin"),
        ("slack: 50 %\n", "slack"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, told: str) -> None:
    with pytest.raises(TemplateError) as refused:
        parse_template(template(more=text))
    assert told in str(refused.value) + str(getattr(refused.value, "problems", ""))


def test_keys_of_one_line_are_read() -> None:
    found = parse_template(template(more="skin: 5 mm\nflash: 15 mm\nslack: 1 %\n" + ROBUST))
    assert (found.skin_mm, found.flash_mm, found.slack) == (5.0, 15.0, 0.01)
    assert found.robust == Robustness(SHIFTS)


@pytest.mark.parametrize(
    ("factor", "robust", "warned"),
    [(0.98, True, True), (0.98, False, False), (1.02, True, False), (0.999, True, False)],
)
def test_normalising_a_robust_plan_down_is_warned_of(factor: float, robust: bool, warned: bool) -> None:
    """The plan as it is has more than it needs, for the sake of the shifts; scaled down to its need, it no longer has."""
    found = normalization_findings(NormalizationResult(factor, factor), robust=robust)
    assert [finding.severity for finding in found] == ["warning"] * warned

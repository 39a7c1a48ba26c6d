"""How a plan may end: failed, not deliverable, cancelled, limited, on a body that was found; and what is there meanwhile."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import plan_helpers as helpers
import pytest
from plan_helpers import NAME, PATIENT_ID, machine_file, plan, template, write_small_study

from dicomplan.cli.main import main
from dicomplan.dicom.read import read_plan
from dicomplan.errors import CancelledError, InsufficientMemoryError
from dicomplan.events import Cancel, Progress
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import Coverage
from dicomplan.workflow.memory import needed_bytes, refuse_too_large
from dicomplan.workflow.plan import PlanRequest, run_plan

ONE_BEAM = "{gantry: 0}"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_study(tmp_path_factory.mktemp("small") / "study")


# A hard constraint that cannot hold


@pytest.fixture(scope="module")
def failed(study: Path, tmp_path_factory: pytest.TempPathFactory) -> helpers.Planned:
    """At most 20 Gy to a half of the target, with 50 Gy to 95 % of it."""
    text = template(constraints="  PTV_5000: [D50% <= 20 Gy, D98% >= 40 Gy]", fields=ONE_BEAM)
    return plan(tmp_path_factory.mktemp("failed"), text, study=study, beam_doses=True)


def test_a_broken_hard_constraint_fails_the_plan(failed: helpers.Planned) -> None:
    assert failed.outcome.exit_code == 5
    assert failed.document["status"] == "failed"
    broken = [goal for goal in failed.document["goals"] if goal["kind"] == "hard" and not goal["met"]]
    assert broken
    for goal in broken:
        name = goal["goal"].split()[0]
        final = failed.document["structures"]["PTV_5000"]["final"][f"{name}_gy"]
        assert goal["achieved"] == pytest.approx(final, rel=1e-9)
    assert "D50% &lt;= 20 Gy" in failed.outcome.report.read_text(encoding="utf-8")


def test_what_is_delivered_of_limits_that_fight_lies_between_them(failed: helpers.Planned) -> None:
    """Multipliers that grow for ever would let rounding decide in the end: on hundreds of Gy, or none."""
    final = failed.document["structures"]["PTV_5000"]["final"]
    assert 20.0 < final["D98%_gy"] < 40.0
    assert 20.0 < final["D50%_gy"] < 40.0
    assert final["D2%_gy"] < 120.0


def test_what_no_relaxation_proves_is_left_open(failed: helpers.Planned) -> None:
    """Half a target may get 75 Gy as far as the proof goes: it says so, and names what was found."""
    found = failed.document["feasibility"]
    assert not found["proven_infeasible"]
    assert found["enough_percent"] > 0
    said = [one["message"] for one in failed.document["warnings"] if one["severity"] == "error"]
    assert len(said) == 1
    assert "not met by the best plan found" in said[0]


def test_limits_that_fight_are_proven_to(study: Path, tmp_path: Path) -> None:
    """No point above 30 Gy and 98 % above 40 Gy: a common share t gives 30 (1 + t) >= 40 (1 - t), t = 1/7, but for 2 %."""
    text = template(constraints="  PTV_5000: [Dmax <= 30 Gy, D98% >= 40 Gy]", fields=ONE_BEAM)
    planned = plan(tmp_path, text, study=study)
    assert planned.outcome.exit_code == 5
    # what is broken is not broken further for the sake of the normalisation
    scaling = planned.document["prescription"]["normalize"]
    assert scaling["factor"] <= 1.0 < scaling["wanted"]
    found = planned.document["feasibility"]
    assert found["proven_infeasible"]
    # of 98 % at 40 (1 - t) and 2 % at nothing the mean is at most 30 (1 + t)
    uniform = 100.0 * (40 * 0.98 - 30) / (30 + 40 * 0.98)
    # voxels that the target covers less than half have no maximum, which leaves the proof a little weaker
    assert 0.9 * uniform <= found["least_give_percent"] <= found["enough_percent"]
    assert {one["goal"] for one in found["fighting"]} == {"Dmax <= 30 Gy", "D98% >= 40 Gy"}
    said = [one["message"] for one in planned.document["warnings"] if one["severity"] == "error"]
    assert "infeasible" in said[0]
    assert "PTV_5000 Dmax &lt;= 30 Gy" in planned.outcome.report.read_text(encoding="utf-8")


def test_a_search_that_is_asked_to_end_gives_a_whole_plan_with_a_warning(study: Path, tmp_path: Path) -> None:
    events: list[Progress] = []
    cancel = Cancel()

    def note(event: Progress) -> None:
        events.append(event)
        if "iteration 5" in event.message:
            cancel.finish()

    path = tmp_path / "template.yaml"
    path.write_text(template(fields=ONE_BEAM), encoding="utf-8")
    outcome = run_plan(PlanRequest((study,), str(path), tmp_path / "ended"), note, cancel)
    assert (outcome.output / "RTDOSE.dcm").is_file()
    assert outcome.document["optimization"]["iterations"] <= 10
    assert any("best plan found so far" in one["message"] for one in outcome.document["warnings"])


def test_a_time_limit_is_kept_from_the_command_line(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(template(), encoding="utf-8")
    words = ["plan", str(study), "--template", str(path), "--output", str(tmp_path / "out"), "--json", "--quiet"]
    code = main([*words, "--time-limit", "1s"])
    document = json.loads(capsys.readouterr().out)
    assert code in (0, 5)
    assert any("best plan found so far" in one["message"] for one in document["warnings"])


def test_all_files_of_a_failed_plan_are_there_and_marked(failed: helpers.Planned) -> None:
    names = {path.relative_to(failed.output).as_posix() for path in failed.output.rglob("*") if path.is_file()}
    beams = {f"RTDOSE_{beam['number']}.dcm" for beam in failed.document["beams"]}
    files = {"RTDOSE.dcm", "RTSTRUCT.dcm", "report.html", "plan.json", "log.txt", "failed/RTPLAN.dcm"}
    assert names == files | beams
    rtplan, dose = failed.dataset("failed/RTPLAN.dcm"), failed.dataset("RTDOSE.dcm")
    assert str(rtplan.RTPlanLabel).startswith("FAILED")
    assert len(rtplan.RTPlanLabel) <= 16
    assert str(rtplan.SeriesDescription).startswith("FAILED")
    assert str(dose.SeriesDescription).startswith("FAILED")
    assert str(dose.DoseComment).startswith("FAILED")
    for name in beams:
        assert str(failed.dataset(name).DoseComment).startswith("FAILED")
    assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == rtplan.SOPInstanceUID


# Limits that cannot be met


@pytest.fixture(scope="module")
def undeliverable(study: Path, tmp_path_factory: pytest.TempPathFactory) -> helpers.Planned:
    """A bank whose leaves may stand at most 22 mm apart, for a target of 34 mm."""
    folder = tmp_path_factory.mktemp("undeliverable")
    machine_file(folder, leaf_span_mm="22.0")
    return plan(folder, template(machine="machine.toml", fields=ONE_BEAM), study=study)


def test_a_plan_that_cannot_be_delivered_has_no_plan_and_no_dose(undeliverable: helpers.Planned) -> None:
    assert undeliverable.outcome.exit_code == 6
    assert undeliverable.document["status"] == "not_deliverable"
    names = {path.name for path in undeliverable.output.rglob("*")}
    assert names == {"RTSTRUCT.dcm", "report.html", "plan.json", "log.txt"}
    assert undeliverable.document["violations"]
    assert "22 mm" in undeliverable.document["violations"][0] or "carriage" in undeliverable.document["violations"][0]
    structures = undeliverable.document["structures"]
    assert structures["PTV_5000"]["ideal"]["Dmean_gy"] > 40
    assert structures["PTV_5000"]["final"] == {}
    assert "eliverable" in undeliverable.outcome.report.read_text(encoding="utf-8")


def test_the_command_line_says_so(
    undeliverable: helpers.Planned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", str(undeliverable.study), "--template", str(undeliverable.template)]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--quiet"]) == 6
    out, err = capsys.readouterr()
    assert err == ""
    assert "not deliverable" in out
    assert not (tmp_path / "out" / "RTPLAN.dcm").exists()


# Normalisation


def test_normalisation_is_limited_by_a_hard_constraint_and_says_so(study: Path, tmp_path: Path) -> None:
    """99.9 % of the target at 50 Gy would heat 2 % of it above its limit: the limit holds, the wish does not."""
    text = template(
        normalize="PTV_5000 D99.9% = 50 Gy",
        constraints="  PTV_5000: [D2% <= 56 Gy]",
        fields="{gantry: 0}, {gantry: 90}",
    )
    planned = plan(tmp_path, text, study=study)
    entry = planned.document["structures"]["PTV_5000"]["final"]
    scaling = planned.document["prescription"]["normalize"]
    assert planned.outcome.exit_code == 0
    assert entry["D2%_gy"] <= 56.0
    assert scaling["factor"] < scaling["wanted"]
    assert "PTV_5000 D2%" in scaling["limited_by"]
    assert any("normalisation" in warning["message"] for warning in planned.document["warnings"])


def test_a_goal_at_the_normalised_dose_is_met_by_the_printed_digits(study: Path, tmp_path: Path) -> None:
    """A hard constraint and the normalisation name the same dose: neither fails by the last digit of a meterset."""
    planned = plan(tmp_path, template(constraints="  PTV_5000: [D95% >= 50 Gy]", fields=ONE_BEAM), study=study)
    assert planned.outcome.exit_code == 0
    assert planned.document["structures"]["PTV_5000"]["final"]["D95%_gy"] == pytest.approx(50.0, rel=1e-3)


def test_without_a_wish_nothing_is_scaled(study: Path, tmp_path: Path) -> None:
    planned = plan(tmp_path, template(normalize="", fields=ONE_BEAM), study=study)
    assert "normalize" not in planned.document["prescription"]
    assert planned.document["structures"]["PTV_5000"]["final"]["Dmean_gy"] == pytest.approx(50.0, rel=0.06)


def test_a_hot_spot_is_warned_of_though_no_goal_forbids_it(study: Path, tmp_path: Path) -> None:
    """One beam: what lies before the target gets far more than the prescription; four beams share it."""
    said = {}
    for name, fields in (("one", ONE_BEAM), ("four", ", ".join(f"{{gantry: {angle}}}" for angle in (0, 90, 180, 270)))):
        (tmp_path / name).mkdir()
        document = plan(tmp_path / name, template(fields=fields), study=study).document
        hottest = document["structures"]["BODY"]["final"]["D0.03cc_gy"]
        said[name] = [one["message"] for one in document["warnings"] if "hot spot" in one["message"]]
        assert bool(said[name]) == (hottest > 1.15 * 50.0)
    assert said["one"]
    assert not said["four"]


# Machines


def test_the_segments_keep_to_the_machine_as_printed(study: Path, tmp_path: Path) -> None:
    """Gap, meterset and transmission of a machine of its own; the plan names it."""
    machine_file(tmp_path, name='"mine_6mv"', min_gap_mm="2.0", min_segment_meterset_mu="4.0")
    planned = plan(tmp_path, template(machine="machine.toml", fields="{gantry: 30}, {gantry: 200}"), study=study)
    assert planned.document["machine"] == "mine_6mv"
    stored = read_plan(planned.output / "RTPLAN.dcm")
    assert set(stored.machine_names) == {"mine_6mv"}
    for delivery in stored.deliveries:
        for segment in delivery.segments:
            assert segment.meterset_mu >= 4.0 - 1e-6
            first, second = segment.aperture.leaf_positions_mm
            gap = second - first
            assert gap.min() >= 0.0
            still = np.all(
                [one.aperture.leaf_positions_mm == segment.aperture.leaf_positions_mm for one in delivery.segments],
                axis=(0, 1),
            )
            assert (gap[~(still & (gap == 0))] >= 2.0 - 0.005).all()


# Body


def test_a_body_that_is_not_drawn_is_found_and_said(tmp_path: Path) -> None:
    study = write_small_study(tmp_path / "study", external=False)
    planned = plan(tmp_path, template(fields=ONE_BEAM), study=study)
    assert planned.outcome.exit_code == 0
    assert planned.document["structures"]["BODY"]["volume_cc"] == pytest.approx(900.0, rel=0.03)
    assert any("BODY" in warning["message"] for warning in planned.document["warnings"])
    structures = planned.dataset("RTSTRUCT.dcm")
    types = {item.ReferencedROINumber: item.RTROIInterpretedType for item in structures.RTROIObservationsSequence}
    names = {item.ROINumber: item.ROIName for item in structures.StructureSetROISequence}
    assert [names[number] for number, kind in types.items() if kind == "EXTERNAL"] == ["BODY"]


# Privacy


def test_who_it_is_is_told_where_it_is_asked_for(study: Path, tmp_path: Path) -> None:
    planned = plan(tmp_path, template(fields=ONE_BEAM), study=study, identify=True)
    report = (planned.output / "report.html").read_text(encoding="utf-8")
    assert NAME in report
    assert PATIENT_ID in report


# Meanwhile, and when it is stopped


def test_nothing_is_in_the_place_until_all_is(study: Path, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(template(fields=ONE_BEAM))
    seen: list[tuple[str, bool, int]] = []

    def watch(event: Progress) -> None:
        partial = [path for path in tmp_path.iterdir() if path.name.startswith(".out.partial-")]
        seen.append((event.stage, (tmp_path / "out").exists(), len(partial)))

    run_plan(PlanRequest((study,), str(tmp_path / "t.yaml"), tmp_path / "out"), watch)
    order = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert [stage for stage in order if stage != "final_dose"] == [
        "read",
        "masks",
        "influence",
        "optimize",
        "sequence",
        "write",
    ]
    assert "final_dose" in order
    assert not any(there for _, there, _ in seen)
    assert {partial for _, _, partial in seen} == {1}
    assert {path.name for path in tmp_path.iterdir()} == {"t.yaml", "out"}


@pytest.mark.parametrize("stage", ["masks", "influence", "optimize", "sequence"])
def test_a_cancelled_plan_leaves_nothing(study: Path, tmp_path: Path, stage: str) -> None:
    (tmp_path / "t.yaml").write_text(template(fields=ONE_BEAM))
    cancel = Cancel()

    def stop(event: Progress) -> None:
        if event.stage == stage:
            cancel.set()

    with pytest.raises(CancelledError):
        run_plan(PlanRequest((study,), str(tmp_path / "t.yaml"), tmp_path / "out"), stop, cancel)
    assert [path.name for path in tmp_path.iterdir()] == ["t.yaml"]


def test_an_error_on_the_way_leaves_nothing_and_an_old_result_alone(study: Path, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(template(fields=ONE_BEAM))
    old = tmp_path / "out"
    old.mkdir()
    (old / "plan.json").write_text(json.dumps({"schema": 1, "dicomplan": "0"}))
    request = PlanRequest((study,), str(tmp_path / "t.yaml"), old, overwrite=True)

    def fail(event: Progress) -> None:
        if event.stage == "write":
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        run_plan(request, fail)
    assert {path.name for path in tmp_path.iterdir()} == {"t.yaml", "out"}
    assert [path.name for path in old.iterdir()] == ["plan.json"]
    run_plan(replace(request))
    assert json.loads((old / "plan.json").read_text())["status"] == "accepted"
    assert {path.name for path in tmp_path.iterdir()} == {"t.yaml", "out"}


# Memory


def test_too_large_a_plan_is_refused_with_a_grid_that_fits() -> None:
    grid = VoxelGrid((200, 200, 200), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    body = Coverage(VoxelGrid((20, 20, 20), (20.0, 20.0, 20.0), (9.0, 9.0, 9.0)), np.ones((20, 20, 20), np.float32))
    refuse_too_large(grid, body, 9, 2.0, available=20_000_000_000)
    with pytest.raises(InsufficientMemoryError, match="GB") as caught:
        refuse_too_large(grid, body, 9, 2.0, available=2_000_000_000)
    assert caught.value.hint is not None
    step = float(caught.value.hint.split("grid of ")[1].split(" mm")[0])
    assert step > 2.0
    voxels = 8e6 * (2.0 / step) ** 3
    assert needed_bytes(int(voxels), voxels, 9) <= 0.9 * 2_000_000_000
    with pytest.raises(InsufficientMemoryError) as caught:
        refuse_too_large(grid, body, 9, None, available=100_000_000)
    assert caught.value.hint == "no dose grid would fit"

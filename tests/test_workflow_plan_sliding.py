"""Plans of sliding windows: what is exported is dynamic, within limits, and gives the same dose when it is read again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import plan_helpers as helpers
import pytest
from plan_helpers import plan, template, write_small_study

from dicomplan.beams.limits import violations
from dicomplan.cli.main import main
from dicomplan.dicom.read import read_plan
from dicomplan.dicom.read_dose import read_dose
from dicomplan.machine.library import load_machine
from dicomplan.workflow import plan as workflow_plan
from dicomplan.workflow.dose import DoseRequest, run_dose

FIELDS = "{gantry: 0}, {gantry: 120}, {gantry: 240, collimator: 10}"
SLIDING = template(fields=FIELDS).replace("step_and_shoot", "sliding_window")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_study(tmp_path_factory.mktemp("small") / "study")


@pytest.fixture(scope="module")
def sliding(study: Path, tmp_path_factory: pytest.TempPathFactory) -> helpers.Planned:
    return plan(tmp_path_factory.mktemp("sliding"), SLIDING, study=study)


def test_beams_are_dynamic_and_within_limits(sliding: helpers.Planned) -> None:
    assert sliding.outcome.exit_code == 0
    stored = sliding.dataset("RTPLAN.dcm")
    assert [beam.BeamType for beam in stored.BeamSequence] == ["DYNAMIC"] * 3
    machine = load_machine("generic_6mv")
    for item in read_plan(sliding.output / "RTPLAN.dcm").deliveries:
        assert item.moving
        assert item.dose_rate_mu_min is not None
        assert violations(item, machine) == ()
    assert main(["check", str(sliding.output), "--strict", "--quiet", "--machine", "generic_6mv"]) == 0


def test_what_the_windows_leave_everywhere_is_told(sliding: helpers.Planned) -> None:
    for beam in sliding.document["beams"]:
        assert beam["delivery"] == "sliding_window"
        # leakage while no jaw covers a column (the longest of them: most of the meterset), and what the gap adds
        assert 0.01 * beam["meterset_mu"] < beam["floor_mu"] < 0.03 * beam["meterset_mu"]
        assert 0.0 < beam["modulation_complexity_score"] <= 1.0
        assert beam["leaves_synchronised"] is False  # the generic machine has no tongues
    assert sliding.document["quality"]["average_leaf_pair_opening_mm"] > 0


def test_the_plan_read_again_gives_the_same_dose(sliding: helpers.Planned, study: Path, tmp_path: Path) -> None:
    request = DoseRequest(
        study=(study,),
        output=tmp_path / "dose",
        plan=str(sliding.output / "RTPLAN.dcm"),
        engine="pencil_beam",
        grid_mm=5.0,
    )
    run_dose(request)
    ours, again = (read_dose(folder / "RTDOSE.dcm").dose_gy for folder in (sliding.output, tmp_path / "dose"))
    assert ours.shape == again.shape
    assert np.abs(ours - again).max() <= 1e-3 * ours.max()


def test_the_target_is_as_even_as_by_the_ideal_fluence(sliding: helpers.Planned) -> None:
    """Normalisation moves both ends; the way between them may grow by 1.5 % of the prescription."""
    target = sliding.document["structures"]["PTV_5000"]
    spread = {key: target[key]["D2%_gy"] - target[key]["D98%_gy"] for key in ("ideal", "final")}
    assert spread["final"] <= spread["ideal"] + 0.015 * 50.0


def test_limits_are_those_of_the_plan_that_was_read_back(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the file holds is judged: a position that changes on the way to it ends as not deliverable, without a plan."""
    read = workflow_plan.read_plan

    def changed(path: Path):
        stored = read(path)
        first = stored.deliveries[0]
        leaves = first.segments[0].aperture.leaf_positions_mm.copy()
        moving = int((leaves[1] - leaves[0]).argmax())
        leaves[0, moving] = leaves[1, moving] + 3.0
        bad = replace(first.segments[0], aperture=replace(first.segments[0].aperture, leaf_positions_mm=leaves))
        broken = replace(first, segments=(bad, *first.segments[1:]))
        return replace(stored, deliveries=(broken, *stored.deliveries[1:]))

    monkeypatch.setattr(workflow_plan, "read_plan", changed)
    done = plan(tmp_path, template(fields="{gantry: 0}"), study=study)
    assert done.outcome.exit_code == 6
    assert done.document["status"] == "not_deliverable"
    assert any("leaves overlap by 3.00 mm" in text for text in done.document["violations"])
    assert not list(done.output.rglob("RTPLAN.dcm")) + list(done.output.rglob("RTDOSE*.dcm"))
    assert (done.output / "report.html").is_file()

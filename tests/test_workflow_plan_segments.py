"""Few segments: the number is kept, the machine can do them, and the file gives the dose that was judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plan_helpers as helpers
import pytest
from plan_helpers import plan, template, write_small_study

from dicomplan.beams.limits import violations
from dicomplan.dicom.read import read_plan
from dicomplan.dicom.read_dose import read_dose
from dicomplan.machine.library import load_machine
from dicomplan.sequencing.apertures import open_area_cm2
from dicomplan.workflow.dose import DoseRequest, run_dose

MOST = 7
FIELDS = "{gantry: 0}, {gantry: 110}"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_study(tmp_path_factory.mktemp("small") / "study")


@pytest.fixture(scope="module")
def few(study: Path, tmp_path_factory: pytest.TempPathFactory) -> helpers.Planned:
    text = template(fields=FIELDS).replace("mode: step_and_shoot", f"mode: step_and_shoot, max_segments: {MOST}")
    return plan(tmp_path_factory.mktemp("few"), text, study=study)


def test_the_number_counts_the_whole_plan(few: helpers.Planned) -> None:
    assert few.outcome.exit_code == 0
    assert few.document["quality"]["segments"] <= MOST
    assert sum(beam["segments"] for beam in few.document["beams"]) == few.document["quality"]["segments"]


def test_segments_are_what_the_machine_can_do(few: helpers.Planned) -> None:
    machine = load_machine("generic_6mv")
    for item in read_plan(few.output / "RTPLAN.dcm").deliveries:
        assert violations(item, machine) == ()
        assert min(open_area_cm2(one.aperture, machine) for one in item.segments) >= machine.min_segment_area_cm2 - 0.05


def test_the_plan_read_again_gives_the_same_dose(few: helpers.Planned, study: Path, tmp_path: Path) -> None:
    request = DoseRequest(
        study=(study,),
        output=tmp_path / "dose",
        plan=str(few.output / "RTPLAN.dcm"),
        engine="pencil_beam",
        grid_mm=5.0,
    )
    run_dose(request)
    ours, again = (read_dose(folder / "RTDOSE.dcm").dose_gy for folder in (few.output, tmp_path / "dose"))
    assert np.abs(ours - again).max() <= 1e-3 * ours.max()

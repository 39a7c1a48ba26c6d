"""``plan`` and PatientPosition: what the images leave open is refused; what is stated instead is repeated to everybody."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pydicom
import pytest
from dicom_helpers import edit
from pydicom.dataset import Dataset

from dicomplan.cli.main import main
from dicomplan.phantoms.water_box import water_box
from dicomplan.phantoms.write import write_phantom_study

TAG = "PatientPosition (0018,5100)"
TEMPLATE = """dicomplan: 1
name: Small box
prescription: {fractions: 25, targets: {PTV_5000: 50 Gy}}
machine: generic_6mv
beams: {technique: imrt, isocenter: targets, gantry: [0, 90]}
constraints:
  PTV_5000: [D0.1cc <= 120 %]
goals:
  - PTV_5000: [D95% >= 90 %]
dose: {grid: 5 mm, influence: pencil_beam, final: pencil_beam}
delivery: {mode: step_and_shoot}
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("position") / "study"
    write_phantom_study(folder, water_box(size_mm=100.0, voxel_mm=5.0, target_radius_mm=15.0))
    return folder


@pytest.fixture
def study(box: Path, tmp_path: Path) -> Path:
    (tmp_path / "template.yaml").write_text(TEMPLATE, encoding="utf-8")
    return Path(copytree(box, tmp_path / "study"))


def change(study: Path, pattern: str, value: str | None) -> None:
    def set_position(dataset: Dataset) -> None:
        del dataset.PatientPosition
        if value is not None:
            dataset.PatientPosition = value

    for path in study.glob(pattern):
        edit(path, set_position)


def absent(study: Path) -> None:
    change(study, "CT_*", None)


def mixed(study: Path) -> None:
    change(study, "CT_005.dcm", "FFS")


def contradicting(study: Path) -> None:
    """The phantom as a scanner stores a prone patient (it looks the same turned by half), said to lie supine."""

    def turn(dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = [-1, 0, 0, 0, -1, 0]
        x, y, z = (float(value) for value in dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [-x, -y, z]

    for path in study.glob("CT_*"):
        edit(path, turn)


def plan(study: Path, *options: str) -> int:
    folder = study.parent
    arguments = ["--template", str(folder / "template.yaml"), "--output", str(folder / "out")]
    return main(["--json", "--quiet", "plan", str(study), *arguments, *options])


@pytest.mark.parametrize(
    ("damage", "tag", "stated"),
    [
        (absent, TAG, "FFS"),
        (mixed, TAG, "FFS"),
        (contradicting, "ImageOrientationPatient (0020,0037)", "HFP"),
    ],
)
def test_plan_refuses_and_names_the_tag_unless_the_position_is_stated(
    study: Path, damage: Callable[[Path], None], tag: str, stated: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(study)
    assert plan(study) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["tag"] == tag
    assert Path(error["file"]).parent == study
    assert not (study.parent / "out").exists()
    for options, plannable in (([], False), (["--patient-position", stated], True)):
        assert main(["--json", "--quiet", "inspect", str(study), *options]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["plannable"] is plannable
        found = [item["tag"] for item in document["findings"] if item["severity"] == "error"]
        assert found == ([] if plannable else [tag])
    sentence = f"patient position {stated} is used, as stated, instead of"
    assert [item["severity"] for item in document["findings"] if sentence in item["message"]] == ["warning"]


def test_what_was_stated_is_planned_on_and_repeated(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent(study)
    assert plan(study, "--patient-position", "FFS") in (0, 5)
    output = study.parent / "out"
    document = json.loads((output / "plan.json").read_text(encoding="utf-8"))
    assert document == json.loads(capsys.readouterr().out)
    assert document["patient_position"] == "FFS"
    sentence = "patient position FFS is used, as stated, instead of"
    assert len([warning for warning in document["warnings"] if sentence in json.dumps(warning)]) == 1
    assert sentence in (output / "report.html").read_text(encoding="utf-8")
    (path,) = output.rglob("RTPLAN.dcm")
    assert {item.PatientPosition for item in pydicom.dcmread(path).PatientSetupSequence} == {"FFS"}

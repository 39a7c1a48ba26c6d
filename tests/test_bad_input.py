"""Input that cannot be planned on, through the command line: one clear line, the right exit code, nothing written."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from dicom_helpers import edit, write_tiny_study
from pydicom.dataset import Dataset

from dicomplan.cli.main import main

TEMPLATE = """dicomplan: 1
name: Tiny
prescription: {fractions: 35, targets: {PTV_7000: 70 Gy}}
machine: generic_6mv
beams: {technique: imrt, gantry: [0]}
goals:
  - PTV_7000: [D95% >= 66.5 Gy]
dose: {grid: 3 mm, influence: pencil_beam, final: pencil_beam}
"""


def nothing(folder: Path) -> None:
    pass


def no_ct(folder: Path) -> None:
    for path in folder.glob("*.dcm"):
        if path.name != "RS.dcm":
            path.unlink()


def no_structures(folder: Path) -> None:
    (folder / "RS.dcm").unlink()


def images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.dcm") if path.name != "RS.dcm")


def missing_slice(folder: Path) -> None:
    images(folder)[5].unlink()


def two_studies(folder: Path) -> None:
    write_tiny_study(folder / "other", entropy="another")


def another_patient(folder: Path) -> None:
    def change(dataset: Dataset) -> None:
        dataset.PatientID = "SOMEBODY-ELSE"
        dataset.PatientName = "Else^Somebody"

    edit(folder / "RS.dcm", change)


def no_files(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def no_dicom(folder: Path) -> None:
    no_files(folder)
    (folder / "notes.txt").write_text("nothing to see\n" * 30)


def cut_file(folder: Path) -> None:
    path = images(folder)[3]
    path.write_bytes(path.read_bytes()[:900])


def no_position(folder: Path) -> None:
    for path in images(folder):
        edit(path, lambda dataset: delattr(dataset, "PatientPosition"))


def two_structure_sets(folder: Path) -> None:
    shutil.copy(folder / "RS.dcm", folder / "RS2.dcm")

    def change(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4.5"

    edit(folder / "RS2.dcm", change)


# what is done to the study; exit code; words that the line must hold
STUDIES: list[tuple[Callable[[Path], None], int, tuple[str, ...]]] = [
    (no_ct, 3, ("CT",)),
    (no_structures, 3, ("RTSTRUCT",)),
    (two_studies, 3, ("--series",)),
    (missing_slice, 3, ("missing",)),
    (another_patient, 3, ("patient",)),
    (no_files, 3, ("DICOM",)),
    (no_dicom, 3, ("DICOM",)),
    (cut_file, 3, ()),
    (no_position, 3, ("PatientPosition",)),
    (two_structure_sets, 3, ("--structure-set",)),
]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_tiny_study(tmp_path / "study")


def refused(
    study: Path, capsys: pytest.CaptureFixture[str], *, text: str = TEMPLATE, output: Path | None = None
) -> tuple[int, str]:
    """Exit code and the line of a run; nothing but study and template lies about before and after."""
    folder = study.parent
    (folder / "t.yaml").write_text(text, encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    output = output or folder / "out"
    code = main(["plan", str(study), "--template", str(folder / "t.yaml"), "--output", str(output), "--quiet"])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: "), err
    assert "Traceback" not in err
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    return code, err


@pytest.mark.parametrize(("spoil", "code", "words"), STUDIES, ids=[case[0].__name__ for case in STUDIES])
def test_a_study_is_refused_with_one_line(
    study: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], code: int, words: tuple[str, ...]
) -> None:
    spoil(study)
    found, line = refused(study, capsys)
    assert found == code
    assert line.count("\n") == 1, line
    for word in words:
        assert word in line, line


def test_a_missing_slice_says_where(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing_slice(study)
    _, line = refused(study, capsys)
    assert any(character.isdigit() for character in line)
    assert "mm" in line


def test_a_damaged_zip_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = study.parent / "study.zip"
    with zipfile.ZipFile(archive, "w") as stream:
        for path in study.iterdir():
            stream.write(path, path.name)
    archive.write_bytes(archive.read_bytes()[:-400])
    code, line = refused(archive, capsys)
    assert code == 3
    assert line.count("\n") == 1


# Templates


@pytest.mark.parametrize(
    ("old", "new", "line", "word"),
    [
        ("- PTV_7000: [D95%", "- PTV_700: [D95%", 7, "PTV_7000"),  # a near name is offered
        ("- PTV_7000: [D95%", "- Parotid_L: [D95%", 7, "Parotid_L"),
        ("targets: {PTV_7000", "targets: {PTV_9000", 3, "PTV_9000"),
        ("technique: imrt", "technique: vmat", 5, "vmat"),
        ("goals:", "goal:", 6, "goals"),
        ("D95% >= 66.5 Gy", "D95% >= 66.5", 7, "D95%"),
    ],
)
def test_a_template_is_refused_with_its_line(
    study: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, line: int, word: str
) -> None:
    code, told = refused(study, capsys, text=TEMPLATE.replace(old, new))
    assert code == 4
    assert f"line {line}" in told
    assert word in told
    assert "t.yaml" in told


def test_every_unknown_structure_is_told_in_one_run(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TEMPLATE.replace("goals:\n", "goals:\n  - Parotid_L: [Dmean <= 26 Gy]\n  - Larynx: [Dmean <= 45 Gy]\n")
    code, told = refused(study, capsys, text=text)
    assert code == 4
    assert "Parotid_L" in told
    assert "Larynx" in told


@pytest.mark.parametrize("machine", ["no_such_machine", "absent.toml"])
def test_a_machine_that_is_not_there(study: Path, capsys: pytest.CaptureFixture[str], machine: str) -> None:
    code, told = refused(study, capsys, text=TEMPLATE.replace("generic_6mv", machine))
    assert code == 4
    assert machine.removesuffix(".toml") in told
    assert told.count("\n") == 1


def test_a_template_that_is_no_text(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = refused(study, capsys, text="dicomplan: [1\nname: {")
    assert code == 4
    assert "line" in told


# Output


def test_an_output_that_exists_is_left_alone(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "out"
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")
    code, line = refused(study, capsys)
    assert code == 2
    assert str(place) in line
    assert line.count("\n") == 1
    assert (place / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("place", ["study/out", ".", "no/such/folder", "t.yaml"])
def test_an_output_in_the_wrong_place(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    code, line = refused(study, capsys, output=tmp_path / place)
    assert code == 2
    assert line.count("\n") == 1


def test_an_output_that_cannot_be_written(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() == 0:
        place = Path("/proc/dicomplan-out")  # not even root makes folders there
        if not place.parent.is_dir():
            pytest.skip("no /proc, and root writes everywhere else")
    else:
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        place = locked / "out"
    code, line = refused(study, capsys, output=place)
    assert code == 2
    assert str(place) in line
    assert line.count("\n") == 1


def test_the_document_of_a_refusal(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no_structures(study)
    (tmp_path / "t.yaml").write_text(TEMPLATE)
    arguments = ["plan", str(study), "--template", str(tmp_path / "t.yaml"), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--quiet", "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == 3
    assert "RTSTRUCT" in error["message"]
    assert not (tmp_path / "out").exists()

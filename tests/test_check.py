"""``check``: what dicomplan writes is sound; each fault is found where it was made; limits are those of one module."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from dicom_helpers import edit, shared_case, tiny_machine, write_all, write_tiny_study
from pydicom.dataset import Dataset

from dicomplan.cli.main import main
from dicomplan.dicom.deliverability import deliverability_findings
from dicomplan.dicom.files import read_object
from dicomplan.dicom.plan_record import plan_record
from dicomplan.dicom.read import read_study

Change = Callable[[Dataset], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study with structure sets, a plan and two doses."""
    study = write_tiny_study(tmp_path / "study")
    write_all(study, read_study([study]))
    return study


def checked(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[dict[str, str]]]:
    code = main(["check", *(str(one) for one in arguments), "--json", "--quiet"])
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    return code, document["findings"]


def errors(findings: list[dict[str, str]]) -> list[dict[str, str]]:
    return [one for one in findings if one["severity"] == "error"]


def test_what_dicomplan_writes_has_no_faults(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = checked(capsys, folder)
    assert [one for one in findings if one["severity"] != "info"] == []
    assert code == 0
    # the plan's machine is not a shipped one
    assert any("deliverability is not looked at" in one["message"] for one in findings)


def _first_beam(keyword: str, value: object) -> Change:
    return lambda dataset: setattr(dataset.BeamSequence[0], keyword, value)


def _without(keyword: str) -> Change:
    return lambda dataset: dataset.__delattr__(keyword)


def _roi(dataset: Dataset) -> None:
    dataset.ROIContourSequence[0].ReferencedROINumber = "77"


def _fall(dataset: Dataset) -> None:
    dataset.BeamSequence[0].ControlPointSequence[2].CumulativeMetersetWeight = "0"


def _no_contour_type(dataset: Dataset) -> None:
    for item in dataset.ROIContourSequence[0].ContourSequence:
        item.ContourGeometricType = ""


@pytest.mark.parametrize(
    ("name", "change", "words", "tag"),
    [
        ("RP.dcm", _without("RTPlanLabel"), "RTPlanLabel (type 1) is missing", "RTPlanLabel"),
        ("RP.dcm", _first_beam("NumberOfControlPoints", "9"), "NumberOfControlPoints is 9", "NumberOfControlPoints"),
        ("RP.dcm", _first_beam("BeamNumber", "2"), "BeamNumber 2 occurs 2 times", "BeamNumber"),
        ("RP.dcm", _first_beam("BeamNumber", "5"), "refers to beam 1, which is not in the plan", "ReferencedBeamNumber"),
        ("RP.dcm", _fall, "beam 1: the cumulative meterset weight falls", "CumulativeMetersetWeight"),
        ("RP.dcm", _first_beam("NumberOfBlocks", None), "NumberOfBlocks (type 1)", "NumberOfBlocks"),
        ("RP.dcm", _first_beam("FinalCumulativeMetersetWeight", "2"), "has weight 1", "FinalCumulativeMetersetWeight"),
        ("RS.dcm", _roi, "refers to ROI 77", "ReferencedROINumber"),
        ("RS.dcm", _no_contour_type, "ContourGeometricType (type 1) is missing or empty in", "ContourGeometricType"),
        ("RD.dcm", _without("DoseSummationType"), "DoseSummationType (type 1)", "DoseSummationType"),
        ("RD.dcm", _without("ReferencedRTPlanSequence"), "names no plan", "ReferencedRTPlanSequence"),
        ("RD.dcm", lambda d: setattr(d, "DoseUnits", "CGY"), "DoseUnits is CGY", "DoseUnits"),
        ("RD.dcm", lambda d: setattr(d, "GridFrameOffsetVector", [0, 1]), "2 values for", "GridFrameOffsetVector"),
    ],
)  # fmt: skip
def test_each_fault_is_an_error_with_file_and_tag(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, change: Change, words: str, tag: str
) -> None:
    edit(folder / name, change)
    code, findings = checked(capsys, folder)
    assert code == 7
    hit = [one for one in errors(findings) if words in one["message"]]
    assert hit, findings
    assert Path(hit[0]["file"]).name == name
    assert hit[0]["tag"].startswith(tag)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("RP.dcm", lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"), "the plan is in another frame of reference"),
        ("RD.dcm", lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"), "the dose is in another frame of reference"),
        (
            "RP.dcm",
            lambda d: setattr(d.ReferencedStructureSetSequence[0], "ReferencedSOPInstanceUID", "1.2.3"),
            "the plan refers to 1 structure sets, 1 of them are not here",
        ),
        ("RP.dcm", _without("PatientBirthDate"), "PatientBirthDate (type 2) is missing"),
    ],
)
def test_what_leads_nowhere_is_a_warning_and_strict_counts_it(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, change: Change, words: str
) -> None:
    edit(folder / name, change)
    code, findings = checked(capsys, folder)
    assert code == 0
    assert any(words in one["message"] and one["severity"] == "warning" for one in findings), findings
    assert checked(capsys, folder, "--strict")[0] == 7


def test_a_part_of_a_study_refers_to_what_was_not_given(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, findings = checked(capsys, folder / "RD.dcm", folder / "RP.dcm", "--strict")
    assert (code, [one for one in findings if one["severity"] != "info"]) == (0, [])


def test_a_plan_is_held_against_the_machine_that_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def narrow(dataset: Dataset) -> None:
        device = dataset.BeamSequence[0].ControlPointSequence[0].BeamLimitingDevicePositionSequence[-1]
        positions = [float(value) for value in device.LeafJawPositions]
        positions[12] = positions[0] + 0.2  # pair 1, closed to 0.2 mm; the machine asks for 0.5 mm
        device.LeafJawPositions = [f"{value:.2f}" for value in positions]

    def judged() -> set[str]:
        item, _ = read_object(folder / "RP.dcm")
        return {one.message for one in deliverability_findings(item, plan_record(item), tiny_machine())}

    before = judged()
    edit(folder / "RP.dcm", narrow)
    assert any("leaf pair 1: gap of 0.20 mm, allowed from 0.5 mm" in message for message in judged() - before)
    code, findings = checked(capsys, folder / "RP.dcm", "--machine", "generic_6mv")
    assert code == 7
    assert any("12 leaf pairs, machine 'generic_6mv' 60" in one["message"] for one in errors(findings))


def test_exit_codes_of_what_cannot_be_checked(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("no DICOM", encoding="utf-8")
    assert main(["check", str(tmp_path / "text.txt"), "--quiet"]) == 3
    assert main(["check", str(tmp_path / "nothing"), "--quiet"]) == 2
    assert main(["check", str(folder), "--machine", "no_such_machine", "--quiet"]) in (2, 4)
    capsys.readouterr()


def test_every_control_point_of_an_arc_is_looked_at() -> None:
    """The Agility plan of the phantom stands within the limits of the same kind of machine but for its least gap."""
    from dicomplan.machine.library import load_machine

    path = shared_case("pymedphys_tinyvmat_monaco") / "TinyFS_TinyVMAT.dcm"
    item, _ = read_object(path)
    found = deliverability_findings(item, plan_record(item), load_machine("agility_6mv"))
    assert len(found) > 50
    assert all("gap of" in one.message and "allowed from 5 mm" in one.message for one in found)

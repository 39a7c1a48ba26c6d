"""Numbers as text, identifiers, and patient and study attributes copied byte for byte."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pydicom
import pytest
from dicom_helpers import (
    CREATED,
    IDENTITY_OF_TESTS,
    edit,
    write_all,
    write_tiny_study,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomplan.dicom.decimals import decimal_text, decimal_text_rounded_up
from dicomplan.dicom.identity import identity_of
from dicomplan.dicom.objects import can_encode
from dicomplan.dicom.read import read_study
from dicomplan.dicom.source import Study
from dicomplan.dicom.write_structures import write_structure_set


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    return write_tiny_study(tmp_path / "study")


@pytest.fixture
def study(study_folder: Path) -> Study:
    return read_study([study_folder])


@settings(deadline=None, max_examples=80)
@given(st.floats(-1e9, 1e9), st.integers(0, 9))
def test_decimal_text_is_short_and_near(value: float, decimals: int) -> None:
    text = decimal_text(value, decimals)
    assert len(text) <= 16
    assert abs(float(text) - value) <= 0.5001 * 10 ** -min(decimals, 4) + 1e-6
    assert text != "-0"


@settings(deadline=None, max_examples=80)
@given(st.floats(1e-12, 1e6))
def test_rounded_up_text_is_never_below(value: float) -> None:
    text = decimal_text_rounded_up(value)
    assert len(text) <= 16
    assert value <= float(text) <= value * (1 + 2e-9)


def test_decimal_text_refuses_what_is_no_number() -> None:
    for value in (float("nan"), float("inf"), 1e17):
        with pytest.raises(ValueError, match=r"finite|fit"):
            decimal_text(value)


def test_identity_depends_on_every_part_and_not_on_input_order() -> None:
    base = identity_of(["a", "b"], "template", "machine", CREATED)
    assert base.uid("RTPLAN") == identity_of(["b", "a"], "template", "machine", CREATED).uid("RTPLAN")
    others = [
        identity_of(["a"], "template", "machine", CREATED),
        identity_of(["a", "b"], "template2", "machine", CREATED),
        identity_of(["a", "b"], "template", "machine2", CREATED),
        identity_of(["a", "b"], "template", "machine", datetime(2026, 1, 2, 3, 4, 6)),
        identity_of(["a", "b"], "template", "machine", CREATED, "9"),
    ]
    uids = {item.uid("RTPLAN") for item in [base, *others]} | {base.uid("RTDOSE")}
    assert len(uids) == 7
    assert all(re.fullmatch(r"2\.25\.[1-9]\d{0,38}", uid) for uid in uids)


def test_same_identity_same_bytes(study: Study, tmp_path: Path) -> None:
    write_all(tmp_path / "a", study)
    write_all(tmp_path / "b", study)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def _bytes_of(path: Path, keyword: str) -> bytes | None:
    dataset = pydicom.dcmread(path)
    return dataset.get_item(keyword).value or b"" if keyword in dataset else None


def test_patient_and_study_are_copied_byte_for_byte(study_folder: Path, tmp_path: Path) -> None:
    def odd(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = "ISO_IR 100"
        dataset.PatientName = "Müller^Zoë "
        dataset.PatientID = "DICOMPLAN-TINY"
        dataset.PatientBirthDate = "19500101"
        dataset.StudyDescription = "Hals und Mund"
        dataset.PatientWeight = "71.50"

    for path in study_folder.glob("*.dcm"):
        edit(path, odd)
    write_all(tmp_path / "out", read_study([study_folder]))
    keywords = ("SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientWeight")
    keywords += ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber")
    for path in (tmp_path / "out").iterdir():
        for keyword in keywords:
            assert _bytes_of(path, keyword) == _bytes_of(study_folder / "CT_001.dcm", keyword), (path.name, keyword)
        assert pydicom.dcmread(path).PatientName == "Müller^Zoë"


def test_names_beyond_the_character_set_turn_the_object_to_unicode(study_folder: Path, tmp_path: Path) -> None:
    for path in study_folder.glob("CT_*"):
        edit(path, lambda dataset: setattr(dataset, "PatientName", "Müller^Zoë"))
    edit(study_folder / "RS.dcm", lambda dataset: setattr(dataset, "SpecificCharacterSet", "ISO_IR 192"))
    edit(study_folder / "RS.dcm", lambda dataset: setattr(dataset.StructureSetROISequence[1], "ROIName", "Łuk_脳"))
    study = read_study([study_folder])
    assert study.case.structures[1].name == "Łuk_脳"
    write_structure_set(tmp_path / "RS.dcm", study.source, [], IDENTITY_OF_TESTS)
    written = pydicom.dcmread(tmp_path / "RS.dcm")
    assert written.SpecificCharacterSet == "ISO_IR 192"
    assert written.PatientName == "Müller^Zoë"
    assert written.StructureSetROISequence[1].ROIName == "Łuk_脳"
    # A plan has no such name and keeps the CT's character set, and its bytes.
    write_all(tmp_path / "out", study)
    assert pydicom.dcmread(tmp_path / "out" / "RP.dcm").SpecificCharacterSet == "ISO_IR 100"


@pytest.mark.parametrize(
    ("text", "charset", "fits"),
    [
        ("abc", (), True),
        ("é", (), False),
        ("é", ("ISO_IR 100",), True),
        ("脳", ("ISO_IR 100",), False),
        ("脳", ("ISO_IR 192",), True),
        ("脳", ("", "ISO 2022 IR 87"), True),
    ],
)
def test_can_encode(text: str, charset: tuple[str, ...], fits: bool) -> None:
    assert can_encode([text], charset) is fits


def test_references_are_closed(study: Study, study_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_all(out, study)
    structures, plan, dose = (pydicom.dcmread(out / name) for name in ("RS.dcm", "RP.dcm", "RD.dcm"))
    assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID
    assert plan.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID == structures.SOPInstanceUID
    slices = {pydicom.dcmread(path).SOPInstanceUID for path in study_folder.glob("CT_*")}
    frame = structures.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert {image.ReferencedSOPInstanceUID for image in series.ContourImageSequence} == slices
    assert plan.DoseReferenceSequence[0].ReferencedROINumber == 2
    ct = pydicom.dcmread(study_folder / "CT_001.dcm")
    assert {item.FrameOfReferenceUID for item in (structures, plan, dose, frame)} == {ct.FrameOfReferenceUID}
    assert {item.StudyInstanceUID for item in (structures, plan, dose)} == {ct.StudyInstanceUID}
    assert len({item.SeriesInstanceUID for item in (structures, plan, dose, ct)}) == 4


def test_labels_of_safety(study: Study, tmp_path: Path) -> None:
    write_all(tmp_path / "good", study)
    write_all(tmp_path / "bad", study, failed=True)
    for folder, begins in (("good", False), ("bad", True)):
        plan = pydicom.dcmread(tmp_path / folder / "RP.dcm")
        assert plan.ApprovalStatus == "UNAPPROVED"
        assert "not for clinical use" in plan.RTPlanDescription
        assert len(plan.RTPlanLabel) <= 16
        dose = pydicom.dcmread(tmp_path / folder / "RD.dcm")
        assert "not for clinical use" in dose.DoseComment
        texts = (plan.RTPlanLabel, plan.SeriesDescription, dose.SeriesDescription, dose.DoseComment)
        assert all(text.startswith("FAILED") is begins for text in texts)
        meta = plan.file_meta
        assert meta.ImplementationClassUID.startswith("2.25.")
        assert plan.Manufacturer == "dicomplan"

"""Writing RTSTRUCT, RTPLAN and RTDOSE: round trips, copied attributes, conformance, foreign readers."""

from __future__ import annotations

import re
import shutil
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_helpers import (
    CREATED,
    PATIENT,
    PRESCRIPTION,
    as_big_endian,
    box,
    edit,
    program,
    run,
    shared_case,
    tiny_ct,
    tiny_deliveries,
    tiny_machine,
    tiny_structures,
    write_tiny_study,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomplan.beams.delivery import Beam, BeamDelivery, Segment
from dicomplan.dicom import roi_items
from dicomplan.dicom.decimals import decimal_text, decimal_text_rounded_up
from dicomplan.dicom.identity import Identity, identity_of
from dicomplan.dicom.objects import can_encode
from dicomplan.dicom.read import read_dose, read_plan, read_study
from dicomplan.dicom.source import Study
from dicomplan.dicom.write_dose import write_dose
from dicomplan.dicom.write_plan import write_plan
from dicomplan.dicom.write_structures import WrittenStructures, write_structure_set
from dicomplan.dose.volume import DoseVolume
from dicomplan.errors import InputError
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.case import Structure

IDENTITY_OF_TESTS = Identity("tests", CREATED)


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    return write_tiny_study(tmp_path / "study")


@pytest.fixture
def study(study_folder: Path) -> Study:
    return read_study([study_folder])


def ring(study: Study) -> Structure:
    points = box(study.case.ct.grid, range(2, 8), (5.12345, 10.1), (16.98765, 27.3333))
    return Structure("Ring", 0, "AVOIDANCE", points, (9, 8, 7))


def tiny_dose(grid: VoxelGrid, top_gy: float = 75.0) -> DoseVolume:
    return DoseVolume(grid, np.random.default_rng(3).uniform(0, top_gy, grid.shape).astype(np.float32))


def write_all(folder: Path, study: Study, *, bits: int = 32, failed: bool = False) -> WrittenStructures:
    """RS, RP and two RD of a study in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    source, identity = study.source, IDENTITY_OF_TESTS
    written = write_structure_set(folder / "RS.dcm", source, [ring(study)], identity)
    plan_uid = write_plan(
        folder / "RP.dcm",
        source,
        tiny_deliveries(1),
        tiny_machine(),
        PRESCRIPTION,
        identity=identity,
        structure_set_uid=written.sop_instance_uid,
        patient_position=study.case.patient_position,
        beam_doses_gy=[1.25, 0.75],
        ssd_mm=[913.2, None],
        target_roi_numbers={"PTV_7000": 2},
        description="tiny phantom",
        failed=failed,
    )
    dose = tiny_dose(study.case.ct.grid)
    options = {"identity": identity, "plan_uid": plan_uid, "failed": failed, "bits": bits}
    write_dose(folder / "RD.dcm", source, dose, **options)
    write_dose(folder / "RD_1.dcm", source, dose, summation="BEAM", beam_number=1, **options)
    return written


# --- numbers as text --------------------------------------------------------------------------------------------------


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


# --- identity ---------------------------------------------------------------------------------------------------------


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


# --- patient, study and references ------------------------------------------------------------------------------------


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


# --- structure sets ---------------------------------------------------------------------------------------------------


def test_derived_structures_read_back(study: Study, study_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(study_folder, tmp_path / "again")
    written = write_structure_set(tmp_path / "again" / "RS.dcm", study.source, [ring(study)], IDENTITY_OF_TESTS)
    again = read_study([tmp_path / "again"]).case
    assert written.roi_numbers == {"Ring": 6}
    assert [item.name for item in again.structures] == ["BODY", "PTV_7000", "SpinalCord", "Ring"]
    assert again.structure("Ring").roi_type == "AVOIDANCE"
    assert again.structure("Ring").color_rgb == (9, 8, 7)
    for read, original in zip(again.structure("Ring").contours, ring(study).contours, strict=True):
        np.testing.assert_allclose(read, original, atol=0.00051)
    for read, original in zip(again.structures[:3], study.case.structures, strict=True):
        for ours, theirs in zip(read.contours, original.contours, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_input_items_are_copied_unchanged(study_folder: Path, tmp_path: Path) -> None:
    def odd(dataset: Dataset) -> None:
        contour = dataset.ROIContourSequence[0].ContourSequence[0]
        contour.ContourData = ["-24.0000", "-24.00", "-16.5", "+24", "-24.0", "-16.5", "2.4e1", "24", "-16.50"]
        contour.NumberOfContourPoints = "3"
        dataset.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "POINT"
        dataset.StructureSetROISequence[1].ROIDescription = "drawn by hand "
        observation = dataset.RTROIObservationsSequence[1]
        observation.ROIObservationLabel = "label"
        block = observation.private_block(0x3287, "Somebody", create=True)
        block.add_new(1, "LO", "private")
        del dataset.RTROIObservationsSequence[2].ROIInterpreter

    edit(study_folder / "RS.dcm", odd)
    study = read_study([study_folder])
    write_structure_set(tmp_path / "RS.dcm", study.source, [ring(study)], IDENTITY_OF_TESTS)
    old, new = pydicom.dcmread(study_folder / "RS.dcm"), pydicom.dcmread(tmp_path / "RS.dcm")
    for sequence in ("StructureSetROISequence", "RTROIObservationsSequence"):
        for before, after in zip(old[sequence].value, new[sequence].value, strict=False):
            for element in before:
                assert after[element.tag].value == element.value
    for before, after in zip(old.ROIContourSequence, new.ROIContourSequence, strict=False):
        for one, two in zip(before.ContourSequence, after.ContourSequence, strict=True):
            assert one.ContourGeometricType == two.ContourGeometricType
            assert [str(value) for value in one.ContourData] == [str(value) for value in two.ContourData]
    raw = pydicom.dcmread(tmp_path / "RS.dcm").ROIContourSequence[0].ContourSequence[0].get_item("ContourData").value
    assert raw.startswith(b"-24.0000\\-24.00\\-16.5\\+24\\-24.0\\-16.5\\2.4e1\\24\\-16.50")
    assert new.RTROIObservationsSequence[2].ROIInterpreter == ""


def test_image_references_are_rebuilt_from_geometry(study_folder: Path, tmp_path: Path) -> None:
    def dangle(dataset: Dataset) -> None:
        for roi in dataset.ROIContourSequence:
            for index, contour in enumerate(roi.ContourSequence):
                if index % 2:
                    del contour.ContourImageSequence
                else:
                    contour.ContourImageSequence[0].ReferencedSOPInstanceUID = "1.2.3"

    edit(study_folder / "RS.dcm", dangle)
    study = read_study([study_folder])
    write_structure_set(tmp_path / "RS.dcm", study.source, [ring(study)], IDENTITY_OF_TESTS)
    z_of = {}
    for path in study_folder.glob("CT_*"):
        ct = pydicom.dcmread(path)
        z_of[ct.SOPInstanceUID] = ct.ImagePositionPatient[2].original_string
    for roi in pydicom.dcmread(tmp_path / "RS.dcm").ROIContourSequence:
        for contour in roi.ContourSequence:
            printed = {value.original_string for value in contour.ContourData[2::3]}
            assert printed == {z_of[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]}


def test_one_external(study_folder: Path, tmp_path: Path) -> None:
    def types(path: Path) -> list[str]:
        return [item.RTROIInterpretedType for item in pydicom.dcmread(path).RTROIObservationsSequence]

    study = read_study([study_folder])
    body = replace(ring(study), name="BODY", roi_type="EXTERNAL")
    written = write_structure_set(tmp_path / "a.dcm", study.source, [body], IDENTITY_OF_TESTS)
    assert types(tmp_path / "a.dcm") == ["EXTERNAL", "PTV", "ORGAN", ""]
    assert written.roi_numbers == {"BODY": 6}
    assert pydicom.dcmread(tmp_path / "a.dcm").StructureSetROISequence[3].ROIName == "BODY 2"
    edit(study_folder / "RS.dcm", lambda dataset: delattr(dataset.ROIContourSequence[0], "ContourSequence"))
    study = read_study([study_folder])
    write_structure_set(tmp_path / "b.dcm", study.source, [body], IDENTITY_OF_TESTS)
    assert types(tmp_path / "b.dcm") == ["", "PTV", "ORGAN", "EXTERNAL"]
    write_structure_set(tmp_path / "c.dcm", study.source, [], IDENTITY_OF_TESTS, external_number=5)
    assert types(tmp_path / "c.dcm") == ["", "PTV", "EXTERNAL"]


def test_rt_utils_and_our_own_writer_give_the_same_bytes(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rt_utils", exc_type=ImportError)
    used = []
    original = roi_items._items_by_rt_utils
    monkeypatch.setattr(roi_items, "_items_by_rt_utils", lambda *args: used.append(1) or original(*args))
    with_it = write_structure_set(tmp_path / "a.dcm", study.source, [ring(study)], IDENTITY_OF_TESTS)
    assert used
    assert with_it.findings == ()
    assert capsys.readouterr().out == ""
    monkeypatch.setitem(sys.modules, "rt_utils.rtstruct", None)
    without = write_structure_set(tmp_path / "b.dcm", study.source, [ring(study)], IDENTITY_OF_TESTS)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
    assert len(without.findings) == 1
    assert "libgl1 libglib2.0-0" in without.findings[0].message


def test_structure_set_from_a_big_endian_input(study_folder: Path, tmp_path: Path) -> None:
    little = read_study([study_folder])
    as_big_endian(pydicom.dcmread(study_folder / "RS.dcm"), study_folder / "RS.dcm")
    big = read_study([study_folder])
    for name, study in (("little", little), ("big", big)):
        write_structure_set(tmp_path / f"{name}.dcm", study.source, [ring(study)], IDENTITY_OF_TESTS)
    assert pydicom.dcmread(tmp_path / "little.dcm") == pydicom.dcmread(tmp_path / "big.dcm")


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jaw_x", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_plan_reads_back_as_printed(study: Study, tmp_path: Path, seed: int, jaw_x: bool) -> None:
    deliveries = tiny_deliveries(seed, jaw_x=jaw_x, beams=3, segments=4)
    machine = tiny_machine(jaw_x=jaw_x)
    path = tmp_path / "RP.dcm"
    write_plan(
        path,
        study.source,
        deliveries,
        machine,
        PRESCRIPTION,
        identity=IDENTITY_OF_TESTS,
        structure_set_uid="1.2.3",
        patient_position="HFS",
        beam_doses_gy=[0.5, None, 0.25],
    )
    plan = read_plan(path)
    assert (plan.fractions, plan.patient_position, plan.structure_set_uid) == (35, "HFS", "1.2.3")
    assert plan.beam_doses_gy == (0.5, None, 0.25)
    assert plan.target_doses_gy == {"PTV_7000": 70.0, "PTV_5600": 56.0}
    assert plan.energies_mv == (6.0, 6.0, 6.0)
    for boundaries in plan.leaf_boundaries_mm:
        np.testing.assert_array_equal(boundaries, machine.mlc.leaf_boundaries_mm)
    for read, written in zip(plan.deliveries, deliveries, strict=True):
        assert read.beam == written.beam
        for ours, theirs in zip(read.segments, written.segments, strict=True):
            np.testing.assert_array_equal(
                ours.aperture.leaf_positions_mm, np.round(theirs.aperture.leaf_positions_mm, 2)
            )
            assert ours.aperture.jaw_x_mm == theirs.aperture.jaw_x_mm
            assert ours.aperture.jaw_y_mm == theirs.aperture.jaw_y_mm
            assert ours.meterset_mu == pytest.approx(round(theirs.meterset_mu, 4), abs=1e-10)
    # Writing what was read changes nothing.
    write_plan(
        tmp_path / "again.dcm",
        study.source,
        plan.deliveries,
        machine,
        PRESCRIPTION,
        identity=IDENTITY_OF_TESTS,
        structure_set_uid="1.2.3",
        patient_position="HFS",
        beam_doses_gy=[0.5, None, 0.25],
    )
    assert (tmp_path / "again.dcm").read_bytes() == path.read_bytes()


def test_layout_of_the_plan(study: Study, tmp_path: Path) -> None:
    write_all(tmp_path, study)
    plan = pydicom.dcmread(tmp_path / "RP.dcm")
    beam = plan.BeamSequence[0]
    assert beam.BeamType == "STATIC"
    assert [item.RTBeamLimitingDeviceType for item in beam.BeamLimitingDeviceSequence] == ["ASYMX", "ASYMY", "MLCX"]
    points = beam.ControlPointSequence
    assert len(points) == beam.NumberOfControlPoints == 6
    weights = [float(point.CumulativeMetersetWeight) for point in points]
    assert weights[0] == 0
    assert weights[-1] == beam.FinalCumulativeMetersetWeight == 1
    assert weights[1] == weights[2]
    assert weights[3] == weights[4]
    assert [len(point.BeamLimitingDevicePositionSequence) for point in points] == [3, 1, 1, 1, 1, 1]
    shapes = [list(point.BeamLimitingDevicePositionSequence[-1].LeafJawPositions) for point in points]
    assert shapes[0] == shapes[1] != shapes[2] == shapes[3]
    group = plan.FractionGroupSequence[0]
    assert group.NumberOfBeams == len(plan.BeamSequence) == 2
    first = group.ReferencedBeamSequence[0]
    assert float(first.BeamMeterset) == pytest.approx(tiny_deliveries(1)[0].meterset_mu, abs=2e-4)
    assert float(first.BeamDose) == 1.25
    assert points[0].SourceToSurfaceDistance == 913.2
    assert "SourceToSurfaceDistance" not in plan.BeamSequence[1].ControlPointSequence[0]
    for element in plan.iterall():
        if element.VR == "DS" and not element.is_empty:
            values = [element.value] if element.VM == 1 else element.value
            assert all(len(str(value.original_string)) <= 16 for value in values)


def test_leaf_bank_order(study: Study, tmp_path: Path) -> None:
    write_all(tmp_path, study)
    leaves = pydicom.dcmread(tmp_path / "RP.dcm").BeamSequence[0].ControlPointSequence[0]
    positions = leaves.BeamLimitingDevicePositionSequence[-1].LeafJawPositions
    expected = tiny_deliveries(1)[0].segments[0].aperture.leaf_positions_mm
    assert [float(value) for value in positions[:12]] == pytest.approx(expected[0], abs=0.0051)
    assert [float(value) for value in positions[12:]] == pytest.approx(expected[1], abs=0.0051)


def _beam_change(keyword: str, value: object) -> object:
    return lambda dataset: setattr(dataset.BeamSequence[0], keyword, value)


def _move_leaf(dataset: Dataset) -> None:
    device = dataset.BeamSequence[0].ControlPointSequence[1].BeamLimitingDevicePositionSequence[-1]
    device.LeafJawPositions[0] = "-63"


def _arc(dataset: Dataset) -> None:
    dataset.BeamSequence[0].ControlPointSequence[1].GantryAngle = "10"


def _fall(dataset: Dataset) -> None:
    dataset.BeamSequence[0].ControlPointSequence[2].CumulativeMetersetWeight = "0"


def _no_meterset(dataset: Dataset) -> None:
    del dataset.FractionGroupSequence[0].ReferencedBeamSequence[0].BeamMeterset


def _one_point(dataset: Dataset) -> None:
    del dataset.BeamSequence[0].ControlPointSequence[1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_move_leaf, "moving leaves not supported"),
        (_arc, "positions change|moves"),
        (_fall, "falls at control point 2"),
        (_no_meterset, "is missing"),
        (_one_point, "found 1 control points"),
        (_beam_change("RadiationType", "ELECTRON"), "expected PHOTON"),
        (_beam_change("NumberOfWedges", "1"), "found 1, expected 0"),
        (lambda dataset: setattr(dataset, "Modality", "RTDOSE"), "expected RTPLAN"),
        (lambda dataset: dataset.FractionGroupSequence.append(Dataset()), "found 2 fraction groups"),
    ],
)
def test_plans_that_cannot_be_read(study: Study, tmp_path: Path, change: object, message: str) -> None:
    write_all(tmp_path, study)
    edit(tmp_path / "RP.dcm", change)
    with pytest.raises(InputError, match=message) as caught:
        read_plan(tmp_path / "RP.dcm")
    assert caught.value.tag


def test_tolerated_habits_of_other_systems(study: Study, tmp_path: Path) -> None:
    write_all(tmp_path, study)
    original = read_plan(tmp_path / "RP.dcm")

    def habits(dataset: Dataset) -> None:
        points = dataset.BeamSequence[0].ControlPointSequence
        points[-1].CumulativeMetersetWeight = None  # XiO
        for point in (points[1], points[3]):
            del point.BeamLimitingDevicePositionSequence  # RayStation
        setup = Dataset()
        setup.update(dataset.BeamSequence[1])
        setup.BeamNumber, setup.TreatmentDeliveryType = "9", "SETUP"
        dataset.BeamSequence.append(setup)
        reference = Dataset()
        reference.ReferencedBeamNumber = "9"
        dataset.FractionGroupSequence[0].ReferencedBeamSequence.append(reference)

    edit(tmp_path / "RP.dcm", habits)
    read = read_plan(tmp_path / "RP.dcm")
    assert len(read.deliveries) == 2
    for ours, theirs in zip(read.deliveries[0].segments, original.deliveries[0].segments, strict=True):
        np.testing.assert_array_equal(ours.aperture.leaf_positions_mm, theirs.aperture.leaf_positions_mm)
        assert ours.meterset_mu == pytest.approx(theirs.meterset_mu, abs=1e-10)


def test_plans_that_dicom_cannot_hold(study: Study, tmp_path: Path) -> None:
    def attempt(deliveries: list[BeamDelivery], message: str, position: str = "HFS", jaw_x: bool = True) -> None:
        with pytest.raises(ValueError, match=message):
            write_plan(
                tmp_path / "RP.dcm",
                study.source,
                deliveries,
                tiny_machine(jaw_x=jaw_x),
                PRESCRIPTION,
                identity=IDENTITY_OF_TESTS,
                structure_set_uid="1.2.3",
                patient_position=position,
            )
        assert not (tmp_path / "RP.dcm").exists()

    first, second = tiny_deliveries(0)
    attempt([], "at least one beam")
    attempt([first, first], "unique")
    attempt([replace(first, segments=())], "no segments")
    attempt([replace(first, segments=(Segment(first.segments[0].aperture, 1e-5),))], "rounds to")
    attempt([replace(first, beam=Beam(1, "a name too long for it", 0, 0, 0, (0, 0, 0)))], "1 to 16")
    attempt([first, second], "patient position", position="SIDEWAYS")
    attempt(tiny_deliveries(0, jaw_x=False), "ASYMX")


def test_shared_step_and_shoot_plan_reads() -> None:
    plan = read_plan(shared_case("pymedphys_monaco_plans_a") / "24mm_x_20mm_rectangle.dcm")
    (delivery,) = plan.deliveries
    assert delivery.meterset_mu == pytest.approx(301.94, abs=0.01)
    assert delivery.segments[0].aperture.jaw_x_mm is None  # Agility has no X jaw
    assert delivery.segments[0].aperture.leaf_positions_mm.shape == (2, 80)


# --- doses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("top_gy", [0.0, 1e-3, 75.0, 150.0])
def test_dose_reads_back(study: Study, tmp_path: Path, top_gy: float) -> None:
    dose = tiny_dose(study.case.ct.grid, top_gy)
    write_dose(tmp_path / "RD.dcm", study.source, dose, identity=IDENTITY_OF_TESTS, plan_uid="1.2.3")
    read = read_dose(tmp_path / "RD.dcm")
    np.testing.assert_allclose(read.dose_gy, dose.dose_gy, atol=top_gy * 1e-7)
    assert read.grid == dose.grid
    assert (read.plan_uid, read.summation_type, read.dose_type) == ("1.2.3", "PLAN", "PHYSICAL")
    scaling = pydicom.dcmread(tmp_path / "RD.dcm").DoseGridScaling
    assert len(scaling.original_string) <= 16
    assert float(scaling) * (2**32 - 1) >= dose.dose_gy.max()


def test_dose_of_a_beam_and_of_16_bits(study: Study, tmp_path: Path) -> None:
    write_all(tmp_path, study, bits=16)
    read = read_dose(tmp_path / "RD_1.dcm")
    assert (read.summation_type, read.beam_numbers) == ("BEAM", (1,))
    assert pydicom.dcmread(tmp_path / "RD_1.dcm").BitsAllocated == 16
    np.testing.assert_allclose(read.dose_gy, tiny_dose(study.case.ct.grid).dose_gy, atol=0.51 * 75 / 65535)


def test_dose_planes_lie_on_ct_planes(study: Study, tmp_path: Path) -> None:
    ct = study.case.ct.grid
    grid = VoxelGrid(
        (4, 5, 6), (6.0, 4.0, 4.0), (-19.0, -23.0, -13.5), frame_of_reference_uid=ct.frame_of_reference_uid
    )
    write_dose(tmp_path / "RD.dcm", study.source, tiny_dose(grid), identity=IDENTITY_OF_TESTS, plan_uid="1.2.3")
    stored = pydicom.dcmread(tmp_path / "RD.dcm")
    assert [float(value) for value in stored.GridFrameOffsetVector] == [0, 6, 12, 18]
    assert stored.SliceThickness == 6
    assert [float(value) for value in stored.ImagePositionPatient] == [-19, -23, -13.5]
    assert read_dose(tmp_path / "RD.dcm").grid == grid


@pytest.mark.parametrize("style", ["absolute", "falling", "absolute falling"])
def test_offset_vectors_of_other_systems(study: Study, tmp_path: Path, style: str) -> None:
    dose = tiny_dose(study.case.ct.grid)
    path = tmp_path / "RD.dcm"
    write_dose(path, study.source, dose, identity=IDENTITY_OF_TESTS, plan_uid="1.2.3")

    def change(dataset: Dataset) -> None:
        offsets = 3.0 * np.arange(12)
        if "falling" in style:
            planes = np.frombuffer(dataset.PixelData, "<u4").reshape(12, 32, 32)
            dataset.PixelData = planes[::-1].tobytes()
            dataset.ImagePositionPatient[2] = "16.5"
            offsets = -offsets
        if "absolute" in style:
            offsets = offsets + float(dataset.ImagePositionPatient[2])
        dataset.GridFrameOffsetVector = [f"{value:g}" for value in offsets]

    edit(path, change)
    read = read_dose(path)
    assert read.grid == dose.grid
    np.testing.assert_allclose(read.dose_gy, dose.dose_gy, atol=1e-5)


def test_feet_first_dose_keeps_its_orientation(tmp_path: Path) -> None:
    direction = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    study = read_study([write_tiny_study(tmp_path / "study", tiny_ct(direction), "FFS")])
    dose = tiny_dose(study.case.ct.grid)
    write_dose(tmp_path / "RD.dcm", study.source, dose, identity=IDENTITY_OF_TESTS, plan_uid="1.2.3")
    read = read_dose(tmp_path / "RD.dcm")
    assert read.grid == study.case.ct.grid
    np.testing.assert_allclose(read.dose_gy, dose.dose_gy, atol=1e-5)
    shared = read_dose(shared_case("pymedphys_data_ffs_dose") / "RD.TBB_feet_in_supine.dcm")
    assert shared.grid.direction == direction


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("DoseUnits", "RELATIVE", "expected GY"),
        ("DoseType", "ERROR", "found ERROR"),
        ("DoseGridScaling", None, "is missing"),
        ("GridFrameOffsetVector", ["0", "3"], "found 2 values"),
        ("GridFrameOffsetVector", [str(k * k) for k in range(12)], "not equally spaced"),
        ("GridFrameOffsetVector", [str(k * 3 + 5) for k in range(12)], "first offset is 5"),
        ("NumberOfFrames", "1", "one plane"),
        ("Modality", "RTPLAN", "expected RTDOSE"),
        ("PixelData", b"\0\0", "cut short"),
    ],
)
def test_doses_that_cannot_be_read(study: Study, tmp_path: Path, keyword: str, value: object, message: str) -> None:
    write_all(tmp_path, study)
    edit(tmp_path / "RD.dcm", lambda dataset: setattr(dataset, keyword, value))
    with pytest.raises(InputError, match=message) as caught:
        read_dose(tmp_path / "RD.dcm")
    assert keyword in (caught.value.tag or "")


def test_doses_that_cannot_be_written(study: Study, tmp_path: Path) -> None:
    grid = study.case.ct.grid
    bad = DoseVolume(grid, np.full(grid.shape, np.nan, dtype=np.float32))
    options = {"identity": IDENTITY_OF_TESTS, "plan_uid": "1.2.3"}
    with pytest.raises(ValueError, match="finite"):
        write_dose(tmp_path / "RD.dcm", study.source, bad, **options)
    with pytest.raises(ValueError, match="beam number"):
        write_dose(tmp_path / "RD.dcm", study.source, tiny_dose(grid), summation="BEAM", **options)


# --- conformance and foreign readers ----------------------------------------------------------------------------------


def _errors(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("Error") or "Error -" in line]


@pytest.mark.parametrize("position", ["HFS", "FFP"])
def test_dciodvfy_finds_no_error(tmp_path: Path, position: str) -> None:
    # Debian's dciodvfy aborts on any 32-bit pixel data, of whomever (an assertion in its OW reader),
    # so the doses are held against it in 16 bits; all but the four pixel attributes are the same.
    checker, cross = program("dciodvfy"), program("dcentvfy")
    folder = write_tiny_study(tmp_path / "set", patient_position=position)
    study = read_study([folder])
    (folder / "RS.dcm").rename(tmp_path / "input.dcm")
    write_all(folder, study, bits=16)
    files = sorted(folder.iterdir())
    for path in [*files, tmp_path / "input.dcm"]:
        output = run(checker, "-new", path)
        assert re.search("CTImage|RTDose|RTPlan|RTStructureSet", output), output
        assert not _errors(output), (path.name, output)
    assert not _errors(run(cross, *files))


def test_drtdump_finds_nothing_to_warn_of(study: Study, tmp_path: Path) -> None:
    dump = program("drtdump")
    write_all(tmp_path / "out", study)
    for path in (tmp_path / "out").iterdir():
        lines = run(dump, path).splitlines()
        assert any(line.startswith("Patient ") for line in lines)
        assert not [line for line in lines if line.startswith(("W:", "E:", "F:"))]


def test_rt_utils_reads_our_structures(study: Study, study_folder: Path, tmp_path: Path) -> None:
    rt_utils = pytest.importorskip("rt_utils", exc_type=ImportError)
    write_all(tmp_path / "out", study)
    (study_folder / "RS.dcm").unlink()
    read = rt_utils.RTStructBuilder.create_from(str(study_folder), str(tmp_path / "out" / "RS.dcm"))
    assert read.get_roi_names() == ["BODY", "PTV_7000", "SpinalCord", "Ring"]
    mask = read.get_roi_mask_by_name("BODY")
    assert mask.any(axis=(0, 1)).all()
    # Its masks are whole pixels and include the border: 24 x 24 pixels drawn, up to 25 x 25 filled.
    assert 24 * 24 <= mask[:, :, 5].sum() <= 25 * 25
    planes = read.get_roi_mask_by_name("Ring").any(axis=(0, 1))
    assert planes.tolist() == [k in range(2, 8) for k in range(12)]


def test_plastimatch_reads_the_same_structures_and_dose(study: Study, study_folder: Path, tmp_path: Path) -> None:
    plastimatch = program("plastimatch")
    sitk = pytest.importorskip("SimpleITK")
    write_all(tmp_path / "out", study)
    (study_folder / "RS.dcm").unlink()
    for name in ("RS.dcm", "RD.dcm"):
        shutil.copy(tmp_path / "out" / name, study_folder / name)
    # Without --xor-contours plastimatch fills holes.
    command = [plastimatch, "convert", "--xor-contours", "--input", study_folder, "--output-img", tmp_path / "ct.nrrd"]
    command += ["--output-prefix", tmp_path / "masks", "--prefix-format", "nrrd"]
    run(*command, "--output-dose-img", tmp_path / "dose.nrrd")
    dose = sitk.ReadImage(str(tmp_path / "dose.nrrd"))
    grid = study.case.ct.grid
    np.testing.assert_allclose(dose.GetOrigin(), grid.origin_mm, atol=1e-4)
    np.testing.assert_allclose(dose.GetSpacing(), grid.spacing_mm[::-1], atol=1e-4)
    np.testing.assert_allclose(sitk.GetArrayFromImage(dose), tiny_dose(grid).dose_gy, atol=1e-4)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "ct.nrrd"))), study.case.ct.hu)
    masks = {
        path.stem: sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (tmp_path / "masks").glob("*.nrrd")
    }
    assert set(masks) == {"BODY", "PTV_7000", "SpinalCord", "Ring"}
    # Pixel centres inside: rows 4..27 of BODY; the PTV (6 x 8 pixels between centres) has its hole of 2 x 2 left out.
    assert masks["BODY"].sum() == 12 * 24 * 24
    assert masks["Ring"][2:8].any(axis=(1, 2)).all()
    assert masks["Ring"][2].sum() == (16 - 6 + 1) * (27 - 11 + 1)
    target = masks["PTV_7000"]
    assert target[3:7].any(axis=(1, 2)).all()
    assert not target[[2, 7]].any()
    assert not target[4, 11, 19]
    assert target[4, 13, 23]


def test_phantom_patient_is_ours(study_folder: Path) -> None:
    dataset = pydicom.dcmread(study_folder / "RS.dcm")
    assert dataset.PatientName == PATIENT.name
    assert [item.ROIName for item in dataset.StructureSetROISequence] == [
        item.name for item in tiny_structures(tiny_ct().grid)
    ]


@pytest.mark.parametrize(
    "name", ["openkbp_247", "lung1-002_xio_full", "anonDICOM_eclipse_4slices", "cerr_phantom_pat1"]
)
def test_structure_sets_of_real_cases(name: str, tmp_path: Path) -> None:
    study = read_study([shared_case(name)])
    write_structure_set(tmp_path / "RS.dcm", study.source, [], IDENTITY_OF_TESTS)
    new = pydicom.dcmread(tmp_path / "RS.dcm")
    for structure, item in zip(study.case.structures, new.ROIContourSequence, strict=True):
        assert structure.number == item.ReferencedROINumber
    # Every reference resolves now.
    slices = {item.sop_instance_uid for item in study.source.slices}
    contours = [contour for roi in new.ROIContourSequence for contour in roi.get("ContourSequence", [])]
    assert contours
    inside = [contour for contour in contours if "ContourImageSequence" in contour]
    assert len(inside) > 0.9 * len(contours)
    assert {contour.ContourImageSequence[0].ReferencedSOPInstanceUID for contour in inside} <= slices
    if shutil.which("dciodvfy"):
        assert not _errors(run("dciodvfy", "-new", tmp_path / "RS.dcm"))

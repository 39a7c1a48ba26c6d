"""Writing structure sets: copied and derived ROIs, references, one EXTERNAL, rt-utils or not."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_helpers import (
    IDENTITY_OF_TESTS,
    PATIENT,
    as_big_endian,
    conformance_errors,
    edit,
    ring,
    run,
    shared_case,
    tiny_ct,
    tiny_structures,
    write_tiny_study,
)
from pydicom.dataset import Dataset

from dicomplan.dicom import roi_items
from dicomplan.dicom.read import read_study
from dicomplan.dicom.source import Study
from dicomplan.dicom.write_structures import write_structure_set


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    return write_tiny_study(tmp_path / "study")


@pytest.fixture
def study(study_folder: Path) -> Study:
    return read_study([study_folder])


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
        assert not conformance_errors(run("dciodvfy", "-new", tmp_path / "RS.dcm"))

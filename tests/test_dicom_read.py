"""Reading CT and RTSTRUCT: values, orientations, selection, odd but readable input."""

from __future__ import annotations

import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_helpers import CREATED, PATIENT, as_big_endian, edit, shared_case, tiny_ct, tiny_structures, write_tiny_study
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from dicomplan.dicom.orientation import scanner_axes
from dicomplan.dicom.read import read_study
from dicomplan.dicom.write_ct import write_ct_series
from dicomplan.dicom.write_structures import write_phantom_structures
from dicomplan.errors import InputError, UsageError
from dicomplan.geometry.frames import PATIENT_POSITIONS, fixed_from_patient


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_tiny_study(tmp_path / "study")


def refusal(*paths: Path, **options: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read_study(list(paths), **options)
    return caught.value


def test_written_study_reads_back_equal(study: Path) -> None:
    ct = tiny_ct()
    case = read_study([study]).case
    assert case.patient_position == "HFS"
    assert case.ct.grid.shape == ct.grid.shape
    assert case.ct.grid.origin_mm == ct.grid.origin_mm
    assert case.ct.grid.spacing_mm == ct.grid.spacing_mm
    np.testing.assert_array_equal(case.ct.hu, ct.hu)
    for read, written in zip(case.structures, tiny_structures(ct.grid), strict=True):
        assert (read.name, read.number, read.roi_type, read.color_rgb) == (
            written.name,
            written.number,
            written.roi_type,
            written.color_rgb,
        )
        for ours, theirs in zip(read.contours, written.contours, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=0.00051)
    assert not [finding for finding in case.findings if finding.severity != "info"]


def test_source_names_every_object_that_was_read(study: Path) -> None:
    source = read_study([study]).source
    assert [item.kind for item in source.inputs].count("CT") == 12
    assert [item.kind for item in source.inputs].count("RTSTRUCT") == 1
    assert all(len(item.sha256) == 64 for item in source.inputs)
    positions = [item.position_mm for item in source.slices]
    assert positions == sorted(positions)
    assert source.slice_index(-16.5) == 0
    assert source.slice_index(-15.1) == 0
    assert source.slice_index(-14.9) == 1
    assert source.slice_index(-18.1) is None


@pytest.mark.parametrize("position", PATIENT_POSITIONS)
def test_every_position_is_read_in_scanner_and_textbook_orientation(tmp_path: Path, position: str) -> None:
    row, column = scanner_axes(position)
    normal = np.cross(row, column)
    direction = tuple(tuple(float(v) for v in line) for line in np.stack([row, column, normal], axis=1))
    scanner = write_tiny_study(tmp_path / "scanner", tiny_ct(direction), position)
    case = read_study([scanner]).case
    np.testing.assert_array_equal(case.ct.hu, tiny_ct().hu)
    assert case.ct.grid.direction == direction
    # The scanner's rows run to the right of someone who faces the gantry, its columns to the floor.
    fixed = fixed_from_patient(position)
    np.testing.assert_array_equal(fixed @ case.ct.grid.direction_matrix[:, 0], (1, 0, 0))
    np.testing.assert_array_equal(fixed @ case.ct.grid.direction_matrix[:, 1], (0, 0, -1))
    textbook = read_study([write_tiny_study(tmp_path / "textbook", patient_position=position)]).case
    warned = [finding for finding in textbook.findings if "patient position" in finding.message]
    assert len(warned) == (0 if position == "HFS" else 1)


@pytest.mark.parametrize(
    ("orientation", "position", "fits"),
    [
        ((-1, 0, 0, 0, -1, 0), "HFS", "HFP"),
        ((-1, 0, 0, 0, 1, 0), "HFS", "FFS"),
        ((1, 0, 0, 0, -1, 0), "HFP", "FFP"),
        ((0, 1, 0, -1, 0, 0), "HFDL", "HFDR"),
    ],
)
def test_orientation_that_contradicts_the_position(
    study: Path, orientation: tuple[int, ...], position: str, fits: str
) -> None:
    def change(dataset: Dataset) -> None:
        dataset.ImageOrientationPatient = list(orientation)
        dataset.PatientPosition = position

    for path in study.glob("CT_*"):
        edit(path, change)
    error = refusal(study)
    assert "contradicts" in error.message
    assert f"as of {fits}" in error.message
    assert error.tag == "ImageOrientationPatient (0020,0037)"


def _set(keyword: str, value: object) -> object:
    return lambda dataset: setattr(dataset, keyword, value)


def _delete(keyword: str) -> object:
    return lambda dataset: delattr(dataset, keyword)


def _dangle(dataset: Dataset) -> None:
    series = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    series.SeriesInstanceUID = "1.2.3.4"
    for index, image in enumerate(series.ContourImageSequence):
        image.ReferencedSOPInstanceUID = f"1.2.3.5.{index}"
    for roi in dataset.ROIContourSequence:
        for contour in roi.ContourSequence:
            contour.ContourImageSequence[0].ReferencedSOPInstanceUID = "1.2.3.6"


def test_dangling_references_are_matched_by_geometry(study: Path) -> None:
    edit(study / "RS.dcm", _dangle)
    case = read_study([study]).case
    messages = [finding.message for finding in case.findings if finding.severity == "warning"]
    assert len(messages) == 2
    assert "30 contours refer to images that are not in the CT" in messages[1]
    assert len(case.structure("PTV_7000").contours) == 8


def test_dangling_references_beyond_the_ct(study: Path) -> None:
    edit(study / "RS.dcm", _dangle)
    for number in (1, 2, 3):
        (study / f"CT_{number:03d}.dcm").unlink()
    error = refusal(study)
    assert "ROI 'BODY' reaches 7.5 mm beyond it" in error.message


def test_other_study_identifier_of_the_structure_set_is_a_warning(study: Path) -> None:
    edit(study / "RS.dcm", _set("StudyInstanceUID", "1.2.3"))
    findings = read_study([study]).case.findings
    assert any("another study identifier" in finding.message for finding in findings)


def test_several_structure_sets_need_a_choice(study: Path) -> None:
    shutil.copy(study / "RS.dcm", study / "RS2.dcm")

    def second(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        dataset.StructureSetLabel = "second"
        dataset.StructureSetROISequence[1].ROIName = "PTV_6000"

    edit(study / "RS2.dcm", second)
    error = refusal(study)
    assert "2 structure sets" in error.message
    assert "--structure-set" in (error.hint or "")
    for name in ("second", "1.2.3", "RS2.dcm"):
        assert read_study([study], structure_set=name).case.structures[1].name == "PTV_6000"
    with pytest.raises(UsageError, match="no structure set"):
        read_study([study], structure_set="third")


def test_several_series_need_a_choice(study: Path) -> None:
    for path in sorted(study.glob("CT_*")):
        copy = study / f"second_{path.name}"
        shutil.copy(path, copy)

        def second(dataset: Dataset) -> None:
            dataset.SOPInstanceUID += ".1"
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.SeriesInstanceUID = "1.2.3"
            dataset.RescaleIntercept = "-924"

        edit(copy, second)
    # The structure set names the first series, so nothing is ambiguous.
    assert read_study([study]).case.ct.hu.min() == -1000
    edit(study / "RS.dcm", _dangle)
    error = refusal(study)
    assert "2 CT series" in error.message
    assert "--series" in (error.hint or "")
    assert read_study([study], series="1.2.3").case.ct.hu.min() == -900


def test_copies_count_once_and_other_content_is_refused(study: Path) -> None:
    (study / "sub").mkdir()
    shutil.copy(study / "CT_003.dcm", study / "sub" / "copy.dcm")
    assert read_study([study]).case.ct.grid.shape[0] == 12
    edit(study / "sub" / "copy.dcm", _set("RescaleIntercept", "0"))
    error = refusal(study)
    assert "other content" in error.message
    assert error.tag == "SOPInstanceUID (0008,0018)"


def test_foreign_files_localizers_and_other_modalities_are_left_alone(study: Path) -> None:
    (study / "notes.txt").write_text("hello")
    (study / "blob").write_bytes(bytes(range(256)) * 4)
    shutil.copy(study / "CT_003.dcm", study / "localizer.dcm")
    shutil.copy(study / "CT_004.dcm", study / "mr.dcm")

    def localizer(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = "1.2.3"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    def mr(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = "1.2.4"
        dataset.Modality = "MR"

    edit(study / "localizer.dcm", localizer)
    edit(study / "mr.dcm", mr)
    case = read_study([study]).case
    assert case.ct.grid.shape[0] == 12
    messages = " / ".join(finding.message for finding in case.findings)
    assert "2 files that are not DICOM" in messages
    assert "1 localizer" in messages
    assert "modality MR" in messages
    assert "notes" not in messages


def test_zip(study: Path, tmp_path: Path) -> None:
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in study.iterdir():
            target.write(path, f"inner/{path.name}")
    zipped, plain = read_study([archive]), read_study([study])
    np.testing.assert_array_equal(zipped.case.ct.hu, plain.case.ct.hu)
    assert zipped.source.inputs == plain.source.inputs


@pytest.mark.parametrize("name", ["/etc/x.dcm", "../x.dcm", "a/../../x.dcm", "C:/x.dcm"])
def test_unsafe_zip_names_are_refused(study: Path, tmp_path: Path, name: str) -> None:
    archive = tmp_path / "study.zip"
    with zipfile.ZipFile(archive, "w") as target:
        target.writestr(name, (study / "RS.dcm").read_bytes())
    assert "unsafe" in refusal(archive).message


def test_nested_zip_is_refused(study: Path, tmp_path: Path) -> None:
    inner = tmp_path / "inner.zip"
    with zipfile.ZipFile(inner, "w") as target:
        target.write(study / "RS.dcm", "RS.dcm")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as target:
        target.write(inner, "inner.zip")
    assert "another zip" in refusal(tmp_path / "outer.zip").message


def test_big_endian_unsigned_12_bit_and_overlays_in_unused_bits(study: Path) -> None:
    def change(dataset: Dataset) -> None:
        stored = np.frombuffer(dataset.PixelData, "<i2").astype(np.int32) - 24  # HU + 1000
        dataset.PixelRepresentation = 0
        dataset.BitsStored, dataset.HighBit = 12, 11
        dataset.RescaleIntercept = "-1000"
        dataset.PixelData = (stored | 0xA000).astype(">u2").tobytes()

    for path in study.glob("CT_*"):
        dataset = pydicom.dcmread(path)
        change(dataset)
        as_big_endian(dataset, path)
    case = read_study([study]).case
    np.testing.assert_array_equal(case.ct.hu, tiny_ct().hu)


def test_rescale_is_each_slices_own(study: Path) -> None:
    def change(dataset: Dataset) -> None:
        dataset.RescaleSlope = "2"
        dataset.RescaleIntercept = "-2048"

    edit(study / "CT_004.dcm", change)
    hu = read_study([study]).case.ct.hu
    np.testing.assert_array_equal(hu[3], tiny_ct().hu[3] * 2)
    np.testing.assert_array_equal(hu[4], tiny_ct().hu[4])


def test_padding_becomes_air_only_below_tissue(study: Path) -> None:
    def below(dataset: Dataset) -> None:
        pixels = np.frombuffer(dataset.PixelData, "<i2").copy()
        pixels[:5] = -2000 + 1024
        dataset.PixelData = pixels.tobytes()
        dataset.add_new("PixelPaddingValue", "SS", -2000 + 1024)

    edit(study / "CT_001.dcm", below)
    edit(study / "CT_002.dcm", lambda dataset: dataset.add_new("PixelPaddingValue", "SS", 1024))
    case = read_study([study]).case
    assert case.ct.hu.min() == -1000
    assert (case.ct.hu[1] == 0).sum() == 24 * 24
    severities = {finding.severity for finding in case.findings if "pad" in finding.message}
    assert severities == {"info", "warning"}


def test_compressed_pixels(study: Path) -> None:
    for path in study.glob("CT_*"):
        dataset = pydicom.dcmread(path)
        dataset.compress(RLELossless, generate_instance_uid=False)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_study([study]).case.ct.hu, tiny_ct().hu)
    for path in study.glob("CT_*"):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.80"
        dataset.save_as(path)
    error = refusal(study)
    assert "JPEG-LS" in error.message
    assert error.tag == "TransferSyntaxUID (0002,0010)"


def test_odd_structures(study: Path) -> None:
    def change(dataset: Dataset) -> None:
        contours = dataset.ROIContourSequence
        contours[1].ContourSequence[0].ContourGeometricType = "POINT"
        contours[1].ContourSequence[1].ContourGeometricType = "OPEN_PLANAR"
        contours[1].ContourSequence[2].ContourGeometricType = "CLOSEDPLANAR_XOR"
        data = list(contours[1].ContourSequence[3].ContourData)
        contours[1].ContourSequence[3].ContourData = data + data[:3]
        del contours[2].ContourSequence
        contours.insert(0, contours.pop())  # order differs from StructureSetROISequence
        dataset.StructureSetROISequence[2].ROIName = " BODY "

    edit(study / "RS.dcm", change)
    body, target, empty = read_study([study]).case.structures
    assert (body.number, target.number, empty.number) == (1, 2, 5)
    assert (len(body.contours), len(target.contours), len(empty.contours)) == (12, 6, 0)
    assert all(len(contour) == 4 for contour in target.contours)
    assert empty.name == "BODY"
    messages = " / ".join(finding.message for finding in read_study([study]).case.findings)
    assert "2 ROIs have the name 'BODY'" in messages
    assert "2 points and open contours" in messages
    assert "1 ROIs have no closed contours" in messages


def test_roi_number_twice_and_contours_on_another_slice(study: Path) -> None:
    def swap(dataset: Dataset) -> None:
        first, second = dataset.ROIContourSequence[0].ContourSequence[:2]
        first.ContourImageSequence, second.ContourImageSequence = (
            second.ContourImageSequence,
            first.ContourImageSequence,
        )

    edit(study / "RS.dcm", swap)
    assert any("2 contours refer to another slice" in item.message for item in read_study([study]).case.findings)
    edit(study / "RS.dcm", lambda dataset: setattr(dataset.StructureSetROISequence[1], "ROINumber", "1"))
    assert "occurs twice" in refusal(study).message


def test_patient_position_can_be_given(study: Path) -> None:
    for path in study.glob("CT_*"):
        edit(path, _delete("PatientPosition"))
    assert read_study([study], patient_position="HFS").case.patient_position == "HFS"


def test_findings_carry_neither_names_nor_files(study: Path) -> None:
    edit(study / "RS.dcm", _dangle)
    renamed = study / "PHANTOM_Tiny_RS.dcm"
    (study / "RS.dcm").rename(renamed)
    case = read_study([study]).case
    assert case.findings
    for finding in case.findings:
        assert "PHANTOM" not in finding.message
        assert "TINY" not in finding.message
        assert str(study) not in finding.message


def test_same_entropy_same_bytes(tmp_path: Path) -> None:
    first, second = write_tiny_study(tmp_path / "a"), write_tiny_study(tmp_path / "b")
    other = write_tiny_study(tmp_path / "c", entropy="another")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()
        assert path.read_bytes() != (other / path.name).read_bytes()


def test_ct_numbers_beyond_16_bit_are_not_written(tmp_path: Path) -> None:
    ct = tiny_ct()
    ct.hu[0, 0, 0] = 40000
    with pytest.raises(ValueError, match="CT numbers"):
        write_ct_series(tmp_path, ct, PATIENT, patient_position="HFS", entropy="x", created=CREATED)


def test_contour_outside_of_the_ct_is_not_written(tmp_path: Path) -> None:
    ct = tiny_ct()
    files = write_ct_series(tmp_path, ct, PATIENT, patient_position="HFS", entropy="x", created=CREATED)
    outside = tiny_structures(ct.grid.crop((20, 0, 0), (32, 32, 32)))
    with pytest.raises(ValueError, match="outside of the CT"):
        write_phantom_structures(tmp_path / "RS.dcm", outside, files, entropy="x", created=CREATED)


@pytest.mark.parametrize(
    ("name", "shape", "spacing", "target", "contours"),
    [
        ("openkbp_247", (93, 128, 128), (3.0, 4.688, 4.688), "PTV70", None),
        ("openkbp_251", (81, 128, 128), (2.5, 3.906, 3.906), "PTV70", None),
        ("tg119_cshape", (129, 167, 167), (2.5, 3.0, 3.0), "OuterTarget", 33),
    ],
)
def test_shared_cases(
    name: str, shape: tuple[int, ...], spacing: tuple[float, ...], target: str, contours: int | None
) -> None:
    folder = shared_case(name)
    start = time.perf_counter()
    case = read_study([folder]).case
    assert time.perf_counter() - start < 5  # 0.3 s on an idle machine
    assert case.ct.grid.shape == shape
    assert case.ct.grid.spacing_mm == pytest.approx(spacing)
    assert case.structure(target).contours
    assert contours is None or len(case.structure(target).contours) == contours
    assert case.structure("BODY").roi_type == "EXTERNAL"


def test_contour_references_that_dangle_in_a_real_case() -> None:
    case = read_study([shared_case("lung1-002_xio_full")]).case
    assert len(case.structure("Lung L").contours) > 60
    assert any("refer to images that are not in the CT" in finding.message for finding in case.findings)
    assert not case.structure("Isocenter 1").contours

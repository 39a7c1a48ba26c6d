"""What clinics export beside the ordinary: gaps to repair, enhanced CT, positions, oblique planes, missing contours, doses."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_helpers import (
    CREATED,
    IDENTITY_OF_TESTS,
    PATIENT,
    box,
    edit,
    ring,
    tiny_ct,
    tiny_dose,
    write_all,
    write_tiny_study,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import JPEGLSLossless

from dicomplan.dicom.multiframe import ENHANCED_CT
from dicomplan.dicom.orientation import scanner_axes
from dicomplan.dicom.read import read_dose, read_plan, read_study
from dicomplan.dicom.read_dose import StoredDose, sum_of_beams
from dicomplan.dicom.survey import survey_study
from dicomplan.dicom.write_ct import write_ct_series
from dicomplan.dicom.write_structures import write_phantom_structures, write_structure_set
from dicomplan.errors import InputError, UsageError
from dicomplan.geometry.frames import PATIENT_POSITIONS
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.patient.bridging import bridged
from dicomplan.patient.case import CTVolume, Structure
from dicomplan.patient.coverage import rasterize


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_tiny_study(tmp_path / "study")


def refusal(*paths: Path, **options: object) -> InputError:
    with pytest.raises(InputError) as caught:
        read_study(list(paths), **options)
    return caught.value


def _all_slices(study: Path, change: object) -> None:
    for path in study.glob("CT_*"):
        edit(path, change)


def test_repair_interpolates_single_missing_slices_and_says_so(study: Path, tmp_path: Path) -> None:
    whole = read_study([study]).case
    (study / "CT_005.dcm").unlink()
    (study / "CT_009.dcm").unlink()
    error = refusal(study)
    assert "2 missing slices" in error.message
    assert "--repair" in (error.hint or "")
    repaired = read_study([study], repair=True)
    case = repaired.case
    assert case.ct.grid == whole.ct.grid
    np.testing.assert_array_equal(case.ct.hu[4], 0.5 * (whole.ct.hu[3] + whole.ct.hu[5]))
    kept = [k for k in range(12) if k not in (4, 8)]
    np.testing.assert_array_equal(case.ct.hu[kept], whole.ct.hu[kept])
    (finding,) = [finding for finding in case.findings if "interpolated" in finding.message]
    assert finding.severity == "warning"
    assert "-4.50, 7.50 mm" in finding.message
    # What is written refers to slices that are there.
    write_structure_set(tmp_path / "RS.dcm", repaired.source, [ring(repaired)], IDENTITY_OF_TESTS)
    uids = {pydicom.dcmread(path).SOPInstanceUID for path in study.glob("CT_*")}
    contours = pydicom.dcmread(tmp_path / "RS.dcm").ROIContourSequence[-1].ContourSequence
    assert len(contours) == 6
    named = [
        contour.ContourImageSequence[0].ReferencedSOPInstanceUID
        for contour in contours
        if "ContourImageSequence" in contour
    ]
    assert len(named) == 5
    assert set(named) <= uids


def test_repair_does_not_bridge_two_slices(study: Path) -> None:
    (study / "CT_005.dcm").unlink()
    (study / "CT_006.dcm").unlink()
    error = refusal(study, repair=True)
    assert "2 missing slices" in error.message
    assert error.hint is None


def as_enhanced(study: Path) -> None:
    """The slices of a study as one enhanced multi-frame image, frames in mixed order."""
    slices = [pydicom.dcmread(path) for path in sorted(study.glob("CT_*"))]
    slices = slices[6:] + slices[:6][::-1]
    image = slices[0]
    frames = []
    for item in slices:
        frame, place, value = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = item.ImagePositionPatient
        value.RescaleSlope, value.RescaleIntercept, value.RescaleType = item.RescaleSlope, item.RescaleIntercept, "HU"
        frame.PlanePositionSequence = Sequence([place])
        frame.PixelValueTransformationSequence = Sequence([value])
        frames.append(frame)
    shared, axes, measures = Dataset(), Dataset(), Dataset()
    axes.ImageOrientationPatient = image.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = image.PixelSpacing, image.SliceThickness
    shared.PlaneOrientationSequence = Sequence([axes])
    shared.PixelMeasuresSequence = Sequence([measures])
    pixels = b"".join(item.PixelData for item in slices)
    for keyword in (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    ):
        delattr(image, keyword)
    image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = ENHANCED_CT[0]
    image.NumberOfFrames = str(len(slices))
    image.SharedFunctionalGroupsSequence = Sequence([shared])
    image.PerFrameFunctionalGroupsSequence = Sequence(frames)
    image.PixelData = pixels
    for path in study.glob("CT_*"):
        path.unlink()
    image.save_as(study / "enhanced.dcm")


def test_enhanced_multi_frame_ct(study: Path, tmp_path: Path) -> None:
    plain = read_study([study]).case
    as_enhanced(study)
    enhanced = read_study([study])
    assert enhanced.case.ct.grid == plain.ct.grid
    np.testing.assert_array_equal(enhanced.case.ct.hu, plain.ct.hu)
    assert sorted(item.kind for item in enhanced.source.inputs) == ["CT", "RTSTRUCT"]
    write_structure_set(tmp_path / "RS.dcm", enhanced.source, [], IDENTITY_OF_TESTS)
    contour = pydicom.dcmread(tmp_path / "RS.dcm").ROIContourSequence[0].ContourSequence[0]
    image = contour.ContourImageSequence[0]
    place = pydicom.dcmread(study / "enhanced.dcm").PerFrameFunctionalGroupsSequence[image.ReferencedFrameNumber - 1]
    assert float(place.PlanePositionSequence[0].ImagePositionPatient[2]) == float(contour.ContourData[2])
    edit(study / "enhanced.dcm", lambda dataset: dataset.PerFrameFunctionalGroupsSequence.pop())
    assert "one for each of 12 frames" in refusal(study).message


def test_stated_patient_position_overrides_absent_mixed_and_contradicting_ones(study: Path) -> None:
    def warnings(position: str) -> list[str]:
        case = read_study([study], patient_position=position).case
        assert case.patient_position == position
        return [finding.message for finding in case.findings if finding.severity == "warning"]

    edit(study / "CT_004.dcm", lambda dataset: setattr(dataset, "PatientPosition", "HFP"))
    assert "mixed patient position" in refusal(study).message
    assert any("as stated, instead of 'HFP', 'HFS'" in message for message in warnings("HFS"))
    _all_slices(study, lambda dataset: setattr(dataset, "PatientPosition", ""))
    assert "is missing" in refusal(study).message
    warnings("FFS")
    _all_slices(study, lambda dataset: setattr(dataset, "ImageOrientationPatient", ["-1", "0", "0", "0", "-1", "0"]))
    _all_slices(study, lambda dataset: setattr(dataset, "PatientPosition", "HFS"))
    _all_slices(
        study, lambda dataset: setattr(dataset, "ImagePositionPatient", ["31", "31", dataset.ImagePositionPatient[2]])
    )
    assert "contradicts" in refusal(study).message
    assert any("contradicts" in message for message in warnings("FFS"))
    with pytest.raises(UsageError, match="SITTING"):
        read_study([study], patient_position="SITTING")


def test_survey_reads_what_planning_refuses(study: Path) -> None:
    def tilt(dataset: Dataset) -> None:
        k = int(dataset.InstanceNumber) - 1
        dataset.ImageOrientationPatient = ["1", "0", "0", "0", "0.99995", "0.009999"]
        dataset.ImagePositionPatient = ["-31", f"{-31 - 0.009999 * 3 * k:.4f}", f"{-16.5 + 0.99995 * 3 * k:.4f}"]
        dataset.PatientPosition = ""

    _all_slices(study, tilt)
    survey = survey_study([study])
    assert not survey.plannable
    (ct,) = [series for series in survey.series if series.modality == "CT"]
    assert ct.geometry is not None
    assert ct.geometry.grid.shape == (12, 32, 32)
    errors = [finding.message for finding in survey.findings if finding.severity == "error"]
    assert any("oblique image planes, 0.57 degrees" in message for message in errors)
    assert any("is missing, expected one of HFS" in message for message in errors)
    assert survey.patient_position == ""
    assert [item.name for item in survey.structure_sets[0].structures] == ["BODY", "PTV_7000", "SpinalCord"]
    severities = [finding.severity for finding in survey.findings]
    assert severities == sorted(severities, key=("error", "warning", "info").index)


def test_survey_of_a_sound_study_with_plan_and_dose(study: Path, tmp_path: Path) -> None:
    write_all(tmp_path / "out", read_study([study]))
    (tmp_path / "out" / "RS.dcm").unlink()
    survey = survey_study([study, tmp_path / "out"])
    assert survey.plannable
    assert survey.patient_position == "HFS"
    assert [plan.beams[0].technique for plan in survey.plans] == ["step and shoot"]
    assert survey.plans[0].obstacles == ()
    assert [dose.units for dose in survey.doses] == ["GY", "GY"]
    assert {series.patient for series in survey.series} == {series.study for series in survey.series} == {1}
    assert not [finding for finding in survey.findings if finding.severity == "error"]


def test_secondary_captures_are_left_alone(study: Path) -> None:
    capture = study / "capture.dcm"
    capture.write_bytes((study / "CT_003.dcm").read_bytes())

    def change(dataset: Dataset) -> None:
        dataset.SOPInstanceUID = "1.2.3"
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"

    edit(capture, change)
    case = read_study([study]).case
    assert case.ct.grid.shape[0] == 12
    assert any("secondary captures" in finding.message for finding in case.findings)


def test_structure_set_that_refers_to_nothing(study: Path) -> None:
    def forget(dataset: Dataset) -> None:
        del dataset.ReferencedFrameOfReferenceSequence
        del dataset.FrameOfReferenceUID
        for item in dataset.StructureSetROISequence:
            del item.ReferencedFrameOfReferenceUID
        for roi in dataset.ROIContourSequence:
            for contour in roi.ContourSequence:
                del contour.ContourImageSequence

    edit(study / "RS.dcm", forget)
    case = read_study([study]).case
    warnings = [finding for finding in case.findings if finding.severity == "warning"]
    assert len(warnings) == 2
    assert all((finding.tag or "").startswith("ReferencedFrameOfReferenceSequence") for finding in warnings)
    assert len(case.structure("PTV_7000").contours) == 8


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 192", "Öhrchen 耳下腺"),
        ("ISO_IR 100", "Hypophyse à côté"),
        ("ISO_IR 144", "Лёгкое"),
        ("GB18030", "腮腺"),
    ],
)
def test_names_in_any_character_set(study: Path, charset: str, name: str) -> None:
    def change(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = charset
        dataset.StructureSetROISequence[1].ROIName = name

    edit(study / "RS.dcm", change)
    assert read_study([study]).case.structures[1].name == name


def test_missing_decoder_names_the_extra(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jpeg_ls")
    from pydicom.pixels.decoders.base import Decoder

    for path in study.glob("CT_*"):
        dataset = pydicom.dcmread(path)
        dataset.compress(JPEGLSLossless, generate_instance_uid=False)
        dataset.save_as(path)
    np.testing.assert_array_equal(read_study([study]).case.ct.hu, tiny_ct().hu)
    monkeypatch.setattr(Decoder, "is_available", property(lambda self: False))
    with pytest.raises(UsageError, match="optional part 'compressed' is not installed") as caught:
        read_study([study])
    assert "dicomplan[compressed]" in (caught.value.hint or "")
    assert "\n" not in str(caught.value)


def test_non_square_images_and_pixels(tmp_path: Path) -> None:
    whole = tiny_ct()
    grid = VoxelGrid((12, 32, 24), (3.0, 2.0, 1.5), (-16.0, -31.0, -16.5))
    ct = CTVolume(grid, np.ascontiguousarray(whole.hu[:, :, 2:26]))
    files = write_ct_series(tmp_path, ct, PATIENT, patient_position="HFS", entropy="x", created=CREATED)
    body = Structure("BODY", 1, "EXTERNAL", box(grid, range(12), (3.5, 1.5), (27.5, 20.5)))
    write_phantom_structures(tmp_path / "RS.dcm", [body], files, entropy="x", created=CREATED)
    case = read_study([tmp_path]).case
    assert case.ct.grid.shape == grid.shape
    assert case.ct.grid.spacing_mm == grid.spacing_mm
    np.testing.assert_array_equal(case.ct.hu, ct.hu)
    volume = rasterize(case.structures[0], case.ct.grid).volume_cc
    assert volume == pytest.approx(12 * 3 * (24 * 2.0) * (19 * 1.5) / 1000, rel=1e-5)


def synthetic(direction: np.ndarray) -> tuple[VoxelGrid, np.ndarray]:
    """One anatomy (an off-centre block of bone in water) on a grid of the given axes; patient coordinates decide."""
    axes = tuple(tuple(float(value) for value in row) for row in direction)
    corner = direction @ np.array([-31.0, -31.0, -16.5])
    grid = VoxelGrid((12, 32, 32), (3.0, 2.0, 2.0), tuple(float(value) for value in corner), axes)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(grid.patient_from_index(index), -1, 0)
    hu = np.full(grid.shape, -1000.0, dtype=np.float32)
    hu[(np.abs(x) < 24) & (np.abs(y) < 24)] = 0.0
    hu[(x > 4) & (x < 14) & (y > -18) & (y < -2) & (z > -12) & (z < 8)] = 700.0
    return grid, hu


ANATOMY = {
    "BODY": ((-24.0, 24.0), (-24.0, 24.0), (-16.5, 16.5)),
    "PTV": ((3.3, 14.1), (-17.2, -2.9), (-10.5, 7.5)),
    "Cord": ((-9.4, -3.8), (5.5, 12.25), (-16.5, 16.5)),
}


def drawn(grid: VoxelGrid) -> tuple[Structure, ...]:
    """Rectangles of ANATOMY on the grid's planes."""
    planes = sorted({float(grid.patient_from_index((k, 0, 0))[2]) for k in range(grid.shape[0])})
    structures = []
    for number, (name, (x, y, z)) in enumerate(ANATOMY.items(), start=1):
        corners = [(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])]
        contours = tuple(
            np.array([(*corner, plane) for corner in corners])
            for plane in planes
            if z[0] - 0.01 <= plane <= z[1] + 0.01
        )
        structures.append(Structure(name, number, "EXTERNAL" if name == "BODY" else "", contours))
    return tuple(structures)


@pytest.mark.parametrize(
    ("position", "order"), list(itertools.product(PATIENT_POSITIONS, ("rising", "falling", "shuffled")))
)
def test_the_same_patient_in_every_position_and_slice_order(tmp_path: Path, position: str, order: str) -> None:
    row, column = (np.array(axis) for axis in scanner_axes(position))
    grid, hu = synthetic(np.stack([row, column, np.cross(row, column)], axis=1))
    folder = tmp_path / "study"
    files = write_ct_series(
        folder, CTVolume(grid, hu), PATIENT, patient_position=position, entropy=position, created=CREATED
    )
    write_phantom_structures(folder / "RS.dcm", drawn(grid), files, entropy=position, created=CREATED)
    numbers = list(range(1, 13))
    if order == "falling":
        numbers.reverse()
    elif order == "shuffled":
        numbers = [int(k) + 1 for k in np.random.default_rng(4).permutation(12)]
    for number, path in zip(numbers, files, strict=True):
        edit(path, lambda dataset, number=number: setattr(dataset, "InstanceNumber", str(number)))
        path.rename(folder / f"slice_{number:03d}.dcm")
    case = read_study([folder]).case
    assert case.patient_position == position
    # CT and masks, asked at points of the patient, are those of the head-first supine patient.
    reference_grid, reference_hu = synthetic(np.eye(3))
    points = reference_grid.patient_from_index(
        np.stack(np.meshgrid(*(np.arange(n) for n in reference_grid.shape), indexing="ij"), axis=-1)
    )
    index = case.ct.grid.index_from_patient(points)
    assert np.abs(index - np.round(index)).max() < 1e-6
    k, r, c = np.moveaxis(np.round(index).astype(int), -1, 0)
    np.testing.assert_array_equal(case.ct.hu[k, r, c], reference_hu)
    for structure, expected in zip(case.structures, drawn(reference_grid), strict=True):
        ours, theirs = rasterize(structure, case.ct.grid), rasterize(expected, reference_grid)
        assert ours.volume_cc == pytest.approx(theirs.volume_cc, rel=1e-6)
        cells = np.stack(np.meshgrid(*(np.arange(n) for n in theirs.grid.shape), indexing="ij"), axis=-1)
        places = ours.grid.index_from_patient(theirs.grid.patient_from_index(cells))
        assert np.abs(places - np.round(places)).max() < 1e-6
        k, r, c = np.moveaxis(np.round(places).astype(int), -1, 0)
        inside = np.all((np.round(places) >= 0) & (np.round(places) < ours.grid.shape), axis=-1)
        found = np.zeros(theirs.grid.shape, dtype=np.float32)
        found[inside] = ours.fraction[k[inside], r[inside], c[inside]]
        np.testing.assert_allclose(found, theirs.fraction, atol=1e-6)


def cone(grid: VoxelGrid, planes: list[int]) -> Structure:
    """Circles whose radius grows by 0.5 mm with each plane and whose centre wanders by 0.3 mm."""
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    contours = []
    for k in planes:
        z = float(grid.patient_from_index((k, 0, 0))[2])
        radius = 8 + 0.5 * k
        contours.append(np.column_stack([0.3 * k + radius * np.cos(angle), radius * np.sin(angle), np.full(180, z)]))
    return Structure("Cone", 1, "", tuple(contours))


def test_bridging_restores_a_cone() -> None:
    grid = tiny_ct().grid
    gap = cone(grid, [1, 2, 3, 6, 7, 9])
    whole = cone(grid, [1, 2, 3, 4, 5, 6, 7, 8, 9])
    filled, places = bridged(gap, grid)
    assert places == pytest.approx([-16.5 + 3 * k for k in (4, 5, 8)])
    before, after, expected = (rasterize(item, grid) for item in (gap, filled, whole))
    assert before.volume_cc < 0.75 * expected.volume_cc
    assert after.volume_cc == pytest.approx(expected.volume_cc, rel=0.002)
    np.testing.assert_allclose(after.fraction.sum(axis=(1, 2)), expected.fraction.sum(axis=(1, 2)), rtol=0.005)
    assert bridged(whole, grid) == (whole, ())


def test_bridging_keeps_holes_and_is_only_done_on_request(study: Path) -> None:
    def forget(dataset: Dataset) -> None:
        contours = dataset.ROIContourSequence[1].ContourSequence
        kept = [item for item in contours if abs(float(item.ContourData[2]) + 4.5) > 0.1]
        dataset.ROIContourSequence[1].ContourSequence = Sequence(kept)

    whole = read_study([study]).case
    volume = rasterize(whole.structure("PTV_7000"), whole.ct.grid).volume_cc
    edit(study / "RS.dcm", forget)
    left, filled = read_study([study]).case, read_study([study], bridge=True).case
    assert rasterize(left.structure("PTV_7000"), left.ct.grid).volume_cc == pytest.approx(0.75 * volume, rel=1e-4)
    assert rasterize(filled.structure("PTV_7000"), filled.ct.grid).volume_cc == pytest.approx(volume, rel=0.01)
    messages = [finding.message for finding in filled.findings if "interpolated" in finding.message]
    assert messages == ["ROI 'PTV_7000' had no contour on 1 inner CT planes (at -4.5 mm): interpolated"]


def test_planar_dose(study: Path, tmp_path: Path) -> None:
    write_all(tmp_path, read_study([study]))

    def planar(dataset: Dataset) -> None:
        dataset.PixelData = dataset.PixelData[: 32 * 32 * 4]
        dataset.NumberOfFrames = "1"
        del dataset.GridFrameOffsetVector

    edit(tmp_path / "RD.dcm", planar)
    dose = read_dose(tmp_path / "RD.dcm")
    assert dose.planar
    assert dose.grid.shape == (1, 32, 32)
    assert dose.grid.spacing_mm == (3.0, 2.0, 2.0)
    assert any("one plane only" in finding.message for finding in dose.findings)
    edit(tmp_path / "RD.dcm", lambda dataset: delattr(dataset, "SliceThickness"))
    with pytest.raises(InputError, match="without a SliceThickness"):
        read_dose(tmp_path / "RD.dcm")


def test_implausible_dose_is_flagged_and_left(study: Path, tmp_path: Path) -> None:
    write_all(tmp_path, read_study([study]))
    plain = read_dose(tmp_path / "RD.dcm")
    assert plain.findings == ()

    def hundredfold(dataset: Dataset) -> None:
        dataset.DoseGridScaling = f"{100 * float(dataset.DoseGridScaling):.9e}"

    edit(tmp_path / "RD.dcm", hundredfold)
    dose = read_dose(tmp_path / "RD.dcm")
    np.testing.assert_allclose(dose.dose_gy, 100 * plain.dose_gy, rtol=1e-6)
    (finding,) = dose.findings
    assert "more than is plausible" in finding.message


def test_sum_of_beams() -> None:
    grid = tiny_ct().grid

    def beam(number: int, **changes: object) -> StoredDose:
        dose = tiny_dose(grid, 10.0 * number)
        values = {"summation_type": "BEAM", "plan_uid": "1.2", "beam_numbers": (number,), **changes}
        return StoredDose(grid, dose.dose_gy, **values)

    total = sum_of_beams([beam(2), beam(1)], (1, 2))
    np.testing.assert_allclose(total.dose_gy, tiny_dose(grid, 30.0).dose_gy, rtol=1e-6)
    assert (total.summation_type, total.beam_numbers) == ("PLAN", (1, 2))
    for doses, numbers, message in (
        ([beam(1)], (1, 2), "not summed"),
        ([beam(1), beam(1)], (1,), "not summed"),
        ([beam(1), beam(2, plan_uid="1.3")], (1, 2), "several plans"),
        ([beam(1), beam(2, summation_type="PLAN")], (1, 2), "expected BEAM"),
        ([beam(1), replace(beam(2), grid=replace(grid, origin_mm=(0.0, 0.0, 0.0)))], (1, 2), "different grids"),
    ):
        with pytest.raises(InputError, match=message):
            sum_of_beams(doses, numbers)
    with pytest.raises(InputError):
        sum_of_beams([], (1,))


def test_open_contours_are_listed_with_their_rois(study: Path) -> None:
    def change(dataset: Dataset) -> None:
        dataset.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "POINT"
        dataset.ROIContourSequence[2].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"

    edit(study / "RS.dcm", change)
    messages = [finding.message for finding in read_study([study]).case.findings]
    assert (
        "2 points and open contours were left out (1 OPEN_PLANAR, 1 POINT) of ROIs 'PTV_7000', 'SpinalCord'" in messages
    )


def test_keyhole_and_nested_contours_have_one_volume(study: Path) -> None:
    grid = read_study([study]).case.ct.grid
    outer, inner = (
        box(grid, range(4, 5), (8.0, 8.0), (20.0, 20.0))[0],
        box(grid, range(4, 5), (12.0, 12.0), (16.0, 16.0))[0],
    )
    keyhole = np.concatenate([outer, outer[:1], inner, inner[:1]])
    nested, cut = (rasterize(Structure("x", 1, "", contours), grid) for contours in ((outer, inner), (keyhole,)))
    assert nested.volume_cc == pytest.approx((24 * 24 - 8 * 8) * 3 / 1000, rel=1e-6)
    assert cut.volume_cc == pytest.approx(nested.volume_cc, rel=1e-6)


def test_plan_with_unreadable_values_is_a_warning_of_the_survey(study: Path, tmp_path: Path) -> None:
    write_all(tmp_path / "out", read_study([study]))
    path = tmp_path / "out" / "RP.dcm"
    edit(path, lambda dataset: setattr(dataset.BeamSequence[0], "BeamNumber", None))
    survey = survey_study([study, path])
    assert survey.plannable
    assert survey.plans == ()
    assert any(finding.severity == "warning" and finding.file == str(path) for finding in survey.findings)
    with pytest.raises(InputError):
        read_plan(path)

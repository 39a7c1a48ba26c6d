"""RTDOSE: round trips, offset vectors, orientations, and what cannot be read or written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_helpers import (
    IDENTITY_OF_TESTS,
    edit,
    shared_case,
    tiny_ct,
    tiny_dose,
    write_all,
    write_tiny_study,
)
from pydicom.dataset import Dataset

from dicomplan.dicom.read import read_dose, read_study
from dicomplan.dicom.source import Study
from dicomplan.dicom.write_dose import write_dose
from dicomplan.dose.volume import DoseVolume
from dicomplan.errors import InputError
from dicomplan.geometry.grid import VoxelGrid


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    return write_tiny_study(tmp_path / "study")


@pytest.fixture
def study(study_folder: Path) -> Study:
    return read_study([study_folder])


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

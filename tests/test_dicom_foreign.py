"""Our files as foreign programs see them: dciodvfy, dcentvfy, drtdump, rt-utils, plastimatch."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from dicom_helpers import (
    conformance_errors,
    program,
    run,
    tiny_dose,
    write_all,
    write_tiny_study,
)

from dicomplan.dicom.read import read_study
from dicomplan.dicom.source import Study


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    return write_tiny_study(tmp_path / "study")


@pytest.fixture
def study(study_folder: Path) -> Study:
    return read_study([study_folder])


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
        assert not conformance_errors(output), (path.name, output)
    assert not conformance_errors(run(cross, *files))


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

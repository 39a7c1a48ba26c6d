"""``convert --from-masks``: an RTSTRUCT whose voxels are those of the masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_helpers import CREATED, PATIENT, program, run, shared_case, tiny_ct, write_tiny_study

from dicomplan.cli.main import main
from dicomplan.dicom.read import read_study
from dicomplan.dicom.write_ct import write_ct_series
from dicomplan.errors import InputError, UsageError
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.images.volumes import write_volume
from dicomplan.patient.case import CTVolume, PatientCase
from dicomplan.patient.coverage import coverage_on_grid, rasterize
from dicomplan.workflow.convert import run_convert
from dicomplan.workflow.convert_masks import run_from_masks
from dicomplan.workflow.study_request import StudyRequest

Capture = pytest.CaptureFixture[str]
# Non-square pixels whose edges have more digits than contours are printed with.
GRID = VoxelGrid((6, 20, 24), (2.5, 1.171875, 0.9765625), (-11.23828125, -10.0, -40.0))


@pytest.fixture(scope="module")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ct") / "study"
    volume = CTVolume(GRID, np.zeros(GRID.shape, dtype=np.float32))
    write_ct_series(folder, volume, PATIENT, patient_position="HFS", entropy="masks", created=CREATED)
    return folder


def masks_of_all_kinds() -> dict[str, np.ndarray]:
    random = np.random.default_rng(2)
    single = np.zeros(GRID.shape, dtype=np.uint8)
    single[1, 4, 7] = single[2, 0, 0] = single[5, 19, 23] = 1
    diagonal = np.zeros(GRID.shape, dtype=np.uint8)
    diagonal[1, 4, 7] = diagonal[1, 5, 8] = diagonal[1, 6, 7] = diagonal[2, 4, 8] = 1
    holes = np.zeros(GRID.shape, dtype=np.uint8)
    holes[1:4, 2:18, 2:20] = 1
    holes[2, 5:9, 5:9] = 0
    holes[2, 9:12, 9:11] = 0
    holes[2, 6, 6] = 1
    return {
        "PTV_7000": holes,
        "SpinalCord": single,
        "touching": diagonal,
        "noise": (random.random(GRID.shape) < 0.5).astype(np.uint8),
        "whole": np.ones(GRID.shape, dtype=np.uint8),
    }


def written(folder: Path, masks: dict[str, np.ndarray], suffix: str = ".nii.gz", grid: VoxelGrid = GRID) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in masks.items():
        write_volume(folder / f"{name}{suffix}", values, grid)
    return folder


def made(ct: Path, masks: Path, output: Path) -> PatientCase:
    run_from_masks(StudyRequest((ct,)), masks, output, created=CREATED)
    return read_study([*sorted(ct.glob("CT_*.dcm")), output / "RTSTRUCT.dcm"]).case


def covered(case: PatientCase, name: str) -> np.ndarray:
    return coverage_on_grid(rasterize(case.structure(name), case.ct.grid), case.ct.grid)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".npz"])
def test_binary_masks_come_back_to_the_voxel(ct: Path, tmp_path: Path, suffix: str) -> None:
    masks = masks_of_all_kinds()
    case = made(ct, written(tmp_path / "masks", masks, suffix), tmp_path / "out")
    assert {structure.name for structure in case.structures} == set(masks)
    for name, mask in masks.items():
        fraction = covered(case, name)
        assert np.array_equal(fraction >= 0.5, mask > 0), name
        assert np.abs(fraction - mask).max() < 0.005, name  # printed digits


def test_there_and_back_again(tmp_path: Path) -> None:
    """DICOM to masks to DICOM: names, numbers, types and colours stay, and every voxel stays on its side of one half."""
    study = write_tiny_study(tmp_path / "study")
    before = read_study([study]).case
    for masks in ("binary", "fractional"):
        images = tmp_path / masks
        run_convert(StudyRequest((study,)), images, masks=masks)
        back = made(study, images, tmp_path / f"{masks} back")
        for old, new in zip(before.structures, back.structures, strict=True):
            assert (old.name, old.number, old.roi_type, old.color_rgb) == (
                new.name,
                new.number,
                new.roi_type,
                new.color_rgb,
            )
            there, here = covered(before, old.name), covered(back, new.name)
            assert np.array_equal(there >= 0.5, here >= 0.5)
            if masks == "fractional":
                assert here.sum() == pytest.approx(there.sum(), rel=0.02)


def test_names_numbers_and_types_from_file_names(ct: Path, tmp_path: Path) -> None:
    mask = masks_of_all_kinds()["whole"]
    names = ("7_PTV_7000", "body", "3_Parotid_L", "Tumour bed", "gtv_n")
    folder = written(tmp_path / "masks", dict.fromkeys(names, mask))
    (folder / "notes.txt").write_text("left alone")
    case = made(ct, folder, tmp_path / "out")
    found = {structure.name: (structure.number, structure.roi_type) for structure in case.structures}
    assert found["PTV_7000"] == (7, "PTV")
    assert found["Parotid_L"] == (3, "ORGAN")
    assert found["body"][1] == "EXTERNAL"
    assert found["gtv_n"][1] == "GTV"
    assert found["Tumour bed"][1] == ""
    assert len({number for number, _ in found.values()}) == len(names)
    assert len({structure.color_rgb for structure in case.structures}) == len(names)


def test_masks_in_the_order_of_axes_of_other_programs(ct: Path, tmp_path: Path) -> None:
    """A mask that was reoriented to RAS, as many programs do, is still the same mask."""
    mask = masks_of_all_kinds()["PTV_7000"]
    folder = written(tmp_path / "lps", {"a": mask})
    image = SimpleITK.ReadImage(str(folder / "a.nii.gz"))
    turned = tmp_path / "ras"
    turned.mkdir()
    SimpleITK.WriteImage(SimpleITK.DICOMOrient(image, "RAS"), str(turned / "a.nii.gz"))
    assert SimpleITK.ReadImage(str(turned / "a.nii.gz")).GetDirection()[0] == -1
    assert np.array_equal(covered(made(ct, turned, tmp_path / "out"), "a") >= 0.5, mask > 0)


@pytest.mark.parametrize(
    ("grid", "values", "expected"),
    [
        (VoxelGrid((6, 20, 25), GRID.spacing_mm, GRID.origin_mm), 1.0, "voxels"),
        (VoxelGrid(GRID.shape, GRID.spacing_mm, (-11.0, -10.0, -40.0)), 1.0, "first voxel"),
        (VoxelGrid(GRID.shape, (2.5, 1.2, 0.9765625), GRID.origin_mm), 1.0, "spacing"),
        (GRID, 3.0, "values from"),
        (GRID, -1.0, "values from"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    ct: Path, tmp_path: Path, grid: VoxelGrid, values: float, expected: str
) -> None:
    folder = written(tmp_path / "masks", {"bad": np.full(grid.shape, values, dtype=np.float32)}, grid=grid)
    with pytest.raises(InputError, match=expected) as caught:
        run_from_masks(StudyRequest((ct,)), folder, tmp_path / "out")
    assert caught.value.file is not None
    assert caught.value.file.endswith("bad.nii.gz")
    assert not (tmp_path / "out").exists()


def test_values_that_are_no_numbers_are_refused(ct: Path, tmp_path: Path) -> None:
    """In NRRD and NPZ; the NIfTI library reads them as 0."""
    values = np.zeros(GRID.shape, dtype=np.float32)
    values[2, 3, 4] = np.nan
    for suffix in (".nrrd", ".npz"):
        folder = written(tmp_path / suffix, {"bad": values}, suffix)
        with pytest.raises(InputError, match="values from nan"):
            run_from_masks(StudyRequest((ct,)), folder, tmp_path / "out")


def test_two_masks_of_one_number_and_no_masks_are_refused(ct: Path, tmp_path: Path) -> None:
    mask = masks_of_all_kinds()["whole"]
    folder = written(tmp_path / "masks", {"4_a": mask, "04_b": mask})
    with pytest.raises(InputError, match="ROI number 4"):
        run_from_masks(StudyRequest((ct,)), folder, tmp_path / "out")
    with pytest.raises(InputError, match="no masks"):
        run_from_masks(StudyRequest((ct,)), ct, tmp_path / "out")
    with pytest.raises(UsageError, match="inside"):
        run_from_masks(StudyRequest((ct,)), folder, folder / "out")


def test_a_hostile_index_does_no_harm(ct: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "masks", {"1_a": masks_of_all_kinds()["whole"]})
    entry = {
        "file": "../../../etc/passwd",
        "kind": "mask",
        "name": "x",
        "number": 1,
        "roi_type": "",
        "color_rgb": [0, 0, 0],
    }
    (folder / "index.json").write_text(json.dumps({"schema": 1, "files": [entry]}))
    assert [item.name for item in made(ct, folder, tmp_path / "out").structures] == ["a"]
    for text in ("[" * 100_000, '{"schema": 1, "files": [{"kind": "mask"}]}', "nonsense"):
        (folder / "index.json").write_text(text)
        with pytest.raises(InputError, match="index"):
            run_from_masks(StudyRequest((ct,)), folder, tmp_path / "out2")


def test_an_empty_mask_is_a_roi_without_contours(ct: Path, tmp_path: Path) -> None:
    masks = {"full": masks_of_all_kinds()["whole"], "nothing": np.zeros(GRID.shape, dtype=np.uint8)}
    outcome = run_from_masks(StudyRequest((ct,)), written(tmp_path / "masks", masks), tmp_path / "out")
    assert any("'nothing' is empty" in finding.message for finding in outcome.findings)
    dataset = pydicom.dcmread(tmp_path / "out" / "RTSTRUCT.dcm")
    assert len(dataset.StructureSetROISequence) == 2


def test_the_object_is_reproducible_and_complete(ct: Path, tmp_path: Path) -> None:
    folder = written(tmp_path / "masks", masks_of_all_kinds())
    for name in ("one", "two"):
        made(ct, folder, tmp_path / name)
    content = [(tmp_path / name / "RTSTRUCT.dcm").read_bytes() for name in ("one", "two")]
    assert content[0] == content[1]
    dataset = pydicom.dcmread(tmp_path / "one" / "RTSTRUCT.dcm")
    first = pydicom.dcmread(sorted(ct.glob("CT_*.dcm"))[0])
    assert dataset.StudyInstanceUID == first.StudyInstanceUID
    assert dataset.PatientID == first.PatientID
    images = {pydicom.dcmread(path).SOPInstanceUID for path in ct.glob("CT_*.dcm")}
    for roi in dataset.ROIContourSequence:
        for contour in roi.ContourSequence:
            assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID in images
            assert int(contour.NumberOfContourPoints) >= 4
    assert all("RTROIInterpretedType" in item for item in dataset.RTROIObservationsSequence)


def test_command(ct: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = written(tmp_path / "masks", masks_of_all_kinds())
    out = str(tmp_path / "out")
    assert main(["convert", str(ct), out, "--from-masks", str(folder), "--json", "--quiet"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["files"]
    assert entry["file"] == "RTSTRUCT.dcm"
    assert {roi["name"]: roi["voxels"] for roi in entry["structures"]}["SpinalCord"] == 3
    assert main(["convert", str(ct), out, "--from-masks", str(folder), "--overwrite", "--quiet"]) == 0
    assert "PTV_7000" in capsys.readouterr().out
    assert main(["convert", str(ct), out, "--from-masks", str(tmp_path / "nowhere"), "--overwrite"]) == 2
    assert main(["convert", str(ct), out, "--from-masks", str(folder), "--format", "npz", "--overwrite"]) == 2
    other = write_tiny_study(tmp_path / "other", tiny_ct())
    assert main(["convert", str(other), str(tmp_path / "o2"), "--from-masks", str(folder), "--quiet"]) == 3
    assert "expected the CT's" in capsys.readouterr().err


def test_plastimatch_sees_the_same_voxels(ct: Path, tmp_path: Path) -> None:
    """An independent rasteriser (voxel centres, contours of a plane combined by XOR) gives the masks back."""
    plastimatch = program("plastimatch")
    masks = masks_of_all_kinds()
    made(ct, written(tmp_path / "masks", masks), tmp_path / "out")
    theirs = tmp_path / "theirs"
    run(
        *(plastimatch, "convert", "--xor-contours", "--input", tmp_path / "out" / "RTSTRUCT.dcm"),
        *("--referenced-ct", ct, "--output-prefix", theirs, "--prefix-format", "nrrd"),
    )
    for name, mask in masks.items():
        found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(theirs / f"{name}.nrrd")))
        assert np.array_equal(found > 0, mask > 0), name


def test_a_shared_case_there_and_back(tmp_path: Path) -> None:
    folder = shared_case("openkbp_247")
    before = read_study([folder]).case
    run_convert(StudyRequest((folder,)), tmp_path / "images", image_format="nrrd")
    for large in ("BODY", "PTV56", "PTV70"):
        next((tmp_path / "images" / "masks").glob(f"*_{large}.nrrd")).unlink()
    run_from_masks(StudyRequest((folder,)), tmp_path / "images", tmp_path / "out")
    ct_files = [
        path for path in folder.rglob("*.dcm") if pydicom.dcmread(path, specific_tags=["Modality"]).Modality == "CT"
    ]
    back = read_study([*ct_files, tmp_path / "out" / "RTSTRUCT.dcm"]).case
    assert len(back.structures) == 7
    for structure in back.structures:
        if structure.contours:
            there, here = covered(before, structure.name), covered(back, structure.name)
            assert np.array_equal(there >= 0.5, here >= 0.5), structure.name
            assert here.sum() == pytest.approx(there.sum(), rel=0.003), structure.name

"""The command ``evaluate``: doses with known answers in a water box, sums, goals, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_helpers import edit, shared_case
from dose_helpers import CREATED, beam, run_json, square, write_box, write_fields
from pydicom.dataset import Dataset

from dicomplan.dicom.identity import Identity
from dicomplan.dicom.read import read_study
from dicomplan.dicom.write_dose import write_dose
from dicomplan.dose.summing import on_axes, summed
from dicomplan.dose.volume import DoseVolume
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.machine.library import load_machine

TEMPLATE = """
dicomplan: 1
name: test
prescription: {fractions: 25, targets: {PTV: 50 Gy}}
machine: generic_6mv
structures: {PTV: [PTV_5000]}
derived: {Shell: (PTV + 10 mm) - PTV}
beams: {technique: imrt, isocenter: targets, gantry: [0, 90]}
constraints:
  PTV: [Dmax <= LIMIT Gy]
goals:
  - PTV: [D95% >= 45 Gy]
  - Shell: [Dmean <= 60 Gy]
"""


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_box(tmp_path_factory.mktemp("box") / "study")


def store(
    path: Path,
    study: Path,
    dose_gy: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    *,
    grid: VoxelGrid | None = None,
    plan_uid: str = "1.2.3",
    beam_number: int | None = None,
) -> Path:
    """An RTDOSE of a function of patient x, y, z (mm), on the CT's grid unless told otherwise."""
    read = read_study([study])
    grid = grid or read.case.ct.grid
    index = np.stack(np.meshgrid(*(np.arange(count) for count in grid.shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(grid.patient_from_index(index), -1, 0)
    values = np.broadcast_to(dose_gy(x, y, z), grid.shape).astype(np.float32)
    write_dose(
        path,
        read.source,
        DoseVolume(grid, values),
        identity=Identity(f"dose {path.name}", CREATED),
        plan_uid=plan_uid,
        summation="PLAN" if beam_number is None else "BEAM",
        beam_number=beam_number,
    )
    return path


def uniform(value: float) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    return lambda x, y, z: np.full(np.shape(x), value)


def slope(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """50 Gy in the middle, 0.1 Gy/mm along x."""
    return 50.0 + 0.1 * x


# values


def test_a_slope_has_the_analytic_metrics(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dose = store(tmp_path / "RD.dcm", box, slope)
    code, document = run_json(capsys, "evaluate", box, "--dose", dose)
    assert code == 0
    assert (document["schema"], document["goals"]) == (1, [])
    assert set(document["structures"]) == {"BODY", "PTV_5000"}
    body = document["structures"]["BODY"]
    assert body["volume_cc"] == pytest.approx(1000.0)
    # a cube from -50 to 50 mm: the dose is uniformly distributed from 45 to 55 Gy
    for key, expected in (
        ("Dmean_gy", 50.0),
        ("D50%_gy", 50.0),
        ("D2%_gy", 54.8),
        ("D98%_gy", 45.2),
        ("D95%_gy", 45.5),
    ):
        assert body[key] == pytest.approx(expected, abs=0.005)
    dvh = body["dvh"]
    assert len(dvh["dose_gy"]) == len(dvh["volume_fraction"])
    assert np.interp(47.5, dvh["dose_gy"], dvh["volume_fraction"]) == pytest.approx(0.75, abs=0.003)
    assert (dvh["volume_fraction"][0], dvh["volume_fraction"][-1]) == (1.0, 0.0)
    target = document["structures"]["PTV_5000"]
    assert target["Dmean_gy"] == pytest.approx(50.0, abs=0.005)
    # a ball of 30 mm, cut into slices of 5 mm
    assert target["volume_cc"] == pytest.approx(113.1, rel=0.01)
    assert document["dose"]["max_dose_gy"] == pytest.approx(50.0 + 0.1 * 77.5, rel=1e-6)


def test_several_doses_are_summed(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = store(tmp_path / "a.dcm", box, uniform(20.0), plan_uid="1.1")
    second = store(tmp_path / "b.dcm", box, slope, plan_uid="1.2")
    _, document = run_json(capsys, "evaluate", box, "--dose", first, "--dose", second)
    assert document["dose"]["summed"] == 2
    assert document["structures"]["BODY"]["Dmean_gy"] == pytest.approx(70.0, abs=0.005)
    assert document["structures"]["BODY"]["D2%_gy"] == pytest.approx(74.8, abs=0.005)
    # one file named twice counts once
    _, document = run_json(capsys, "evaluate", box, "--dose", first, "--dose", first)
    assert document["structures"]["BODY"]["Dmean_gy"] == pytest.approx(20.0, abs=1e-3)
    assert any("counts once" in one["message"] for one in document["findings"])


def test_doses_on_different_grids(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = read_study([box]).case.ct.grid.frame_of_reference_uid
    coarse = VoxelGrid((12, 25, 17), (12.0, 6.0, 9.0), (-70.0, -73.0, -66.0), frame_of_reference_uid=frame)
    first = store(tmp_path / "a.dcm", box, slope, grid=coarse)
    second = store(tmp_path / "b.dcm", box, slope, plan_uid="1.9")
    _, document = run_json(capsys, "evaluate", box, "--dose", first, "--dose", second)
    body = document["structures"]["BODY"]
    for key, expected in (("Dmean_gy", 100.0), ("D2%_gy", 109.6), ("D98%_gy", 90.4)):
        assert body[key] == pytest.approx(expected, abs=0.02)
    assert any("different grids" in one["message"] for one in document["findings"])


def test_doses_of_a_study(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study"
    shutil.copytree(box, study)
    plan = write_fields(
        study / "RP.dcm",
        box,
        [
            (beam((0.0, 0.0, 0.0), 90.0 * number, number), [(square(load_machine("generic_6mv"), 50.0), 10.0)])
            for number in (1, 2)
        ],
    )
    uid = str(pydicom.dcmread(plan).SOPInstanceUID)
    code, document = run_json(capsys, "evaluate", study)
    assert code == 3
    assert "no RTDOSE" in document["error"]["message"]
    store(study / "RD1.dcm", box, uniform(10.0), plan_uid=uid, beam_number=1)
    code, document = run_json(capsys, "evaluate", study)
    assert code == 3  # the other beam's is missing
    assert "--dose" in document["error"]["hint"]
    store(study / "RD2.dcm", box, uniform(15.0), plan_uid=uid, beam_number=2)
    _, document = run_json(capsys, "evaluate", study)
    assert document["structures"]["BODY"]["Dmean_gy"] == pytest.approx(25.0, abs=1e-3)
    # the plan's dose stands for its beams'
    store(study / "RD.dcm", box, uniform(26.0), plan_uid=uid)
    _, document = run_json(capsys, "evaluate", study)
    assert document["structures"]["BODY"]["Dmean_gy"] == pytest.approx(26.0, abs=1e-3)
    code, document = run_json(capsys, "evaluate", study, "--dose", study / "RD.dcm", "--dose", study / "RD1.dcm")
    assert code == 3
    assert "twice" in document["error"]["message"]
    # doses of two plans belong together, two doses of one plan leave a choice
    other = store(study / "other.dcm", box, uniform(4.0), plan_uid="1.5")
    _, document = run_json(capsys, "evaluate", study)
    assert document["structures"]["BODY"]["Dmean_gy"] == pytest.approx(30.0, abs=1e-3)
    edit(other, lambda d: setattr(d.ReferencedRTPlanSequence[0], "ReferencedSOPInstanceUID", uid))
    code, document = run_json(capsys, "evaluate", study)
    assert code == 3
    assert "--dose" in document["error"]["hint"]


@pytest.mark.parametrize("seed", range(4))
def test_sum_and_turned_grids_keep_a_linear_dose(seed: int) -> None:
    """Grids turned by right angles in any way, of any steps: a linear dose stays itself inside of all of them."""
    random = np.random.default_rng(seed)
    doses = []
    for _ in range(2):
        axes = np.eye(3)[random.permutation(3)] * random.choice([-1.0, 1.0], 3)[:, None]
        axes[:, 2] *= np.sign(np.linalg.det(axes))
        counts = tuple(int(value) for value in random.integers(20, 30, 3))
        spacing = tuple(float(value) for value in random.uniform(2.0, 4.0, 3))
        grid = VoxelGrid(counts, spacing, (0.0, 0.0, 0.0), tuple(tuple(row) for row in axes.tolist()))
        middle = grid.patient_from_index([0.5 * (count - 1) for count in counts])
        grid = VoxelGrid(counts, spacing, tuple(-middle), grid.direction)
        index = np.stack(np.meshgrid(*(np.arange(count) for count in counts), indexing="ij"), axis=-1)
        values = 50.0 + grid.patient_from_index(index) @ [0.1, -0.2, 0.05]
        doses.append(DoseVolume(grid, values.astype(np.float32)))
    straight = [on_axes(dose, ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))) for dose in doses]
    for before, after in zip(doses, straight, strict=True):
        assert sorted(after.grid.shape) == sorted(before.grid.shape)
        np.testing.assert_allclose(np.sort(after.dose_gy.ravel()), np.sort(before.dose_gy.ravel()), rtol=1e-5)
    total = summed(straight)
    index = np.stack(np.meshgrid(*(np.arange(count) for count in total.grid.shape), indexing="ij"), axis=-1)
    points = total.grid.patient_from_index(index)
    inside = (np.abs(points) < 15.0).all(axis=-1)
    expected = 2.0 * (50.0 + points @ [0.1, -0.2, 0.05])
    np.testing.assert_allclose(total.dose_gy[inside], expected[inside], rtol=1e-5)


# goals


@pytest.mark.parametrize(("limit", "expected"), [("60", 0), ("52", 5)])
def test_goals_and_exit_code(
    limit: str, expected: int, box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template = tmp_path / "t.yaml"
    template.write_text(TEMPLATE.replace("LIMIT", limit))
    dose = store(tmp_path / "RD.dcm", box, slope)
    output = tmp_path / "out"
    code, document = run_json(capsys, "evaluate", box, "--dose", dose, "--template", template, "--output", output)
    assert code == expected
    assert document["status"] == ("accepted" if expected == 0 else "failed")
    by_goal = {(one["structure"], one["goal"]): one for one in document["goals"]}
    hard = by_goal["PTV", f"Dmax <= {limit} Gy"]
    assert (hard["kind"], hard["priority"], hard["ideal"], hard["unit"]) == ("hard", 0, None, "Gy")
    assert hard["achieved"] == pytest.approx(53.0, abs=0.1)
    assert by_goal["PTV", "D95% >= 45 Gy"]["met"]
    assert by_goal["Shell", "Dmean <= 60 Gy"]["achieved"] == pytest.approx(50.0, abs=0.01)
    assert {"BODY", "PTV_5000", "PTV", "Shell"} <= set(document["structures"])
    # everything is written, whatever the verdict
    assert sorted(path.name for path in output.iterdir()) == ["dvh.csv", "evaluation.json", "log.txt"]


def test_template_that_needs_what_is_not_there(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template = tmp_path / "t.yaml"
    template.write_text(TEMPLATE.replace("LIMIT", "60").replace("{PTV: [PTV_5000]}", "{PTV: [], Heart: []}"))
    dose = store(tmp_path / "RD.dcm", box, slope)
    code, document = run_json(capsys, "evaluate", box, "--dose", dose, "--template", template)
    assert code == 4
    assert "Heart" in json.dumps(document["error"]) or "PTV" in json.dumps(document["error"])
    assert run_json(capsys, "evaluate", box, "--dose", dose, "--template", "no_such_template")[0] == 2


# files


def test_output_files(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dose, output = store(tmp_path / "RD_of_somebody.dcm", box, slope), tmp_path / "out"
    before = {path: path.read_bytes() for path in box.iterdir()}
    command = ("evaluate", box, "--dose", dose, "--output", output)
    _, document = run_json(capsys, *command)
    assert {path: path.read_bytes() for path in box.iterdir()} == before
    stored = json.loads((output / "evaluation.json").read_text())
    assert stored["structures"] == document["structures"]
    for name in ("log.txt", "evaluation.json"):
        for word in ("PHANTOM", "DICOMPLAN-WB", "somebody", str(box)):
            assert word not in (output / name).read_text()
    with (output / "dvh.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    body = [row for row in rows if row["structure"] == "BODY"]
    assert [float(row["dose_gy"]) for row in body] == document["structures"]["BODY"]["dvh"]["dose_gy"]
    assert float(body[0]["volume_cc"]) == pytest.approx(1000.0)
    assert run_json(capsys, *command)[0] == 2
    assert run_json(capsys, *command, "--overwrite")[0] == 0
    (output / "notes.txt").write_text("mine")
    assert run_json(capsys, *command, "--overwrite")[0] == 2
    assert run_json(capsys, "evaluate", box, "--dose", dose, "--overwrite")[0] == 2
    assert run_json(capsys, "evaluate", box, "--dose", tmp_path / "nothing.dcm")[0] == 2


def test_text_for_people(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dicomplan.cli.main import main

    dose = store(tmp_path / "RD.dcm", box, uniform(12.5))
    assert main(["evaluate", str(box), "--dose", str(dose), "--quiet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    body = next(line for line in lines if "BODY" in line)
    assert body.split() == ["BODY", "1000.00", *["12.50"] * 7]


def test_without_ct(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dose = store(tmp_path / "RD.dcm", box, slope)
    code, document = run_json(capsys, "evaluate", box / "RTSTRUCT.dcm", dose)
    assert code == 0
    assert any("no CT" in one["message"] for one in document["findings"])
    body = document["structures"]["BODY"]
    assert body["volume_cc"] == pytest.approx(1000.0, rel=1e-3)
    assert body["D2%_gy"] == pytest.approx(54.8, abs=0.01)


def test_part_of_a_structure_outside_of_the_dose(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = read_study([box]).case.ct.grid.frame_of_reference_uid
    half = VoxelGrid((40, 40, 20), (5.0, 5.0, 5.0), (2.5, -97.5, -97.5), frame_of_reference_uid=frame)
    dose = store(tmp_path / "RD.dcm", box, uniform(10.0), grid=half)
    _, document = run_json(capsys, "evaluate", box, "--dose", dose)
    assert any("50 % of BODY lies outside" in one["message"] for one in document["findings"])
    assert document["structures"]["BODY"]["Dmean_gy"] == pytest.approx(5.0, abs=0.01)


# refusals


def relative(dataset: Dataset) -> None:
    dataset.DoseUnits = "RELATIVE"


REFUSALS: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "relative": (relative, "RELATIVE"),
    "frame": (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"), "1.2.3"),
    "patient": (lambda d: setattr(d, "PatientID", "somebody"), "another patient"),
    "no dose": (lambda d: setattr(d, "Modality", "RTPLAN"), "RTDOSE"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str, box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, words = REFUSALS[name]
    dose = store(tmp_path / "RD.dcm", box, slope)
    edit(dose, change)
    code, document = run_json(capsys, "evaluate", box, "--dose", dose, "--output", tmp_path / "out")
    assert code == 3
    assert words in document["error"]["message"]
    assert document["error"]["file"] == str(dose)
    assert not (tmp_path / "out").exists()


def test_structures_are_needed(box: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dose = store(tmp_path / "RD.dcm", box, slope)
    code, document = run_json(capsys, "evaluate", *sorted(box.glob("CT_*")), "--dose", dose)
    assert code == 3
    assert "RTSTRUCT" in document["error"]["message"]


def test_real_studies(capsys: pytest.CaptureFixture[str]) -> None:
    """XiO's own dose of a lung case: the prescription is in its target, the hottest point in nobody else."""
    code, document = run_json(capsys, "evaluate", shared_case("lung1-002_xio_full"))
    assert code == 0
    target = document["structures"]["PTV-1"]
    assert 69.0 < target["Dmean_gy"] < 73.0
    assert target["Dmax_gy"] == max(one["Dmax_gy"] for one in document["structures"].values() if "Dmax_gy" in one)
    code, document = run_json(capsys, "evaluate", shared_case("pydicom_rt"))
    assert code == 3

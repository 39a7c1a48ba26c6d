"""A tiny phantom written as DICOM (12 slices of 32 x 32), a machine and a plan, and editing of single files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRBigEndian

from dicomplan.beams.delivery import Aperture, Beam, BeamDelivery, Segment
from dicomplan.dicom.identity import Identity
from dicomplan.dicom.source import Study
from dicomplan.dicom.write_ct import PatientValues, write_ct_series
from dicomplan.dicom.write_dose import write_dose
from dicomplan.dicom.write_plan import write_plan
from dicomplan.dicom.write_structures import WrittenStructures, write_phantom_structures, write_structure_set
from dicomplan.dose.volume import DoseVolume
from dicomplan.geometry.grid import IDENTITY, Matrix, VoxelGrid
from dicomplan.machine.model import BeamModel, Calibration, JawModel, MachineModel, MlcModel
from dicomplan.patient.case import CTVolume, Structure
from dicomplan.plan.template import Prescription, TargetLevel

CREATED = datetime(2026, 1, 2, 3, 4, 5)
PATIENT = PatientValues("PHANTOM^Tiny", "DICOMPLAN-TINY")
CASES = Path(__file__).parents[1].parent / "shared" / "data" / "cases"


def shared_case(name: str) -> Path:
    """Folder of a shared case; skips the test where it is absent."""
    folder = CASES / name
    if not folder.is_dir():
        pytest.skip(f"shared case {name} is absent")
    return folder


def program(name: str) -> str:
    """Path of a foreign program; skips the test where it is absent."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def run(*command: str | Path) -> str:
    """stdout and stderr of a command; fails the test on a signal."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode >= 0, f"{command[0]} died of signal {-done.returncode}: {done.stderr[-300:]}"
    return done.stdout + done.stderr


def conformance_errors(output: str) -> list[str]:
    """The lines of dciodvfy's or dcentvfy's output that report an error."""
    return [line for line in output.splitlines() if line.startswith("Error") or "Error -" in line]


def tiny_ct(direction: Matrix = IDENTITY) -> CTVolume:
    """Air round a water box with an off-centre dense box; 12 planes every 3 mm, 32 x 32 pixels of 2 mm."""
    grid = VoxelGrid((12, 32, 32), (3.0, 2.0, 2.0), (-31.0, -31.0, -16.5), direction)
    hu = np.full(grid.shape, -1000.0, dtype=np.float32)
    hu[:, 4:28, 4:28] = 0.0
    hu[3:7, 8:14, 16:24] = 300.0
    return CTVolume(grid, hu)


def box(grid: VoxelGrid, planes: range, low: tuple[float, float], high: tuple[float, float]) -> tuple[np.ndarray, ...]:
    """Rectangles on planes of the grid, corners in fractional (row, column) index."""
    rows = (low[0], low[0], high[0], high[0])
    columns = (low[1], high[1], high[1], low[1])
    return tuple(
        grid.patient_from_index(np.array([(k, r, c) for r, c in zip(rows, columns, strict=True)])) for k in planes
    )


def tiny_structures(grid: VoxelGrid) -> tuple[Structure, ...]:
    """BODY, PTV (off centre, with a hole) and an organ on fractional positions."""
    target = box(grid, range(3, 7), (8.0, 16.0), (14.0, 24.0)) + box(grid, range(3, 7), (10.0, 18.0), (12.0, 20.0))
    return (
        Structure("BODY", 1, "EXTERNAL", box(grid, range(12), (3.5, 3.5), (27.5, 27.5)), (0, 255, 0)),
        Structure("PTV_7000", 2, "PTV", target, (255, 0, 0)),
        Structure("SpinalCord", 5, "ORGAN", box(grid, range(1, 11), (17.3217, 14.1), (20.7, 17.4)), (0, 0, 255)),
    )


def write_tiny_study(
    folder: Path, ct: CTVolume | None = None, patient_position: str = "HFS", entropy: str = "tiny"
) -> Path:
    """CT and RTSTRUCT of the tiny phantom in ``folder``."""
    ct = ct or tiny_ct()
    files = write_ct_series(folder, ct, PATIENT, patient_position=patient_position, entropy=entropy, created=CREATED)
    write_phantom_structures(folder / "RS.dcm", tiny_structures(ct.grid), files, entropy=entropy, created=CREATED)
    return folder


def edit(path: Path, change: Callable[[Dataset], None]) -> None:
    """Change one DICOM file in place."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def as_big_endian(dataset: Dataset, path: Path) -> None:
    """Save a dataset in Explicit VR Big Endian (pixel data must be swapped already)."""
    copy = Dataset()
    for element in dataset:
        copy.add(element)
    copy.file_meta = dataset.file_meta
    copy.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    pydicom.dcmwrite(path, copy, implicit_vr=False, little_endian=False, enforce_file_format=True)


def tiny_machine(*, jaw_x: bool = True) -> MachineModel:
    """Twelve leaf pairs of 5 mm."""
    one = np.array([1.0])
    jaw = JawModel((-200.0, 100.0), (-100.0, 200.0), 5.0)
    leaves = MlcModel(np.arange(-6, 7) * 5.0, 145.0, 160.0, 200.0, 0.5, True, 0.015)
    beam = BeamModel(6.0, one, one, 1.0, 400.0, one, one)
    return MachineModel(
        "tiny",
        "",
        1000.0,
        jaw if jaw_x else None,
        jaw,
        leaves,
        beam,
        Calibration(0.01, 900.0, 100.0, 100.0),
        600.0,
        1.0,
        1.0,
    )


def tiny_deliveries(seed: int, *, jaw_x: bool = True, beams: int = 2, segments: int = 3) -> list[BeamDelivery]:
    """Random apertures and metersets."""
    random = np.random.default_rng(seed)

    def aperture() -> Aperture:
        left = random.uniform(-60, 20, 12)
        edges = (-50.0, 50.25) if jaw_x else None
        return Aperture(np.stack([left, left + random.uniform(0.5, 40, 12)]), (-30.0, 30.0), edges)

    return [
        BeamDelivery(
            Beam(number + 1, f"{number + 1}_G{40 * number:03d}", 40.0 * number, 15.0, 350.0, (11.0, -9.0, -1.5)),
            tuple(Segment(aperture(), float(random.uniform(1, 30))) for _ in range(segments)),
        )
        for number in range(beams)
    ]


PRESCRIPTION = Prescription(35, (TargetLevel("PTV_7000", 70.0), TargetLevel("PTV_5600", 56.0)))
IDENTITY_OF_TESTS = Identity("tests", CREATED)


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

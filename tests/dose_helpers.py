"""Water boxes and plans of rectangular fields as DICOM files, and the command line on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from dicomplan.beams.delivery import Aperture, Beam, BeamDelivery, Segment
from dicomplan.cli.main import main
from dicomplan.dicom.identity import Identity
from dicomplan.dicom.read import read_dose, read_study
from dicomplan.dicom.write_plan import write_plan
from dicomplan.geometry.resample import trilinear
from dicomplan.machine.library import load_machine
from dicomplan.machine.model import MachineModel
from dicomplan.phantoms.water_box import water_box
from dicomplan.phantoms.write import write_phantom_study
from dicomplan.plan.template import Prescription, TargetLevel

CREATED = datetime(2026, 1, 2, 3, 4, 5)
Point = tuple[float, float, float]


def write_box(folder: Path, *, size_mm: float = 100.0, voxel_mm: float = 5.0) -> Path:
    """A cube of exact water (0 HU) centred at 0 in air, with BODY and a ball PTV_5000 of 30 mm radius."""
    write_phantom_study(folder, water_box(size_mm=size_mm, voxel_mm=voxel_mm, noise_hu=0.0))
    return folder


def rectangle(machine: MachineModel, x_mm: tuple[float, float], y_mm: tuple[float, float]) -> Aperture:
    """A rectangular field: jaws and, where they cross it, leaves at its edges; other leaf pairs closed at its first edge."""
    low, high = machine.mlc.leaf_boundaries_mm[:-1], machine.mlc.leaf_boundaries_mm[1:]
    inside = (high > y_mm[0]) & (low < y_mm[1])
    leaves = np.stack([np.full(len(low), x_mm[0]), np.where(inside, x_mm[1], x_mm[0])])
    return Aperture(leaves, y_mm if machine.jaw_y else None, x_mm if machine.jaw_x else None)


def square(machine: MachineModel, side_mm: float) -> Aperture:
    """A square field about the axis."""
    return rectangle(machine, (-0.5 * side_mm, 0.5 * side_mm), (-0.5 * side_mm, 0.5 * side_mm))


def write_fields(
    path: Path,
    study: Path,
    fields: Sequence[tuple[Beam, Sequence[tuple[Aperture, float]]]],
    *,
    machine: str = "generic_6mv",
    fractions: int = 1,
) -> Path:
    """An RTPLAN of ``fields`` (apertures and MU of one fraction) for the study."""
    read = read_study([study])
    deliveries = [BeamDelivery(beam, tuple(Segment(*part) for part in parts)) for beam, parts in fields]
    write_plan(
        path,
        read.source,
        deliveries,
        load_machine(machine),
        Prescription(fractions, (TargetLevel("PTV_5000", 50.0),)),
        identity=Identity(f"fields {path.name}", CREATED),
        structure_set_uid=str(read.source.structure_set.SOPInstanceUID),
        patient_position=read.case.patient_position,
    )
    return path


def beam(isocenter_mm: Point, gantry_deg: float = 0.0, number: int = 1) -> Beam:
    """A beam without couch and collimator angle."""
    return Beam(number, f"beam {number}", gantry_deg, 0.0, 0.0, isocenter_mm)


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, dict]:
    """Exit code and document of a command with --json."""
    capsys.readouterr()
    code = main([*(str(part) for part in arguments), "--json", "--quiet"])
    return code, json.loads(capsys.readouterr().out)


def dose_at(path: Path, point_mm: Point) -> float:
    """Trilinear dose of an RTDOSE at a patient point, Gy."""
    dose = read_dose(path)
    return float(trilinear(dose.dose_gy, dose.grid, dose.grid.local_from_patient(point_mm)))

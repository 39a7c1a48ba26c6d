"""Absolute dose through DICOM alone: a water box and RTPLANs of 100 MU, calculated by the command ``dose``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dose_helpers import beam, dose_at, square, write_box, write_fields

from dicomplan.cli.main import main
from dicomplan.machine.library import load_machine, machine_names

EGSNRC = Path(__file__).parents[1].parent / "shared" / "reference" / "egsnrc"
DEPTH_MM, SURFACE_MM = 100.0, 150.0
# isocentre 100 mm below the face of the box that the beam enters: SSD 900 mm (HFS: gantry 90 shines from the left, +x)
ISOCENTERS = {0: (0.0, -50.0, 0.0), 90: (50.0, 0.0, 0.0), 180: (0.0, 50.0, 0.0), 270: (-50.0, 0.0, 0.0)}


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_box(tmp_path_factory.mktemp("box") / "study", size_mm=2.0 * SURFACE_MM)


def calculated_gy(
    box: Path,
    folder: Path,
    side_mm: float,
    *,
    machine: str = "reference_6mv",
    gantry: int = 0,
    fractions: int = 1,
    engine: str = "collapsed_cone",
) -> float:
    """Dose at the isocentre of 100 MU a fraction through a square field, read from the RTDOSE."""
    isocenter = ISOCENTERS[gantry]
    plan = write_fields(
        folder / "RP.dcm",
        box,
        [(beam(isocenter, gantry), [(square(load_machine(machine), side_mm), 100.0)])],
        machine=machine,
        fractions=fractions,
    )
    output = folder / "out"
    code = main(
        ["dose", str(box), "--plan", str(plan), "--engine", engine, "--grid", "5", "--output", str(output), "--quiet"]
    )
    assert code == 0
    return dose_at(output / "RTDOSE.dcm", isocenter)


@pytest.mark.parametrize("engine", ["collapsed_cone", "pencil_beam"])
@pytest.mark.parametrize("fractions", [1, 35])
@pytest.mark.parametrize("machine", machine_names())
def test_calibration_field_gives_the_stated_dose(
    box: Path, tmp_path: Path, machine: str, fractions: int, engine: str
) -> None:
    calibration = load_machine(machine).calibration
    if (calibration.source_surface_distance_mm, calibration.depth_mm, calibration.field_mm) != (900.0, DEPTH_MM, 100.0):
        pytest.skip("calibrated in another geometry")
    dose = calculated_gy(box, tmp_path, 100.0, machine=machine, fractions=fractions, engine=engine)
    assert dose == pytest.approx(100.0 * calibration.dose_per_mu_gy * fractions, rel=0.005)


@pytest.mark.parametrize("gantry", [90, 180, 270])
def test_every_face_of_the_box_gives_the_same(box: Path, tmp_path: Path, gantry: int) -> None:
    assert calculated_gy(box, tmp_path, 100.0, gantry=gantry) == pytest.approx(1.0, rel=0.005)


def test_output_factor_of_a_small_field_is_that_of_monte_carlo(box: Path, tmp_path: Path) -> None:
    if not EGSNRC.is_dir():
        pytest.skip("the Monte Carlo doses lie beside the repository")
    expected = monte_carlo_gy(50.0) / monte_carlo_gy(100.0)
    assert 0.9 < expected < 0.97
    assert calculated_gy(box, tmp_path, 50.0) == pytest.approx(expected, rel=0.01)


def test_output_factor_of_a_large_field(box: Path, tmp_path: Path) -> None:
    """No Monte Carlo dose of it is here: both engines agree, and it is more than that of the calibration field."""
    factors = []
    for engine in ("collapsed_cone", "pencil_beam"):
        (tmp_path / engine).mkdir()
        factors.append(calculated_gy(box, tmp_path / engine, 200.0, engine=engine))
    assert factors[0] == pytest.approx(factors[1], rel=0.01)
    assert 1.04 < factors[0] < 1.12


def monte_carlo_gy(side_mm: float) -> float:
    """Dose at 100 mm depth for one photon per cm2 on the axis, at the isocentre, from the EGSnrc run of a square field.

    The file states it per photon on each cm2 of the field on average. An isotropic source at the distance d sends into
    a square of half side a the solid angle 4 arcsin(a^2 / (a^2 + d^2)): the mean is that times d^2 / (4 a^2) of the
    axis' fluence.
    """
    with np.load(EGSNRC / f"water_{side_mm / 10:.0f}x{side_mm / 10:.0f}.npz") as file:
        edges = {name: file[f"{name}_edges_mm"] for name in ("depth", "y", "x")}
        dose = file["dose_gy_cm2_per_photon"]
    depth = 0.5 * (edges["depth"][1:] + edges["depth"][:-1])
    middle = {name: 0.5 * (edges[name][1:] + edges[name][:-1]) for name in ("y", "x")}
    row, column = (np.abs(middle[name]) <= 5.0 for name in ("y", "x"))
    axis = dose[:, row][:, :, column].mean(axis=(1, 2))
    near = (depth > 60.0) & (depth < 140.0)
    fitted = np.polyfit(depth[near] - DEPTH_MM, np.log(axis[near]), 2)
    half = 0.5 * side_mm
    mean = 4.0 * np.arcsin(half**2 / (half**2 + 1000.0**2)) * 1000.0**2 / (4.0 * half**2)
    return float(np.exp(fitted[-1]) * mean)

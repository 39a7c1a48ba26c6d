"""Commissioning: known parameters come back, the machine file can be read, the report is one file, exit codes."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dicomplan.cli.main import main
from dicomplan.commissioning.commission import Commissioning
from dicomplan.commissioning.fit import fit_beam, free_parameters, with_parameters
from dicomplan.commissioning.measurements import DepthCurve, Measurements, OutputFactors, Profile
from dicomplan.commissioning.report import report_html
from dicomplan.commissioning.residuals import edges, residuals
from dicomplan.commissioning.result import commissioned_machine, residual_lines
from dicomplan.commissioning.selection import every_second
from dicomplan.commissioning.water import SpectrumBasis, WaterTank, basis_kernel, spectrum_basis
from dicomplan.dose.pencil_kernel import pencil_kernel
from dicomplan.machine.library import load_machine, machine_names
from dicomplan.machine.model import MachineModel
from dicomplan.machine.parse import parse_machine
from dicomplan.machine.write import machine_file_text

TRUTH = {
    "spectrum_power": 0.4,
    "spectrum_slope_per_mev": -0.1,
    "electron_weight": 0.15,
    "electron_depth_mm": 7.0,
    "extra_focal_weight": 0.07,
    "extra_focal_fwhm_mm": 35.0,
    "source_fwhm_mm": 1.6,
    "softening_per_mm": 0.0003,
    "leaf_end_offset_mm": 0.3,
    "leaf_end_blur_mm": 1.5,
}


@pytest.fixture(scope="module")
def start() -> MachineModel:
    machine = load_machine("generic_6mv")
    beam = replace(machine.beam, extra_focal_distance_mm=125.0, extra_focal_tail=0.4, collimator_distance_mm=400.0)
    return replace(machine, jaw_x=None, beam=beam)


@pytest.fixture(scope="module")
def basis(start: MachineModel) -> SpectrumBasis:
    return spectrum_basis(start.beam)


@pytest.fixture(scope="module")
def made(start: MachineModel, basis: SpectrumBasis) -> Commissioning:
    """A commissioning to measurements that the model itself made with known parameters."""
    truth = with_parameters(start, TRUTH)
    tank = WaterTank(truth, basis_kernel(basis, truth.beam))
    depth = np.array([2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0, 20.0, 30.0, 50.0, 75.0, 100.0, 150.0, 200.0, 250.0])
    empty = np.ones(len(depth))
    curves = [DepthCurve((side, side), None, depth, empty, "own.csv") for side in (30.0, 60.0, 100.0, 200.0, 300.0)]
    curves = [replace(curve, value=tank.depth_curve(curve)) for curve in curves]
    at = np.concatenate([np.arange(-80.0, -30.0, 2.0), np.arange(-30.0, 31.0, 10.0), np.arange(32.0, 81.0, 2.0)])
    profiles = [
        Profile((80.0, 80.0), 900.0, deep, axis, at, np.ones(len(at)), "own.csv")
        for axis in ("x", "y")
        for deep in (15.0, 50.0, 100.0, 200.0)
    ]
    profiles = [replace(profile, value=tank.profile(profile)) for profile in profiles]
    sides = np.array([10.0, 20.0, 30.0, 50.0, 80.0, 100.0, 150.0, 250.0, 350.0])
    table = OutputFactors(np.column_stack([sides, sides]), 900.0, 100.0, np.ones(len(sides)), "own.csv")
    output = tank.output(table)
    table = replace(table, value=output / output[5])
    measured = Measurements(tuple(curves), tuple(profiles), (table,))
    chosen = every_second(measured)
    fit = fit_beam(start, measured, chosen, basis)
    own = WaterTank(fit.machine, basis_kernel(basis, fit.machine.beam))
    doses = (
        [own.depth_curve(curve) for curve in curves],
        [own.profile(profile) for profile in profiles],
        [own.output(table)],
    )
    return Commissioning(start, fit, measured, chosen, residuals(measured, chosen, doses, doses))


def test_known_parameters_come_back(made: Commissioning):
    found = made.fit.parameters
    assert set(found) == set(TRUTH)
    tolerance = {
        "electron_weight": 0.01,
        "electron_depth_mm": 0.5,
        "extra_focal_weight": 0.005,
        "extra_focal_fwhm_mm": 2.0,
        "source_fwhm_mm": 0.1,
        "softening_per_mm": 3e-5,
        "leaf_end_offset_mm": 0.03,
        "leaf_end_blur_mm": 0.1,
    }
    for name, allowed in tolerance.items():
        assert found[name] == pytest.approx(TRUTH[name], abs=allowed), name
    # power and slope of the spectrum can stand for one another: what they make of it counts
    beams = [made.fit.machine.beam, with_parameters(made.start, TRUTH).beam]
    mean, true_mean = ((one.energies_mev * one.photon_weights).sum() for one in beams)
    assert mean == pytest.approx(true_mean, rel=0.01)


def test_the_held_out_measurements_are_met_too(made: Commissioning):
    rows = made.residuals
    for group in (rows.depth, rows.profiles, rows.output):
        held = [one for one in group if not one.fitted]
        assert held
        for one in held:
            beyond = one.at_mm >= 15.0 if group is rows.depth else np.ones(len(one.at_mm), dtype=bool)
            assert one.computed[beyond] == pytest.approx(one.measured[beyond], abs=3e-3)
            assert one.passed is not False


def test_what_the_data_cannot_tell_stays(start: MachineModel):
    curve = DepthCurve((100.0, 100.0), 900.0, np.arange(20.0, 200.0, 10.0), np.exp(-np.arange(18) / 20), "few.csv")
    assert free_parameters(Measurements((curve,)), start) == ("spectrum_power", "spectrum_slope_per_mev")
    with_jaws = replace(start, jaw_x=load_machine("generic_6mv").jaw_x)
    profile = Profile((100.0, 100.0), 900.0, 50.0, "x", np.zeros(1), np.ones(1), "few.csv")
    both = Measurements((curve,), (profile, replace(profile, axis="y")))
    assert "leaf_end_blur_mm" in free_parameters(both, start)
    assert "leaf_end_blur_mm" not in free_parameters(both, with_jaws)


def test_the_basis_is_the_kernel_of_the_spectrum(start: MachineModel, basis: SpectrumBasis):
    beam = with_parameters(start, TRUTH).beam
    quick, exact = basis_kernel(basis, beam), pencil_kernel(beam)
    tanks = [WaterTank(replace(start, beam=beam), kernel) for kernel in (quick, exact)]
    depth = np.array([20.0, 50.0, 100.0, 200.0, 300.0])
    for side in (30.0, 100.0, 300.0):
        one, other = (tank.dose((side, side), np.full(5, 900.0), depth, "x", np.zeros(5)) for tank in tanks)
        assert one == pytest.approx(other, rel=5e-3)


def test_edges_of_a_profile_are_found_on_both_sides():
    at = np.arange(-60.0, 61.0)
    value = np.clip((50.0 - np.abs(at)) / 10.0 + 0.5, 0.0, 1.0)
    assert edges(at, value) == pytest.approx((6.0, 50.0))


def test_every_shipped_machine_is_written_and_read_back_the_same():
    for name in machine_names():
        machine = load_machine(name)
        again = parse_machine(machine_file_text(machine))
        for key in ("jaw_x", "jaw_y", "calibration", "name", "description", "provenance", "min_segment_area_cm2"):
            assert getattr(again, key) == getattr(machine, key)
        for part in ("mlc", "beam"):
            one, other = getattr(machine, part), getattr(again, part)
            for key in one.__dataclass_fields__:
                assert getattr(other, key) == pytest.approx(getattr(one, key), rel=1e-4, abs=1e-9), key


def test_the_report_is_one_file_with_every_curve(made: Commissioning):
    machine = commissioned_machine(made, "made", "<of & by the model>", ("a 'note'",))
    page = report_html(made, machine)
    assert not re.search(r"""(src|href)\s*=|url\(|@import|<script|https?://(?!www\.w3\.org)""", page)
    count = len(made.residuals.depth) + len(made.residuals.profiles) + 1
    assert page.count("<svg") == count
    assert "&lt;of &amp; by the model&gt;" in page
    assert "<of & by" not in page
    assert all(line.split(" (")[0].strip()[:30] in page for line in residual_lines(made)[:1])


def test_provenance_names_the_file_of_each_parameter(made: Commissioning):
    machine = commissioned_machine(made, "made", "by the model")
    text = "\n".join(machine.provenance)
    assert "extra-focal source: weight and width: set by own.csv" in text
    assert "off-axis profile: from generic_6mv, not measured" in text
    assert parse_machine(machine_file_text(machine)).provenance == machine.provenance


def own_csv(folder: Path) -> Path:
    """Depth doses of two fields and output factors, as the reference beam of the pencil beam gives them."""
    machine = load_machine("generic_6mv")
    tank = WaterTank(machine, pencil_kernel(machine.beam))
    rows = ["quantity,field_x_mm,field_y_mm,ssd_mm,depth_mm,x_mm,y_mm,value"]
    depth = np.array([15.0, 20.0, 30.0, 50.0, 80.0, 100.0, 120.0, 150.0])
    for side in (50.0, 100.0):
        dose = 1e12 * tank.dose((side, side), np.full(len(depth), 900.0), depth, "x", np.zeros(len(depth)))
        rows += [f"depth_dose,{side:g},{side:g},900,{d:g},,,{v:.5f}" for d, v in zip(depth, dose, strict=True)]
        rows.append(f"output_factor,{side:g},{side:g},900,100,,,{1.0 if side == 100 else 0.93}")
    path = folder / "own.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_a_machine_is_commissioned_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, output = own_csv(tmp_path), tmp_path / "mine.toml"
    arguments = ["machines", "commission", str(data), "--output", str(output), "--quiet"]
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["name"] == "mine"
    assert {row["held_out"] for row in document["depth"]} == {True, False}
    machine = load_machine(output)
    assert any("own.csv" in line for line in machine.provenance)
    assert (tmp_path / "mine.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.html", "mine.toml", "own.csv"]
    assert main(arguments) == 2  # it is there already


def test_what_cannot_be_commissioned_has_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    broken = tmp_path / "broken.csv"
    broken.write_text("quantity,value\ntpr,x\n", encoding="utf-8")
    good = str(tmp_path / "m.toml")
    assert main(["machines", "commission", str(broken), "--output", good, "--json", "--quiet"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["line"], error["file"]) == (3, 2, str(broken))
    assert main(["machines", "commission", str(broken), "--output", str(tmp_path / "m.txt"), "--quiet"]) == 2
    assert main(["machines", "commission", str(tmp_path / "none"), "--output", good, "--quiet"]) == 2
    assert main(["machines", "commission", str(broken), "--quiet"]) == 2
    assert main(["machines", "commission", str(broken), "--output", good, "--base", "unknown", "--quiet"]) == 4
    assert not Path(good).exists()

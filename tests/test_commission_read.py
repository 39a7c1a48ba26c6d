"""Measurements from files: plain CSV, MEPHYSTO, DKFZ tables; what cannot be read is refused with file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dicomplan.commissioning.read import read_measurements
from dicomplan.commissioning.selection import every_second, normal_depth_mm
from dicomplan.errors import InputError

SHARED = Path("/work/shared/data/beam")
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data/beam")

CSV = """# measured by nobody
quantity,field_x_mm,field_y_mm,ssd_mm,depth_mm,x_mm,y_mm,value
depth_dose,100,100,900,100,,,0.7
depth_dose,100,100,900,15,,,1.0
tpr,50,50,,100,,,1
tpr,50,50,,200,,,0.6
profile,100,100,900,50,-60,,0.02
profile,100,100,900,50,0,,1
profile,100,100,900,50,,0,1
profile,100,100,900,50,,10,0.99
output_factor,100,100,900,100,,,1
output_factor,30,30,900,100,,,0.85
primary_fluence,,,,,0,,1
primary_fluence,,,,,50,,1.02
absolute_dose,100,100,900,100,,,0.01
"""

MCC = """BEGIN_SCAN_DATA
\tBEGIN_SCAN  1
\t\tMODALITY=X
\t\tCROSSPLANE_AXIS=MLC
\t\tSSD=900.00
\t\tFIELD_INPLANE=50.00
\t\tFIELD_CROSSPLANE=40.00
\t\tSCAN_CURVETYPE=CROSSPLANE_PROFILE
\t\tSCAN_DEPTH=15.00
\t\tBEGIN_DATA
\t\t\t10.00\t\t1.0E-03
\t\t\t-10.00\t\t2.0E-03
\t\t\t0.00\t\t3.0E-03
\t\tEND_DATA
\tEND_SCAN  1
\tBEGIN_SCAN  2
\t\tSCAN_CURVETYPE=TIME_CURVE
\t\tBEGIN_DATA
\t\t\t0.00\t\t1.0
\t\tEND_DATA
\tEND_SCAN  2
END_SCAN_DATA
"""


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_plain_csv_is_sorted_into_curves(tmp_path):
    found = read_measurements([written(tmp_path, "m.csv", CSV)])
    dose, ratio = found.depth_curves
    assert dose.depth_mm.tolist() == [15.0, 100.0]
    assert dose.value.tolist() == [1.0, 0.7]
    assert (dose.source_surface_distance_mm, ratio.source_surface_distance_mm) == (900.0, None)
    assert [profile.axis for profile in found.profiles] == ["x", "y"]
    assert found.output_factors[0].field_mm[:, 0].tolist() == [30.0, 100.0]
    assert found.primary_fluence is not None
    assert found.primary_fluence.factor.tolist() == [1.0, 1.02]
    assert found.absolute_dose is not None
    assert found.absolute_dose.dose_per_mu_gy == 0.01


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("depth_dose,100,100,900,15,,,1.0", "depth_dose,100,100,900,15,,,one", 4, "number expected"),
        ("depth_dose,100,100,900,15,,,1.0", "depth_dose,100,100,,15,,,1.0", 4, "ssd_mm is missing"),
        ("tpr,50,50,,200,,,0.6", "tpr,50,50,800,200,,,0.6", 6, "stays empty"),
        ("tpr,50,50,,200,,,0.6", "tpr,50,50,,100,,,0.6", 6, "stands twice"),
        ("tpr,50,50,,200,,,0.6", "tmr,50,50,,200,,,0.6", 6, "unknown quantity"),
        ("tpr,50,50,,200,,,0.6", "tpr,50,50,,200", 6, "cells expected"),
        ("profile,100,100,900,50,0,,1", "profile,100,100,900,50,0,0,1", 8, "either x_mm or y_mm"),
        ("ssd_mm,depth_mm", "ssd,depth_mm", 2, "unknown column"),
    ],
)
def test_csv_that_cannot_be_read_is_refused_with_its_line(tmp_path, old, new, line, says):
    path = written(tmp_path, "m.csv", CSV.replace(old, new))
    with pytest.raises(InputError, match=says) as caught:
        read_measurements([path])
    assert (caught.value.line, caught.value.file, caught.value.exit_code) == (line, str(path), 3)


def test_mephysto_profiles_run_along_the_leaves_and_other_scans_are_listed(tmp_path):
    found = read_measurements([written(tmp_path, "m.mcc", MCC)])
    (profile,) = found.profiles
    assert (profile.axis, profile.field_mm, profile.depth_mm) == ("x", (40.0, 50.0), 15.0)
    assert profile.position_mm.tolist() == [-10.0, 0.0, 10.0]
    assert profile.value.tolist() == [0.002, 0.003, 0.001]
    assert any("TIME_CURVE" in line for line in found.unused)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("0.00\t\t3.0E-03", "0.00\t\tx", 13, "number expected"),
        ("SSD=900.00", "XXX=900.00", 2, "SSD is missing"),
        ("\tEND_SCAN  1\n", "", 15, "begins within another"),
        ("BEGIN_SCAN_DATA", "SOMETHING", 1, "no CC-Export"),
    ],
)
def test_mephysto_that_cannot_be_read_is_refused_with_its_line(tmp_path, old, new, line, says):
    path = written(tmp_path, "m.mcc", MCC.replace(old, new, 1))
    with pytest.raises(InputError, match=says) as caught:
        read_measurements([path])
    assert (caught.value.line, caught.value.file) == (line, str(path))


def test_dkfz_tables_need_the_place_of_their_output_factors(tmp_path):
    written(tmp_path, "tpr.dat", "# x\n0 0 50 100\n50 1 1 1\n100 0.7 0.8 0.9\n")
    written(tmp_path, "of.dat", "50 0.9\n100 1\n")
    with pytest.raises(InputError, match=r"without params\.dat"):
        read_measurements([tmp_path])
    written(tmp_path, "params.dat", "SAD 1000\ndose_reference_ssd 950\ndose_reference_depth 50\n")
    found = read_measurements([tmp_path])
    assert [curve.field_mm for curve in found.depth_curves] == [(50.0, 50.0), (100.0, 100.0)]
    assert (found.output_factors[0].source_surface_distance_mm, found.output_factors[0].depth_mm) == (950.0, 50.0)
    written(tmp_path, "tpr.dat", "0 50 100\n50 1 1\n100 0.8\n")
    with pytest.raises(InputError, match="3 numbers expected") as caught:
        read_measurements([tmp_path])
    assert caught.value.line == 3


def test_a_folder_without_measurements_is_refused(tmp_path):
    written(tmp_path, "README.md", "nothing")
    with pytest.raises(InputError, match="no depth doses"):
        read_measurements([tmp_path])


def test_the_fit_sees_every_second_field_and_never_the_normal_one(tmp_path):
    rows = ["quantity,field_x_mm,field_y_mm,ssd_mm,depth_mm,value"]
    for side in (30, 50, 80, 100, 150):
        rows += [f"tpr,{side},{side},,{depth},{1.0 if depth == 100 else 0.5}" for depth in (50, 100, 200)]
        rows.append(f"output_factor,{side},{side},900,100,{1.0 if side == 100 else 0.9}")
    found = read_measurements([written(tmp_path, "m.csv", "\n".join(rows))])
    chosen = every_second(found)
    assert chosen.depth_curves == (True, False, True, False, True)
    assert chosen.output_factors[0].tolist() == [True, False, True, False, False]
    assert normal_depth_mm(found.depth_curves[0]) == 100.0


@needs_shared
def test_the_shared_measurements_are_read_completely():
    agility = read_measurements([SHARED / "dkfz_6mv/synergy", SHARED / "pymedphys_agility_6mv"])
    assert (len(agility.depth_curves), len(agility.profiles)) == (14, 16)
    assert [len(table.value) for table in agility.output_factors] == [11, 2]
    assert agility.absolute_dose is not None
    assert agility.absolute_dose.dose_per_mu_gy == pytest.approx(0.00812)
    artiste = read_measurements([SHARED / "dkfz_6mv/referenceData"])
    assert len(artiste.depth_curves) == 12
    assert artiste.primary_fluence is not None
    assert artiste.primary_fluence.factor[0] == 1.0
    assert artiste.head is not None
    assert np.isclose(artiste.head.collimator_distance_mm, 345.0)

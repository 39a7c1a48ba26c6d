"""The command ``dose``: plans of several kinds on a small water box, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_helpers import edit, shared_case
from dose_helpers import beam, dose_at, rectangle, run_json, square, write_box, write_fields
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from dicomplan.beams.delivery import Aperture, Segment
from dicomplan.cli.main import main
from dicomplan.dicom.files import read_object
from dicomplan.dicom.plan_record import plan_record
from dicomplan.dicom.planned_beams import TRAVEL_STEP_MM, planned_beams
from dicomplan.dicom.read import read_dose, read_plan
from dicomplan.dose.fluence import delivered_plane, plane_axes
from dicomplan.errors import MachineError
from dicomplan.machine.library import load_machine

MACHINE = load_machine("generic_6mv")
FAST = ("--engine", "pencil_beam", "--grid", "5")
CENTER = (0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_box(tmp_path_factory.mktemp("box") / "study")


@pytest.fixture
def plan(box: Path, tmp_path: Path) -> Path:
    """Two static beams of 30 and 50 MU in 4 fractions."""
    fields = [
        (beam(CENTER), [(square(MACHINE, 60.0), 30.0)]),
        (beam(CENTER, 90.0, 2), [(square(MACHINE, 40.0), 50.0)]),
    ]
    return write_fields(tmp_path / "RP.dcm", box, fields, fractions=4)


def calculate(box: Path, plan: Path, output: Path, *more: str) -> Path:
    assert main(["dose", str(box), "--plan", str(plan), "--output", str(output), "--quiet", *FAST, *more]) == 0
    return output / "RTDOSE.dcm"


# what comes out


def test_document_and_dose_object(box: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, document = run_json(capsys, "dose", box, "--plan", plan, "--output", tmp_path / "out", *FAST)
    assert code == 0
    assert json.loads((tmp_path / "out" / "dose.json").read_text()) == document
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["RTDOSE.dcm", "dose.json", "log.txt"]
    assert (document["schema"], document["machine"], document["engine"]) == (1, "generic_6mv", "pencil_beam")
    assert document["fractions"] == 4
    assert [one["meterset_mu"] for one in document["beams"]] == pytest.approx([30.0, 50.0])
    assert document["total_mu"] == pytest.approx(80.0)
    assert [one["technique"] for one in document["beams"]] == ["static", "static"]
    path = tmp_path / "out" / "RTDOSE.dcm"
    dose, stored, ct = read_dose(path), pydicom.dcmread(path), pydicom.dcmread(next(box.glob("CT_*")))
    # the isocentre's dose of one fraction, beam by beam, adds up to the course's
    beams = sum(one["isocenter_dose_gy"] for one in document["beams"])
    assert 4 * beams == pytest.approx(dose_at(path, CENTER), rel=1e-5)
    assert document["max_dose_gy"] == pytest.approx(float(dose.dose_gy.max()), rel=1e-6)
    assert dose.plan_uid == pydicom.dcmread(plan).SOPInstanceUID
    assert (stored.DoseSummationType, stored.DoseUnits) == ("PLAN", "GY")
    assert stored.FrameOfReferenceUID == ct.FrameOfReferenceUID
    assert stored.StudyInstanceUID == ct.StudyInstanceUID
    assert document["grid"]["spacing_mm"] == [5.0, 5.0, 5.0]


def test_a_beam_is_the_sum_of_its_parts(box: Path, tmp_path: Path) -> None:
    """Two half fields of 10 MU are one field of 10 MU, also where they are two beams; metersets count linearly."""
    left, right = rectangle(MACHINE, (-20.0, 0.0), (-20.0, 20.0)), rectangle(MACHINE, (0.0, 20.0), (-20.0, 20.0))
    # the same jaws throughout: what leaks is then the same in all of them
    left, right = (Aperture(one.leaf_positions_mm, (-20.0, 20.0), (-20.0, 20.0)) for one in (left, right))
    segments = write_fields(tmp_path / "a.dcm", box, [(beam(CENTER), [(left, 10.0), (right, 10.0)])])
    beams = write_fields(
        tmp_path / "b.dcm", box, [(beam(CENTER), [(left, 10.0)]), (beam(CENTER, 0.0, 2), [(right, 10.0)])]
    )
    first = read_dose(calculate(box, segments, tmp_path / "first")).dose_gy
    second = read_dose(calculate(box, beams, tmp_path / "second")).dose_gy
    np.testing.assert_allclose(first, second, atol=2e-6 * first.max())


def test_dose_of_a_plan_is_that_of_the_planning_pipeline() -> None:
    """Whatever made the plan: here the sum over directions as planning does it, on the same engine and grid."""
    from dicomplan.dose.engines import PencilBeamEngine, course_dose, direction_planes
    from dicomplan.dose.pencil_beam import medium
    from dicomplan.dose.pencil_kernel import pencil_kernel
    from dicomplan.geometry.grid import VoxelGrid
    from dicomplan.patient.density import DensityVolume
    from dicomplan.workflow.dose import _doses, _Inputs

    grid = VoxelGrid((20, 20, 20), (5.0, 5.0, 5.0), (-47.5, -47.5, -47.5))
    water = DensityVolume(grid, np.ones(grid.shape, dtype=np.float32))
    kernel = pencil_kernel(MACHINE.beam)
    engine = PencilBeamEngine(MACHINE, kernel, medium(water), np.arange(grid.voxel_count), "HFS")
    from dicomplan.beams.delivery import BeamDelivery
    from dicomplan.dicom.planned_beams import PlannedBeam

    deliveries = [
        BeamDelivery(beam(CENTER), (Segment(rectangle(MACHINE, (-40.0, -10.0), (-30.0, 30.0)), 20.0),)),
        BeamDelivery(beam(CENTER, 0.0, 2), (Segment(rectangle(MACHINE, (-10.0, 40.0), (-20.0, 30.0)), 30.0),)),
        BeamDelivery(beam(CENTER, 70.0, 3), (Segment(square(MACHINE, 30.0), 10.0),)),
    ]
    together = [engine.dose_gy_per_fraction(*pair) for pair in direction_planes(deliveries, MACHINE)]
    expected = course_dose(grid, together, 35)
    planned = tuple(PlannedBeam(item, item, "static", 2, None) for item in deliveries)
    inputs = _Inputs(None, None, None, MACHINE, planned, 35, ())  # type: ignore[arg-type]
    from dicomplan.events import Cancel, ignore_progress

    found = _doses(engine, inputs, ignore_progress, Cancel())
    np.testing.assert_allclose(found.total.dose_gy, expected.dose_gy, atol=2e-6 * expected.dose_gy.max())


def test_without_structures_the_body_is_found(box: Path, plan: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in box.glob("CT_*"):
        shutil.copy(path, bare)
    with_body = dose_at(calculate(box, plan, tmp_path / "with"), CENTER)
    found = dose_at(calculate(bare, plan, tmp_path / "without"), CENTER)
    document = json.loads((tmp_path / "without" / "dose.json").read_text())
    assert document["body"]["found_on_ct"]
    assert any("BODY was found" in one["message"] for one in document["warnings"])
    assert document["body"]["volume_cc"] == pytest.approx(1000.0, rel=0.02)
    assert found == pytest.approx(with_body, rel=0.005)


def test_plan_in_the_study_is_taken_with_its_structure_set(box: Path, plan: Path, tmp_path: Path) -> None:
    study = tmp_path / "both"
    shutil.copytree(box, study)
    shutil.copy(plan, study / "RP.dcm")
    shutil.copy(box / "RTSTRUCT.dcm", study / "other.dcm")
    edit(study / "other.dcm", lambda dataset: setattr(dataset, "SOPInstanceUID", "1.2.3.4"))
    assert main(["dose", str(study), "--output", str(tmp_path / "out"), "--quiet", *FAST]) == 0


def test_nothing_private_is_written(box: Path, plan: Path, tmp_path: Path) -> None:
    calculate(box, plan, tmp_path / "out")
    texts = [(tmp_path / "out" / name).read_text() for name in ("log.txt", "dose.json")]
    for text in texts:
        for word in ("PHANTOM", "DICOMPLAN-WB", "RP.dcm", str(box)):
            assert word not in text
    calculate(box, plan, tmp_path / "out", "--overwrite", "--identify")
    assert json.loads((tmp_path / "out" / "dose.json").read_text())["plan"]["file"] == str(plan)


def test_a_failed_plan_stays_marked(box: Path, plan: Path, tmp_path: Path) -> None:
    edit(plan, lambda dataset: setattr(dataset, "RTPlanLabel", "FAILED dicomplan"))
    stored = pydicom.dcmread(calculate(box, plan, tmp_path / "out"))
    assert stored.DoseComment.startswith("FAILED")
    assert stored.SeriesDescription.startswith("FAILED")


# sliding windows, jaws alone


def as_sliding(path: Path) -> Path:
    """Step-and-shoot of two equal metersets to one movement from the first shape to the second."""

    def change(dataset: Dataset) -> None:
        for item in dataset.BeamSequence:
            points = item.ControlPointSequence
            item.BeamType = "DYNAMIC"
            item.ControlPointSequence = [points[0], points[3]]
            item.NumberOfControlPoints = 2
            item.ControlPointSequence[1].ControlPointIndex = 1

    edit(path, change)
    return path


def window_at(first_mm: float, second_mm: float) -> Aperture:
    aperture = rectangle(MACHINE, (-40.0, 40.0), (-20.0, 20.0))
    leaves = np.array(aperture.leaf_positions_mm)
    inside = leaves[1] > leaves[0]
    leaves[:, inside] = [[first_mm], [second_mm]]
    leaves[:, ~inside] = first_mm
    return Aperture(leaves, aperture.jaw_y_mm, aperture.jaw_x_mm)


def sliding_plane(box: Path, path: Path, start: Aperture, stop: Aperture) -> tuple[np.ndarray, np.ndarray, int]:
    as_sliding(write_fields(path, box, [(beam(CENTER), [(start, 50.0), (stop, 50.0)])]))
    item, _ = read_object(path)
    (found,), _ = planned_beams(item, plan_record(item), MACHINE)
    assert found.technique == "sliding window"
    assert found.delivery.meterset_mu == pytest.approx(100.0)
    x_mm, y_mm = plane_axes((-60.0, 60.0), (-5.0, 5.0))
    plane = delivered_plane(found.delivery.segments, MACHINE, x_mm, y_mm)
    middle = plane.values[len(plane.y_mm) // 2]
    radius = np.hypot(plane.x_mm, plane.y_mm[len(plane.y_mm) // 2])
    return (
        plane.x_mm,
        middle / np.interp(radius, MACHINE.beam.profile_radius_mm, MACHINE.beam.profile_factor),
        len(found.delivery.segments),
    )


def test_fluence_of_a_moving_window_is_a_trapezium(box: Path, tmp_path: Path) -> None:
    """A gap of 10 mm that moves by 50 mm opens each inner point for 10 / 50 of the meterset."""
    x_mm, fluence, count = sliding_plane(box, tmp_path / "RP.dcm", window_at(-30.0, -20.0), window_at(20.0, 30.0))
    assert count == 50
    through = MACHINE.mlc.transmission
    # the leading edge has passed x after (x + 20) / 50 of the way, the trailing one after (x + 30) / 50
    opened = np.clip((x_mm + 30.0) / 50.0, 0, 1) - np.clip((x_mm + 20.0) / 50.0, 0, 1)
    expected = 100.0 * (through + (1.0 - through) * opened)
    seen = np.abs(x_mm) < 39.0
    np.testing.assert_allclose(fluence[seen], expected[seen], atol=0.01 * 100.0 / 50.0)


@given(st.floats(-35.0, 20.0), st.floats(0.5, 15.0), st.floats(-35.0, 20.0), st.floats(0.5, 15.0))
def test_steps_are_fine_enough(first: float, gap: float, last: float, end_gap: float) -> None:
    """Against steps 20 times finer: an edge that crosses a pixel in one step errs by an eighth of it, two by a quarter."""
    from dicomplan.beams.delivery import stills
    from dicomplan.dicom.control_points import ControlPoint
    from dicomplan.dicom.planned_beams import interval_segment

    def point(aperture: Aperture, weight: float) -> ControlPoint:
        positions = {
            "MLCX": tuple(aperture.leaf_positions_mm.ravel()),
            "ASYMX": aperture.jaw_x_mm,
            "ASYMY": aperture.jaw_y_mm,
        }
        return ControlPoint(weight, 0.0, 0.0, 0.0, "", CENTER, 6.0, positions, {})

    start, stop = window_at(first, first + gap), window_at(last, last + end_gap)
    segments = stills([interval_segment(point(start, 0.0), point(stop, 1.0), 100.0, MACHINE, 1)])
    travel = max(abs(last - first), abs(last + end_gap - first - gap))
    assert len(segments) >= travel / TRAVEL_STEP_MM
    fine = []
    for share in (np.arange(20 * len(segments)) + 0.5) / (20 * len(segments)):
        leaves = (1 - share) * start.leaf_positions_mm + share * stop.leaf_positions_mm
        fine.append(Segment(Aperture(leaves, start.jaw_y_mm, start.jaw_x_mm), 100.0 / (20 * len(segments))))
    x_mm, y_mm = plane_axes((-45.0, 45.0), (-2.0, 2.0))
    coarse_plane = delivered_plane(segments, MACHINE, x_mm, y_mm).values
    fine_plane = delivered_plane(fine, MACHINE, x_mm, y_mm).values
    assert coarse_plane.sum() == pytest.approx(fine_plane.sum(), rel=2e-3)
    assert np.abs(coarse_plane - fine_plane).max() <= 0.251 * 100.0 / len(segments)


def test_dose_of_a_moving_window(box: Path, tmp_path: Path) -> None:
    """A gap that sweeps the whole field gives the open field's dose times gap / travel, leakage aside."""
    moving = as_sliding(
        write_fields(
            tmp_path / "moving.dcm",
            box,
            [(beam(CENTER), [(window_at(-35.0, -25.0), 50.0), (window_at(25.0, 35.0), 50.0)])],
        )
    )
    steps = [(window_at(low, low + 10.0), 100.0 / 60.0) for low in np.arange(-34.5, 25.0, 1.0)]
    stepped = write_fields(tmp_path / "stepped.dcm", box, [(beam(CENTER), steps)])
    first = read_dose(calculate(box, moving, tmp_path / "first")).dose_gy
    second = read_dose(calculate(box, stepped, tmp_path / "second")).dose_gy
    # metersets of the steps are printed to 0.0001 MU of 1.7
    np.testing.assert_allclose(first, second, atol=1e-4 * first.max())


def test_jaws_alone_are_an_open_field(box: Path, plan: Path, tmp_path: Path) -> None:
    def without_leaves(dataset: Dataset) -> None:
        for item in dataset.BeamSequence:
            item.BeamLimitingDeviceSequence = item.BeamLimitingDeviceSequence[:2]
            for point in item.ControlPointSequence:
                if "BeamLimitingDevicePositionSequence" in point:
                    point.BeamLimitingDevicePositionSequence = [
                        one
                        for one in point.BeamLimitingDevicePositionSequence
                        if one.RTBeamLimitingDeviceType != "MLCX"
                    ]

    with_leaves = dose_at(calculate(box, plan, tmp_path / "with"), CENTER)
    edit(plan, without_leaves)
    jaws = dose_at(calculate(box, plan, tmp_path / "jaws"), CENTER)
    assert jaws == pytest.approx(with_leaves, rel=0.005)


# refusals


def refused(box: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict]:
    code, document = run_json(capsys, "dose", box, "--plan", plan, "--output", tmp_path / "out", *FAST, *more)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".out*"))
    return code, document["error"]


def on_beam(**values: object) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset.BeamSequence[0], keyword, value)

    return change


def on_point(index: int, **values: object) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        for keyword, value in values.items():
            setattr(dataset.BeamSequence[0].ControlPointSequence[index], keyword, value)

    return change


def other_boundaries(dataset: Dataset) -> None:
    dataset.BeamSequence[0].BeamLimitingDeviceSequence[2].LeafPositionBoundaries[10] = "-101"


REFUSALS: dict[str, tuple[Callable[[Dataset], None], int, str, str]] = {
    "arc": (on_point(1, GantryAngle="10"), 3, "arc", ""),
    "wedge": (on_beam(NumberOfWedges="1"), 3, "1 wedges", ""),
    "electrons": (on_beam(RadiationType="ELECTRON"), 3, "ELECTRON", ""),
    "block": (on_beam(NumberOfBlocks="1"), 3, "1 blocks", ""),
    "unit": (on_beam(PrimaryDosimeterUnit="MINUTE"), 3, "MINUTE", "PrimaryDosimeterUnit"),
    "collimator": (on_point(1, BeamLimitingDeviceAngle="5"), 3, "moves", "BeamLimitingDeviceAngle"),
    "pitch": (on_point(0, TableTopPitchAngle=2.0), 3, "found 2", "TableTopPitchAngle"),
    "late": (on_point(0, CumulativeMetersetWeight="0.5"), 3, "begins with", "CumulativeMetersetWeight"),
    "final": (on_beam(FinalCumulativeMetersetWeight="2"), 3, "last control point", "FinalCumulativeMetersetWeight"),
    "energy": (on_point(0, NominalBeamEnergy="10"), 4, "10 MV", "NominalBeamEnergy"),
    "distance": (on_beam(SourceAxisDistance="800"), 4, "800 mm", "SourceAxisDistance"),
    "leaves": (other_boundaries, 4, "-101 mm", "LeafPositionBoundaries"),
    "unknown machine": (on_beam(TreatmentMachineName="Linac 7"), 4, "--machine", ""),
    "frame": (lambda d: setattr(d, "FrameOfReferenceUID", "1.2.3"), 3, "1.2.3", "FrameOfReferenceUID"),
    "patient": (lambda d: setattr(d, "PatientID", "somebody"), 3, "another patient", "PatientID"),
    "position": (lambda d: setattr(d.PatientSetupSequence[0], "PatientPosition", "FFS"), 3, "FFS", "PatientPosition"),
    "fractions": (
        lambda d: delattr(d.FractionGroupSequence[0], "NumberOfFractionsPlanned"),
        3,
        "missing",
        "NumberOfFractionsPlanned",
    ),
    "overlap": (
        lambda d: (
            d.BeamSequence[0]
            .ControlPointSequence[0]
            .BeamLimitingDevicePositionSequence[2]
            .LeafJawPositions.__setitem__(30, "60")
        ),
        3,
        "overlap",
        "LeafJawPositions",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_calculated_is_refused_by_name(
    name: str, box: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, expected, words, tag = REFUSALS[name]
    edit(plan, change)
    code, error = refused(box, plan, tmp_path, capsys)
    assert code == expected, error
    assert words in f"{error['message']} {error['hint']}"
    assert tag in (error["tag"] or "")
    assert str(plan) in (error["file"] or "")


def test_choice_of_the_plan(box: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    code, document = run_json(capsys, "dose", box, "--output", output)
    assert (code, document["error"]["code"]) == (3, 3)
    assert "no RTPLAN" in document["error"]["message"]
    study = tmp_path / "two"
    shutil.copytree(box, study)
    for number in (1, 2):
        shutil.copy(plan, study / f"RP{number}.dcm")
        edit(study / f"RP{number}.dcm", lambda d, n=number: setattr(d, "SOPInstanceUID", f"1.2.3.{n}"))
    code, document = run_json(capsys, "dose", study, "--output", output)
    assert code == 3
    assert "--plan" in document["error"]["hint"]
    assert run_json(capsys, "dose", study, "--plan", "RP1.dcm", "--output", output, *FAST)[0] == 0
    assert read_dose(output / "RTDOSE.dcm").plan_uid == "1.2.3.1"
    assert run_json(capsys, "dose", study, "--plan", "nothing", "--output", tmp_path / "none")[0] == 2
    assert run_json(capsys, "dose", study, "--plan", tmp_path / "nothing.dcm", "--output", tmp_path / "none")[0] == 2


def test_usage(box: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--grid", "0"], ["--grid", "much"], ["--engine", "monte_carlo"]):
        assert run_json(capsys, "dose", box, "--plan", plan, "--output", tmp_path / "out", *wrong)[0] == 2
    assert run_json(capsys, "dose", box, "--plan", plan)[0] == 2
    assert run_json(capsys, "dose", box, "--plan", plan, "--output", box / "inside")[0] == 2
    code, _ = run_json(capsys, "dose", box, "--plan", plan, "--machine", "no_such", "--output", tmp_path / "out")
    assert code == 4
    code, document = run_json(
        capsys, "dose", box, "--plan", plan, "--machine", "reference_6mv", "--output", tmp_path / "out", *FAST
    )
    # the same leaves, jaws and energy: another beam on purpose is the user's choice
    assert (code, document["machine"]) == (0, "reference_6mv")


def test_real_plans_are_refused_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, words, expected in (
        ("lung1-002_xio_full", "1 wedges", 3),
        ("rtkit_phantom_oncentra_full", "ELECTRON", 3),
        ("pymedphys_tinyvmat_monaco", "VMAT", 3),
        ("dicompyler_breast", "linac", 4),
    ):
        code, document = run_json(capsys, "dose", shared_case(name), "--output", tmp_path / "out")
        assert code == expected, document
        assert words in document["error"]["message"]


def test_control_points_of_real_sliding_windows(tmp_path: Path) -> None:
    """The fields of an Eclipse plan of 6 and 10 MV: metersets are kept, apertures stay within the stored extremes."""
    path = tmp_path / "rtplan.dcm"
    shutil.copy(shared_case("dicompyler_breast") / "rtplan.dcm", path)
    item, _ = read_object(path)
    with pytest.raises(MachineError, match="10 MV"):
        planned_beams(item, plan_record(item), MACHINE)

    def as_one_energy(dataset: Dataset) -> None:
        for beam_item in dataset.BeamSequence:
            beam_item.ControlPointSequence[0].NominalBeamEnergy = "6"

    edit(path, as_one_energy)
    item, _ = read_object(path)
    record = plan_record(item)
    found, _ = planned_beams(item, record, MACHINE)
    assert len(found) == len(record.treatment_beam_numbers) > 1
    stored = {one.number: one for one in record.beams}
    for one in found:
        beam_record = stored[one.delivery.beam.number]
        assert one.technique == "sliding window"
        assert one.delivery.meterset_mu == pytest.approx(beam_record.meterset_mu, rel=1e-6)
        leaves = np.array([point.positions_mm["MLCX"] for point in beam_record.control_points])
        ours = np.array([segment.aperture.leaf_positions_mm.ravel() for segment in one.delivery.segments])
        assert (ours >= leaves.min(axis=0) - 1e-9).all()
        assert (ours <= leaves.max(axis=0) + 1e-9).all()
        assert np.abs(np.diff(ours, axis=0)).max() <= 2 * TRAVEL_STEP_MM


def test_read_plan_and_planned_beams_agree(box: Path, tmp_path: Path) -> None:
    """Two readers of one file: step-and-shoot segments are the same in both."""
    plan = write_fields(
        tmp_path / "RP.dcm",
        box,
        [(beam(CENTER, 30.0), [(square(MACHINE, 40.0), 10.0), (square(MACHINE, 20.0), 3.25), (window_at(-5, 5), 1.5)])],
    )
    item, _ = read_object(plan)
    (found,), _ = planned_beams(item, plan_record(item), MACHINE)
    (expected,) = read_plan(plan).deliveries
    assert found.delivery.beam == expected.beam
    for ours, theirs in zip(found.delivery.segments, expected.segments, strict=True):
        np.testing.assert_array_equal(ours.aperture.leaf_positions_mm, theirs.aperture.leaf_positions_mm)
        assert ours.aperture.jaw_x_mm == theirs.aperture.jaw_x_mm
        assert ours.meterset_mu == pytest.approx(theirs.meterset_mu, abs=1e-10)


def test_dose_says_what_it_is_to(box: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for options in (("--engine", "pencil_beam"), (), ("--dose-to", "water")):
        output = tmp_path / "-".join(("out", *options))
        code, document = run_json(capsys, "dose", box, "--plan", plan, "--output", output, "--grid", "8", *options)
        assert code == 0
        found[options] = (document["dose_to"], document["max_dose_gy"])
        assert str(pydicom.dcmread(output / "RTDOSE.dcm").DoseComment).endswith(f"dose to {document['dose_to']}")
    assert [dose_to for dose_to, _ in found.values()] == ["water", "medium", "water"]
    # the phantom is water: both are the same there
    assert found[("--dose-to", "water")][1] == pytest.approx(found[()][1], rel=2e-3)
    code, document = run_json(
        capsys, "dose", box, "--plan", plan, "--output", tmp_path / "no", *FAST, "--dose-to", "medium"
    )
    assert code == 2
    assert "water" in document["error"]["message"]

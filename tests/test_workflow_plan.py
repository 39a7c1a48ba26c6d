"""The main job on a small phantom: its files, what they say, and that all of them say the same."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import plan_helpers as helpers
import pydicom
import pytest
from dicom_helpers import conformance_errors, program, run
from plan_helpers import CORD_MM, NAME, PATIENT_ID, TARGET_MM, TARGET_RADIUS_MM, Planned
from scipy.ndimage import binary_dilation, map_coordinates

from dicomplan.beams.delivery import BeamDelivery
from dicomplan.dicom.read import read_plan, read_study
from dicomplan.dose.engines import beam_doses, course_dose, delivery_plane
from dicomplan.events import Cancel, ignore_progress
from dicomplan.machine.library import load_machine
from dicomplan.plan.library import load_template
from dicomplan.workflow.clock import Clock
from dicomplan.workflow.plan_setup import prepare
from dicomplan.workflow.plan_values import Setup

FILES = {"RTPLAN.dcm", "RTDOSE.dcm", "RTSTRUCT.dcm", "report.html", "plan.json", "log.txt"}
METRICS = ("Dmean_gy", "Dmax_gy", "D98%_gy", "D95%_gy", "D50%_gy", "D2%_gy")


@pytest.fixture(scope="module")
def planned() -> Planned:
    return helpers.small_plan()


@pytest.fixture(scope="module")
def setup(planned: Planned) -> Setup:
    """The stages before optimisation once more: densities and engine."""
    template = load_template(str(planned.template))
    machine = load_machine("generic_6mv")
    return prepare(
        read_study([planned.study]), template, machine, str(planned.template), Clock(ignore_progress), Cancel()
    )


def texts(planned: Planned) -> dict[str, str]:
    return {
        name: (planned.output / name).read_text(encoding="utf-8") for name in ("log.txt", "plan.json", "report.html")
    }


# The folder and the document


def test_all_files_are_there_and_nothing_else(planned: Planned) -> None:
    assert planned.outcome.exit_code == 0
    assert {path.name for path in planned.output.iterdir()} == FILES | {f"RTDOSE_{n}.dcm" for n in (1, 2, 3)}
    assert planned.outcome.report == planned.output / "report.html"
    assert {path.name for path in planned.output.parent.iterdir()} == {"study", "out", "out.yaml"}
    assert json.loads(json.dumps(planned.outcome.document)) == planned.document


def test_the_document_holds_every_key_of_the_contract(planned: Planned) -> None:
    document = planned.document
    assert document["schema"] == 1
    assert document["status"] == "accepted"
    assert "not" in document["disclaimer"]
    assert document["machine"] == "generic_6mv"
    assert document["patient_position"] == "HFS"
    assert document["prescription"]["fractions"] == 25
    assert document["prescription"]["targets"] == {"PTV_5000": 50.0}
    assert document["template"]["name"] == "Small 50 Gy in 25"
    assert isinstance(document["dicomplan"], str)
    assert set(document) >= {"inputs", "grid", "beams", "influence", "optimization", "structures", "goals", "quality"}
    assert set(document) >= {"warnings", "timings_s"}
    for item in document["inputs"]:
        assert set(item) >= {"sop_instance_uid", "sha256", "kind"}
        assert re.fullmatch("[0-9a-f]{64}", item["sha256"])
    kinds = [item["kind"] for item in document["inputs"]]
    assert (kinds.count("CT"), kinds.count("RTSTRUCT")) == (44, 1)
    assert all(len(document["grid"][key]) == 3 for key in ("shape", "spacing_mm"))
    beam_keys = {"number", "name", "gantry_angle_deg", "couch_angle_deg", "collimator_angle_deg", "segments"}
    assert all(set(beam) >= beam_keys | {"meterset_mu"} for beam in document["beams"])
    assert set(document["influence"]) >= {"form", "voxels", "beamlets", "nonzeros", "bytes"}
    assert set(document["optimization"]) >= {"iterations", "objective"}
    assert set(document["structures"]) == {"BODY", "PTV_5000", "SpinalCord", "Ring", "SpinalCord_PRV05"}
    for entry in document["structures"].values():
        assert entry["volume_cc"] > 0
        assert set(entry["ideal"]) >= set(METRICS)
        assert set(entry["final"]) >= set(METRICS)
    goal_keys = {"structure", "goal", "kind", "priority", "ideal", "achieved", "unit", "met"}
    assert all(set(goal) >= goal_keys for goal in document["goals"])
    assert set(document["quality"]) >= {"conformity_index", "homogeneity_index", "total_mu", "segments"}
    stages = {"read", "masks", "influence", "optimize", "sequence", "final_dose", "write", "total"}
    assert set(document["timings_s"]) >= stages
    assert all(document["timings_s"][stage] >= 0 for stage in stages)
    assert document["timings_s"]["total"] >= max(document["timings_s"][stage] for stage in stages)


def test_volumes_are_those_of_the_phantom(planned: Planned) -> None:
    volumes = {name: entry["volume_cc"] for name, entry in planned.document["structures"].items()}
    assert volumes["BODY"] == pytest.approx(900.0, rel=1e-3)
    assert volumes["PTV_5000"] == pytest.approx(4 / 3 * np.pi * TARGET_RADIUS_MM**3 / 1000, rel=0.03)
    assert volumes["SpinalCord"] == pytest.approx(np.pi * 36 * 90 / 1000, rel=0.02)


# Doses and metersets


@pytest.mark.parametrize("name", ["PTV_5000", "SpinalCord", "BODY", "Ring"])
def test_final_metrics_are_those_of_the_exported_dose(planned: Planned, name: str) -> None:
    """Recomputed with pydicom and numpy from RTDOSE.dcm and RTSTRUCT.dcm, at points a quarter of a millimetre apart."""
    step = 1.0 if name == "BODY" else 0.25
    structures = planned.dataset("RTSTRUCT.dcm")
    dose = helpers.dose_of(planned.dataset("RTDOSE.dcm"))
    found = helpers.dose_inside(dose, helpers.contours_of(structures, name), 2.5, step)
    final = planned.document["structures"][name]["final"]
    own = {f"D{part}%_gy": helpers.dose_at_volume(found, part / 100) for part in (98, 95, 50, 2)}
    for key, value in {"Dmean_gy": found.mean(), **own}.items():
        # 0.1 % of the dose; a little more at both ends of a histogram, where in plane one point of three lies on a crest.
        # Contours of derived structures are the half-coverage line, their volume is the fractional one
        percent = 0.15 if key in ("D98%_gy", "D2%_gy") else 0.1
        percent = 0.3 if name == "Ring" else percent
        assert final[key] == pytest.approx(value, abs=percent / 100 * max(value, 50.0)), key


def test_metersets_of_the_plan_are_those_of_the_document(planned: Planned) -> None:
    dataset, document = planned.dataset("RTPLAN.dcm"), planned.document
    group = dataset.FractionGroupSequence[0]
    assert group.NumberOfFractionsPlanned == 25
    metersets = {int(one.ReferencedBeamNumber): float(one.BeamMeterset) for one in group.ReferencedBeamSequence}
    assert sum(metersets.values()) == pytest.approx(document["quality"]["total_mu"], abs=1e-3)
    assert metersets == pytest.approx({beam["number"]: beam["meterset_mu"] for beam in document["beams"]}, abs=1e-3)
    segments = {int(beam.BeamNumber): int(beam.NumberOfControlPoints) // 2 for beam in dataset.BeamSequence}
    assert segments == {beam["number"]: beam["segments"] for beam in document["beams"]}
    assert sum(segments.values()) == document["quality"]["segments"]
    names = [str(beam.BeamName) for beam in dataset.BeamSequence]
    assert names == [beam["name"] for beam in document["beams"]]
    assert len(set(names)) == len(names)
    angles = [
        (float(first.GantryAngle), float(first.PatientSupportAngle), float(first.BeamLimitingDeviceAngle))
        for first in (beam.ControlPointSequence[0] for beam in dataset.BeamSequence)
    ]
    assert angles == [(0, 0, 0), (90, 0, 20), (300, 90, 90)]
    for beam in dataset.BeamSequence:
        assert [float(a) for a in beam.ControlPointSequence[0].IsocenterPosition] == list(TARGET_MM)


def test_the_dose_is_that_of_the_printed_control_points(planned: Planned, setup: Setup) -> None:
    """Positions and metersets as RTPLAN.dcm holds them, through the engine once more, give RTDOSE.dcm."""
    deliveries = read_plan(planned.output / "RTPLAN.dcm").deliveries
    doses = beam_doses(setup.engine, deliveries, setup.case.machine)
    total = course_dose(setup.engine.grid, doses, 25).dose_gy
    exported = helpers.dose_of(planned.dataset("RTDOSE.dcm"))[0]
    np.testing.assert_allclose(exported, total, atol=1e-5 * total.max())


def test_beam_doses_add_up_to_the_plans(planned: Planned) -> None:
    parts = [planned.dataset(f"RTDOSE_{n}.dcm") for n in (1, 2, 3)]
    whole = planned.dataset("RTDOSE.dcm")
    total = np.sum([helpers.dose_of(part)[0] for part in parts], axis=0)
    np.testing.assert_allclose(total, helpers.dose_of(whole)[0], atol=1e-6 * total.max())
    assert whole.DoseSummationType == "PLAN"
    for number, part in enumerate(parts, 1):
        assert part.DoseSummationType == "BEAM"
        reference = part.ReferencedRTPlanSequence[0].ReferencedFractionGroupSequence[0].ReferencedBeamSequence[0]
        assert reference.ReferencedBeamNumber == number
        assert helpers.dose_of(part)[0].max() > 1.0


def test_beam_doses_of_the_plan_are_those_at_the_isocentre(planned: Planned) -> None:
    dataset = planned.dataset("RTPLAN.dcm")
    for one in dataset.FractionGroupSequence[0].ReferencedBeamSequence:
        dose, origin, spacing = helpers.dose_of(planned.dataset(f"RTDOSE_{int(one.ReferencedBeamNumber)}.dcm"))
        index = (np.array(TARGET_MM) - origin)[::-1] / spacing
        at_point = float(map_coordinates(dose, index[:, None], order=1)[0])  # trilinear
        assert float(one.BeamDose) == pytest.approx(at_point / 25, rel=1e-3)


def test_normalisation_brings_the_dose_to_the_prescription(planned: Planned) -> None:
    assert planned.document["structures"]["PTV_5000"]["final"]["D95%_gy"] == pytest.approx(50.0, rel=1e-3)


def test_the_dose_lies_in_the_target(planned: Planned) -> None:
    dose, origin, spacing = helpers.dose_of(planned.dataset("RTDOSE.dcm"))
    hot = np.argwhere(dose > 45.0) * spacing + origin[::-1]
    assert len(hot) > 20
    np.testing.assert_allclose(hot.mean(axis=0), TARGET_MM[::-1], atol=3.0)
    cord = np.rint((np.array([*CORD_MM, 10.0]) - origin)[::-1] / spacing).astype(int)
    assert dose[tuple(cord)] < 10.0


def test_goals_are_judged_on_the_final_dose(planned: Planned) -> None:
    goals = planned.document["goals"]
    final = {name: entry["final"] for name, entry in planned.document["structures"].items()}
    ideal = {name: entry["ideal"] for name, entry in planned.document["structures"].items()}
    assert [(goal["structure"], goal["kind"], goal["priority"]) for goal in goals] == [
        ("SpinalCord", "hard", 0),
        ("PTV_5000", "goal", 1),
        ("PTV_5000", "goal", 1),
        ("SpinalCord", "goal", 2),
        ("Ring", "goal", 2),
    ]
    for goal in goals:
        metric, sign, limit = goal["goal"].split()[:3]
        limit = float(limit) * (0.5 if goal["goal"].endswith("%") else 1.0)
        assert goal["achieved"] == pytest.approx(final[goal["structure"]][f"{metric}_gy"], rel=1e-9)
        assert goal["ideal"] == pytest.approx(ideal[goal["structure"]][f"{metric}_gy"], rel=1e-9)
        assert goal["met"] == (goal["achieved"] <= limit if sign == "<=" else goal["achieved"] >= limit)
    assert not goals[-1]["met"]  # a mean of 1 Gy beside the target cannot be had


def test_indices_are_those_of_the_exported_dose(planned: Planned) -> None:
    dose, quality = helpers.dose_of(planned.dataset("RTDOSE.dcm")), planned.document["quality"]
    structures = planned.dataset("RTSTRUCT.dcm")
    target = helpers.dose_inside(dose, helpers.contours_of(structures, "PTV_5000"), 2.5)
    body = helpers.dose_inside(dose, helpers.contours_of(structures, "BODY"), 2.5, 1.25)
    covered, isodose = (target >= 50.0).sum() * 0.5**3, (body >= 50.0).sum() * 1.25**3
    volume = len(target) * 0.5**3
    assert quality["conformity_index"] == pytest.approx(covered**2 / (volume * isodose), rel=0.02)
    d2, d98, d50 = (helpers.dose_at_volume(target, share) for share in (0.02, 0.98, 0.5))
    assert quality["homogeneity_index"] == pytest.approx((d2 - d98) / d50, abs=0.005)


# One leaf


def edge_to_move(delivery: BeamDelivery, bank: int) -> tuple[int, int]:
    """Segment and leaf pair (from 0): the most MU, and of its open pairs the widest whose edge no jaw is near to."""
    order = np.argsort([-segment.meterset_mu for segment in delivery.segments])
    for number in order:
        aperture = delivery.segments[number].aperture
        first, second = aperture.leaf_positions_mm
        assert aperture.jaw_x_mm is not None
        room = first - aperture.jaw_x_mm[0] if bank == 0 else aperture.jaw_x_mm[1] - second
        width = np.where(room > 4.0, second - first, 0.0)
        if width.max() > 10.0:
            return int(number), int(width.argmax())
    raise AssertionError("every leaf stands at the jaws")


def edited_plan(planned: Planned, folder: Path, bank: int, place: tuple[int, int], shift: float) -> BeamDelivery:
    """Beam 1 of the exported plan with one leaf of one segment moved, written and read back."""
    dataset = planned.dataset("RTPLAN.dcm")
    segment, pair = place
    for point in dataset.BeamSequence[0].ControlPointSequence[2 * segment : 2 * segment + 2]:
        device = next(one for one in point.BeamLimitingDevicePositionSequence if one.RTBeamLimitingDeviceType == "MLCX")
        positions = [float(a) for a in device.LeafJawPositions]
        positions[60 * bank + pair] += shift
        device.LeafJawPositions = [f"{a:.2f}" for a in positions]
    path = folder / f"moved_{bank}_{shift}.dcm"
    dataset.save_as(path)
    return read_plan(path).deliveries[0]


@pytest.mark.parametrize("bank", [0, 1])
@pytest.mark.parametrize("shift", [2.0, -2.0])
def test_a_leaf_moved_by_2_mm_changes_the_dose_there_and_nowhere_else(
    planned: Planned, setup: Setup, tmp_path: Path, bank: int, shift: float
) -> None:
    before = read_plan(planned.output / "RTPLAN.dcm").deliveries[0]
    segment, pair = edge_to_move(before, bank)
    leaves = before.segments[segment].aperture.leaf_positions_mm
    after = edited_plan(planned, tmp_path, bank, (segment, pair), shift)
    machine, engine = setup.case.machine, setup.engine
    change = np.subtract(
        *(engine.dose_gy_per_fraction(before.beam, delivery_plane(one, machine)) for one in (after, before))
    )
    grid = engine.grid
    index = np.stack(np.indices(grid.shape), axis=-1)
    points = grid.patient_from_index(index)
    u, v, _ = np.moveaxis(before.beam.frame("HFS").project(points), -1, 0)
    boundaries = machine.mlc.leaf_boundaries_mm
    beside = np.maximum(np.maximum(boundaries[pair] - v, v - boundaries[pair + 1]), 0.0)
    from_edge = np.abs(u - leaves[bank, pair] - 0.5 * shift)
    inside = setup.case.body > 0.99
    opens = (shift > 0) == (bank == 1)
    strongest = np.abs(change).max()
    # 2 mm of a leaf of 5 mm give about a tenth of the open field's dose (0.01 Gy/MU) where they open
    assert 0.03 < strongest / (0.01 * before.segments[segment].meterset_mu) < 0.5
    peak = np.unravel_index(int(np.abs(change).argmax()), change.shape)
    assert beside[peak] <= 5.0  # a voxel is 5 mm
    assert from_edge[peak] <= 5.0
    near = inside & (beside <= 1.0) & (from_edge <= 4.0)
    assert near.any()
    assert (np.sign(change[near]) == (1 if opens else -1)).all()
    far = inside & (np.hypot(beside, from_edge) > 20.0)
    assert np.abs(change[far]).max() < 0.03 * strongest
    # more open is nowhere less dose
    assert (change if opens else -change).min() > -1e-4 * strongest


def test_closing_every_leaf_leaves_the_leakage(planned: Planned, setup: Setup) -> None:
    before = read_plan(planned.output / "RTPLAN.dcm").deliveries[0]
    machine, engine = setup.case.machine, setup.engine

    def with_leaves(first: float, second: float) -> np.ndarray:
        segments = tuple(
            replace(
                one,
                aperture=replace(one.aperture, leaf_positions_mm=np.stack([np.full(60, first), np.full(60, second)])),
            )
            for one in before.segments
        )
        return engine.dose_gy_per_fraction(before.beam, delivery_plane(replace(before, segments=segments), machine))

    center = tuple(np.rint(engine.grid.index_from_patient(TARGET_MM)).astype(int))
    leaking, opened = with_leaves(-60.0, -60.0)[center], with_leaves(-60.0, 60.0)[center]
    # the plane holds 20 mm beyond the jaws, where jaws and leaves leak together: 1.5 % and a little
    assert leaking / opened == pytest.approx(machine.mlc.transmission, rel=0.05)


# References, conformance, foreign readers


def test_the_chain_of_references_is_closed(planned: Planned) -> None:
    plan, dose, structures = (planned.dataset(f"{name}.dcm") for name in ("RTPLAN", "RTDOSE", "RTSTRUCT"))
    images = [pydicom.dcmread(path) for path in sorted(planned.study.glob("*CT_*.dcm"))]
    assert dose.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID
    assert plan.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID == structures.SOPInstanceUID
    frame = structures.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == images[0].SeriesInstanceUID
    referenced = {item.ReferencedSOPInstanceUID for item in series.ContourImageSequence}
    assert referenced == {image.SOPInstanceUID for image in images}
    for dataset in (plan, dose, structures, *(planned.dataset(f"RTDOSE_{n}.dcm") for n in (1, 2, 3))):
        for keyword in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID", "StudyDate"):
            assert dataset[keyword].value == images[0][keyword].value, keyword
    new = [dataset.SOPInstanceUID for dataset in (plan, dose, structures)]
    series_uids = [dataset.SeriesInstanceUID for dataset in (plan, dose, structures)]
    assert len({*new, *series_uids, images[0].SeriesInstanceUID}) == 7
    assert all(uid.startswith("2.25.") for uid in (*new, *series_uids))
    assert plan.ApprovalStatus == "UNAPPROVED"
    assert "not for clinical use" in plan.RTPlanDescription
    assert not str(plan.RTPlanLabel).startswith("FAILED")
    target = plan.DoseReferenceSequence[0]
    assert float(target.TargetPrescriptionDose) == 50.0
    assert target.ReferencedROINumber == 2


def test_dciodvfy_finds_no_error(planned: Planned, tmp_path: Path) -> None:
    checker = program("dciodvfy")
    for name in ("RTPLAN.dcm", "RTSTRUCT.dcm"):
        output = run(checker, "-new", planned.output / name)
        assert not conformance_errors(output), output
    # Debian's dciodvfy aborts on 32-bit pixel data of whomever: the dose is held against it in 16 bits
    dose = planned.dataset("RTDOSE.dcm")
    top = int(dose.pixel_array.max())
    dose.PixelData = (dose.pixel_array / top * 65535).astype("<u2").tobytes()
    dose.BitsAllocated, dose.BitsStored, dose.HighBit = 16, 16, 15
    dose.save_as(tmp_path / "RD.dcm")
    output = run(checker, "-new", tmp_path / "RD.dcm")
    assert not conformance_errors(output), output


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2.0 * (one & other).sum() / (one.sum() + other.sum()))


def own_mask(planned: Planned, name: str) -> np.ndarray:
    """(z, y, x) CT voxels whose centre lies in the input's contours, or the exported ones of a derived structure."""
    case = read_study([planned.study]).case
    grid = case.ct.grid
    contours = helpers.contours_of(planned.dataset("RTSTRUCT.dcm"), name)
    y, x = np.meshgrid(grid.axis_mm(1), grid.axis_mm(2), indexing="ij")
    result = np.zeros(grid.shape, dtype=bool)
    for z, polygons in contours.items():
        result[int(np.abs(grid.axis_mm(0) - z).argmin())] = helpers.inside(polygons, x.ravel(), y.ravel()).reshape(
            x.shape
        )
    return result


def series_with(planned: Planned, folder: Path, *names: str) -> Path:
    """The CT with files of the output beside it, and without the input's RTSTRUCT."""
    folder.mkdir()
    for path in planned.study.glob("*CT_*.dcm"):
        shutil.copy(path, folder)
    for name in names:
        shutil.copy(planned.output / name, folder)
    return folder


def test_the_inputs_structures_come_through_unchanged(planned: Planned) -> None:
    before = pydicom.dcmread(next(planned.study.glob("*RTSTRUCT.dcm")))
    after = planned.dataset("RTSTRUCT.dcm")
    for name in ("BODY", "PTV_5000", "SpinalCord"):
        one, other = (helpers.contours_of(dataset, name) for dataset in (before, after))
        assert one.keys() == other.keys()
        for z, polygons in one.items():
            for mine, theirs in zip(polygons, other[z], strict=True):
                np.testing.assert_array_equal(mine, theirs)
    assert [item.ROIName for item in after.StructureSetROISequence][:3] == ["BODY", "PTV_5000", "SpinalCord"]
    assert {item.ROIName for item in after.StructureSetROISequence} >= {"Ring", "SpinalCord_PRV05"}


@pytest.mark.parametrize("name", ["BODY", "PTV_5000", "SpinalCord", "Ring", "SpinalCord_PRV05"])
def test_rt_utils_reads_the_same_structures(planned: Planned, tmp_path: Path, name: str) -> None:
    """Its masks take whole pixels with the border's: all of ours is in them, nothing is more than a pixel outside."""
    rt_utils = pytest.importorskip("rt_utils", exc_type=ImportError)
    folder = series_with(planned, tmp_path / "series")

    def mask(structures: Path) -> np.ndarray:
        read = rt_utils.RTStructBuilder.create_from(str(folder), str(structures))
        return np.moveaxis(read.get_roi_mask_by_name(name), -1, 0)

    found, own = mask(planned.output / "RTSTRUCT.dcm"), own_mask(planned, name)
    wider = binary_dilation(own, structure=np.ones((1, 3, 3), bool))
    assert not (own & ~found).any()
    assert not (found & ~wider).any()
    if name in ("BODY", "PTV_5000", "SpinalCord"):
        np.testing.assert_array_equal(found, mask(next(planned.study.glob("*RTSTRUCT.dcm"))))


def test_plastimatch_reads_the_same_structures_and_dose(planned: Planned, tmp_path: Path) -> None:
    plastimatch = program("plastimatch")
    sitk = pytest.importorskip("SimpleITK")
    folder = series_with(planned, tmp_path / "series", "RTSTRUCT.dcm", "RTDOSE.dcm")
    command = [plastimatch, "convert", "--xor-contours", "--input", folder, "--output-dose-img", tmp_path / "dose.nrrd"]
    run(*command, "--output-prefix", tmp_path / "masks", "--prefix-format", "nrrd")
    dose, origin, spacing = helpers.dose_of(planned.dataset("RTDOSE.dcm"))
    image = sitk.ReadImage(str(tmp_path / "dose.nrrd"))
    np.testing.assert_allclose(sitk.GetArrayFromImage(image), dose, atol=1e-4)
    np.testing.assert_allclose(image.GetOrigin(), origin, atol=1e-3)
    np.testing.assert_allclose(image.GetSpacing(), spacing[::-1], atol=1e-3)
    for name in ("BODY", "PTV_5000", "SpinalCord", "Ring", "SpinalCord_PRV05"):
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "masks" / f"{name}.nrrd"))) > 0
        assert dice(mask, own_mask(planned, name)) > 0.98, name


# Privacy


def test_no_name_identifier_or_file_name_is_told(planned: Planned) -> None:
    assert NAME in str(planned.dataset("RTPLAN.dcm").PatientName)
    for name, text in texts(planned).items():
        assert NAME.lower() not in text.lower(), name
        assert PATIENT_ID.lower() not in text.lower(), name
        assert "CT_0" not in text, name
        assert str(planned.study) not in text, name


def test_the_report_is_one_file_that_asks_for_nothing(planned: Planned) -> None:
    text = texts(planned)["report.html"]
    assert "Small 50 Gy in 25" in text
    assert "not a medical device" in text.lower()
    assert not re.search(r"""(?:src|href)\s*=\s*["']?https?:""", text)
    for beam in planned.document["beams"]:
        assert beam["name"] in text


def test_files_have_the_modes_of_the_umask(planned: Planned) -> None:
    mask = os.umask(0)
    os.umask(mask)
    for path in planned.output.iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask

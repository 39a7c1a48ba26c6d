"""RTPLAN: round trips, layout, and what cannot be read or written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_helpers import (
    IDENTITY_OF_TESTS,
    PRESCRIPTION,
    edit,
    shared_case,
    tiny_deliveries,
    tiny_machine,
    write_all,
    write_tiny_study,
)
from pydicom.dataset import Dataset

from dicomplan.beams.delivery import Aperture, Beam, BeamDelivery, Segment
from dicomplan.dicom.read import read_plan, read_study
from dicomplan.dicom.source import Study
from dicomplan.dicom.write_plan import write_plan
from dicomplan.dose.fluence import delivered_plane
from dicomplan.errors import InputError


@pytest.fixture
def study_folder(tmp_path: Path) -> Path:
    return write_tiny_study(tmp_path / "study")


@pytest.fixture
def study(study_folder: Path) -> Study:
    return read_study([study_folder])


@pytest.mark.parametrize("jaw_x", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_plan_reads_back_as_printed(study: Study, tmp_path: Path, seed: int, jaw_x: bool) -> None:
    deliveries = tiny_deliveries(seed, jaw_x=jaw_x, beams=3, segments=4)
    machine = tiny_machine(jaw_x=jaw_x)
    path = tmp_path / "RP.dcm"
    write_plan(
        path,
        study.source,
        deliveries,
        machine,
        PRESCRIPTION,
        identity=IDENTITY_OF_TESTS,
        structure_set_uid="1.2.3",
        patient_position="HFS",
        beam_doses_gy=[0.5, None, 0.25],
    )
    plan = read_plan(path)
    assert (plan.fractions, plan.patient_position, plan.structure_set_uid) == (35, "HFS", "1.2.3")
    assert plan.beam_doses_gy == (0.5, None, 0.25)
    assert plan.target_doses_gy == {"PTV_7000": 70.0, "PTV_5600": 56.0}
    assert plan.energies_mv == (6.0, 6.0, 6.0)
    for boundaries in plan.leaf_boundaries_mm:
        np.testing.assert_array_equal(boundaries, machine.mlc.leaf_boundaries_mm)
    for read, written in zip(plan.deliveries, deliveries, strict=True):
        assert read.beam == written.beam
        for ours, theirs in zip(read.segments, written.segments, strict=True):
            np.testing.assert_array_equal(
                ours.aperture.leaf_positions_mm, np.round(theirs.aperture.leaf_positions_mm, 2)
            )
            assert ours.aperture.jaw_x_mm == theirs.aperture.jaw_x_mm
            assert ours.aperture.jaw_y_mm == theirs.aperture.jaw_y_mm
            assert ours.meterset_mu == pytest.approx(round(theirs.meterset_mu, 4), abs=1e-10)
    # Writing what was read changes nothing.
    write_plan(
        tmp_path / "again.dcm",
        study.source,
        plan.deliveries,
        machine,
        PRESCRIPTION,
        identity=IDENTITY_OF_TESTS,
        structure_set_uid="1.2.3",
        patient_position="HFS",
        beam_doses_gy=[0.5, None, 0.25],
    )
    assert (tmp_path / "again.dcm").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("moving", [False, True])
def test_jaws_are_stated_where_they_change_and_read_back(study: Study, tmp_path: Path, moving: bool) -> None:
    """Of each segment its own, or moving with it; a jaw that stands still is stated once (PS3.3 C.8.8.14.7)."""
    machine = tiny_machine()
    (delivery,) = tiny_deliveries(5, beams=1, segments=4)
    segments = [
        replace(one, aperture=replace(one.aperture, jaw_x_mm=(-50.0 + k, 50.25), jaw_y_mm=(-30.0, 24.5 + k)))
        for k, one in enumerate(delivery.segments)
    ]
    ends = [*(one.aperture for one in segments[1:]), replace(segments[-1].aperture, jaw_x_mm=(-20.0, 40.0))]
    if moving:
        segments = [replace(one, end=end) for one, end in zip(segments, ends, strict=True)]
    delivery = replace(delivery, segments=tuple(segments))
    write_plan(
        tmp_path / "RP.dcm",
        study.source,
        [delivery],
        machine,
        PRESCRIPTION,
        identity=IDENTITY_OF_TESTS,
        structure_set_uid="1.2.3",
        patient_position="HFS",
    )
    (read,) = read_plan(tmp_path / "RP.dcm").deliveries
    assert read.moving is moving
    for ours, theirs in zip(read.segments, segments, strict=True):
        for one, other in ((ours.aperture, theirs.aperture), (ours.end, theirs.end)):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert (one.jaw_x_mm, one.jaw_y_mm) == (other.jaw_x_mm, other.jaw_y_mm)
    x_mm, y_mm = np.arange(-80.5, 81.0), np.arange(-60.5, 61.0)
    planes = [delivered_plane(one.segments, machine, x_mm, y_mm).values for one in (delivery, read)]
    assert np.abs(planes[0] - planes[1]).max() <= 0.01 * planes[0].max()  # leaf positions to 0.01 mm, pixels of 1 mm
    points = pydicom.dcmread(tmp_path / "RP.dcm").BeamSequence[0].ControlPointSequence
    assert len(points) == (5 if moving else 8)
    assert [len(point.BeamLimitingDevicePositionSequence) for point in points] == [3] * len(points)


def test_layout_of_the_plan(study: Study, tmp_path: Path) -> None:
    write_all(tmp_path, study)
    plan = pydicom.dcmread(tmp_path / "RP.dcm")
    beam = plan.BeamSequence[0]
    assert beam.BeamType == "STATIC"
    assert [item.RTBeamLimitingDeviceType for item in beam.BeamLimitingDeviceSequence] == ["ASYMX", "ASYMY", "MLCX"]
    points = beam.ControlPointSequence
    assert len(points) == beam.NumberOfControlPoints == 6
    weights = [float(point.CumulativeMetersetWeight) for point in points]
    assert weights[0] == 0
    assert weights[-1] == beam.FinalCumulativeMetersetWeight == 1
    assert weights[1] == weights[2]
    assert weights[3] == weights[4]
    assert [len(point.BeamLimitingDevicePositionSequence) for point in points] == [3, 1, 1, 1, 1, 1]
    shapes = [list(point.BeamLimitingDevicePositionSequence[-1].LeafJawPositions) for point in points]
    assert shapes[0] == shapes[1] != shapes[2] == shapes[3]
    group = plan.FractionGroupSequence[0]
    assert group.NumberOfBeams == len(plan.BeamSequence) == 2
    first = group.ReferencedBeamSequence[0]
    assert float(first.BeamMeterset) == pytest.approx(tiny_deliveries(1)[0].meterset_mu, abs=2e-4)
    assert float(first.BeamDose) == 1.25
    assert points[0].SourceToSurfaceDistance == 913.2
    assert "SourceToSurfaceDistance" not in plan.BeamSequence[1].ControlPointSequence[0]
    for element in plan.iterall():
        if element.VR == "DS" and not element.is_empty:
            values = [element.value] if element.VM == 1 else element.value
            assert all(len(str(value.original_string)) <= 16 for value in values)


def test_leaf_bank_order(study: Study, tmp_path: Path) -> None:
    write_all(tmp_path, study)
    leaves = pydicom.dcmread(tmp_path / "RP.dcm").BeamSequence[0].ControlPointSequence[0]
    positions = leaves.BeamLimitingDevicePositionSequence[-1].LeafJawPositions
    expected = tiny_deliveries(1)[0].segments[0].aperture.leaf_positions_mm
    assert [float(value) for value in positions[:12]] == pytest.approx(expected[0], abs=0.0051)
    assert [float(value) for value in positions[12:]] == pytest.approx(expected[1], abs=0.0051)


def _beam_change(keyword: str, value: object) -> object:
    return lambda dataset: setattr(dataset.BeamSequence[0], keyword, value)


def _arc(dataset: Dataset) -> None:
    dataset.BeamSequence[0].ControlPointSequence[1].GantryAngle = "10"


def _fall(dataset: Dataset) -> None:
    dataset.BeamSequence[0].ControlPointSequence[2].CumulativeMetersetWeight = "0"


def _no_meterset(dataset: Dataset) -> None:
    del dataset.FractionGroupSequence[0].ReferencedBeamSequence[0].BeamMeterset


def _one_point(dataset: Dataset) -> None:
    del dataset.BeamSequence[0].ControlPointSequence[1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_arc, "positions change|moves"),
        (_fall, "falls at control point 2"),
        (_no_meterset, "is missing"),
        (_one_point, "found 1 control points"),
        (_beam_change("RadiationType", "ELECTRON"), "expected PHOTON"),
        (_beam_change("NumberOfWedges", "1"), "found 1, expected 0"),
        (lambda dataset: setattr(dataset, "Modality", "RTDOSE"), "expected RTPLAN"),
        (lambda dataset: dataset.FractionGroupSequence.append(Dataset()), "found 2 fraction groups"),
    ],
)
def test_plans_that_cannot_be_read(study: Study, tmp_path: Path, change: object, message: str) -> None:
    write_all(tmp_path, study)
    edit(tmp_path / "RP.dcm", change)
    with pytest.raises(InputError, match=message) as caught:
        read_plan(tmp_path / "RP.dcm")
    assert caught.value.tag


def test_tolerated_habits_of_other_systems(study: Study, tmp_path: Path) -> None:
    write_all(tmp_path, study)
    original = read_plan(tmp_path / "RP.dcm")

    def habits(dataset: Dataset) -> None:
        points = dataset.BeamSequence[0].ControlPointSequence
        points[-1].CumulativeMetersetWeight = None  # XiO
        for point in (points[1], points[3]):
            del point.BeamLimitingDevicePositionSequence  # RayStation
        setup = Dataset()
        setup.update(dataset.BeamSequence[1])
        setup.BeamNumber, setup.TreatmentDeliveryType = "9", "SETUP"
        dataset.BeamSequence.append(setup)
        reference = Dataset()
        reference.ReferencedBeamNumber = "9"
        dataset.FractionGroupSequence[0].ReferencedBeamSequence.append(reference)

    edit(tmp_path / "RP.dcm", habits)
    read = read_plan(tmp_path / "RP.dcm")
    assert len(read.deliveries) == 2
    for ours, theirs in zip(read.deliveries[0].segments, original.deliveries[0].segments, strict=True):
        np.testing.assert_array_equal(ours.aperture.leaf_positions_mm, theirs.aperture.leaf_positions_mm)
        assert ours.meterset_mu == pytest.approx(theirs.meterset_mu, abs=1e-10)


def test_plans_that_dicom_cannot_hold(study: Study, tmp_path: Path) -> None:
    def attempt(deliveries: list[BeamDelivery], message: str, position: str = "HFS", jaw_x: bool = True) -> None:
        with pytest.raises(ValueError, match=message):
            write_plan(
                tmp_path / "RP.dcm",
                study.source,
                deliveries,
                tiny_machine(jaw_x=jaw_x),
                PRESCRIPTION,
                identity=IDENTITY_OF_TESTS,
                structure_set_uid="1.2.3",
                patient_position=position,
            )
        assert not (tmp_path / "RP.dcm").exists()

    first, second = tiny_deliveries(0)
    attempt([], "at least one beam")
    attempt([first, first], "unique")
    attempt([replace(first, segments=())], "no segments")
    attempt([replace(first, segments=(Segment(first.segments[0].aperture, 1e-5),))], "rounds to")
    attempt([replace(first, beam=Beam(1, "a name too long for it", 0, 0, 0, (0, 0, 0)))], "1 to 16")
    attempt([first, second], "patient position", position="SIDEWAYS")
    attempt(tiny_deliveries(0, jaw_x=False), "ASYMX")


def test_shared_step_and_shoot_plan_reads() -> None:
    plan = read_plan(shared_case("pymedphys_monaco_plans_a") / "24mm_x_20mm_rectangle.dcm")
    (delivery,) = plan.deliveries
    assert delivery.meterset_mu == pytest.approx(301.94, abs=0.01)
    assert delivery.segments[0].aperture.jaw_x_mm is None  # Agility has no X jaw
    assert delivery.segments[0].aperture.leaf_positions_mm.shape == (2, 80)


def moving_delivery() -> BeamDelivery:
    """A window of 10 mm that sweeps in two steps of unlike speed, then one that jumps while the beam is off."""
    machine = tiny_machine()

    def at(low: float) -> Aperture:
        leaves = np.array([np.full(machine.mlc.leaf_pairs, low), np.full(machine.mlc.leaf_pairs, low + 10.0)])
        return Aperture(leaves, (-30.0, 30.0), (-50.0, 50.0))

    segments = (
        Segment(at(-40.0), 10.0, at(-20.5)),
        Segment(at(-20.5), 22.25, at(30.0)),
        Segment(at(0.0), 5.0, at(10.0)),
    )
    return BeamDelivery(tiny_deliveries(1)[0].beam, segments, 432.125)


def test_moving_beams_are_dynamic_and_come_back_as_written(study: Study, tmp_path: Path) -> None:
    written = moving_delivery()
    for name in ("one.dcm", "two.dcm"):
        write_plan(
            tmp_path / name,
            study.source,
            [written],
            tiny_machine(),
            PRESCRIPTION,
            identity=IDENTITY_OF_TESTS,
            structure_set_uid="1.2.3",
            patient_position="HFS",
        )
        (written,) = read_plan(tmp_path / name).deliveries
    stored = pydicom.dcmread(tmp_path / "one.dcm").BeamSequence[0]
    assert stored.BeamType == "DYNAMIC"
    # the first two segments share a control point; before the third the leaves jump without meterset
    assert stored.NumberOfControlPoints == len(stored.ControlPointSequence) == 5
    assert float(stored.ControlPointSequence[0].DoseRateSet) == 432.125
    expected = moving_delivery()
    assert written.dose_rate_mu_min == expected.dose_rate_mu_min
    assert written.moving
    for ours, theirs in zip(written.segments, expected.segments, strict=True):
        assert ours.meterset_mu == pytest.approx(theirs.meterset_mu, abs=1e-10)
        np.testing.assert_array_equal(ours.aperture.leaf_positions_mm, theirs.aperture.leaf_positions_mm)
        np.testing.assert_array_equal(ours.end.leaf_positions_mm, theirs.end.leaf_positions_mm)
    assert (tmp_path / "one.dcm").read_bytes() == (tmp_path / "two.dcm").read_bytes()

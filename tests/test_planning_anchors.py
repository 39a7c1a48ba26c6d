"""Signs by absolute anchors for a patient lying head first supine: where a beam enters, which side a leaf bank is on.

The anchors are the conventions of IEC 61217 and DICOM PS3.3 C.8.8.14 for RT beams. Each is held against the dose of an
RTPLAN that was written and read back, in a phantom that is not symmetric.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import plan_helpers as helpers
import pydicom
import pytest
from dicom_helpers import IDENTITY_OF_TESTS, write_tiny_study

from dicomplan.beams.delivery import Aperture, Beam, BeamDelivery, Segment
from dicomplan.dicom.read import read_plan, read_study
from dicomplan.dicom.write_plan import write_plan
from dicomplan.dose.engines import PencilBeamEngine, delivery_plane
from dicomplan.dose.pencil_beam import medium
from dicomplan.dose.pencil_kernel import pencil_kernel
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.machine.library import load_machine
from dicomplan.patient.density import DensityVolume
from dicomplan.plan.template import Prescription, TargetLevel

MACHINE = load_machine("generic_6mv")
GRID = VoxelGrid((40, 40, 40), (4.0, 4.0, 4.0), (-78.0, -78.0, -78.0))
LEFT, RIGHT = np.array([1.0, 0, 0]), np.array([-1.0, 0, 0])
ANTERIOR, HEAD, FEET = np.array([0, -1.0, 0]), np.array([0, 0, 1.0]), np.array([0, 0, -1.0])
# (gantry, couch, where it enters, in patient coordinates): oblique ones 60 degrees from the vertical
ENTRIES = [
    (0.0, 0.0, ANTERIOR),
    (90.0, 0.0, LEFT),
    (180.0, 0.0, -ANTERIOR),
    (270.0, 0.0, RIGHT),
    (300.0, 90.0, np.sin(np.pi / 3) * HEAD + np.cos(np.pi / 3) * ANTERIOR),
    (60.0, 90.0, np.sin(np.pi / 3) * FEET + np.cos(np.pi / 3) * ANTERIOR),
]
# (gantry, couch, collimator, bank X2 lies, leaf pair 1 lies)
BANKS = [
    (0.0, 0.0, 0.0, LEFT, FEET),
    (0.0, 0.0, 90.0, HEAD, LEFT),
    (180.0, 0.0, 0.0, RIGHT, FEET),
]


def density(cavity: tuple[np.ndarray, float] | None = None) -> DensityVolume:
    """A cube of water of 160 mm; with a ball of air of a radius at a place."""
    mass = np.ones(GRID.shape, np.float32)
    if cavity is not None:
        z, y, x = np.meshgrid(*(GRID.axis_mm(axis) for axis in range(3)), indexing="ij")
        place, radius = cavity
        mass[(x - place[0]) ** 2 + (y - place[1]) ** 2 + (z - place[2]) ** 2 < radius**2] = 0.0012
    return DensityVolume(GRID, mass)


@cache
def kernel():
    return pencil_kernel(MACHINE.beam)


def aperture(low: float, high: float, pairs: range = range(24, 36)) -> Aperture:
    """X from ``low`` to ``high`` between some leaf pairs (from 0), jaws wide open."""
    leaves = np.full((2, 60), -50.0)
    leaves[0, list(pairs)], leaves[1, list(pairs)] = low, high
    return Aperture(leaves, (-80.0, 80.0), (-80.0, 80.0))


def exported(folder: Path, gantry: float, couch: float, collimator: float, opening: Aperture) -> BeamDelivery:
    """One beam of 100 MU about the origin, written as RTPLAN and read back."""
    source = read_study([write_tiny_study(folder / "study")]).source
    beam = Beam(1, "1_TEST", gantry, collimator, couch, (0.0, 0.0, 0.0))
    write_plan(
        folder / "RP.dcm",
        source,
        [BeamDelivery(beam, (Segment(opening, 100.0),))],
        MACHINE,
        Prescription(1, (TargetLevel("PTV_7000", 1.0),)),
        identity=IDENTITY_OF_TESTS,
        structure_set_uid="1.2.3",
        patient_position="HFS",
    )
    stored = read_plan(folder / "RP.dcm")
    assert stored.patient_position == "HFS"
    return stored.deliveries[0]


def dose(delivery: BeamDelivery, volume: DensityVolume) -> np.ndarray:
    engine = PencilBeamEngine(MACHINE, kernel(), medium(volume), np.arange(GRID.voxel_count), "HFS")
    return engine.dose_gy_per_fraction(delivery.beam, delivery_plane(delivery, MACHINE))


def at(values: np.ndarray, point: np.ndarray) -> float:
    index = np.rint(GRID.index_from_patient(point)).astype(int)
    return float(values[tuple(index)])


@pytest.mark.parametrize(("gantry", "couch", "side"), ENTRIES)
def test_a_beam_enters_where_its_angles_say(tmp_path: Path, gantry: float, couch: float, side: np.ndarray) -> None:
    """On the way in there is more dose than on the way out, nothing beside it, and a cavity counts on the way in only."""
    delivery = exported(tmp_path, gantry, couch, 0.0, aperture(-30.0, 30.0))
    plain = dose(delivery, density())
    depth = 50.0
    assert at(plain, depth * side) > 1.3 * at(plain, -depth * side)
    across = np.cross(side, [0.36, 0.48, 0.8])
    across /= np.linalg.norm(across)
    for beside in (across, -across):
        assert at(plain, 65.0 * beside) < 0.25 * at(plain, depth * side)
    before, behind = (dose(delivery, density((sign * depth * side, 15.0))) for sign in (1.0, -1.0))
    # less matter in front: more dose in the middle; less matter behind changes nothing there
    assert at(before, np.zeros(3)) > 1.04 * at(plain, np.zeros(3))
    assert at(behind, np.zeros(3)) == pytest.approx(at(plain, np.zeros(3)), rel=0.005)


@pytest.mark.parametrize(("gantry", "couch", "collimator", "second", "first_pair"), BANKS)
def test_banks_and_leaf_pairs_lie_where_the_collimator_turns_them(
    tmp_path: Path, gantry: float, couch: float, collimator: float, second: np.ndarray, first_pair: np.ndarray
) -> None:
    # X2 withdrawn by 40 mm, X1 on the axis: the field lies on the side of X2
    found = dose(exported(tmp_path / "x", gantry, couch, collimator, aperture(0.0, 40.0)), density())
    assert at(found, 20.0 * second) > 5.0 * at(found, -20.0 * second)
    # only leaf pairs below the middle open: the field lies on the side of pair 1
    low = exported(tmp_path / "y", gantry, couch, collimator, aperture(-20.0, 20.0, range(20, 28)))
    found = dose(low, density())
    assert at(found, 30.0 * first_pair) > 5.0 * at(found, -30.0 * first_pair)


def test_the_file_holds_bank_x1_first_and_pair_1_first(tmp_path: Path) -> None:
    opening = aperture(-11.0, 37.0, range(0, 5))
    exported(tmp_path, 0.0, 0.0, 0.0, opening)
    beam = pydicom.dcmread(tmp_path / "RP.dcm").BeamSequence[0]
    leaves = next(item for item in beam.BeamLimitingDeviceSequence if item.RTBeamLimitingDeviceType == "MLCX")
    boundaries = [float(a) for a in leaves.LeafPositionBoundaries]
    assert boundaries == sorted(boundaries)
    assert boundaries[0] == -200.0
    first = beam.ControlPointSequence[0]
    device = next(item for item in first.BeamLimitingDevicePositionSequence if item.RTBeamLimitingDeviceType == "MLCX")
    positions = np.array([float(a) for a in device.LeafJawPositions]).reshape(2, 60)
    np.testing.assert_array_equal(positions[:, :5], [[-11.0] * 5, [37.0] * 5])


# The same on a plan that was made, not set


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> helpers.Planned:
    """Isocentre in the middle of the phantom, 14 mm right, 8 mm behind and 10 mm below the target."""
    fields = "{gantry: 0}, {gantry: 90, collimator: 90}, {gantry: 300, couch: 90}, {gantry: 60, couch: 90}"
    text = helpers.template(isocenter="[0, 0, 0]", fields=fields)
    return helpers.plan(tmp_path_factory.mktemp("anchors"), text, beam_doses=True)


def field_center(planned: helpers.Planned, number: int) -> np.ndarray:
    """Meterset-weighted middle of the open area (X, Y), mm, from the file alone."""
    beam = planned.dataset("RTPLAN.dcm").BeamSequence[number - 1]
    leaves = next(item for item in beam.BeamLimitingDeviceSequence if item.RTBeamLimitingDeviceType == "MLCX")
    edges = np.array([float(a) for a in leaves.LeafPositionBoundaries])
    total, moment = 0.0, np.zeros(2)
    points = beam.ControlPointSequence
    for start, stop in zip(points[::2], points[1::2], strict=True):
        weight = float(stop.CumulativeMetersetWeight) - float(start.CumulativeMetersetWeight)
        device = next(
            item for item in start.BeamLimitingDevicePositionSequence if item.RTBeamLimitingDeviceType == "MLCX"
        )
        first, second = np.array([float(a) for a in device.LeafJawPositions]).reshape(2, -1)
        area = weight * (second - first) * np.diff(edges)
        total += area.sum()
        moment += [(area * 0.5 * (first + second)).sum(), (area * 0.5 * (edges[1:] + edges[:-1])).sum()]
    return moment / total


def test_leaves_of_a_made_plan_open_where_the_target_is(whole: helpers.Planned) -> None:
    """The target lies left, anterior and superior of the isocentre; its edges need more fluence, here or there."""
    x, y, z = helpers.TARGET_MM
    # X2 is left and pair 60 superior
    np.testing.assert_allclose(field_center(whole, 1), [x, z], atol=5.0)
    # gantry 90: at collimator 0 X2 is posterior and Y superior; turned by 90 degrees X2 is superior and Y anterior
    np.testing.assert_allclose(field_center(whole, 2), [z, -y], atol=5.0)


def nearest(dose: tuple[np.ndarray, np.ndarray, np.ndarray], point: np.ndarray) -> float:
    values, origin, spacing = dose
    return float(values[tuple(np.rint((point - origin)[::-1] / spacing).astype(int))])


def test_beams_of_a_made_plan_enter_where_they_should(whole: helpers.Planned) -> None:
    target = np.array(helpers.TARGET_MM)
    for number, side in ((1, ANTERIOR), (2, LEFT), (3, ENTRIES[4][2]), (4, ENTRIES[5][2])):
        found = helpers.dose_of(whole.dataset(f"RTDOSE_{number}.dcm"))
        assert nearest(found, target + 22.0 * side) > 1.1 * nearest(found, target - 22.0 * side), number
        # how much each beam gives, and where in the target most, is the optimiser's business; outside its field it is 0.5 %
        assert nearest(found, target) > 0.1 * found[0].max(), number


def test_the_dose_of_a_made_plan_is_in_the_target(whole: helpers.Planned) -> None:
    values, origin, spacing = helpers.dose_of(whole.dataset("RTDOSE.dcm"))
    hot = np.argwhere(values > 0.9 * values.max()) * spacing + origin[::-1]
    np.testing.assert_allclose(hot.mean(axis=0), helpers.TARGET_MM[::-1], atol=6.0)
    assert whole.outcome.exit_code == 0

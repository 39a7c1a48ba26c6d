"""Arrangement of beams and their beamlets: targets are covered with a margin, rows are leaf pairs, neighbours are neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines_for_tests import MACHINES

from dicomplan.beams.arrangement import arrange, beam_name, covered_points_mm, isocenter_mm
from dicomplan.beams.beamlets import BEAMLET_MM, MARGIN_MM, BeamletMap, Skin, beamlets
from dicomplan.beams.delivery import Beam
from dicomplan.geometry.frames import PATIENT_POSITIONS
from dicomplan.geometry.grid import VoxelGrid
from dicomplan.machine.library import load_machine
from dicomplan.patient.case import Coverage

MLC = load_machine("generic_6mv").mlc
HERE = Beam(1, "1_G000", 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))


def ball(radius_mm: float, center=(0.0, 0.0, 0.0), step_mm: float = 2.0) -> np.ndarray:
    at = np.arange(-radius_mm, radius_mm + 1e-9, step_mm)
    points = np.stack(np.meshgrid(at, at, at), axis=-1).reshape(-1, 3)
    return points[np.linalg.norm(points, axis=1) <= radius_mm] + np.array(center)


def beam(gantry=0.0, collimator=0.0, couch=0.0, isocenter=(0.0, 0.0, 0.0)) -> Beam:
    return Beam(1, beam_name(1, gantry, couch), gantry, collimator, couch, isocenter)


def cell(map_: BeamletMap, x: float, y: float) -> tuple[int, int]:
    return (
        int(np.searchsorted(map_.y_edges_mm, y, side="right")) - 1,
        int(np.searchsorted(map_.x_edges_mm, x, side="right")) - 1,
    )


# Arrangement


def test_the_isocentre_is_the_middle_of_all_targets_in_whole_millimetres() -> None:
    grid = VoxelGrid((10, 10, 10), (3.0, 1.0, 1.0), (-4.3, 20.2, -7.7))
    first, second = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    first[1:3, 2:4, 3:5] = 1.0
    second[7:9, 5:9, 0:2] = 1.0
    second[9, 9, 9] = 0.4  # covered less than half: of no account
    point = isocenter_mm([Coverage(grid, first), Coverage(grid, second)])
    # voxel centres: x -4.3..-0.3, y 22.2..28.2, z -4.7..16.3
    assert point == (-2.0, 25.0, 6.0)
    # the size of a target does not pull it: the box counts
    assert isocenter_mm([Coverage(grid, np.maximum(first, second))]) == point


def test_a_target_that_covers_no_voxel_by_half_still_has_a_place() -> None:
    grid = VoxelGrid((3, 3, 3), (1.0, 1.0, 1.0), (10.0, 20.0, 30.0))
    thin = np.zeros(grid.shape, np.float32)
    thin[2, 1, 0] = 0.2
    np.testing.assert_allclose(covered_points_mm(Coverage(grid, thin)), [[10.0, 21.0, 32.0]])
    assert isocenter_mm([Coverage(grid, thin)]) == (10.0, 21.0, 32.0)
    with pytest.raises(ValueError, match="nothing"):
        isocenter_mm([Coverage(grid, np.zeros(grid.shape, np.float32))])


def test_beams_are_numbered_and_named() -> None:
    beams = arrange([(0, 0, 0), (40, 15, 0), (300, 90, 90), (102.5, 0, 0)], (1.0, 2.0, 3.0), 1000.0)
    assert [one.number for one in beams] == [1, 2, 3, 4]
    assert [one.name for one in beams] == ["1_G000", "2_G040", "3_G300_T090", "4_G102.5"]
    assert (beams[2].gantry_angle_deg, beams[2].collimator_angle_deg, beams[2].couch_angle_deg) == (300, 90, 90)
    assert all(one.isocenter_mm == (1.0, 2.0, 3.0) for one in beams)


@given(st.integers(1, 99), st.floats(0, 359.9), st.integers(0, 359), st.sampled_from(["", "a", "b"]))
def test_names_fit_into_16_characters(number: int, gantry: float, couch: int, part: str) -> None:
    name = beam_name(number, round(gantry, 1), couch, part)
    assert len(name) <= 16
    assert name.startswith(f"{number}_G")
    assert name.endswith(part)


# Beamlets


@settings(max_examples=30)
@given(
    st.floats(0, 359),
    st.floats(0, 359),
    st.floats(0, 359),
    st.sampled_from(PATIENT_POSITIONS),
    st.floats(4, 45),
    st.tuples(*[st.floats(-25, 25)] * 3),
)
def test_targets_are_covered_with_the_margin_and_no_more(
    gantry: float, collimator: float, couch: float, position: str, radius: float, center: tuple[float, float, float]
) -> None:
    frame = beam(gantry, collimator, couch).frame(position)
    points = ball(radius, center, step_mm=1.5 if radius < 15 else 3.0)
    found = beamlets(beam(gantry, collimator, couch), frame, points, MLC)
    projected = frame.project(points)[:, :2]
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    # 1.5 mm less: cells are found on a raster of 1 mm
    around = (MARGIN_MM - 1.5) * np.column_stack([np.cos(turn), np.sin(turn)])
    for x, y in (projected[:: max(1, len(projected) // 60), None] + around[None]).reshape(-1, 2):
        assert found.active[cell(found, x, y)]
    # a beamlet of the outermost ones reaches within the margin of some projected point
    rows, columns = np.nonzero(found.active)
    for row, column in zip(rows, columns, strict=True):
        if 0 < column < found.active.shape[1] - 1 and found.active[row, column - 1] and found.active[row, column + 1]:
            continue
        low = np.array([found.x_edges_mm[column], found.y_edges_mm[row]])
        high = np.array([found.x_edges_mm[column + 1], found.y_edges_mm[row + 1]])
        outside = np.maximum(np.maximum(low - projected, projected - high), 0.0)
        assert np.hypot(*outside.T).min() <= MARGIN_MM + 1.5


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_rows_are_the_machines_leaf_pairs(name: str) -> None:
    mlc = MACHINES[name].mlc
    found = beamlets(HERE, HERE.frame("HFS"), ball(60.0, (20.0, 0.0, 60.0), 4.0), mlc)
    rows = slice(found.first_leaf_pair, found.first_leaf_pair + found.active.shape[0] + 1)
    np.testing.assert_array_equal(found.y_edges_mm, mlc.leaf_boundaries_mm[rows])
    np.testing.assert_allclose(np.diff(found.x_edges_mm), BEAMLET_MM)
    np.testing.assert_allclose(found.x_edges_mm % BEAMLET_MM, 0.0)
    assert found.active[0].any()
    assert found.active[-1].any()


def test_a_gap_within_a_row_is_filled() -> None:
    points = np.concatenate([ball(8.0, (-40.0, 0.0, 0.0)), ball(8.0, (45.0, 0.0, 0.0))])
    found = beamlets(HERE, HERE.frame("HFS"), points, MLC)
    assert found.active[cell(found, 0.0, 0.0)]
    for row in found.active:
        assert np.count_nonzero(np.diff(np.concatenate([[0], row, [0]]))) in (0, 2)


def test_two_targets_above_each_other_leave_the_leaves_between_them_closed() -> None:
    points = np.concatenate([ball(8.0, (0.0, 0.0, -50.0)), ball(8.0, (0.0, 0.0, 50.0))])
    found = beamlets(HERE, HERE.frame("HFS"), points, MLC)
    middle = cell(found, 0.0, 0.0)[0]
    assert not found.active[middle].any()
    np.testing.assert_array_equal(found.active[middle + 1 : middle + 3], False)


def test_an_off_axis_target_at_gantry_0_lies_where_the_anchors_say() -> None:
    """Left of the patient is +x of the device and superior is +y, at collimator 0, head first supine."""
    found = beamlets(HERE, HERE.frame("HFS"), ball(6.0, (60.0, 0.0, -40.0)), MLC)
    assert found.x_edges_mm[0] > 40.0
    assert found.y_edges_mm[-1] <= -25.0
    turned = beam(collimator=90.0)
    found = beamlets(turned, turned.frame("HFS"), ball(6.0, (0.0, 0.0, 60.0)), MLC)
    assert found.x_edges_mm[0] > 40.0  # +x of the device is superior at collimator 90


@pytest.mark.parametrize(
    ("center", "words"), [((250.0, 0.0, 0.0), "reach of the leaves"), ((0.0, 0.0, 260.0), "beyond the leaves")]
)
def test_what_no_leaf_reaches_is_refused(center: tuple[float, float, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        beamlets(HERE, HERE.frame("HFS"), ball(5.0, center), MLC)


def test_values_go_into_their_cells_and_neighbours_are_neighbours() -> None:
    found = beamlets(HERE, HERE.frame("HFS"), ball(23.0, (3.0, 0.0, 5.0)), MLC)
    assert found.count == np.count_nonzero(found.active) > 40
    values = np.arange(1.0, found.count + 1)
    filled = found.filled(values)
    np.testing.assert_array_equal(filled[found.active], values)
    assert filled.sum() == values.sum()
    column = found.filled(0.5 * (np.nonzero(found.active)[1] + 1.0)) * 2 - 1
    row = found.filled(np.nonzero(found.active)[0].astype(float))
    flat_row, flat_column = row[found.active], column[found.active]
    first, second = found.along_leaf()
    np.testing.assert_array_equal(flat_row[first], flat_row[second])
    np.testing.assert_array_equal(flat_column[second] - flat_column[first], 1)
    assert len(first) == np.count_nonzero(found.active[:, 1:] & found.active[:, :-1])
    first, second = found.across_leaves()
    np.testing.assert_array_equal(flat_column[first], flat_column[second])
    np.testing.assert_array_equal(flat_row[second] - flat_row[first], 1)
    assert len(first) == np.count_nonzero(found.active[1:] & found.active[:-1])


# Beyond the skin


def at_the_skin(flash_mm: float, gantry: float = 0.0) -> BeamletMap:
    """A ball of 20 mm radius, 4 mm under the surface x = 24 mm of a body that is large elsewhere; HFS."""
    at = np.arange(-120.0, 121.0, 3.0)
    body = np.stack(np.meshgrid(at[at <= 24.0], at, at, indexing="ij"), axis=-1).reshape(-1, 3)
    skin = Skin(body, 3.0, flash_mm) if flash_mm else None
    one = beam(gantry)
    return beamlets(one, one.frame("HFS"), ball(20.0), MLC, skin=skin)


def test_flash_opens_beyond_the_skin_and_nowhere_else() -> None:
    plain, flash = at_the_skin(0.0), at_the_skin(15.0)
    assert len(plain.flash) == 0
    x, y = (0.5 * (edges[1:] + edges[:-1]) for edges in (flash.x_edges_mm, flash.y_edges_mm))
    beyond = np.zeros(flash.active.shape, dtype=bool)
    places = np.argwhere(flash.active)
    beyond[tuple(places[flash.flash[:, 0]].T)] = True
    # the surface's last voxel centre is at 24 mm: its edge at 25.5; magnified by at most 8 % where it is nearest the source
    assert x[np.argwhere(beyond)[:, 1]].min() > 25.0
    assert x[flash.active.any(axis=0)].max() == pytest.approx(24.0 * 1.14 + 15.0, abs=BEAMLET_MM)
    middle = np.argmin(np.abs(y))
    assert beyond[middle].sum() >= 2
    # on the patient the field is as it was, but for cells that the skin cuts and gaps in rows that end beyond it
    known = {tuple(one) for one in centres_of(plain).tolist()}
    added = [one for one in centres_of(flash).tolist() if one[0] < 20.0 and tuple(one) not in known]
    assert known <= {tuple(one) for one in centres_of(flash).tolist()}
    assert all(beyond[np.argmin(np.abs(y - one[1]))].any() and one[0] > 0.0 for one in added)
    assert len(added) < 0.1 * len(known)


def centres_of(map_: BeamletMap) -> np.ndarray:
    """(count, 2) x and y of each beamlet's centre, mm."""
    x, y = (0.5 * (edges[1:] + edges[:-1]) for edges in (map_.x_edges_mm, map_.y_edges_mm))
    rows, columns = np.nonzero(map_.active)
    return np.stack([x[columns], y[rows]], axis=-1)


def test_a_beamlet_beyond_the_skin_is_tied_to_the_nearest_on_the_patient() -> None:
    flash = at_the_skin(15.0)
    centres = centres_of(flash)
    on_patient = np.setdiff1d(np.arange(flash.count), flash.flash[:, 0])
    for one, other in flash.flash:
        assert other in on_patient
        distance = np.linalg.norm(centres[on_patient] - centres[one], axis=1)
        assert np.linalg.norm(centres[other] - centres[one]) == pytest.approx(distance.min())


def test_a_field_that_ends_before_the_skin_is_not_opened_up_to_it() -> None:
    """The skin 20 mm beyond the target's margin: no tissue in between is opened for the sake of flash."""
    at = np.arange(-120.0, 121.0, 3.0)
    body = np.stack(np.meshgrid(at[at <= 45.0], at, at, indexing="ij"), axis=-1).reshape(-1, 3)
    found = beamlets(HERE, HERE.frame("HFS"), ball(20.0), MLC, skin=Skin(body, 3.0, 25.0))
    plain = beamlets(HERE, HERE.frame("HFS"), ball(20.0), MLC)
    assert len(found.flash) == 0
    assert found.count == plain.count


def test_a_beam_that_meets_the_skin_square_gets_no_flash() -> None:
    """From gantry 90 the surface lies across the beam: its silhouette ends far from the target."""
    plain, flash = at_the_skin(0.0, 90.0), at_the_skin(15.0, 90.0)
    assert len(flash.flash) == 0
    np.testing.assert_array_equal(plain.active, flash.active[np.ix_(*trimmed(plain, flash))])


def trimmed(one: BeamletMap, other: BeamletMap) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of ``other`` that ``one`` has too."""
    rows = np.arange(len(one.y_edges_mm) - 1) + one.first_leaf_pair - other.first_leaf_pair
    columns = np.flatnonzero(np.isin(other.x_edges_mm[:-1], one.x_edges_mm[:-1]))
    return rows, columns

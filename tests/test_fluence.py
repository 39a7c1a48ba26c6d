"""Fluence of apertures: areas are exact, leaves and jaws leak what the machine says, moving one leaf moves one row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines_for_tests import generic_120, without_x_jaw

from dicomplan.beams.delivery import Aperture, BeamDelivery, Segment
from dicomplan.dose.engines import FIELD_MARGIN_MM, delivery_plane, direction_planes, plane_of_beamlets
from dicomplan.dose.fluence import (
    aperture_transmission,
    box_overlap,
    delivered_plane,
    field_range_mm,
    plane_axes,
    profile_factor,
    source_sigma_mm,
)
from dicomplan.machine.library import load_machine
from dicomplan.machine.model import MachineModel

MACHINE = generic_120()
PAIRS = MACHINE.mlc.leaf_pairs
WIDTHS = np.diff(MACHINE.mlc.leaf_boundaries_mm)
X, Y = plane_axes((-130.0, 130.0), (-220.0, 220.0))
OPEN = MACHINE.mlc.transmission


def no_leak(machine: MachineModel = MACHINE, offset: float = 0.0) -> MachineModel:
    return replace(machine, mlc=replace(machine.mlc, transmission=0.0, leaf_end_offset_mm=offset))


def between(at: np.ndarray, low: float, high: float) -> np.ndarray:
    return (at > low) & (at < high)


def closed(at: float = -100.0) -> np.ndarray:
    return np.full((2, PAIRS), at)


def opened(rows: slice | range | list[int], low: float, high: float, at: float = -100.0) -> np.ndarray:
    leaves = closed(at)
    leaves[0, list(range(PAIRS))[rows] if isinstance(rows, slice) else rows] = low
    leaves[1, list(range(PAIRS))[rows] if isinstance(rows, slice) else rows] = high
    return leaves


def transmission(leaves: np.ndarray, machine: MachineModel = MACHINE, jaw_x=None, jaw_y=None) -> np.ndarray:
    return aperture_transmission(Aperture(leaves, jaw_y, jaw_x), machine, X, Y)


POSITIONS = st.lists(st.tuples(st.floats(-110, 110), st.floats(0, 60)), min_size=PAIRS, max_size=PAIRS)


@given(POSITIONS, st.sampled_from([1.0, 0.5, 2.0]))
def test_the_open_area_is_that_of_the_leaves_to_the_last_digit(
    positions: list[tuple[float, float]], step: float
) -> None:
    first = np.array([low for low, _ in positions])
    second = np.minimum(first + [width for _, width in positions], 125.0)
    x, y = plane_axes((-130.0, 130.0), (-220.0, 220.0), step)
    found = aperture_transmission(Aperture(np.stack([first, second]), None, None), no_leak(), x, y)
    np.testing.assert_allclose(found.sum() * step * step, ((second - first) * WIDTHS).sum(), rtol=1e-9, atol=1e-6)
    assert found.min() >= 0.0
    assert found.max() <= 1.0 + 1e-12


def test_what_is_closed_leaks_what_the_machine_says() -> None:
    inside = np.abs(Y) < 200.0
    np.testing.assert_allclose(transmission(closed()), OPEN)
    behind_jaws = transmission(closed(), jaw_x=(-50.0, 50.0), jaw_y=(-50.0, 50.0))
    middle = np.ix_(np.abs(Y) < 50, np.abs(X) < 50)
    np.testing.assert_allclose(behind_jaws[middle], OPEN)
    # a jaw without transmission lets nothing through, whatever the leaves do
    assert behind_jaws[np.ix_(np.abs(Y) > 51, np.abs(X) < 50)].max() == 0.0
    generic = load_machine("generic_6mv")
    leaky = aperture_transmission(Aperture(opened(slice(None), -60, 60), (-40.0, 40.0), (-30.0, 30.0)), generic, X, Y)
    for rows, columns, expected in (
        (np.abs(Y) < 40, np.abs(X) < 30, 1.0),
        (np.abs(Y) < 40, (np.abs(X) > 30) & (np.abs(X) < 60), 0.005),
        ((np.abs(Y) > 40) & inside, np.abs(X) < 30, 0.005),
        (np.abs(Y) < 40, np.abs(X) > 61, 0.015 * 0.005),
        ((np.abs(Y) > 40) & inside, np.abs(X) > 61, 0.015 * 0.005 * 0.005),
    ):
        np.testing.assert_allclose(leaky[np.ix_(rows, columns)], expected)


@pytest.mark.parametrize("bank", [0, 1])
@pytest.mark.parametrize("shift", [-2.0, 2.0, 0.3])
@pytest.mark.parametrize("pair", [3, 29, 45])
def test_moving_one_leaf_changes_its_row_by_the_area_that_it_uncovers(bank: int, shift: float, pair: int) -> None:
    leaves = opened(slice(None), -20.0, 30.0)
    moved = leaves.copy()
    moved[bank, pair] += shift
    change = transmission(moved) - transmission(leaves)
    rows = between(Y, *MACHINE.mlc.leaf_boundaries_mm[[pair, pair + 1]])
    edge = leaves[bank, pair]
    near = between(X, edge + min(shift, 0) - 1.0, edge + max(shift, 0) + 1.0)
    assert np.abs(change[np.ix_(~rows, np.ones_like(near))]).max() == 0.0
    assert np.abs(change[:, ~near]).max() == 0.0
    grows = shift if bank == 1 else -shift
    np.testing.assert_allclose(change.sum(), grows * WIDTHS[pair] * (1.0 - OPEN), rtol=1e-9)
    assert np.sign(change[np.ix_(rows, near)].sum()) == np.sign(grows)


def test_x2_is_the_positive_side_and_pair_1_the_lowest() -> None:
    leaves = opened([0], 10.0, 30.0)
    found = transmission(leaves, no_leak())
    rows, columns = np.nonzero(found)
    assert Y[rows].max() < -190.0
    assert X[columns].min() > 10.0
    assert X[columns].max() < 30.0


def test_radiation_edges_lie_behind_the_leaf_tips() -> None:
    leaves = opened(range(10, 20), -20.0, 30.0)
    area = transmission(leaves, no_leak(offset=0.7)).sum()
    np.testing.assert_allclose(area, 51.4 * WIDTHS[10:20].sum(), rtol=1e-12)  # leaves that touch stay closed


@pytest.mark.parametrize("jaw", [(-12.4, 33.7), (-80.0, 5.1)])
def test_jaws_cut_by_area(jaw: tuple[float, float]) -> None:
    everywhere = opened(slice(None), -100.0, 100.0)
    along = transmission(everywhere, no_leak(), jaw_x=jaw)
    np.testing.assert_allclose(along.sum(), (jaw[1] - jaw[0]) * 400.0)
    across = transmission(everywhere, no_leak(), jaw_y=jaw)
    np.testing.assert_allclose(across.sum(), (jaw[1] - jaw[0]) * 200.0)


def test_a_machine_without_x_jaws() -> None:
    machine = without_x_jaw()
    leaves = np.stack([np.full(80, -20.0), np.full(80, 20.0)])
    found = aperture_transmission(Aperture(leaves, (-50.0, 50.0), None), no_leak(machine), X, Y)
    np.testing.assert_allclose(found.sum(), 40.0 * 100.0)


def test_segments_add_up_by_their_metersets_under_the_profile() -> None:
    first = Segment(Aperture(opened(range(20, 40), -30.0, 20.0), (-50.0, 50.0), (-60.0, 60.0)), 3.0)
    second = Segment(Aperture(opened(range(25, 30), 5.5, 40.0), (-50.0, 50.0), (-60.0, 60.0)), 7.5)
    together = delivered_plane([first, second], MACHINE, X, Y).values
    alone = [delivered_plane([replace(one, meterset_mu=1.0)], MACHINE, X, Y).values for one in (first, second)]
    np.testing.assert_allclose(together, 3.0 * alone[0] + 7.5 * alone[1], rtol=1e-12)
    # 2 % more 200 mm off the axis, in proportion between
    at = np.argmin(np.abs(Y - 40.5)), np.argmin(np.abs(X - 9.5))
    raw = aperture_transmission(first.aperture, MACHINE, X, Y)
    assert alone[0][at] / raw[at] == pytest.approx(1.0 + 0.02 * np.hypot(9.5, 40.5) / 200.0)


def test_the_generic_profile_is_1_on_the_axis() -> None:
    beam = load_machine("generic_6mv").beam
    assert profile_factor(beam, np.array([0.0]), np.array([0.0]))[0, 0] == pytest.approx(1.0, abs=1e-3)
    sides = profile_factor(beam, np.array([-80.0, 80.0]), np.array([-60.0, 60.0]))
    np.testing.assert_allclose(sides, sides[0, 0])


def test_source_blur_by_similar_triangles() -> None:
    beam = replace(MACHINE.beam, source_fwhm_mm=2.3548200450309493, collimator_distance_mm=400.0)
    assert source_sigma_mm(beam, 1000.0) == pytest.approx(1.5)
    assert source_sigma_mm(replace(beam, source_fwhm_mm=0.0), 1000.0) == 0.0


@given(st.floats(-50, 50), st.floats(0, 40), st.floats(-50, 50), st.floats(0, 40))
def test_planes_hold_what_is_asked_with_edges_at_whole_steps(x: float, width: float, y: float, height: float) -> None:
    at_x, at_y = plane_axes((x, x + width), (y, y + height), 0.5)
    for centres, low, high in ((at_x, x, x + width), (at_y, y, y + height)):
        assert centres[0] - 0.25 <= low + 1e-6
        assert centres[-1] + 0.25 >= high - 1e-6
        np.testing.assert_allclose(np.diff(centres), 0.5)
        np.testing.assert_allclose((centres - 0.25) % 0.5 % 0.5, 0.0, atol=1e-9)


def test_box_overlap_is_the_covered_share() -> None:
    share = box_overlap(np.array([0.25, -9.0]), np.array([2.5, 9.0]), np.array([0.5, 1.5, 2.5, 3.5]))
    np.testing.assert_allclose(share, [[0.75, 1.0, 0.5, 0.0], [1.0, 1.0, 1.0, 1.0]])


@given(st.integers(0, 2**32 - 1))
def test_the_plane_of_a_delivery_holds_all_that_is_open(seed: int) -> None:
    random = np.random.default_rng(seed)
    segments = []
    for _ in range(3):
        rows = np.sort(random.integers(0, PAIRS, size=2))
        leaves = closed(random.uniform(-80, 80))
        size = rows[1] + 1 - rows[0]
        leaves[0, rows[0] : rows[1] + 1] = random.uniform(-80, 10, size)
        leaves[1, rows[0] : rows[1] + 1] = leaves[0, rows[0] : rows[1] + 1] + random.uniform(0.5, 60, size)
        jaw_y = tuple(MACHINE.mlc.leaf_boundaries_mm[[rows[0], rows[1] + 1]])
        segments.append(Segment(Aperture(leaves, jaw_y, (-80.0, 80.0)), float(random.uniform(1, 9))))
    (x_low, x_high), (y_low, y_high) = field_range_mm(segments, MACHINE, FIELD_MARGIN_MM)
    machine = no_leak()
    whole = delivered_plane(segments, machine, X, Y)
    rows, columns = np.nonzero(whole.values)
    assert x_low + FIELD_MARGIN_MM <= X[columns].min() + 0.5
    assert x_high - FIELD_MARGIN_MM >= X[columns].max() - 0.5
    assert y_low + FIELD_MARGIN_MM <= Y[rows].min() + 0.5
    assert y_high - FIELD_MARGIN_MM >= Y[rows].max() - 0.5


def deliveries(count: int = 2, gantry: tuple[float, ...] = (0.0, 0.0)) -> list[BeamDelivery]:
    from dicomplan.beams.delivery import Beam

    return [
        BeamDelivery(
            Beam(n + 1, f"{n + 1}_G", gantry[n], 0.0, 0.0, (0.0, 0.0, 0.0)),
            (
                Segment(
                    Aperture(opened(range(25, 35), -30.0 + 40 * n, 10.0 + 40 * n), (-25.0, 25.0), (-90.0, 90.0)), 4.0
                ),
            ),
        )
        for n in range(count)
    ]


def test_beams_of_one_direction_share_a_plane() -> None:
    planes = direction_planes(deliveries(), MACHINE)
    assert len(planes) == 1
    alone = [delivery_plane(one, MACHINE).values.sum() for one in deliveries()]
    assert planes[0][1].values.sum() == pytest.approx(sum(alone), rel=0.02)  # leakage over a wider plane
    assert len(direction_planes(deliveries(gantry=(0.0, 40.0)), MACHINE)) == 2


def test_beamlets_open_for_their_mu_are_the_same_as_segments_open_for_them() -> None:
    machine = no_leak()
    x_edges, y_edges = np.array([-10.0, -5.0, 0.0, 5.0]), MACHINE.mlc.leaf_boundaries_mm[28:31]
    cells = np.array([[1.0, 0.0, 2.5], [0.0, 4.0, 3.0]])
    plane = plane_of_beamlets(cells, x_edges, y_edges, machine)
    segments = [
        Segment(Aperture(opened([28 + row], x_edges[column], x_edges[column + 1]), None, None), mu)
        for (row, column), mu in np.ndenumerate(cells)
        if mu > 0
    ]
    delivered = delivered_plane(segments, machine, plane.x_mm, plane.y_mm)
    np.testing.assert_allclose(plane.values, delivered.values, atol=1e-12)

"""From fluence to segments on a machine: within limits, and delivering what was asked for."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines_for_tests import MACHINES, generic_120, without_x_jaw
from twins import sequencing_twins as twins

from dicomplan.beams.beamlets import column_mm
from dicomplan.beams.delivery import Aperture, Beam, BeamDelivery, Segment
from dicomplan.beams.limits import violations
from dicomplan.dose.fluence import aperture_transmission
from dicomplan.machine.library import load_machine, machine_names
from dicomplan.sequencing.apertures import apertures, open_area_cm2, open_intervals, usable_span_mm
from dicomplan.sequencing.carriage import carriage_groups
from dicomplan.sequencing.decompose import decompose
from dicomplan.sequencing.fluence import discretised, fluence_error, fluence_of_segments, open_fractions
from dicomplan.sequencing.small_segments import merge_or_drop_small
from dicomplan.sequencing.step_and_shoot import rounded, sequence, with_metersets

EVERY = {**MACHINES, **{name: load_machine(name) for name in machine_names()}}
BEAM = Beam(1, "1_G000", 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))


def random_map(seed, rows, cols, closed=0.3, smooth=True):
    random = np.random.default_rng(seed)
    fluence = 20.0 * random.random((rows, cols)) * (random.random((rows, cols)) >= closed)
    if smooth:
        fluence = (fluence + np.roll(fluence, 1, axis=1) + np.roll(fluence, 1, axis=0)) / 3
    fluence[random.random(rows) < 0.2] = 0.0
    return fluence


def within_reach(fluence, edges, machine):
    """The part of a map that leaves of both banks can reach: where beamlets lie."""
    columns = np.flatnonzero(np.abs(edges) <= machine.mlc.over_travel_mm)
    return fluence[:, columns[:-1]], edges[columns]


maps = st.builds(
    random_map,
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.3, 0.8]),
    st.booleans(),
)


@settings(deadline=None, max_examples=40)
@given(maps, st.sampled_from(sorted(EVERY)), st.integers(1, 8), st.integers(-10, 10))
def test_any_fluence_gives_beams_within_the_limits(fluence, name, levels, shift):
    machine = EVERY[name]
    edges = column_mm(machine.mlc) * (shift - fluence.shape[1] // 2 + np.arange(fluence.shape[1] + 1))
    fluence, edges = within_reach(fluence, edges, machine)
    first = machine.mlc.leaf_pairs // 2 - fluence.shape[0] // 2
    for columns, share in carriage_groups(edges, fluence, usable_span_mm(machine)):
        part = fluence[:, columns] * share
        own_edges = edges[columns.start : columns.stop + 1]
        for enforce in (False, True):
            done = sequence(part, own_edges, first, machine, levels=levels, restarts=1, enforce_minimum=enforce)
            if not done.segments:
                continue
            checked = machine if enforce else replace(machine, min_segment_meterset_mu=0.0)
            assert violations(BeamDelivery(BEAM, done.segments), checked) == ()
            for segment in done.segments:
                again = rounded(segment)
                assert np.array_equal(again.aperture.leaf_positions_mm, segment.aperture.leaf_positions_mm)
                assert again.meterset_mu == segment.meterset_mu


@settings(deadline=None, max_examples=40)
@given(maps, st.sampled_from(sorted(EVERY)), st.integers(1, 8))
def test_every_machine_delivers_the_levels_of_its_own_columns(fluence, name, levels):
    """A column is never narrower than what leaves at their least gap let through: only closed pairs that no jaw hides add."""
    machine = EVERY[name]
    width = column_mm(machine.mlc)
    assert width >= machine.mlc.min_gap_mm + 2.0 * machine.mlc.leaf_end_offset_mm
    fluence = fluence[:, :22]
    edges = width * (np.arange(fluence.shape[1] + 1) - fluence.shape[1] // 2)
    first = machine.mlc.leaf_pairs // 2 - fluence.shape[0] // 2
    done = sequence(fluence, edges, first, machine, levels=levels, restarts=0, enforce_minimum=False)
    if not machine.mlc.interdigitation or not done.segments:
        return
    assert violations(BeamDelivery(BEAM, done.segments), replace(machine, min_segment_meterset_mu=0.0)) == ()
    more = done.delivered_mu - done.discretised_mu
    rounding = 1e-2 * (1.0 + done.discretised_mu.max())
    assert more.min() > -rounding
    if machine.jaw_x is not None:
        assert more.max() < rounding
        return
    # in each row the least gap of each segment that leaves it closed, where the Y jaws do not hide it
    window = machine.mlc.min_gap_mm + 2.0 * machine.mlc.leaf_end_offset_mm
    left, right = open_intervals([one.aperture for one in done.segments], machine)
    narrow = (right > left) & (right - left < machine.mlc.min_gap_mm + 0.02)
    gaps = np.array([one.meterset_mu for one in done.segments]) @ narrow
    rows = slice(first, first + len(fluence))
    assert (more.sum(axis=1) * width <= window * gaps[rows] + rounding * fluence.shape[1] * width).all()


@settings(deadline=None, max_examples=30)
@given(maps, st.integers(1, 10))
def test_before_small_segments_go_the_discretised_map_is_delivered(fluence, levels):
    machine = generic_120()
    fluence = fluence[:, :28]
    edges = 5.0 * (np.arange(fluence.shape[1] + 1) - fluence.shape[1] // 2)
    done = sequence(fluence, edges, 24, machine, levels=levels, restarts=0, enforce_minimum=False)
    np.testing.assert_allclose(done.delivered_mu, done.discretised_mu, atol=1e-4 * (1 + len(done.segments)))
    assert done.error.relative_l1 == pytest.approx(done.discretisation_error.relative_l1, abs=1e-3)


def test_an_open_field_is_one_segment_with_jaws_on_its_edges():
    done = sequence(np.full((10, 20), 7.0), np.arange(-50.0, 51.0, 5.0), 25, generic_120(), levels=5)
    (segment,) = done.segments
    assert segment.meterset_mu == pytest.approx(7.0)
    assert segment.aperture.jaw_x_mm == (-50.0, 50.0)
    assert segment.aperture.jaw_y_mm == (-25.0, 25.0)
    assert open_area_cm2(segment.aperture, generic_120()) == pytest.approx(50.0)
    assert done.error.relative_l1 == pytest.approx(0.0, abs=1e-6)
    closed = np.delete(segment.aperture.leaf_positions_mm, np.s_[25:35], axis=1)
    assert np.array_equal(closed[0], closed[1])


def test_closed_pairs_inside_the_field_hide_under_a_jaw():
    machine = generic_120()
    fluence = random_map(3, 12, 24)
    fluence[5] = 0.0
    done = sequence(fluence, np.arange(-60.0, 61.0, 5.0), 24, machine, levels=8, enforce_minimum=False)
    levels = np.round(fluence / done.step_mu)
    assert (levels == 0).any()
    seen = []
    for segment in done.segments:
        leaves, (low, high) = segment.aperture.leaf_positions_mm, segment.aperture.jaw_x_mm
        gaps = leaves[1] - leaves[0]
        inside = (leaves[1] > low) & (leaves[0] < high)
        bottom, top = machine.mlc.leaf_boundaries_mm[:-1], machine.mlc.leaf_boundaries_mm[1:]
        exposed = (top > segment.aperture.jaw_y_mm[0]) & (bottom < segment.aperture.jaw_y_mm[1])
        seen.append(exposed[29])
        assert (gaps[exposed & inside] >= 5.0 - 1e-9).all()  # a column, never the gap of a closed pair
    assert any(seen)
    assert np.ptp([segment.aperture.leaf_positions_mm[0, 29] for segment in done.segments]) == 0  # row 5 stands still


@settings(deadline=None, max_examples=20)
@given(maps, st.sampled_from(sorted(MACHINES)), st.integers(1, 8))
def test_jaws_follow_the_aperture_of_each_segment(fluence, name, levels):
    """No farther out than rounding and the least opening ask for, never cutting into what leaves open."""
    machine = MACHINES[name]
    fluence = fluence[:, :26]
    edges = 5.0 * (np.arange(fluence.shape[1] + 1) - fluence.shape[1] // 2)
    first = machine.mlc.leaf_pairs // 2 - fluence.shape[0] // 2
    done = sequence(fluence, edges, first, machine, levels=levels, restarts=0, enforce_minimum=False)
    boundaries = machine.mlc.leaf_boundaries_mm
    shapes = [segment.aperture for segment in done.segments]
    left, right = open_intervals(shapes, machine)
    margin = machine.mlc.leaf_end_offset_mm + 2.0 * machine.mlc.leaf_end_blur_mm
    for shape, low, high in zip(shapes, left, right, strict=True):
        rows = np.flatnonzero(high > low)
        extents = (low[rows].min() - margin, high[rows].max() + margin), (boundaries[rows[0]], boundaries[rows[-1] + 1])
        for jaw, model, extent in zip(
            (shape.jaw_x_mm, shape.jaw_y_mm), (machine.jaw_x, machine.jaw_y), extents, strict=True
        ):
            if model is None or model.fixed_in_beam or not machine.mlc.interdigitation:
                continue
            assert jaw[0] <= extent[0] + 1e-9
            assert jaw[1] >= extent[1] - 1e-9
            if extent[1] - extent[0] > model.min_opening_mm:
                assert min(extent[0], model.first_range_mm[1]) - jaw[0] < 1.0
                assert jaw[1] - max(extent[1], model.second_range_mm[0]) < 1.0
    if machine.jaw_y.fixed_in_beam:
        assert len({shape.jaw_y_mm for shape in shapes}) <= 1


def test_jaws_of_segments_differ_and_what_leaks_beside_them_falls():
    """Two islands one after the other: each is delivered behind jaws of its own."""
    machine = generic_120()
    fluence = np.zeros((10, 20))
    fluence[:3, :6], fluence[7:, 14:] = 5.0, 9.0
    edges = np.arange(-50.0, 51.0, 5.0)
    moving, fixed = (
        machine,
        replace(
            machine, jaw_x=replace(machine.jaw_x, fixed_in_beam=True), jaw_y=replace(machine.jaw_y, fixed_in_beam=True)
        ),
    )
    x_mm, y_mm = np.arange(-59.5, 60.0), np.arange(-59.5, 60.0)
    leaks = []
    for one in (moving, fixed):
        done = sequence(fluence, edges, 25, one, levels=9)
        assert violations(BeamDelivery(BEAM, done.segments), one) == ()
        total = sum(s.meterset_mu * aperture_transmission(s.aperture, one, x_mm, y_mm) for s in done.segments)
        wanted = np.repeat(np.repeat(fluence, 5, axis=0), 5, axis=1)
        inside = total[35:85, 10:110]
        leaks.append(inside[wanted == 0].mean())
        np.testing.assert_allclose(inside[wanted > 0], wanted[wanted > 0], rtol=0.03)
        assert len({s.aperture.jaw_x_mm for s in done.segments}) == (1 if one is fixed else 2)
    assert leaks[0] < 0.7 * leaks[1]


def test_without_x_jaws_the_gap_of_a_closed_pair_lies_where_its_row_gets_most():
    machine = without_x_jaw()
    fluence = np.zeros((2, 8))
    fluence[0, :] = 4.0
    fluence[1, 2:4] = 2.0
    edges = np.arange(-20.0, 21.0, 5.0)
    done = sequence(fluence, edges, 39, machine, levels=2, enforce_minimum=False)
    # at the field's border the Y jaws hide the closed pair
    np.testing.assert_array_equal(done.delivered_mu, fluence)
    fluence = np.vstack([fluence, fluence[:1]])
    delivered = sequence(fluence, edges, 39, machine, levels=2, enforce_minimum=False).delivered_mu
    assert np.array_equal(delivered[[0, 2]], fluence[[0, 2]])
    assert delivered[1, :2].sum() == 0
    assert delivered[1, 4:].sum() == 0
    assert delivered[1].sum() > fluence[1].sum()


def test_apertures_put_rows_on_the_right_leaf_pairs():
    machine = generic_120()
    levels = np.array([[1, 1, 0, 0], [0, 1, 1, 1]])
    ((aperture, weight),) = apertures(decompose(levels), np.array([0.0, 5.0, 10.0, 15.0, 20.0]), 30, machine)
    assert weight == 1.0
    assert aperture.leaf_positions_mm[:, 30].tolist() == [0.0, 10.0]
    assert aperture.leaf_positions_mm[:, 31].tolist() == [5.0, 20.0]
    assert aperture.jaw_y_mm == (0.0, 10.0)
    assert aperture.jaw_x_mm == (0.0, 20.0)


@pytest.mark.parametrize("seed", range(5))
def test_fluence_of_segments_counts_what_is_open(seed):
    machine = generic_120()
    random = np.random.default_rng(seed)
    edges = np.arange(-20.0, 21.0, 4.0)
    segments = []
    for _ in range(3):
        leaves = np.zeros((2, 60))
        leaves[0, 28:32] = random.uniform(-25, 0, 4)
        leaves[1, 28:32] = leaves[0, 28:32] + random.uniform(0, 25, 4)
        segments.append(Segment(Aperture(leaves, (-10.0, 10.0), (-18.0, 17.0)), random.uniform(1, 5)))
    found = fluence_of_segments(segments, edges, range(28, 32), machine)
    left, right = open_intervals([s.aperture for s in segments], machine)
    metersets = [s.meterset_mu for s in segments]
    wanted = twins.fluence_by_sampling(left[:, 28:32], right[:, 28:32], metersets, edges)
    np.testing.assert_allclose(found, wanted, atol=0.02)
    area = sum(open_area_cm2(s.aperture, machine) * s.meterset_mu for s in segments)
    assert found.sum() * 4.0 * 5.0 / 100 == pytest.approx(area, rel=1e-9)


def test_open_fractions_of_half_a_column():
    fractions = open_fractions(np.array([2.5]), np.array([10.0]), np.array([0.0, 5.0, 10.0, 15.0]))
    assert fractions.tolist() == [[0.5, 1.0, 0.0]]


@settings(deadline=None, max_examples=40)
@given(maps, st.integers(1, 15))
def test_discretised_beats_the_plain_step(fluence, levels):
    whole, step = discretised(fluence, levels=levels)
    assert whole.min() >= 0
    assert whole.max() <= levels
    if fluence.max() > 0:
        plain = fluence.max() / levels
        plain_error = ((fluence - plain * np.floor(fluence / plain + 0.5)) ** 2).sum()
        assert ((fluence - step * whole) ** 2).sum() <= plain_error * 1.05 + 1e-9


def test_discretised_finds_the_levels_a_map_was_made_of():
    levels = np.random.default_rng(0).integers(0, 8, (10, 12))
    levels[0, 0] = 7
    whole, step = discretised(levels * 1.7, levels=7)
    assert np.array_equal(whole, levels)
    assert step == pytest.approx(1.7)
    whole, step = discretised(np.array([[0.4, 0.6, 2.6]]), step_mu=1.0)
    assert whole.tolist() == [[0, 1, 3]]
    for wrong in ({}, {"levels": 3, "step_mu": 1.0}, {"levels": 0}, {"step_mu": -1.0}):
        with pytest.raises(ValueError, match=r"step_mu|levels"):
            discretised(np.ones((2, 2)), **wrong)


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_small_segments_go_at_little_harm(name):
    machine = MACHINES[name]
    fluence = random_map(11, 14, 22, closed=0.1)
    edges = np.arange(-55.0, 56.0, 5.0)
    first = machine.mlc.leaf_pairs // 2 - 7
    pairs = range(first, first + 14)
    whole = sequence(fluence, edges, first, machine, levels=12, enforce_minimum=False)
    kept = merge_or_drop_small(
        whole.segments, edges, pairs, machine, min_meterset_mu=2.0, min_area_cm2=4.0, wanted_mu=fluence
    )
    assert 0 < len(kept) < len(whole.segments)
    assert all(s.meterset_mu >= 2.0 - 1e-9 for s in kept)
    assert all(open_area_cm2(s.aperture, machine) >= 4.0 * 0.999 for s in kept)
    error = fluence_error(fluence_of_segments(kept, edges, pairs, machine), fluence)
    dropped = [s for s in whole.segments if s.meterset_mu >= 2.0 and open_area_cm2(s.aperture, machine) >= 4.0]
    plain = fluence_error(fluence_of_segments(dropped, edges, pairs, machine), fluence)
    assert error.relative_l1 < plain.relative_l1
    assert violations(BeamDelivery(BEAM, tuple(rounded(s) for s in kept)), machine) == ()


def test_nothing_small_leaves_everything_and_a_lone_small_one_is_raised_or_dropped():
    machine = generic_120()
    done = sequence(np.full((10, 20), 7.0), np.arange(-50.0, 51.0, 5.0), 25, machine, levels=5)
    same = merge_or_drop_small(done.segments, np.arange(-50.0, 51.0, 5.0), range(25, 35), machine)
    assert same == done.segments
    for meterset, outcome in ((0.6, [1.0]), (0.4, [])):
        weak = with_metersets(done.segments, [meterset])
        kept = merge_or_drop_small(weak, np.arange(-50.0, 51.0, 5.0), range(25, 35), machine)
        assert [s.meterset_mu for s in kept] == outcome


def test_the_same_arguments_give_the_same_segments():
    fluence = random_map(1, 20, 25)
    edges = np.arange(25 + 1) * 5.0 - 60.0
    runs = [sequence(fluence, edges, 20, generic_120(), levels=9, seed=4) for _ in range(2)]
    for a, b in zip(runs[0].segments, runs[1].segments, strict=True):
        assert a.meterset_mu == b.meterset_mu
        assert np.array_equal(a.aperture.leaf_positions_mm, b.aperture.leaf_positions_mm)


def test_maps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="column edges"):
        sequence(np.ones((2, 3)), np.arange(3.0), 10, generic_120(), levels=3)
    with pytest.raises(ValueError, match="leaf pairs 59 to 61"):
        sequence(np.ones((2, 3)), np.arange(4.0), 59, generic_120(), levels=3)


def test_printed_digits_read_back_the_same():
    leaves = np.random.default_rng(0).uniform(-50, 50, (2, 60))
    segment = rounded(Segment(Aperture(leaves, (-10.004, 10.0), None), 12.345678))
    text = [f"{value:.2f}" for value in segment.aperture.leaf_positions_mm.ravel()]
    assert [float(t) for t in text] == segment.aperture.leaf_positions_mm.ravel().tolist()
    assert segment.aperture.jaw_y_mm == (-10.0, 10.0)
    assert segment.meterset_mu == 12.3457


def test_a_field_beyond_over_travel_is_named_not_bent():
    done = sequence(np.ones((2, 4)) * 5, np.arange(-185.0, -164.0, 5.0), 30, generic_120(), levels=1)
    messages = violations(BeamDelivery(BEAM, done.segments), generic_120())
    assert any("leaf X2 165.00 mm past the axis, allowed up to 160 mm" in message for message in messages)

"""Sliding windows: any fluence on any machine stays within limits and comes back as what was wanted, or the floor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from machines_for_tests import MACHINES, generic_120, with_moving_jaws, without_interdigitation, without_x_jaw
from twins import sequencing_twins as twins

from dicomplan.beams.beamlets import column_mm
from dicomplan.beams.delivery import Beam, BeamDelivery
from dicomplan.beams.limits import violations
from dicomplan.errors import NotDeliverableError
from dicomplan.machine.library import load_machine, machine_names
from dicomplan.sequencing._kernels_sliding import earliest_passages
from dicomplan.sequencing.apertures import usable_span_mm
from dicomplan.sequencing.carriage import carriage_groups
from dicomplan.sequencing.fluence import fluence_of_segments
from dicomplan.sequencing.sliding_window import UNSTATED_SPEED_MM_S, slide, sparing_dose_rate
from dicomplan.sequencing.trajectories import Demands, passages

BEAM = Beam(1, "1_G000", 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))
EVERY = {**MACHINES, **{name: load_machine(name) for name in machine_names()}}


def random_map(seed, rows, cols, closed):
    random = np.random.default_rng(seed)
    fluence = 30.0 * random.random((rows, cols)) * (random.random((rows, cols)) >= closed)
    fluence[random.random(rows) < 0.2] = 0.0
    return fluence


maps = st.builds(
    random_map, st.integers(0, 10**6), st.integers(1, 10), st.integers(1, 26), st.sampled_from([0.0, 0.3, 0.8])
)


def reached(edge, places_mm):
    """Share of a segment at which an edge that moves linearly rightward (from, to) reaches each place."""
    way = edge[1] - edge[0]
    shares = np.where(places_mm >= edge[0], 1.0, 0.0) if way < 1e-12 else (places_mm - edge[0]) / way
    return np.clip(shares, 0.0, 1.0)


def open_mu(segments, pair, places_mm, offset_mm):
    """Meterset for which a place lies between the radiation edges of a pair and no X jaw covers it; and the latter alone.

    Exact: edges move linearly rightward.
    """
    opened, uncovered = np.zeros((2, len(places_mm)))
    for segment in segments:
        ends = np.stack([segment.aperture.leaf_positions_mm[:, pair], segment.end.leaf_positions_mm[:, pair]])
        closes, opens = reached(ends[:, 0] - offset_mm, places_mm), reached(ends[:, 1] + offset_mm, places_mm)
        covers, uncovers = np.ones(len(places_mm)), np.zeros(len(places_mm))
        if segment.aperture.jaw_x_mm is not None:
            jaws = np.stack([segment.aperture.jaw_x_mm, segment.end.jaw_x_mm])
            covers, uncovers = reached(jaws[:, 0], places_mm), reached(jaws[:, 1], places_mm)
        uncovered += segment.meterset_mu * np.maximum(covers - uncovers, 0.0)
        opened += segment.meterset_mu * np.maximum(np.minimum(closes, covers) - np.maximum(opens, uncovers), 0.0)
    return opened, uncovered


def delivered(done, machine, pair, edges_mm, samples=40):
    """Mean fluence of each column with what the leaves transmit where no jaw is, MU."""
    share = (np.arange(samples) + 0.5) / samples
    places = (edges_mm[:-1, None] + np.diff(edges_mm)[:, None] * share).ravel()
    opened, uncovered = open_mu(done.segments, pair, places, machine.mlc.leaf_end_offset_mm)
    through = machine.mlc.transmission
    return (through * uncovered + (1.0 - through) * opened).reshape(-1, samples).mean(axis=1)


@settings(deadline=None, max_examples=40)
@given(maps, st.sampled_from(sorted(EVERY)), st.integers(-4, 4))
def test_any_fluence_is_within_limits_and_integrates_back(fluence, name, shift):
    machine = EVERY[name]
    assume(fluence.any())
    # columns are no narrower than the window at minimum gap: what is narrower no leaves can deliver
    width = column_mm(machine.mlc)
    edges = width * (shift - fluence.shape[1] // 2 + np.arange(fluence.shape[1] + 1))
    first = machine.mlc.leaf_pairs // 2 - fluence.shape[0] // 2
    for columns, share in carriage_groups(edges, fluence, usable_span_mm(machine)):
        part, own = fluence[:, columns] * share, edges[columns.start : columns.stop + 1]
        try:
            done = slide(part, own, first, machine, accuracy=0.004)
        except NotDeliverableError:
            # the opposed bank does not reach so far past the axis
            assert max(abs(own)) > machine.mlc.over_travel_mm - machine.mlc.min_gap_mm - 1.0
            continue
        assert violations(BeamDelivery(BEAM, done.segments, done.dose_rate_mu_min), machine) == ()
        used = np.flatnonzero((part > 0).any(axis=0))
        seen = slice(used[0], used[-1] + 1)
        for row in np.flatnonzero((part > 0).any(axis=1)):
            found = delivered(done, machine, first + row, own[seen.start : seen.stop + 1])
            wanted = np.maximum(part[row, seen], done.floors_mu[seen])
            assert np.abs(found - wanted).max() <= 0.005 * part.max()
            np.testing.assert_allclose(done.delivered_mu[row, seen], found, atol=0.002 * part.max())


@pytest.mark.parametrize("seed", range(6))
def test_meterset_is_the_least_there_is(seed):
    """Width x dose rate / speed and the positive differences of the hardest row: Spirou and Chui, Med Phys 21 (1994)."""
    random = np.random.default_rng(seed)
    fluence = 5.0 + 20.0 * random.random((6, 12))
    edges = 5.0 * np.arange(-6, 7)
    machine = generic_120()
    machine = replace(machine, mlc=replace(machine.mlc, transmission=0.0))
    done = slide(fluence, edges, 20, machine, accuracy=1e-4)
    rises = np.clip(np.diff(fluence, axis=1, prepend=0.0), 0.0, None).sum(axis=1)
    expected = 60.0 * 10.0 / (0.995 * UNSTATED_SPEED_MM_S) + rises.max()
    assert sum(segment.meterset_mu for segment in done.segments) == pytest.approx(expected, rel=1e-5)


def test_slower_leaves_or_more_dose_rate_need_more_meterset():
    fluence = random_map(3, 5, 10, 0.0) + 3.0
    edges = 5.0 * np.arange(11)
    total = {}
    for speed in (10.0, 40.0):
        machine = generic_120()
        machine = replace(machine, mlc=replace(machine.mlc, max_speed_mm_s=speed))
        for rate in (200.0, 600.0):
            done = slide(fluence, edges, 20, machine, dose_rate_mu_min=rate)
            assert done.dose_rate_mu_min == rate
            assert violations(BeamDelivery(BEAM, done.segments, rate), machine) == ()
            total[speed, rate] = sum(segment.meterset_mu for segment in done.segments)
    assert total[40.0, 200.0] < total[10.0, 200.0]
    assert total[40.0, 200.0] < total[40.0, 600.0] < total[10.0, 600.0]


@pytest.mark.parametrize("gap", [0.0, 0.4])
@pytest.mark.parametrize("synchronised", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_the_kernel_finds_what_the_linear_program_finds(seed, synchronised, gap):
    random = np.random.default_rng(seed)
    rows, cols = int(random.integers(2, 4)), int(random.integers(1, 5))
    fluence = np.maximum(random.integers(0, 12, (rows, cols)) * (random.random((rows, cols)) > 0.3), 0.4).astype(float)
    widths = random.uniform(1.0, 5.0, cols)
    pace = 0.4
    expected = twins.earliest_by_linear_program(fluence, widths, pace, gap, synchronised)
    found, rounds = earliest_passages(fluence, widths, pace, gap, np.ones(rows - 1, np.bool_), synchronised, 300)
    assert (rounds >= 300) is (expected is None)
    if expected is not None:
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_synchronised_rows_are_open_together():
    """At each place the row with less fluence is open only while its neighbour is; without a gap it can always be so."""
    fluence = random_map(11, 5, 14, 0.3)
    edges = 5.0 * np.arange(-7, 8)
    demands = Demands(0.4, 0.0, np.ones(4, np.bool_), synchronised=True, spread=False)
    found = passages(fluence, edges, demands)
    assert found is not None
    for upper, lower in zip(range(4), range(1, 5), strict=True):
        for start in (found.enter, found.leave):
            opens = np.stack([start[upper], start[lower]])
            closes = opens + np.stack([fluence[upper], fluence[lower]])
            less = np.where(fluence[upper] <= fluence[lower], 0, 1)
            column = np.arange(fluence.shape[1])
            assert (opens[less, column] >= opens[1 - less, column] - 1e-9).all()
            assert (closes[less, column] <= closes[1 - less, column] + 1e-9).all()
    alone = passages(fluence, edges, replace(demands, coupled=np.zeros(4, np.bool_)))
    assert alone is not None
    assert alone.meterset_mu <= found.meterset_mu


def test_without_jaws_no_row_waits_outside_of_the_field():
    """Beside the map a pair leaves no more than a window in passing does."""
    fluence = np.array([[40.0] * 12, [12.0] * 12])
    edges = 6.0 * np.arange(-6, 7)
    machine = without_x_jaw()
    done = slide(fluence, edges, 30, machine, accuracy=0.002)
    for pair in (30, 31):
        places = np.array([edges[0] - 6.0, edges[0] - 0.5, edges[-1] + 0.5, 43.0])
        beside, _ = open_mu(done.segments, pair, places, 0.0)
        assert beside.max() <= done.floor_mu + 0.5
    # with X jaws the same rows wait under them
    under = slide(fluence, edges, 30, generic_120())
    assert under.floor_mu < done.floor_mu


def test_jaws_follow_the_sweep_where_they_can_move():
    """Beside the sweep nothing leaks through leaves, so that the floor falls; the fluence is the same."""
    fluence = random_map(8, 6, 16, 0.3)
    edges = 5.0 * np.arange(-8, 9)
    still, follow = (slide(fluence, edges, 27, machine) for machine in (generic_120(), with_moving_jaws()))
    jaws = np.array([one.aperture.jaw_x_mm for one in follow.segments] + [follow.segments[-1].end.jaw_x_mm])
    assert (np.diff(jaws, axis=0) >= 0.0).all()
    assert np.ptp(jaws, axis=0).min() > 20.0
    assert {one.aperture.jaw_x_mm for one in still.segments} == {(-40.0, 40.0)}
    assert (follow.floors_mu < still.floors_mu).all()
    rows = (fluence > 0).any(axis=1)
    for done in (still, follow):
        wanted = np.maximum(fluence, done.floors_mu)
        assert np.abs(done.delivered_mu - wanted)[rows].max() <= 0.005 * fluence.max()
    # jaws that must stand still, or of which no speed is stated, do
    machine = with_moving_jaws()
    fixed = replace(machine, jaw_x=replace(machine.jaw_x, fixed_in_beam=True))
    assert violations(BeamDelivery(BEAM, follow.segments, follow.dose_rate_mu_min), machine) == ()
    assert any("fixed during a beam" in text for text in violations(BeamDelivery(BEAM, follow.segments), fixed))
    for one in slide(fluence, edges, 27, fixed).segments:
        assert one.aperture.jaw_x_mm == one.end.jaw_x_mm == (-42.0, 42.0)


def test_slow_jaws_start_earlier_and_come_later():
    fluence = random_map(9, 4, 12, 0.0)
    edges = 5.0 * np.arange(-6, 7)
    machine = with_moving_jaws()
    slow = replace(machine, jaw_x=replace(machine.jaw_x, max_speed_mm_s=8.0))
    quick, late = slide(fluence, edges, 28, machine), slide(fluence, edges, 28, slow)
    assert violations(BeamDelivery(BEAM, late.segments, late.dose_rate_mu_min), slow) == ()
    assert any("X jaws at" in text for text in violations(BeamDelivery(BEAM, quick.segments), slow))
    places = 5.0 * np.arange(-6, 6) + 2.5
    for pair in range(28, 32):
        opened, uncovered = open_mu(late.segments, pair, places, 0.0)
        assert (opened <= uncovered + 1e-9).all()
        np.testing.assert_allclose(opened, open_mu(quick.segments, pair, places, 0.0)[0], atol=0.01 * fluence.max())
        assert uncovered.sum() > open_mu(quick.segments, pair, places, 0.0)[1].sum()


def test_floor_is_transmission_and_gap():
    machine = generic_120()
    done = slide(np.full((1, 10), 20.0), 5.0 * np.arange(11), 30, machine)
    meterset = sum(segment.meterset_mu for segment in done.segments)
    gap_share = 0.985 * 10.0 / (0.995 * UNSTATED_SPEED_MM_S) * 0.5
    assert done.floor_mu == pytest.approx(0.015 * meterset + gap_share, rel=1e-3)


def test_leaves_that_may_not_interdigitate_do_not():
    machine = without_interdigitation()
    done = slide(random_map(5, 8, 12, 0.3), 5.0 * np.arange(-6, 7), 26, machine)
    assert violations(BeamDelivery(BEAM, done.segments, done.dose_rate_mu_min), machine) == ()
    free = replace(machine, mlc=replace(machine.mlc, interdigitation=True))
    assert done.floor_mu >= slide(random_map(5, 8, 12, 0.3), 5.0 * np.arange(-6, 7), 26, free).floor_mu


def test_asked_accuracy_is_kept_with_fewer_control_points_where_it_may():
    fluence = random_map(2, 8, 20, 0.0)
    edges = 5.0 * np.arange(-10, 11)
    machine = generic_120()
    counts = []
    for accuracy in (0.02, 0.005, 0.001):
        done = slide(fluence, edges, 26, machine, accuracy=accuracy)
        wanted = np.maximum(fluence, done.floor_mu)
        rows = (fluence > 0).any(axis=1)
        assert np.abs(done.delivered_mu - wanted)[rows].max() <= accuracy * fluence.max()
        counts.append(len(done.segments))
    assert counts[0] < counts[1] < counts[2]


def test_fluence_of_moving_segments_is_that_of_the_sweep():
    fluence = random_map(4, 6, 15, 0.0) + 5.0
    edges = 5.0 * np.arange(-7, 9)
    machine = generic_120()
    done = slide(fluence, edges, 27, machine)
    opened = fluence_of_segments(done.segments, edges, range(27, 33), machine)
    meterset = sum(segment.meterset_mu for segment in done.segments)
    np.testing.assert_allclose(0.015 * meterset + 0.985 * opened, done.delivered_mu, atol=0.01 * fluence.max())


def test_nothing_to_deliver_and_maps_that_do_not_fit():
    machine = generic_120()
    assert slide(np.zeros((2, 3)), np.arange(4.0), 10, machine).segments == ()
    with pytest.raises(ValueError, match="column edges"):
        slide(np.ones((2, 3)), np.arange(3.0), 10, machine)
    with pytest.raises(ValueError, match="leaf pair"):
        slide(np.ones((2, 3)), np.arange(4.0), 59, machine)
    with pytest.raises(NotDeliverableError, match="past the axis"):
        slide(np.ones((1, 4)), -190.0 + 5.0 * np.arange(5), 30, machine)


def test_dose_rate_that_keeps_the_sweep_small():
    machine = generic_120()
    fluence = np.tile([10.0, 30.0, 10.0, 30.0, 0.0], (3, 4))
    edges = 5.0 * np.arange(21)
    rate = sparing_dose_rate(fluence, edges, machine)
    assert rate % 50.0 == 0
    assert 50.0 <= rate < machine.dose_rate_mu_min
    sweep = rate / 60.0 * 95.0 / (0.995 * UNSTATED_SPEED_MM_S)
    rises = 4 * 50.0
    assert sweep / (sweep + rises) <= 0.15
    # 50 MU/min more would not keep it
    more = (rate + 50.0) / rate * sweep
    assert rate == machine.dose_rate_mu_min or more / (more + rises) > 0.15
    assert sparing_dose_rate(0.001 * fluence, edges, machine) == 50.0
    assert sparing_dose_rate(1000.0 * fluence, edges, machine) == machine.dose_rate_mu_min


def test_it_says_whether_leaves_are_synchronised():
    machine = load_machine("agility_6mv")
    edges = np.arange(-8, 9) * 5.0
    hill = 20.0 + 10.0 * np.cos(np.linspace(-1.5, 1.5, 16))[None, :] * np.ones((6, 1))
    assert slide(hill, edges, 37, machine).synchronised
    assert not slide(hill, edges, 37, machine, synchronised=False).synchronised

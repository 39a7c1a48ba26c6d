"""Complexity: values that can be worked out by hand, and the order that they must keep."""

from dataclasses import replace

import numpy as np
import pytest
from machines_for_tests import generic_120

from dicomplan.beams.delivery import Aperture, Beam, BeamDelivery, Segment
from dicomplan.evaluation.complexity import beam_complexity, plan_complexity

MACHINE = generic_120()
BEAM = Beam(1, "1_G000", 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))


def shape(intervals, first=28, jaw_x=(-60.0, 60.0), jaw_y=(-10.0, 10.0)):
    """Pairs of 5 mm from -10 mm on, within the jaws."""
    leaves = np.full((2, 60), -80.0)
    for row, (low, high) in enumerate(intervals):
        leaves[:, first + row] = low, high
    return Aperture(leaves, jaw_y, jaw_x)


def beam(*parts):
    return BeamDelivery(BEAM, tuple(Segment(aperture, meterset) for aperture, meterset in parts))


def test_a_rectangle_is_as_simple_as_it_gets():
    found = beam_complexity(beam((shape([(-20, 20)] * 4), 10.0)), MACHINE)
    assert found.segments == 1
    assert found.meterset_mu == 10.0
    assert found.modulation_complexity_score == pytest.approx(1.0)
    assert found.average_leaf_pair_opening_mm == pytest.approx(40.0)
    assert found.edge_metric_per_mm == 0.0  # jaws, not leaf sides, bound it above and below


def test_a_step_between_neighbours():
    """Two pairs open 40 mm, two 20 mm: the left bank is in line, the right one steps by its whole range once in three."""
    found = beam_complexity(beam((shape([(-20, 20), (-20, 20), (-20, 0), (-20, 0)]), 10.0)), MACHINE)
    assert found.modulation_complexity_score == pytest.approx((3 * 20 - 20) / (3 * 20))
    assert found.average_leaf_pair_opening_mm == pytest.approx(30.0)
    assert found.edge_metric_per_mm == pytest.approx(20.0 / (5 * (40 + 40 + 20 + 20)))


def test_halves_of_a_field_have_half_its_area():
    """Left half, then right half, twice as long: the area varies to a half, all else is as simple as can be."""
    found = beam_complexity(beam((shape([(-20, 0)] * 4), 10.0), (shape([(0, 20)] * 4), 20.0)), MACHINE)
    assert found.modulation_complexity_score == pytest.approx(0.5)
    assert found.average_leaf_pair_opening_mm == pytest.approx(20.0)


def test_closed_pairs_within_the_field_have_sides():
    found = beam_complexity(beam((shape([(-20, 20), (-80, -80), (-20, 20), (-80, -80)]), 1.0)), MACHINE)
    assert found.edge_metric_per_mm == pytest.approx(3 * 40 / (2 * 5 * 40))


def test_scores_are_weighted_by_meterset_and_do_not_depend_on_its_scale():
    wide, ragged = shape([(-20, 20)] * 4), shape([(-20, 20), (-10, 5), (-15, 20), (0, 3)])
    one, other = beam((wide, 30.0)), beam((ragged, 10.0))
    plan = plan_complexity([one, replace(other, beam=replace(BEAM, number=2))], MACHINE)
    alone = [beam_complexity(item, MACHINE) for item in (one, other)]
    for name in ("modulation_complexity_score", "average_leaf_pair_opening_mm", "edge_metric_per_mm"):
        assert getattr(plan, name) == pytest.approx(0.75 * getattr(alone[0], name) + 0.25 * getattr(alone[1], name))
    doubled = plan_complexity([beam((wide, 60.0)), beam((ragged, 20.0))], MACHINE)
    assert doubled.modulation_complexity_score == pytest.approx(plan.modulation_complexity_score)
    assert alone[1].modulation_complexity_score < alone[0].modulation_complexity_score
    assert alone[1].edge_metric_per_mm > alone[0].edge_metric_per_mm


def test_a_moving_segment_is_the_mean_of_its_ends():
    start, end = shape([(-20, 0)] * 4), shape([(10, 20)] * 4)
    moving = BeamDelivery(BEAM, (Segment(start, 10.0, end),))
    still = beam((start, 5.0), (end, 5.0))
    ours, theirs = beam_complexity(moving, MACHINE), beam_complexity(still, MACHINE)
    assert ours.modulation_complexity_score == pytest.approx(theirs.modulation_complexity_score)
    assert ours.average_leaf_pair_opening_mm == pytest.approx(15.0)


def test_nothing_open():
    assert beam_complexity(BeamDelivery(BEAM, ()), MACHINE).modulation_complexity_score == 0.0

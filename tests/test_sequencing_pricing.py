"""Pricing of apertures: the best interval of each row by trying all, and that gain is what the objective falls by."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines_for_tests import MACHINES as SMALL
from test_sequencing_aperture_moves import FIRST, MACHINES, coarse_map, delivery

from dicomplan.beams.delivery import BeamDelivery
from dicomplan.beams.limits import violations
from dicomplan.machine.library import load_machine
from dicomplan.sequencing.aperture_moves import aperture_fluence, fine_map
from dicomplan.sequencing.apertures import open_area_cm2
from dicomplan.sequencing.pricing import best_intervals, grown, priced

MACHINE = load_machine("generic_6mv")
FREE = sorted(name for name, machine in MACHINES.items() if machine.mlc.interdigitation)


@given(st.integers(0, 10_000), st.integers(1, 4))
def test_the_best_interval_is_that_of_all(seed, least):
    gains = np.random.default_rng(seed).integers(-5, 6, (4, 7)).astype(float)
    left, right, sums = best_intervals(gains, least)
    for row, values in enumerate(gains):
        every = [values[i:j].sum() for i in range(8) for j in range(i + least, 8)]
        assert sums[row] == max(every)
        assert values[left[row] : right[row]].sum() == sums[row]
        assert right[row] - left[row] >= least


def test_rows_shorter_than_the_gap_have_no_interval():
    left, right, sums = best_intervals(np.ones((2, 3)), 4)
    assert (left == right).all()
    assert (sums == 0).all()


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("seed", range(4))
def test_the_gain_is_the_fall_of_a_linear_objective(seed, name):
    """Of a segment of 1 MU more, its fluence by the model of leaf moves."""
    machine = MACHINES[name]
    item = delivery(seed, machine)
    fine = fine_map(coarse_map(machine), 2.5, 10.0)
    generator = np.random.default_rng(seed)
    smooth = np.cumsum(generator.normal(size=fine.active.shape), axis=1)
    gradient = smooth - smooth.mean() + 0.5
    (after,) = grown([item], [fine], gradient.ravel(), machine, 1, 1.0)
    assert len(after.segments) == len(item.segments) + 1
    before, more = (aperture_fluence([one], [fine], machine, 1.0, 1.0) for one in (item, after))
    fall = gradient.ravel() @ (before.fluence(before.start) - more.fluence(more.start))
    # seen by itself it may be wider than the beam; edges are averaged over the cells beside them
    one = priced(gradient, fine, machine, (-60.0, 60.0))
    assert one is not None
    assert 0.5 * one.gain < fall < 1.1 * one.gain


@given(st.integers(0, 10_000), st.sampled_from(FREE))
def test_what_is_proposed_is_within_limits(seed, name):
    machine = MACHINES[name]
    item = delivery(seed % 5, machine)
    fine = fine_map(coarse_map(machine), 2.5, 10.0)
    gradient = np.random.default_rng(seed).normal(size=fine.active.size) + 0.3
    least = machine.min_segment_meterset_mu
    (after,) = grown([item], [fine], gradient, machine, 1, least)
    assert violations(after, machine) == ()
    for segment in after.segments[len(item.segments) :]:
        assert open_area_cm2(segment.aperture, machine) >= machine.min_segment_area_cm2 - 1e-6


def test_the_best_of_several_beams_grow_first():
    item = delivery(1)
    other = BeamDelivery(replace(item.beam, number=2, name="2", gantry_angle_deg=90.0), item.segments)
    coarse = coarse_map()
    fine = [fine_map(replace(coarse, beam=one.beam), 2.5, 10.0) for one in (item, other)]
    gradient = np.concatenate([np.full(fine[0].active.size, -1.0), np.full(fine[1].active.size, -2.0)])
    after = grown([item, other], fine, gradient, MACHINE, 1, 1.0)
    assert [len(one.segments) - len(item.segments) for one in after] == [0, 1]
    both = grown([item, other], fine, gradient, MACHINE, 5, 1.0)
    assert [len(one.segments) - len(item.segments) for one in both] == [1, 1]
    assert grown([item, other], fine, -gradient, MACHINE, 5, 1.0) == (item, other)


def test_where_neighbours_bind_it_is_refused():
    machine = SMALL["without_interdigitation"]
    fine = fine_map(coarse_map(machine), 2.5, 10.0)
    assert fine.first_leaf_pair == FIRST
    with pytest.raises(ValueError, match="bind"):
        priced(np.ones(fine.active.shape), fine, machine, (-50.0, 50.0))

"""One step of direct aperture optimisation: exact fluence and gradient, and that no move leaves the machine's limits."""

from dataclasses import replace

import machines_for_tests
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_influence import plan as phantom_plan

from dicomplan.beams.beamlets import BeamletMap
from dicomplan.beams.delivery import Beam, BeamDelivery
from dicomplan.beams.limits import violations
from dicomplan.dose.influence import factorised_influence
from dicomplan.dose.pencil_kernel import pencil_kernel
from dicomplan.machine.library import load_machine
from dicomplan.planning.aperture_dose import ApertureDose
from dicomplan.sequencing.aperture_moves import aperture_fluence, fine_map, moved, without_slits
from dicomplan.sequencing.apertures import open_area_cm2, open_intervals
from dicomplan.sequencing.step_and_shoot import sequence

MACHINE = load_machine("generic_6mv")
MACHINES = {**machines_for_tests.MACHINES, "agility_6mv": load_machine("agility_6mv")}
FIRST, ROWS, COLUMNS = 24, 12, 14
BEAM = Beam(1, "1_G000", 0.0, 0.0, 0.0, (0.0, 0.0, 0.0))
EDGES = np.arange(-7, 8) * 5.0
STEP = 2.5


def coarse_map(machine=MACHINE):
    y_edges = machine.mlc.leaf_boundaries_mm[FIRST : FIRST + ROWS + 1]
    return BeamletMap(BEAM, FIRST, EDGES, y_edges, np.ones((ROWS, COLUMNS), dtype=bool))


def delivery(seed, machine=MACHINE):
    generator = np.random.default_rng(seed)
    fluence = generator.integers(0, 6, (ROWS, COLUMNS)) * 3.0
    return BeamDelivery(BEAM, sequence(fluence, EDGES, FIRST, machine, step_mu=3.0).segments)


def exact_fluence(item, fine, machine=MACHINE):
    """Fluence (rows, cols) of a delivery on a fine map, by the share of each cell that is open, and transmission."""
    total = np.zeros(fine.active.shape)
    left, right = open_intervals([one.aperture for one in item.segments], machine)
    rows = slice(fine.first_leaf_pair, fine.first_leaf_pair + len(fine.active))
    offset, through = machine.mlc.leaf_end_offset_mm, machine.mlc.transmission
    for k, one in enumerate(item.segments):
        low, high = left[k, rows], right[k, rows]
        covered = np.minimum((high + offset)[:, None], fine.x_edges_mm[1:]) - np.maximum(
            (low - offset)[:, None], fine.x_edges_mm[:-1]
        )
        opened = np.where((high > low)[:, None], np.clip(covered, 0, None), 0) / STEP
        total += one.meterset_mu * (through + (1.0 - through) * opened)
    return total


def step_of(item, trust=3.0, machine=MACHINE):
    fine = fine_map(coarse_map(machine), STEP, 10.0)
    return fine, aperture_fluence([item], [fine], machine, trust, floor_mu=1.0)


def averaged(fluence):
    """The fluence averaged over a cell's width along each row: what smoothed edges make of it, if no edge shares its cell."""
    padded = np.pad(fluence, ((0, 0), (1, 1)), mode="edge")
    return (padded[:, :-2] + 6.0 * padded[:, 1:-1] + padded[:, 2:]) / 8.0


@pytest.mark.parametrize("name", MACHINES)
def test_where_nothing_moves_it_is_the_fluence_of_the_segments(name):
    item = delivery(1, MACHINES[name])
    fine, step = step_of(item, machine=MACHINES[name])
    found = step.fluence(step.start).reshape(fine.active.shape)
    exact = exact_fluence(item, fine, MACHINES[name])
    np.testing.assert_allclose(found.sum(axis=1), exact.sum(axis=1), rtol=1e-9)
    assert np.abs(found - exact).max() <= 0.5 * item.meterset_mu
    if name == "generic_120":  # its edges lie on those of cells: averaging over a cell is known
        np.testing.assert_allclose(found, averaged(exact), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MACHINES)
def test_moves_give_the_fluence_of_the_apertures_set_anew(seed, name):
    """In every cell, but for the digits that positions and metersets are printed with."""
    machine = MACHINES[name]
    item = delivery(seed, machine)
    fine, step = step_of(item, trust=6.0, machine=machine)
    generator = np.random.default_rng(seed)
    variables = generator.random(len(step.start)) * np.minimum(step.most, 3.0 * step.start.max())
    after = moved([item], step, variables, machine)
    again = aperture_fluence(after, [fine], machine, 6.0, floor_mu=1.0)
    assert len(after[0].segments) == step.count
    scale = step.metersets(variables).sum()
    np.testing.assert_allclose(step.fluence(variables), again.fluence(again.start), atol=2e-3 * scale)


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_is_that_of_the_fluence(seed):
    item = delivery(seed)
    _, step = step_of(item)
    generator = np.random.default_rng(seed)
    variables = generator.uniform(0.2, 0.8, len(step.start)) * np.minimum(step.most, step.start.max())
    cells = generator.normal(size=len(step.fluence(variables)))
    gradient = step.pulled_back(variables, cells)
    small = 1e-5
    for k in generator.choice(len(variables), 25, replace=False):
        up, down = variables.copy(), variables.copy()
        up[k] += small
        down[k] -= small
        slope = cells @ (step.fluence(up) - step.fluence(down)) / (2.0 * small)
        assert gradient[k] == pytest.approx(slope, rel=1e-4, abs=1e-5 * np.abs(gradient).max())


@pytest.mark.parametrize("machine", ["generic_6mv", "agility_6mv"])
def test_the_gradient_of_dose_with_regard_to_a_leaf_position_is_exact(machine):
    """Through the dose operator of a phantom, by finite differences: leaf ends and metersets, one by one."""
    _, engine, maps = phantom_plan(machine)
    own = engine.machine
    generator = np.random.default_rng(3)
    items, finer = [], []
    for one in maps:
        wanted = np.where(one.active, generator.integers(1, 5, one.active.shape), 0) * 4.0
        items.append(
            BeamDelivery(one.beam, sequence(wanted, one.x_edges_mm, one.first_leaf_pair, own, levels=3).segments)
        )
        finer.append(fine_map(one, STEP, 10.0))
    samples = [engine.samples(one.beam) for one in maps]
    fine = factorised_influence(finer, samples, pencil_kernel(own.beam), own, 25)
    step = aperture_fluence(items, finer, own, 5.0, 1.0)
    dose = ApertureDose(fine, step)
    variables = generator.uniform(0.3, 0.7, len(step.start)) * np.minimum(step.most, 2.0 * step.start.max())
    weights = generator.uniform(0.0, 1.0, dose.voxel_count)
    dose.forward(variables)
    gradient = dose.adjoint(weights)
    chosen = [*generator.choice(step.count, 3, replace=False)]
    chosen += [*(step.count + generator.choice(len(step.ends.segment), 12, replace=False))]
    size = 0.25
    for k in chosen:
        values = []
        for way in (-size, size):
            other = variables.copy()
            other[k] += way
            values.append(float(weights @ dose.forward(other).astype(np.float64)))
        # doses are in single precision, and the gradient bends a little over half a millimetre
        assert gradient[k] == pytest.approx((values[1] - values[0]) / (2.0 * size), rel=0.02)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.floats(0.5, 30.0), st.sampled_from(sorted(MACHINES)))
def test_no_move_leaves_the_limits(seed, trust, name):
    machine = MACHINES[name]
    item = delivery(seed % 7, machine)
    _, step = step_of(item, trust, machine)
    generator = np.random.default_rng(seed)
    variables = generator.random(len(step.start)) * np.minimum(step.most, 10.0 / step.unit_mu)
    variables[step.count :] = np.round(generator.random(len(step.ends.segment))) * step.most[step.count :]
    (after,) = moved([item], step, variables, machine)
    assert not violations(after, machine)
    assert len(after.segments) == len(item.segments)
    for old, new in zip(item.segments, after.segments, strict=True):
        least = min(open_area_cm2(old.aperture, machine), machine.min_segment_area_cm2)
        assert open_area_cm2(new.aperture, machine) >= least - 0.02  # the rounding of many leaves


def test_slits_are_closed_and_parked_under_a_jaw():
    item = delivery(3)
    _, step = step_of(item, trust=60.0)
    variables = step.start.copy()
    variables[step.count :][step.ends.where[:, 2] % 3 == 0] = 0.0  # every third pair as far in as it goes
    (narrow,) = moved([item], step, variables, MACHINE)
    (after,) = without_slits([narrow], MACHINE)
    assert violations(after, MACHINE) == ()
    left, right = open_intervals([one.aperture for one in narrow.segments], MACHINE)
    slits = (right > left) & (right - left < 1.0)
    left, right = open_intervals([one.aperture for one in after.segments], MACHINE)
    areas = np.array([open_area_cm2(one.aperture, MACHINE) for one in after.segments])
    kept = areas < MACHINE.min_segment_area_cm2 + 0.5
    assert slits.any()
    assert (right == left)[slits & ~kept[:, None]].all()
    assert [one.meterset_mu for one in after.segments] == [one.meterset_mu for one in narrow.segments]
    bound = replace(MACHINE, mlc=replace(MACHINE.mlc, interdigitation=False))
    assert without_slits([narrow], bound) == (narrow,)


def test_segments_that_move_are_refused():
    item = delivery(1)
    first = item.segments[0]
    sweeping = replace(item, segments=(replace(first, end=first.aperture), *item.segments[1:]))
    with pytest.raises(ValueError, match="while the beam is on"):
        step_of(sweeping)
